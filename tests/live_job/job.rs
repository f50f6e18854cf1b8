//! A lab that is AWS, the real servers that are Puppet, and the function between them.

use std::collections::BTreeMap;

use secrecy::SecretString;
use serde_json::{Value, json};
use stagedoor_lab::aws::Terminate;
use stagedoor_lab::scene::Scene;
use stagedoor_lab::{Lab, Options};
use stagedoor_lifecycle::{Certname, InstanceId};
use stagedoor_puppet::{Ca, CaAdmin, Credentials, PuppetDb, Transport};

use super::cargo_lambda::CargoLambda;
use crate::live_stage::LiveStage;

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
    transport: Transport,
    function: CargoLambda,
    /// The answers of the function so far.
    answers: String,
    secrets: Vec<String>,
}

impl Job {
    /// A group with one instance in service for each label; the same label twice is the same name twice.
    pub(super) async fn begin(labels: &[&'static str]) -> Self {
        let stage = LiveStage::read();
        let instances = instances(labels);
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
        let secrets = key.chain([token, challenge]).collect();

        let options = Options {
            serve_puppet: false,
            secrets: BTreeMap::from([("stagedoor/puppet".to_owned(), secret)]),
            ..Options::default()
        };
        let lab = Lab::start(options).await.expect("the lab starts");
        lab.set_scene(&scene(&instances)).expect("a scene that can be");
        let mut environment = lab.environment();
        let config = format!(
            "puppet.secret = \"stagedoor/puppet\"\npuppet.ca = \"{}\"\npuppet.puppetdb = \"{}\"\n\
             profile.compiler.certname = \"{{private_dns}}\"\n",
            stage.ca_url, stage.puppetdb_url
        );
        environment.insert("STAGEDOOR_CONFIG".to_owned(), config);
        let function = CargoLambda::watch(&environment).await;
        let transport = transport.expect("the stage's credentials");
        Self { stage, lab, instances, transport, function, answers: String::new(), secrets }
    }

    pub(super) fn instance(&self, label: &str) -> Instance {
        self.instances.iter().find(|instance| instance.label == label).expect("an instance of that label").clone()
    }

    pub(super) fn ca(&self) -> Ca {
        Ca::new(&self.transport, &self.stage.ca_url.parse().expect("an address"))
    }

    pub(super) fn ca_admin(&self) -> CaAdmin {
        CaAdmin::new(self.ca())
    }

    pub(super) fn puppetdb(&self) -> PuppetDb {
        PuppetDb::new(&self.transport, &self.stage.puppetdb_url.parse().expect("an address"))
    }

    /// Auto Scaling terminates an instance, and the function gets the event of that: its receipt.
    pub(super) async fn terminate(&mut self, instance: &InstanceId) -> Value {
        let begun = self.lab.aws.terminate(instance.as_str(), &Terminate::default()).expect("it is in service");
        let [event] = begun.events.as_slice() else { panic!("not one event: {:?}", begun.events) };
        assert_eq!(self.lab.aws.lifecycle_state(instance.as_str()).as_deref(), Some("Terminating:Wait"));
        let event = event.eventbridge.clone();
        self.purge(&event).await
    }

    /// Invokes the release build of `purge` with an event: its one receipt.
    pub(super) async fn purge(&mut self, event: &Value) -> Value {
        let answer = self.function.invoke("purge", event).await;
        self.answers.push_str(&answer.to_string());
        let log = self.function.log();
        assert!(log.contains("release/purge`"), "it is the release build that runs:\n{log}");
        let results = answer["results"].as_array().unwrap_or_else(|| panic!("no results: {answer}\n{log}"));
        assert_eq!(results.len(), 1, "{answer}\n{log}");
        results[0].clone()
    }

    /// The hook was completed once, with CONTINUE, and the instance has left.
    pub(super) fn assert_let_go(&self, instance: &InstanceId) {
        let calls = self.lab.journal.calls("autoscaling");
        let completed: Vec<_> = calls.iter().filter(|entry| entry.call == "CompleteLifecycleAction").collect();
        let [entry] = completed.as_slice() else { panic!("not one completion: {completed:#?}") };
        assert_eq!(entry.request["LifecycleActionResult"], "CONTINUE", "{entry:#?}");
        assert_eq!((entry.subject.as_deref(), entry.status), (Some(instance.as_str()), Some(200)), "{entry:#?}");
        let state = self.lab.aws.lifecycle_state(instance.as_str());
        assert_eq!(state.as_deref(), Some("Terminated"), "it has left Terminating:Wait");
    }

    /// Another value that must never be told.
    pub(super) fn keep_secret(&mut self, value: &str) {
        self.secrets.push(value.to_owned());
    }

    pub(super) fn assert_no_secret_is_told(&self) {
        let journal = serde_json::to_string(&self.lab.journal.entries()).expect("JSON");
        assert!(journal.contains("GetSecretValue"), "the function has read the secret");
        let log = self.function.log();
        assert!(log.contains("GetSecretValue"), "the log says what is done:\n{log}");
        for (what, told) in [("the log", log), ("an answer", self.answers.clone()), ("the journal", journal)] {
            for secret in &self.secrets {
                assert!(!told.contains(secret.as_str()), "a secret value is in {what}:\n{told}");
            }
        }
    }
}

/// A terminate event for an instance that nobody terminates.
pub(super) fn event_of_another_life(instance: &InstanceId) -> Value {
    let mut event = crate::rehearsal::event("eventbridge-terminate");
    event["detail"]["EC2InstanceId"] = instance.as_str().into();
    event["detail"]["AutoScalingGroupName"] = "compilers".into();
    event["detail"]["LifecycleHookName"] = "stagedoor-terminate".into();
    event
}

fn instances(labels: &[&'static str]) -> Vec<Instance> {
    // Real servers keep what earlier runs left there, so no name comes twice.
    let run = uuid::Uuid::new_v4().simple().to_string();
    let instance = |(nth, label): (usize, &&'static str)| Instance {
        label,
        id: format!("i-{}{nth:x}", &run[..16]).parse().expect("an instance id"),
        certname: format!("{label}-{}.ec2.internal", &run[..12]).parse().expect("a certname"),
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
            "name": "compilers",
            "tags": {"stagedoor:profile": "compiler"},
            "hooks": [{"name": "stagedoor-terminate", "transition": "terminating", "default_result": "ABANDON"}],
            "instances": instances,
        }],
    });
    Scene::from_json(scene).expect("a scene")
}
