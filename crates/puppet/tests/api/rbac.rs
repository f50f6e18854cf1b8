//! RBAC: one test for each answer it is known to give.

use stagedoor_puppet::{Error, Rbac};

use crate::pki::TOKEN;
use crate::stage::{Stage, balancer_says, pe_fails, pe_says};

const SUBJECT: &str = r#"{"id":"42bf351c-f9ec-40af-84ad-e976fec7f4bd","login":"lifecycle","role_ids":[7],"is_revoked":false,"timeout":null,
"expiration":"2026-06-04T05:06:07.890Z","last_active":"2026-03-04T05:06:07Z","client":""}"#;

#[tokio::test]
async fn a_good_token_tells_when_it_expires_and_is_sent_in_the_body_alone() {
    let stage = Stage::new([pe_says(200, SUBJECT)]).await;
    let status = stage.rbac().token().await.unwrap().unwrap();
    assert_eq!(status.login.as_deref(), Some("lifecycle"));
    assert_eq!(status.expiration.unwrap().to_string(), "2026-06-04T05:06:07.89Z");
    let seen = &stage.seen()[0];
    assert_eq!(seen.line, "POST /rbac-api/v2/auth/token/authenticate");
    assert_eq!(seen.body, format!(r#"{{"token":"{TOKEN}","update_last_activity?":false}}"#));
    assert!(!seen.head.contains("x-authentication"), "{}", seen.head);
}

#[tokio::test]
async fn without_a_token_nobody_is_asked() {
    let stage = Stage::new([]).await;
    let rbac = Rbac::new(&Stage::transport().without_token(), &stage.endpoint);
    assert_eq!(rbac.token().await, Ok(None));
    assert_eq!(stage.lines().len(), 0);
}

#[tokio::test]
async fn a_token_that_is_no_good_is_worth_another_look_at_the_secret() {
    for (status, kind) in [
        (400, "puppetlabs.rbac/invalid-token"),
        (403, "puppetlabs.rbac/token-expired"),
        (403, "puppetlabs.rbac/token-revoked"),
        (403, "puppetlabs.rbac/token-timed-out"),
        (403, "puppetlabs.rbac/user-revoked"),
        (401, "puppetlabs.rbac/user-unauthenticated"),
    ] {
        let stage = Stage::new([pe_fails(status, kind, "no good")]).await;
        let error = stage.rbac().token().await.unwrap_err();
        assert!(matches!(&error, Error::Unauthorized { words, .. } if words == "no good"), "{error}");
    }
    let stage = Stage::new([pe_says(200, SUBJECT.replace("\"is_revoked\":false", "\"is_revoked\":true"))]).await;
    assert!(matches!(stage.rbac().token().await, Err(Error::Unauthorized { .. })));
}

#[tokio::test]
async fn another_400_or_403_says_nothing_about_the_token() {
    for (answer, error) in [
        (pe_fails(400, "puppetlabs.rbac/malformed-request", "no"), "Refused"),
        (balancer_says(403, "<html>"), "NotPermitted"),
        (balancer_says(502, "<html>"), "Busy"),
        (balancer_says(404, "Not Found"), "Unexpected"),
        (balancer_says(200, "<html>"), "Unexpected"),
    ] {
        let stage = Stage::new([answer]).await;
        assert_eq!(stage.rbac().token().await.unwrap_err().name(), error);
    }
}

#[tokio::test]
async fn a_token_that_is_echoed_is_not_printed() {
    let echo = format!("no user has {TOKEN}");
    for answer in [
        pe_fails(403, "puppetlabs.rbac/token-expired", &echo),
        pe_fails(400, "puppetlabs.rbac/malformed-request", &echo),
        balancer_says(500, echo.clone()),
        balancer_says(200, echo.clone()),
    ] {
        let stage = Stage::new([answer]).await;
        let error = stage.rbac().token().await.unwrap_err();
        assert!(!format!("{error} {error:?}").contains(TOKEN), "{error}");
        assert!(error.to_string().contains("[redacted]"), "{error}");
    }
}
