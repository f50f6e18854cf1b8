//! The main job on real input: real agents, the real CA and PuppetDB, the built functions under `cargo lambda`. AWS is the
//! lab's.

mod agent;
mod external_root;
mod job;
mod keys;
mod mass;
mod onboarding;
mod runs;
mod server_log;
pub(crate) mod stage;
mod unusual_ca;

use std::process::Output;

use agent::Agent;
use job::{Job, event_of_another_life};
use stagedoor_lifecycle::reason::Code;
use stagedoor_lifecycle::receipt::Outcome;
use stagedoor_puppet::Error;

use crate::live::stage::turn_to_clean;

#[tokio::test]
async fn a_leaving_node_is_forgotten_by_real_puppet_and_its_agent_is_refused() {
    let _turn = turn_to_clean().await;
    let mut job = Job::begin(&["leaving", "staying"]).await;
    let (leaving, staying) = (job.instance("leaving"), job.instance("staying"));
    let (old, other) = tokio::join!(Agent::enrol(&job.stage, &leaving), Agent::enrol(&job.stage, &staying),);
    job.keep_secret(&old.challenge);
    job.keep_secret(&other.challenge);
    for agent in [&old, &other] {
        agent.run_well().await;
    }
    let certificate = job.ca().certificate(&leaving.certname).await.unwrap().expect("the agent's certificate");
    assert_eq!(certificate.instance_id().as_ref(), Some(&leaving.id));
    assert!(job.puppetdb().node(&leaving.certname).await.unwrap().expect("the agent has reported").is_active());

    let receipt = job.terminate(&leaving.id).await;
    job.assert_purged(&receipt, &leaving, &certificate).await;
    job.assert_let_go(&leaving.id);

    old.assert_refused(&job.stage).await;
    let node = job.puppetdb().node(&leaving.certname).await.unwrap().expect("PuppetDB remembers it");
    assert!(node.deactivated.is_some(), "the refused run has not brought the node back: {node:?}");

    let certificate = job.ca().certificate(&staying.certname).await.unwrap().expect("the neighbour's certificate");
    assert!(!job.ca().crl().await.unwrap().revokes(&certificate));
    other.run_well().await;
    assert!(job.puppetdb().node(&staying.certname).await.unwrap().expect("the neighbour").is_active());
    assert_eq!(job.lab.aws.lifecycle_state(staying.id.as_str()).as_deref(), Some("InService"));
    job.assert_no_secret_is_told();
}

#[tokio::test]
async fn a_node_that_has_taken_over_the_name_is_untouched() {
    let _turn = turn_to_clean().await;
    let mut job = Job::begin(&["taken", "taken"]).await;
    let [old, new] = [0, 1].map(|nth| job.instances[nth].clone());
    assert_eq!(old.certname, new.certname);
    let first = Agent::enrol(&job.stage, &old).await;
    job.keep_secret(&first.challenge);
    first.run_well().await;
    // The name becomes free, and the next instance with that name enrols, before the old one's event comes.
    let cleaned = job.ca_admin().clean(std::slice::from_ref(&old.certname)).await;
    assert!(cleaned.values().all(Result::is_ok), "{cleaned:?}");
    let second = Agent::enrol(&job.stage, &new).await;
    job.keep_secret(&second.challenge);
    second.run_well().await;
    let certificate = job.ca().certificate(&new.certname).await.unwrap().expect("the new certificate");
    assert_eq!(certificate.instance_id().as_ref(), Some(&new.id));

    let receipt = job.terminate(&old.id).await;
    assert_eq!((receipt.outcome, receipt.code), (Outcome::Continued, Code::OwnedByAnotherInstance), "{receipt:#?}");
    job.assert_let_go(&old.id);

    let kept = job.ca().certificate(&new.certname).await.unwrap().expect("the certificate is still there");
    assert_eq!(kept, certificate);
    assert!(!job.ca().crl().await.unwrap().revokes(&kept));
    assert!(job.puppetdb().node(&new.certname).await.unwrap().expect("the node").is_active());
    second.run_well().await;
    assert_eq!(job.lab.aws.lifecycle_state(new.id.as_str()).as_deref(), Some("InService"));
    job.assert_no_secret_is_told();
}

#[tokio::test]
async fn a_replayed_event_leaves_a_live_node_alone() {
    let mut job = Job::begin(&["alive"]).await;
    let alive = job.instance("alive");
    let agent = Agent::enrol(&job.stage, &alive).await;
    job.keep_secret(&agent.challenge);
    agent.run_well().await;

    // The event of another life: Auto Scaling shows the instance in service.
    let event = event_of_another_life(&alive.id);
    let receipt = job.purge(&event).await;
    assert_eq!((receipt.outcome, receipt.code), (Outcome::Refused, Code::NotTerminating), "{receipt:#?}");
    assert!(job.ca().certificate(&alive.certname).await.unwrap().is_some());
    agent.run_well().await;
    assert_eq!(job.lab.journal.count("autoscaling", "CompleteLifecycleAction"), 0);
    job.assert_no_secret_is_told();
}

/// What a program has written, for people.
fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Whether the server refused the certificate in TLS.
fn is_refused<T>(answer: &Result<T, Error>) -> bool {
    matches!(answer, Err(Error::TlsRefused { .. }))
}
