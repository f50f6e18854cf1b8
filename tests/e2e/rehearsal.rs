//! A lab with a built function in it: what every end-to-end test begins with.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::{Value, json};
use stagedoor_lab::scene::Scene;
use stagedoor_lab::{Lab, Options};
use stagedoor_lab_core::faults::{Fault, FaultKind};
use stagedoor_lifecycle::receipt::{Outcome, Receipt, StepKind};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};

/// The terminating instance of the samples in `events/`.
pub(crate) const LEAVING: &str = "i-0a1b2c3d4e5f60718";
/// Another instance of the samples.
pub(crate) const OTHER: &str = "i-0b2c3d4e5f6071829";
/// The name of the terminating instance.
pub(crate) const NAME: &str = "ip-10-0-3-7.ec2.internal";
pub(crate) const TOPIC: &str = "arn:aws:sns:eu-west-1:111122223333:stagedoor";

/// A sample of `events/`.
pub(crate) fn event(name: &str) -> Value {
    let path = repository().join("events").join(format!("{name}.json"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).expect("a sample event is JSON")
}

/// The receipts in an answer that is not one for SQS.
pub(crate) fn receipts(answer: &Value) -> Vec<Receipt> {
    Vec::deserialize(&answer["results"]).unwrap_or_else(|error| panic!("{error}: {answer:#}"))
}

/// The receipt in an answer about one instance.
pub(crate) fn only(answer: &Value) -> Receipt {
    let receipts = receipts(answer);
    let [receipt] = <[Receipt; 1]>::try_from(receipts).unwrap_or_else(|_| panic!("not one receipt: {answer:#}"));
    receipt
}

/// The kinds of a receipt's steps, in their order.
pub(crate) fn kinds(receipt: &Receipt) -> Vec<StepKind> {
    receipt.steps.iter().map(|step| step.kind).collect()
}

/// A whole receipt, for a snapshot. What differs from run to run is replaced: the instance and its name, times, durations, serial
/// numbers.
pub(crate) fn redacted(receipt: &Receipt) -> String {
    let mut receipt = receipt.clone();
    receipt.steps.iter_mut().for_each(|step| step.took_ms = 0);
    let text = serde_json::to_string_pretty(&receipt).expect("a receipt is JSON");
    redacted_text(&receipt, &text, &[])
}

/// The reason of a receipt, for a snapshot of what an operator reads: as in [`redacted`], and with these other texts replaced.
pub(crate) fn redacted_reason(receipt: &Receipt, others: &[(&str, &str)]) -> String {
    redacted_text(receipt, &receipt.reason, others)
}

/// What the steps of this kind say, a line each; as in [`redacted`].
pub(crate) fn redacted_steps(receipt: &Receipt, kind: StepKind) -> String {
    let steps = receipt.steps.iter().filter(|step| step.kind == kind);
    let details: Vec<&str> = steps.map(|step| step.detail.as_str()).collect();
    redacted_text(receipt, &details.join("\n"), &[])
}

fn redacted_text(receipt: &Receipt, text: &str, others: &[(&str, &str)]) -> String {
    let instance = receipt.instance_id.as_ref().map(|instance| (instance.as_str(), "[instance]"));
    let certname = receipt.certname.as_ref().map(|certname| (certname.as_str(), "[certname]"));
    let names = certname.into_iter().chain(instance).chain(others.iter().copied());
    without_numbers(&names.fold(text.to_owned(), |text, (name, shown)| text.replace(name, shown)))
}

/// A text without its serial numbers and times.
pub(crate) fn without_numbers(text: &str) -> String {
    let ends_word = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | ':' | '.'));
    let words = text.split_inclusive(ends_word).map(|piece| {
        let word = piece.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        let is_serial = word.strip_prefix("0x").is_some_and(|hex| hex.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let is_time = word.parse::<jiff::Timestamp>().is_ok();
        let shown = if is_serial {
            "[serial]"
        } else if is_time {
            "[time]"
        } else {
            word
        };
        format!("{shown}{}", &piece[word.len()..])
    });
    words.collect()
}

/// How many receipts have this outcome.
pub(crate) fn count(receipts: &[Receipt], outcome: Outcome) -> usize {
    receipts.iter().filter(|receipt| receipt.outcome == outcome).count()
}

pub(crate) fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Where `cargo build` put the functions: beside this test.
pub(crate) fn built() -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    test.ancestors().nth(2).expect("target/PROFILE/deps").to_owned()
}

/// The binary that `cargo build` made beside this test.
pub(crate) fn function_binary(name: &str) -> PathBuf {
    let binary = built().join(name);
    assert!(
        binary.exists(),
        "{} is missing: `make test` builds the functions first, or run `cargo build -p stagedoor-functions`",
        binary.display()
    );
    binary
}

/// An instance of the group `compilers`, and the node that it is to Puppet.
pub(crate) fn compilers(state: &str) -> Value {
    json!({
        "groups": [{
            "name": "compilers",
            "tags": {"stagedoor:profile": "compiler"},
            "hooks": [{"name": "stagedoor-terminate", "transition": "terminating", "default_result": "CONTINUE"}],
            "instances": [
                {"id": LEAVING, "state": state, "private_ip": "10.0.3.7", "private_dns": NAME},
                {"id": OTHER, "private_ip": "10.0.3.8", "private_dns": "ip-10-0-3-8.ec2.internal"},
            ],
        }],
        "nodes": [
            {"certname": NAME, "instance_id": LEAVING},
            {"certname": "ip-10-0-3-8.ec2.internal", "instance_id": OTHER},
        ],
        "topics": [TOPIC],
    })
}

/// This scene with a first hook whose heartbeat timeout is 30 seconds, so that a heartbeat is due every 10.
pub(crate) fn short_heartbeat(mut scene: Value) -> Value {
    scene["groups"][0]["hooks"][0]["heartbeat_timeout_s"] = json!(30);
    scene
}

/// A lab, and a function that runs in it.
pub(crate) struct Rehearsal {
    pub(crate) lab: Lab,
    /// Changes of the function's environment.
    pub(crate) environment: BTreeMap<String, String>,
    configured: bool,
    functions: BTreeMap<&'static str, Child>,
    log: Arc<Mutex<String>>,
    readers: Vec<tokio::task::JoinHandle<()>>,
    secrets: Vec<String>,
}

impl Rehearsal {
    pub(crate) async fn of(scene: Value) -> Self {
        Self::with(scene, Options::default()).await
    }

    pub(crate) async fn with(scene: Value, options: Options) -> Self {
        let lab = Lab::start(options).await.expect("the lab starts");
        let secrets = secret_values(&lab);
        lab.set_scene(&Scene::from_json(scene).expect("a scene")).expect("a scene that can be");
        let config = lab.environment()["STAGEDOOR_CONFIG"].clone();
        // Short, so that a test of a failure does not wait for long; and without housekeeping, which depends on the clock.
        let config = format!("budget = \"2s\"\nnotify.topic = \"{TOPIC}\"\nhousekeeping.every = \"never\"\n{config}");
        let environment = BTreeMap::from([("STAGEDOOR_CONFIG".to_owned(), config)]);
        Self {
            lab,
            environment,
            configured: true,
            functions: BTreeMap::new(),
            log: Arc::default(),
            readers: Vec::new(),
            secrets,
        }
    }

    /// Changes the configuration.
    pub(crate) fn configure(&mut self, change: impl FnOnce(&str) -> String) {
        let config = self.environment.get_mut("STAGEDOOR_CONFIG").expect("is set");
        *config = change(config);
    }

    /// Takes the configuration away altogether.
    pub(crate) fn without_config(&mut self) {
        self.environment.clear();
        self.configured = false;
    }

    /// Another value that must never be seen in what the function writes.
    pub(crate) fn keep_secret(&mut self, value: &str) {
        self.secrets.push(value.to_owned());
    }

    /// Starts a function's process; a former one is killed.
    pub(crate) fn start(&mut self, function: &'static str) -> &mut Child {
        let child = self.another(function);
        self.functions.insert(function, child);
        self.functions.get_mut(function).expect("it has just been put there")
    }

    /// Starts one more process of a function, as Lambda does when invocations overlap.
    pub(crate) fn another(&mut self, function: &'static str) -> Child {
        let mut command = Command::new(function_binary(function));
        command.env_clear().kill_on_drop(true).stdout(Stdio::piped()).stderr(Stdio::piped());
        let environment = self.lab.function_environment(function).into_iter();
        for (name, value) in environment.filter(|(name, _)| self.configured || !name.starts_with("STAGEDOOR_CONFIG")) {
            command.env(name, value);
        }
        command.env("RUST_LOG", "debug");
        command.envs(&self.environment);
        let mut child = command.spawn().expect("the function starts");
        self.collect(child.stdout.take().expect("piped"));
        self.collect(child.stderr.take().expect("piped"));
        child
    }

    pub(crate) fn start_purge(&mut self) -> &mut Child {
        self.start("purge")
    }

    fn collect(&mut self, stream: impl AsyncRead + Send + Unpin + 'static) {
        let log = self.log.clone();
        let reader = tokio::spawn(async move {
            let mut lines = BufReader::new(stream).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let mut log = log.lock().expect("not poisoned");
                log.push_str(&line);
                log.push('\n');
            }
        });
        self.readers.push(reader);
    }

    /// The messages to the topic, oldest first.
    pub(crate) fn published(&self) -> Vec<Value> {
        let messages = self.lab.aws.published(TOPIC);
        messages.iter().map(|message| serde_json::from_str(&message.text).expect("JSON")).collect()
    }

    /// The outcomes in the messages to the topic, each with its instance and code.
    pub(crate) fn published_outcomes(&self) -> Vec<(String, String, String)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let results =
            self.published().into_iter().flat_map(|news| news["results"].as_array().cloned().unwrap_or_default());
        results.map(|one| (text(&one["instance_id"]), text(&one["outcome"]), text(&one["code"]))).collect()
    }

    /// The log lines so far that are JSON.
    pub(crate) fn log_lines(&self) -> Vec<Value> {
        self.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Everything that the function has written so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().expect("not poisoned").clone()
    }

    /// Everything that a function that has ended by itself wrote.
    pub(crate) async fn ended_log(&mut self) -> String {
        for reader in self.readers.drain(..) {
            reader.await.expect("reads to the end");
        }
        self.log()
    }

    /// Ends a function, so that the next invocation starts it with the configuration of then.
    pub(crate) async fn end(&mut self, function: &str) {
        let mut child = self.functions.remove(function).expect("it runs");
        child.kill().await.expect("it can be ended");
    }

    /// Ends a function: the metrics of its last invocation, without those of single services.
    pub(crate) async fn metrics(&mut self, function: &str) -> Value {
        self.every_metric(function).await.pop().unwrap_or_else(|| panic!("no metrics in {}", self.log()))
    }

    /// Ends a function: all documents with metrics that it has written.
    pub(crate) async fn every_metric(&mut self, function: &str) -> Vec<Value> {
        self.end(function).await;
        let log = self.ended_log().await;
        let lines = log.lines().filter(|line| line.contains("\"CloudWatchMetrics\":"));
        lines.map(|line| serde_json::from_str(line).expect("metrics are JSON")).collect()
    }

    /// Invokes a function and returns its answer, after checking that no secret is in the answer, the log or the journal.
    pub(crate) async fn invoke(&mut self, function: &'static str, event: &Value) -> Value {
        if !self.functions.contains_key(function) {
            self.start(function);
        }
        let answer = self.lab.invoke(function, event).await;
        let answer = answer.unwrap_or_else(|error| panic!("{error}\n{}", self.log()));
        self.assert_no_secret_in("the answer", &answer.to_string());
        self.assert_no_secret_in("the log", &self.log());
        let journal = serde_json::to_string(&self.lab.journal.entries()).expect("JSON");
        self.assert_no_secret_in("the journal", &journal);
        self.assert_no_secret_in("what was published", &format!("{:?}", self.lab.aws.published(TOPIC)));
        self.note_what_was_called(function);
        answer
    }

    pub(crate) async fn purge(&mut self, event: &Value) -> Value {
        self.invoke("purge", event).await
    }

    /// Invokes `onboard` with the event of one instance that is not delivered by SQS: its receipt.
    pub(crate) async fn onboard(&mut self, event: &Value) -> Receipt {
        only(&self.invoke("onboard", event).await)
    }

    /// Keeps the AWS actions that were called, where the check of the roles in `infra/` looks for them. A rehearsal of
    /// more than one function cannot attribute them.
    fn note_what_was_called(&self, function: &str) {
        let (Some(directory), 1) = (std::env::var_os("STAGEDOOR_SEEN"), self.functions.len()) else { return };
        let services = ["autoscaling", "ec2", "secretsmanager", "sns"];
        let called = self.lab.journal.entries().into_iter().filter(|entry| services.contains(&entry.service.as_str()));
        let actions: BTreeSet<String> = called.map(|entry| format!("{}:{}", entry.service, entry.call)).collect();
        let directory = PathBuf::from(directory).join(function);
        std::fs::create_dir_all(&directory).expect("a directory for what was called");
        let file = directory.join(format!("{}.json", uuid::Uuid::new_v4().simple()));
        std::fs::write(file, json!(actions).to_string()).expect("what was called is written down");
    }

    /// The same, for an event of one instance that is not delivered by SQS: its receipt.
    pub(crate) async fn receipt(&mut self, name: &str) -> Receipt {
        only(&self.purge(&event(name)).await)
    }

    pub(crate) fn assert_no_secret_in(&self, what: &str, text: &str) {
        for secret in &self.secrets {
            assert!(!text.contains(secret.as_str()), "a secret value is in {what}:\n{text}");
        }
    }

    pub(crate) fn fault(&self, service: &str, call: &str, nth: Option<u32>, kind: FaultKind) {
        self.lab.faults.add(Fault { service: service.into(), call: call.into(), nth, subject: None, kind });
    }

    /// The calls that change something, as "service call subject".
    pub(crate) fn writes(&self) -> Vec<String> {
        let reads = ["GET ", "Describe", "GetSecretValue", "POST /pdb/query"];
        let entries = self.lab.journal.entries().into_iter();
        entries
            .filter(|entry| !reads.iter().any(|read| entry.call.starts_with(read)))
            .map(|entry| format!("{} {} {}", entry.service, entry.call, entry.subject.unwrap_or_default()))
            .collect()
    }

    /// How often the CA was asked for a list that holds certificates.
    pub(crate) fn lists_of_certificates(&self) -> usize {
        let is_one = |entry: &stagedoor_lab_core::journal::Entry| {
            entry.call.starts_with("GET /puppet-ca/v1/certificate_statuses")
                && entry.request["query"]["state"] != "requested"
        };
        self.lab.journal.entries().iter().filter(|entry| is_one(entry)).count()
    }

    /// What Puppet holds under a name: whether a certificate, and whether an active node.
    pub(crate) fn puppet_has(&self, certname: &str) -> (bool, bool) {
        let puppet = &self.lab.puppet;
        (puppet.certificate(certname).is_some(), puppet.is_active(certname) == Some(true))
    }

    /// The serial number of the certificate that the CA has under a name.
    pub(crate) fn serial_of(&self, certname: &str) -> u64 {
        self.lab.puppet.certificate(certname).unwrap_or_else(|| panic!("{certname} has no certificate")).serial
    }

    /// How often the CA was told to sign.
    pub(crate) fn signings(&self) -> usize {
        let signs = |entry: &stagedoor_lab_core::journal::Entry| {
            entry.call.starts_with("POST /puppet-ca/v1/sign") || entry.request["body"]["desired_state"] == "signed"
        };
        self.lab.journal.calls("ca").iter().filter(|entry| signs(entry)).count()
    }

    /// The text of the secret with the controller's credentials.
    pub(crate) fn puppet_secret(&self) -> String {
        self.lab.aws.secret("stagedoor/puppet").expect("the lab has it").expose_secret().to_owned()
    }

    /// The instance's lifecycle state; `None` once it is gone from its group.
    pub(crate) fn state_of(&self, instance: &str) -> Option<String> {
        self.lab.aws.lifecycle_state(instance)
    }
}

/// The values in the Puppet secret that must never be seen: the key line by line, the token, the challenge.
fn secret_values(lab: &Lab) -> Vec<String> {
    let text = lab.aws.secret("stagedoor/puppet").expect("the lab has it");
    let secret: Value = serde_json::from_str(text.expose_secret()).expect("JSON");
    let key = secret["client_key"].as_str().expect("text").lines().filter(|line| !line.starts_with("-----"));
    let values = key.chain(secret["rbac_token"].as_str()).chain(secret["challenge"].as_str());
    let values: Vec<String> = values.map(str::to_owned).collect();
    assert!(values.len() >= 4, "a key of some lines, a token and a challenge");
    values
}
