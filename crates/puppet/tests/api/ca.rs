//! Reading from the CA: one test for each answer it is known to give.

use stagedoor_puppet::{Certificate, Error, SelfSignature, Serial, State};
use stagedoor_types::Certname;

use crate::pki::{PKI, csr, issue};
use crate::stage::{Act, Stage, balancer_says, ca_says};

const ID: &str = "i-0a1b2c3d4e5f60718";

fn name() -> Certname {
    "n.example.net".parse().unwrap()
}

const SIGNED: &str = r#"{"name":"n.example.net","state":"signed",
 "dns_alt_names":["DNS:n.example.net"],"subject_alt_names":["DNS:n.example.net"],
 "authorization_extensions":{"pp_auth_role":"compiler"},
 "fingerprint":"E3:B0:C4:42:98:FC:1C:14:9A:FB:F4:C8:99:6F:B9:24:27:AE:41:E4:64:9B:93:4C:A4:95:99:1B:78:52:B8:55",
 "fingerprints":{"SHA1":"DA:39","SHA256":"E3:B0:C4:42:98:FC:1C:14:9A:FB:F4:C8:99:6F:B9:24:27:AE:41:E4:64:9B:93:4C:A4:95:99:1B:78:52:B8:55"},
 "not_before":"2026-03-01T10:00:00UTC","not_after":"2031-03-02T10:00:00UTC","serial_number":417}"#;

#[tokio::test]
async fn status_200_tells_everything_the_ca_knows() {
    let stage = Stage::new([ca_says(200, SIGNED)]).await;
    let status = stage.ca().status(&name()).await.unwrap().unwrap();
    assert_eq!(status.state, State::Signed);
    assert_eq!(status.serial, Some(Serial::from(417)));
    assert_eq!(status.not_after.unwrap().to_string(), "2031-03-02T10:00:00Z");
    assert!(status.fingerprint.unwrap().to_string().starts_with("E3:B0:C4:42"));
    assert_eq!(status.alt_names, ["DNS:n.example.net"]);
    assert_eq!(status.authorization_extensions["pp_auth_role"], "compiler");
    assert_eq!(stage.lines(), ["GET /puppet-ca/v1/certificate_status/n.example.net"]);
}

#[tokio::test]
async fn status_of_another_name_is_not_taken_for_ours() {
    let stage = Stage::new([ca_says(200, r#"{"name":"other","state":"signed"}"#)]).await;
    let error = stage.ca().status(&name()).await.unwrap_err();
    assert!(matches!(error, Error::Unexpected { .. }), "{error}");
}

#[tokio::test]
async fn status_404_of_the_ca_is_absence() {
    let stage = Stage::new([ca_says(404, "Resource not found.")]).await;
    assert_eq!(stage.ca().status(&name()).await, Ok(None));
}

#[tokio::test]
async fn status_404_of_the_ca_is_absence_even_behind_a_proxy_that_drops_headers() {
    let stage = Stage::new([balancer_says(404, "Resource not found.")]).await;
    assert_eq!(stage.ca().status(&name()).await, Ok(None));
}

#[tokio::test]
async fn status_404_of_anybody_else_is_never_absence() {
    for body in ["404 page not found", "<html>404</html>", "Not Found", ""] {
        let stage = Stage::new([balancer_says(404, body)]).await;
        let result = stage.ca().status(&name()).await;
        assert!(matches!(result, Err(Error::Unexpected { .. } | Error::Refused { .. })), "{body}: {result:?}");
    }
}

#[tokio::test]
async fn status_403_carries_the_servers_words_and_the_remedy() {
    let body = "Forbidden request: /puppet-ca/v1/certificate_status/n.example.net (method :get). Please see the server logs for details.";
    let stage = Stage::new([ca_says(403, body)]).await;
    let error = stage.ca().status(&name()).await.unwrap_err();
    let Error::NotPermitted { words, remedy, .. } = &error else { panic!("{error}") };
    assert_eq!(words, body);
    assert!(remedy.contains("auth.conf") && remedy.contains("lc.example.net"));
}

#[tokio::test]
async fn status_500_file_not_found_is_absence_once_both_files_are_known_to_be_gone() {
    let stage = Stage::new([
        ca_says(500, "Internal Server Error: java.io.FileNotFoundException: /ca/signed/n.pem"),
        ca_says(404, "Could not find certificate n.example.net"),
        ca_says(404, "Could not find certificate_request n.example.net"),
    ])
    .await;
    assert_eq!(stage.ca().status(&name()).await, Ok(None));
}

#[tokio::test]
async fn status_500_file_not_found_with_a_csr_is_a_request() {
    let stage = Stage::new([
        ca_says(500, "Internal Server Error: java.io.FileNotFoundException: /ca/signed/n.pem"),
        ca_says(404, "Could not find certificate n.example.net"),
        ca_says(200, csr("n.example.net")),
    ])
    .await;
    let status = stage.ca().status(&name()).await.unwrap().unwrap();
    assert_eq!((status.state, status.serial), (State::Requested, None));
}

#[tokio::test]
async fn status_500_file_not_found_with_a_certificate_is_no_absence() {
    let stage = Stage::new([
        ca_says(500, "Internal Server Error: java.io.FileNotFoundException: /ca/signed/n.pem"),
        ca_says(200, issue(&PKI.ca, "n.example.net", 7, &[]).cert.pem()),
    ])
    .await;
    let error = stage.ca().status(&name()).await.unwrap_err();
    assert!(matches!(error, Error::Busy { status: 500, .. }), "{error}");
}

#[tokio::test]
async fn status_502_html_and_503_are_to_be_asked_again() {
    for (status, body) in [
        (502, "<html><body><h1>502 Bad Gateway</h1></body></html>"),
        (503, "PuppetDB is currently down. Try again later."),
    ] {
        let stage = Stage::new([balancer_says(status, body)]).await;
        let error = stage.ca().status(&name()).await.unwrap_err();
        assert!(matches!(error, Error::Busy { .. }), "{error}");
    }
}

#[tokio::test]
async fn status_200_that_only_claims_to_be_json_is_not_understood() {
    let stage = Stage::new([balancer_says(200, "Welcome!")]).await;
    let error = stage.ca().status(&name()).await.unwrap_err();
    assert!(matches!(error, Error::Unexpected { .. }), "{error}");
}

#[tokio::test]
async fn statuses_asks_for_one_state_or_for_all() {
    let stage = Stage::new([ca_says(200, format!("[{SIGNED}]")), ca_says(200, "[]")]).await;
    let ca = stage.ca();
    assert_eq!(ca.statuses(Some(State::Requested)).await.unwrap().len(), 1);
    assert_eq!(ca.statuses(None).await.unwrap(), []);
    assert_eq!(
        stage.lines(),
        ["GET /puppet-ca/v1/certificate_statuses/any?state=requested", "GET /puppet-ca/v1/certificate_statuses/any"]
    );
}

#[tokio::test]
async fn a_certificate_is_read_with_the_instance_it_belongs_to() {
    let value = [b"\x0c\x13", ID.as_bytes()].concat();
    let issued = issue(&PKI.ca, "n.example.net", 0x1a1, &[(&[1, 2], &value)]);
    let stage = Stage::new([ca_says(200, issued.cert.pem())]).await;
    let certificate = stage.ca().certificate(&name()).await.unwrap().unwrap();
    assert_eq!(certificate.common_name(), "n.example.net");
    assert_eq!(certificate.serial().to_string(), "0x01A1");
    assert_eq!(certificate.instance_id().unwrap().as_str(), ID);
}

#[tokio::test]
async fn certificate_404_of_the_ca_is_absence_and_of_a_balancer_is_not() {
    let stage = Stage::new([
        ca_says(404, "Could not find certificate n.example.net"),
        balancer_says(404, "404 page not found"),
    ])
    .await;
    assert_eq!(stage.ca().certificate(&name()).await, Ok(None));
    assert!(stage.ca().certificate(&name()).await.is_err());
}

#[tokio::test]
async fn certificate_200_that_is_no_certificate_is_not_understood() {
    let stage = Stage::new([balancer_says(200, "<html>hello</html>")]).await;
    let error = stage.ca().certificate(&name()).await.unwrap_err();
    assert!(matches!(error, Error::Unexpected { .. }), "{error}");
}

#[tokio::test]
async fn a_csr_is_read_and_its_absence_is_told() {
    let stage = Stage::new([
        ca_says(200, csr("n.example.net")),
        ca_says(404, "Could not find certificate_request n.example.net"),
    ])
    .await;
    let ca = stage.ca();
    let csr = ca.csr(&name()).await.unwrap().unwrap();
    assert!(*csr.self_signature() == SelfSignature::Valid && csr.common_name() == "n.example.net");
    assert!(ca.csr(&name()).await.unwrap().is_none());
}

#[tokio::test]
async fn a_csr_that_cannot_be_read_is_not_absent() {
    let stage =
        Stage::new([ca_says(200, "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n")])
            .await;
    let error = stage.ca().csr(&name()).await.unwrap_err();
    assert!(matches!(error, Error::UnreadableRequest { .. }), "{error}");
}

#[tokio::test]
async fn an_empty_csr_is_an_unreadable_request_but_an_empty_certificate_is_an_unexpected_answer() {
    let stage = Stage::new([ca_says(200, ""), ca_says(200, "")]).await;
    let ca = stage.ca();
    let error = ca.csr(&name()).await.unwrap_err();
    assert!(matches!(error, Error::UnreadableRequest { .. }), "{error}");
    let error = ca.certificate(&name()).await.unwrap_err();
    assert!(matches!(error, Error::Unexpected { .. }), "{error}");
}

#[tokio::test]
async fn the_crl_knows_a_revoked_certificate_by_issuer_and_serial() {
    let revoked = issue(&PKI.ca, "n.example.net", 7, &[]);
    let other_ca = crate::pki::Pki::new("another CA");
    let namesake = issue(&other_ca.ca, "n.example.net", 7, &[]);
    let both = PKI.crl(&[7]).pem().unwrap() + &other_ca.crl(&[]).pem().unwrap();
    let stage =
        Stage::new([ca_says(200, both), ca_says(200, revoked.cert.pem()), ca_says(200, namesake.cert.pem())]).await;
    let ca = stage.ca();
    let crl = ca.crl().await.unwrap();
    assert_eq!(crl.lists().len(), 2);
    assert!(crl.contains(&Serial::from(7)) && !crl.contains(&Serial::from(8)));
    assert!(crl.revokes(&ca.certificate(&name()).await.unwrap().unwrap()));
    assert!(!crl.revokes(&ca.certificate(&name()).await.unwrap().unwrap()));
    assert_eq!(crl.next_update().unwrap().to_string(), "2100-01-01T00:00:00Z");
    assert_eq!(stage.lines()[0], "GET /puppet-ca/v1/certificate_revocation_list/ca");
}

/// An answer of the CA with its clock.
fn at(date: &str, status: u16, body: &str) -> Act {
    let headers = format!("X-Puppet-Version: 8.10.0\r\nDate: {date}\r\n");
    Act::Say(status, Box::leak(headers.into_boxed_str()), body.to_owned())
}

fn conditions(stage: &Stage) -> Vec<Option<String>> {
    let condition = |seen: crate::stage::Seen| {
        let head = seen.head.to_ascii_lowercase();
        Some(head.lines().find_map(|line| line.strip_prefix("if-modified-since: "))?.to_owned())
    };
    stage.seen().into_iter().map(condition).collect()
}

#[tokio::test]
async fn the_crl_is_only_read_again_if_it_has_changed() {
    let date = "Wed, 04 Mar 2026 05:06:07 GMT";
    let (listed, unlisted) = (issue(&PKI.ca, "a", 7, &[]), issue(&PKI.ca, "b", 8, &[]));
    let [listed, unlisted] = [&listed, &unlisted].map(|issued| Certificate::from_pem(&issued.cert.pem()).unwrap());
    let crl = |serials: &[u64]| PKI.crl(serials).pem().unwrap();
    let stage = Stage::new([
        at(date, 200, &crl(&[7])),
        at(date, 304, ""),
        at(date, 200, &crl(&[7, 8])),
        at(date, 200, &crl(&[7])),
    ])
    .await;
    let ca = stage.ca();
    let both = [&listed, &unlisted];
    for expected in [[true, false], [true, false], [true, true]] {
        let found = ca.revocations(&both).await.unwrap();
        assert_eq!(both.map(|one| found.revokes(one)), expected.map(Some));
    }
    // Another certificate was not looked for.
    let third = Certificate::from_pem(&issue(&PKI.ca, "c", 9, &[]).cert.pem()).unwrap();
    assert_eq!(ca.revocations(&[&third]).await.unwrap().revokes(&third), Some(false));
    // The clock of the answer, less what the answer took and a second.
    let before = Some("wed, 04 mar 2026 05:06:0".to_owned());
    let conditions: Vec<_> = conditions(&stage).into_iter().map(|at| at.map(|at| at[..24].to_owned())).collect();
    assert_eq!(conditions, [None, before.clone(), before, None]);
}

#[tokio::test]
async fn a_304_that_was_not_asked_for_and_a_ca_without_a_clock_say_nothing() {
    let certificate = Certificate::from_pem(&issue(&PKI.ca, "a", 7, &[]).cert.pem()).unwrap();
    let stage = Stage::new([ca_says(304, "")]).await;
    assert!(stage.ca().revocations(&[&certificate]).await.is_err());

    let crl = PKI.crl(&[7]).pem().unwrap();
    let stage = Stage::new([ca_says(200, crl.clone()), ca_says(200, crl), ca_says(200, "<html>")]).await;
    let ca = stage.ca();
    for _ in 0..2 {
        assert_eq!(ca.revocations(&[&certificate]).await.unwrap().revokes(&certificate), Some(true));
    }
    assert!(matches!(ca.revocations(&[&certificate]).await, Err(Error::Unexpected { .. })));
    assert_eq!(conditions(&stage), [None, None, None]);
}

#[tokio::test]
async fn the_names_of_signed_certificates_are_read_as_they_arrive() {
    let body = r#"[{"name":"a","state":"signed","extra":[{"name":"x"}]},{"name":"B c","state":"signed"},{"name":"d","state":"revoked"}]"#;
    let stage =
        Stage::new([ca_says(200, body), ca_says(500, "The PEM stream must contain exactly 1 certificate")]).await;
    let ca = stage.ca();
    let mut names = Vec::new();
    ca.signed_names(|name| names.push(name)).await.unwrap();
    assert_eq!(names, ["a", "B c"]);
    assert_eq!(stage.lines(), ["GET /puppet-ca/v1/certificate_statuses/any?state=signed"]);
    assert!(matches!(ca.signed_names(|_| {}).await, Err(Error::Busy { status: 500, .. })));
}

#[tokio::test]
async fn expirations_tells_the_first_to_expire() {
    let body = r#"{"ca-certs":{"Puppet CA":"2036-01-02T03:04:05UTC"},"crls":{"Puppet CA":"2031-01-02T03:04:05UTC"}}"#;
    let stage = Stage::new([ca_says(200, body), ca_says(200, body.replace("2036", "soon"))]).await;
    let ca = stage.ca();
    assert_eq!(ca.expirations().await.unwrap().earliest().unwrap().to_string(), "2031-01-02T03:04:05Z");
    assert!(matches!(ca.expirations().await, Err(Error::Unexpected { .. })));
}

#[tokio::test]
async fn the_version_is_told_even_while_another_service_starts() {
    let body = r#"{"ca":{"service_version":"8.7.0","state":"running"},"server":{"service_version":"8.7.0","state":"starting"}}"#;
    let stage = Stage::new([balancer_says(503, body), balancer_says(503, "starting")]).await;
    let ca = stage.ca();
    assert_eq!(ca.version().await.unwrap(), "8.7.0");
    assert!(matches!(ca.version().await, Err(Error::Busy { status: 503, .. })));
}

#[tokio::test]
async fn the_clock_of_the_ca_is_read_from_its_answers_and_not_from_those_of_a_balancer() {
    const BALANCER: &str = "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
    const CA: &str = "X-Puppet-Version: 8.7.0\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
    let stage = Stage::new([BALANCER, CA].map(|headers| Act::Say(404, headers, String::new()))).await;
    let ca = stage.ca();
    let _ = ca.certificate(&name()).await;
    assert_eq!(ca.date(), None);
    let _ = ca.certificate(&name()).await;
    assert_eq!(ca.date().unwrap().date.to_string(), "1994-11-06T08:49:37Z");
}
