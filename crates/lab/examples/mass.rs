//! Mass events: the release build of `purge` handles one batch of many terminations against the lab, with a network that
//! takes 20 ms and a CA that takes 50 ms for each write. Prints a table, and fails if a thousand instances exceed the
//! limits. `make bench` builds what it needs and runs it.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use stagedoor_lab::scene::Scene;
use stagedoor_lab::{Lab, Options, peak_memory};
use stagedoor_lab_core::faults::{Fault, FaultKind};
use stagedoor_lab_puppet::PuppetOptions;
use tokio::process::{Child, Command};
use tokio::time::Instant;

const SIZES: [usize; 5] = [1, 10, 100, 1000, 5000];
/// The size whose figures must keep to their limits.
const JUDGED: usize = 1000;
const PRIMARY: &str = "puppet";
/// The limits of Auto Scaling: calls per second, and calls at once.
const RATE: f64 = 50.0;
const BURST: f64 = 100.0;
const BURST_CALLS: u32 = 100;
const NETWORK_MS: u64 = 20;
const CA_WRITE_MS: u64 = 50;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    println!(
        "\n{NETWORK_MS} ms network, {CA_WRITE_MS} ms for each write of the CA, Auto Scaling lets {RATE} calls a second through ({BURST} at once).\n"
    );
    println!(
        "| instances | wall time | pacing alone | ratio | CA writes | describes | runs of the primary | calls for each instance | memory |"
    );
    println!("| --: | --: | --: | --: | --: | --: | --: | --: | --: |");
    for size in SIZES {
        println!("{}", measure(size).await.with_context(|| format!("{size} instances"))?);
    }
    Ok(())
}

async fn measure(size: usize) -> anyhow::Result<String> {
    let puppet = PuppetOptions { ca_write_ms: CA_WRITE_MS, ..PuppetOptions::enterprise() };
    let lab = Lab::start(Options { puppet, function_timeout: Duration::from_secs(900), ..Options::default() }).await?;
    lab.set_scene(&scene(size)?)?;
    let delay = FaultKind::Delay { ms: NETWORK_MS };
    lab.faults.add(Fault { service: "*".into(), call: "*".into(), nth: None, subject: None, kind: delay });
    let function = start(&lab)?;
    let began = Instant::now();
    let answer = lab.invoke("purge", &batch(size)).await?;
    let took = began.elapsed();
    ensure!(answer["batchItemFailures"].as_array().is_some_and(Vec::is_empty), "not all were completed: {answer}");

    let entries = lab.journal.entries();
    let held = (0..size).filter(|number| lab.aws.lifecycle_state(&id(*number)).as_deref() == Some("Terminating:Wait"));
    ensure!(held.count() == 0, "not all were completed");
    let puppet = lab.puppet.snapshot();
    let left = |list: &str, living: fn(&Value) -> bool| {
        let of_ours = |entry: &&Value| entry["certname"].as_str().is_some_and(|name| name.starts_with("ip-10-0-"));
        puppet[list].as_array().into_iter().flatten().filter(of_ours).filter(|entry| living(entry)).count()
    };
    let certificates = left("certificates", |_| true);
    let nodes = left("nodes", |node| node["deactivated"].is_null());
    ensure!((certificates, nodes) == (0, 0), "{certificates} certificates and {nodes} nodes are still there");
    let ca_writes = entries.iter().filter(|entry| entry.service == "ca" && !entry.call.starts_with("GET ")).count();
    let describes = entries.iter().filter(|entry| entry.call.starts_with("Describe")).count();
    let pacing = ((count(size) - BURST) / RATE).max(0.0);
    let (runs, memory) = (lab.puppet.times_ordered(PRIMARY), peak_memory(&function)?);
    if size == JUDGED {
        ensure!(ca_writes * 50 <= size, "{ca_writes} writes of the CA are more than one for 50 instances");
        ensure!(describes <= 5, "{describes} describes for one set");
        ensure!(runs <= 2, "{runs} runs of the primary");
        ensure!(memory < 64, "{memory} MiB");
        ensure!(took.as_secs_f64() <= 2.0 * pacing, "it took more than twice as long as the completions alone");
    }
    let ratio = if pacing > 0.0 { format!("{:.2}", took.as_secs_f64() / pacing) } else { "–".to_owned() };
    Ok(format!(
        "| {size} | {:.1} s | {pacing:.1} s | {ratio} | {ca_writes} | {describes} | {} | {:.2} | {} MiB |",
        took.as_secs_f64(),
        runs,
        count(entries.len()) / count(size),
        memory,
    ))
}

/// For ratios; no count here comes near what a float cannot hold.
fn count(number: usize) -> f64 {
    u32::try_from(number).map_or(f64::MAX, f64::from)
}

fn id(number: usize) -> String {
    format!("i-{number:017x}")
}

fn name(number: usize) -> String {
    format!("ip-10-0-{}-{}.ec2.internal", number / 250, number % 250)
}

/// Instances that all terminate, and their nodes.
fn scene(size: usize) -> anyhow::Result<Scene> {
    let instances: Vec<Value> = (0..size)
        .map(|number| json!({"id": id(number), "state": "Terminating:Wait", "private_dns": name(number)}))
        .collect();
    let nodes: Vec<Value> =
        (0..size).map(|number| json!({"certname": name(number), "instance_id": id(number)})).collect();
    Scene::from_json(json!({
        "groups": [{
            "name": "compilers",
            "tags": {"stagedoor:profile": "compiler"},
            "hooks": [{"name": "stagedoor-terminate", "transition": "terminating", "default_result": "CONTINUE"}],
            "instances": instances,
        }],
        "nodes": nodes,
        "settings": {"throttle": {"per_second": RATE, "burst": BURST_CALLS}},
    }))
}

/// One SQS batch with an event for each.
fn batch(size: usize) -> Value {
    let now = stagedoor_lab_core::clock::Clock::machine_now().to_string();
    let record = |number: usize| {
        let body = json!({
            "source": "aws.autoscaling",
            "detail-type": "EC2 Instance-terminate Lifecycle Action",
            "time": now,
            "detail": {
                "LifecycleTransition": "autoscaling:EC2_INSTANCE_TERMINATING",
                "AutoScalingGroupName": "compilers",
                "LifecycleHookName": "stagedoor-terminate",
                "EC2InstanceId": id(number),
                "Origin": "AutoScalingGroup",
                "Destination": "EC2",
            },
        });
        json!({"messageId": format!("m{number}"), "eventSource": "aws:sqs", "body": body.to_string()})
    };
    json!({"Records": (0..size).map(record).collect::<Vec<_>>()})
}

/// The release build of `purge`, which stands beside this program: a debug build of the lab would be what is measured.
fn start(lab: &Lab) -> anyhow::Result<Child> {
    let program: PathBuf =
        std::env::current_exe()?.ancestors().nth(2).context("target/release/examples")?.join("purge");
    let mut command = Command::new(&program);
    command.env_clear().kill_on_drop(true).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    for (variable, value) in lab.function_environment("purge") {
        match variable.as_str() {
            "STAGEDOOR_CONFIG" => {
                command.env(&variable, format!("budget = \"800s\"\n{value}refresh = [\"{PRIMARY}\"]\n"))
            }
            _ => command.env(variable, value),
        };
    }
    command.env("RUST_LOG", "error");
    command.spawn().with_context(|| format!("{} does not start; `make bench` builds it", program.display()))
}
