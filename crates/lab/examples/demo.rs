//! The demo: the built functions `onboard`, `purge` and `sweep`, run by cargo-lambda against the lab, with the events of its
//! Auto Scaling group and those of `events/`. `make demo` builds what it needs and runs it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};
use stagedoor_lab::agent::Agent;
use stagedoor_lab::cargo_lambda::CargoLambda;
use stagedoor_lab::scene::Scene;
use stagedoor_lab::{Lab, Options};
use stagedoor_lab_aws::{Launch, Terminate};
use stagedoor_lab_puppet::PuppetOptions;

/// The instances of the samples in `events/`, and one that has taken over a name.
const SECOND: &str = "i-0b2c3d4e5f6071829";
const SUCCESSOR: &str = "i-0d4e5f60718293a4b";
const SECOND_NAME: &str = "ip-10-0-3-8.ec2.internal";
/// The primary of the lab's Puppet Enterprise.
const PRIMARY: &str = "puppet";
const CHALLENGE: &str = "what the user data of the fleet knows";

/// How long an invocation waits for what has to happen elsewhere. Shorter than the default: the launch of the impostor waits for as long.
const BUDGET: &str = "budget = \"20s\"\n";
/// The greatest number of sweeps that a launch may take.
const SWEEPS: usize = 4;
/// What the fleet's profile asks for.
const PROFILE: &str = r#"
sign.require = { pp_role = "compiler" }
sign.alt_names = ["puppet.example.com"]
pin = ["PE Infrastructure Agent"]
classified = ["PE Master"]
refresh = ["puppet"]
ready = ["report", "status:8140"]
"#;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let puppet = PuppetOptions {
        challenge: Some(CHALLENGE.to_owned().into()),
        allow_subject_alt_names: true,
        allow_request_deletion: true,
        ..PuppetOptions::enterprise()
    };
    let lab = Lab::start(Options { puppet, ..Options::default() }).await.context("the lab does not start")?;
    set_the_scene(&lab)?;
    println!("\nThe stage: an Auto Scaling group, EC2 and Puppet Enterprise, simulated on their real protocols.");
    println!("The functions are started by cargo lambda …");
    let functions = start(&lab).await?;

    odd_events(&lab, &functions).await?;
    let fleet = scale_out(&lab, &functions).await?;
    impostor(&lab, &functions).await?;
    scale_in(&lab, &functions, &fleet[0]).await?;

    println!("\nWhat the functions called, and how often:\n");
    let mut calls: Vec<(String, usize)> = Vec::new();
    for entry in lab.journal.entries().into_iter().filter(|entry| entry.service != "agent") {
        let call = format!("{:15} {}", entry.service, entry.call);
        match calls.iter_mut().find(|(known, _)| *known == call) {
            Some((_, count)) => *count += 1,
            None => calls.push((call, 1)),
        }
    }
    for (call, count) in calls {
        println!("  {count:3} × {call}");
    }
    println!("\nEnd of the demo. README.md describes how to run the lab and invoke the functions manually.");
    Ok(())
}

/// Three compilers launch together; one Puppet run of the primary covers all of them.
async fn scale_out(lab: &Lab, functions: &CargoLambda) -> anyhow::Result<Vec<String>> {
    act("Scale-out: three compilers launch at once. None may take traffic before it is enrolled and ready.");
    let mut events = Vec::new();
    let mut fleet = Vec::new();
    let before = lab.puppet.times_ordered(PRIMARY);
    for _ in 0..3 {
        let begun = lab.aws.launch("compilers", &Launch::default())?;
        lab.agents.start(Agent { status_ports: vec![8140], starting_answers: 2, ..compiler(&begun.instance_id) })?;
        events.push(begun.events[0].eventbridge.clone());
        fleet.push(begun.instance_id);
    }
    for instance in &fleet {
        show(lab, instance, &name_of(lab, instance)?);
    }
    let receipts = enrol(functions, &file_of("three launch events", &batch(&events))?, fleet.len()).await?;
    println!("\n  The receipt of the first:");
    print(&receipts[0]);
    println!("\n  All three:");
    for instance in &fleet {
        show(lab, instance, &name_of(lab, instance)?);
    }
    let runs = lab.puppet.times_ordered(PRIMARY) - before;
    println!("  Puppet runs that were ordered on the primary: {runs}");
    ensure!(runs == 1, "one run should have served all three");
    Ok(fleet)
}

/// Runs `onboard` for these events and, at the same time, a sweep, which alone orders the primary's Puppet run. Returns the receipts of
/// the `count` completed launches. A slow machine needs more than one sweep.
async fn enrol(functions: &CargoLambda, event: &Path, count: usize) -> anyhow::Result<Vec<Value>> {
    let schedule = repository().join(".cache/demo-schedule.json");
    std::fs::write(&schedule, "{}")?;
    let mut enrolled: BTreeMap<String, Value> = BTreeMap::new();
    let mut answers = Vec::new();
    for _ in 0..SWEEPS {
        println!("  beside it  the sweep, which runs every minute");
        let (onboard, sweep) = tokio::join!(functions.invoke("onboard", event), functions.invoke("sweep", &schedule));
        let new = [sweep?, onboard?];
        let receipts = new.iter().flat_map(|answer| answer["results"].as_array().into_iter().flatten());
        // Both may find that an instance is ready; the second then finds its action completed.
        for receipt in receipts.filter(|receipt| receipt["outcome"] == "continued" && receipt["code"] == "enrolled") {
            enrolled.entry(receipt["instance_id"].to_string()).or_insert_with(|| receipt.clone());
        }
        answers.extend(new);
        if enrolled.len() == count {
            return Ok(enrolled.into_values().collect());
        }
    }
    bail!("{} of {count} launches have been completed: {answers:#?}", enrolled.len())
}

/// An impostor requests the certificate of a launching instance without knowing the challenge; then the instance itself does.
async fn impostor(lab: &Lab, functions: &CargoLambda) -> anyhow::Result<()> {
    act("An impostor requests a certificate under the name of a launching instance, and guesses the challenge.");
    let begun = lab.aws.launch("compilers", &Launch::default())?;
    let instance = &begun.instance_id;
    let name = name_of(lab, instance)?;
    let agent = lab.agents.start(Agent { challenge: Some("guessed".to_owned().into()), ..compiler(instance) })?;
    agent.waits_for_certificate().await?;
    agent.stop().await;
    let event = file_of("a launch event", &begun.events[0].eventbridge)?;
    let receipt = only_receipt(&functions.invoke("onboard", &event).await?)?;
    print(&receipt);
    show(lab, instance, &name);
    ensure!(receipt["code"] == "request_refused", "the impostor should have been refused");
    ensure!(receipt["outcome"] == "waiting", "the launch should wait for the instance's own request");

    act("The instance requests its certificate itself. The impostor has not kept it from its place.");
    lab.agents.start(Agent {
        name: Some("the instance itself".to_owned()),
        status_ports: vec![8140],
        ..compiler(instance)
    })?;
    print(&enrol(functions, &event, 1).await?[0]);
    show(lab, instance, &name);
    Ok(())
}

/// One of the three terminates.
async fn scale_in(lab: &Lab, functions: &CargoLambda, instance: &str) -> anyhow::Result<()> {
    act("Scale-in: one compiler terminates. Puppet must forget it first.");
    let name = name_of(lab, instance)?;
    let begun = lab.aws.terminate(instance, &Terminate::default())?;
    let event = file_of("its terminate event", &begun.events[0].eventbridge)?;
    show(lab, instance, &name);
    let receipt = only_receipt(&functions.invoke("purge", &event).await?)?;
    print(&receipt);
    show(lab, instance, &name);
    ensure!(receipt["outcome"] == "continued", "the termination should have been completed");

    act("The same event is delivered again, as can happen. Nothing is left to do, and nothing is done.");
    let receipt = only_receipt(&functions.invoke("purge", &event).await?)?;
    print(&receipt);
    ensure!(receipt["outcome"] == "continued", "there should have been nothing left to do");
    Ok(())
}

/// Events that must not do harm.
async fn odd_events(lab: &Lab, functions: &CargoLambda) -> anyhow::Result<()> {
    act(&format!("Another compiler terminates, whose name {SUCCESSOR} has taken over. The successor is alive."));
    let receipt = only_receipt(&functions.invoke("purge", &sample("eventbridge-terminate-reused-name")).await?)?;
    print(&receipt);
    show(lab, SECOND, SECOND_NAME);
    ensure!(receipt["outcome"] == "continued", "the termination should have been completed");
    ensure!(puppet_says(lab, SECOND_NAME).contains("certificate"), "the successor must keep its certificate");

    act("A batch from SQS: two of the same, a test notification, something that is not JSON.");
    println!("  answer     {}", functions.invoke("purge", &sample("sqs-batch")).await?);

    act("An event of an unknown shape is delivered.");
    print(&only_receipt(&functions.invoke("purge", &sample("unknown-shape")).await?)?);
    Ok(())
}

/// An agent as the user data of the fleet sets it up.
fn compiler(instance: &str) -> Agent {
    Agent {
        extensions: [("pp_role".to_owned(), "compiler".to_owned())].into(),
        alt_names: vec!["puppet.example.com".to_owned()],
        challenge: Some(CHALLENGE.to_owned().into()),
        wait_for_cert_ms: 250,
        ..Agent::on(instance)
    }
}

fn name_of(lab: &Lab, instance: &str) -> anyhow::Result<String> {
    Ok(lab.aws.machine(instance).context("EC2 knows it")?.private_dns)
}

/// Events as SNS would bring them together.
fn batch(events: &[Value]) -> Value {
    let record = |event: &Value| json!({"EventSource": "aws:sns", "Sns": {"Message": event.to_string()}});
    json!({"Records": events.iter().map(record).collect::<Vec<_>>()})
}

/// A sample event of the repository.
fn sample(event: &str) -> PathBuf {
    println!("  received   events/{event}.json");
    repository().join(format!("events/{event}.json"))
}

/// Writes an event down, so that cargo lambda can be given it.
fn file_of(what: &str, event: &Value) -> anyhow::Result<PathBuf> {
    println!("  received   {what}");
    let file = repository().join(".cache/demo-event.json");
    std::fs::write(&file, serde_json::to_string_pretty(event)?)?;
    Ok(file)
}

/// The group, with two instances that terminate; the name of the second has been taken over.
fn set_the_scene(lab: &Lab) -> anyhow::Result<()> {
    let mut scene: Value = serde_json::from_str(include_str!("../scenes/demo.json"))?;
    scene["settings"] = json!({"loopback_addresses": true});
    scene["node_groups"] = json!([
        {"name": "PE Infrastructure Agent"},
        {"name": "PE Master", "rule": ["and", ["=", ["trusted", "extensions", "pp_role"], "compiler"]]},
    ]);
    std::fs::create_dir_all(repository().join(".cache"))?;
    lab.set_scene(&Scene::from_json(scene)?)
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
fn print(receipt: &Value) {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    for step in receipt["steps"].as_array().into_iter().flatten() {
        println!("  {:10} {} ({} ms)", text(&step["kind"]), text(&step["detail"]), step["took_ms"]);
    }
    println!("  {:10} {}", text(&receipt["outcome"]), text(&receipt["reason"]));
}

fn only_receipt(answer: &Value) -> anyhow::Result<Value> {
    match answer["results"].as_array().map(Vec::as_slice) {
        Some([receipt]) => Ok(receipt.clone()),
        _ => bail!("the function answered {answer}, not with one receipt"),
    }
}

/// The functions that were built beside this program, with the profile of the fleet.
async fn start(lab: &Lab) -> anyhow::Result<CargoLambda> {
    let built = std::env::current_exe()?.ancestors().nth(2).context("target/PROFILE/examples")?.to_owned();
    let mut environment = lab.environment();
    let configuration = environment.entry("STAGEDOOR_CONFIG".to_owned()).or_default();
    *configuration = format!("{BUDGET}{configuration}{PROFILE}");
    CargoLambda::start("cargo-lambda".into(), built, environment).await.context("`make demo` installs what it needs")
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}
