//! Who must not get a certificate.

use insta::assert_snapshot;
use jiff::SignedDuration;
use secrecy::SecretString;
use serde_json::{Value, json};
use stagedoor_lab::agent::Agent;
use stagedoor_lab_core::faults::FaultKind;
use stagedoor_lab_puppet::{CsrAttributes, Puppet, PuppetOptions};
use stagedoor_lifecycle::reason::Code;
use stagedoor_lifecycle::receipt::{Outcome, StepKind};

use super::stage::{CHALLENGE, Stage, with_duplicates};
use crate::e2e::rehearsal::{OTHER, kinds, only, redacted_reason, redacted_steps};

/// A CA whose `auth.conf` permits the controller `DELETE certificate_request`.
fn that_deletes_requests() -> PuppetOptions {
    PuppetOptions { allow_request_deletion: true, ..PuppetOptions::default() }
}

/// Launches an instance, under whose name an agent asks with these changes; its id, its event.
async fn asked(stage: &Stage, change: impl FnOnce(&mut Agent)) -> (String, Value) {
    let (instance, event) = stage.launch();
    let mut agent = Agent { certname: stage.name_of(&instance), ..Stage::compiler(&instance) };
    change(&mut agent);
    let agent = stage.start(agent);
    agent.waits_for_certificate().await.unwrap();
    agent.stop().await;
    (instance, event)
}

const DELETION: &str = "DELETE /puppet-ca/v1/certificate_request/{certname}";

/// The requests that are pending at the CA.
fn pending(stage: &Stage) -> usize {
    stage.rehearsal.lab.puppet.snapshot()["requests"].as_array().map_or(0, Vec::len)
}

#[tokio::test]
async fn each_false_statement_has_the_request_deleted_and_told_and_the_launch_waits_on() {
    let lies: [fn(&mut Agent); 9] = [
        |agent| agent.instance_id = Some(OTHER.to_owned()),
        |agent| agent.instance_id = Some(String::new()),
        |agent| agent.challenge = Some(SecretString::from("guessed")),
        |agent| agent.challenge = None,
        |agent| agent.alt_names.push("console.example.com".to_owned()),
        |agent| drop(agent.extensions.insert("pp_auth_role".to_owned(), "pe_compiler".to_owned())),
        |agent| drop(agent.extensions.insert("pp_environment".to_owned(), "production".to_owned())),
        |agent| drop(agent.extensions.insert("1.3.6.1.4.1.34380.1.2.1".to_owned(), "of the site".to_owned())),
        |agent| drop(agent.extensions.insert("pp_role".to_owned(), "primary".to_owned())),
    ];
    let mut told = Vec::new();
    for lie in lies {
        let mut stage = Stage::with(that_deletes_requests(), "").await;
        stage.budget("1s");
        let (instance, event) = asked(&stage, lie).await;
        let receipt = stage.rehearsal.onboard(&event).await;
        assert_eq!((receipt.outcome, receipt.code), (Outcome::Waiting, Code::RequestRefused), "{receipt:#?}");
        assert!(!receipt.reason.contains("guessed"), "{receipt:#?}");
        assert_eq!(pending(&stage), 0, "{receipt:#?}");
        assert!(!stage.rehearsal.puppet_has(&stage.name_of(&instance)).0);
        assert_eq!(stage.state_of(&instance).as_deref(), Some("Pending:Wait"));
        let published = stage.rehearsal.published_outcomes();
        assert_eq!(published, [(instance, "waiting".to_owned(), "request_refused".to_owned())]);
        told.push(redacted_steps(&receipt, StepKind::Applied));
    }
    // Each names what is wrong, and what the profile wants instead.
    assert_snapshot!(told.join("\n"), @r#"
    deleted a certificate request: the certificate request of [certname] is refused: its pp_instance_id is "i-0b2c3d4e5f6071829", not [instance]
    deleted a certificate request: the certificate request of [certname] is refused: it has no pp_instance_id
    deleted a certificate request: the certificate request of [certname] is refused: its challengePassword is not the one that the instances are given
    deleted a certificate request: the certificate request of [certname] is refused: its challengePassword is not the one that the instances are given
    deleted a certificate request: the certificate request of [certname] is refused: it asks for the alternative name console.example.com, which the profile does not list
    deleted a certificate request: the certificate request of [certname] is refused: it asks for the extension pp_auth_role, which is listed neither in sign.require nor in sign.allow of the profile
    deleted a certificate request: the certificate request of [certname] is refused: it asks for the extension pp_environment, which is listed neither in sign.require nor in sign.allow of the profile
    deleted a certificate request: the certificate request of [certname] is refused: it asks for the extension 1.3.6.1.4.1.34380.1.2.1, which is listed neither in sign.require nor in sign.allow of the profile
    deleted a certificate request: the certificate request of [certname] is refused: its pp_role is "primary", not "compiler"
    "#);
}

#[tokio::test]
async fn a_first_request_that_is_wrong_does_not_keep_an_instance_out() {
    let wrong = [
        // Before cloud-init has written the attributes; what a predecessor sent that EC2 has forgotten; of no usable id.
        CsrAttributes::default(),
        CsrAttributes { instance_id: Some(OTHER.to_owned()), ..CsrAttributes::default() },
        CsrAttributes { instance_id: Some("nonsense".to_owned()), ..CsrAttributes::default() },
    ];
    for wrong in wrong {
        let mut stage = Stage::with(that_deletes_requests(), "").await;
        let (instance, event) = stage.launch();
        stage.rehearsal.lab.puppet.submit_csr(&stage.name_of(&instance), &wrong).unwrap();
        stage.start(Stage::compiler(&instance));
        let receipt = stage.rehearsal.onboard(&event).await;
        assert_eq!(receipt.outcome, Outcome::Continued, "{receipt:#?}");
        assert_eq!(stage.rehearsal.lab.journal.count("ca", DELETION), 1, "{receipt:#?}");
    }
}

#[tokio::test]
async fn where_a_deletion_could_take_a_new_certificate_along_the_sweep_alone_deletes() {
    let mut stage = Stage::open_source("").await;
    stage.budget("2s");
    let (instance, event) = asked(&stage, |agent| agent.challenge = None).await;
    let receipt = stage.rehearsal.onboard(&event).await;
    assert_eq!((receipt.outcome, receipt.code), (Outcome::Waiting, Code::RequestRefused), "{receipt:#?}");
    assert!(!kinds(&receipt).contains(&StepKind::Applied), "{receipt:#?}");
    assert_eq!(pending(&stage), 1);
    let journal = &stage.rehearsal.lab.journal;
    assert_eq!(journal.count("ca", "DELETE /puppet-ca/v1/certificate_status/{certname}"), 0);
    assert_eq!(journal.count("ca", DELETION), 1, "it is denied once");

    let receipt = only(&stage.rehearsal.invoke("sweep", &json!({})).await);
    assert_eq!((receipt.outcome, receipt.code), (Outcome::Waiting, Code::RequestRefused), "{receipt:#?}");
    assert_eq!(pending(&stage), 0);
    assert_eq!(stage.state_of(&instance).as_deref(), Some("Pending:Wait"));
    let published = stage.rehearsal.published_outcomes();
    let told = (instance, "waiting".to_owned(), "request_refused".to_owned());
    assert_eq!(published, [told], "the sweep leaves the first minutes to onboard");
}

#[tokio::test]
async fn a_request_that_took_the_place_of_the_one_that_was_refused_is_not_deleted_for_it() {
    let mut stage = Stage::with(PuppetOptions { allow_duplicate_certs: true, ..that_deletes_requests() }, "").await;
    let (instance, event) = asked(&stage, |agent| agent.challenge = None).await;
    // What is decided about was read before the instance's own request arrived.
    let request = "GET /puppet-ca/v1/certificate_request/{certname}";
    stage.rehearsal.fault("ca", request, Some(1), FaultKind::Delay { ms: 1500 });
    stage.rehearsal.start("onboard");
    let lab = &stage.rehearsal.lab;
    let meanwhile = async {
        while lab.journal.count("ca", request) == 0 {
            tokio::task::yield_now().await;
        }
        let agent = stage.start(Agent { name: Some("second".to_owned()), ..Stage::compiler(&instance) });
        agent.waits_for_certificate().await.unwrap();
        agent
    };
    let (answer, _agent) = tokio::join!(lab.invoke("onboard", &event), meanwhile);
    let receipt = only(&answer.unwrap());
    assert_eq!(receipt.outcome, Outcome::Continued, "{receipt:#?}");
    assert_eq!(lab.journal.count("ca", DELETION), 0, "{receipt:#?}");
}

#[tokio::test]
async fn the_launch_is_abandoned_with_the_reason_of_the_request_when_the_timeout_expires() {
    let mut stage = Stage::open_source("timeout.launch = \"10m\"").await;
    stage.budget("1s");
    stage.rehearsal.lab.clock.advance(SignedDuration::from_secs(-601));
    let (instance, event) = asked(&stage, |agent| agent.challenge = None).await;
    let receipt = stage.rehearsal.onboard(&event).await;
    assert_eq!((receipt.outcome, receipt.code), (Outcome::Abandoned, Code::TimeoutExpired), "{receipt:#?}");
    assert_snapshot!(redacted_reason(&receipt, &[]), @"the timeout has expired: the certificate request of [certname] is refused: its challengePassword is not the one that the instances are given");
    assert_ne!(stage.state_of(&instance).as_deref(), Some("Pending:Wait"));
}

/// Puts these challenges into the secret.
fn rotate(stage: &Stage, challenge: &str, previous: Option<&str>) {
    let mut secret: Value = serde_json::from_str(&stage.rehearsal.puppet_secret()).unwrap();
    secret["challenge"] = challenge.into();
    secret["previous_challenge"] = previous.into();
    stage.rehearsal.lab.aws.put_secret("stagedoor/puppet", secret.to_string().into());
}

#[tokio::test]
async fn a_challenge_that_is_rotated_while_the_function_is_warm_keeps_nobody_out() {
    let mut stage = Stage::with(that_deletes_requests(), "").await;
    stage.rehearsal.keep_secret("the new challenge");
    stage.enrol().await;
    rotate(&stage, "the new challenge", Some(CHALLENGE));
    for challenge in ["the new challenge", CHALLENGE] {
        let (instance, event) = stage.launch();
        stage.start(Agent { challenge: Some(challenge.to_owned().into()), ..Stage::compiler(&instance) });
        let receipt = stage.rehearsal.onboard(&event).await;
        assert_eq!(receipt.outcome, Outcome::Continued, "{receipt:#?}");
        assert_eq!(stage.rehearsal.lab.journal.count("ca", DELETION), 0, "{receipt:#?}");
    }
}

#[tokio::test]
async fn a_wrong_challenge_has_the_secret_read_again_once_in_an_invocation() {
    let mut stage = Stage::open_source("").await;
    stage.budget("3s");
    let (_, event) = asked(&stage, |agent| agent.challenge = None).await;
    stage.rehearsal.onboard(&event).await;
    assert_eq!(stage.rehearsal.lab.journal.count("secretsmanager", "GetSecretValue"), 2);
}

#[tokio::test]
async fn alternative_names_that_differ_from_instance_to_instance_are_signed_and_anothers_are_not() {
    let mut stage = Stage::with(that_deletes_requests(), "").await;
    let names = "[\"puppet.example.com\", \"{short_name}\", \"{short_name}.example.com\"]";
    stage.rehearsal.configure(|config| config.replace("[\"puppet.example.com\"]", names));
    stage.budget("8s");
    let (instance, event) = stage.launch();
    let short = stage.name_of(&instance).split('.').next().unwrap().to_owned();
    let mut agent = Stage::compiler(&instance);
    agent.alt_names.extend([short.clone(), format!("{short}.example.com")]);
    stage.start(agent);
    let receipt = stage.rehearsal.onboard(&event).await;
    assert_eq!(receipt.outcome, Outcome::Continued, "{receipt:#?}");
    let (_, event) = asked(&stage, |agent| agent.alt_names.push(short.clone())).await;
    let receipt = stage.rehearsal.onboard(&event).await;
    assert_eq!((receipt.outcome, receipt.code), (Outcome::Waiting, Code::RequestRefused), "{receipt:#?}");
    assert_snapshot!(redacted_reason(&receipt, &[(&short, "[another]")]), @"the certificate request of [certname] is refused: it asks for the alternative name [another], which the profile does not list; waiting for the certificate request of [certname]");
}

#[tokio::test]
async fn a_new_certificate_is_not_taken_for_an_old_one_however_slow_the_clock_of_the_ca_is() {
    for ahead in [-150, -4000] {
        let options = PuppetOptions { ca_clock_ahead_s: ahead, ..PuppetOptions::default() };
        let mut stage = Stage::with(options, "").await;
        stage.budget("2s");
        let (instance, event) = stage.launch();
        stage.start(Agent { first_run: false, ..Stage::compiler(&instance) });
        let receipt = stage.rehearsal.onboard(&event).await;
        assert_eq!((receipt.outcome, receipt.code), (Outcome::Waiting, Code::WaitingForRun), "{ahead}: {receipt:#?}");
        // A function that has not seen it appear.
        let certificates = stage.rehearsal.lab.puppet.snapshot()["certificates"].clone();
        let answer = stage.rehearsal.invoke("sweep", &json!({})).await;
        assert_eq!(only(&answer).code, Code::WaitingForRun, "{ahead}: {answer:#}");
        assert_eq!(stage.rehearsal.lab.puppet.snapshot()["certificates"], certificates, "{ahead}: {answer:#}");
        assert!(stage.rehearsal.log_lines().iter().any(|line| line["clock_skew_s"].is_i64()), "it is logged");
    }
}

#[tokio::test]
async fn the_first_run_counts_however_fast_the_clock_of_the_ca_is() {
    let options = PuppetOptions { ca_clock_ahead_s: 150, ..PuppetOptions::default() };
    let mut stage = Stage::with(options, "").await;
    stage.enrol().await;
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
    stage.budget("6s");
    for (environment, outcome) in
        [("staging", Outcome::Continued), ("production", Outcome::Continued), ("test", Outcome::Waiting)]
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
    assert_eq!(stage.rehearsal.signings(), 0, "{receipt:#?}");
}

#[tokio::test]
async fn with_external_signing_a_bad_certificate_ends_the_launch_and_is_revoked_when_the_instance_terminates() {
    let mut stage = Stage::with(
        PuppetOptions { autosign: stagedoor_lab_puppet::Autosign::Switch(true), ..PuppetOptions::default() },
        "sign.mode = \"external\"",
    )
    .await;
    let (instance, event) = stage.launch();
    let mut agent = Stage::compiler(&instance);
    agent.extensions.insert("pp_role".to_owned(), "primary".to_owned());
    stage.start(agent).certified().await.unwrap();
    let serial = stage.rehearsal.serial_of(&stage.name_of(&instance));
    let receipt = stage.rehearsal.onboard(&event).await;
    assert_eq!(receipt.outcome, Outcome::Abandoned, "{receipt:#?}");
    assert_eq!(receipt.code, Code::CertificateRefused, "{receipt:#?}");
    // Until then it may be in use.
    assert!(!stage.rehearsal.lab.puppet.is_revoked(serial), "{receipt:#?}");
    assert_eq!(stage.state_of(&instance).as_deref(), Some("Terminating:Wait"));
    let purged = stage.swept(&instance).await;
    assert!(matches!(purged.code, Code::Purged(_)), "{purged:#?}");
    assert!(stage.rehearsal.lab.puppet.is_revoked(serial));
}

/// Onboards an instance whose agent has sent its request and stopped, on a CA with `allow-duplicate-certs`. `change` is made at the
/// CA after the request was read `reads` times and before it is signed. The controller reads it for the checks and once more right before it
/// signs. Returns its answer and what the change returned.
async fn onboard_while<T>(
    reads: u32,
    change: impl FnOnce(&Puppet, &str, CsrAttributes) -> T,
) -> (Stage, String, Value, T) {
    let mut stage = Stage::with(with_duplicates(), "").await;
    stage.budget("5s");
    let (instance, event) = stage.launch();
    let name = stage.name_of(&instance);
    let agent = stage.start(Stage::compiler(&instance));
    agent.waits_for_certificate().await.unwrap();
    agent.stop().await;
    let request = "GET /puppet-ca/v1/certificate_request/{certname}";
    stage.rehearsal.fault("ca", request, Some(reads), FaultKind::Delay { ms: 1500 });
    stage.rehearsal.start("onboard");
    let of_the_instance = CsrAttributes {
        instance_id: Some(instance),
        extensions: [("pp_role".to_owned(), "compiler".to_owned())].into(),
        ..CsrAttributes::default()
    };
    let lab = &stage.rehearsal.lab;
    let meanwhile = async {
        while lab.journal.count("ca", request) < usize::try_from(reads).unwrap() {
            tokio::task::yield_now().await;
        }
        change(&lab.puppet, &name, of_the_instance)
    };
    let (answer, changed) = tokio::join!(lab.invoke("onboard", &event), meanwhile);
    (stage, name, answer.unwrap(), changed)
}

#[tokio::test]
async fn a_certificate_that_was_signed_after_the_request_was_read_is_not_replaced() {
    let (stage, _, answer, certificates) = onboard_while(1, |puppet, name, own| {
        puppet.issue(name, &own).unwrap();
        puppet.snapshot()["certificates"].clone()
    })
    .await;
    let puppet = stage.rehearsal.lab.puppet.snapshot();
    assert_eq!(puppet["certificates"], certificates, "{answer:#}");
    assert_eq!(puppet["revoked_serials"], json!([]), "{answer:#}");
}

#[tokio::test]
async fn a_request_that_took_the_place_of_the_one_that_was_checked_is_not_signed() {
    let (stage, name, answer, ()) =
        onboard_while(1, |puppet, name, replaced| puppet.submit_csr(name, &replaced).unwrap()).await;
    let receipt = only(&answer);
    assert_eq!((receipt.outcome, receipt.code), (Outcome::Waiting, Code::RequestRefused), "{receipt:#?}");
    assert_eq!((stage.rehearsal.signings(), stage.rehearsal.puppet_has(&name).0), (0, false), "{receipt:#?}");
}

#[tokio::test]
async fn a_request_that_took_the_place_of_the_one_that_was_checked_gets_no_certificate_that_lasts() {
    let (stage, name, answer, ()) =
        onboard_while(2, |puppet, name, replaced| puppet.submit_csr(name, &replaced).unwrap()).await;
    let receipt = only(&answer);
    assert_eq!((receipt.outcome, receipt.code), (Outcome::Waiting, Code::RequestReplaced), "{receipt:#?}");
    assert!(!stage.rehearsal.puppet_has(&name).0, "{receipt:#?}");
}
