//! What a compiler needs besides its Puppet run: services that have been ready for a while, and the newest code.

use serde_json::json;
use stagedoor_lab::agent::Agent;
use stagedoor_lab_core::faults::FaultKind;
use stagedoor_lab_puppet::ServiceState;
use stagedoor_lifecycle::reason::Code;
use stagedoor_lifecycle::receipt::Outcome;

use super::stage::Stage;

const READY: &str =
    "ready = [\"report\", \"status:8140/server\", \"status:8140/broker-service\", \"tcp:8142\", \"file-sync\"]";
const STORAGE: &str = "GET /status/v1/services/file-sync-storage-service";

/// A compiler of Puppet Enterprise, with all its ports.
fn compiler(instance: &str) -> Agent {
    Agent { status_ports: vec![8140], tcp_ports: vec![8142], ..Stage::compiler(instance) }
}

#[tokio::test]
async fn services_that_start_again_are_polled_until_they_have_been_ready_for_a_while() {
    let mut stage = Stage::open_source("ready = [\"report\", \"status:8140/server\"]").await;
    let (instance, event) = stage.launch();
    stage.start(Agent { starting_answers: 2, ..compiler(&instance) });
    let receipt = stage.rehearsal.onboard(&event).await;
    assert_eq!((receipt.outcome, receipt.code), (Outcome::Continued, Code::Enrolled), "{receipt:#?}");
    let asked = stage.rehearsal.lab.journal.calls("node");
    let asked: Vec<_> = asked.iter().filter(|entry| entry.call == "GET /status/v1/simple/server").collect();
    let good: Vec<_> = asked.iter().filter(|entry| entry.status == Some(200)).collect();
    assert!(good.len() >= 3 && asked.len() >= good.len() + 2, "{asked:#?}");
    let seconds = (good[good.len() - 1].started_us - good[0].started_us) / 1_000_000;
    assert!(seconds >= 9, "{seconds} s: {asked:#?}");
}

#[tokio::test]
async fn a_successful_run_is_enough_where_no_service_is_asked_about() {
    let mut stage = Stage::enterprise("").await;
    stage.enrol().await;
    assert_eq!(stage.rehearsal.lab.journal.calls("node").len(), 0);
    assert_eq!(stage.rehearsal.lab.journal.count("ca", STORAGE), 0);
}

#[tokio::test]
async fn a_compiler_without_the_newest_code_is_not_in_service_whatever_its_services_say() {
    let mut stage = Stage::enterprise(READY).await;
    stage.budget("4s");
    let puppet = stage.rehearsal.lab.puppet.clone();
    puppet.deploy_code("c1");
    let (instance, event) = stage.launch();
    let name = stage.name_of(&instance);
    // As left by a former owner of the name, which had the newest code.
    puppet.check_in(&name, Some("c1"));
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    let agent = stage.start(Agent { file_sync: false, ..compiler(&instance) });
    let waits = async |stage: &mut Stage, why: &str| {
        let receipt = stage.rehearsal.onboard(&event).await;
        assert_eq!(
            (receipt.outcome, receipt.code),
            (Outcome::Waiting, Code::WaitingForReadiness),
            "{why}: {receipt:#?}"
        );
        assert_eq!(stage.state_of(&instance).as_deref(), Some("Pending:Wait"), "{why}");
    };
    waits(&mut stage, "a check-in of a former owner").await;
    puppet.restart_file_sync();
    waits(&mut stage, "never checked in").await;
    puppet.check_in(&name, None);
    waits(&mut stage, "nothing deployed").await;
    puppet.check_in(&name, Some("c0"));
    waits(&mut stage, "an older commit").await;
    agent.set_file_sync(true);
    stage.rehearsal.configure(|config| config.replace("budget = \"4s\"", "budget = \"30s\""));
    stage.rehearsal.end("onboard").await;
    let receipt = stage.rehearsal.onboard(&event).await;
    assert_eq!(receipt.outcome, Outcome::Continued, "{receipt:#?}");
    assert_eq!(stage.state_of(&instance).as_deref(), Some("InService"));
}

#[tokio::test]
async fn a_broker_that_is_not_connected_keeps_a_compiler_out_of_service() {
    let mut stage = Stage::enterprise(READY).await;
    stage.budget("4s");
    stage.rehearsal.lab.puppet.deploy_code("c1");
    let (instance, event) = stage.launch();
    let broker = [("broker-service".to_owned(), ServiceState::Starting)].into();
    let agent = stage.start(Agent { service_states: broker, ..compiler(&instance) });
    let receipt = stage.rehearsal.onboard(&event).await;
    assert_eq!((receipt.outcome, receipt.code), (Outcome::Waiting, Code::WaitingForReadiness), "{receipt:#?}");
    agent.set_state_of("broker-service", ServiceState::Running);
    stage.rehearsal.configure(|config| config.replace("budget = \"4s\"", "budget = \"30s\""));
    stage.rehearsal.end("onboard").await;
    assert_eq!(stage.rehearsal.onboard(&event).await.outcome, Outcome::Continued);
}

#[tokio::test]
async fn while_file_sync_is_unavailable_the_hook_waits() {
    let mut stage = Stage::enterprise(READY).await;
    stage.budget("4s");
    let puppet = stage.rehearsal.lab.puppet.clone();
    puppet.deploy_code("c1");
    let (instance, event) = stage.launch();
    stage.start(compiler(&instance));
    puppet.configure(|options| options.file_sync_state = ServiceState::Starting);
    let receipt = stage.rehearsal.onboard(&event).await;
    assert_eq!((receipt.outcome, receipt.code), (Outcome::Waiting, Code::WaitingForReadiness), "{receipt:#?}");
    puppet.configure(|options| options.file_sync_state = ServiceState::Running);
    stage.rehearsal.fault("ca", STORAGE, None, FaultKind::Reset);
    let receipt = stage.rehearsal.onboard(&event).await;
    assert_eq!((receipt.outcome, receipt.code), (Outcome::Waiting, Code::WaitingForReadiness), "{receipt:#?}");
    assert_eq!(stage.state_of(&instance).as_deref(), Some("Pending:Wait"));
}

#[tokio::test]
async fn file_sync_is_asked_once_a_pass_however_many_compilers_launch() {
    let mut stage = Stage::enterprise(READY).await;
    stage.rehearsal.lab.puppet.deploy_code("c1");
    let mut records = Vec::new();
    let mut instances = Vec::new();
    for number in 0..3 {
        let (instance, event) = stage.launch();
        stage.start(compiler(&instance));
        records.push(json!({"messageId": format!("m{number}"), "eventSource": "aws:sqs", "body": event.to_string()}));
        instances.push(instance);
    }
    stage.rehearsal.invoke("onboard", &json!({ "Records": records })).await;
    assert!(instances.iter().all(|id| stage.state_of(id).as_deref() == Some("InService")), "{}", stage.rehearsal.log());
    let journal = &stage.rehearsal.lab.journal;
    let (storage, nodes) = (journal.count("ca", STORAGE), journal.count("node", "GET /status/v1/simple/server"));
    assert!(storage >= 3 && nodes >= 2 * storage, "{storage} of file sync, {nodes} of the compilers");
}
