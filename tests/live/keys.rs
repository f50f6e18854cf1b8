//! Launching instances whose keys are of other kinds than RSA with 2048 bits: the CA signs their requests once `onboard` or the sweep
//! approves them, and the certificates are recognised as theirs.

use serde_json::json;
use stagedoor_lifecycle::reason::Code;
use stagedoor_lifecycle::receipt::Outcome;
use stagedoor_puppet::{Curve, KeyKind, SelfSignature};
use tokio::process::Command;

use super::job::{Instance, Job, instances};
use super::onboarding::{DOMAIN, LONG_BUDGET, assert_enrolled, batch, compiler, config, continued};
use super::text;
use crate::conformance::apply::submit;
use crate::conformance::site::Site;
use crate::e2e::rehearsal::receipts;

/// Label, key and digest as OpenSSL calls them, and what the key is. Puppet's agents use SHA-256 for every key.
const REQUESTS: [(&str, &[&str], &str, KeyKind, usize); 8] = [
    ("p256-sha256", P256, "-sha256", KeyKind::Ec(Curve::P256), 256),
    ("p256-sha512", P256, "-sha512", KeyKind::Ec(Curve::P256), 256),
    ("p384-sha256", P384, "-sha256", KeyKind::Ec(Curve::P384), 384),
    ("p384-sha384", P384, "-sha384", KeyKind::Ec(Curve::P384), 384),
    ("p521-sha256", P521, "-sha256", KeyKind::Ec(Curve::P521), 521),
    ("p521-sha512", P521, "-sha512", KeyKind::Ec(Curve::P521), 521),
    ("rsa2048-sha512", &["rsa:2048"], "-sha512", KeyKind::Rsa, 2048),
    ("rsa4096-sha256", &["rsa:4096"], "-sha256", KeyKind::Rsa, 4096),
];
const P256: &[&str] = &["ec", "-pkeyopt", "ec_paramgen_curve:P-256"];
const P384: &[&str] = &["ec", "-pkeyopt", "ec_paramgen_curve:P-384"];
const P521: &[&str] = &["ec", "-pkeyopt", "ec_paramgen_curve:P-521"];

/// The request of a compiler on this instance, PEM, with a new key.
async fn request(instance: &Instance, challenge: &str, key: &[&str], digest: &str) -> String {
    let config = format!(
        "[req]\nprompt = no\nstring_mask = utf8only\ndistinguished_name = name\nattributes = attributes\n\
         req_extensions = extensions\n[name]\nCN = {}\n[attributes]\nchallengePassword = {challenge}\n\
         [extensions]\n1.3.6.1.4.1.34380.1.1.2 = ASN1:UTF8String:{}\n1.3.6.1.4.1.34380.1.1.13 = ASN1:UTF8String:compiler\n",
        instance.certname, instance.id
    );
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), config).expect("the configuration is written");
    let mut command = Command::new("openssl");
    command.args(["req", "-new", "-nodes", "-keyout", "/dev/null", digest, "-config"]).arg(file.path());
    let output = command.arg("-newkey").args(key).output().await.expect("openssl runs");
    assert!(output.status.success(), "{}", text(&output));
    String::from_utf8(output.stdout).expect("PEM")
}

#[tokio::test]
async fn a_request_that_openssl_made_with_any_kind_of_key_is_signed_and_its_certificate_recognised() {
    let site = Site::real().await;
    let arriving = instances(&REQUESTS.map(|(label, ..)| label), DOMAIN);
    let mut job = Job::awaiting(arriving.clone(), &config("budget = \"5s\"\nhousekeeping.every = \"never\"", "")).await;
    let mut asked = Vec::new();
    for (instance, (label, key, digest, kind, bits)) in arriving.iter().zip(REQUESTS) {
        job.launch(instance);
        let pem = request(instance, &job.challenge, key, digest).await;
        let (status, text) = submit(&site, instance.certname.as_str(), pem).await;
        assert_eq!(status, 200, "the CA takes the request {label}: {text}");
        let csr = job.ca().csr(&instance.certname).await.unwrap().expect("the request");
        assert_eq!(*csr.self_signature(), SelfSignature::Valid, "{label}");
        assert_eq!((&csr.key().kind, csr.key().bits), (&kind, bits), "{label}");
        asked.push(csr.key().clone());
    }
    let answer = job.invoke("sweep", &json!({})).await;
    let receipts = receipts(&answer);
    for (instance, key) in arriving.iter().zip(asked) {
        let receipt = receipts.iter().find(|receipt| receipt.certname.as_ref() == Some(&instance.certname));
        let receipt = receipt.unwrap_or_else(|| panic!("no receipt of {}: {answer:#}", instance.certname));
        // All that is missing is an agent.
        assert_eq!((receipt.outcome, receipt.code), (Outcome::Waiting, Code::WaitingForRun), "{receipt:#?}");
        let certificate = job.ca().certificate(&instance.certname).await.unwrap().expect("its certificate");
        assert_eq!(certificate.key(), &key, "{}", instance.certname);
        assert_eq!(certificate.instance_id().as_ref(), Some(&instance.id));
        assert!(job.ca().csr(&instance.certname).await.unwrap().is_none(), "nothing is pending");
    }
    job.assert_no_secret_is_told();
}

#[tokio::test]
async fn agents_with_keys_of_elliptic_curves_are_enrolled_and_run() {
    let arriving = instances(&["p384", "p521"], DOMAIN);
    let mut job = Job::awaiting(arriving.clone(), &config(LONG_BUDGET, "")).await;
    let [mut p384, mut p521] = [0, 1].map(|nth| compiler(&job, &arriving[nth]));
    p384.curve = Some("secp384r1");
    p521.curve = Some("secp521r1");
    if job.stage.agent_version.starts_with("7.") {
        // Debian 12 has Puppet 7 with OpenSSL 3, where it cannot make such a request.
        let output = p521.try_to_ask().await;
        assert!(!output.status.success() && text(&output).contains("pkeys are immutable"), "{}", text(&output));
        return;
    }
    let events = arriving.iter().map(|instance| job.launch(instance)).collect::<Vec<_>>();
    let events = batch(&events);
    let (answer, (), ()) = tokio::join!(job.invoke("onboard", &events), p384.first_run_well(), p521.first_run_well());
    assert_eq!(answer, json!({"batchItemFailures": []}));
    for (instance, curve) in arriving.iter().zip([Curve::P384, Curve::P521]) {
        assert_enrolled(&job, instance).await;
        let certificate = job.ca().certificate(&instance.certname).await.unwrap().expect("its certificate");
        assert_eq!(certificate.key().kind, KeyKind::Ec(curve));
    }
    assert_eq!(job.completions(), arriving.iter().map(continued).collect::<Vec<_>>());
    job.assert_no_secret_is_told();
}
