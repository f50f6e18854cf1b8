//! Simulated agents, from boot to stop.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use stagedoor_lab::agent::{Agent, Phase, RunningAgent};
use stagedoor_lab::scene::Scene;
use stagedoor_lab::{Lab, Options};
use stagedoor_lab_aws::scene::Place;
use stagedoor_lab_aws::{Launch, Terminate};
use stagedoor_lab_puppet::{CsrAttributes, Node, ServiceState};
use stagedoor_puppet::{Ca, CaAdmin, Csr, FileSync, Orchestrator, PuppetDb, Report, StatusApi};
use tokio::net::TcpStream;

use crate::enterprise::{certname, enterprise, permit, transport};
use crate::{control, until};

const NAME: &str = "n.example.net";

fn quick(certname: &str) -> Agent {
    Agent { wait_for_cert_ms: 5, run_ms: 0, ..Agent::new(certname) }
}

fn ca(lab: &Lab) -> CaAdmin {
    CaAdmin::new(Ca::new(&transport(lab), &lab.ca_url().parse().unwrap()), permit())
}

async fn request_of(lab: &Lab, name: &str) -> Csr {
    ca(lab).ca().csr(&certname(name)).await.unwrap().unwrap()
}

async fn sign(lab: &Lab, name: &str) {
    ca(lab).sign(&certname(name)).await.unwrap();
}

async fn reports(lab: &Lab, name: &str) -> Vec<Report> {
    let puppetdb = PuppetDb::new(&transport(lab), &lab.puppetdb_url().parse().unwrap());
    puppetdb.latest_reports(&[certname(name)]).await.unwrap()
}

async fn lab() -> Lab {
    Lab::start(Options::default()).await.unwrap()
}

/// An agent that has enrolled and reported.
async fn enrolled(lab: &Lab, agent: Agent) -> RunningAgent {
    let agent = lab.agents.start(agent).unwrap();
    agent.waits_for_certificate().await.unwrap();
    sign(lab, agent.certname()).await;
    agent.reported().await.unwrap();
    agent
}

#[tokio::test]
async fn an_agent_asks_with_its_attributes_and_reports_once_it_is_signed() {
    let lab = lab().await;
    lab.puppet.configure(|options| options.allow_subject_alt_names = true);
    let began = lab.clock.now();
    let agent = lab.agents.start(Agent {
        instance_id: Some("i-0a1b2c3d4e5f60718".into()),
        extensions: BTreeMap::from([("pp_role".into(), "compiler".into())]),
        alt_names: vec!["puppet.example.net".into()],
        challenge: Some("one-time".to_owned().into()),
        status: "unchanged".into(),
        ..quick(NAME)
    });
    let agent = agent.unwrap();
    let waiting = agent.waits_for_certificate().await.unwrap();
    assert!(waiting.submitted >= 1 && waiting.reports == 0);
    let request = request_of(&lab, NAME).await;
    assert_eq!(request.common_name(), NAME);
    assert_eq!(*request.self_signature(), stagedoor_puppet::SelfSignature::Valid);
    assert_eq!(request.challenge().unwrap().expose_secret(), "one-time");
    let extensions: Vec<String> = request.extensions().iter().map(|(oid, text)| format!("{oid} {text}")).collect();
    assert!(extensions.iter().any(|one| one.ends_with(".1.2 i-0a1b2c3d4e5f60718")), "{extensions:?}");
    sign(&lab, NAME).await;
    let done = agent.reported().await.unwrap();
    assert_eq!((done.reports, done.status.as_deref(), done.boots), (1, Some("unchanged"), 1));
    let report = &reports(&lab, NAME).await[0];
    assert_eq!((report.status.as_deref(), report.job_id.as_deref()), (Some("unchanged"), None));
    assert!(report.start_time.as_millisecond() >= began.as_millisecond() && report.end_time >= report.start_time);
    let puppetdb = PuppetDb::new(&transport(&lab), &lab.puppetdb_url().parse().unwrap());
    let known = &puppetdb.identities(&[certname(NAME)]).await.unwrap()[0];
    assert_eq!(known.certified.as_ref().unwrap().as_str(), "i-0a1b2c3d4e5f60718");
    assert_eq!(known.reported, known.certified);
}

#[tokio::test]
async fn what_agents_ask_is_journalled_apart_from_what_the_controller_asks() {
    let lab = lab().await;
    enrolled(&lab, quick(NAME)).await;
    assert_eq!(lab.journal.count("ca", "PUT /puppet-ca/v1/certificate_status/{certname}"), 1);
    assert_eq!(lab.journal.count("ca", "PUT /puppet-ca/v1/certificate_request*"), 0);
    assert_eq!(lab.journal.count("ca", "GET *"), 0);
    assert!(lab.journal.count("agent", "PUT /puppet-ca/v1/certificate_request/{certname}") >= 1);
    assert_eq!(lab.journal.round_trips(), 1, "agents' calls are not counted");
}

#[tokio::test]
async fn an_agent_submits_again_and_again_so_a_deleted_request_comes_back() {
    let lab = lab().await;
    let agent = lab.agents.start(quick(NAME)).unwrap();
    let refused = agent.until(|state| state.refusal.is_some()).await.unwrap();
    let text = format!("{NAME} already has a requested certificate; ignoring certificate request");
    assert_eq!(refused.refusal.as_deref(), Some(text.as_str()), "it keeps the request that is there");
    let first = request_of(&lab, NAME).await;
    ca(&lab).delete(&certname(NAME)).await.unwrap();
    agent.until(|state| state.refusal.is_none()).await.unwrap();
    let second = request_of(&lab, NAME).await;
    assert_eq!(first.key(), second.key(), "with the same key");
}

#[tokio::test]
async fn a_certificate_of_another_key_is_a_mismatch_until_it_is_cleaned() {
    let lab = lab().await;
    lab.puppet.place_node(&Node::new(NAME)).unwrap();
    let agent = lab.agents.start(quick(NAME)).unwrap();
    let state = agent.mismatches().await.unwrap();
    assert_eq!(
        state.refusal.unwrap(),
        format!("{NAME} already has a signed certificate; ignoring certificate request")
    );
    assert_eq!(state.error.unwrap(), format!("The certificate for 'CN={NAME}' does not match its private key"));
    let cleaned = ca(&lab).clean(&[certname(NAME)]).await;
    assert!(cleaned.values().all(Result::is_ok), "{cleaned:?}");
    agent.waits_for_certificate().await.unwrap();
    sign(&lab, NAME).await;
    agent.reported().await.unwrap();
}

#[tokio::test]
async fn an_agent_that_tries_once_ends_without_a_certificate() {
    let lab = lab().await;
    let agent = lab.agents.start(Agent { one_time: true, ..quick(NAME) }).unwrap();
    let state = agent.until(|state| state.phase == Phase::Exited).await.unwrap();
    assert_eq!(state.submitted, 1);
}

#[tokio::test]
async fn a_reboot_makes_no_new_request_and_runs_again() {
    let lab = lab().await;
    let agent = enrolled(&lab, quick(NAME)).await;
    let before = lab.puppet.snapshot()["certificates"].clone();
    agent.reboot().await;
    let state = agent.reported().await.unwrap();
    assert_eq!((state.boots, state.submitted, state.reports), (2, 0, 1));
    assert_eq!(lab.puppet.snapshot()["certificates"], before);
}

#[tokio::test]
async fn a_new_root_volume_asks_with_a_new_key_and_meets_its_old_certificate() {
    let lab = lab().await;
    let agent = enrolled(&lab, quick(NAME)).await;
    agent.rekey().await;
    agent.mismatches().await.unwrap();
    let cleaned = ca(&lab).clean(&[certname(NAME)]).await;
    assert!(cleaned.values().all(Result::is_ok), "{cleaned:?}");
    agent.waits_for_certificate().await.unwrap();
    sign(&lab, NAME).await;
    assert_eq!(agent.reported().await.unwrap().boots, 2);
}

#[tokio::test]
async fn a_revoked_agent_is_not_let_in_and_leaves_no_report() {
    let lab = lab().await;
    let agent = enrolled(&lab, quick(NAME)).await;
    lab.puppet.revoke(NAME).unwrap();
    let error = agent.run("changed").await.unwrap_err();
    assert!(format!("{error:#}").contains("CertificateRevoked"), "{error:#}");
    assert_eq!(agent.state().reports, 1);
}

#[tokio::test]
async fn a_run_on_demand_ends_as_it_is_told_and_without_a_certificate_not_at_all() {
    let lab = lab().await;
    let agent = lab.agents.start(quick(NAME)).unwrap();
    agent.waits_for_certificate().await.unwrap();
    assert!(agent.run("changed").await.is_err());
    sign(&lab, NAME).await;
    agent.reported().await.unwrap();
    agent.run("failed").await.unwrap();
    assert_eq!(reports(&lab, NAME).await[0].status.as_deref(), Some("failed"));
    assert_eq!(agent.state().status.as_deref(), Some("failed"));
}

#[tokio::test]
async fn an_agent_is_connected_after_its_first_run_and_takes_orders() {
    let lab = enterprise().await;
    let puppet = Orchestrator::new(&transport(&lab), &lab.orchestrator_url().parse().unwrap());
    let connected = async || puppet.inventory(&[certname(NAME)]).await.unwrap()[&certname(NAME)];
    let agent = lab.agents.start(Agent { first_run: false, status: "failed".into(), ..quick(NAME) }).unwrap();
    agent.waits_for_certificate().await.unwrap();
    assert!(!connected().await);
    sign(&lab, NAME).await;
    agent.certified().await.unwrap();
    until(|| lab.state()["puppet"]["connected"].as_array().unwrap().contains(&json!(NAME))).await;
    assert_eq!(agent.state().phase, Phase::Certified, "it waits for an order");
    stagedoor_puppet::OrchestratorAdmin::new(puppet.clone(), permit())
        .deploy(&[certname(NAME)], "first", "e")
        .await
        .unwrap();
    let state = agent.reported().await.unwrap();
    assert_eq!((state.reports, state.status.as_deref()), (1, Some("failed")));
    assert_eq!(reports(&lab, NAME).await[0].job_id.as_deref(), Some("1"));
    agent.stop().await;
    assert!(!connected().await);
    assert_eq!(agent.state().phase, Phase::Off);
}

#[tokio::test]
async fn its_ports_answer_under_its_own_certificate_from_the_first_report_on() {
    let lab = lab().await;
    let address = "127.77.1.9".parse().unwrap();
    let (tls_port, tcp_port) = (free_port(), free_port());
    let agent = lab.agents.start(Agent {
        address: Some(address),
        status_ports: vec![tls_port],
        tcp_ports: vec![tcp_port],
        starting_answers: 1,
        ..quick(NAME)
    });
    let agent = agent.unwrap();
    let status = StatusApi::of_node(&transport(&lab), &certname(NAME), SocketAddr::from((address, tls_port))).unwrap();
    agent.waits_for_certificate().await.unwrap();
    assert!(matches!(status.simple().await.unwrap(), stagedoor_puppet::ServiceState::Unreachable { .. }));
    sign(&lab, NAME).await;
    agent.serves().await.unwrap();
    TcpStream::connect((address, tcp_port)).await.unwrap();
    assert_eq!(status.simple().await.unwrap(), stagedoor_puppet::ServiceState::Starting);
    assert!(status.simple().await.unwrap().is_running());
    agent.set_service_state(ServiceState::Error);
    assert_eq!(status.simple().await.unwrap(), stagedoor_puppet::ServiceState::Error);
    agent.set_listening(false);
    agent.until(|state| !state.serving).await.unwrap();
    assert!(matches!(status.simple().await.unwrap(), stagedoor_puppet::ServiceState::Unreachable { .. }));
    assert_eq!(lab.journal.count("node", "GET /status/v1/simple"), 3);
    let other = StatusApi::of_node(&transport(&lab), &certname("x.example.net"), SocketAddr::from((address, tls_port)));
    agent.set_listening(true);
    agent.serves().await.unwrap();
    assert!(other.unwrap().simple().await.is_err(), "it is not another node");
}

#[tokio::test]
async fn a_compiler_answers_for_each_service_and_checks_in_with_file_sync() {
    let lab = enterprise().await;
    lab.puppet.deploy_code("c1");
    let port = free_port();
    let starting = [("broker-service".to_owned(), ServiceState::Starting)].into();
    let agent = Agent {
        address: Some("127.77.1.9".parse().unwrap()),
        status_ports: vec![port],
        service_states: starting,
        file_sync: false,
        ..quick(NAME)
    };
    let agent = lab.agents.start(agent).unwrap();
    agent.waits_for_certificate().await.unwrap();
    sign(&lab, NAME).await;
    agent.serves().await.unwrap();
    let address = SocketAddr::from(([127, 77, 1, 9], port));
    let status = StatusApi::of_node(&transport(&lab), &certname(NAME), address).unwrap();
    let running = Some(stagedoor_puppet::ServiceState::Running);
    assert_eq!(status.simple_of("server").await.unwrap(), running);
    assert_eq!(status.simple_of("broker-service").await.unwrap(), Some(stagedoor_puppet::ServiceState::Starting));
    agent.set_state_of("broker-service", ServiceState::Running);
    assert_eq!(status.simple_of("broker-service").await.unwrap(), running);
    assert_eq!(status.simple_of("ca").await.unwrap(), None);

    let file_sync = FileSync::new(&transport(&lab), &lab.ca_url().parse().unwrap());
    let code = async || file_sync.code().await.unwrap().unwrap();
    assert!(code().await.newest.is_some() && code().await.clients.is_empty());
    agent.set_file_sync(true);
    while code().await.clients.get(NAME).is_none_or(|client| client.deployed.is_none()) {
        tokio::task::yield_now().await;
    }
    let code = code().await;
    assert_eq!(code.clients[NAME].deployed, code.newest);
}

/// A port that is free now. Other tests use other addresses.
fn free_port() -> u16 {
    std::net::TcpListener::bind(("127.77.1.9", 0)).unwrap().local_addr().unwrap().port()
}

fn group(hooks: &Value) -> Value {
    json!({
        "groups": [{"name": "compilers", "hooks": hooks, "warm_pool": "Stopped"}],
        "settings": {"loopback_addresses": true},
    })
}

#[tokio::test]
async fn an_agent_on_an_instance_has_its_names_and_goes_with_it() {
    let lab = enterprise().await;
    let hook = json!([{"name": "enter", "transition": "launching", "default_result": "CONTINUE"}]);
    lab.set_scene(&Scene::from_json(group(&hook)).unwrap()).unwrap();
    let one = lab.aws.launch("compilers", &Launch::default()).unwrap().instance_id;
    let other = lab.aws.launch("compilers", &Launch::default()).unwrap().instance_id;
    let (one_is, other_is) = (lab.aws.machine(&one).unwrap(), lab.aws.machine(&other).unwrap());
    let address = one_is.private_ip.unwrap();
    assert!(address.starts_with("127.") && Some(address) != other_is.private_ip);
    let agent = lab.agents.start(Agent { wait_for_cert_ms: 5, status_ports: vec![8140], ..Agent::on(&one) }).unwrap();
    assert_eq!(agent.certname(), one_is.private_dns);
    agent.waits_for_certificate().await.unwrap();
    sign(&lab, agent.certname()).await;
    agent.serves().await.unwrap();
    // Two compilers serve the same port, each at its own address.
    let neighbour =
        lab.agents.start(Agent { wait_for_cert_ms: 5, status_ports: vec![8140], ..Agent::on(&other) }).unwrap();
    neighbour.waits_for_certificate().await.unwrap();
    sign(&lab, neighbour.certname()).await;
    neighbour.serves().await.unwrap();
    lab.aws.terminate(&one, &Terminate::default()).unwrap();
    agent.until(|state| state.phase == Phase::Off).await.unwrap();
    assert_eq!(neighbour.state().phase, Phase::Reported);
}

#[tokio::test]
async fn an_agent_loses_its_disk_with_its_instances_root_volume() {
    let lab = lab().await;
    let hooks = json!([{"name": "enter", "transition": "launching", "default_result": "CONTINUE"}]);
    let scene = json!({"groups": [
        {"name": "compilers", "hooks": hooks, "instances": [{"id": "i-0a1b2c3d4e5f60718", "private_dns": NAME}]},
    ]});
    lab.set_scene(&Scene::from_json(scene).unwrap()).unwrap();
    let agent = enrolled(&lab, Agent { wait_for_cert_ms: 5, ..Agent::on("i-0a1b2c3d4e5f60718") }).await;
    lab.aws.replace_root_volume("i-0a1b2c3d4e5f60718").unwrap();
    let state = agent.mismatches().await.unwrap();
    assert_eq!(state.boots, 2);
    let cleaned = ca(&lab).clean(&[certname(NAME)]).await;
    assert!(cleaned.values().all(Result::is_ok), "{cleaned:?}");
    agent.waits_for_certificate().await.unwrap();
    sign(&lab, NAME).await;
    agent.reported().await.unwrap();
}

#[tokio::test]
async fn in_the_warm_pool_an_agent_is_off_and_comes_back_as_after_a_reboot() {
    let lab = lab().await;
    let hooks = json!([
        {"name": "enter", "transition": "launching", "heartbeat_timeout_s": 600, "default_result": "CONTINUE"},
        {"name": "leave", "transition": "terminating", "heartbeat_timeout_s": 600, "default_result": "CONTINUE"},
    ]);
    lab.set_scene(&Scene::from_json(group(&hooks)).unwrap()).unwrap();
    let into_pool = Launch { to: Some(Place::WarmPool), ..Launch::default() };
    let id = lab.aws.launch("compilers", &into_pool).unwrap().instance_id;
    let agent = enrolled(&lab, Agent { wait_for_cert_ms: 5, ..Agent::on(&id) }).await;
    lab.clock.advance(jiff::SignedDuration::from_secs(600));
    agent.until(|state| state.phase == Phase::Off).await.unwrap();
    assert_eq!(lab.aws.lifecycle_state(&id).unwrap(), "Warmed:Stopped");
    let out = lab.aws.launch("compilers", &Launch { id: Some(id.clone()), ..Launch::default() }).unwrap();
    assert_eq!(out.events[0].eventbridge["detail"]["Origin"], "WarmPool");
    let state = agent.reported().await.unwrap();
    assert_eq!((state.boots, state.submitted), (2, 0));
}

#[tokio::test]
async fn an_impostor_is_an_agent_with_a_name_of_its_own_for_the_lab() {
    let lab = lab().await;
    lab.agents.start(quick(NAME)).unwrap().waits_for_certificate().await.unwrap();
    let error = lab.agents.start(quick(NAME)).err().unwrap();
    assert!(error.to_string().contains("`name`"), "{error}");
    let impostor = lab.agents.start(Agent { name: Some("impostor".into()), ..quick(NAME) }).unwrap();
    let state = impostor.waits_for_certificate().await.unwrap();
    assert!(state.refusal.unwrap().contains("already has a requested certificate"));
    sign(&lab, NAME).await;
    impostor.mismatches().await.unwrap();
    lab.agents.get(NAME).unwrap().reported().await.unwrap();
}

#[tokio::test]
async fn an_agent_that_cannot_be_is_refused_with_the_reason() {
    let lab = lab().await;
    for (agent, words) in [
        (Agent::default(), "needs a certname"),
        (Agent::on("i-0a1b2c3d4e5f60718"), "EC2 knows no instance"),
        (Agent { status: "good".into(), ..quick(NAME) }, "not as good"),
        (Agent { tcp_ports: vec![1], ..quick(NAME) }, "loopback"),
        (Agent { extensions: BTreeMap::from([("pp_rôle".into(), "x".into())]), ..quick(NAME) }, "pp_rôle"),
    ] {
        let error = lab.agents.start(agent).err().unwrap();
        assert!(format!("{error:#}").contains(words), "{error:#}");
    }
    assert!(lab.agents.all().is_empty());
}

#[tokio::test]
async fn agents_are_played_over_the_control_api_and_in_a_scene() {
    let lab = enterprise().await;
    let scene = json!({"agents": [{"certname": NAME, "wait_for_cert_ms": 5, "extensions": {"pp_role": "compiler"}}]});
    assert_eq!(control(&lab, "PUT /scene", &scene.to_string()).await.0, 200);
    let agent = lab.agents.get(NAME).unwrap();
    agent.waits_for_certificate().await.unwrap();
    let (status, body) = control(&lab, "POST /agents", r#"{"certname": "m.example.net", "wait_for_cert_ms": 5}"#).await;
    assert_eq!(status, 200, "{body}");
    sign(&lab, NAME).await;
    agent.reported().await.unwrap();
    let (status, body) = control(&lab, &format!("POST /agents/{NAME}/run"), r#"{"status": "failed"}"#).await;
    assert_eq!(status, 200, "{body}");
    let shown: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&shown["state"]["phase"], &shown["state"]["status"]), (&json!("reported"), &json!("failed")));
    assert_eq!(control(&lab, &format!("POST /agents/{NAME}/reboot"), "").await.0, 200);
    assert_eq!(agent.reported().await.unwrap().boots, 2);
    assert_eq!(control(&lab, &format!("PUT /agents/{NAME}/services"), r#"{"state": "starting"}"#).await.0, 200);
    assert_eq!(control(&lab, &format!("PUT /nodes/{NAME}/run"), r#""hang""#).await.0, 200);
    assert_eq!(control(&lab, "PUT /nodes/puppet/run", r#"{"restart": {"down_ms": 100}}"#).await.0, 200);
    let group = r#"{"name": "own", "pinned": ["n.example.net"]}"#;
    assert_eq!(control(&lab, "POST /node-groups", group).await.0, 200);
    assert!(lab.puppet.is_pinned("own", NAME));
    assert_eq!(control(&lab, "POST /agents/m.example.net/stop", "").await.0, 200);
    assert_eq!(control(&lab, "DELETE /agents/m.example.net", "").await.0, 200);
    assert_eq!(control(&lab, "POST /agents/m.example.net/run", "").await.0, 400);
    let (_, all) = control(&lab, "GET /agents", "").await;
    assert!(all.contains(NAME) && !all.contains("m.example.net"), "{all}");
}

#[tokio::test]
async fn a_new_scene_stops_the_agents_of_the_old_one() {
    let lab = lab().await;
    let agent = enrolled(&lab, quick(NAME)).await;
    lab.set_scene(&Scene::default()).unwrap();
    assert!(lab.agents.all().is_empty());
    assert_eq!(agent.state().phase, Phase::Off);
    assert!(agent.run("changed").await.is_err(), "it is off");
    // A request of the name is another agent's.
    lab.puppet.submit_csr(NAME, &CsrAttributes::default()).unwrap();
}
