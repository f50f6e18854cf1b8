//! The main job as a story: the built function `purge`, run by cargo-lambda, in the lab, woken by the events of
//! `events/`. `make demo` builds what it needs and runs it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use stagedoor_lab::scene::Scene;
use stagedoor_lab::{Lab, Options};
use tokio::process::{Child, Command};

/// The instances of the samples in `events/`, and one that has taken over a name.
const FIRST: &str = "i-0a1b2c3d4e5f60718";
const SECOND: &str = "i-0b2c3d4e5f6071829";
const SUCCESSOR: &str = "i-0d4e5f60718293a4b";

const FIRST_NAME: &str = "ip-10-0-3-7.ec2.internal";
const SECOND_NAME: &str = "ip-10-0-3-8.ec2.internal";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let lab = Lab::start(Options::default()).await.context("the lab does not start")?;
    set_the_scene(&lab)?;
    println!("\nThe stage: an Auto Scaling group, EC2, a Puppet CA and PuppetDB, simulated on their real protocols.\n");
    show(&lab, FIRST, FIRST_NAME);
    show(&lab, SECOND, SECOND_NAME);
    println!("\nThe function purge is started by cargo lambda …");
    let function = CargoLambda::watch(&lab).await?;

    act("A compiler leaves. Puppet must forget it before it goes.");
    let receipt = only_receipt(&function.invoke("eventbridge-terminate").await?)?;
    tell(&receipt);
    show(&lab, FIRST, FIRST_NAME);
    ensure!(receipt["outcome"] == "continued", "the instance should have been let go");

    act("The same event comes once more, as events do. Nothing is left to be done, and nothing is done.");
    let receipt = only_receipt(&function.invoke("eventbridge-terminate").await?)?;
    tell(&receipt);
    ensure!(receipt["outcome"] == "continued", "there should have been nothing left to do");

    act(&format!("Another one leaves, whose name {SUCCESSOR} has taken over. That one is alive."));
    let receipt = only_receipt(&function.invoke("eventbridge-terminate-reused-name").await?)?;
    tell(&receipt);
    show(&lab, SECOND, SECOND_NAME);
    ensure!(receipt["outcome"] == "continued", "the instance should have been let go");
    ensure!(puppet_says(&lab, SECOND_NAME).contains("certificate"), "the successor must keep its certificate");

    act("A batch from SQS: two of the same, a test notification, something that is not JSON.");
    println!("  answer     {}", function.invoke("sqs-batch").await?);

    act("Something else arrives altogether.");
    tell(&only_receipt(&function.invoke("unknown-shape").await?)?);

    println!("\nWhat was called, and how often:\n");
    let mut calls: Vec<(String, usize)> = Vec::new();
    for entry in lab.journal.entries() {
        let call = format!("{:15} {}", entry.service, entry.call);
        match calls.iter_mut().find(|(known, _)| *known == call) {
            Some((_, count)) => *count += 1,
            None => calls.push((call, 1)),
        }
    }
    for (call, count) in calls {
        println!("  {count:3} × {call}");
    }
    println!("\nThat was it. Try your own: README.md tells how to run the lab and invoke the function by hand.");
    Ok(())
}

/// Two instances that leave; the name of the second has been taken over.
fn set_the_scene(lab: &Lab) -> anyhow::Result<()> {
    lab.set_scene(&Scene::from_json(serde_json::from_str(include_str!("../scenes/demo.json"))?)?)
}

fn act(title: &str) {
    println!("\n── {title}\n");
}

/// What Auto Scaling and Puppet say of an instance and its name.
fn show(lab: &Lab, instance: &str, name: &str) {
    let state = lab.aws.lifecycle_state(instance).unwrap_or_else(|| "not in the group".to_owned());
    println!("  {name}: Auto Scaling shows {instance} as {state}; {}", puppet_says(lab, name));
}

fn puppet_says(lab: &Lab, name: &str) -> String {
    let state = lab.puppet.snapshot();
    let find = |list: &str| {
        let mut entries = state[list].as_array().into_iter().flatten();
        entries.find(|entry| entry["certname"] == name).cloned()
    };
    let certificate = find("certificates").map_or("no certificate".to_owned(), |certificate| {
        format!("certificate {} ({})", certificate["serial"], certificate["state"].as_str().unwrap_or("?"))
    });
    let node = match find("nodes") {
        Some(node) if node["deactivated"].is_null() => "active in PuppetDB",
        Some(_) => "inactive in PuppetDB",
        None => "not in PuppetDB",
    };
    format!("{certificate}; {node}")
}

/// The receipt as lines.
fn tell(receipt: &Value) {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    for step in receipt["steps"].as_array().into_iter().flatten() {
        println!("  {:10} {} ({} ms)", text(&step["stage"]), text(&step["detail"]), step["took_ms"]);
    }
    println!("  {:10} {}", text(&receipt["outcome"]), text(&receipt["reason"]));
}

fn only_receipt(answer: &Value) -> anyhow::Result<Value> {
    match answer["results"].as_array().map(Vec::as_slice) {
        Some([receipt]) => Ok(receipt.clone()),
        _ => bail!("the function answered {answer}, not with one receipt"),
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// `cargo lambda watch`, which runs the function, and the port at which it takes invocations. Dropping it ends both.
struct CargoLambda {
    watch: Child,
    port: u16,
}

impl Drop for CargoLambda {
    fn drop(&mut self) {
        // It runs cargo, which runs the function, and ends both when it is asked to end.
        let Some(process) = self.watch.id() else { return };
        let _ = std::process::Command::new("sh").args(["-c", &format!("kill -TERM {process}")]).status();
        let until = Instant::now() + Duration::from_secs(5);
        while matches!(self.watch.try_wait(), Ok(None)) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl CargoLambda {
    async fn watch(lab: &Lab) -> anyhow::Result<Self> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let log = repository().join(".cache/demo.log");
        std::fs::create_dir_all(repository().join(".cache"))?;
        let output = std::fs::File::create(&log)?;
        let mut command = Command::new("cargo-lambda");
        command.args(["lambda", "watch", "--release", "--ignore-changes", "--invoke-address", "127.0.0.1"]);
        command.args(["--invoke-port", &port.to_string(), "--package", "stagedoor-functions"]);
        command.current_dir(repository()).process_group(0);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        // cargo-lambda has a Runtime API of its own.
        command.envs(lab.environment().into_iter().filter(|(name, _)| *name != "AWS_LAMBDA_RUNTIME_API"));
        let mut watch = command.spawn().context("cargo-lambda does not start; `make demo` installs it into .venv")?;
        let started = Instant::now();
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            if let Some(status) = watch.try_wait()? {
                bail!("cargo lambda watch ended ({status}); its output is in {}", log.display());
            }
            ensure!(
                started.elapsed() < Duration::from_secs(60),
                "cargo lambda watch does not listen; see {}",
                log.display()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(Self { watch, port })
    }

    async fn invoke(&self, event: &str) -> anyhow::Result<Value> {
        let file = format!("events/{event}.json");
        println!("  arrived    {file}");
        let mut command = Command::new("cargo-lambda");
        command.args(["lambda", "invoke", "purge", "--invoke-address", "127.0.0.1"]);
        command.args(["--invoke-port", &self.port.to_string(), "--data-file", &file]);
        let output = command.current_dir(repository()).stdin(Stdio::null()).output().await?;
        let answer = String::from_utf8_lossy(&output.stdout);
        let trouble =
            || format!("{}{answer}\nthe function's log is in .cache/demo.log", String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "cargo lambda invoke failed: {}", trouble());
        serde_json::from_str(&answer).with_context(trouble)
    }
}
