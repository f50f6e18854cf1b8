//! What PuppetDB and the orchestrator say about the runs of launching nodes and of refresh targets. Reads only, once for the whole batch.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use stagedoor_lifecycle::decision::Question;
use stagedoor_lifecycle::refresh::{CatalogView, History, Order, RunView, TargetView, searched_from};
use stagedoor_puppet::{Job, Orchestrator, Report, StoredCatalog};
use stagedoor_types::{Certname, Lookup, Service, Trouble};

use super::ask;
use super::lookups::Answers;
use crate::batch::{Answer, Query};
use crate::call::is_unauthenticated;
use crate::context::{Puppet, Run};
use crate::snapshot::{PuppetSnapshot, by_name, run_view};

/// How many of the newest orders are read.
const ORDERS: usize = 100;

/// The newest orders of the orchestrator.
pub(super) async fn jobs(run: Run<'_>, orchestrator: &Orchestrator) -> Result<Vec<Job>, Trouble> {
    ask(run, Service::Orchestrator, orchestrator.jobs(ORDERS)).await
}

/// Nodes, each with a time since which its runs are searched for; one may be there for several times.
pub(crate) type Windows = BTreeSet<(Certname, Timestamp)>;

/// The runs of the launching nodes since their launches, with their stored catalogs where those count.
pub(super) async fn histories(run: Run<'_>, puppet: &Puppet, queries: &[&Query]) -> Answers {
    let windows: Windows =
        queries.iter().filter_map(|query| Some((query.certname.clone()?, since(&query.question)?))).collect();
    let after_catalog = queries.iter().filter(|query| query.after_catalog);
    let names: Vec<Certname> = after_catalog.filter_map(|query| query.certname.clone()).collect();
    let (reports, catalogs, nodes) = tokio::join!(
        runs(run, puppet, &windows),
        ask(run, Service::PuppetDb, puppet.puppetdb.catalogs(&names)),
        ask(run, Service::PuppetDb, puppet.puppetdb.nodes(&names)),
    );
    let unauthenticated = is_unauthenticated(&reports) || is_unauthenticated(&catalogs) || is_unauthenticated(&nodes);
    let catalogs = by_name(catalogs, |catalog| &catalog.certname);
    let nodes = by_name(nodes, |node| &node.certname);
    let answer = |query: &&Query| {
        let name = query.certname.as_ref()?;
        let catalog = match (&catalogs, &nodes) {
            // Only nodes show when their catalogs were stored.
            (Ok(catalogs), Ok(nodes)) => catalogs.get(name).map_or(Lookup::Absent, |catalog| {
                let stored = nodes.get(name).and_then(|node| node.catalog_timestamp);
                Lookup::Found(CatalogView { stored, ..catalog_view(catalog) })
            }),
            (Err(trouble), _) | (_, Err(trouble)) => Lookup::Unavailable(trouble.clone()),
        };
        Some((query.key.clone(), Answer::History(History { runs: runs_of(&reports, name), catalog })))
    };
    Answers { all: queries.iter().filter_map(answer).collect(), unauthenticated }
}

/// What is known of the refresh targets.
pub(super) async fn targets(run: Run<'_>, puppet: &Puppet, snapshot: &PuppetSnapshot, queries: &[&Query]) -> Answers {
    let of = |query: &&Query| {
        let since = since(&query.question);
        query.targets.iter().filter_map(move |name| Some((name.clone(), since?))).collect::<Vec<_>>()
    };
    let windows: Windows = queries.iter().flat_map(of).collect();
    let seen = views(run, puppet, snapshot.jobs.as_ref(), &windows).await;
    let answer = |query: &&Query| {
        let targets = query.targets.iter().filter_map(|name| seen.views.get(name).cloned()).collect();
        (query.key.clone(), Answer::Targets(targets))
    };
    Answers { all: queries.iter().map(answer).collect(), unauthenticated: seen.unauthenticated }
}

/// What was seen of refresh targets.
pub(crate) struct Targets {
    pub(crate) views: BTreeMap<Certname, TargetView>,
    /// Whether Puppet refused the credentials.
    unauthenticated: bool,
}

/// What is known of these targets, from an hour before these changes on; for housekeeping, which has no snapshot.
pub(crate) async fn target_views(run: Run<'_>, puppet: &Puppet, changes: &BTreeMap<Certname, Timestamp>) -> Targets {
    let jobs = match &puppet.orchestrator {
        Some(orchestrator) => Some(jobs(run, orchestrator).await),
        None => None,
    };
    let windows = changes.iter().map(|(name, change)| (name.clone(), searched_from(*change))).collect();
    views(run, puppet, jobs.as_ref(), &windows).await
}

async fn views(run: Run<'_>, puppet: &Puppet, jobs: Option<&Result<Vec<Job>, Trouble>>, windows: &Windows) -> Targets {
    let names: BTreeSet<&Certname> = windows.iter().map(|(name, _)| name).collect();
    let names: Vec<Certname> = names.into_iter().cloned().collect();
    if names.is_empty() {
        return Targets { views: BTreeMap::new(), unauthenticated: false };
    }
    let connected = async {
        match &puppet.orchestrator {
            Some(orchestrator) => Some(ask(run, Service::Orchestrator, orchestrator.inventory(&names)).await),
            None => None,
        }
    };
    let (reports, catalogs, connected) = tokio::join!(
        runs(run, puppet, windows),
        ask(run, Service::PuppetDb, puppet.puppetdb.catalogs(&names)),
        connected
    );
    let unauthenticated = is_unauthenticated(&reports)
        || is_unauthenticated(&catalogs)
        || connected.as_ref().is_some_and(is_unauthenticated);
    let connected = connected.and_then(Result::ok);
    let catalogs = by_name(catalogs, |catalog| &catalog.certname);
    // Without the stored catalogs, the times at which the runs' catalogs were compiled are unknown.
    let reports = reports.and_then(|reports| catalogs.as_ref().map(|_| reports).map_err(Clone::clone));
    let catalogs = catalogs.unwrap_or_default();
    let view = |name: Certname| TargetView {
        disconnected: connected.as_ref().is_some_and(|connected| connected.get(&name) == Some(&false)),
        runs: runs_of(&reports, &name),
        catalog: catalogs.get(&name).map(catalog_view),
        orders: puppet.orchestrator.is_some().then(|| orders_of(jobs, &name)),
        certname: name,
    };
    Targets { views: names.into_iter().map(|name| (name.clone(), view(name))).collect(), unauthenticated }
}

/// The time of a question about runs.
fn since(question: &Question) -> Option<Timestamp> {
    match question {
        Question::History(since) | Question::Targets(since) => Some(*since),
        _ => None,
    }
}

type Runs = Result<BTreeMap<Certname, Vec<RunView>>, Trouble>;

async fn runs(run: Run<'_>, puppet: &Puppet, windows: &Windows) -> Runs {
    let windows: Vec<(Certname, Timestamp)> = windows.iter().cloned().collect();
    let reports: Vec<Report> = ask(run, Service::PuppetDb, puppet.puppetdb.runs_since(&windows)).await?;
    let mut runs: BTreeMap<Certname, Vec<RunView>> = BTreeMap::new();
    for report in reports {
        let (of, view) = (runs.entry(report.certname.clone()).or_default(), run_view(&report));
        // Two windows may hold the same run.
        if !of.contains(&view) {
            of.push(view);
        }
    }
    Ok(runs)
}

fn runs_of(runs: &Runs, name: &Certname) -> Lookup<Vec<RunView>> {
    match runs {
        Ok(runs) => Lookup::Found(runs.get(name).cloned().unwrap_or_default()),
        Err(trouble) => Lookup::Unavailable(trouble.clone()),
    }
}

fn catalog_view(catalog: &StoredCatalog) -> CatalogView {
    CatalogView { id: catalog.catalog_uuid.clone(), produced: catalog.producer_timestamp, stored: None }
}

/// The orders for a node, newest first; those that change nothing are none.
pub(super) fn orders_of(jobs: Option<&Result<Vec<Job>, Trouble>>, name: &Certname) -> Lookup<Vec<Order>> {
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
