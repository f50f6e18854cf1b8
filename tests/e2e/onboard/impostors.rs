//! Who must not get a certificate.

use secrecy::SecretString;
use serde_json::{Value, json};
use stagedoor_lab::agent::Agent;
use stagedoor_lab_core::faults::FaultKind;
use stagedoor_lab_puppet::{CsrAttributes, Puppet, PuppetOptions};
use stagedoor_lifecycle::reason::Code;
use stagedoor_lifecycle::receipt::{Outcome, Receipt};

use super::stage::{Stage, with_duplicates};
use crate::e2e::rehearsal::{OTHER, TOPIC, only, said};

/// Launches an instance, under whose name an agent asks with these changes; the receipt.
async fn refused(profile: &str, change: impl FnOnce(&mut Agent)) -> (Stage, String, Receipt) {
    let mut stage = Stage::open_source(profile).await;
    let (instance, event) = stage.launch();
    let name = stage.name_of(&instance);
    let mut agent = Agent { certname: name.clone(), ..Stage::compiler(&instance) };
    change(&mut agent);
    let agent = stage.start(agent);
    agent.waits_for_certificate().await.unwrap();
    agent.stop().await;
    let receipt = stage.rehearsal.onboard(&event).await;
    (stage, name, receipt)
}

#[tokio::test]
async fn each_false_statement_has_the_request_deleted_and_the_launch_abandoned() {
    type Lie = (&'static str, fn(&mut Agent));
    let lies: [Lie; 9] = [
        ("pp_instance_id is", |agent| agent.instance_id = Some(OTHER.to_owned())),
        ("no pp_instance_id", |agent| agent.instance_id = Some(String::new())),
        ("challengePassword", |agent| agent.challenge = Some(SecretString::from("guessed"))),
        ("challengePassword", |agent| agent.challenge = None),
        ("console.example.com", |agent| agent.alt_names.push("console.example.com".to_owned())),
        ("pp_auth_role", |agent| drop(agent.extensions.insert("pp_auth_role".to_owned(), "pe_compiler".to_owned()))),
        ("pp_environment", |agent| {
            drop(agent.extensions.insert("pp_environment".to_owned(), "production".to_owned()));
        }),
        ("1.3.6.1.4.1.34380.1.2.1", |agent| {
            drop(agent.extensions.insert("1.3.6.1.4.1.34380.1.2.1".to_owned(), "of the site".to_owned()));
        }),
        ("pp_role is", |agent| drop(agent.extensions.insert("pp_role".to_owned(), "primary".to_owned()))),
    ];
    for (objection, lie) in lies {
        let (stage, name, receipt) = refused("", lie).await;
        assert_eq!(
            (receipt.outcome, receipt.code),
            (Outcome::Abandoned, Code::RequestRefused),
            "{objection}: {receipt:#?}"
        );
        let reason = receipt.reason;
        assert!(reason.contains(objection) && !reason.contains("guessed"), "{objection}: {reason}");
        let puppet = stage.rehearsal.lab.puppet.snapshot();
        assert_eq!(puppet["requests"].as_array().map(Vec::len), Some(0), "{puppet:#}");
        assert!(!stage.rehearsal.puppet_has(&name).0);
        let published = format!("{:?}", stage.rehearsal.lab.aws.published(TOPIC));
        assert!(published.contains("abandoned"), "{published}");
    }
}

#[tokio::test]
async fn an_authorization_extension_that_the_profile_requires_is_signed() {
    let mut stage = Stage::open_source("sign.require.pp_auth_role = \"pe_compiler\"").await;
    stage.rehearsal.configure(|config| {
        config.replace("sign.require = { pp_role = \"compiler\" }", "sign.require.pp_role = \"compiler\"")
    });
    let (instance, event) = stage.launch();
    let mut agent = Stage::compiler(&instance);
    agent.extensions.insert("pp_auth_role".to_owned(), "pe_compiler".to_owned());
    stage.start(agent);
    assert_eq!(stage.rehearsal.onboard(&event).await.outcome, Outcome::Continued);
}

#[tokio::test]
async fn an_extension_that_the_profile_allows_is_signed_with_one_of_its_values_and_no_other() {
    let allow = "sign.allow = { pp_environment = [\"production\", \"staging\"] }";
    let mut stage = Stage::open_source(allow).await;
    for (environment, outcome) in
        [("staging", Outcome::Continued), ("production", Outcome::Continued), ("test", Outcome::Abandoned)]
    {
        let (instance, event) = stage.launch();
        let mut agent = Stage::compiler(&instance);
        agent.extensions.insert("pp_environment".to_owned(), environment.to_owned());
        stage.start(agent);
        let receipt = stage.rehearsal.onboard(&event).await;
        assert_eq!(receipt.outcome, outcome, "{environment}: {receipt:#?}");
    }
}

#[tokio::test]
async fn what_the_ca_will_not_sign_is_refused_with_the_remedy_and_the_hook_keeps_holding() {
    let options = PuppetOptions::default();
    let mut stage = Stage::with(options, "").await;
    stage.rehearsal.lab.puppet.configure(|options| options.allow_subject_alt_names = false);
    let (instance, event) = stage.launch();
    stage.start(Stage::compiler(&instance)).waits_for_certificate().await.unwrap();
    let receipt = stage.rehearsal.onboard(&event).await;
    assert_eq!(receipt.outcome, Outcome::Refused, "{receipt:#?}");
    assert_eq!(receipt.code, Code::SignatureRefused, "{receipt:#?}");
    assert_eq!(stage.state_of(&instance).as_deref(), Some("Pending:Wait"));
}

#[tokio::test]
async fn with_external_signing_a_good_certificate_is_accepted() {
    let mut stage = Stage::with(
        PuppetOptions { autosign: stagedoor_lab_puppet::Autosign::Switch(true), ..PuppetOptions::default() },
        "sign.mode = \"external\"",
    )
    .await;
    let (_, _, receipt) = stage.enrol().await;
    assert!(!said(&receipt).contains("signed the certificate request"), "{receipt:#?}");
}

#[tokio::test]
async fn with_external_signing_a_bad_certificate_is_revoked_and_the_launch_abandoned() {
    let mut stage = Stage::with(
        PuppetOptions { autosign: stagedoor_lab_puppet::Autosign::Switch(true), ..PuppetOptions::default() },
        "sign.mode = \"external\"",
    )
    .await;
    let (instance, event) = stage.launch();
    let mut agent = Stage::compiler(&instance);
    agent.extensions.insert("pp_role".to_owned(), "primary".to_owned());
    stage.start(agent).certified().await.unwrap();
    let receipt = stage.rehearsal.onboard(&event).await;
    assert_eq!(receipt.outcome, Outcome::Abandoned, "{receipt:#?}");
    assert_eq!(receipt.code, Code::CertificateRefused, "{receipt:#?}");
    assert!(!stage.rehearsal.puppet_has(&stage.name_of(&instance)).0);
    assert!(said(&receipt).contains("revoked and deleted"), "{receipt:#?}");
}

/// Onboards an instance whose agent has sent its request and stopped, on a CA with `allow-duplicate-certs`. This happens at the CA
/// after the request was read and before it is signed. Returns its answer and what the change returned.
async fn onboard_while<T>(change: impl FnOnce(&Puppet, &str, CsrAttributes) -> T) -> (Stage, String, Value, T) {
    let mut stage = Stage::with(with_duplicates(), "").await;
    stage.budget("5s");
    let (instance, event) = stage.launch();
    let name = stage.name_of(&instance);
    let agent = stage.start(Stage::compiler(&instance));
    agent.waits_for_certificate().await.unwrap();
    agent.stop().await;
    let request = "GET /puppet-ca/v1/certificate_request/{certname}";
    stage.rehearsal.fault("ca", request, Some(1), FaultKind::Delay { ms: 1500 });
    stage.rehearsal.start("onboard");
    let of_the_instance = CsrAttributes {
        instance_id: Some(instance),
        extensions: [("pp_role".to_owned(), "compiler".to_owned())].into(),
        ..CsrAttributes::default()
    };
    let lab = &stage.rehearsal.lab;
    let meanwhile = async {
        while lab.journal.count("ca", request) == 0 {
            tokio::task::yield_now().await;
        }
        change(&lab.puppet, &name, of_the_instance)
    };
    let (answer, changed) = tokio::join!(lab.invoke("onboard", &event), meanwhile);
    (stage, name, answer.unwrap(), changed)
}

#[tokio::test]
async fn a_certificate_that_was_signed_after_the_request_was_read_is_not_replaced() {
    let (stage, _, answer, certificates) = onboard_while(|puppet, name, own| {
        puppet.issue(name, &own).unwrap();
        puppet.snapshot()["certificates"].clone()
    })
    .await;
    let puppet = stage.rehearsal.lab.puppet.snapshot();
    assert_eq!(puppet["certificates"], certificates, "{answer:#}");
    assert_eq!(puppet["revoked_serials"], json!([]), "{answer:#}");
}

#[tokio::test]
async fn a_request_that_took_the_place_of_the_one_that_was_checked_gets_no_certificate_that_lasts() {
    let (stage, name, answer, ()) =
        onboard_while(|puppet, name, replaced| puppet.submit_csr(name, &replaced).unwrap()).await;
    let receipt = only(&answer);
    assert_eq!((receipt.outcome, receipt.code), (Outcome::Abandoned, Code::RequestReplaced), "{receipt:#?}");
    assert!(!stage.rehearsal.puppet_has(&name).0, "{receipt:#?}");
}
