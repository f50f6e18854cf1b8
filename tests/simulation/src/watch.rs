//! The invariants. Each write is checked against the actual state before it is carried out. No client can query this state.

mod checks;
mod invariant;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};
use stagedoor_lab_aws::{Aws, Machine};
use stagedoor_lab_core::server::{Call, Reply, Request, Service};
use stagedoor_lab_puppet::Puppet;

pub(crate) use self::checks::is_too_many;
pub use self::invariant::{Invariant, Violation};

/// The hooks of the group.
pub(crate) const LAUNCH_HOOK: &str = "stagedoor-launch";
pub(crate) const TERMINATE_HOOK: &str = "stagedoor-terminate";

/// The node group that launching nodes are pinned to on Puppet Enterprise.
pub(crate) const PINNED_TO: &str = "PE Infrastructure Agent";

/// The certname of the controller.
pub(crate) const CONTROLLER: &str = "controller.example.com";
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

/// The actual state of an instance.
#[derive(Clone, Debug, Default)]
pub(crate) struct Truth {
    pub(crate) certname: String,
    /// The number of its Region.
    pub(crate) region: usize,
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
    /// The AWS of each Region that has a controller.
    aws: Vec<Aws>,
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
    /// Names of instances of a Region without a controller.
    foreign: BTreeSet<String>,
    /// When a request for each name was last signed.
    signed: BTreeMap<(String, [u8; 32]), Timestamp>,
    /// When each name was pinned.
    pinned: BTreeMap<String, Timestamp>,
    /// The names of instances without a lifecycle action that were removed recently, by Region, and when.
    orphans: BTreeMap<(usize, String), Timestamp>,
    /// When a node was last deactivated.
    deactivated: Option<Timestamp>,
}

impl Watch {
    pub(crate) fn new(aws: Vec<Aws>, puppet: Puppet) -> Self {
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

    /// These names are pinned now.
    pub(crate) fn pinned<'a>(&self, certnames: impl IntoIterator<Item = &'a String>) {
        let now = self.now();
        self.lock().pinned.extend(certnames.into_iter().map(|name| (name.clone(), now)));
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

    fn machine(&self, id: &str) -> Option<Machine> {
        self.aws.iter().find_map(|aws| aws.machine(id))
    }

    /// What Auto Scaling says of an instance.
    pub(crate) fn lifecycle_state(&self, id: &str) -> Option<String> {
        self.aws.iter().find_map(|aws| aws.lifecycle_state(id))
    }

    /// The root volume that the instance runs from, by number.
    pub(crate) fn volume(&self, id: &str) -> Option<u32> {
        self.machine(id).map(|machine| machine.root_volumes)
    }

    /// Whether the instance runs. It also runs while a hook holds it.
    pub(crate) fn is_on(&self, id: &str) -> bool {
        self.machine(id).is_some_and(|machine| matches!(machine.state, "pending" | "running"))
    }

    /// Whether the instance is terminated.
    pub(crate) fn is_gone(&self, id: &str) -> bool {
        self.machine(id).is_none_or(|machine| machine.state == "terminated")
    }

    /// The current time.
    pub(crate) fn now(&self) -> Timestamp {
        self.puppet.now()
    }

    /// Whether the instance exists, even if it is stopped in the warm pool, and is not terminating.
    pub(crate) fn is_live(&self, id: &str) -> bool {
        let exists = self.machine(id).is_some_and(|machine| !matches!(machine.state, "shutting-down" | "terminated"));
        exists && self.lifecycle_state(id).is_some_and(|state| !state.contains("Terminat"))
    }

    /// The live instances that have this name and a certificate with its key.
    fn owners(&self, certname: &str) -> impl Iterator<Item = (String, Truth)> {
        let of = move |truth: &Truth| truth.certname == certname && truth.serial.is_some();
        let has_key = |id: &str, truth: &Truth| self.volume(id) == Some(truth.volume);
        self.instances().into_iter().filter(move |(id, truth)| of(truth) && self.is_live(id) && has_key(id, truth))
    }

    /// Those whose certificate Puppet accepts.
    fn users(&self, certname: &str) -> impl Iterator<Item = (String, Truth)> {
        self.owners(certname).filter(|(_, truth)| truth.serial.is_some_and(|serial| !self.puppet.is_revoked(serial)))
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
            let before = |of: &Truth| of.launched.is_none_or(|launched| launched <= at);
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
