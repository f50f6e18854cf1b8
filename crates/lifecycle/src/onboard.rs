//! The onboarding decision: an instance launches; may it have its certificate, and is it fit to serve? Pure.
//!
//! One rule after another, from the top: the first that does not hold says what to ask, to do or to wait for. When all
//! hold, the instance has earned its CONTINUE.

mod certificate;

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use stagedoor_types::{ActionResult, InstanceId, Lookup, Machine, Place, Service, Trouble, TroubleKind};

use crate::admission::{Nameless, PendingAction};
use crate::deadline;
use crate::decision::{Decision, Effect, Missing, Question, not_yet};
use crate::observation::{Began, CertificateView, LifecycleAction, NameView};
use crate::profile::{Probe, Protected};
use crate::reason::{Code, Fact, Reason};
use crate::refresh::{self, Order, RunView, SETTLING, TargetView};

/// What Puppet says about a launching instance, as far as it was asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LaunchView {
    /// What is under its name; none as long as the name is unknown.
    pub name: Option<NameView>,
    /// Why the last request that was refused in this invocation was, if one was.
    pub refused: Option<Refused>,
    /// The instance that the certificate under its name is of, at EC2.
    pub owner: Option<(InstanceId, Lookup<Machine>)>,
    /// What the classifier says about the node.
    pub classification: Option<Lookup<Classified>>,
    /// The node's newest run of Puppet.
    pub run: Option<Lookup<RunView>>,
    /// The node at the orchestrator.
    pub connection: Option<Connection>,
    /// The profile's refresh targets.
    pub targets: Option<Vec<TargetView>>,
    /// What each probe of the profile said; the text is what is wrong.
    pub probes: Option<Vec<(Probe, ProbeResult)>>,
}

/// A request that was refused in this invocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Why.
    pub reason: Fact,
    /// The key of the request, if it was not deleted because the sweep has to do that.
    pub left: Option<String>,
}

/// What a probe said: nothing is wrong, or what is.
pub type ProbeResult = Result<(), String>;

/// What the classifier says about a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Classified {
    /// The groups that the node is in, by rule or by pin.
    pub groups: BTreeSet<String>,
    /// Those of the profile's groups that the classifier has, or shows to us.
    pub known: BTreeSet<String>,
}

/// A node at the orchestrator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// Whether it is connected, so that a run can be ordered.
    pub connected: Lookup<()>,
    /// Orders for it, old and new.
    pub orders: Lookup<Vec<Order>>,
}

/// The certificate of an instance that EC2 does not know any more is only taken for stale after this time without news.
pub const SILENCE: Duration = Duration::from_secs(2 * 3600);
/// A certificate is older than the launch only if it is by more than this: clocks differ.
const CLOCKS_DIFFER: Duration = Duration::from_secs(60);

/// Rules, top to bottom. `orchestrated` says whether there is an orchestrator.
#[must_use]
pub fn decide(
    action: &LifecycleAction,
    launching: &PendingAction,
    seen: &LaunchView,
    protected: &Protected,
    orchestrated: bool,
    now: Timestamp,
) -> Decision {
    let rules = Rules { action, launching, seen, protected, orchestrated, now };
    match rules.all() {
        Ok(story) => Decision::Complete(ActionResult::Continue, story),
        Err(NotYet::Missing(missing)) => not_yet(action, launching, missing, now),
        Err(NotYet::Decided(decision)) => match *decision {
            // A certificate that is refused is removed at any time; everything else is only worth doing while there is time to finish.
            Decision::Apply(effect)
                if launching.is_late(action.began, now) && !matches!(effect, Effect::Reject(..)) =>
            {
                not_yet(
                    action,
                    launching,
                    Missing::NotYet(
                        Fact::new(Code::NoTimeLeft, format!("there is no time left to {}", effect.describe())).into(),
                    ),
                    now,
                )
            }
            decision => decision,
        },
    }
}

/// Why a rule does not hold.
enum NotYet {
    Missing(Missing),
    Decided(Box<Decision>),
}

impl From<Decision> for NotYet {
    fn from(decision: Decision) -> Self {
        Self::Decided(Box::new(decision))
    }
}

fn trouble(trouble: &Trouble) -> NotYet {
    NotYet::Missing(Missing::Trouble(Fact::from(trouble).into()))
}

fn news(code: Code, what: impl Into<String>) -> NotYet {
    NotYet::Missing(Missing::NotYet(Fact::new(code, what).into()))
}

fn wrong(code: Code, what: impl Into<String>) -> NotYet {
    NotYet::Missing(Missing::Wrong(Fact::new(code, what).into()))
}

/// What an observation that was never made is to a decision: no answer, and no reason to change anything.
fn unanswered(service: Service, what: impl std::fmt::Display) -> Trouble {
    Trouble { kind: TroubleKind::Timeout, service, text: format!("{service} was not asked about {what}") }
}

fn ask<T>(question: Question) -> Result<T, NotYet> {
    Err(Decision::Ask(question).into())
}

struct Rules<'a> {
    action: &'a LifecycleAction,
    launching: &'a PendingAction,
    seen: &'a LaunchView,
    protected: &'a Protected,
    orchestrated: bool,
    now: Timestamp,
}

impl Rules<'_> {
    fn all(&self) -> Result<Reason, NotYet> {
        let name = self.named()?;
        let certificate = self.signed(name)?;
        self.pinned(name)?;
        self.classified()?;
        let run = self.first_run(name, certificate)?;
        let told = self.refreshed(run)?;
        self.ready()?;
        let has = format!("{} has its certificate {}", name.certname, certificate.serial);
        let ran = format!("its Puppet run at {} was successful ({})", run.start, run.status);
        let facts = [Fact::new(Code::Enrolled, ran)].into_iter().chain(told).collect();
        Ok(Reason::new(Fact::new(Code::Enrolled, has), facts))
    }

    /// Its name is known, and not protected.
    fn named(&self) -> Result<&NameView, NotYet> {
        match (&self.launching.expected, &self.seen.name) {
            (Err(Nameless::Unavailable(why)), _) => Err(trouble(why)),
            (Err(Nameless::Unknown(why)), _) => {
                Err(news(Code::CertnameUnknown, format!("its certname is unknown: {why}")))
            }
            (Ok(certname), _) if self.protected.protects(certname).is_some() => {
                Err(wrong(Code::ProtectedName, format!("{certname} is a protected name, which no instance may have")))
            }
            (Ok(_), Some(view)) => Ok(view),
            (Ok(certname), None) => Err(trouble(&unanswered(Service::Ca, certname))),
        }
    }

    /// It is pinned to every group that the profile pins to.
    fn pinned(&self, name: &NameView) -> Result<(), NotYet> {
        let wanted = &self.launching.profile.pin;
        if wanted.is_empty() {
            return Ok(());
        }
        let pins = name.pins.known().map_err(trouble)?;
        let missing: Vec<String> =
            wanted.iter().filter(|group| !pins.is_some_and(|pins| pins.contains(group))).cloned().collect();
        if missing.is_empty() {
            return Ok(());
        }
        let known = &self.classification()?.known;
        self.all_known(&missing, known)?;
        Err(Decision::Apply(Effect::Pin(name.certname.clone(), missing)).into())
    }

    /// The classifier puts it into every group that the profile asks for.
    fn classified(&self) -> Result<(), NotYet> {
        let wanted = &self.launching.profile.classified;
        if wanted.is_empty() {
            return Ok(());
        }
        let classification = self.classification()?;
        let missing: Vec<String> =
            wanted.iter().filter(|group| !classification.groups.contains(*group)).cloned().collect();
        if missing.is_empty() {
            return Ok(());
        }
        self.all_known(&missing, &classification.known)?;
        Err(news(
            Code::ClassificationPending,
            format!("waiting for the classifier to put it into {}", missing.join(", ")),
        ))
    }

    fn classification(&self) -> Result<&Classified, NotYet> {
        match &self.seen.classification {
            None => ask(Question::Classification),
            Some(Lookup::Found(classified)) => Ok(classified),
            Some(Lookup::Absent) => {
                Err(wrong(Code::NotConfigured, "the profile needs a classifier, and none is configured"))
            }
            Some(Lookup::Unavailable(why)) => Err(trouble(why)),
        }
    }

    fn all_known(&self, wanted: &[String], known: &BTreeSet<String>) -> Result<(), NotYet> {
        let unknown: Vec<&str> = wanted.iter().filter(|group| !known.contains(*group)).map(String::as_str).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        Err(wrong(
            Code::NodeGroupUnknown,
            format!(
                "the classifier shows no node group {}: create it, correct the profile {}, or let the token's role view it",
                unknown.join(", "),
                self.launching.profile.name
            ),
        ))
    }

    /// Its newest run of Puppet since it has its certificate, and in this launch, was successful. Where it comes from the warm
    /// pool, a run from before counts: the pool is there to save time.
    fn first_run(&self, name: &NameView, certificate: &CertificateView) -> Result<&RunView, NotYet> {
        let run = match &self.seen.run {
            None => return Err(trouble(&unanswered(Service::PuppetDb, &name.certname))),
            Some(run) => run.known().map_err(trouble)?,
        };
        // A run of the name's former owner is not its own; the two clocks that are compared here may differ.
        let LifecycleAction { origin, began, .. } = self.action;
        // An event says where this launch comes from only if it is of this launch, and of a group that has such a place.
        let of_this_launch = match began {
            Began::Confirmed { recorded: Some(recorded), said: Some(said) } => said >= recorded,
            Began::Confirmed { .. } | Began::Unknown => false,
            Began::Said(_) => true,
        };
        let rested = *origin == Some(Place::WarmPool) && self.launching.has_pool && of_this_launch;
        let since =
            if rested { certificate.issued } else { began.time().unwrap_or(Timestamp::MIN).max(certificate.issued) };
        // So the facts that came with a run decide whose it was, where they say.
        let by_another = name.fact_instance.known().map_err(trouble)?.is_some_and(|ran| *ran != self.action.instance);
        let own = run.filter(|run| !by_another && deadline::after(run.end, CLOCKS_DIFFER) >= since);
        if let Some(good) = own.filter(|run| run.is_good()) {
            return match began {
                Began::Unknown => ask(Question::Began),
                Began::Said(_) if rested => ask(Question::Began),
                _ => Ok(good),
            };
        }
        let awaited = match own {
            None => Fact::new(
                Code::WaitingForRun,
                format!("waiting for the first Puppet run of {} since {since}", name.certname),
            ),
            Some(run) => {
                let why = if run.noop {
                    "was a noop run; waiting for one that applies its catalog".to_owned()
                } else if run.cached {
                    "applied a cached catalog; waiting for one with a new catalog".to_owned()
                } else {
                    format!("ended as {}; waiting for a successful one", run.status)
                };
                let run = format!("the Puppet run of {} at {} {why}", name.certname, run.start);
                Fact::new(Code::RunNotSuccessful, run)
            }
        };
        if self.orchestrated {
            self.order_a_run(name, own, certificate)?;
        }
        Err(NotYet::Missing(Missing::NotYet(awaited.into())))
    }

    /// Orders a Puppet run of the node where it is connected to the orchestrator and no run is under way.
    fn order_a_run(&self, name: &NameView, own: Option<&RunView>, certificate: &CertificateView) -> Result<(), NotYet> {
        let Some(connection) = &self.seen.connection else { return ask(Question::Connection) };
        // A service that is unavailable does not stop the agent from running by itself.
        let (Ok(Some(())), Ok(orders)) = (connection.connected.known(), connection.orders.known()) else {
            return Ok(());
        };
        let settled = |ended: Timestamp| self.now >= deadline::after(ended, SETTLING);
        let orders = orders.map_or(&[][..], Vec::as_slice);
        let busy = orders.iter().any(|order| order.is_open(self.now) || order.is_settling(self.now));
        if busy || own.is_some_and(|run| !settled(run.end)) {
            return Ok(());
        }
        // An order whose answer was lost is found by its key. The next one must have another, so the one before is in it.
        let before = refresh::newest(orders).map_or("none", |order| &order.job);
        let key = format!("{} {} after {before}", self.action.instance, certificate.serial);
        Err(Decision::Apply(Effect::Run(name.certname.clone(), key)).into())
    }

    /// The nodes that must learn of it have run Puppet since.
    fn refreshed(&self, run: &RunView) -> Result<Option<Fact>, NotYet> {
        let targets = self.seen.targets.as_deref();
        refresh::all(self.action, self.launching, targets, run.end, self.orchestrated, self.now)
            .map_err(NotYet::Decided)
    }

    /// Its services answer.
    fn ready(&self) -> Result<(), NotYet> {
        let wanted = self.launching.profile.ready.iter().filter(|probe| **probe != Probe::Report);
        let mut failing = Vec::new();
        for probe in wanted {
            let Some(probes) = &self.seen.probes else { return ask(Question::Probes) };
            match probes.iter().find(|(asked, _)| asked == probe) {
                Some((_, Ok(()))) => {}
                Some((_, Err(why))) => failing.push(format!("{probe} ({why})")),
                None => failing.push(format!("{probe} (it was not asked)")),
            }
        }
        if failing.is_empty() {
            return Ok(());
        }
        Err(news(Code::WaitingForReadiness, format!("waiting for {}", failing.join(", "))))
    }
}

/// Whether a launching instance has a certificate and no successful run yet, so that it will soon change what the refresh
/// targets have to learn.
#[must_use]
pub fn is_about_to_report(decision: &Decision, seen: &LaunchView) -> bool {
    matches!(decision, Decision::Wait(_))
        && seen.name.as_ref().is_some_and(|name| matches!(name.certificate, Lookup::Found(_)))
        && !matches!(&seen.run, Some(Lookup::Found(run)) if run.is_good())
}

#[cfg(test)]
mod tests;
