//! A large CA: the release build of `sweep` does its housekeeping beside a CA and a PuppetDB with many certificates, revocations
//! and nodes, most of which belong to no instance of the scene. Prints a table, and fails if the function's memory grows with the CA's size
//! beyond its limit. `make bench` builds what it needs and runs it.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use jiff::SignedDuration;
use serde_json::{Value, json};
use stagedoor_lab::scene::Scene;
use stagedoor_lab::{Lab, Options, peak_memory};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::time::Instant;

/// Certificates, revoked serials and active nodes each. The first is what the others are compared with.
const SIZES: [u32; 4] = [0, 1_000, 30_000, 100_000];
/// How much more memory the largest may take than the first, in MiB.
const GROWTH: u64 = 32;
const LIVING: u32 = 20;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    println!(
        "\n| certificates, revocations, nodes | read by the function | housekeeping | again, with the list remembered | memory |"
    );
    println!("| --: | --: | --: | --: | --: |");
    let mut first = None;
    for size in SIZES {
        let Measured { read, took, again, memory } =
            measure(size).await.with_context(|| format!("{size} certificates"))?;
        println!("| {size} | {:.1} MiB | {took:.1} s | {again:.1} s | {memory} MiB |", count(read) / 1_048_576.0);
        let growth = memory.saturating_sub(*first.get_or_insert(memory));
        ensure!(growth <= GROWTH, "the memory grows by {growth} MiB");
    }
    Ok(())
}

struct Measured {
    /// Bytes that the function read from Puppet.
    read: u64,
    /// Seconds.
    took: f64,
    again: f64,
    /// MiB.
    memory: u64,
}

async fn measure(size: u32) -> anyhow::Result<Measured> {
    let lab = Lab::start(Options { function_timeout: Duration::from_secs(300), ..Options::default() }).await?;
    lab.clock.advance(SignedDuration::from_hours(-3));
    lab.set_scene(&scene()?)?;
    lab.clock.advance(SignedDuration::from_hours(3));
    lab.puppet.grow(size)?;
    let mut function = start(&lab)?;
    let log = function.stdout.take().context("its log")?;
    let log = tokio::spawn(bytes_read(log));

    let began = Instant::now();
    let answer = lab.invoke("sweep", &json!({})).await?;
    let took = began.elapsed().as_secs_f64();
    let orphans = &answer["housekeeping"]["orphans"];
    // The one orphan of this fleet is removed, which the CRL has to show.
    let removed = orphans["results"].as_array().into_iter().flatten().filter(|result| result["outcome"] == "removed");
    ensure!(removed.count() == 1 && orphans["certificates"].is_null(), "the orphan is not removed: {answer:#}");
    ensure!(orphans["results"][0]["reason"].as_str().is_some_and(|reason| reason.contains("in the CRL")), "{answer:#}");
    let began = Instant::now();
    lab.invoke("sweep", &json!({})).await?;
    let again = began.elapsed().as_secs_f64();
    let memory = peak_memory(&function)?;
    function.kill().await?;
    Ok(Measured { read: log.await?, took, again, memory })
}

/// For a ratio; no count here comes near what a float cannot hold.
fn count(number: u64) -> f64 {
    u32::try_from(number).map_or(f64::MAX, f64::from)
}

/// What the log says that was read: a line for each answer.
async fn bytes_read(log: impl AsyncRead + Unpin) -> u64 {
    let (mut lines, mut read) = (BufReader::new(log).lines(), 0);
    while let Ok(Some(line)) = lines.next_line().await {
        let line: Value = serde_json::from_str(&line).unwrap_or_default();
        read += line["bytes"].as_u64().unwrap_or(0);
    }
    read
}

fn id(number: u32) -> String {
    format!("i-{number:017x}")
}

/// A group with living instances, and one instance that is long gone.
fn scene() -> anyhow::Result<Scene> {
    let instances: Vec<Value> =
        (0..LIVING).map(|number| json!({"id": id(number), "private_dns": name(number)})).collect();
    let node = |number: u32| {
        json!({
            "certname": name(number),
            "instance_id": id(number),
            "extensions": {"pp_role": "compiler"},
            "puppetdb": {"facts": {"ec2_metadata": {
                "instance-id": id(number),
                "placement": {"region": "eu-west-1", "availability-zone": "eu-west-1a"},
                "network": {"interfaces": {"macs": {"02:00:00:00:00:01": {"owner-id": "111122223333"}}}},
            }}},
        })
    };
    Scene::from_json(json!({
        "groups": [{
            "name": "compilers",
            "tags": {"stagedoor:profile": "compiler"},
            "hooks": [{"name": "stagedoor-terminate", "transition": "terminating", "default_result": "CONTINUE"}],
            "instances": instances,
        }],
        "nodes": (0..=LIVING).map(node).collect::<Vec<_>>(),
    }))
}

fn name(number: u32) -> String {
    format!("ip-10-0-0-{number}.eu-west-1.compute.internal")
}

/// The release build of `sweep`, which stands beside this program.
fn start(lab: &Lab) -> anyhow::Result<Child> {
    let program: PathBuf =
        std::env::current_exe()?.ancestors().nth(2).context("target/release/examples")?.join("sweep");
    let mut command = Command::new(&program);
    command.env_clear().kill_on_drop(true).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    for (variable, value) in lab.function_environment("sweep") {
        match variable.as_str() {
            "STAGEDOOR_CONFIG" => {
                let value = format!(
                    "budget = \"200s\"\nhousekeeping.every = \"1m\"\n{value}sign.require = {{ pp_role = \"compiler\" }}\n"
                );
                command.env(&variable, value)
            }
            _ => command.env(variable, value),
        };
    }
    command.env("RUST_LOG", "error,stagedoor_puppet=debug");
    command.spawn().with_context(|| format!("{} does not start; `make bench` builds it", program.display()))
}
