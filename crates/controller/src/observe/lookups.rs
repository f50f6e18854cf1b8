//! Answers to questions: what a decision needs to know besides the snapshot. Reads only, once per batch where one call answers
//! for all.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use stagedoor_lifecycle::decision::Question;
use stagedoor_lifecycle::onboard::{Connection, ProbeResult};
use stagedoor_lifecycle::profile::Probe;
use stagedoor_puppet::{ServiceState, StatusApi};
use stagedoor_types::{ActionKey, Certname, InstanceId, Lookup, Service};

use super::refresh::{self, orders_of};
use super::{ask, aws};
use crate::batch::{Answer, Query};
use crate::call::{AT_ONCE, is_unauthenticated, unique, within};
use crate::context::{Puppet, Run};
use crate::snapshot::PuppetSnapshot;

/// How long a port may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// Answers, and whether Puppet refused the credentials.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    pub(crate) all: Vec<(ActionKey, Answer)>,
    pub(crate) unauthenticated: bool,
}

/// Looks up what the decisions need to know. Node groups and orders are kept in the snapshot: they are read once a pass.
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
    let (owners, jobs, groups) = Box::pin(async { tokio::join!(owners(run, queries), jobs, groups) }).await;
    snapshot.jobs = jobs.or(snapshot.jobs.take());
    snapshot.groups = groups.or(snapshot.groups.take());
    let snapshot: &PuppetSnapshot = snapshot;
    let (classified, elsewhere, connected, histories, targets, probed) = Box::pin(async {
        tokio::join!(
            super::classification::classification(run, puppet, snapshot, &to_classify),
            super::elsewhere::elsewhere(run, puppet, snapshot, &elsewhere),
            connections(run, puppet, snapshot, &connected),
            refresh::histories(run, puppet, &histories),
            refresh::targets(run, puppet, snapshot, &targets),
            probes(run, puppet, &probed),
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

/// What the probes of these instances say.
async fn probes(run: Run<'_>, puppet: &Puppet, queries: &[&Query]) -> Vec<(ActionKey, Answer)> {
    let wanted =
        queries.iter().enumerate().flat_map(|(at, query)| query.probes.iter().map(move |probe| (at, *query, *probe)));
    let asked = stream::iter(wanted).map(|(at, query, probe)| async move {
        let answer = match &query.certname {
            Some(name) => ask_addresses(run, puppet, name, &query.addresses, probe).await,
            None => Err("its certname is unknown".to_owned()),
        };
        (at, probe, answer)
    });
    let mut said: Vec<Vec<(Probe, ProbeResult)>> = vec![Vec::new(); queries.len()];
    for (at, probe, answer) in asked.buffer_unordered(AT_ONCE).collect::<Vec<_>>().await {
        if let Some(of_query) = said.get_mut(at) {
            of_query.push((probe, answer));
        }
    }
    queries.iter().zip(said).map(|(query, said)| (query.key.clone(), Answer::Probes(said))).collect()
}

/// What a service said at one address.
enum Said {
    /// What it should, or what it said instead.
    Answered(ProbeResult),
    /// Nothing answers there.
    Unreachable(String),
}

/// Whether the node's service answers as it should at the first of its addresses that answers; the text says what it did instead.
async fn ask_addresses(
    run: Run<'_>,
    puppet: &Puppet,
    name: &Certname,
    addresses: &[IpAddr],
    probe: Probe,
) -> ProbeResult {
    let mut unreachable = Vec::new();
    for address in addresses {
        match ask_probe(run, puppet, name, *address, probe).await {
            Said::Answered(result) => return result,
            Said::Unreachable(why) if addresses.len() == 1 => return Err(why),
            Said::Unreachable(why) => unreachable.push(format!("{address}: {why}")),
        }
    }
    Err(if addresses.is_empty() { "EC2 shows no private address for it".to_owned() } else { unreachable.join("; ") })
}

async fn ask_probe(run: Run<'_>, puppet: &Puppet, name: &Certname, address: IpAddr, probe: Probe) -> Said {
    match probe {
        Probe::Report | Probe::AnyReport => Said::Answered(Ok(())),
        Probe::Status(port) => {
            let api = match StatusApi::of_node(&puppet.transport, name, SocketAddr::new(address, port)) {
                Ok(api) => api,
                Err(error) => return Said::Answered(Err(error.to_string())),
            };
            match ask(run, Service::Node, api.simple()).await {
                Ok(ServiceState::Running) => Said::Answered(Ok(())),
                Ok(ServiceState::Unreachable { reason }) => Said::Unreachable(reason),
                Ok(other) => Said::Answered(Err(format!("it says that it is {other}"))),
                Err(trouble) => Said::Answered(Err(trouble.text)),
            }
        }
        Probe::Tcp(port) => {
            let connecting = tokio::time::timeout(CONNECT, puppet.transport.connect(SocketAddr::new(address, port)));
            match within(run.context, run.budget.work, Service::Node, connecting).await {
                Ok(Ok(Ok(()))) => Said::Answered(Ok(())),
                Ok(Ok(Err(error))) => Said::Unreachable(error.to_string()),
                Ok(Err(_)) => Said::Unreachable("no answer within 5 s".to_owned()),
                Err(trouble) => Said::Answered(Err(trouble.text)),
            }
        }
    }
}
