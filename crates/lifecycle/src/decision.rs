//! What a decision can be, for launching and terminating instances alike. Pure.

use jiff::Timestamp;
use stagedoor_types::{ActionResult, Certname, InstanceId};

use crate::admission::PendingAction;
use crate::observation::{Began, LifecycleAction};
use crate::profile::Protected;
use crate::reason::{Code, Fact, Reason};
use crate::removal::Removal;
use crate::signing::Signable;

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// This must be known before anything is decided.
    Ask(Question),
    /// Apply this, then observe again.
    Apply(Effect),
    /// Complete the lifecycle action.
    Complete(ActionResult, Reason),
    /// Complete the lifecycle action, and have refresh targets run Puppet, which the action does not wait for.
    CompleteAndOrder(ActionResult, Reason, RefreshOrder),
    /// Nothing can be done yet; observe again later. Holds what is missing.
    Wait(Reason),
    /// An operator has to change something, or another instance has to terminate; observe again later.
    Refuse(Reason),
    /// A service is unavailable; try again.
    Fail(Reason),
}

/// What all actions of a batch share.
#[derive(Debug, Clone, Copy)]
pub struct Site<'a> {
    /// Names that are never purged.
    pub protected: &'a Protected,
    /// Whether there is an orchestrator.
    pub orchestrated: bool,
    /// Whether this is a sweep. Only sweeps order the runs of refresh targets that an action waits for, because sweeps run one at a time.
    pub sweeps: bool,
    /// The time.
    pub now: Timestamp,
}

/// What has to be found out. Its order lets a batch share one lookup among all actions that ask the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Question {
    /// PuppetDB knows the instance by these names too: observe them.
    Names(Vec<Certname>),
    /// When did the action really begin? Ask Auto Scaling.
    Began,
    /// What does EC2 say about this instance, which the certificate or the node's facts name?
    Owner(InstanceId),
    /// Which groups does the classifier put the node into?
    Classification {
        /// Whether by the facts of its newest run as well. Before the first there are none.
        with_facts: bool,
    },
    /// Is the node connected to the orchestrator, and is a run of it under way?
    Connection,
    /// Which runs of Puppet has the node had, of which PuppetDB heard after this time, and which catalog of it is stored?
    History(Timestamp),
    /// Which runs of Puppet have the refresh targets had, of which PuppetDB heard after this time, and are runs of them under way?
    Targets(Timestamp),
    /// Do the node's services answer?
    Probes,
    /// Is the instance known to Puppet under another name than the expected one?
    Elsewhere,
}

/// One change at Puppet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Remove what is left of an instance that terminates, or of a terminated one whose name is reused.
    Remove(Vec<Removal>),
    /// Sign this request.
    Sign(Signable),
    /// Delete a request that must not be signed; the launch waits for another.
    Delete(RefusedRequest),
    /// Pin the node to these groups.
    Pin(Certname, Vec<String>),
    /// Have the node run Puppet; the text distinguishes one such order from the next.
    Run(Certname, String),
    /// Have refresh targets run Puppet.
    Refresh(RefreshOrder),
}

/// An order to have refresh targets run Puppet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefreshOrder {
    /// The targets.
    pub targets: Vec<Certname>,
    /// When that happened which they have to learn.
    pub change: Timestamp,
    /// When the order was due, which distinguishes it from the next one for the same change.
    pub due: Timestamp,
    /// Whether the action waits for the run.
    pub awaited: bool,
}

/// Which effect it is, without what may differ between two observations of the same need, so that an effect is recognised as
/// just applied.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum EffectKey {
    /// [`Effect::Remove`], whatever is left.
    Remove,
    /// [`Effect::Sign`].
    Sign(Certname),
    /// [`Effect::Delete`].
    Delete(Certname),
    /// [`Effect::Pin`].
    Pin(Certname, Vec<String>),
    /// [`Effect::Run`].
    Run(Certname),
    /// [`Effect::Refresh`], with when it was due.
    Refresh(Vec<Certname>, Timestamp),
}

impl Effect {
    /// Its key.
    #[must_use]
    pub fn key(&self) -> EffectKey {
        match self {
            Self::Remove(_) => EffectKey::Remove,
            Self::Sign(signable) => EffectKey::Sign(signable.certname().clone()),
            Self::Delete(refused) => EffectKey::Delete(refused.certname.clone()),
            Self::Pin(name, groups) => EffectKey::Pin(name.clone(), groups.clone()),
            Self::Run(name, _) => EffectKey::Run(name.clone()),
            Self::Refresh(order) => EffectKey::Refresh(order.targets.clone(), order.due),
        }
    }
}

impl Question {
    /// What is looked up, for a person.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Names(_) => "what there is under its other names".to_owned(),
            Self::Began => "when the action began".to_owned(),
            Self::Owner(owner) => format!("whether {owner} still exists"),
            Self::Classification { .. } => "how it is classified".to_owned(),
            Self::Connection => "whether the orchestrator reaches it".to_owned(),
            Self::History(_) => "when it ran Puppet first".to_owned(),
            Self::Targets(_) => "whether the refresh targets have run Puppet".to_owned(),
            Self::Probes => "whether its services answer".to_owned(),
            Self::Elsewhere => "whether it has another name".to_owned(),
        }
    }
}

impl Effect {
    /// What is done, for a person: "… remove certificate 1F of ip-10-0-3-7.ec2.internal".
    #[must_use]
    pub fn describe(&self) -> String {
        let names = |names: &[Certname]| names.iter().map(Certname::as_str).collect::<Vec<_>>().join(", ");
        match self {
            Self::Remove(removals) => {
                format!("remove {}", removals.iter().map(Removal::describe).collect::<Vec<_>>().join("; "))
            }
            Self::Sign(signable) => format!("sign the certificate request of {}", signable.certname()),
            Self::Delete(RefusedRequest { reason, .. }) => format!("delete a certificate request: {}", reason.text),
            Self::Pin(name, groups) => format!("pin {name} to {}", groups.join(", ")),
            Self::Run(name, _) => format!("have {name} run Puppet"),
            Self::Refresh(order) => format!("have {} run Puppet", names(&order.targets)),
        }
    }
}

/// A certificate request that must not be signed, under a name that has no certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedRequest {
    /// The name.
    pub certname: Certname,
    /// SHA-256 over its public key: another request may take its place at any time. Empty if it cannot be read.
    pub key_print: String,
    /// Why it is refused.
    pub reason: Fact,
}

/// Why an action cannot be completed yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// A service is unavailable.
    Trouble(Reason),
    /// Something has not happened yet.
    NotYet(Reason),
    /// Something is wrong.
    Wrong(Reason),
}

/// What to do while something is missing: wait until the timeout expires, then complete the action all the same. An event
/// alone never shows that the timeout has expired.
#[must_use]
pub fn not_yet(action: &LifecycleAction, pending: &PendingAction, missing: Missing, now: Timestamp) -> Decision {
    let late = pending.is_late(action.began, now);
    if !matches!(action.began, Began::Confirmed { .. }) && (late || action.began == Began::Unknown) {
        return Decision::Ask(Question::Began);
    }
    match missing {
        Missing::Trouble(what) | Missing::NotYet(what) | Missing::Wrong(what) if late => {
            Decision::Complete(pending.on_timeout, expired(&what))
        }
        Missing::Trouble(what) => Decision::Fail(what),
        Missing::NotYet(what) => Decision::Wait(what),
        Missing::Wrong(what) => Decision::Refuse(what),
    }
}

/// Why an effect that was just applied is not applied again at once.
#[must_use]
pub fn not_seen_yet(effect: &Effect) -> Fact {
    Fact::new(Code::NotSeenYet, format!("it was just applied, and is not visible yet: {}", effect.describe()))
}

/// Why an action is completed although this is missing.
fn expired(missing: &Reason) -> Reason {
    Reason::new(Fact::new(Code::TimeoutExpired, "the timeout has expired"), missing.facts().cloned().collect())
}
