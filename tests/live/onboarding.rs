//! Launching instances: real agents send requests to the real CA, and `onboard` decides which are signed.

use serde_json::{Value, json};
use stagedoor_lifecycle::reason::Code;
use stagedoor_lifecycle::receipt::{Outcome, Receipt, StepKind};

use super::agent::Agent;
use super::job::{Instance, Job, instances};
use crate::e2e::rehearsal::kinds;
use crate::live::stage::turn_to_clean;

/// The alternative name that compilers may have.
pub(super) const BALANCER: &str = "puppet.stagedoor.test";
/// Puppet Server's certificate is valid for names in this domain, so it can stand for what listens on these instances.
pub(super) const DOMAIN: &str = "compilers.stagedoor.test";
/// Long enough for everything that an agent has to do, also on a busy machine: one invocation suffices.
pub(super) const LONG_BUDGET: &str = "budget = \"150s\"";

/// The configuration of a fleet of compilers, with further keys of their profile.
pub(super) fn config(budget: &str, profile: &str) -> String {
    format!(
        "{budget}\n[profile.compiler]\ncertname = \"{{private_dns}}\"\nsign.require = {{ pp_role = \"compiler\" }}\n\
         sign.alt_names = [\"{BALANCER}\"]\n{profile}\n"
    )
}

/// The agent of a compiler, with the challenge that it was given and the load balancer's name.
pub(super) fn compiler(job: &Job, instance: &Instance) -> Agent {
    let mut agent = Agent::on(&job.stage, instance, &job.challenge);
    agent.alt_names.push(BALANCER);
    agent
}

/// Launches a compiler, whose agent starts. Returns the agent, the event of the launch and the receipt.
pub(super) async fn enrol(job: &mut Job, instance: &Instance) -> (Agent, Value, Receipt) {
    let agent = compiler(job, instance);
    let event = job.launch(instance);
    let (receipt, ()) = tokio::join!(job.onboard(&event), agent.first_run_well());
    assert_eq!((receipt.outcome, receipt.code), (Outcome::Continued, Code::Enrolled), "{receipt:#?}");
    (agent, event, receipt)
}

/// A launching instance that has run Puppet and is held, because its refresh target has only run before the launch.
pub(super) struct Held {
    pub(super) job: Job,
    pub(super) instance: Instance,
    pub(super) agent: Agent,
    pub(super) event: Value,
    pub(super) target: Instance,
    pub(super) primary: Agent,
}

impl Held {
    /// An instance and its refresh target with these labels, under these settings.
    pub(super) async fn launched(labels: [&'static str; 2], settings: &str) -> Self {
        let both = instances(&labels, DOMAIN);
        let [instance, target] = [0, 1].map(|nth| both[nth].clone());
        let refresh = format!("refresh = [\"{}\"]\nawait_refresh = true", target.certname);
        let mut job = Job::awaiting(both, &config(settings, &refresh)).await;
        let primary = Agent::enrol(&job.stage, &target).await;
        job.keep_secret(&primary.challenge);
        primary.run_well().await;
        let agent = compiler(&job, &instance);
        let event = job.launch(&instance);
        tokio::join!(agent.first_run_well(), job.onboard_until(&event, Code::WaitingForRefresh));
        Self { job, instance, agent, event, target, primary }
    }
}

/// Events as SQS delivers them.
pub(super) fn batch(events: &[Value]) -> Value {
    let record = |(nth, event): (usize, &Value)| json!({"messageId": format!("m{nth}"), "eventSource": "aws:sqs", "body": event.to_string()});
    json!({"Records": events.iter().enumerate().map(record).collect::<Vec<_>>()})
}

/// As [`assert_enrolled`], on a CA that takes a request although there is a certificate, as agents send it again.
pub(super) async fn assert_serves(job: &Job, instance: &Instance) {
    let Instance { id, certname, .. } = instance;
    let certificate = job.ca().certificate(certname).await.unwrap().expect("its certificate");
    assert_eq!(certificate.instance_id().as_ref(), Some(id));
    assert_eq!(certificate.extensions().get("pp_role"), Some("compiler"));
    let names: Vec<String> = certificate.alt_names().iter().map(ToString::to_string).collect();
    assert!(names.contains(&format!("DNS:{BALANCER}")), "{names:?}");
    assert!(!job.ca().crl().await.unwrap().revokes(&certificate));
    let node = job.puppetdb().node(certname).await.unwrap().expect("it has reported");
    assert!(node.is_active() && node.latest_report_status.is_some_and(|status| status != "failed"));
    assert_eq!(job.state_of(instance).as_deref(), Some("InService"));
}

/// It has a certificate of its own, PuppetDB knows its successful run, and nothing is left pending.
pub(super) async fn assert_enrolled(job: &Job, instance: &Instance) {
    assert_serves(job, instance).await;
    assert!(job.ca().csr(&instance.certname).await.unwrap().is_none(), "nothing is pending");
}

pub(super) fn continued(instance: &Instance) -> (String, String) {
    (instance.id.to_string(), "CONTINUE".to_owned())
}

#[tokio::test]
async fn three_compilers_of_one_batch_are_signed_run_and_are_let_in() {
    let arriving = instances(&["one", "two", "three"], DOMAIN);
    let profile = "ready = [\"report\", \"status:8140\"]\nsign.allow = { pp_environment = [\"production\"] }";
    let mut job = Job::awaiting(arriving.clone(), &config(LONG_BUDGET, profile)).await;
    let [mut one, two, three] = [0, 1, 2].map(|nth| compiler(&job, &arriving[nth]));
    // One of them has an extension that may be there.
    one.extensions.push("pp_environment=production");
    let events: Vec<Value> = arriving.iter().map(|instance| job.launch(instance)).collect();
    let events = batch(&events);
    let (answer, ..) = tokio::join!(
        job.invoke("onboard", &events),
        one.first_run_well(),
        two.first_run_well(),
        three.first_run_well(),
    );
    assert_eq!(answer, json!({"batchItemFailures": []}));
    for instance in &arriving {
        assert_enrolled(&job, instance).await;
        let (outcome, code, reason) = job.published(instance);
        assert_eq!((outcome, code), (Outcome::Continued, Code::Enrolled), "{reason}");
    }
    assert_eq!(job.completions(), arriving.iter().map(continued).collect::<Vec<_>>());
    job.assert_no_secret_is_told();
}

#[tokio::test]
async fn a_request_with_false_claims_is_deleted_and_the_launch_waits_on() {
    let labels = ["id", "challenge", "name", "role", "environment", "peadm", "site"];
    let arriving = instances(&labels, DOMAIN);
    let mut job = Job::awaiting(arriving.clone(), &config("budget = \"5s\"", "")).await;
    let [mut id, mut challenge, mut name, mut role, mut environment, mut peadm, mut site] =
        [0, 1, 2, 3, 4, 5, 6].map(|nth| compiler(&job, &arriving[nth]));
    // Of an instance that is really there.
    id.instance = arriving[1].id.clone();
    challenge.challenge = "guessed-Vt3kP0".to_owned();
    job.keep_secret(&challenge.challenge);
    name.alt_names.push("console.stagedoor.test");
    role.extensions.push("pp_auth_role=pe_compiler");
    environment.extensions.push("pp_environment=production");
    peadm.extensions.push("1.3.6.1.4.1.34380.1.1.9812=puppet/puppetdb-database");
    site.extensions.push("1.3.6.1.4.1.34380.1.2.1=of the site");
    let events: Vec<Value> = arriving.iter().map(|instance| job.launch(instance)).collect();
    for agent in [&id, &challenge, &name, &role, &environment, &peadm, &site] {
        agent.ask().await;
    }
    for instance in &arriving {
        assert!(job.ca().csr(&instance.certname).await.unwrap().is_some(), "{} waits", instance.certname);
    }

    let answer = job.invoke("onboard", &batch(&events)).await;
    assert_eq!(answer, json!({"batchItemFailures": []}));
    let objections = [
        "pp_instance_id is",
        "challengePassword",
        "console.stagedoor.test",
        "pp_auth_role",
        "pp_environment",
        "peadm_role",
        "1.3.6.1.4.1.34380.1.2.1",
    ];
    for (instance, objection) in arriving.iter().zip(objections) {
        let (outcome, code, reason) = job.published(instance);
        assert_eq!((outcome, code), (Outcome::Waiting, Code::RequestRefused), "{reason}");
        assert!(reason.contains(objection), "{objection}: {reason}");
    }
    // Where the CA denies `DELETE certificate_request`, as it is shipped, the sweep deletes them.
    job.invoke("sweep", &json!({})).await;
    for instance in &arriving {
        assert!(job.ca().csr(&instance.certname).await.unwrap().is_none(), "the request is deleted");
        assert_eq!(job.ca().status(&instance.certname).await, Ok(None), "and nothing was signed");
        assert_eq!(job.state_of(instance).as_deref(), Some("Pending:Wait"), "it may ask again");
    }
    assert_eq!(job.completions(), []);
    job.assert_no_secret_is_told();
}

#[tokio::test]
async fn a_reboot_and_a_replayed_event_change_nothing() {
    let arriving = instances(&["rebooting"], DOMAIN);
    let mut job = Job::awaiting(arriving.clone(), &config(LONG_BUDGET, "")).await;
    let instance = &arriving[0];
    let (agent, event, _) = enrol(&mut job, instance).await;
    let certificate = job.ca().certificate(&instance.certname).await.unwrap().expect("its certificate");
    let report = job.puppetdb().node(&instance.certname).await.unwrap().expect("the node").latest_report_hash;

    // Stopped and started: the agent runs again from what is on its disk.
    agent.run_well().await;
    let node = job.puppetdb().node(&instance.certname).await.unwrap().expect("the node");
    assert_ne!(node.latest_report_hash, report, "it has run again");
    let receipt = job.onboard(&event).await;
    assert_eq!((receipt.outcome, receipt.code), (Outcome::Ignored, Code::NotLaunching), "{receipt:#?}");

    assert_enrolled(&job, instance).await;
    let same = job.ca().certificate(&instance.certname).await.unwrap();
    assert_eq!(same, Some(certificate), "serial and key are the same");
    assert_eq!(job.completions(), [continued(instance)]);
    job.assert_no_secret_is_told();
}

#[tokio::test]
async fn a_recycled_name_enrols_after_its_dead_owners_certificate_is_cleaned() {
    let _turn = turn_to_clean().await;
    let both = instances(&["recycled", "recycled"], DOMAIN);
    let mut job = Job::awaiting(both.clone(), &config(LONG_BUDGET, "")).await;
    let [old, new] = [0, 1].map(|nth| both[nth].clone());
    assert_eq!(old.certname, new.certname);
    job.launch(&old);
    let dead = Agent::enrol(&job.stage, &old).await;
    job.keep_secret(&dead.challenge);
    let stale = job.ca().certificate(&old.certname).await.unwrap().expect("its certificate");
    dead.run_well().await;
    // It terminates at once, without its hooks, and is not purged. Its data in PuppetDB is valid, and only seconds old.
    job.kill(&old);

    // Its request is refused until the name is free; then the agent sends it again.
    let (_, _, receipt) = enrol(&mut job, &new).await;
    // The removal of the old certificate was proven before the new one was signed.
    let kinds = kinds(&receipt);
    let removed = kinds.iter().position(|kind| *kind == StepKind::Applied);
    let proven = kinds.iter().position(|kind| *kind == StepKind::Proven);
    let signed = kinds.iter().rposition(|kind| *kind == StepKind::Applied);
    assert!(removed.is_some() && removed < proven && proven < signed, "{receipt:#?}");
    assert!(job.ca().crl().await.unwrap().revokes(&stale), "the old serial is in the CRL");
    let runs = job.puppetdb().latest_reports(std::slice::from_ref(&new.certname)).await.unwrap();
    let reason = receipt.reason;
    assert!(reason.contains(&format!("its Puppet run at {}", runs[0].start_time)), "its own run: {reason}, {runs:#?}");
    assert_enrolled(&job, &new).await;
    assert_eq!(job.completions(), [continued(&new)]);
    job.assert_no_secret_is_told();
}

#[tokio::test]
async fn it_is_held_until_its_refresh_target_has_run_by_itself() {
    let held = Held::launched(["arriving", "target"], "budget = \"5s\"").await;
    let Held { mut job, instance: arriving, target, primary, event, .. } = held;
    assert_eq!(job.completions(), []);
    assert_eq!(job.state_of(&arriving).as_deref(), Some("Pending:Wait"));

    primary.run_well().await;
    let receipt = job.onboard(&event).await;
    assert_eq!((receipt.outcome, receipt.code), (Outcome::Continued, Code::Enrolled), "{receipt:#?}");
    let reason = receipt.reason;
    assert!(reason.contains(&format!("{} ran Puppet at", target.certname)), "{reason}");
    let mut runs = job.puppetdb().latest_reports(&[arriving.certname.clone(), target.certname]).await.unwrap();
    runs.sort_by_key(|run| run.start_time);
    let [change, learnt] = runs.as_slice() else { panic!("not two runs: {runs:#?}") };
    assert!(change.certname == arriving.certname && learnt.start_time >= change.end_time, "{runs:#?}");
    assert_enrolled(&job, &arriving).await;
    assert_eq!(job.completions(), [continued(&arriving)]);
    job.assert_no_secret_is_told();
}
