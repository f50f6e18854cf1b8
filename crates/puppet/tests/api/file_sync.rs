//! File sync: one test for each answer that the primary's storage service is known to give.

use serde_json::{Value, json};
use stagedoor_puppet::{CodeClient, CodeCommit, CodeStatus, Error, FileSync};

use crate::stage::{Act, Stage, balancer_says, pe_fails, pe_says};

const COMMIT: &str = "8d3d9c2c8bb7a5d0c8e1a2f8f0a4e1b2c3d4e5f6";
const OLDER: &str = "1111111111111111111111111111111111111111";
const COMPILER: &str = "ip-10-0-3-7.ec2.internal";

async fn code(act: Act) -> Result<Option<CodeStatus>, Error> {
    let stage = Stage::new([act]).await;
    FileSync::new(&Stage::transport(), &stage.endpoint).code().await
}

/// A commit as file sync lists it.
fn listed(commit: &str) -> Value {
    let author = json!({"name": "Code Manager", "email": "code-manager@example.com"});
    json!({"commit": commit, "date": "2026-11-26T08:00:00Z", "message": "code-manager deploy", "author": author})
}

/// The answer of a service that is in this state, with these repositories and clients.
fn says(state: &str, repos: &Value, clients: &Value) -> Value {
    json!({
        "service_version": "2023.8.0",
        "service_status_version": 1,
        "detail_level": "debug",
        "state": state,
        "status": {"timestamp": "2026-11-26T09:00:00.000Z", "repos": repos, "clients": clients},
        "active_alerts": [],
    })
}

fn repos() -> Value {
    let production = json!({"path": "environments/production", "status": "INITIALIZED", "latest_commit": listed("p2")});
    json!({"puppet-code": {
        "latest_commit": listed(COMMIT), "working_dir": {"clean": true}, "submodules": {"production": production},
    }})
}

fn deployed(commit: &str, environments: &[(&str, &str)]) -> CodeCommit {
    let environments = environments.iter().map(|(name, commit)| ((*name).to_owned(), (*commit).to_owned())).collect();
    CodeCommit { commit: commit.to_owned(), environments }
}

#[tokio::test]
async fn the_newest_commit_and_what_each_compiler_has_come_with_one_call() {
    let submodules = json!({"production": {"status": "synced", "latest_commit": listed("p1")}});
    let clients = json!({
        COMPILER: {
            "last_check_in_time": "2026-11-26T08:59:58.123Z",
            "repos": {"puppet-code": {"status": "synced", "latest_commit": listed(OLDER), "submodules": submodules}},
        },
        "new.example.com": {"last_check_in_time": "2026-11-26T08:59:59Z", "repos": {}},
        "odd.example.com": {"last_check_in_time": "yesterday", "repos": {"puppet-code": {"latest_commit": COMMIT}}},
    });
    let stage = Stage::new([pe_says(200, says("running", &repos(), &clients).to_string())]).await;
    let code = FileSync::new(&Stage::transport(), &stage.endpoint).code().await.unwrap().unwrap();
    assert_eq!(code.newest, Some(deployed(COMMIT, &[("production", "p2")])));
    let client = |checked_in: Option<&str>, deployed: Option<CodeCommit>| {
        let checked_in = checked_in.map(|time| time.parse().unwrap());
        CodeClient { checked_in, deployed }
    };
    let behind = Some(deployed(OLDER, &[("production", "p1")]));
    assert_eq!(code.clients[COMPILER], client(Some("2026-11-26T08:59:58.123Z"), behind));
    assert_eq!(code.clients["new.example.com"], client(Some("2026-11-26T08:59:59Z"), None));
    assert_eq!(code.clients["odd.example.com"], client(None, Some(deployed(COMMIT, &[]))));
    let seen = stage.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].line, "GET /status/v1/services/file-sync-storage-service?level=debug");
    assert!(seen[0].certified && !seen[0].head.contains("x-authentication"), "{}", seen[0].head);
}

#[tokio::test]
async fn where_nothing_was_deployed_there_is_no_newest_commit() {
    for latest in [json!(null), json!({"commit": null}), json!("")] {
        let repos = json!({"puppet-code": {"latest_commit": latest}});
        let code = code(pe_says(200, says("running", &repos, &json!({})).to_string())).await;
        assert_eq!(code, Ok(Some(CodeStatus::default())), "{repos}");
    }
}

#[tokio::test]
async fn a_puppet_server_without_file_sync_says_so_and_nobody_else_can() {
    let absent = "not found: file-sync-storage-service";
    assert_eq!(code(Act::Say(404, "Content-Type: text/plain\r\n", absent.to_owned())).await, Ok(None));
    assert_eq!(code(pe_fails(404, "service-not-found", "No status information found")).await, Ok(None));
    for other in [balancer_says(404, "<html>"), Act::Say(404, "", "Not Found".to_owned())] {
        assert!(matches!(code(other).await, Err(Error::Unexpected { .. })));
    }
}

#[tokio::test]
async fn a_service_that_does_not_serve_or_is_not_understood_has_not_said_that_code_is_missing() {
    let starting = || says("starting", &repos(), &json!({})).to_string();
    for (act, name) in [
        (pe_says(503, starting()), "Busy"),
        (pe_says(200, starting()), "Busy"),
        (balancer_says(503, "<html>"), "Busy"),
        (Act::Cut, "Unreachable"),
        (pe_says(403, "Forbidden request: /status/v1/services"), "NotPermitted"),
        (pe_says(200, "OK"), "Unexpected"),
        (pe_says(200, says("running", &json!({"other": {}}), &json!({})).to_string()), "Unexpected"),
        (pe_says(200, says("running", &json!(7), &json!({})).to_string()), "Unexpected"),
        (pe_says(200, json!({"state": "running", "status": null}).to_string()), "Unexpected"),
    ] {
        let stage = Stage::new([act, Act::Cut]).await;
        let error = FileSync::new(&Stage::transport(), &stage.endpoint).code().await.unwrap_err();
        assert_eq!(error.name(), name, "{error}");
    }
}
