//! Whether a sweep says truthfully that it could do its work. What it measures in each scenario is recorded, so that the alarms of
//! `infra/stagedoor.yaml` are evaluated on it (`make alarms`).

use std::path::PathBuf;

use insta::assert_snapshot;
use jiff::SignedDuration;
use serde_json::{Value, json};
use stagedoor_lab::Options;
use stagedoor_lab_core::faults::FaultKind;
use stagedoor_lab_puppet::PuppetOptions;
use stagedoor_lifecycle::reason::Code;

use crate::e2e::onboard::stage::Stage;
use crate::e2e::rehearsal::{Rehearsal, compilers};

/// As many failed sweeps in a row raise an alarm.
const SWEEPS: usize = 5;

/// The values of one sweep: `SweepOk`, `AwsReachable`, `SecretReadable`, `PuppetReachable`.
type Values = [i64; 4];
const HEALTHY: Values = [1, 1, 1, 1];
const AWS: Values = [0, 0, 1, 1];
const SECRET: Values = [0, 1, 0, 0];
const PUPPET: Values = [0, 1, 1, 0];

/// A scenario and what came of it.
struct Recorded {
    /// The metrics of each sweep: those of each service of Puppet, then all others.
    sweeps: Vec<Vec<Value>>,
    /// The answer of the last sweep.
    answer: Value,
    /// The codes in the log lines that say what was missing.
    logged: Vec<String>,
}

impl Recorded {
    fn values(&self) -> Vec<Values> {
        let of = |sweep: &Vec<Value>| {
            let all = sweep.last().expect("a sweep has metrics");
            ["SweepOk", "AwsReachable", "SecretReadable", "PuppetReachable"]
                .map(|name| all[name].as_i64().unwrap_or_else(|| panic!("no {name} in {all}")))
        };
        self.sweeps.iter().map(of).collect()
    }

    /// What the last sweep says of each service of Puppet.
    fn services(&self) -> Vec<(String, bool)> {
        let last = self.sweeps.last().expect("there are sweeps");
        let services = last.iter().filter(|document| document.get("Service").is_some());
        services
            .map(|document| (document["Service"].as_str().unwrap().to_owned(), document["PuppetReachable"] == 1))
            .collect()
    }

    fn codes(&self) -> Vec<String> {
        let missing = self.answer["health"]["missing"].as_array().expect("a list");
        missing.iter().map(|one| one["code"].as_str().unwrap().to_owned()).collect()
    }

    /// Each sweep has these values and misses what these codes say; its one log line says the same.
    fn assert(&self, values: Values, codes: &[Code]) {
        assert_eq!(self.values(), [values; SWEEPS], "{:#}", self.answer);
        let codes: Vec<&str> = codes.iter().map(|code| code.as_str()).collect();
        assert_eq!(self.codes(), codes, "{:#}", self.answer);
        assert_eq!(self.answer["health"]["ok"], codes.is_empty(), "{:#}", self.answer);
        let lines = if codes.is_empty() { 0 } else { SWEEPS };
        assert_eq!(self.logged, vec![codes.join(","); lines]);
    }
}

/// Lets the sweep run, and records what it measures under the name of the scenario.
async fn record(scenario: &str, stage: &mut Rehearsal) -> Recorded {
    let mut answer = Value::Null;
    for _ in 0..SWEEPS {
        answer = stage.invoke("sweep", &json!({})).await;
    }
    let mut sweeps = vec![Vec::new()];
    for document in stage.every_metric("sweep").await {
        let is_the_last = document.get("Service").is_none();
        sweeps.last_mut().expect("one at least").push(document);
        if is_the_last {
            sweeps.push(Vec::new());
        }
    }
    sweeps.pop();
    if let Some(directory) = std::env::var_os("STAGEDOOR_SEEN") {
        let directory = PathBuf::from(directory).join("metrics");
        std::fs::create_dir_all(&directory).expect("a directory for the metrics");
        let lines: Vec<String> = sweeps.iter().map(|sweep| json!(sweep).to_string()).collect();
        std::fs::write(directory.join(format!("{scenario}.jsonl")), lines.join("\n"))
            .expect("the metrics are written down");
    }
    let logged = stage.log();
    let logged = logged.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let logged = logged.filter_map(|line| Some(line["codes"].as_str()?.to_owned())).collect();
    Recorded { sweeps, answer, logged }
}

/// A fleet in which no instance waits, at this site.
async fn idle_at(puppet: PuppetOptions) -> Rehearsal {
    let mut stage = Rehearsal::with(json!({}), Options { puppet, ..Options::default() }).await;
    let scene = stagedoor_lab::scene::Scene::from_json(compilers("InService")).expect("a scene");
    stage.lab.set_scene(&scene).expect("a scene that can be");
    stage.configure(|config| config.replace("budget = \"2s\"", "budget = \"500ms\""));
    stage
}

async fn idle() -> Rehearsal {
    idle_at(PuppetOptions::default()).await
}

/// An error in the form of the services with XML.
pub(super) fn refused(code: &str) -> FaultKind {
    let error = format!("<Error><Code>{code}</Code><Message>You may not.</Message></Error>");
    // Auto Scaling and EC2 wrap it differently.
    let body = if code == "UnauthorizedOperation" {
        format!("<Response><Errors>{error}</Errors><RequestID>r</RequestID></Response>")
    } else {
        format!("<ErrorResponse>{error}<RequestId>r</RequestId></ErrorResponse>")
    };
    FaultKind::Status { status: 403, body, content_type: Some("text/xml".into()) }
}

/// An error of Secrets Manager.
fn of_secrets_manager(status: u16, code: &str, message: &str) -> FaultKind {
    let body = json!({"__type": code, "message": message}).to_string();
    FaultKind::Status { status, body, content_type: Some("application/x-amz-json-1.1".into()) }
}

/// The certificate of a CA that the site does not know.
fn another_ca() -> String {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
    params.distinguished_name.push(rcgen::DnType::CommonName, "Puppet CA: another");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.self_signed(&key).expect("a certificate").pem()
}

/// Changes what the controller trusts.
fn trust(stage: &Rehearsal, change: impl FnOnce(&str) -> String) {
    let mut secret: Value = serde_json::from_str(&stage.puppet_secret()).expect("JSON");
    secret["ca_cert"] = change(secret["ca_cert"].as_str().expect("text")).into();
    stage.lab.aws.put_secret("stagedoor/puppet", secret.to_string().into());
}

#[tokio::test]
async fn a_sweep_that_enrols_an_instance_is_healthy() {
    let mut stage = Stage::enterprise("").await;
    let (instance, _) = stage.launch();
    stage.start(Stage::compiler(&instance));
    let recorded = record("healthy", &mut stage.rehearsal).await;
    recorded.assert(HEALTHY, &[]);
    let enrolled: i64 = recorded.sweeps.iter().map(|sweep| sweep.last().unwrap()["Enrolled"].as_i64().unwrap()).sum();
    assert_eq!(enrolled, 1);
    let all = ["ca", "puppetdb", "orchestrator", "classifier"].map(|service| (service.to_owned(), true));
    assert_eq!(recorded.services(), all);
}

#[tokio::test]
async fn a_sweep_that_finds_nothing_waiting_is_healthy_because_it_read_from_every_service() {
    let mut stage = idle().await;
    let recorded = record("an idle fleet", &mut stage).await;
    recorded.assert(HEALTHY, &[]);
    assert_eq!(recorded.services(), ["ca", "puppetdb"].map(|service| (service.to_owned(), true)));
    assert_eq!(recorded.sweeps[0].last().unwrap()["OldestWaitingSeconds"], 0);
}

#[tokio::test]
async fn a_sweep_to_which_aws_refuses_to_answer_is_not_healthy() {
    for (scenario, service, call, code) in [
        ("Auto Scaling refuses", "autoscaling", "DescribeAutoScalingGroups", "AccessDenied"),
        ("the hooks cannot be read", "autoscaling", "DescribeLifecycleHooks", "AccessDenied"),
        ("EC2 refuses", "ec2", "DescribeInstances", "UnauthorizedOperation"),
    ] {
        let mut stage = idle().await;
        if call == "DescribeLifecycleHooks" {
            let scene = stagedoor_lab::scene::Scene::from_json(compilers("Terminating:Wait")).expect("a scene");
            stage.lab.set_scene(&scene).expect("a scene that can be");
        }
        stage.fault(service, call, None, refused(code));
        record(scenario, &mut stage).await.assert(AWS, &[Code::NotPermitted]);
    }
}

#[tokio::test]
async fn a_sweep_without_its_secret_is_not_healthy() {
    let marked = "You can't perform this operation on the secret because it was marked for deletion.";
    for (scenario, fault, code) in [
        (
            "Secrets Manager is down",
            of_secrets_manager(500, "InternalServiceError", "An error occurred on the server side."),
            Code::SecretsManagerUnavailable,
        ),
        (
            "the secret is scheduled for deletion",
            of_secrets_manager(400, "InvalidRequestException", marked),
            Code::SecretUnusable,
        ),
        (
            "KMS denies the key of the secret",
            of_secrets_manager(400, "AccessDeniedException", "Access to KMS is not allowed"),
            Code::NotPermitted,
        ),
    ] {
        let mut stage = idle().await;
        stage.fault("secretsmanager", "GetSecretValue", None, fault);
        let recorded = record(scenario, &mut stage).await;
        recorded.assert(SECRET, &[code]);
        assert_eq!(recorded.services(), ["ca", "puppetdb"].map(|service| (service.to_owned(), false)));
    }
}

#[tokio::test]
async fn a_sweep_whose_secret_cannot_be_used_is_not_healthy() {
    let mut stage = idle().await;
    trust(&stage, |_| "-----BEGIN CERTIFICATE-----\nbm90IGEgY2VydGlmaWNhdGU=\n-----END CERTIFICATE-----\n".to_owned());
    record("the secret holds no certificate", &mut stage).await.assert(SECRET, &[Code::SecretUnusable]);
}

#[tokio::test]
async fn a_sweep_that_cannot_use_a_service_of_puppet_is_not_healthy() {
    let forbidden = FaultKind::Status {
        status: 403,
        body:
            "Forbidden request: /puppet-ca/v1/certificate_status (method :get). Please see the server logs for details."
                .to_owned(),
        content_type: Some("text/plain".into()),
    };
    let no_database = FaultKind::Status { status: 500, body: "connection refused".to_owned(), content_type: None };
    for (scenario, service, call, fault, code) in [
        ("the CA is down", "ca", "*", FaultKind::Reset, Code::CaUnavailable),
        ("the CA does not permit", "ca", "GET /puppet-ca/v1/certificate_status/*", forbidden, Code::NotPermitted),
        ("PuppetDB is down", "puppetdb", "*", FaultKind::Reset, Code::PuppetDbUnavailable),
        ("PuppetDB's database is down", "puppetdb", "GET /pdb/query/*", no_database, Code::PuppetDbUnavailable),
        ("the orchestrator is down", "orchestrator", "*", FaultKind::Reset, Code::OrchestratorUnavailable),
        ("the classifier is down", "classifier", "*", FaultKind::Reset, Code::ClassifierUnavailable),
    ] {
        let mut stage = idle_at(PuppetOptions::enterprise()).await;
        stage.fault(service, call, None, fault);
        let recorded = record(scenario, &mut stage).await;
        recorded.assert(PUPPET, &[code]);
        let unreachable: Vec<_> = recorded.services().into_iter().filter(|(_, reachable)| !reachable).collect();
        assert_eq!(unreachable, [(service.to_owned(), false)], "the others can be reached: {scenario}");
    }
}

#[tokio::test]
async fn a_sweep_that_does_not_trust_puppets_certificates_is_not_healthy() {
    let mut stage = idle().await;
    trust(&stage, |_| another_ca());
    let recorded = record("Puppet has certificates of another CA", &mut stage).await;
    recorded.assert(PUPPET, &[Code::NotAuthenticated; 2]);
}

#[tokio::test]
async fn while_the_ca_is_being_migrated_a_bundle_of_the_old_and_the_new_one_works_in_either_order() {
    for new_first in [true, false] {
        let mut stage = idle().await;
        trust(&stage, |current| if new_first { another_ca() + current } else { current.to_owned() + &another_ca() });
        record("a CA that is being migrated", &mut stage).await.assert(HEALTHY, &[]);
    }
}

#[tokio::test]
async fn launches_that_are_abandoned_are_counted_and_the_sweep_itself_is_healthy() {
    let mut stage = Stage::open_source("timeout.launch = \"10m\"").await;
    stage.rehearsal.lab.clock.advance(SignedDuration::from_secs(-700));
    for _ in 0..3 {
        stage.launch();
    }
    let recorded = record("every launch is abandoned", &mut stage.rehearsal).await;
    recorded.assert(HEALTHY, &[]);
    let abandoned: i64 = recorded.sweeps.iter().map(|sweep| sweep.last().unwrap()["Abandoned"].as_i64().unwrap()).sum();
    assert_eq!(abandoned, 3);
}

#[tokio::test]
async fn how_long_the_oldest_action_has_waited_is_measured() {
    let mut stage = Stage::open_source("").await;
    stage.budget("500ms");
    stage.rehearsal.lab.clock.advance(SignedDuration::from_secs(-700));
    stage.launch();
    stage.rehearsal.lab.clock.advance(SignedDuration::from_secs(600));
    stage.launch();
    stage.rehearsal.invoke("sweep", &json!({})).await;
    let metrics = stage.rehearsal.metrics("sweep").await;
    let oldest = metrics["OldestWaitingSeconds"].as_i64().expect("a number");
    assert!((700..760).contains(&oldest), "{metrics}");
    let units = metrics["_aws"]["CloudWatchMetrics"][0]["Metrics"].as_array().expect("a list").iter();
    let unit = units.filter(|metric| metric["Name"] == "OldestWaitingSeconds").map(|metric| &metric["Unit"]);
    assert_eq!(unit.collect::<Vec<_>>(), ["Seconds"]);
}

#[tokio::test]
async fn a_service_that_fails_for_one_instance_alone_is_reachable_and_the_sweep_has_not_done_all_of_its_work() {
    let mut stage = idle().await;
    let scene = stagedoor_lab::scene::Scene::from_json(compilers("Terminating:Wait")).expect("a scene");
    stage.lab.set_scene(&scene).expect("a scene that can be");
    // One damaged file: the certificate of this name cannot be read.
    let damaged = FaultKind::Status { status: 500, body: String::new(), content_type: None };
    stage.fault("ca", "GET /puppet-ca/v1/certificate/*", None, damaged);
    let answer = stage.invoke("sweep", &json!({})).await;
    assert_eq!(answer["health"]["missing"][0]["code"], Code::CaUnavailable.as_str(), "{answer:#}");
    let metrics = stage.metrics("sweep").await;
    assert_eq!((&metrics["SweepOk"], &metrics["PuppetReachable"]), (&json!(0), &json!(1)), "{metrics}");
}

#[tokio::test]
async fn a_service_that_hangs_is_given_up_before_its_own_timeout_and_is_not_healthy() {
    let mut stage = idle().await;
    stage.fault("puppetdb", "*", None, FaultKind::Delay { ms: 60_000 });
    let answer = stage.invoke("sweep", &json!({})).await;
    let missing = &answer["health"]["missing"][0];
    assert_eq!(missing["code"], Code::PuppetDbUnavailable.as_str(), "{answer:#}");
    // The client's own timeout would name itself.
    assert_snapshot!(missing["reason"].as_str().unwrap(), @"PuppetDB did not answer in time");
}
