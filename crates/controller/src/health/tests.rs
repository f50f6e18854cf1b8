use std::collections::BTreeMap;

use stagedoor_types::TroubleKind;

use super::*;

const EVERY: [Service; 7] = [
    Service::AutoScaling,
    Service::Ec2,
    Service::SecretsManager,
    Service::Ca,
    Service::PuppetDb,
    Service::Orchestrator,
    Service::Classifier,
];

fn trouble(service: Service) -> Trouble {
    Trouble { kind: TroubleKind::Unreachable, service, text: "down".to_owned() }
}

/// These services could be used.
fn health(services: &[Service]) -> Health {
    let mut health = Health::default();
    for service in services {
        health.saw(*service, Ok(()));
    }
    health
}

fn metrics(health: &Health) -> [i64; 4] {
    let values: BTreeMap<_, _> = health.metrics().into_iter().collect();
    ["SweepOk", "AwsReachable", "SecretReadable", "PuppetReachable"].map(|name| values[name])
}

fn failed(code: Code) -> Receipt {
    Receipt::bare(Outcome::Failed, code, "why")
}

#[test]
fn the_instance_that_ec2_is_asked_about_is_one_that_can_be_asked_about() {
    assert!(NO_INSTANCE.parse::<InstanceId>().is_ok());
}

#[test]
fn a_sweep_that_could_use_every_service_is_healthy() {
    assert_eq!(metrics(&health(&EVERY)), [1, 1, 1, 1]);
    let open_source = &EVERY[..5];
    assert_eq!(metrics(&health(open_source)), [1, 1, 1, 1], "a service that is not configured is not missed");
}

#[test]
fn trouble_with_a_service_shows_in_the_metric_that_it_belongs_to() {
    for service in EVERY {
        let mut health = health(&EVERY);
        health.services.insert(service, Err(trouble(service)));
        let expected = match service {
            Service::AutoScaling | Service::Ec2 => [0, 0, 1, 1],
            Service::SecretsManager => [0, 1, 0, 1],
            _ => [0, 1, 1, 0],
        };
        assert_eq!(metrics(&health), expected, "{service}");
        assert_eq!(health.payload()["missing"][0]["code"], Code::from(&trouble(service)).as_str());
    }
}

#[test]
fn what_was_not_read_is_not_healthy() {
    let values = metrics(&Health::default());
    assert_eq!(values[1..], [0, 0, 0]);
}

#[test]
fn a_service_that_had_trouble_once_in_a_sweep_is_not_healthy_again_in_the_same_sweep() {
    let mut health = health(&EVERY);
    health.saw(Service::AutoScaling, Err(trouble(Service::AutoScaling)));
    health.saw(Service::AutoScaling, Ok(()));
    assert_eq!(metrics(&health)[1], 0);
}

#[test]
fn without_the_secret_puppet_is_not_reachable_and_the_reason_is_given_once() {
    let mut health = health(&[Service::AutoScaling, Service::Ec2]);
    for service in [Service::SecretsManager, Service::Ca, Service::PuppetDb] {
        health.saw(service, Err(trouble(Service::SecretsManager)));
    }
    assert_eq!(metrics(&health), [0, 1, 0, 0]);
    assert_eq!(health.payload()["missing"].as_array().unwrap().len(), 1, "{}", health.payload());
}

#[test]
fn a_sweep_that_ends_with_an_instance_for_which_a_service_failed_has_not_done_all_of_its_work() {
    for code in [Code::CaUnavailable, Code::PuppetDbUnavailable, Code::NotPermitted, Code::SecretUnusable] {
        let mut health = health(&EVERY);
        health.ended_with(&[failed(code), failed(code)]);
        assert_eq!(metrics(&health), [0, 1, 1, 1], "{code}");
        assert_eq!(health.payload()["missing"].as_array().unwrap().len(), 1, "each code once: {code}");
    }
}

#[test]
fn an_instance_that_is_not_ready_yet_says_nothing_about_the_services() {
    let mut health = health(&EVERY);
    health.ended_with(&[failed(Code::NotVisibleYet), failed(Code::InstanceUnavailable), failed(Code::ProfileUnknown)]);
    assert_eq!(metrics(&health), [1, 1, 1, 1]);
}

#[test]
fn each_service_of_puppet_that_is_configured_has_its_own_value() {
    let mut health = health(&EVERY[..4]);
    health.saw(Service::PuppetDb, Err(trouble(Service::PuppetDb)));
    assert_eq!(health.of_puppet().collect::<Vec<_>>(), [("ca", true), ("puppetdb", false)]);
}
