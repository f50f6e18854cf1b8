//! Changing the CA: one test for each answer it is known to give.

use std::collections::BTreeMap;

use stagedoor_puppet::{Error, Outcome, Signed, State};
use stagedoor_types::Certname;

use crate::pki::{PKI, csr, issue};
use crate::stage::{Act, Stage, balancer_says, ca_says};

const FILE_NOT_FOUND: &str = "Internal Server Error: java.io.FileNotFoundException: /ca/signed/n.pem";
const LOCKED: &str = "Internal Server Error: {:kind :lock-acquisition-timeout, :msg Failed to acquire write lock \"crl-file\" within 60 seconds}";
const FORBIDDEN: &str = "Forbidden request: /puppet-ca/v1/clean (method :put). Please see the server logs for details.";

fn name() -> Certname {
    "n.example.net".parse().unwrap()
}

fn names() -> [Certname; 2] {
    [name(), "x.example.net".parse().unwrap()]
}

fn done() -> Act {
    ca_says(204, "")
}

#[tokio::test]
async fn signing_204_is_done() {
    let stage = Stage::new([done()]).await;
    assert_eq!(stage.ca_admin().sign(&name()).await, Ok(Signed::Done));
    let seen = &stage.seen()[0];
    assert_eq!(seen.line, "PUT /puppet-ca/v1/certificate_status/n.example.net");
    assert_eq!(seen.body, r#"{"desired_state":"signed"}"#);
    assert!(seen.head.contains("content-type: application/json"));
}

#[tokio::test]
async fn signing_twice_is_told_from_a_missing_request_by_the_status() {
    let conflict = || ca_says(409, "Cannot sign certificate for host n.example.net without a certificate request");
    let status = |state| ca_says(200, format!(r#"{{"name":"n.example.net","state":"{state}"}}"#));

    let stage = Stage::new([conflict(), status("signed")]).await;
    let signed = stage.ca_admin().sign(&name()).await.unwrap();
    assert!(matches!(signed, Signed::AlreadySigned(status) if status.state == State::Signed));

    for answer in [status("revoked"), ca_says(404, "Resource not found.")] {
        let stage = Stage::new([conflict(), answer]).await;
        assert_eq!(stage.ca_admin().sign(&name()).await, Ok(Signed::NoRequest));
    }
}

#[tokio::test]
async fn signing_404_means_that_the_csr_has_not_arrived() {
    let stage = Stage::new([ca_says(404, "Invalid certificate subject.")]).await;
    assert_eq!(stage.ca_admin().sign(&name()).await, Ok(Signed::NoRequest));
}

#[tokio::test]
async fn a_csr_that_may_not_be_signed_is_refused_for_good_with_the_remedy() {
    for (body, remedy) in [
        (
            "CSR 'n' contains extra subject alternative names (DNS:a), which are disallowed. To allow …",
            "allow-subject-alt-names",
        ),
        (
            "CSR 'n' contains an authorization extension, which is disallowed. To allow …",
            "allow-authorization-extensions",
        ),
        ("Found extensions that are not permitted: 1.3.6.1.4.1.34380.1.3.39", "pp_cli_auth"),
        ("CSR contains a public key that does not correspond to the signing key", "private key"),
    ] {
        let stage = Stage::new([ca_says(409, body)]).await;
        let error = stage.ca_admin().sign(&name()).await.unwrap_err();
        assert!(matches!(error, Error::Refused { status: 409, .. }), "{error}");
        assert!(error.to_string().contains(remedy), "{error}");
    }
}

#[tokio::test]
async fn a_409_in_another_language_is_judged_by_what_is_there() {
    let stage = Stage::new([ca_says(409, "署名できません"), ca_says(200, csr("n.example.net"))]).await;
    let error = stage.ca_admin().sign(&name()).await.unwrap_err();
    assert!(matches!(error, Error::Refused { remedy: None, .. }), "{error}");

    let stage = Stage::new([
        ca_says(409, "署名できません"),
        ca_says(404, "見つかりません"),
        ca_says(200, r#"{"name":"n.example.net","state":"signed"}"#),
    ])
    .await;
    assert!(matches!(stage.ca_admin().sign(&name()).await, Ok(Signed::AlreadySigned(_))));
}

#[tokio::test]
async fn revoking_twice_answers_204_both_times() {
    let stage = Stage::new([done(), done()]).await;
    let admin = stage.ca_admin();
    assert_eq!(admin.revoke(&name()).await, Ok(Outcome::Done));
    assert_eq!(admin.revoke(&name()).await, Ok(Outcome::Done));
    assert_eq!(stage.seen()[1].body, r#"{"desired_state":"revoked"}"#);
}

#[tokio::test]
async fn revoking_what_is_not_there_is_already_done() {
    for answer in [
        ca_says(404, "Invalid certificate subject."),
        ca_says(409, "Cannot revoke certificate for host n.example.net without a signed certificate"),
    ] {
        let stage = Stage::new([answer]).await;
        assert_eq!(stage.ca_admin().revoke(&name()).await, Ok(Outcome::AlreadyDone));
    }
}

#[tokio::test]
async fn revoking_with_the_file_gone_is_already_done_once_the_certificate_is_known_to_be_gone() {
    let gone = ca_says(404, "Could not find certificate n.example.net");
    let stage = Stage::new([ca_says(500, FILE_NOT_FOUND), gone]).await;
    assert_eq!(stage.ca_admin().revoke(&name()).await, Ok(Outcome::AlreadyDone));

    let there = ca_says(200, issue(&PKI.ca, "n.example.net", 7, &[]).cert.pem());
    let stage = Stage::new([ca_says(500, FILE_NOT_FOUND), there]).await;
    assert!(matches!(stage.ca_admin().revoke(&name()).await, Err(Error::Busy { .. })));

    let stage = Stage::new([ca_says(500, FILE_NOT_FOUND), balancer_says(502, "<html>")]).await;
    assert!(matches!(stage.ca_admin().revoke(&name()).await, Err(Error::Busy { status: 502, .. })));
}

#[tokio::test]
async fn a_lock_timeout_is_known_as_one() {
    let stage = Stage::new([ca_says(500, LOCKED)]).await;
    let error = stage.ca_admin().revoke(&name()).await.unwrap_err();
    assert!(matches!(error, Error::Locked { .. }), "{error}");
}

#[tokio::test]
async fn a_400_and_a_415_are_refused_for_good() {
    for status in [400, 415] {
        let stage = Stage::new([ca_says(status, "Unsupported media type.")]).await;
        let error = stage.ca_admin().revoke(&name()).await.unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{error}");
    }
}

#[tokio::test]
async fn deleting_twice_is_done_and_then_already_done() {
    let stage = Stage::new([done(), ca_says(404, "Resource not found.")]).await;
    let admin = stage.ca_admin();
    assert_eq!(admin.delete(&name()).await, Ok(Outcome::Done));
    assert_eq!(admin.delete(&name()).await, Ok(Outcome::AlreadyDone));
    assert_eq!(stage.lines()[0], "DELETE /puppet-ca/v1/certificate_status/n.example.net");
}

#[tokio::test]
async fn a_balancers_404_does_not_make_a_write_already_done() {
    let stage = Stage::new([balancer_says(404, "404 page not found"), balancer_says(404, "<html>")]).await;
    let admin = stage.ca_admin();
    assert!(admin.delete(&name()).await.is_err());
    assert!(admin.revoke(&name()).await.is_err());
}

#[tokio::test]
async fn deleting_a_csr_is_done_already_done_or_not_permitted() {
    let stage = Stage::new([
        done(),
        ca_says(404, "No certificate request for n.example.net at expected path /ca/requests/n.pem"),
        ca_says(403, "Forbidden request: /puppet-ca/v1/certificate_request/n.example.net (method :delete). Please see the server logs for details."),
        ca_says(500, "Path /ca/requests/n.pem exists but could not be deleted"),
    ])
    .await;
    let admin = stage.ca_admin();
    assert_eq!(admin.delete_csr(&name()).await, Ok(Outcome::Done));
    assert_eq!(admin.delete_csr(&name()).await, Ok(Outcome::AlreadyDone));
    assert!(matches!(admin.delete_csr(&name()).await, Err(Error::NotPermitted { .. })));
    assert!(matches!(admin.delete_csr(&name()).await, Err(Error::Busy { .. })));
    assert_eq!(stage.lines()[0], "DELETE /puppet-ca/v1/certificate_request/n.example.net");
}

/// The names that had nothing to clean, where every name was cleaned.
fn missing(cleaned: &BTreeMap<Certname, Result<Outcome, Error>>) -> Vec<Certname> {
    assert!(cleaned.values().all(Result::is_ok), "{cleaned:?}");
    let missing = cleaned.iter().filter(|(_, result)| **result == Ok(Outcome::AlreadyDone));
    missing.map(|(name, _)| name.clone()).collect()
}

/// The kinds of the errors, where every name has one.
fn errors(cleaned: &BTreeMap<Certname, Result<Outcome, Error>>) -> Vec<&'static str> {
    cleaned.values().map(|result| result.as_ref().unwrap_err().name()).collect()
}

#[tokio::test]
async fn cleaning_a_set_is_one_call() {
    let stage = Stage::new([ca_says(200, "Successfully cleaned all certs.")]).await;
    let cleaned = stage.ca_admin().clean(&names()).await;
    assert_eq!((cleaned.len(), missing(&cleaned)), (2, vec![]));
    let seen = stage.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].line, "PUT /puppet-ca/v1/clean");
    assert_eq!(seen[0].body, r#"{"certnames":["n.example.net","x.example.net"]}"#);
}

#[tokio::test]
async fn cleaning_nothing_asks_nobody() {
    let stage = Stage::new([]).await;
    assert_eq!(stage.ca_admin().clean(&[]).await.len(), 0);
    assert_eq!(stage.lines().len(), 0);
}

#[tokio::test]
async fn cleaning_tells_the_missing_names_out_of_a_clojure_vector() {
    let body = r#"The following certs do not exist and cannot be revoked: ["x.example.net" "y.example.net"]"#;
    let stage = Stage::new([ca_says(200, body)]).await;
    let cleaned = stage.ca_admin().clean(&names()).await;
    assert_eq!(missing(&cleaned), [names()[1].clone()]);
}

#[tokio::test]
async fn a_200_that_the_ca_did_not_say_cleans_nothing() {
    for body in ["<html>Successfully cleaned</html>", "OK"] {
        let stage = Stage::new([balancer_says(200, body)]).await;
        assert_eq!(errors(&stage.ca_admin().clean(&names()).await), ["Unexpected", "Unexpected"]);
    }
}

#[tokio::test]
async fn a_server_without_clean_is_given_the_names_one_by_one() {
    for no_such_route in [ca_says(404, "Not Found"), ca_says(403, FORBIDDEN)] {
        let stage = Stage::new([no_such_route, done(), done(), ca_says(404, "Invalid certificate subject.")]).await;
        let cleaned = stage.ca_admin().clean(&names()).await;
        assert_eq!(missing(&cleaned), [names()[1].clone()]);
        assert_eq!(
            stage.lines(),
            [
                "PUT /puppet-ca/v1/clean",
                "PUT /puppet-ca/v1/certificate_status/n.example.net",
                "DELETE /puppet-ca/v1/certificate_status/n.example.net",
                "PUT /puppet-ca/v1/certificate_status/x.example.net",
            ]
        );
    }
}

#[tokio::test]
async fn who_may_not_clean_at_all_is_told_about_clean() {
    let singly = "Forbidden request: /puppet-ca/v1/certificate_status/n.example.net (method :put). Please see the server logs for details.";
    let stage = Stage::new([ca_says(403, FORBIDDEN), ca_says(403, singly)]).await;
    let cleaned = stage.ca_admin().clean(&names()).await;
    for result in cleaned.values() {
        assert!(matches!(result, Err(Error::NotPermitted { words, .. }) if words == FORBIDDEN), "{result:?}");
    }
}

#[tokio::test]
async fn cleaning_is_tried_three_times_before_the_names_are_taken_one_by_one() {
    let failed = || ca_says(500, "Error while cleaning certs: CRL not writable");
    let stage = Stage::new([failed(), failed(), failed(), done(), done(), done(), done()]).await;
    assert_eq!(missing(&stage.ca_admin().clean(&names()).await), []);
    assert_eq!(stage.lines().iter().filter(|line| line.ends_with("/clean")).count(), 3);

    let stage = Stage::new([failed(), ca_says(200, "Successfully cleaned all certs.")]).await;
    assert_eq!(missing(&stage.ca_admin().clean(&names()).await), []);
    assert_eq!(stage.lines().len(), 2);
}

#[tokio::test]
async fn one_name_without_a_file_does_not_keep_the_others_from_being_cleaned() {
    let stage = Stage::new([
        ca_says(500, "Error while cleaning certs: java.io.FileNotFoundException: /ca/signed/n.pem"),
        ca_says(500, FILE_NOT_FOUND),
        ca_says(404, "Could not find certificate n.example.net"),
        done(),
        done(),
    ])
    .await;
    assert_eq!(missing(&stage.ca_admin().clean(&names()).await), [name()]);
}

#[tokio::test]
async fn of_many_names_only_the_one_that_fails_has_an_error() {
    let twenty_one: Vec<Certname> = (0..21).map(|number| format!("n{number:02}").parse().unwrap()).collect();
    let damaged = || ca_says(500, "Error while cleaning certs: The PEM stream must contain exactly 1 certificate");
    let mut script = vec![damaged(), damaged(), damaged()];
    for number in 0..21 {
        if number == 7 {
            script.push(damaged());
        } else {
            script.extend([done(), done()]);
        }
    }
    let stage = Stage::new(script).await;
    let cleaned = stage.ca_admin().clean(&twenty_one).await;
    let failed: Vec<&str> =
        cleaned.iter().filter(|(_, result)| result.is_err()).map(|(name, _)| name.as_str()).collect();
    assert_eq!((cleaned.len(), failed), (21, vec!["n07"]));
    let error = cleaned[&twenty_one[7]].as_ref().unwrap_err();
    assert!(matches!(error, Error::Busy { status: 500, .. }) && error.to_string().contains("n07"), "{error}");
}

#[tokio::test]
async fn names_that_were_not_tried_do_not_have_the_error_of_another() {
    let stage = Stage::new([ca_says(404, "Not Found"), Act::Cut, Act::Cut]).await;
    let cleaned = stage.ca_admin().clean(&names()).await;
    assert_eq!(errors(&cleaned), ["Unreachable", "NotTried"]);
    let untried = cleaned[&names()[1]].as_ref().unwrap_err();
    assert!(matches!(untried, Error::NotTried { .. }), "{untried}");
    assert!(untried.to_string().contains("(x.example.net): not tried, because"), "{untried}");
}

#[tokio::test]
async fn behind_a_lock_that_is_held_the_rest_is_not_tried() {
    let stage = Stage::new([ca_says(404, "Not Found"), ca_says(500, LOCKED)]).await;
    let cleaned = stage.ca_admin().clean(&names()).await;
    assert_eq!(errors(&cleaned), ["Locked", "NotTried"]);
    assert_eq!(stage.lines().len(), 2);
}

#[tokio::test]
async fn a_lock_timeout_while_cleaning_is_not_repeated_here() {
    let stage = Stage::new([ca_says(500, LOCKED)]).await;
    assert_eq!(errors(&stage.ca_admin().clean(&names()).await), ["Locked", "Locked"]);
    assert_eq!(stage.lines().len(), 1);
}

#[tokio::test]
async fn a_lost_answer_to_clean_is_asked_for_again() {
    let body = r#"The following certs do not exist and cannot be revoked: ["n.example.net" "x.example.net"]"#;
    let stage = Stage::new([Act::Cut, ca_says(200, body)]).await;
    assert_eq!(missing(&stage.ca_admin().clean(&names()).await), names());
}
