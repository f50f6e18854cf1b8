//! A site of Puppet Enterprise with a fleet of compilers for each availability group.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde_json::{Value, json};
use stagedoor_lab::Options;
use stagedoor_lab::agent::{Agent, RunningAgent};
use stagedoor_lab_aws::{Launch, Terminate};
use stagedoor_lab_puppet::{PuppetOptions, Right};
use stagedoor_lifecycle::receipt::Receipt;

use crate::e2e::rehearsal::{Rehearsal, TOPIC, only, receipts};

pub(super) const PRIMARY: &str = "primary.example.com";
pub(super) const DATABASE_A: &str = "db-a.example.com";
pub(super) const DATABASE_B: &str = "db-b.example.com";
const REPLICA: &str = "replica.example.com";
const CHALLENGE: &str = "the challenge that instances are given";
/// `peadm_availability_group`.
const LETTER: &str = "1.3.6.1.4.1.34380.1.1.9813";
/// More sweeps than any launch here takes.
const SWEEPS: usize = 8;

/// Where PostgreSQL runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Topology {
    /// On the primary, which had no compilers before. Without peadm.
    Standard,
    /// On the primary, and on its replica for the compilers of the letter B.
    Large,
    /// On a host of its own for each letter.
    ExtraLarge,
}

impl Topology {
    /// The waves of `refresh`.
    fn waves(self) -> &'static str {
        match self {
            Self::Standard => r#"[["primary.example.com"]]"#,
            Self::Large => r#"[["replica.example.com"], ["primary.example.com"]]"#,
            Self::ExtraLarge => r#"[["db-a.example.com", "db-b.example.com"], ["primary.example.com"]]"#,
        }
    }

    /// The hosts that must run Puppet: the primary and those of PostgreSQL.
    pub(super) fn hosts(self) -> BTreeSet<&'static str> {
        match self {
            Self::Standard => [PRIMARY].into(),
            Self::Large => [REPLICA, PRIMARY].into(),
            Self::ExtraLarge => [DATABASE_A, DATABASE_B, PRIMARY].into(),
        }
    }

    /// The scene, with what the tests need besides. Its node groups are as peadm makes them; without peadm there are only those of every site.
    fn scene(self) -> Value {
        let text = match self {
            Self::Standard => include_str!("../../../crates/lab/scenes/enterprise-standard.json"),
            Self::Large => include_str!("../../../crates/lab/scenes/enterprise-large.json"),
            Self::ExtraLarge => include_str!("../../../crates/lab/scenes/enterprise-extra-large.json"),
        };
        let mut scene: Value = serde_json::from_str(text).expect("JSON");
        scene["topics"] = json!([TOPIC]);
        scene["settings"] = json!({"loopback_addresses": true});
        scene
    }

    fn configuration(self, config: &str) -> String {
        let start = config.find("[profile.compiler]").expect("a profile");
        let profile = |letter: &str| {
            let of_letter =
                if self == Self::Standard { String::new() } else { format!(", \"{LETTER}\" = \"{letter}\"") };
            format!(
                "[profile.compiler-{letter}]\n\
                 certname = \"{{private_dns}}\"\n\
                 sign.require = {{ pp_role = \"compiler\", pp_auth_role = \"pe_compiler\"{of_letter} }}\n\
                 sign.alt_names = [\"puppet.example.com\"]\n\
                 classified = [\"PE Compiler\"]\n\
                 refresh = {waves}\n\
                 refresh_after = \"catalog\"\n\
                 ready = [\"report\", \"status:8140/server\", \"status:8140/broker-service\", \"tcp:8142\", \"file-sync\"]\n",
                waves = self.waves(),
            )
        };
        let general = config[..start].replace("budget = \"2s\"", "budget = \"25s\"");
        format!("{general}{}{}", profile("A"), profile("B"))
    }
}

/// The site.
pub(super) struct Enterprise {
    pub(super) topology: Topology,
    pub(super) rehearsal: Rehearsal,
}

impl Enterprise {
    pub(super) async fn new(topology: Topology) -> Self {
        Self::with(topology, |_| {}).await
    }

    pub(super) async fn with(topology: Topology, change: impl FnOnce(&mut PuppetOptions)) -> Self {
        let mut puppet = PuppetOptions {
            challenge: Some(CHALLENGE.to_owned().into()),
            allow_subject_alt_names: true,
            allow_authorization_extensions: true,
            primary: Some(PRIMARY.to_owned()),
            puppetdb_allowlist: Some(["puppet", "stagedoor.example.net"].map(str::to_owned).into()),
            ..PuppetOptions::enterprise()
        };
        change(&mut puppet);
        let mut rehearsal = Rehearsal::with(topology.scene(), Options { puppet, ..Options::default() }).await;
        rehearsal.keep_secret(CHALLENGE);
        rehearsal.configure(|config| topology.configuration(config));
        rehearsal.lab.puppet.deploy_code("c1");
        Self { topology, rehearsal }
    }

    /// Auto Scaling launches a compiler of this letter, and its agent starts.
    pub(super) fn launch(&self, letter: &str) -> RunningAgent {
        self.launch_as(letter, &Launch::default())
    }

    pub(super) fn launch_as(&self, letter: &str, launch: &Launch) -> RunningAgent {
        let begun = self.rehearsal.lab.aws.launch(&format!("compilers-{letter}"), launch).expect("it can be launched");
        let mut extensions: BTreeMap<String, String> = [("pp_role", "compiler"), ("pp_auth_role", "pe_compiler")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into();
        if self.topology != Topology::Standard {
            extensions.insert(LETTER.to_owned(), letter.to_owned());
        }
        let agent = Agent {
            name: Some(begun.instance_id.clone()),
            extensions,
            alt_names: vec!["puppet.example.com".to_owned()],
            challenge: Some(CHALLENGE.to_owned().into()),
            status_ports: vec![8140],
            tcp_ports: vec![8142],
            starting_answers: 2,
            ..Agent::on(&begun.instance_id)
        };
        self.rehearsal.lab.agents.start(agent).expect("an agent that can be")
    }

    /// One sweep: its receipts.
    pub(super) async fn sweep(&mut self) -> Vec<Receipt> {
        receipts(&self.rehearsal.invoke("sweep", &json!({})).await)
    }

    /// Sweeps until these instances are in service.
    pub(super) async fn sweep_until_in_service(&mut self, agents: &[RunningAgent]) {
        let mut last = Vec::new();
        for _ in 0..SWEEPS {
            if agents.iter().all(|agent| self.is_in_service(agent)) {
                return;
            }
            last = self.sweep().await;
        }
        assert!(agents.iter().all(|agent| self.is_in_service(agent)), "{last:#?}");
    }

    pub(super) fn is_in_service(&self, agent: &RunningAgent) -> bool {
        self.rehearsal.state_of(agent.name()).as_deref() == Some("InService")
    }

    /// Every host runs Puppet by itself, as its daemon does every half hour, and each run ends with `status`. The tests do not wait for
    /// runs that a termination orders, because none is ordered within five minutes of an order for a launch.
    pub(super) fn hosts_run(&self, status: &str) {
        let puppet = &self.rehearsal.lab.puppet;
        for host in self.topology.hosts() {
            puppet.report(host, status, puppet.now());
        }
    }

    /// Auto Scaling terminates a compiler: the receipt.
    pub(super) async fn terminate(&mut self, agent: &RunningAgent) -> Receipt {
        let begun =
            self.rehearsal.lab.aws.terminate(agent.name(), &Terminate::default()).expect("it can be terminated");
        only(&self.rehearsal.purge(&begun.events[0].eventbridge).await)
    }

    pub(super) fn rights(&self, agent: &RunningAgent) -> BTreeSet<Right> {
        self.rehearsal.lab.puppet.rights_of(agent.certname())
    }

    /// How many runs of each host were ordered.
    pub(super) fn orders(&self) -> Vec<(&'static str, usize)> {
        let puppet = &self.rehearsal.lab.puppet;
        self.topology.hosts().into_iter().map(|host| (host, puppet.times_ordered(host))).collect()
    }

    /// When the first job of a host was ordered, and when it had ended.
    pub(super) fn first_job(&self, host: &str) -> (Timestamp, Timestamp) {
        let jobs = self.rehearsal.lab.puppet.jobs();
        let is_for = |job: &&Value| {
            job["options"]["scope"]["nodes"].as_array().is_some_and(|nodes| nodes.contains(&host.into()))
        };
        let job = jobs.iter().find(is_for).unwrap_or_else(|| panic!("no job of {host}: {jobs:#?}"));
        let time = |value: &Value| value.as_str().and_then(|text| text.parse().ok()).expect("a time");
        let status = job["status"].as_array().expect("states");
        (time(&status[0]["enter_time"]), time(&status[status.len() - 1]["enter_time"]))
    }
}

/// All of them.
pub(super) fn every_right() -> BTreeSet<Right> {
    let mut all = lines_kept();
    all.extend([Right::Database, Right::FileSync, Right::Broker, Right::Inventory]);
    all
}

/// What no run takes away again.
pub(super) fn lines_kept() -> BTreeSet<Right> {
    [Right::PuppetdbAllowlist, Right::RbacAllowlist].into()
}
