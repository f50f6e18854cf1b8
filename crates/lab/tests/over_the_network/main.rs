//! The lab over real sockets: control API, faults, keep-alive, and what may be seen.

mod agents;
mod enterprise;

use serde_json::{Value, json};
use stagedoor_lab::scene::Scene;
use stagedoor_lab::{Lab, Options};
use stagedoor_lab_aws::{Terminate, error_answer};
use stagedoor_lab_core::faults::{Fault, FaultKind};
use stagedoor_lab_core::journal::Entry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const INSTANCE: &str = "i-0a1b2c3d4e5f60718";

async fn lab() -> Lab {
    let lab = Lab::start(Options::default()).await.unwrap();
    let scene = json!({"groups": [{
        "name": "compilers",
        "hooks": [{"name": "leave", "transition": "terminating"}],
        "instances": [{"id": INSTANCE, "private_dns": "one.example.net"}],
    }], "secrets": {"other": "hush-hush"}});
    lab.set_scene(&Scene::from_json(scene).unwrap()).unwrap();
    lab
}

async fn connect(url: &str) -> TcpStream {
    TcpStream::connect(url.trim_start_matches("http://")).await.unwrap()
}

/// Sends one request on the connection and reads one answer; `None`: closed without one.
async fn send(stream: &mut TcpStream, head: &str, body: &str) -> Option<(u16, String)> {
    let request = format!("{head}\r\nhost: lab\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut got = Vec::new();
    loop {
        let mut chunk = [0; 4096];
        let n = stream.read(&mut chunk).await.unwrap_or(0);
        if n == 0 {
            return None;
        }
        got.extend_from_slice(&chunk[..n]);
        let text = String::from_utf8_lossy(&got).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length =
            head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |n| n.parse().unwrap());
        if body.len() >= length {
            return Some((head[9..12].parse().unwrap(), body.to_owned()));
        }
    }
}

async fn control(lab: &Lab, method_and_path: &str, body: &str) -> (u16, String) {
    let head = format!("{method_and_path} HTTP/1.1");
    send(&mut connect(lab.control_url()).await, &head, body).await.unwrap()
}

async fn complete(stream: &mut TcpStream) -> Option<(u16, String)> {
    let head = "POST / HTTP/1.1\r\n\
                authorization: AWS4-HMAC-SHA256 Credential=K/20270115/eu-west-1/autoscaling/aws4_request";
    let body = format!(
        "Action=CompleteLifecycleAction&AutoScalingGroupName=compilers&LifecycleHookName=leave\
         &LifecycleActionResult=CONTINUE&InstanceId={INSTANCE}"
    );
    send(stream, head, &body).await
}

fn fault(kind: FaultKind) -> Fault {
    Fault {
        service: "autoscaling".into(),
        call: "Complete*".into(),
        nth: Some(1),
        subject: Some(INSTANCE.into()),
        kind,
    }
}

#[tokio::test]
async fn a_connection_serves_several_calls() {
    let lab = lab().await;
    lab.aws.terminate(INSTANCE, &Terminate::default()).unwrap();
    let mut stream = connect(lab.aws_url()).await;
    assert_eq!(complete(&mut stream).await.unwrap().0, 200);
    assert_eq!(complete(&mut stream).await.unwrap().0, 400);
    assert_eq!(lab.journal.count("autoscaling", "CompleteLifecycleAction"), 2);
    assert_eq!(lab.journal.round_trips(), 2);
}

#[tokio::test]
async fn a_cut_call_is_carried_out_and_not_answered() {
    let lab = lab().await;
    lab.aws.terminate(INSTANCE, &Terminate::default()).unwrap();
    lab.faults.add(fault(FaultKind::Cut));
    assert_eq!(complete(&mut connect(lab.aws_url()).await).await, None);
    assert_eq!(lab.aws.lifecycle_state(INSTANCE).unwrap(), "Terminated");
    assert_eq!(lab.journal.calls("autoscaling")[0].status, None);
}

#[tokio::test]
async fn a_reset_call_is_not_carried_out() {
    let lab = lab().await;
    lab.aws.terminate(INSTANCE, &Terminate::default()).unwrap();
    lab.faults.add(fault(FaultKind::Reset));
    assert_eq!(complete(&mut connect(lab.aws_url()).await).await, None);
    assert_eq!(lab.aws.lifecycle_state(INSTANCE).unwrap(), "Terminating:Wait");
    assert_eq!(complete(&mut connect(lab.aws_url()).await).await.unwrap().0, 200);
}

#[tokio::test]
async fn a_status_is_answered_in_place_of_the_service() {
    let lab = lab().await;
    lab.aws.terminate(INSTANCE, &Terminate::default()).unwrap();
    lab.faults.add(fault(FaultKind::Status { status: 503, body: "<html>".into(), content_type: None }));
    let answer = complete(&mut connect(lab.aws_url()).await).await;
    assert_eq!(answer, Some((503, "<html>".into())));
    assert_eq!(lab.aws.lifecycle_state(INSTANCE).unwrap(), "Terminating:Wait");
}

#[tokio::test]
async fn an_error_of_aws_comes_in_the_form_of_its_service() {
    let lab = lab().await;
    lab.aws.terminate(INSTANCE, &Terminate::default()).unwrap();
    lab.faults.add(fault(error_answer("autoscaling", 500, "ResourceContention", "a <pending> update")));
    let (status, body) = complete(&mut connect(lab.aws_url()).await).await.unwrap();
    assert_eq!(status, 500);
    let error = "<Error><Type>Receiver</Type><Code>ResourceContention</Code>\
                 <Message>a &lt;pending&gt; update</Message></Error>";
    assert!(body.contains(error), "{body}");
}

#[tokio::test]
async fn a_delayed_call_is_carried_out_although_its_caller_hangs_up() {
    let lab = lab().await;
    lab.aws.terminate(INSTANCE, &Terminate::default()).unwrap();
    lab.faults.add(fault(FaultKind::Delay { ms: 40 }));
    let mut impatient = connect(lab.aws_url()).await;
    // Polled once, so that the request is sent, and then dropped.
    tokio::select! {
        biased;
        _ = complete(&mut impatient) => panic!("not delayed"),
        () = until(|| !lab.journal.entries().is_empty()) => {}
    }
    drop(impatient);
    let over = |entry: &Entry| entry.ended_us > entry.started_us;
    until(|| over(&lab.journal.entries()[0])).await;
    let entry = &lab.journal.entries()[0];
    assert_eq!(entry.status, Some(200));
    assert!(entry.ended_us - entry.started_us >= 40_000, "the delay is part of the call");
    assert_eq!(lab.aws.lifecycle_state(INSTANCE).unwrap(), "Terminated");
}

async fn until(done: impl Fn() -> bool) {
    while !done() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_control_api_tells_how_to_reach_everything() {
    let lab = lab().await;
    let (status, body) = control(&lab, "GET /", "").await;
    assert_eq!(status, 200);
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["environment"]["AWS_ENDPOINT_URL"], lab.aws_url());
    let config = body["environment"]["STAGEDOOR_CONFIG"].as_str().unwrap();
    assert!(config.contains(lab.ca_url()) && config.contains("[profile.compiler]"), "{config}");
    let (_, exports) = control(&lab, "GET /env?function=purge", "").await;
    assert!(exports.contains(&format!("export AWS_LAMBDA_RUNTIME_API='{}'", lab.runtime_api_of("purge"))), "{exports}");
}

#[tokio::test]
async fn the_control_api_plays_a_termination() {
    let lab = lab().await;
    let (status, body) = control(&lab, &format!("POST /instances/{INSTANCE}/terminate"), "").await;
    assert_eq!(status, 200, "{body}");
    let begun: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(begun["events"][0]["eventbridge"]["detail"]["EC2InstanceId"], INSTANCE);
    let (status, body) = control(&lab, &format!("POST /instances/{INSTANCE}/terminate"), "").await;
    assert_eq!(status, 400);
    assert!(body.contains("is in Terminating:Wait already"), "{body}");
    assert_eq!(control(&lab, "POST /clock/advance", r#"{"seconds": 3600}"#).await.0, 200);
    let (_, state) = control(&lab, "GET /state", "").await;
    let state: Value = serde_json::from_str(&state).unwrap();
    assert_eq!(state["aws"]["instances"][INSTANCE]["state"], "Terminated");
}

#[tokio::test]
async fn a_node_is_placed_and_reports_over_the_control_api() {
    let lab = lab().await;
    let node = json!({"certname": "one.example.net", "instance_id": INSTANCE}).to_string();
    assert_eq!(control(&lab, "POST /nodes", &node).await.0, 200);
    assert_eq!(control(&lab, "POST /nodes/one.example.net/report", "").await.0, 200);
    let certificates = lab.state()["puppet"]["certificates"].to_string();
    assert!(certificates.contains("one.example.net"), "{certificates}");
}

#[tokio::test]
async fn a_mistake_in_a_control_call_is_named() {
    let lab = lab().await;
    let (status, body) = control(&lab, "PUT /scene", r#"{"grops": []}"#).await;
    assert_eq!(status, 400);
    assert!(body.contains("grops"), "{body}");
    let (status, body) = control(&lab, "PUT /settings", r#"{"race": 1}"#).await;
    assert_eq!(status, 400);
    assert!(body.contains("race"), "{body}");
    assert_eq!(control(&lab, "GET /nowhere", "").await.0, 404);
    assert_eq!(lab.aws.lifecycle_state(INSTANCE).unwrap(), "InService", "nothing has changed");
}

#[tokio::test]
async fn faults_are_set_and_taken_away_over_the_control_api() {
    let lab = lab().await;
    let two = json!([
        {"service": "ca", "call": "PUT *", "nth": 2, "kind": {"kind": "delay", "ms": 5}},
        {"service": "*", "call": "*", "kind": {"kind": "reset"}},
    ]);
    assert_eq!(control(&lab, "POST /faults", &two.to_string()).await.0, 200);
    assert_eq!(lab.faults.list().len(), 2);
    assert_eq!(control(&lab, "DELETE /faults", "").await.0, 200);
    assert!(lab.faults.list().is_empty());
}

#[tokio::test]
async fn no_secret_is_seen_in_journal_or_state() {
    let lab = lab().await;
    let mut stream = connect(lab.aws_url()).await;
    let head = "POST / HTTP/1.1\r\nx-amz-target: secretsmanager.GetSecretValue\r\n\
                authorization: AWS4-HMAC-SHA256 Credential=K/20270115/eu-west-1/secretsmanager/aws4_request";
    for name in ["other", "stagedoor/puppet"] {
        let (status, body) = send(&mut stream, head, &json!({"SecretId": name}).to_string()).await.unwrap();
        assert_eq!(status, 200);
        assert!(body.contains("hush-hush") || body.contains("PRIVATE KEY"), "{body}");
    }
    let (_, journal) = control(&lab, "GET /journal", "").await;
    let shown = format!("{journal}{}", lab.state());
    assert!(shown.contains("stagedoor/puppet"));
    assert!(!shown.contains("hush-hush") && !shown.contains("PRIVATE KEY") && !shown.contains("lab-token-"));
}

#[tokio::test]
async fn a_dropped_lab_listens_no_more() {
    let lab = lab().await;
    let address = lab.aws_url().trim_start_matches("http://").to_owned();
    let mut open = connect(lab.aws_url()).await;
    assert!(complete(&mut open).await.is_some());
    drop(lab);
    let mut byte = [0];
    assert_eq!(open.read(&mut byte).await.unwrap_or(0), 0, "the open connection is closed");
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn without_puppet_only_aws_is_served() {
    let options = Options { serve_puppet: false, ..Options::default() };
    let lab = Lab::start(options).await.unwrap();
    assert_eq!((lab.ca_url(), lab.puppetdb_url()), ("", ""));
    assert!(!lab.environment().contains_key("STAGEDOOR_CONFIG"));
    assert_eq!(lab.state()["aws"]["secrets"], json!([]));
}
