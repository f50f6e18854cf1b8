//! The invariants. Each write is checked against the actual state before it is carried out. No client can query this state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use stagedoor_lab_aws::Aws;
use stagedoor_lab_core::server::{Call, Reply, Request, Service};
use stagedoor_lab_puppet::{Puppet, Right};

/// The hooks of the group.
pub(crate) const LAUNCH_HOOK: &str = "stagedoor-launch";
pub(crate) const TERMINATE_HOOK: &str = "stagedoor-terminate";

/// The node group that launching nodes are pinned to on Puppet Enterprise.
pub(crate) const PINNED_TO: &str = "PE Infrastructure Agent";

/// The primary of a Puppet Enterprise site, which is its refresh target.
pub(crate) const PRIMARY: &str = "puppet";
/// The PostgreSQL host of a Puppet Enterprise site, where it is not the primary.
pub(crate) const DATABASE: &str = "database";
/// The timeouts of a launch and of its refresh; the latter less a minute to allow for clocks that differ.
const TIMEOUTS: [SignedDuration; 2] = [SignedDuration::from_mins(30), SignedDuration::from_mins(19)];
/// The same for compilers.
const TIMEOUTS_OF_COMPILERS: [SignedDuration; 2] = [SignedDuration::from_mins(75), SignedDuration::from_mins(44)];
/// How long before its timeout a launch goes on without refresh targets, plus a minute to allow for clocks that differ.
const NEARLY: SignedDuration = SignedDuration::from_mins(3);

/// How old an observation of AWS may be when a request is signed, and how long that takes.
const OBSERVED: SignedDuration = SignedDuration::from_secs(45);
/// How long housekeeping may take to find a certificate that was left behind.
const HOUSEKEEPING: SignedDuration = SignedDuration::from_mins(50);

/// The time within which one housekeeping ends.
const ONE_HOUSEKEEPING: SignedDuration = SignedDuration::from_mins(4);
/// How many orphans may always be removed at once, and which share of the fleet otherwise, in percent.
const ALWAYS_ALLOWED: usize = 5;
const MAX_SHARE: usize = 20;

/// A violation of an invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The violated invariant.
    pub invariant: Invariant,
    /// When it was violated.
    pub at: Timestamp,
    /// What happened.
    pub what: String,
}

/// The invariants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// The certificate that a live instance uses is never revoked or removed.
    CertificateInUse,
    /// The node of a live instance is never deactivated.
    NodeInUse,
    /// A live instance is never unpinned from its node groups.
    PinInUse,
    /// A protected name is never purged.
    Protected,
    /// Only a request from the instance's own agent is signed.
    StrangerSigned,
    /// On Puppet Enterprise, a node is pinned before its request is signed.
    SignedUnpinned,
    /// No more than the allowed share of the fleet is removed at once without a lifecycle action.
    TooManyAtOnce,
    /// No launch is completed with CONTINUE unless the instance has run Puppet successfully with its own certificate.
    AdmittedUnfit,
    /// On Puppet Enterprise, no launch is completed with CONTINUE before the primary has run Puppet since the instance's first
    /// successful run, or, for compilers, before they are admitted to the database, to file sync and as brokers; unless the timeout of
    /// the refresh has expired.
    AdmittedUnknown,
    /// The timeout of a refresh does not expire while nothing is wrong with the refresh targets.
    RefreshStarved,
    /// No refresh target has more than two orders in progress: one by which it learns of a change, and one that waits for it to end.
    OrdersPileUp,
    /// Where PostgreSQL has a host of its own, the primary is ordered to run for launches only after that host has learnt of one of them.
    WaveTooEarly,
    /// The number of orders for a refresh target is bounded by the number of launches and removals.
    TooManyOrders,
    /// At the end, the primary has run Puppet since the last node was deactivated.
    RemovalUnknown,
    /// No termination is completed before the removal is proven.
    CompletedUnproven,
    /// The launch of a fit instance is never abandoned.
    FitAbandoned,
    /// At the end, no action still waits.
    Stranded,
    /// At the end, nothing is left of a terminated instance.
    LeftBehind,
    /// At the end, every fit instance that is not meant to terminate is in service.
    NotInService,
    /// No lifecycle action ends because its hook timed out.
    HookTimedOut,
    /// A profile that only observes writes nothing.
    ObserverWrote,
    /// The number of calls about one name is bounded.
    TooManyCalls,
    /// Every invocation returns within the function's time limit, without a panic.
    InvocationFailed,
}

/// The actual state of an instance.
#[derive(Clone, Debug, Default)]
pub(crate) struct Truth {
    pub(crate) certname: String,
    /// SHA-256 over the public key of the instance's agent.
    pub(crate) key: Option<[u8; 32]>,
    /// The serial number of the certificate that the agent uses.
    pub(crate) serial: Option<u64>,
    /// The root volume that holds the key, by number.
    pub(crate) volume: u32,
    /// Whether the agent has run Puppet successfully with that certificate.
    pub(crate) has_run: bool,
    /// Whether PuppetDB has received a report of it.
    pub(crate) has_reported: bool,
    /// When its first successful run of this launch ended.
    pub(crate) first_run: Option<Timestamp>,
    /// When its first catalog of this launch was stored.
    pub(crate) first_catalog: Option<Timestamp>,
    /// Whether nothing on the instance's own side prevents its launch from succeeding.
    pub(crate) fit: bool,
    /// When the current launch began to wait.
    pub(crate) launched: Option<Timestamp>,
    /// When the termination began to wait.
    pub(crate) waits_since: Option<Timestamp>,
}

/// The actual state of all instances, and the violations so far.
#[derive(Clone)]
pub(crate) struct Watch {
    inner: Arc<Mutex<Inner>>,
    aws: Aws,
    puppet: Puppet,
}

#[derive(Default)]
struct Inner {
    /// Whether the profile only observes.
    observes: bool,
    /// Whether the compilers' PostgreSQL has a host of its own.
    own_database: bool,
    instances: BTreeMap<String, Truth>,
    violations: Vec<Violation>,
    /// Names of another Region's instances.
    foreign: BTreeSet<String>,
    /// When a request for each name was last signed.
    signed: BTreeMap<(String, [u8; 32]), Timestamp>,
    /// When each name was pinned.
    pinned: BTreeMap<String, Timestamp>,
    /// The names of instances without a lifecycle action that were removed recently, and when.
    orphans: BTreeMap<String, Timestamp>,
    /// When a node was last deactivated.
    deactivated: Option<Timestamp>,
}

impl Watch {
    pub(crate) fn new(aws: Aws, puppet: Puppet) -> Self {
        Self { inner: Arc::default(), aws, puppet }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the actual state of an instance.
    pub(crate) fn set(&self, id: &str, change: impl FnOnce(&mut Truth)) {
        change(self.lock().instances.entry(id.to_owned()).or_default());
    }

    /// From now on, the controller may write nothing.
    pub(crate) fn observes(&self) {
        self.lock().observes = true;
    }

    /// The compilers' PostgreSQL has a host of its own, which must run Puppet before the primary.
    pub(crate) fn has_own_database(&self) {
        self.lock().own_database = true;
    }

    /// Adds a name that belongs to a live instance of another Region.
    pub(crate) fn foreign(&self, certname: &str) {
        self.lock().foreign.insert(certname.to_owned());
    }

    pub(crate) fn truth(&self, id: &str) -> Option<Truth> {
        self.lock().instances.get(id).cloned()
    }

    pub(crate) fn instances(&self) -> BTreeMap<String, Truth> {
        self.lock().instances.clone()
    }

    pub(crate) fn violations(&self) -> Vec<Violation> {
        self.lock().violations.clone()
    }

    pub(crate) fn violate(&self, invariant: Invariant, what: impl Into<String>) {
        let violation = Violation { invariant, at: self.puppet.now(), what: what.into() };
        self.lock().violations.push(violation);
    }

    /// The root volume that the instance runs from, by number.
    pub(crate) fn volume(&self, id: &str) -> Option<u32> {
        self.aws.machine(id).map(|machine| machine.root_volumes)
    }

    /// Whether the instance runs. It also runs while a hook holds it.
    pub(crate) fn is_on(&self, id: &str) -> bool {
        self.aws.machine(id).is_some_and(|machine| matches!(machine.state, "pending" | "running"))
    }

    /// Whether the instance is terminated.
    pub(crate) fn is_gone(&self, id: &str) -> bool {
        self.aws.machine(id).is_none_or(|machine| machine.state == "terminated")
    }

    /// The current time.
    pub(crate) fn now(&self) -> Timestamp {
        self.puppet.now()
    }

    /// Whether the instance exists, even if it is stopped in the warm pool, and is not terminating.
    pub(crate) fn is_live(&self, id: &str) -> bool {
        let exists =
            self.aws.machine(id).is_some_and(|machine| !matches!(machine.state, "shutting-down" | "terminated"));
        exists && self.aws.lifecycle_state(id).is_some_and(|state| !state.contains("Terminat"))
    }

    /// The live instances that have this name and a certificate that Puppet accepts.
    fn users(&self, certname: &str) -> Vec<(String, Truth)> {
        let of = |truth: &Truth| {
            truth.certname == certname && truth.serial.is_some_and(|serial| !self.puppet.is_revoked(serial))
        };
        let has_key = |id: &str, truth: &Truth| self.volume(id) == Some(truth.volume);
        self.instances().into_iter().filter(|(id, truth)| of(truth) && self.is_live(id) && has_key(id, truth)).collect()
    }

    fn check(&self, request: &Request, call: &Call) {
        let body: Value = serde_json::from_slice(&request.body).unwrap_or(Value::Null);
        let segments = request.segments();
        let path: Vec<&str> = segments.iter().map(String::as_str).collect();
        let names = || body["certnames"].as_array().into_iter().flatten().filter_map(Value::as_str);
        if self.lock().observes && writes(call, request, &path) {
            self.violate(Invariant::ObserverWrote, format!("{} {}", call.service, call.call));
        }
        match (call.service, request.method.as_str(), path.as_slice()) {
            ("ca", "PUT", ["puppet-ca", "v1", "clean"]) => names().for_each(|name| self.removes(name)),
            ("ca", "POST", ["puppet-ca", "v1", "sign"]) => names().for_each(|name| self.signs(name)),
            ("ca", "PUT", ["puppet-ca", "v1", "certificate_status", name]) => match body["desired_state"].as_str() {
                Some("signed") => self.signs(name),
                _ => self.removes(name),
            },
            ("ca", "DELETE", ["puppet-ca", "v1", "certificate_status", name]) => self.removes(name),
            ("puppetdb", "POST", ["pdb", "cmd", "v1", ..]) => self.commands(request, &body),
            ("classifier", "POST", ["classifier-api", "v1", "commands", "unpin-from-all"]) => {
                let nodes = body["nodes"].as_array().into_iter().flatten().filter_map(Value::as_str);
                nodes.for_each(|name| self.unpins(name));
            }
            ("classifier", "POST", ["classifier-api", "v1", "groups", _, "pin"]) => {
                let nodes = body["nodes"].as_array().into_iter().flatten().filter_map(Value::as_str);
                let now = self.now();
                self.lock().pinned.extend(nodes.map(|name| (name.to_owned(), now)));
            }
            ("classifier", "POST", ["classifier-api", "v1", "groups", _, "unpin"]) => {
                let nodes = body["nodes"].as_array().into_iter().flatten().filter_map(Value::as_str);
                nodes.for_each(|name| self.unpins(name));
            }
            ("orchestrator", "POST", ["orchestrator", "v1", "command", "deploy"]) => {
                let nodes = body["scope"]["nodes"].as_array().into_iter().flatten().filter_map(Value::as_str);
                nodes.for_each(|name| self.orders(name));
            }
            ("autoscaling", ..) if call.call == "CompleteLifecycleAction" => self.completes(&call.request),
            _ => {}
        }
    }

    fn removes(&self, certname: &str) {
        if ["puppet", "controller.example.com"].contains(&certname) {
            self.violate(Invariant::Protected, format!("{certname} is removed"));
        }
        if self.lock().foreign.contains(certname) {
            self.violate(Invariant::CertificateInUse, format!("{certname} of another Region is removed"));
        }
        self.counts(certname);
        for (id, _) in self.users(certname) {
            self.violate(
                Invariant::CertificateInUse,
                format!("the certificate of {certname} is removed, which {id} uses"),
            );
        }
    }

    /// Counts the names that one housekeeping removes and whose instances were terminated without a lifecycle action.
    fn counts(&self, certname: &str) {
        let (now, instances) = (self.now(), self.instances());
        let mut of_name = instances.iter().filter(|(_, truth)| truth.certname == certname);
        if !of_name.all(|(id, truth)| truth.waits_since.is_none() && self.is_gone(id)) {
            return;
        }
        let count = {
            let mut inner = self.lock();
            inner.orphans.retain(|_, at| now.duration_since(*at) < ONE_HOUSEKEEPING);
            inner.orphans.insert(certname.to_owned(), now);
            inner.orphans.len()
        };
        if is_too_many(count, instances.len()) {
            self.violate(Invariant::TooManyAtOnce, format!("{count} of {} names are removed at once", instances.len()));
        }
    }

    fn signs(&self, certname: &str) {
        let Some(key) = self.puppet.requested_key(certname) else { return };
        let now = self.now();
        self.lock().signed.insert((certname.to_owned(), key), now);
        // It is not a violation if the instance began to terminate after the controller's last observation.
        if !self.instances().values().any(|truth| truth.certname == certname && truth.key == Some(key)) {
            let what = format!("a request for {certname} is signed that no agent of that name has sent");
            self.violate(Invariant::StrangerSigned, what);
        }
        if self.puppet.options().enterprise && !self.puppet.is_pinned(PINNED_TO, certname) {
            self.violate(Invariant::SignedUnpinned, format!("{certname} is signed, and is not pinned"));
        }
    }

    fn commands(&self, request: &Request, body: &Value) {
        let command = request.query("command").or(body["command"].as_str()).unwrap_or_default().replace('_', " ");
        let name = request.query("certname").or(body["certname"].as_str()).or(body["payload"]["certname"].as_str());
        if command != "deactivate node" {
            return;
        }
        let certname = name.unwrap_or_default();
        let now = self.now();
        self.lock().deactivated = Some(now);
        if self.lock().foreign.contains(certname) {
            self.violate(Invariant::NodeInUse, format!("{certname} of another Region is deactivated"));
        }
        for (id, truth) in self.users(certname) {
            if truth.has_run {
                self.violate(Invariant::NodeInUse, format!("{certname} is deactivated, which is {id}, live"));
            }
        }
    }

    fn orders(&self, certname: &str) {
        if ![PRIMARY, DATABASE].contains(&certname) {
            return;
        }
        let under_way = self.puppet.jobs_under_way(certname);
        if under_way >= 2 {
            let what = format!("{certname} is ordered to run while {under_way} orders are in progress");
            self.violate(Invariant::OrdersPileUp, what);
        }
        // For a removal, the order of the hosts does not matter.
        let in_waves = {
            let inner = self.lock();
            inner.own_database && inner.deactivated.is_none()
        };
        if in_waves && certname == PRIMARY && !self.database_has_learnt() {
            self.violate(Invariant::WaveTooEarly, format!("{PRIMARY} is ordered to run before {DATABASE} has run"));
        }
    }

    /// Whether the PostgreSQL host has run Puppet since some compiler's first catalog, or the launch goes on without it.
    fn database_has_learnt(&self) -> bool {
        let gives_up = TIMEOUTS_OF_COMPILERS[1] / 2;
        self.instances()
            .values()
            .filter_map(|truth| truth.first_catalog)
            .any(|change| self.puppet.has_run_since(DATABASE, change) || self.now().duration_since(change) >= gives_up)
    }

    /// When the last node was deactivated, if the primary has not run Puppet since.
    pub(crate) fn unknown_removal(&self) -> Option<Timestamp> {
        let at = self.lock().deactivated.filter(|_| self.puppet.options().enterprise)?;
        (!self.puppet.has_run_since(PRIMARY, at)).then_some(at)
    }

    fn unpins(&self, certname: &str) {
        if self.lock().foreign.contains(certname) {
            self.violate(Invariant::PinInUse, format!("{certname} of another Region is unpinned"));
        }
        for (id, truth) in self.users(certname) {
            // A launch that is about to be abandoned is unpinned first.
            let waits = self.aws.lifecycle_state(&id).is_some_and(|state| state.ends_with("Pending:Wait"));
            if truth.has_run && (truth.fit || !waits) {
                self.violate(Invariant::PinInUse, format!("{certname} is unpinned, which is {id}, live"));
            }
        }
    }

    fn completes(&self, parameters: &Value) {
        let text = |name: &str| parameters[name].as_str().unwrap_or_default();
        let (id, hook, result) = (text("InstanceId"), text("LifecycleHookName"), text("LifecycleActionResult"));
        let state = self.aws.lifecycle_state(id).unwrap_or_default();
        let Some(truth) = self.truth(id) else { return };
        let accepted = truth.serial.is_some_and(|serial| !self.puppet.is_revoked(serial));
        // A completion for another hook has no effect.
        match (state.as_str(), hook, result) {
            ("Pending:Wait" | "Warmed:Pending:Wait", LAUNCH_HOOK, "CONTINUE") if !(accepted && truth.has_run) => {
                self.violate(Invariant::AdmittedUnfit, format!("{id} is admitted: {truth:?}"));
            }
            ("Pending:Wait" | "Warmed:Pending:Wait", LAUNCH_HOOK, "CONTINUE") if self.is_unknown(&truth) => {
                self.violate(Invariant::AdmittedUnknown, format!("{id} is admitted: {truth:?}"));
            }
            ("Pending:Wait" | "Warmed:Pending:Wait", LAUNCH_HOOK, "ABANDON") if truth.fit => {
                self.violate(Invariant::FitAbandoned, format!("{id} is abandoned"));
            }
            ("Terminating:Wait" | "Warmed:Terminating:Wait", TERMINATE_HOOK, _)
                if self.is_left(id, &truth) && !self.is_late(&truth) && !self.is_signed_late(&truth) =>
            {
                self.violate(
                    Invariant::CompletedUnproven,
                    format!("{id} is released, and something is left of {}", truth.certname),
                );
            }
            _ => {}
        }
    }

    /// Whether the launch must still wait for other hosts: neither timeout has nearly expired, and the primary has not run Puppet since the
    /// instance's first successful run or, for compilers, the compiler is not admitted to what it needs.
    fn is_unknown(&self, truth: &Truth) -> bool {
        let options = self.puppet.options();
        let compilers = options.primary.is_some();
        let change = if compilers { truth.first_catalog } else { truth.first_run };
        let Some(change) = change.filter(|_| options.enterprise) else { return false };
        let waited = self.now().duration_since(change);
        let rights = self.puppet.rights_of(&truth.certname);
        let known = if compilers {
            [Right::Database, Right::FileSync, Right::Broker].iter().all(|right| rights.contains(right))
        } else {
            self.puppet.has_run_since(PRIMARY, change)
        };
        waited < self.timeouts()[1] && !known && !self.is_nearly_late(truth)
    }

    /// Whether the launch's own timeout expires within a few minutes, so that it goes on without the refresh targets.
    fn is_nearly_late(&self, truth: &Truth) -> bool {
        truth.launched.is_some_and(|since| self.now().duration_since(since) >= self.timeouts()[0] - NEARLY)
    }

    fn timeouts(&self) -> [SignedDuration; 2] {
        if self.puppet.options().primary.is_some() { TIMEOUTS_OF_COMPILERS } else { TIMEOUTS }
    }

    /// Whether the action's timeout has expired, less a minute to allow for clocks that differ.
    fn is_late(&self, truth: &Truth) -> bool {
        let waited = truth.waits_since.map(|since| self.puppet.now().duration_since(since).as_secs());
        waited.is_some_and(|seconds| seconds >= 540)
    }

    /// Whether the certificate was signed after the termination began, by an invocation that had observed AWS before. Housekeeping removes
    /// the certificate once nothing has been heard of its name for 40 minutes.
    pub(crate) fn is_signed_late(&self, truth: &Truth) -> bool {
        self.was_signed_late(truth).is_some_and(|signed| self.now().duration_since(signed) < HOUSEKEEPING)
    }

    /// When that was.
    pub(crate) fn was_signed_late(&self, truth: &Truth) -> Option<Timestamp> {
        let (key, since) = truth.key.zip(truth.waits_since)?;
        let signed = self.lock().signed.get(&(truth.certname.clone(), key)).copied();
        signed.filter(|signed| *signed >= since && signed.duration_since(since) < OBSERVED)
    }

    /// Whether anything of an instance is left in Puppet.
    pub(crate) fn is_left(&self, id: &str, truth: &Truth) -> bool {
        let certificate = self.puppet.certificate(&truth.certname);
        let of_it = certificate.is_some_and(|held| !held.revoked && held.instance_id.as_deref() == Some(id));
        let accepted = truth.serial.is_some_and(|serial| !self.puppet.is_revoked(serial));
        let of_name =
            |(other, of): &(String, Truth)| other != id && of.certname == truth.certname && self.is_live(other);
        let others = self.instances().into_iter().any(|one| of_name(&one));
        let active = truth.has_reported && !others && self.puppet.is_active(&truth.certname) == Some(true);
        // A pin that was set by an invocation that observed AWS before the termination began is only reported.
        let since = self.lock().pinned.get(&truth.certname).copied();
        // Nor is it this instance's if a later one of the same name was launched before the pin.
        let pinned_before = since.is_some_and(|at| {
            let before = |of: &Truth| of.launched.is_some_and(|launched| launched <= at);
            let is_later = |(other, of): (String, Truth)| {
                other != id && of.certname == truth.certname && of.launched > truth.launched && before(&of)
            };
            before(truth)
                && truth.waits_since.is_none_or(|waits| at < waits)
                && !self.instances().into_iter().any(is_later)
        });
        let pinned = !others && pinned_before && self.puppet.is_pinned(PINNED_TO, &truth.certname);
        of_it || accepted || active || pinned
    }
}

/// Whether a call of the controller changes anything.
fn writes(call: &Call, request: &Request, path: &[&str]) -> bool {
    match call.service {
        "ca" => request.method != http::Method::GET,
        "puppetdb" => path.starts_with(&["pdb", "cmd"]),
        "orchestrator" => path.contains(&"command"),
        "classifier" => ["pin", "unpin", "unpin-from-all"].iter().any(|write| path.last() == Some(write)),
        "autoscaling" => ["CompleteLifecycleAction", "RecordLifecycleActionHeartbeat"].contains(&call.call.as_str()),
        _ => false,
    }
}

/// Whether this is too many names to remove at once from a fleet of this size.
pub(crate) fn is_too_many(count: usize, fleet: usize) -> bool {
    count > ALWAYS_ALLOWED && count * 100 > MAX_SHARE * fleet
}

/// A service whose requests are checked first.
pub(crate) struct Watched<S> {
    pub(crate) inner: Arc<S>,
    pub(crate) watch: Watch,
}

impl<S: Service> Service for Watched<S> {
    fn accepts(&self) -> bool {
        self.inner.accepts()
    }

    fn describe(&self, request: &Request) -> Call {
        self.inner.describe(request)
    }

    async fn answer(&self, request: &Request) -> Reply {
        self.watch.check(request, &self.inner.describe(request));
        self.inner.answer(request).await
    }
}
