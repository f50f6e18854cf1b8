//! Answers to questions: what a decision needs to know besides the snapshot. Reads only, once per batch where one call answers
//! for all.

use stagedoor_lifecycle::decision::Question;
use stagedoor_lifecycle::onboard::Connection;
use stagedoor_lifecycle::profile::Probe;
use stagedoor_types::{ActionKey, Certname, InstanceId, Lookup, Service};

use super::refresh::{self, orders_of};
use super::{ask, aws};
use crate::batch::{Answer, Query};
use crate::call::{is_unauthenticated, unique};
use crate::context::{Puppet, Run};
use crate::snapshot::PuppetSnapshot;

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
    let histories = of(|question| matches!(question, Question::History(_)));
    let targets = of(|question| matches!(question, Question::Targets(_)));
    let probed = of(|question| matches!(question, Question::Probes));
    let jobs = async {
        match &puppet.orchestrator {
            Some(orchestrator) if snapshot.jobs.is_none() && !(connected.is_empty() && targets.is_empty()) => {
                Some(refresh::jobs(run, orchestrator).await)
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
    let (classified, elsewhere, connected, histories, targets, probed) = Box::pin(async {
        tokio::join!(
            super::classification::classification(run, puppet, snapshot, &to_classify),
            super::elsewhere::elsewhere(run, puppet, snapshot, &elsewhere),
            connections(run, puppet, snapshot, &connected),
            refresh::histories(run, puppet, &histories),
            refresh::targets(run, puppet, snapshot, &targets),
            super::probes::probes(run, puppet, snapshot, &probed),
        )
    })
    .await;
    let mut answers = Answers { all: owners.into_iter().chain(probed).collect(), unauthenticated: false };
    for more in [classified, elsewhere, connected, histories, targets] {
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
