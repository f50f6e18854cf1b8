//! What a batch asks of the steps, as values. No I/O.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use stagedoor_lifecycle::decision::{Effect, Question};
use stagedoor_lifecycle::observation::LifecycleAction;
use stagedoor_lifecycle::onboard::{Classified, Connection, Elsewhere, Poll, SuccessfulPolls};
use stagedoor_lifecycle::profile::Probe;
use stagedoor_lifecycle::refresh::{History, TargetView};
use stagedoor_plan::Verdict;
use stagedoor_puppet::Certificate;
use stagedoor_types::{ActionKey, Certname, InstanceId, Lookup, Machine, WritePermit};

use super::WorkItem;
use crate::call::unique;

/// What Puppet has to be asked for a batch.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    /// The names whose certificates, requests and nodes are observed.
    pub(crate) names: Vec<Certname>,
    /// The names whose facts are observed.
    pub(crate) all_names: Vec<Certname>,
    /// The names whose newest reports are observed.
    pub(crate) launching: Vec<Certname>,
    /// The instances whose names PuppetDB is asked for.
    pub(crate) terminating: Vec<InstanceId>,
    /// The names whose certificate the CA has just revoked: none is expected there, so its absence is not
    /// checked twice.
    pub(crate) unproven: BTreeSet<Certname>,
    /// The certificates whose revocation the CRL has to prove.
    pub(crate) revoked: Vec<Certificate>,
    /// Whether pins matter.
    pub(crate) groups: bool,
}

impl Wanted {
    /// What these items need.
    pub(crate) fn of<'a>(items: impl Iterator<Item = &'a WorkItem>) -> Self {
        let items: Vec<&WorkItem> = items.collect();
        // What was once seen to be a launching instance's own certificate of this launch stays that for this invocation.
        let unsure = items.iter().filter(|item| item.certificate_of_this_launch().is_none());
        let launching = || items.iter().filter(|item| item.is_launching());
        let pins = |item: &&WorkItem| {
            !item.is_launching() || item.pending().is_none_or(|pending| !pending.profile.pin.is_empty())
        };
        Self {
            names: unique(unsure.flat_map(|item| item.names())),
            all_names: unique(items.iter().flat_map(|item| item.names())),
            launching: unique(launching().flat_map(|item| item.names())),
            terminating: unique(items.iter().filter(|item| !item.is_launching()).map(|item| &item.action().instance)),
            unproven: items.iter().flat_map(|item| item.unproven()).cloned().collect(),
            revoked: items.iter().flat_map(|item| item.removed_certificates()).cloned().collect(),
            groups: items.iter().any(pins),
        }
    }

    /// Whether there is nothing to ask.
    pub(crate) fn is_empty(&self) -> bool {
        self.all_names.is_empty() && self.terminating.is_empty() && self.names.is_empty()
    }
}

/// A question about an action, with what is needed to answer it.
#[derive(Debug, Clone)]
pub(crate) struct Query {
    pub(crate) key: ActionKey,
    pub(crate) question: Question,
    /// The expected name.
    pub(crate) certname: Option<Certname>,
    /// The instance's own certificate.
    pub(crate) certificate: Option<Certificate>,
    /// The instance's addresses, in the order in which they are tried.
    pub(crate) addresses: Vec<IpAddr>,
    /// The node groups that the profile asks for.
    pub(crate) classified: Vec<String>,
    /// The profile's refresh targets.
    pub(crate) targets: Vec<Certname>,
    /// Whether they are refreshed after the node's first catalog.
    pub(crate) after_catalog: bool,
    /// What must answer, besides the report.
    pub(crate) probes: Vec<Probe>,
}

/// The answer to a question. That something could not be found out is an answer as well.
#[derive(Debug)]
pub(crate) enum Answer {
    Owner(InstanceId, Lookup<Machine>),
    Classification(Lookup<Classified>),
    Connection(Connection),
    History(History),
    Targets(Vec<TargetView>),
    /// What the probes said, and the successful polls in a row up to this one.
    Poll(Poll, Option<SuccessfulPolls>),
    Elsewhere(Vec<Elsewhere>),
}

/// An effect to apply, with what is needed for it.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) key: ActionKey,
    pub(crate) effect: Effect,
    /// Whether the instance launches.
    pub(crate) launching: bool,
    /// When the action began, as far as known.
    pub(crate) began: Option<Timestamp>,
    /// Whether a removal was tried in this invocation.
    pub(crate) tried_before: bool,
    /// The permit of its profile's mode.
    pub(crate) permit: WritePermit,
}

/// The pins of a launch that is about to be abandoned.
#[derive(Debug, Clone)]
pub(crate) struct LeftPinned {
    pub(crate) key: ActionKey,
    pub(crate) certname: Certname,
    /// The node groups that the name is pinned to.
    pub(crate) groups: Vec<String>,
    /// The permit of its profile's mode.
    pub(crate) permit: WritePermit,
}

/// An action that waits to be completed.
#[derive(Debug, Clone)]
pub(crate) struct Decided {
    pub(crate) action: LifecycleAction,
    pub(crate) verdict: Verdict,
    /// Whether the hook may still hold the instance.
    pub(crate) waits: bool,
    /// Whether another tool's hook may hold it as well.
    pub(crate) other_hooks: bool,
    /// When AWS showed the state from which alone the verdict follows; `None` if Puppet has shown more.
    pub(crate) seen: Option<Timestamp>,
    /// The permit of its profile's mode; none in observe mode.
    pub(crate) permit: Option<WritePermit>,
}

/// An action to keep alive: its hook would time out before the profile's timeout.
#[derive(Debug, Clone)]
pub(crate) struct Waiting {
    pub(crate) key: ActionKey,
    /// The hook's heartbeat timeout.
    pub(crate) timeout: Duration,
    /// The permit of its profile's mode.
    pub(crate) permit: WritePermit,
}
