//! The node classifier: one test for each answer it is known to give.

use serde_json::{Value, json};
use stagedoor_puppet::{Certificate, Error, Group, reported_trusted_facts, trusted_facts};
use stagedoor_types::Certname;

use crate::pki::{PKI, issue};
use crate::stage::{Act, Stage, balancer_says, pe_fails, pe_says};

const GROUPS: &str = r#"[
    {"id":"00000000-0000-4000-8000-000000000000","name":"All Nodes","parent":"00000000-0000-4000-8000-000000000000","environment":"production","environment_trumps":false,"rule":["~","name",".*"],"classes":{},"config_data":{},"variables":{}},
    {"id":"7233f964-951e-4a7f-88ea-72676ed3104d","name":"PE Infrastructure Agent","parent":"00000000-0000-4000-8000-000000000000","environment":"production","rule":["or",["=","name","n.example.net"]],"classes":{}},
    {"id":"4cdec347-20c6-46d7-9658-7189c1537ae9","name":"PE Master","environment":"production","rule":null,"classes":{}}]"#;

fn name() -> Certname {
    "n.example.net".parse().unwrap()
}

fn group() -> Group {
    serde_json::from_value(json!({"id": "7233f964-951e-4a7f-88ea-72676ed3104d", "name": "PE Infrastructure Agent"}))
        .unwrap()
}

fn not_found() -> Act {
    pe_fails(404, "not-found", "The resource could not be found")
}

#[tokio::test]
async fn all_groups_are_told_in_one_call() {
    let stage = Stage::new([pe_says(200, GROUPS)]).await;
    let groups = stage.classifier().groups().await.unwrap();
    let find = |name: &str| groups.iter().find(|group| group.name == name).unwrap();
    assert_eq!(find("PE Infrastructure Agent").id.as_str(), "7233f964-951e-4a7f-88ea-72676ed3104d");
    assert!(find("PE Infrastructure Agent").pins(&name()) && !find("PE Master").pins(&name()));
    assert_eq!(stage.lines(), ["GET /classifier-api/v1/groups"]);
}

#[tokio::test]
async fn the_classifier_answers_also_where_it_does_not_show_its_root_group() {
    let root =
        r#"{"id":"00000000-0000-4000-8000-000000000000","name":"All Nodes","rule":["~","name",".*"],"classes":{}}"#;
    let denied = pe_fails(403, "permission-denied", "You don't have permission to view node groups.");
    let stage = Stage::new([pe_says(200, root), not_found(), denied]).await;
    for _ in 0..3 {
        stage.classifier().answers().await.unwrap();
    }
    assert_eq!(stage.lines(), ["GET /classifier-api/v1/groups/00000000-0000-4000-8000-000000000000"; 3]);

    let not_accepted = pe_fails(401, "token-expired", "The provided token has expired.");
    let others = [balancer_says(404, "<html>"), balancer_says(200, "<html>"), balancer_says(403, "<html>")];
    let stage = Stage::new([not_accepted].into_iter().chain(others)).await;
    let mut names = Vec::new();
    for _ in 0..4 {
        names.push(stage.classifier().answers().await.unwrap_err().name());
    }
    assert_eq!(names, ["Unauthorized", "Unexpected", "Unexpected", "NotPermitted"]);
}

#[tokio::test]
async fn a_nodes_groups_and_classes_are_told_for_its_trusted_facts() {
    let body = r#"{"name":"n.example.net","environment":"production","groups":[{"id":"4cdec347-20c6-46d7-9658-7189c1537ae9","name":"PE Master"}],"classes":["puppet_enterprise::profile::master"],"parameters":{},"config_data":{}}"#;
    let stage = Stage::new([pe_says(200, body)]).await;
    let trusted = json!({"extensions": {"pp_role": "compiler"}});
    let found = stage.classifier().classified(&name(), &json!({}), &trusted).await.unwrap();
    assert!(found.is_in("PE Master") && !found.is_in("PE Infrastructure Agent"));
    assert_eq!(found.classes, ["puppet_enterprise::profile::master"]);
    assert_eq!(found.environment.as_deref(), Some("production"));
    let seen = &stage.seen()[0];
    assert_eq!(seen.line, "POST /classifier-api/v2/classified/nodes/n.example.net");
    assert_eq!(seen.body, r#"{"fact":{},"trusted":{"extensions":{"pp_role":"compiler"}}}"#);
}

#[tokio::test]
async fn an_answer_without_groups_is_not_no_groups() {
    for body in ["{}", "<html>", r#"{"groups":null}"#] {
        let stage = Stage::new([balancer_says(200, body)]).await;
        let error = stage.classifier().classified(&name(), &json!({}), &json!({})).await.unwrap_err();
        assert!(matches!(error, Error::Unexpected { .. }), "{error}");
    }
}

#[test]
fn trusted_facts_are_what_puppet_makes_of_the_certificate() {
    let role: (&[u64], &[u8]) = (&[1, 13], b"\x0c\x08compiler");
    let certificate = Certificate::from_pem(&issue(&PKI.ca, "n.example.net", 7, &[role]).cert.pem()).unwrap();
    assert_eq!(
        trusted_facts(&certificate),
        json!({
            "authenticated": "remote", "certname": "n.example.net", "hostname": "n", "domain": "example.net",
            "extensions": {"pp_role": "compiler", "1.3.6.1.4.1.34380.1.1.13": "compiler"}, "external": {},
        })
    );
    let plain = Certificate::from_pem(&issue(&PKI.ca, "n", 8, &[]).cert.pem()).unwrap();
    assert_eq!(trusted_facts(&plain)["domain"], Value::Null);
}

#[test]
fn an_extension_is_there_under_its_oid_too_and_one_without_a_registered_name_under_its_oid_alone() {
    let letter: (&[u64], &[u8]) = (&[1, 9813], b"\x0c\x01A");
    let own: (&[u64], &[u8]) = (&[2, 7], b"\x0c\x04gold");
    let certificate = Certificate::from_pem(&issue(&PKI.ca, "n", 9, &[letter, own]).cert.pem()).unwrap();
    let extensions = &trusted_facts(&certificate)["extensions"];
    assert_eq!(
        *extensions,
        json!({"peadm_availability_group": "A", "1.3.6.1.4.1.34380.1.1.9813": "A", "1.3.6.1.4.1.34380.1.2.7": "gold"})
    );
}

#[test]
fn the_sites_own_names_come_from_what_puppet_server_recorded_and_replace_nothing() {
    let role: (&[u64], &[u8]) = (&[1, 13], b"\x0c\x08compiler");
    let certificate = Certificate::from_pem(&issue(&PKI.ca, "n", 10, &[role]).cert.pem()).unwrap();
    let recorded = json!({"extensions": {"pp_role": "primary", "our_tier": "gold"}, "external": {"cmdb": {"tier": 1}}});
    let trusted = reported_trusted_facts(&certificate, &recorded);
    assert_eq!(trusted["extensions"]["pp_role"], "compiler");
    assert_eq!(trusted["extensions"]["our_tier"], "gold");
    assert_eq!(trusted["external"]["cmdb"]["tier"], 1);
    assert_eq!(reported_trusted_facts(&certificate, &Value::Null), trusted_facts(&certificate));
}

#[tokio::test]
async fn pinning_and_unpinning_204_name_the_group_and_the_nodes() {
    let done = || pe_says(204, "");
    let stage = Stage::new([done(), done()]).await;
    let admin = stage.classifier_admin();
    admin.pin(&group().id, &[name(), "x".parse().unwrap()]).await.unwrap();
    admin.unpin(&group().id, &[name()]).await.unwrap();
    admin.pin(&group().id, &[]).await.unwrap();
    let seen: Vec<_> = stage.seen().into_iter().map(|seen| (seen.line, seen.body)).collect();
    let path = "POST /classifier-api/v1/groups/7233f964-951e-4a7f-88ea-72676ed3104d";
    assert_eq!(
        seen,
        [
            (format!("{path}/pin"), r#"{"nodes":["n.example.net","x"]}"#.to_owned()),
            (format!("{path}/unpin"), r#"{"nodes":["n.example.net"]}"#.to_owned()),
        ]
    );
}

#[tokio::test]
async fn a_lost_answer_to_pinning_is_asked_for_again() {
    let stage = Stage::new([Act::Cut, pe_says(204, "")]).await;
    stage.classifier_admin().pin(&group().id, &[name()]).await.unwrap();
    assert_eq!(stage.lines().len(), 2);
}

#[tokio::test]
async fn a_group_that_is_gone_is_refused_with_the_remedy_and_a_wrong_address_is_not_understood() {
    let stage = Stage::new([not_found(), balancer_says(404, "<html>")]).await;
    let admin = stage.classifier_admin();
    let error = admin.pin(&group().id, &[name()]).await.unwrap_err();
    assert!(matches!(error, Error::Refused { status: 404, remedy: Some(_), .. }), "{error}");
    let error = admin.unpin(&group().id, &[name()]).await.unwrap_err();
    assert!(matches!(error, Error::Unexpected { .. }), "{error}");
}

#[tokio::test]
async fn unpinning_from_all_says_which_node_from_where() {
    let body = r#"{"nodes":[{"name":"n.example.net","groups":[{"id":"7233f964-951e-4a7f-88ea-72676ed3104d","name":"PE Infrastructure Agent","environment":"production"}]}]}"#;
    let stage = Stage::new([pe_says(200, body)]).await;
    let unpinned = stage.classifier_admin().unpin_from_all(&[name(), "x".parse().unwrap()]).await.unwrap();
    assert_eq!(unpinned.len(), 1);
    assert_eq!(unpinned[0].certname, name());
    assert_eq!(unpinned[0].groups[0].name, "PE Infrastructure Agent");
    let seen = &stage.seen()[0];
    assert_eq!(seen.line, "POST /classifier-api/v1/commands/unpin-from-all");
    assert_eq!(seen.body, r#"{"nodes":["n.example.net","x"]}"#);
}

#[tokio::test]
async fn unpinning_from_all_without_pins_is_done_and_without_names_asks_nobody() {
    let stage = Stage::new([pe_says(200, r#"{"nodes":[]}"#)]).await;
    let admin = stage.classifier_admin();
    assert_eq!(admin.unpin_from_all(&[name()]).await.unwrap(), []);
    assert_eq!(admin.unpin_from_all(&[]).await.unwrap(), []);
    assert_eq!(stage.lines().len(), 1);
}

#[tokio::test]
async fn who_may_not_pin_is_told_the_permission() {
    let denied = || pe_fails(403, "permission-denied", "no");
    let stage = Stage::new([denied(), denied(), denied()]).await;
    let admin = stage.classifier_admin();
    for error in [
        admin.pin(&group().id, &[name()]).await.unwrap_err(),
        admin.unpin_from_all(&[name()]).await.unwrap_err(),
        admin.classifier().groups().await.unwrap_err(),
    ] {
        assert!(matches!(&error, Error::NotPermitted { remedy, .. } if remedy.contains("node_groups:")), "{error}");
    }
}

#[tokio::test]
async fn each_other_status_means_one_next_move() {
    for (answer, error) in [
        (pe_fails(400, "schema-violation", "no"), "Refused"),
        (pe_fails(401, "puppetlabs.rbac/token-expired", "no"), "Unauthorized"),
        (pe_fails(500, "application-error", "no"), "Busy"),
        (balancer_says(502, "<html>"), "Busy"),
    ] {
        let stage = Stage::new([answer]).await;
        assert_eq!(stage.classifier_admin().pin(&group().id, &[name()]).await.unwrap_err().name(), error);
    }
}
