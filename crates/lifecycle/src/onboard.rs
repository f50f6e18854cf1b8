//! The onboarding decision: an instance launches; may it have its certificate, and is it fit to serve? Pure.
//!
//! One rule after another, from the top: the first that does not hold says what to ask, to do or to wait for. When all
//! hold, the instance has earned its CONTINUE.

mod certificate;
mod classification;
mod missing;
mod readiness;
mod refreshed;

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use stagedoor_types::broken::{Rule, is_broken};
use stagedoor_types::{ActionResult, InstanceId, Location, Lookup, Machine, Place, Service, Trouble, TroubleKind};

use crate::admission::{Nameless, PendingAction};
use crate::deadline;
use crate::decision::{Decision, Effect, Missing, Question, Site, not_yet};
use crate::observation::{Began, CertificateView, LifecycleAction, NameView};
use crate::profile::{AwaitedRun, Protected, RefreshAfter};
use crate::reason::{Code, Fact, Reason};
use crate::refresh::{self, History, LOST, Order, RunView, SETTLING, TargetView};

pub use classification::{Classified, Mismatch, pins_left};
pub use missing::Elsewhere;
pub use readiness::{CheckIn, CodeView, Commits, Poll, ProbeResult, SuccessfulPolls};
use refreshed::Refreshed;

/// What Puppet says about a launching instance, as far as it was asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LaunchView {
    /// What is under its name; none as long as the name is unknown.
    pub name: Option<NameView>,
    /// Why the last request that was refused in this invocation was, if one was.
    pub refused: Option<Refused>,
    /// The instance that the certificate under its name is of, at EC2.
    pub owner: Option<(InstanceId, Lookup<Machine>)>,
    /// The instance that the node's facts name, and the account and Region where it says that it is or was, if they say both.
    pub located: Option<(InstanceId, Location)>,
    /// The node groups that the classifier has, or shows to us; `Absent` where there is no classifier.
    pub node_groups: Option<Lookup<BTreeSet<String>>>,
    /// What the classifier says about the node.
    pub classification: Option<Lookup<Classified>>,
    /// By how much PuppetDB's clock is ahead of the controller's, if they could be compared.
    pub puppetdb_ahead: Option<SignedDuration>,
    /// The node's newest run of Puppet.
    pub run: Option<Lookup<RunView>>,
    /// When a Puppet Server received the newest report that was seen while the instance had no certificate under the name: a former
    /// owner's.
    pub run_of_another: Option<Timestamp>,
    /// The node at the orchestrator.
    pub connection: Option<Connection>,
    /// The node's runs of Puppet since its launch, and its stored catalog.
    pub history: Option<History>,
    /// The profile's refresh targets.
    pub targets: Option<Vec<TargetView>>,
    /// The newest poll of what the profile's `ready` names besides the Puppet run.
    pub poll: Option<Poll>,
    /// The successful polls in a row up to that one, if it was successful.
    pub successful_polls: Option<SuccessfulPolls>,
    /// Where the instance was found under other names than the expected one.
    pub elsewhere: Option<Vec<Elsewhere>>,
}

/// A request that was refused in this invocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Why.
    pub reason: Fact,
    /// The key of the request, if it was not deleted because the sweep has to do that.
    pub left: Option<String>,
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
/// How much clocks may differ that have not been compared. A certificate counts as older than the launch only if the difference is greater.
const CLOCKS_DIFFER: Duration = Duration::from_secs(60);
/// How often the pause between two orders of Puppet runs of a launching node doubles at most.
const MOST_DOUBLINGS: u32 = 4;
/// How far a Puppet Server's clock may be from PuppetDB's, and how far `puppetdb_ahead` may be from the actual difference.
const CLOCKS_DRIFT: Duration = Duration::from_secs(10);

/// Rules, top to bottom.
#[must_use]
pub fn decide(action: &LifecycleAction, launching: &PendingAction, seen: &LaunchView, site: Site<'_>) -> Decision {
    let Site { protected, orchestrated, sweeps, now } = site;
    let rules = Rules { action, launching, seen, protected, orchestrated, sweeps, now };
    match rules.all() {
        Ok(story) => Decision::Complete(ActionResult::Continue, story),
        Err(NotYet::Missing(missing)) => not_yet(action, launching, missing, now),
        Err(NotYet::Decided(decision)) => match *decision {
            // Nothing is started that there is no time left to finish.
            Decision::Apply(effect) if launching.is_late(action.began, now) => {
                let late = Fact::new(Code::NoTimeLeft, format!("there is no time left to {}", effect.describe()));
                not_yet(action, launching, Missing::NotYet(late.into()), now)
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

impl NotYet {
    /// With the fact that the launch goes on without a refresh target, where something is missing. A launch that only waits has its code,
    /// so that metric and alarm see it even if the launch is abandoned later: without its targets, it may never run successfully.
    fn without_targets(self, fact: Option<Fact>) -> Self {
        let Some(fact) = fact else { return self };
        match self {
            Self::Missing(Missing::Trouble(reason)) => Self::Missing(Missing::Trouble(reason.and(fact))),
            Self::Missing(Missing::NotYet(reason)) => Self::Missing(Missing::NotYet(reason.led_by(fact))),
            Self::Missing(Missing::Wrong(reason)) => Self::Missing(Missing::Wrong(reason.and(fact))),
            decided @ Self::Decided(_) => decided,
        }
    }
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
    sweeps: bool,
    now: Timestamp,
}

impl Rules<'_> {
    fn all(&self) -> Result<Reason, NotYet> {
        let name = self.named()?;
        // A request that passes every check is signed once its name is pinned.
        let certificate = self.signed(name)?;
        self.pinned(name)?;
        let own = self.own_run(name, certificate)?;
        let after = match self.launching.profile.refresh.after {
            RefreshAfter::Catalog if is_broken(Rule::CatalogFirst) => RefreshAfter::SuccessfulRun,
            after => after,
        };
        let unclassified = self.classified(own.is_some() || self.has_sent_facts(name, certificate)?)?;
        // What cannot run successfully before the targets know it is not asked to.
        let early = match after {
            RefreshAfter::Catalog if unclassified.is_none() => self.refreshed(name, certificate, own)?,
            RefreshAfter::Catalog | RefreshAfter::SuccessfulRun => Refreshed::default(),
        };
        let rest = || {
            let run = self.first_run(name, certificate, own)?;
            if let Some(waiting) = unclassified {
                return Err(self.reclassified(name, certificate, own, waiting));
            }
            let late = match after {
                RefreshAfter::SuccessfulRun if run.is_some() => self.refreshed(name, certificate, own)?,
                RefreshAfter::SuccessfulRun | RefreshAfter::Catalog => Refreshed::default(),
            };
            self.ready(certificate).map_err(|not_yet| not_yet.without_targets(late.missed.clone()))?;
            Ok((run, late))
        };
        let (run, late) = rest().map_err(|not_yet| not_yet.without_targets(early.missed.clone()))?;
        let Refreshed { learnt, missed } = if after == RefreshAfter::Catalog { early } else { late };
        let has = format!("{} has its certificate {}", name.certname, certificate.serial);
        let ran = match run {
            Some(run) if run.is_good() => format!("its Puppet run at {} was successful ({})", run.start, run.status),
            Some(run) => format!("its Puppet run at {} had a catalog and ended as {}", run.start, run.status),
            None => "the profile awaits no Puppet run of it".to_owned(),
        };
        let (has, ran) = (Fact::new(Code::Enrolled, has), Fact::new(Code::Enrolled, ran));
        // That it goes on without a target is the first thing to know of it.
        let (first, mut facts) = match missed {
            Some(missed) => (missed, vec![has, ran]),
            None => (has, vec![ran]),
        };
        facts.extend(learnt);
        Ok(Reason::new(first, facts))
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

    /// Its newest run of Puppet since it has its certificate, and in this launch, if there is one and anything depends on it. Where it
    /// comes from the warm pool, a run from before counts: the pool is there to save time.
    fn own_run(&self, name: &NameView, certificate: &CertificateView) -> Result<Option<&RunView>, NotYet> {
        let profile = &self.launching.profile;
        if profile.awaited_run() == AwaitedRun::None && profile.classified.is_empty() {
            return Ok(None);
        }
        let run = match &self.seen.run {
            None => return Err(trouble(&unanswered(Service::PuppetDb, &name.certname))),
            Some(run) => run.known().map_err(trouble)?,
        };
        // A run of the name's former owner is not its own.
        let (by_it, of_this_launch) = (self.is_by_it(name)?, self.is_of_this_launch(certificate));
        Ok(run.filter(|run| by_it(run) && of_this_launch(run.began_by_server())))
    }

    /// Whether a time by a Puppet Server's clock belongs to this launch. Puppet Servers are assumed to agree with PuppetDB's clock. AWS
    /// dates the launch, and its clock cannot be compared with PuppetDB's, so the launch time counts as it is if the certificate predates
    /// the launch. Otherwise, it also counts by PuppetDB's clock, if that is earlier.
    fn is_of_this_launch(&self, certificate: &CertificateView) -> impl Fn(Timestamp) -> bool + use<> {
        let issued = self.by_puppetdb(certificate.issued);
        let began = self.action.began.time().unwrap_or(Timestamp::MIN);
        let tolerance = if self.seen.puppetdb_ahead.is_some() { CLOCKS_DRIFT } else { CLOCKS_DIFFER };
        let since = if self.has_rested() {
            deadline::before(issued, tolerance)
        } else if deadline::after(certificate.issued, CLOCKS_DIFFER) < began {
            // With a certificate from before the launch, a run that began before the launch says nothing of it.
            began
        } else {
            deadline::before(issued.max(began.min(self.by_puppetdb(began))), tolerance)
        };
        move |dated: Timestamp| dated >= since
    }

    /// This time as PuppetDB's clock shows it.
    fn by_puppetdb(&self, time: Timestamp) -> Timestamp {
        time.saturating_add(self.seen.puppetdb_ahead.unwrap_or_default()).unwrap_or(time)
    }

    /// Whether a run under its name is its own, as far as anything but the time says. The facts that came with a run decide whose it was,
    /// where they say.
    fn is_by_it(&self, name: &NameView) -> Result<impl Fn(&RunView) -> bool, NotYet> {
        let by_another = self.is_by_another(name)?;
        // The new owner's facts come some seconds before its report: until then, the newest run is still the former owner's.
        let seen_before = self.seen.run_of_another;
        Ok(move |run: &RunView| !by_another && seen_before.is_none_or(|before| run.received > before))
    }

    /// Whether the facts of the node name another instance.
    fn is_by_another(&self, name: &NameView) -> Result<bool, NotYet> {
        Ok(name.fact_instance.known().map_err(trouble)?.is_some_and(|ran| *ran != self.action.instance))
    }

    /// Since when its runs of Puppet are of this launch.
    fn runs_count_since(&self, certificate: &CertificateView) -> Timestamp {
        let began = self.action.began.time().unwrap_or(Timestamp::MIN);
        if self.has_rested() { certificate.issued } else { began.max(certificate.issued) }
    }

    /// Whether it comes from the warm pool.
    fn has_rested(&self) -> bool {
        // An event says where this launch comes from only if it is of this launch, and of a group that has such a place.
        let of_this_launch = match self.action.began {
            Began::Confirmed { recorded, launched, said: Some(said) } => {
                recorded.max(launched).is_some_and(|began| said >= began)
            }
            Began::Confirmed { .. } | Began::Unknown => false,
            Began::Said(_) => true,
        };
        self.action.origin == Some(Place::WarmPool) && self.launching.has_pool && of_this_launch
    }

    /// It is known when the launch began, and whether from the warm pool.
    fn launch_is_known(&self) -> Result<(), NotYet> {
        match self.action.began {
            Began::Unknown => ask(Question::Began),
            Began::Said(_) if self.has_rested() => ask(Question::Began),
            Began::Said(_) | Began::Confirmed { .. } => Ok(()),
        }
    }

    /// Its newest run is one that the profile awaits; `None` where it awaits none.
    fn first_run<'a>(
        &self,
        name: &NameView,
        certificate: &CertificateView,
        own: Option<&'a RunView>,
    ) -> Result<Option<&'a RunView>, NotYet> {
        let awaited = self.launching.profile.awaited_run();
        let is_enough: fn(&RunView) -> bool = match awaited {
            AwaitedRun::None => return Ok(None),
            AwaitedRun::WithCatalog => RunView::has_own_catalog,
            AwaitedRun::Successful => RunView::is_good,
        };
        if let Some(enough) = own.filter(|run| is_enough(run)) {
            self.launch_is_known()?;
            return Ok(Some(enough));
        }
        let since = self.runs_count_since(certificate);
        let awaited = match own {
            None => Fact::new(
                Code::WaitingForRun,
                format!("waiting for the first Puppet run of {} since {since}", name.certname),
            ),
            Some(run) => {
                let why = if run.cached {
                    "applied a cached catalog; waiting for one with a new catalog".to_owned()
                } else if awaited == AwaitedRun::WithCatalog {
                    "had no catalog, because none could be compiled; waiting for one that has".to_owned()
                } else if run.noop {
                    "was a noop run; waiting for one that applies its catalog".to_owned()
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
        let orders = orders.map_or(&[][..], Vec::as_slice);
        // Each order that brought nothing doubles the pause before the next one: 1, 2, 4, 8, 16 minutes.
        let of_this_launch = orders.iter().filter(|order| order.began >= Some(certificate.issued)).count();
        let doublings = u32::try_from(of_this_launch.saturating_sub(1)).unwrap_or(u32::MAX).min(MOST_DOUBLINGS);
        let settled = |ended: Timestamp| self.now >= deadline::after(ended, SETTLING * 2_u32.pow(doublings));
        let busy =
            orders.iter().any(|order| order.is_open(LOST, self.now) || order.ended.is_some_and(|end| !settled(end)));
        if busy || own.is_some_and(|run| self.now < deadline::after(run.received, SETTLING)) {
            return Ok(());
        }
        // An order whose answer was lost is found by its key. The next one must have another, so the one before is in it.
        let before = refresh::newest(orders).map_or("none", |order| &order.job);
        let key = format!("{} {} after {before}", self.action.instance, certificate.serial);
        Err(Decision::Apply(Effect::Run(name.certname.clone(), key)).into())
    }
}

/// Whether a launching instance has a certificate and has not made its change yet, so that it will soon be something that the refresh
/// targets have to learn.
#[must_use]
pub fn is_about_to_change(decision: &Decision, seen: &LaunchView) -> bool {
    let has_catalog = |history: &History| matches!(history.catalog, Lookup::Found(_));
    matches!(decision, Decision::Wait(_))
        && seen.name.as_ref().is_some_and(|name| matches!(name.certificate, Lookup::Found(_)))
        && !matches!(&seen.run, Some(Lookup::Found(run)) if run.is_good())
        && !seen.history.as_ref().is_some_and(has_catalog)
}

#[cfg(test)]
mod tests;
