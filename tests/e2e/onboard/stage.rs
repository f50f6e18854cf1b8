//! A group of compilers that may launch instances, agents on them, and the Puppet site that they come to.

use serde_json::{Value, json};
use stagedoor_lab::Options;
use stagedoor_lab::agent::{Agent, RunningAgent};
use stagedoor_lab_aws::Launch;
use stagedoor_lab_puppet::PuppetOptions;
use stagedoor_lifecycle::receipt::{Outcome, Receipt};

use crate::e2e::rehearsal::{Rehearsal, TOPIC, receipts};

pub(crate) const CHALLENGE: &str = "the challenge that instances are given";
pub(crate) const PRIMARY: &str = "primary.example.com";
pub(crate) const GROUP: &str = "compilers";

/// What the agents of compilers ask for, and what their profile requires.
const PROFILE: &str = "sign.require = { pp_role = \"compiler\" }\n\
                       sign.alt_names = [\"puppet.example.com\"]\n";

/// A CA that accepts requests for names that have a certificate.
pub(crate) fn with_duplicates() -> PuppetOptions {
    PuppetOptions { allow_duplicate_certs: true, ..PuppetOptions::default() }
}

/// A stage on which instances are launched.
pub(crate) struct Stage {
    pub(crate) rehearsal: Rehearsal,
}

impl Stage {
    /// Open source Puppet; `profile` holds further keys of the profile.
    pub(crate) async fn open_source(profile: &str) -> Self {
        Self::with(PuppetOptions::default(), profile).await
    }

    /// Puppet Enterprise.
    pub(crate) async fn enterprise(profile: &str) -> Self {
        Self::with(PuppetOptions::enterprise(), profile).await
    }

    pub(crate) async fn with(puppet: PuppetOptions, profile: &str) -> Self {
        let puppet = PuppetOptions {
            challenge: Some(CHALLENGE.to_owned().into()),
            allow_subject_alt_names: true,
            allow_authorization_extensions: true,
            ..puppet
        };
        let mut rehearsal = Rehearsal::with(scene(), Options { puppet, ..Options::default() }).await;
        rehearsal.keep_secret(CHALLENGE);
        rehearsal.configure(|config| {
            format!("{}{PROFILE}{profile}\n", config.replace("budget = \"2s\"", "budget = \"30s\""))
        });
        Self { rehearsal }
    }

    /// Another budget: for what is not done within it.
    pub(crate) fn budget(&mut self, budget: &str) {
        self.rehearsal.configure(|config| config.replace("budget = \"30s\"", &format!("budget = \"{budget}\"")));
    }

    /// Auto Scaling launches an instance: its id and its event.
    pub(crate) fn launch(&self) -> (String, Value) {
        self.launch_as(&Launch::default())
    }

    pub(crate) fn launch_as(&self, launch: &Launch) -> (String, Value) {
        let begun = self.rehearsal.lab.aws.launch(GROUP, launch).expect("it can be launched");
        let [event] = begun.events.as_slice() else { panic!("not one event: {:?}", begun.events) };
        (begun.instance_id.clone(), event.eventbridge.clone())
    }

    /// An agent as the user data of this fleet sets it up.
    pub(crate) fn compiler(instance: &str) -> Agent {
        Agent {
            extensions: [("pp_role".to_owned(), "compiler".to_owned())].into(),
            alt_names: vec!["puppet.example.com".to_owned()],
            challenge: Some(CHALLENGE.to_owned().into()),
            ..Agent::on(instance)
        }
    }

    pub(crate) fn start(&self, agent: Agent) -> RunningAgent {
        self.rehearsal.lab.agents.start(agent).expect("an agent that can be")
    }

    /// The name that an instance has at EC2, and so at Puppet.
    pub(crate) fn name_of(&self, instance: &str) -> String {
        self.rehearsal.lab.aws.machine(instance).expect("EC2 knows it").private_dns
    }

    /// Launches an instance with its agent, and onboards it: id, agent, receipt.
    pub(crate) async fn enrol(&mut self) -> (String, RunningAgent, Receipt) {
        let (instance, event) = self.launch();
        let agent = self.start(Self::compiler(&instance));
        let receipt = self.rehearsal.onboard(&event).await;
        assert_eq!(receipt.outcome, Outcome::Continued, "{receipt:#?}");
        (instance, agent, receipt)
    }

    /// One sweep, which alone orders runs of refresh targets for launches: the receipt of an instance.
    pub(crate) async fn swept(&mut self, instance: &str) -> Receipt {
        let receipts = receipts(&self.rehearsal.invoke("sweep", &json!({})).await);
        let own =
            receipts.iter().find(|receipt| receipt.instance_id.as_ref().is_some_and(|id| id.as_str() == instance));
        own.unwrap_or_else(|| panic!("no receipt of {instance}: {receipts:#?}")).clone()
    }

    /// As [`Stage::enrol`], by a sweep.
    pub(crate) async fn enrol_by_sweep(&mut self) -> (String, RunningAgent, Receipt) {
        let (instance, _) = self.launch();
        let agent = self.start(Self::compiler(&instance));
        let receipt = self.swept(&instance).await;
        assert_eq!(receipt.outcome, Outcome::Continued, "{receipt:#?}");
        (instance, agent, receipt)
    }

    /// From now on, the primary is a refresh target.
    pub(crate) fn refresh_the_primary(&mut self) {
        self.rehearsal.configure(|config| format!("{config}refresh = [\"{PRIMARY}\"]\n"));
    }

    /// Whether the newest Puppet run of a node is that of the newest job.
    pub(crate) fn ran_as_ordered(&self, certname: &str) -> bool {
        let puppet = &self.rehearsal.lab.puppet;
        let (state, jobs) = (puppet.snapshot(), puppet.jobs());
        let ran =
            |node: &Value, job: &Value| node["certname"] == certname && node["latest_report_job_id"] == job["name"];
        let nodes = state["nodes"].as_array().expect("a list");
        jobs.last().is_some_and(|job| nodes.iter().any(|node| ran(node, job)))
    }

    pub(crate) fn state_of(&self, instance: &str) -> Option<String> {
        self.rehearsal.state_of(instance)
    }
}

pub(crate) fn scene() -> Value {
    json!({
        "groups": [{
            "name": GROUP,
            "tags": {"stagedoor:profile": "compiler"},
            "hooks": [
                {"name": "stagedoor-launch", "transition": "launching", "default_result": "ABANDON"},
                {"name": "stagedoor-terminate", "transition": "terminating", "default_result": "CONTINUE"},
            ],
        }],
        "nodes": [{"certname": PRIMARY}],
        "node_groups": [
            {"name": "PE Infrastructure Agent"},
            {"name": "PE Master", "rule": ["and", ["=", ["trusted", "extensions", "pp_role"], "compiler"]]},
        ],
        "topics": [TOPIC],
        "settings": {"loopback_addresses": true},
    })
}
