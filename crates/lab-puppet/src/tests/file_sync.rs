//! Readiness on Puppet Enterprise: the state of single services, and what file sync says of code.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use serde_json::{Value, json};

use super::*;
use crate::{ServiceState, compiler_status};

const STORAGE: &str = "/status/v1/services/file-sync-storage-service";
const COMPILER: &str = "compiler.example.net";

fn enterprise() -> World {
    world(|options| *options = PuppetOptions::enterprise())
}

async fn storage(world: &World) -> Value {
    let (status, body) = world.ca(&format!("GET {STORAGE}?level=debug"), "").await;
    assert_eq!(status, 200, "{body}");
    serde_json::from_str::<Value>(&body).unwrap()["status"].clone()
}

#[tokio::test]
async fn file_sync_is_there_on_puppet_enterprise_alone() {
    let (status, body) = world(|_| {}).ca(&format!("GET {STORAGE}"), "").await;
    assert_eq!((status, body.as_str()), (404, "not found: file-sync-storage-service"));
    assert_eq!(enterprise().called_by_anyone().ca(&format!("GET {STORAGE}"), "").await.0, 200);
}

#[tokio::test]
async fn only_the_level_debug_says_anything_of_code() {
    let world = enterprise();
    world.puppet.deploy_code("c1");
    for level in ["", "?level=info", "?level=critical"] {
        let (_, body) = world.ca(&format!("GET {STORAGE}{level}"), "").await;
        assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["status"], json!({}), "{level}");
    }
    assert_eq!(storage(&world).await["repos"]["puppet-code"]["latest_commit"]["commit"], "c1");
}

#[tokio::test]
async fn each_compiler_is_listed_with_its_last_check_in_and_what_it_had_then() {
    let world = enterprise();
    assert_eq!(storage(&world).await["clients"], json!({}));
    assert_eq!(storage(&world).await["repos"]["puppet-code"]["latest_commit"], Value::Null);
    world.puppet.deploy_code("c1");
    world.puppet.check_in(COMPILER, None);
    assert_eq!(storage(&world).await["clients"][COMPILER]["repos"], json!({}), "nothing deployed yet");
    world.puppet.check_in(COMPILER, Some("c1"));
    world.puppet.deploy_code("c2");
    world.clock.advance(SignedDuration::from_secs(7));
    let status = storage(&world).await;
    let (code, client) = (&status["repos"]["puppet-code"], &status["clients"][COMPILER]);
    assert_eq!(client["last_check_in_time"], "2026-03-04T05:06:07.500Z");
    let deployed = &client["repos"]["puppet-code"];
    assert_eq!((&deployed["latest_commit"]["commit"], &code["latest_commit"]["commit"]), (&json!("c1"), &json!("c2")));
    let of_production = |of: &Value| of["submodules"]["production"]["latest_commit"]["commit"].clone();
    assert_ne!(of_production(deployed), of_production(code));
    world.puppet.restart_file_sync();
    assert_eq!(storage(&world).await["clients"], json!({}), "nothing is kept of them");
}

#[tokio::test]
async fn a_check_in_bears_the_time_of_the_ca_which_is_the_primarys() {
    let world = enterprise();
    world.puppet.configure(|options| options.ca_clock_ahead_s = 90);
    world.puppet.check_in(COMPILER, None);
    assert_eq!(storage(&world).await["clients"][COMPILER]["last_check_in_time"], "2026-03-04T05:07:37.500Z");
}

#[tokio::test]
async fn a_storage_service_that_starts_answers_503() {
    let world = enterprise();
    world.puppet.configure(|options| options.file_sync_state = ServiceState::Starting);
    assert_eq!(world.ca(&format!("GET {STORAGE}?level=debug"), "").await.0, 503);
    assert_eq!(world.ca("GET /status/v1/simple/ca", "").await.0, 200);
    assert_eq!(world.ca("GET /status/v1/simple", "").await.0, 503, "not all of them run");
}

#[tokio::test]
async fn a_compiler_answers_for_each_of_its_services() {
    let world = enterprise();
    let states = BTreeMap::from([("broker-service".to_owned(), ServiceState::Starting)]);
    let ask = |path: &str, options: &PuppetOptions| {
        let request = world.request(&format!("GET /status/v1/{path}"), "");
        let reply = compiler_status(&request, ServiceState::Running, &states, options);
        (reply.status().as_u16(), String::from_utf8(reply.body().to_vec()).unwrap())
    };
    let enterprise = world.puppet.options();
    assert_eq!(ask("simple/server", &enterprise), (200, "running".to_owned()));
    assert_eq!(ask("simple/broker-service", &enterprise), (503, "starting".to_owned()));
    assert_eq!(ask("simple", &enterprise), (503, "starting".to_owned()));
    assert_eq!(ask("services", &enterprise).0, 503);
    assert_eq!(ask("simple/ca", &enterprise).0, 404);
    let open_source = PuppetOptions::default();
    assert_eq!(ask("simple/broker-service", &open_source), (404, "not found: broker-service".to_owned()));
    assert_eq!(ask("simple", &open_source), (200, "running".to_owned()));
}
