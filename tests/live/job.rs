//! A lab that is AWS, the real servers that are Puppet, and the function between them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use serde::Deserialize;
use serde_json::{Value, json};
use stagedoor_lab::cargo_lambda::CargoLambda;
use stagedoor_lab::scene::Scene;
use stagedoor_lab::{Lab, Options};
use stagedoor_lab_aws::{Launch, Terminate};
use stagedoor_lifecycle::reason::Code;
use stagedoor_lifecycle::receipt::{Outcome, Receipt, StepKind};
use stagedoor_puppet::{Ca, CaAdmin, Certificate, Credentials, PuppetDb, Transport};
use stagedoor_types::{Certname, InstanceId};
use tokio::process::Command;
use tokio::time::Instant;

use super::text;
use crate::conformance::site::permit;
use crate::e2e::rehearsal::{TOPIC, built, kinds, only, repository};
use crate::live::stage::LiveStage;

/// An instance of the group `compilers`, and the name that it has in Puppet.
#[derive(Clone)]
pub(super) struct Instance {
    label: &'static str,
    pub(super) id: InstanceId,
    pub(super) certname: Certname,
}

pub(super) struct Job {
    pub(super) stage: LiveStage,
    pub(super) lab: Lab,
    pub(super) instances: Vec<Instance>,
    /// The one-time secret that instances are given.
    pub(super) challenge: String,
    transport: Transport,
    functions: CargoLambda,
    /// The answers of the functions so far.
    answers: String,
    secrets: Vec<String>,
}

const GROUP: &str = "compilers";

impl Job {
    /// A group with one instance in service for each label; the same label twice is the same name twice.
    pub(super) async fn begin(labels: &[&'static str]) -> Self {
        let instances = instances(labels, "ec2.internal");
        let scene = scene(&instances);
        Self::with(instances, scene, "profile.compiler.certname = \"{private_dns}\"\n").await
    }

    /// A group that is to launch these instances. `config` is the configuration but for the addresses of Puppet.
    pub(super) async fn awaiting(instances: Vec<Instance>, config: &str) -> Self {
        Self::with(instances, scene(&[]), config).await
    }

    async fn with(instances: Vec<Instance>, scene: Scene, config: &str) -> Self {
        let stage = LiveStage::read();
        let token = format!("token-{}", uuid::Uuid::new_v4().simple());
        let challenge = format!("challenge-{}", uuid::Uuid::new_v4().simple());
        let secret = json!({
            "ca_cert": stage.ca_cert,
            "client_cert": stage.controller.cert,
            "client_key": stage.controller.key,
            "rbac_token": token,
            "challenge": challenge,
        });
        let secret = SecretString::from(secret.to_string());
        let transport = Credentials::from_json(&secret).and_then(|credentials| credentials.transport());
        let key = stage.controller.key.lines().filter(|line| !line.starts_with("-----")).map(str::to_owned);
        let secrets = key.chain([token, challenge.clone()]).collect();

        let options = Options {
            serve_puppet: false,
            secrets: BTreeMap::from([("stagedoor/puppet".to_owned(), secret)]),
            ..Options::default()
        };
        let lab = Lab::start(options).await.expect("the lab starts");
        lab.set_scene(&scene).expect("a scene that can be");
        let mut environment = lab.environment();
        let config = format!(
            "{config}\n[puppet]\nsecret = \"stagedoor/puppet\"\nca = \"{}\"\npuppetdb = \"{}\"\n\
             [notify]\ntopic = \"{TOPIC}\"\n",
            stage.ca_url, stage.puppetdb_url
        );
        environment.insert("STAGEDOOR_CONFIG".to_owned(), config);
        // The most verbose level: secrets must not appear in that log either.
        environment.insert("RUST_LOG".to_owned(), "trace".to_owned());
        let functions =
            CargoLambda::start(cargo_lambda().await, functions(), environment).await.expect("cargo-lambda runs");
        let transport = transport.expect("the stage's credentials");
        Self { stage, lab, instances, challenge, transport, functions, answers: String::new(), secrets }
    }

    pub(super) fn instance(&self, label: &str) -> Instance {
        self.instances.iter().find(|instance| instance.label == label).expect("an instance of that label").clone()
    }

    pub(super) fn ca(&self) -> Ca {
        Ca::new(&self.transport, &self.stage.ca_url.parse().expect("an address"))
    }

    pub(super) fn ca_admin(&self) -> CaAdmin {
        CaAdmin::new(self.ca(), permit())
    }

    pub(super) fn puppetdb(&self) -> PuppetDb {
        PuppetDb::new(&self.transport, &self.stage.puppetdb_url.parse().expect("an address"))
    }

    /// Auto Scaling launches an instance: its event. Its address is the one at which Puppet Server stands for it.
    pub(super) fn launch(&self, instance: &Instance) -> Value {
        let launch = Launch {
            id: Some(instance.id.to_string()),
            private_ip: Some("127.0.0.1".to_owned()),
            private_dns: Some(instance.certname.to_string()),
            ..Launch::default()
        };
        let begun = self.lab.aws.launch(GROUP, &launch).expect("it can be launched");
        let [event] = begun.events.as_slice() else { panic!("not one event: {:?}", begun.events) };
        assert_eq!(self.state_of(instance).as_deref(), Some("Pending:Wait"));
        event.eventbridge.clone()
    }

    /// An instance dies without its hooks.
    pub(super) fn kill(&self, instance: &Instance) {
        let force = Terminate { force: true, ..Terminate::default() };
        self.lab.aws.terminate(instance.id.as_str(), &force).expect("it can be terminated");
    }

    /// Auto Scaling terminates an instance, and the function gets the event of that: its receipt.
    pub(super) async fn terminate(&mut self, instance: &InstanceId) -> Receipt {
        let event = self.begin_to_terminate(instance);
        self.purge(&event).await
    }

    /// Auto Scaling terminates an instance: its event.
    pub(super) fn begin_to_terminate(&self, instance: &InstanceId) -> Value {
        let begun = self.lab.aws.terminate(instance.as_str(), &Terminate::default()).expect("it is in service");
        let [event] = begun.events.as_slice() else { panic!("not one event: {:?}", begun.events) };
        assert_eq!(self.lab.aws.lifecycle_state(instance.as_str()).as_deref(), Some("Terminating:Wait"));
        event.eventbridge.clone()
    }

    /// Invokes `purge` with an event: its one receipt.
    pub(super) async fn purge(&mut self, event: &Value) -> Receipt {
        only(&self.invoke("purge", event).await)
    }

    /// Invokes `onboard` with an event: its one receipt.
    pub(super) async fn onboard(&mut self, event: &Value) -> Receipt {
        only(&self.invoke("onboard", event).await)
    }

    /// Invokes `onboard` again and again, as the sweep would, until the receipt has this code.
    pub(super) async fn onboard_until(&mut self, event: &Value, code: Code) {
        let until = Instant::now() + Duration::from_secs(150);
        loop {
            let receipt = self.onboard(event).await;
            assert_eq!(receipt.outcome, Outcome::Waiting, "{receipt:#?}");
            if receipt.code == code {
                return;
            }
            assert!(Instant::now() < until, "not {code} after 150 s: {receipt:#?}");
        }
    }

    /// The most memory that this function has had so far, in MiB.
    pub(super) fn peak_memory(&self, function: &str) -> u64 {
        self.functions.peak_memory(function).expect("it runs")
    }

    /// What the functions have written so far.
    pub(super) fn log(&self) -> String {
        self.functions.log()
    }

    /// Invokes a function with an event: its answer.
    pub(super) async fn invoke(&mut self, function: &str, event: &Value) -> Value {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), event.to_string()).expect("the event is written");
        let answer = self.functions.invoke(function, file.path()).await.expect("an answer");
        self.answers.push_str(&answer.to_string());
        answer
    }

    /// Asserts that the receipt and Puppet agree that this instance was purged: `certificate`, which it had, is removed and in the
    /// CRL, and its node is deactivated.
    pub(super) async fn assert_purged(&self, receipt: &Receipt, instance: &Instance, certificate: &Certificate) {
        assert!(matches!((receipt.outcome, receipt.code), (Outcome::Continued, Code::Purged(_))), "{receipt:#?}");
        assert_eq!(receipt.certname.as_ref(), Some(&instance.certname));
        assert!(kinds(receipt).contains(&StepKind::Proven), "{receipt:#?}");
        let ca = self.ca();
        assert_eq!(ca.certificate(&instance.certname).await, Ok(None), "the certificate is gone");
        assert_eq!(ca.status(&instance.certname).await, Ok(None), "nor is there a request");
        assert!(ca.crl().await.unwrap().revokes(certificate), "its serial is in the CRL");
        let node = self.puppetdb().node(&instance.certname).await.unwrap().expect("PuppetDB remembers it");
        assert!(node.deactivated.is_some(), "{node:?}");
    }

    /// The action was completed once, with CONTINUE, and the instance has terminated.
    pub(super) fn assert_let_go(&self, instance: &InstanceId) {
        assert_eq!(self.completions(), [(instance.to_string(), "CONTINUE".to_owned())]);
        let state = self.lab.aws.lifecycle_state(instance.as_str());
        assert_eq!(state.as_deref(), Some("Terminated"), "it has left Terminating:Wait");
    }

    /// The actions completed so far: instance and result, by instance.
    pub(super) fn completions(&self) -> Vec<(String, String)> {
        let calls = self.lab.journal.calls("autoscaling").into_iter();
        let completed = calls.filter(|entry| entry.call == "CompleteLifecycleAction").map(|entry| {
            assert_eq!(entry.status, Some(200), "{entry:#?}");
            let result = entry.request["LifecycleActionResult"].as_str().expect("a result").to_owned();
            (entry.subject.expect("an instance"), result)
        });
        let mut completed: Vec<_> = completed.collect();
        completed.sort();
        completed
    }

    /// What was published about an instance: outcome, code and reason.
    pub(super) fn published(&self, instance: &Instance) -> (Outcome, Code, String) {
        let messages = self.lab.aws.published(TOPIC).into_iter();
        let results = messages.flat_map(|message| {
            let message: Value = serde_json::from_str(&message.text).expect("JSON");
            message["results"].as_array().expect("results").clone()
        });
        let about: Vec<Value> = results.filter(|result| result["instance_id"] == instance.id.as_str()).collect();
        let [one] = about.as_slice() else { panic!("not one message about {}: {about:#?}", instance.id) };
        let outcome = Outcome::deserialize(&one["outcome"]).expect("an outcome");
        let code = Code::deserialize(&one["code"]).expect("a code");
        (outcome, code, one["reason"].as_str().expect("a reason").to_owned())
    }

    pub(super) fn state_of(&self, instance: &Instance) -> Option<String> {
        self.lab.aws.lifecycle_state(instance.id.as_str())
    }

    /// Another value that must never appear in any output.
    pub(super) fn keep_secret(&mut self, value: &str) {
        self.secrets.push(value.to_owned());
    }

    pub(super) fn assert_no_secret_is_told(&self) {
        let journal = serde_json::to_string(&self.lab.journal.entries()).expect("JSON");
        assert!(journal.contains("GetSecretValue"), "the function has read the secret");
        let log = self.functions.log();
        assert!(log.contains("GetSecretValue"), "the log says what is done:\n{log}");
        let published = format!("{:?}", self.lab.aws.published(TOPIC));
        let told = [("the log", log), ("an answer", self.answers.clone()), ("the journal", journal)];
        for (what, told) in told.into_iter().chain([("what was published", published)]) {
            for secret in &self.secrets {
                assert!(!told.contains(secret.as_str()), "a secret value is in {what}:\n{told}");
            }
        }
    }
}

/// The directory of the built functions: that of this test, or the one that `STAGEDOOR_LIVE_FUNCTIONS` names, for measuring release
/// builds.
pub(super) fn functions() -> PathBuf {
    std::env::var_os("STAGEDOOR_LIVE_FUNCTIONS").map_or_else(built, PathBuf::from)
}

/// `tools/cargo-lambda` installs it where it is missing, and says where it is.
async fn cargo_lambda() -> PathBuf {
    let output = Command::new(repository().join("tools/cargo-lambda")).output().await.expect("tools/cargo-lambda runs");
    assert!(output.status.success(), "cargo-lambda could not be installed:\n{}", text(&output));
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()).join("cargo-lambda")
}

/// A terminate event for an instance that is not terminating.
pub(super) fn event_of_another_life(instance: &InstanceId) -> Value {
    let mut event = crate::e2e::rehearsal::event("eventbridge-terminate");
    event["detail"]["EC2InstanceId"] = instance.as_str().into();
    event["detail"]["AutoScalingGroupName"] = GROUP.into();
    event["detail"]["LifecycleHookName"] = "stagedoor-terminate".into();
    event
}

/// Instances with names in this domain; the same label twice is the same name twice.
pub(super) fn instances(labels: &[&'static str], domain: &str) -> Vec<Instance> {
    // Real servers keep what earlier runs left there, so no name comes twice.
    let run = uuid::Uuid::new_v4().simple().to_string();
    let instance = |(nth, label): (usize, &&'static str)| Instance {
        label,
        id: format!("i-{}{nth:03x}", &run[..14]).parse().expect("an instance id"),
        certname: format!("{label}-{}.{domain}", &run[..12]).parse().expect("a certname"),
    };
    labels.iter().enumerate().map(instance).collect()
}

fn scene(instances: &[Instance]) -> Scene {
    let instances: Vec<Value> = instances
        .iter()
        .map(|instance| json!({"id": instance.id.as_str(), "private_dns": instance.certname.as_str()}))
        .collect();
    let scene = json!({
        "groups": [{
            "name": GROUP,
            "tags": {"stagedoor:profile": "compiler"},
            "hooks": [
                {"name": "stagedoor-launch", "transition": "launching", "default_result": "ABANDON"},
                {"name": "stagedoor-terminate", "transition": "terminating", "default_result": "ABANDON"},
            ],
            "instances": instances,
        }],
        "topics": [TOPIC],
    });
    Scene::from_json(scene).expect("a scene")
}
