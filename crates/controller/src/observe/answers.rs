//! Answers to what a decision has to know beyond a look at the names. Reads only, once per set where one call answers
//! for all.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::future::join;
use futures_util::stream::{self, StreamExt};
use jiff::Timestamp;
use serde_json::json;
use stagedoor_lifecycle::decision::Question;
use stagedoor_lifecycle::observation::{Lookup, Service, Trouble, TroubleKind};
use stagedoor_lifecycle::onboard::{Classified, Connection};
use stagedoor_lifecycle::profile::Probe;
use stagedoor_lifecycle::refresh::{Order, TargetView};
use stagedoor_lifecycle::{Certname, InstanceId};
use stagedoor_puppet::{Job, ServiceState, StatusApi, trusted_facts};
use tokio::net::TcpStream;

use super::names::{by_name, run_of};
use super::{PuppetSnapshot, Questions, cloud};
use crate::batch::WorkItem;
use crate::budget::Budget;
use crate::call::{AT_ONCE, is_unauthenticated, unique, within};
use crate::context::{Context, Puppet};

/// How many of the newest orders are looked through.
const ORDERS: usize = 100;
/// How long a port may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// Finds out what these cases asked. Whatever could not be found out is an answer as well.
pub(crate) async fn answer(
    context: &Context,
    snapshot: &mut PuppetSnapshot,
    items: &mut [WorkItem],
    asked: Vec<(usize, Question)>,
    budget: Budget,
) {
    let puppet = snapshot.puppet.clone();
    let ask = &Questions { context, budget };
    let mut owners: Vec<(usize, InstanceId)> = Vec::new();
    let (mut classified, mut connected, mut targets, mut probed) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (index, question) in asked {
        match question {
            Question::Owner(owner) => owners.push((index, owner)),
            Question::Classification => classified.push(index),
            Question::Connection => connected.push(index),
            Question::Targets => targets.push(index),
            Question::Probes => probed.push(index),
            Question::Names(_) | Question::Began => {}
        }
    }
    if !owners.is_empty() {
        let machines = cloud::owners(context, &unique(owners.iter().map(|(_, owner)| owner)), budget).await;
        for (index, owner) in owners {
            let machine = machines.get(&owner).cloned().unwrap_or(Lookup::Absent);
            items[index].launch.owner = Some((owner, machine));
        }
    }
    let Some(puppet) = puppet else { return };
    if puppet.orchestrator.is_some() && snapshot.jobs.is_none() && !(connected.is_empty() && targets.is_empty()) {
        snapshot.jobs = jobs(ask, &puppet).await;
        snapshot.stale |= snapshot.jobs.as_ref().is_some_and(is_unauthenticated);
    }
    classification(ask, &puppet, snapshot, items, &classified).await;
    snapshot.stale |= connections(ask, &puppet, snapshot.jobs.as_ref(), items, &connected).await;
    snapshot.stale |= refresh_targets(ask, &puppet, snapshot.jobs.as_ref(), items, &targets).await;
    probes(ask, &puppet, items, &probed).await;
}

async fn jobs(ask: &Questions<'_>, puppet: &Puppet) -> Option<Result<Vec<Job>, Trouble>> {
    Some(ask.ask(Service::Orchestrator, puppet.orchestrator.as_ref()?.jobs(ORDERS)).await)
}

async fn classification(
    ask: &Questions<'_>,
    puppet: &Puppet,
    snapshot: &mut PuppetSnapshot,
    items: &mut [WorkItem],
    which: &[usize],
) {
    let Some(classifier) = &puppet.classifier else {
        for &index in which {
            items[index].launch.classification = Some(Lookup::Absent);
        }
        return;
    };
    if !which.is_empty() && snapshot.groups.is_none() {
        snapshot.groups = Some(ask.ask(Service::Classifier, classifier.groups()).await);
        snapshot.stale |= snapshot.groups.as_ref().is_some_and(is_unauthenticated);
    }
    let certificates: Vec<_> =
        which.iter().filter_map(|&index| Some((index, items[index].own_certificate()?.clone()))).collect();
    let answers = stream::iter(certificates).map(|(index, certificate)| async move {
        let Ok(certname) = certificate.common_name().parse::<Certname>() else { return (index, None) };
        let trusted = trusted_facts(&certificate);
        (index, Some(ask.ask(Service::Classifier, classifier.classified(&certname, &json!({}), &trusted)).await))
    });
    let answers: Vec<_> = answers.buffer_unordered(AT_ONCE).collect().await;
    let known: Result<BTreeSet<String>, Trouble> = match &snapshot.groups {
        Some(Ok(groups)) => Ok(groups.iter().map(|group| group.name.clone()).collect()),
        Some(Err(trouble)) => Err(trouble.clone()),
        None => Ok(BTreeSet::new()),
    };
    for (index, answer) in answers {
        let answer = answer.unwrap_or_else(|| {
            Err(Trouble {
                kind: TroubleKind::Unexpected,
                service: Service::Ca,
                text: "the name of the certificate is no certname".to_owned(),
            })
        });
        snapshot.stale |= is_unauthenticated(&answer);
        let both = answer.and_then(|answer| Ok((answer, known.clone()?)));
        items[index].launch.classification = Some(match both {
            Ok((answer, known)) => {
                let groups = answer.groups.into_iter().map(|group| group.name).collect();
                Lookup::Found(Classified { groups, known })
            }
            Err(trouble) => Lookup::Unavailable(trouble),
        });
    }
}

/// Asks the orchestrator about these nodes; whether it refused the credentials.
async fn connections(
    ask: &Questions<'_>,
    puppet: &Puppet,
    jobs: Option<&Result<Vec<Job>, Trouble>>,
    items: &mut [WorkItem],
    which: &[usize],
) -> bool {
    let names: Vec<Certname> = unique(which.iter().flat_map(|&index| items[index].names()));
    let (false, Some(orchestrator)) = (names.is_empty(), &puppet.orchestrator) else { return false };
    let connected = ask.ask(Service::Orchestrator, orchestrator.inventory(&names)).await;
    for &index in which {
        let Some(name) = items[index].names().next().cloned() else { continue };
        let connected = match &connected {
            Ok(connected) if connected.get(&name) == Some(&true) => Lookup::Found(()),
            Ok(_) => Lookup::Absent,
            Err(trouble) => Lookup::Unavailable(trouble.clone()),
        };
        items[index].launch.connection = Some(Connection { connected, orders: orders_of(jobs, &name) });
    }
    is_unauthenticated(&connected)
}

/// Asks about the refresh targets; whether Puppet refused the credentials.
async fn refresh_targets(
    ask: &Questions<'_>,
    puppet: &Puppet,
    jobs: Option<&Result<Vec<Job>, Trouble>>,
    items: &mut [WorkItem],
    which: &[usize],
) -> bool {
    let wanted = |item: &WorkItem| item.held.as_ref().map(|(held, _)| held.profile.refresh.clone()).unwrap_or_default();
    let names: BTreeSet<Certname> = which.iter().flat_map(|&index| wanted(&items[index])).collect();
    if names.is_empty() {
        return false;
    }
    let names: Vec<Certname> = names.into_iter().collect();
    let connected = async {
        match &puppet.orchestrator {
            Some(orchestrator) => Some(ask.ask(Service::Orchestrator, orchestrator.inventory(&names)).await),
            None => None,
        }
    };
    let (runs, connected) = join(ask.ask(Service::PuppetDb, puppet.puppetdb.latest_reports(&names)), connected).await;
    let stale = is_unauthenticated(&runs) || connected.as_ref().is_some_and(is_unauthenticated);
    let connected = connected.and_then(Result::ok);
    let runs = by_name(runs, |report| &report.certname);
    let views: BTreeMap<Certname, TargetView> = names
        .into_iter()
        .map(|name| {
            let orders = puppet.orchestrator.is_some().then(|| orders_of(jobs, &name));
            let disconnected = connected.as_ref().is_some_and(|connected| connected.get(&name) == Some(&false));
            (name.clone(), TargetView { disconnected, run: run_of(&runs, &name), orders, certname: name })
        })
        .collect();
    for &index in which {
        let targets: Vec<TargetView> = wanted(&items[index]).iter().map(|name| views[name].clone()).collect();
        let item = &mut items[index];
        if item.is_launching() {
            item.launch.targets = Some(targets);
        } else {
            item.seen.targets = Some(targets);
        }
    }
    stale
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

async fn probes(ask: &Questions<'_>, puppet: &Puppet, items: &mut [WorkItem], which: &[usize]) {
    let mut wanted = Vec::new();
    for &index in which {
        let item = &items[index];
        let Some((held, _)) = &item.held else { continue };
        let probes = held.profile.ready.iter().filter(|probe| **probe != Probe::Report);
        wanted.extend(probes.map(|probe| (index, item.names().next().cloned(), held.address, *probe)));
    }
    let answers = stream::iter(wanted).map(|(index, name, address, probe)| async move {
        let answer = match (name, address) {
            (Some(name), Some(address)) => ask_probe(ask, puppet, &name, address, probe).await,
            _ => Err("EC2 shows no private address for it".to_owned()),
        };
        (index, probe, answer)
    });
    let answers: Vec<_> = answers.buffer_unordered(AT_ONCE).collect().await;
    for &index in which {
        let of_case = answers.iter().filter(|(of, ..)| *of == index);
        items[index].launch.probes = Some(of_case.map(|(_, probe, answer)| (*probe, answer.clone())).collect());
    }
}

/// Whether the node's service answers as it should; the text says what it did instead.
async fn ask_probe(
    ask: &Questions<'_>,
    puppet: &Puppet,
    name: &Certname,
    address: IpAddr,
    probe: Probe,
) -> Result<(), String> {
    match probe {
        Probe::Report => Ok(()),
        Probe::Status(port) => {
            let api = StatusApi::of_node(&puppet.transport, name, SocketAddr::new(address, port));
            let api = api.map_err(|error| error.to_string())?;
            match ask.ask(Service::Node, api.simple()).await.map_err(|trouble| trouble.text)? {
                ServiceState::Running => Ok(()),
                ServiceState::Unreachable { reason } => Err(reason),
                other => Err(format!("it says that it is {other}")),
            }
        }
        Probe::Tcp(port) => {
            let connecting = tokio::time::timeout(CONNECT, TcpStream::connect(SocketAddr::new(address, port)));
            match within(ask.context, ask.budget.work, Service::Node, connecting)
                .await
                .map_err(|trouble| trouble.text)?
            {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("no answer within 5 s".to_owned()),
            }
        }
    }
}
