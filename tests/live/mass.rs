//! Two hundred real certificates at once, and the same number one by one as scripts did it. Prints how long each took.

use std::io::Write;

use futures_util::stream::{self, StreamExt};
use serde_json::{Value, json};
use stagedoor_puppet::Outcome;
use tokio::time::Instant;

use super::job::Job;
use super::onboarding::batch;
use crate::conformance::apply::Applicant;
use crate::conformance::site::{Site, fresh};

const MANY: usize = 200;
const AT_ONCE: usize = 4;

#[tokio::test]
async fn two_hundred_leave_as_one_batch() {
    let site = Site::real().await;
    let labels: Vec<&'static str> = (0..MANY).map(|number| &*format!("many{number}").leak()).collect();
    let mut job = Job::begin(&labels).await;
    let leaving = job.instances.clone();
    let enrolling = stream::iter(leaving.clone()).map(|instance| {
        let site = &site;
        async move { Applicant::named(instance.certname).instance(&instance.id).enrol(site).await }
    });
    enrolling.buffer_unordered(AT_ONCE).collect::<Vec<_>>().await;
    let others = stream::iter(0..MANY).map(|_| {
        let site = &site;
        async move { Applicant::named(fresh("single")).enrol(site).await.certname }
    });
    let others: Vec<_> = others.buffer_unordered(AT_ONCE).collect().await;
    let mut certificates = Vec::new();
    for instance in &leaving {
        certificates.push(job.ca().certificate(&instance.certname).await.unwrap().expect("it is enrolled"));
    }

    let events: Vec<Value> = leaving.iter().map(|instance| job.begin_to_terminate(&instance.id)).collect();
    let began = Instant::now();
    let answer = job.invoke("purge", &batch(&events)).await;
    let together = began.elapsed();
    assert_eq!(answer, json!({"batchItemFailures": []}));
    let crl = job.ca().crl().await.unwrap();
    assert!(certificates.iter().all(|certificate| crl.revokes(certificate)), "every serial is in the CRL");
    for instance in &leaving {
        assert_eq!(job.ca().certificate(&instance.certname).await, Ok(None));
        assert_eq!(job.state_of(instance).as_deref(), Some("Terminated"));
    }

    let began = Instant::now();
    for name in &others {
        assert_eq!(job.ca_admin().revoke(name).await, Ok(Outcome::Done));
        assert_eq!(job.ca_admin().delete(name).await, Ok(Outcome::Done));
    }
    let singly = began.elapsed();
    // Not by a macro, whose output a passing test swallows.
    let _ = writeln!(
        std::io::stderr(),
        "{MANY} real certificates: {:.1} s as one batch, hooks answered; {:.1} s revoked and deleted one by one",
        together.as_secs_f64(),
        singly.as_secs_f64()
    );
}
