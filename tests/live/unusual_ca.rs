//! CAs as sites have them: one that takes a request under a name that has a certificate, one with a damaged file, one with very
//! many certificates. `tests/live/run` runs these last, after `tests/live/stage allow-duplicates`.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

use futures_util::future::join_all;
use jiff::SignedDuration;
use serde_json::{Value, json};
use stagedoor_puppet::{Certificate, Error};
use tokio::time::Instant;

use super::agent::Agent;
use super::job::{Instance, Job, functions, instances};
use super::onboarding::{BALANCER, DOMAIN, Held, LONG_BUDGET, assert_serves, batch, compiler, config, continued};
use super::server_log::{ServerLog, SignedRequest};
use crate::conformance::apply::{Applicant, PP_ROLE, submit};
use crate::conformance::site::{Site, fresh};
use crate::live::stage::{LiveStage, turn_to_clean};

/// As many certificates as a large site has.
const MANY: usize = 30_000;

/// Files in the CA's `signed/`, which are removed again with this.
struct Files(Vec<PathBuf>);

impl Drop for Files {
    fn drop(&mut self) {
        for file in &self.0 {
            let _ = std::fs::remove_file(file);
        }
    }
}

impl Files {
    /// An empty one, as after a full disk.
    fn empty(stage: &LiveStage) -> Self {
        let file = stage.ca_directory.join("signed").join(format!("{}.pem", fresh("damaged")));
        std::fs::write(&file, "").expect("a file in the CA's directory");
        Self(vec![file])
    }

    /// So many certificates, each a copy of this name's in a file and with a line in the inventory of its own, which stays. What a CA
    /// does for all its certificates depends on the number of files and lines: the copies cost as much as others.
    fn copies(stage: &LiveStage, name: &str, count: usize) -> Self {
        let signed = stage.ca_directory.join("signed");
        let pem = std::fs::read(signed.join(format!("{name}.pem"))).expect("its certificate");
        let mut inventory = String::new();
        let copy = |number| {
            let copy = format!("copy{number}.{name}");
            let file = signed.join(format!("{copy}.pem"));
            std::fs::write(&file, &pem).expect("a file in the CA's directory");
            // Serial numbers that the CA does not reach.
            let serial = 0x0100_0000 + number;
            let line = format!("{serial:#06x} 2026-01-01T00:00:00UTC 2031-01-01T00:00:00UTC /CN={copy}\n");
            inventory.push_str(&line);
            file
        };
        let files = (0..count).map(copy).collect();
        let file = stage.ca_directory.join("inventory.txt");
        // At once, for Puppet Server appends to it as well.
        let written =
            OpenOptions::new().append(true).open(file).and_then(|mut file| file.write_all(inventory.as_bytes()));
        written.expect("the CA's inventory");
        Self(files)
    }
}

/// The sweep does no housekeeping.
const SETTINGS: &str = "budget = \"5s\"\nhousekeeping.every = \"never\"";

/// The request that is pending under the name of its certificate costs an instance nothing.
async fn assert_keeps_its_certificate(held: Held, certificate: Certificate) {
    let Held { mut job, instance, agent, event, .. } = held;
    for function in ["sweep", "onboard"] {
        let answer = job.invoke(function, &event).await;
        let same = job.ca().certificate(&instance.certname).await.unwrap();
        assert_eq!(same.as_ref(), Some(&certificate), "{function}: {answer:#}");
        assert!(!job.ca().crl().await.unwrap().revokes(&certificate), "{function}: {answer:#}");
    }
    agent.run_well().await;
    job.ca_admin().delete_csr(&instance.certname).await.unwrap();
    job.assert_no_secret_is_told();
}

#[tokio::test]
async fn an_agent_that_repeats_its_request_keeps_its_certificate() {
    let _turn = turn_to_clean().await;
    let held = Held::launched(["repeating", "target"], SETTINGS).await;
    let certificate = held.job.ca().certificate(&held.instance.certname).await.unwrap().expect("its certificate");
    held.agent.ask_again().await;
    let request = held.job.ca().csr(&held.instance.certname).await.unwrap().expect("the CA took the request");
    assert_eq!(request.key(), certificate.key());
    assert_keeps_its_certificate(held, certificate).await;
}

#[tokio::test]
async fn a_request_with_another_key_does_not_cost_an_instance_the_certificate_that_it_uses() {
    let site = Site::real().await;
    let held = Held::launched(["using", "target"], SETTINGS).await;
    let certificate = held.job.ca().certificate(&held.instance.certname).await.unwrap().expect("its certificate");
    // A stranger has read the instance's request, which any client may do, and asks for all that it asked for.
    let Instance { id, certname, .. } = &held.instance;
    let stranger = Applicant::named(certname.clone()).instance(id).extension(PP_ROLE, "compiler");
    let stranger = stranger.challenge(&held.job.challenge).alt_name(BALANCER);
    let (status, text) = submit(&site, certname.as_str(), stranger.request()).await;
    assert_eq!(status, 200, "the CA takes the request: {text}");
    assert_keeps_its_certificate(held, certificate).await;
}

#[tokio::test]
async fn nine_terminations_pass_although_a_file_of_the_ca_is_empty() {
    let site = Site::real().await;
    let labels = ["n0", "n1", "n2", "n3", "n4", "n5", "n6", "n7", "n8"];
    let mut job = Job::begin(&labels).await;
    let leaving = job.instances.clone();
    for instance in &leaving {
        Applicant::named(instance.certname.clone()).instance(&instance.id).enrol(&site).await;
    }
    let _damaged = Files::empty(&job.stage);
    let log = ServerLog::whole(&job.stage);
    let lists = log.lists().len();
    let listed = job.ca().statuses(None).await;
    assert!(listed.is_err(), "the damaged file fails the list of all certificates");
    let log = log.after(lists + 1).await;
    let events: Vec<Value> = leaving.iter().map(|instance| job.begin_to_terminate(&instance.id)).collect();
    assert_eq!(job.invoke("purge", &batch(&events)).await, json!({"batchItemFailures": []}));
    for instance in &leaving {
        assert_eq!(job.ca().certificate(&instance.certname).await, Ok(None));
        assert_eq!(job.state_of(instance).as_deref(), Some("Terminated"));
    }
    assert!(log.has("/puppet-ca/v1/certificate/"), "the log has a line for each request");
    assert_eq!(log.lists(), Vec::<String>::new());
}

#[tokio::test]
async fn ten_launches_on_a_ca_with_thirty_thousand_certificates_request_no_list() {
    let _turn = turn_to_clean().await;
    let arriving = instances(&["a0", "a1", "a2", "a3", "a4", "a5", "a6", "a7", "a8", "a9"], DOMAIN);
    let mut job = Job::awaiting(arriving.clone(), &config(LONG_BUDGET, "")).await;
    let _many = Files::copies(&job.stage, &job.stage.controller.certname, MANY);
    let log = ServerLog::whole(&job.stage);
    let lists = log.lists().len();
    let began = Instant::now();
    // A server that has just started takes more than the minute that the client waits for.
    let listed = job.ca().statuses(None).await;
    assert!(
        listed.as_ref().is_ok_and(|listed| listed.len() > MANY)
            || matches!(&listed, Err(Error::Busy { .. } | Error::Unreachable { .. }))
    );
    let list = began.elapsed();
    let log = log.after(lists + 1).await;
    let events: Vec<Value> = arriving.iter().map(|instance| job.launch(instance)).collect();
    let events = batch(&events);
    let agents: Vec<Agent> = arriving.iter().map(|instance| compiler(&job, instance)).collect();
    let runs = join_all(agents.iter().map(Agent::first_run_well));
    let began = Instant::now();
    let (answer, _) = tokio::join!(job.invoke("onboard", &events), runs);
    let took = began.elapsed();
    assert_eq!(answer, json!({"batchItemFailures": []}));
    assert_no_list(&job, &log).await;
    let figures = figures(&job, &log, &arriving);
    for instance in &arriving {
        assert_serves(&job, instance).await;
    }
    assert_eq!(job.completions(), arriving.iter().map(continued).collect::<Vec<_>>());
    job.assert_no_secret_is_told();
    // Not by a macro, whose output a passing test swallows.
    let _ = writeln!(
        std::io::stderr(),
        "{MANY} certificates: the list of all takes {:.1} s (60 s and more: the client gave up); ten launches with real agents on this \
         machine took {:.1} s, without it. {figures}",
        list.as_secs_f64(),
        took.as_secs_f64(),
    );
}

/// As on a site, where agents need no processor of the CA's machine.
#[tokio::test]
async fn ten_requests_of_other_machines_are_signed_on_a_ca_with_thirty_thousand_certificates() {
    let site = Site::real().await;
    let arriving = instances(&["b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "b8", "b9"], DOMAIN);
    let mut job = Job::awaiting(arriving.clone(), &config("budget = \"10s\"", "")).await;
    let _many = Files::copies(&job.stage, &job.stage.controller.certname, MANY);
    let log = ServerLog::whole(&job.stage).after(0).await;
    let mut events = Vec::new();
    for instance in &arriving {
        let Instance { id, certname, .. } = instance;
        let agent = Applicant::named(certname.clone()).instance(id).extension(PP_ROLE, "compiler");
        agent.challenge(&job.challenge).alt_name(BALANCER).apply(&site).await;
        events.push(job.launch(instance));
    }
    assert_eq!(job.invoke("onboard", &batch(&events)).await, json!({"batchItemFailures": []}));
    for instance in &arriving {
        let certificate = job.ca().certificate(&instance.certname).await.unwrap().expect("its certificate");
        assert_eq!(certificate.instance_id().as_ref(), Some(&instance.id));
    }
    assert_no_list(&job, &log).await;
    let figures = figures(&job, &log, &arriving);
    let _ = writeln!(std::io::stderr(), "{MANY} certificates, ten requests of other machines: {figures}");
}

/// Asserts that the controller has requested no list of all certificates since the log began. The server logs a request only after its
/// answer, which takes up to a minute. So the test requests a list too: any list that was requested earlier ends earlier, and is then
/// logged as well.
async fn assert_no_list(job: &Job, log: &ServerLog) {
    let _ = job.ca().statuses(None).await;
    let lists = log.lists_once_there_is_one().await;
    assert_eq!(lists.len(), 1, "besides the test's own: {lists:#?}");
}

/// How long it took from the first look at each request to its signature, and how much memory `onboard` had.
fn figures(job: &Job, log: &ServerLog, arriving: &[Instance]) -> String {
    let requests: Vec<SignedRequest> = arriving.iter().map(|one| log.signed_request(&one.certname)).collect();
    let since = |from: fn(&SignedRequest) -> SignedDuration| percentile_95(requests.iter().map(from));
    let asked = since(|request| request.asked.duration_since(request.first_look));
    let signed = since(|request| request.signed.duration_since(request.first_look));
    let stored = since(|request| request.signed.duration_since(request.stored));
    // Seconds, but this machine also runs the servers, and in one test the agents. With one list of all certificates it would take
    // longer.
    assert!(signed < 20.0, "{signed} s");
    format!(
        "95th percentile: signed {signed:.1} s after the first look at the request (after {asked:.1} s the controller had the CA begin to \
         sign), {stored:.1} s after the CA stored it. Peak memory of onboard: {} MiB ({})",
        job.peak_memory("onboard"),
        functions().display(),
    )
}

/// The 95th percentile, in seconds: the smallest of these that 95 of 100 do not exceed.
fn percentile_95(durations: impl Iterator<Item = SignedDuration>) -> f64 {
    let mut durations: Vec<SignedDuration> = durations.collect();
    durations.sort();
    let rank = (durations.len() * 95).div_ceil(100);
    durations[rank - 1].as_secs_f64()
}
