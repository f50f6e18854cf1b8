//! Answers to questions: what a decision needs to know besides the snapshot. Reads only, once per batch where one call answers
//! for all.

use std::collections::BTreeMap;

use jiff::Timestamp;
use stagedoor_lifecycle::decision::Question;
use stagedoor_lifecycle::onboard::Connection;
use stagedoor_lifecycle::profile::Probe;
use stagedoor_lifecycle::refresh::{Order, TargetView};
use stagedoor_puppet::Job;
use stagedoor_types::{ActionKey, Certname, InstanceId, Lookup, Service, Trouble};

use super::{ask, aws};
use crate::batch::{Answer, Query};
use crate::call::{is_unauthenticated, unique};
use crate::context::{Puppet, Run};
use crate::snapshot::{PuppetSnapshot, by_name, run_of};

/// How many of the newest orders are read.
const ORDERS: usize = 100;

/// Answers, and whether Puppet refused the credentials.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    pub(crate) all: Vec<(ActionKey, Answer)>,
    pub(crate) unauthenticated: bool,
}

/// Looks up what the decisions need to know. Node groups, orders and the state of the code are kept in the snapshot: they are read once
/// a pass.
pub(crate) async fn lookups(
    run: Run<'_>,
    puppet: &Puppet,
    snapshot: &mut PuppetSnapshot,
    queries: &[Query],
) -> Answers {
    let of = |wanted: fn(&Question) -> bool| -> Vec<&Query> {
        queries.iter().filter(|query| wanted(&query.question)).collect()
    };
    let to_classify = of(|question| matches!(question, Question::Classification { .. }));
    let elsewhere = of(|question| matches!(question, Question::Elsewhere));
    let connected = of(|question| matches!(question, Question::Connection));
    let targets = of(|question| matches!(question, Question::Targets));
    let probed = of(|question| matches!(question, Question::Probes));
    let jobs = async {
        match &puppet.orchestrator {
            Some(orchestrator) if snapshot.jobs.is_none() && !(connected.is_empty() && targets.is_empty()) => {
                Some(ask(run, Service::Orchestrator, orchestrator.jobs(ORDERS)).await)
            }
            _ => None,
        }
    };
    let groups = async {
        match &puppet.classifier {
            Some(classifier) if snapshot.groups.is_none() && !to_classify.is_empty() => {
                Some(ask(run, Service::Classifier, classifier.groups()).await)
            }
            _ => None,
        }
    };
    let code = async {
        let wanted = probed.iter().any(|query| query.probes.contains(&Probe::FileSync));
        if !wanted || snapshot.code.is_some() {
            return None;
        }
        // By Puppet Server on the CA's host, which is the primary.
        Some(ask(run, Service::Ca, puppet.file_sync.code()).await)
    };
    let (owners, jobs, groups, code) = Box::pin(async { tokio::join!(owners(run, queries), jobs, groups, code) }).await;
    snapshot.jobs = jobs.or(snapshot.jobs.take());
    snapshot.groups = groups.or(snapshot.groups.take());
    snapshot.code = code.or(snapshot.code.take());
    let snapshot: &PuppetSnapshot = snapshot;
    let (classified, elsewhere, connected, targets, probed) = Box::pin(async {
        tokio::join!(
            super::classification::classification(run, puppet, snapshot, &to_classify),
            super::elsewhere::elsewhere(run, puppet, snapshot, &elsewhere),
            connections(run, puppet, snapshot, &connected),
            refresh_targets(run, puppet, snapshot, &targets),
            super::probes::probes(run, puppet, snapshot, &probed),
        )
    })
    .await;
    let mut answers = Answers { all: owners.into_iter().chain(probed).collect(), unauthenticated: false };
    for more in [classified, elsewhere, connected, targets] {
        answers.all.extend(more.all);
        answers.unauthenticated |= more.unauthenticated;
    }
    answers
}

/// What EC2 says of the instances that certificates and requests name.
async fn owners(run: Run<'_>, queries: &[Query]) -> Vec<(ActionKey, Answer)> {
    let owner = |query: &Query| match &query.question {
        Question::Owner(owner) => Some((query.key.clone(), owner.clone())),
        _ => None,
    };
    let owners: Vec<(ActionKey, InstanceId)> = queries.iter().filter_map(owner).collect();
    if owners.is_empty() {
        return Vec::new();
    }
    let machines = aws::owners(run, &unique(owners.iter().map(|(_, owner)| owner))).await;
    let answer = |(key, owner): (ActionKey, InstanceId)| {
        let machine = machines.get(&owner).cloned().unwrap_or(Lookup::Absent);
        (key, Answer::Owner(owner, machine))
    };
    owners.into_iter().map(answer).collect()
}

/// Whether the orchestrator reaches these nodes, and what it ordered for them.
async fn connections(run: Run<'_>, puppet: &Puppet, snapshot: &PuppetSnapshot, queries: &[&Query]) -> Answers {
    let names: Vec<Certname> = unique(queries.iter().filter_map(|query| query.certname.as_ref()));
    let (false, Some(orchestrator)) = (names.is_empty(), &puppet.orchestrator) else { return Answers::default() };
    let inventory = ask(run, Service::Orchestrator, orchestrator.inventory(&names)).await;
    let answer = |query: &&Query| {
        let name = query.certname.as_ref()?;
        let connected = match &inventory {
            Ok(connected) if connected.get(name) == Some(&true) => Lookup::Found(()),
            Ok(_) => Lookup::Absent,
            Err(trouble) => Lookup::Unavailable(trouble.clone()),
        };
        let orders = orders_of(snapshot.jobs.as_ref(), name);
        Some((query.key.clone(), Answer::Connection(Connection { connected, orders })))
    };
    Answers { all: queries.iter().filter_map(answer).collect(), unauthenticated: is_unauthenticated(&inventory) }
}

/// What is known of the refresh targets.
async fn refresh_targets(run: Run<'_>, puppet: &Puppet, snapshot: &PuppetSnapshot, queries: &[&Query]) -> Answers {
    let names: Vec<Certname> = unique(queries.iter().flat_map(|query| &query.targets));
    if names.is_empty() {
        return Answers::default();
    }
    let connected = async {
        match &puppet.orchestrator {
            Some(orchestrator) => Some(ask(run, Service::Orchestrator, orchestrator.inventory(&names)).await),
            None => None,
        }
    };
    let (reports, connected) =
        tokio::join!(ask(run, Service::PuppetDb, puppet.puppetdb.latest_reports(&names)), connected);
    let unauthenticated = is_unauthenticated(&reports) || connected.as_ref().is_some_and(is_unauthenticated);
    let connected = connected.and_then(Result::ok);
    let runs = by_name(reports, |report| &report.certname);
    let view = |name: &Certname| TargetView {
        certname: name.clone(),
        disconnected: connected.as_ref().is_some_and(|connected| connected.get(name) == Some(&false)),
        run: run_of(&runs, name),
        orders: puppet.orchestrator.is_some().then(|| orders_of(snapshot.jobs.as_ref(), name)),
    };
    let views: BTreeMap<&Certname, TargetView> = names.iter().map(|name| (name, view(name))).collect();
    let answer = |query: &&Query| {
        let targets = query.targets.iter().filter_map(|name| views.get(name).cloned()).collect();
        (query.key.clone(), Answer::Targets(targets))
    };
    Answers { all: queries.iter().map(answer).collect(), unauthenticated }
}

/// The orders for a node, newest first; those that change nothing are none.
fn orders_of(jobs: Option<&Result<Vec<Job>, Trouble>>, name: &Certname) -> Lookup<Vec<Order>> {
    match jobs {
        None => Lookup::Absent,
        Some(Err(trouble)) => Lookup::Unavailable(trouble.clone()),
        Some(Ok(jobs)) => Lookup::Found(
            jobs.iter()
                .filter(|job| job.is_for(name) && !job.noop)
                .map(|job| {
                    let began = job.started.or(job.created);
                    let ended =
                        if job.state.is_over() { job.finished.or(began).or(Some(Timestamp::MIN)) } else { None };
                    Order { job: job.id.to_string(), began, ended }
                })
                .collect(),
        ),
    }
}
