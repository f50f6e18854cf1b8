//! Signing many names: one test for each answer the CA is known to give.

use stagedoor_puppet::{Error, Signed};
use stagedoor_types::Certname;

use crate::stage::{Act, Stage, balancer_says, ca_says};

const FORBIDDEN: &str = "Forbidden request: /puppet-ca/v1/sign (method :post). Please see the server logs for details.";

fn names() -> [Certname; 3] {
    ["a", "b", "c"].map(|name| name.parse().unwrap())
}

fn done() -> Act {
    ca_says(204, "")
}

#[tokio::test]
async fn signing_a_set_is_one_call() {
    let stage = Stage::new([ca_says(200, r#"{"signed":["a","b","c"],"no-csr":[],"signing-errors":[]}"#)]).await;
    let signed = stage.ca_admin().sign_all(&names()).await;
    assert_eq!(signed, names().map(|name| (name, Ok(Signed::Done))).into());
    let seen = stage.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].line, "POST /puppet-ca/v1/sign");
    assert_eq!(seen[0].body, r#"{"certnames":["a","b","c"]}"#);
}

#[tokio::test]
async fn what_the_batch_did_not_sign_is_asked_about_by_name() {
    let stage = Stage::new([
        ca_says(200, r#"{"signed":["a"],"no-csr":["b"],"signing-errors":["c"]}"#),
        ca_says(404, "Resource not found."),
        ca_says(409, "CSR 'c' contains extra subject alternative names (DNS:x), which are disallowed."),
    ])
    .await;
    let [a, b, c] = names();
    let signed = stage.ca_admin().sign_all(&names()).await;
    assert_eq!(signed[&a], Ok(Signed::Done));
    assert_eq!(signed[&b], Ok(Signed::NoRequest));
    let error = signed[&c].as_ref().unwrap_err();
    assert!(matches!(error, Error::Refused { status: 409, remedy: Some(_), .. }), "{error}");
    assert_eq!(
        stage.lines()[1..],
        ["GET /puppet-ca/v1/certificate_status/b", "PUT /puppet-ca/v1/certificate_status/c"]
    );
}

#[tokio::test]
async fn a_lost_answer_to_the_batch_is_asked_for_again_and_finds_all_signed_already() {
    let signed = |name: &str| ca_says(200, format!(r#"{{"name":"{name}","state":"signed"}}"#));
    let batch = ca_says(200, r#"{"signed":[],"no-csr":["a","b","c"],"signing-errors":[]}"#);
    let stage = Stage::new([Act::Cut, batch, signed("a"), signed("b"), signed("c")]).await;
    let all = stage.ca_admin().sign_all(&names()).await;
    assert!(all.values().all(|signed| matches!(signed, Ok(Signed::AlreadySigned(_)))), "{all:?}");
    assert_eq!(all.len(), 3);
}

#[tokio::test]
async fn a_server_without_batches_is_given_the_names_one_by_one() {
    for no_such_route in [ca_says(404, "Not Found"), ca_says(403, FORBIDDEN)] {
        let stage = Stage::new([no_such_route, done(), ca_says(500, "no"), done()]).await;
        let [a, b, c] = names();
        let signed = stage.ca_admin().sign_all(&names()).await;
        assert_eq!((&signed[&a], &signed[&c]), (&Ok(Signed::Done), &Ok(Signed::Done)));
        assert!(matches!(signed[&b], Err(Error::Busy { .. })));
        assert_eq!(stage.lines()[1], "PUT /puppet-ca/v1/certificate_status/a");
    }
}

#[tokio::test]
async fn where_the_ca_is_not_there_any_more_the_rest_is_not_tried() {
    let stage = Stage::new([ca_says(404, "Not Found"), Act::Cut, Act::Cut, Act::Cut, done(), done()]).await;
    let signed = stage.ca_admin().sign_all(&names()).await;
    let errors: Vec<_> = signed.values().map(|signed| signed.as_ref().unwrap_err().name()).collect();
    assert_eq!(errors, ["Unreachable", "NotTried", "NotTried"]);
    assert!(stage.lines()[1..].iter().all(|line| line.ends_with("certificate_status/a")), "{:?}", stage.lines());
}

#[tokio::test]
async fn what_may_not_be_asked_for_one_name_is_refused_for_each_and_asked_once() {
    let stage = Stage::new([ca_says(404, "Not Found"), ca_says(403, FORBIDDEN)]).await;
    let signed = stage.ca_admin().sign_all(&names()).await;
    for (name, signed) in &signed {
        let Err(Error::NotPermitted { call, .. }) = signed else { panic!("{signed:?}") };
        assert_eq!(call.subject.as_deref(), Some(name.as_str()));
    }
    assert_eq!((signed.len(), stage.lines().len()), (3, 2));
}

#[tokio::test]
async fn behind_a_proxy_that_waited_in_vain_the_rest_is_not_tried_and_after_another_500_it_is() {
    for (status, errors) in [(504, ["Busy", "NotTried", "NotTried"]), (500, ["Busy", "Busy", "Busy"])] {
        let answers = std::iter::once(ca_says(404, "Not Found")).chain((0..3).map(|_| ca_says(status, "no")));
        let stage = Stage::new(answers.collect::<Vec<_>>()).await;
        let signed = stage.ca_admin().sign_all(&names()).await;
        let found: Vec<_> = signed.values().map(|signed| signed.as_ref().unwrap_err().name()).collect();
        assert_eq!(found, errors, "{status}");
    }
}

#[tokio::test]
async fn what_the_batch_signed_is_signed_although_the_ca_is_lost_after_it() {
    let batch = ca_says(200, r#"{"signed":["b"],"no-csr":[],"signing-errors":["a","c"]}"#);
    let stage = Stage::new([batch, Act::Cut, Act::Cut, Act::Cut]).await;
    let signed = stage.ca_admin().sign_all(&names()).await;
    let results: Vec<_> = signed.values().map(|signed| signed.as_ref().map_err(Error::name)).collect();
    assert_eq!(results, [Err("Unreachable"), Ok(&Signed::Done), Err("NotTried")]);
}

#[tokio::test]
async fn a_name_that_the_batch_forgot_is_signed_by_itself() {
    let stage = Stage::new([ca_says(200, r#"{"signed":["a","b"],"no-csr":[],"signing-errors":[]}"#), done()]).await;
    let signed = stage.ca_admin().sign_all(&names()).await;
    assert!(signed.values().all(|signed| *signed == Ok(Signed::Done)));
    assert_eq!(stage.lines()[1], "PUT /puppet-ca/v1/certificate_status/c");
}

#[tokio::test]
async fn a_batch_that_failed_failed_for_every_name() {
    for (answer, error) in [
        (ca_says(500, "lock-acquisition-timeout"), "Locked"),
        (ca_says(422, r#"{"kind":"schema-violation","submitted":[1],"error":"no"}"#), "Refused"),
        (balancer_says(404, "<html>"), "Unexpected"),
        (balancer_says(200, "<html>"), "Unexpected"),
    ] {
        let stage = Stage::new([answer]).await;
        let signed = stage.ca_admin().sign_all(&names()).await;
        assert_eq!(signed.len(), 3);
        assert!(signed.values().all(|signed| signed.as_ref().unwrap_err().name() == error), "{signed:?}");
        assert_eq!(stage.lines().len(), 1);
    }
}

#[tokio::test]
async fn a_single_name_is_signed_by_itself_and_none_asks_nobody() {
    let stage = Stage::new([done()]).await;
    let admin = stage.ca_admin();
    assert!(admin.sign_all(&[]).await.is_empty());
    assert_eq!(admin.sign_all(&names()[..1]).await.len(), 1);
    assert_eq!(stage.lines(), ["PUT /puppet-ca/v1/certificate_status/a"]);
}
