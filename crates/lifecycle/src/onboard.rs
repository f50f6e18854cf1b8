//! The onboarding decision: an instance arrives; may it have its certificate, and is it fit to serve? Pure.
//!
//! One rule after another, from the top: the first that does not hold says what to ask, to do or to wait for. When all
//! hold, the instance has earned its CONTINUE.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;

use crate::admission::{Held, Nameless};
use crate::decision::{Decision, Deed, Missing, Question, Rejection, Removal, not_yet};
use crate::event::Place;
use crate::identity::{Whose, whose};
use crate::observation::{Began, CertificateView, Machine, NameView, Reachable, Subject};
use crate::profile::{ActionResult, Probe, Protected, Rekey, SignMode};
use crate::refresh::{self, Order, RunView, SETTLING, TargetView};
use crate::signing;
use crate::{InstanceId, deadline};

/// What Puppet says about an arriving instance, as far as it was asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Arrival {
    /// What is under its name; none as long as nobody can tell the name.
    pub name: Option<NameView>,
    /// The instance that the certificate or request under its name is of, at EC2.
    pub owner: Option<(InstanceId, Reachable<Machine>)>,
    /// What the classifier says about the node.
    pub classification: Option<Reachable<Classified>>,
    /// The node's newest run of Puppet.
    pub run: Option<Reachable<RunView>>,
    /// The node at the orchestrator.
    pub connection: Option<Connection>,
    /// How it stands with the profile's refresh targets.
    pub targets: Option<Vec<TargetView>>,
    /// What each probe of the profile said; the text is what is wrong.
    pub probes: Option<Vec<(Probe, Result<(), String>)>>,
}

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
    /// Whether it can be told to run.
    pub connected: Reachable<()>,
    /// Orders for it, old and new.
    pub orders: Reachable<Vec<Order>>,
}

/// A certificate of a dead instance that EC2 has forgotten is only taken for stale after this time without news.
pub const SILENCE: Duration = Duration::from_secs(2 * 3600);
/// A certificate is older than the launch only if it is by more than this: clocks differ.
const CLOCKS_DIFFER: Duration = Duration::from_secs(60);

/// Rules, top to bottom. `orchestrated` says whether there is an orchestrator.
#[must_use]
pub fn decide(
    subject: &Subject,
    arriving: &Held,
    seen: &Arrival,
    protected: &Protected,
    orchestrated: bool,
    now: Timestamp,
) -> Decision {
    let rules = Rules { subject, arriving, seen, protected, orchestrated, now };
    match rules.all() {
        Ok(story) => Decision::Complete(ActionResult::Continue, story),
        Err(NotYet::Missing(missing)) => not_yet(subject, arriving, missing, now),
        Err(NotYet::Decided(decision)) => match *decision {
            // What must not be is removed at any time; everything else is only worth doing while there is time to finish.
            Decision::Do(deed) if arriving.is_late(subject.began, now) && !matches!(deed, Deed::Reject(_)) => {
                not_yet(subject, arriving, Missing::News(format!("there is no time left to {}", deed.describe())), now)
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

fn trouble(what: impl Into<String>) -> NotYet {
    NotYet::Missing(Missing::Trouble(what.into()))
}

fn news(what: impl Into<String>) -> NotYet {
    NotYet::Missing(Missing::News(what.into()))
}

fn wrong(what: impl Into<String>) -> NotYet {
    NotYet::Missing(Missing::Wrong(what.into()))
}

fn ask<T>(question: Question) -> Result<T, NotYet> {
    Err(Decision::Ask(question).into())
}

struct Rules<'a> {
    subject: &'a Subject,
    arriving: &'a Held,
    seen: &'a Arrival,
    protected: &'a Protected,
    orchestrated: bool,
    now: Timestamp,
}

impl Rules<'_> {
    fn all(&self) -> Result<String, NotYet> {
        let name = self.named()?;
        let certificate = self.signed(name)?;
        self.pinned(name)?;
        self.classified()?;
        let run = self.first_run(name, certificate)?;
        let told = self.refreshed(run)?;
        self.ready()?;
        let mut story = vec![format!("{} has its certificate {}", name.certname, certificate.serial)];
        story.push(format!("its Puppet run at {} was good ({})", run.start, run.status));
        story.extend(told);
        Ok(story.join("; "))
    }

    /// Its name can be told, and may be given away.
    fn named(&self) -> Result<&NameView, NotYet> {
        match (&self.arriving.expected, &self.seen.name) {
            (Err(Nameless::Unreachable(why)), _) => Err(trouble(why)),
            (Err(Nameless::Untellable(why)), _) => Err(news(format!("its certname cannot be told: {why}"))),
            (Ok(certname), _) if self.protected.protects(certname).is_some() => {
                Err(wrong(format!("{certname} is a protected name, which no arriving instance may have")))
            }
            (Ok(_), Some(view)) => Ok(view),
            (Ok(certname), None) => Err(trouble(format!("Puppet was not asked about {certname}"))),
        }
    }

    /// The certificate under its name is its own, and holds nothing but what it may.
    fn signed<'a>(&self, name: &'a NameView) -> Result<&'a CertificateView, NotYet> {
        let certname = &name.certname;
        let instance = &self.subject.instance;
        let certificate = match name.certificate.known() {
            Err(why) => return Err(trouble(why)),
            Ok(None) => return Err(self.request(name)),
            Ok(Some(certificate)) => certificate,
        };
        let purgeable = match whose(name, instance, self.protected) {
            Whose::Ours(purgeable) => purgeable,
            Whose::Unreachable(why) => return Err(trouble(why)),
            _ => return Err(self.of_another(name, certificate)),
        };
        let objections = signing::objections(&certificate.holds, certname, instance, &self.arriving.profile.rules);
        let removal = || Removal {
            name: purgeable.clone(),
            certificate: Some(certificate.serial.clone()),
            request: false,
            node: None,
            pins: Vec::new(),
        };
        if self.is_rekeyed(name, certificate)? {
            if self.arriving.profile.rekey == Rekey::Refuse {
                return Err(wrong(format!(
                    "{certname} has its certificate {} since before this launch, and the profile forbids another one; clean it by hand",
                    certificate.serial
                )));
            }
            return Err(Decision::Do(Deed::Remove(vec![removal()])).into());
        }
        if !objections.is_empty() {
            let reason =
                format!("the certificate {} of {certname} must not be: {}", certificate.serial, objections.join("; "));
            return Err(Decision::Do(Deed::Reject(Rejection::Certificate(removal(), reason))).into());
        }
        Ok(certificate)
    }

    /// Whether the instance lost the key of its own old certificate: it was issued before this launch began, and the
    /// instance has not rested in a warm pool since. Or it asks for another one, on a CA that takes such requests.
    fn is_rekeyed(&self, name: &NameView, certificate: &CertificateView) -> Result<bool, NotYet> {
        let asks_again = match name.request.known() {
            Err(why) => return Err(trouble(why)),
            Ok(request) => request.is_some_and(|request| {
                signing::objections(&request.asks, &name.certname, &self.subject.instance, &self.arriving.profile.rules)
                    .is_empty()
            }),
        };
        if asks_again {
            return Ok(true);
        }
        let new_here = self.subject.origin == Some(Place::Ec2);
        let old = |began: Timestamp| deadline::after(certificate.issued, CLOCKS_DIFFER) < began;
        match self.subject.began {
            Began::Said(began) if new_here && old(began) => ask(Question::Began),
            Began::Confirmed(Some(began)) => Ok(new_here && old(began)),
            _ => Ok(false),
        }
    }

    /// What to do about a certificate of somebody else: a dead instance's is cleaned, a live one's is left alone.
    fn of_another(&self, name: &NameView, certificate: &CertificateView) -> NotYet {
        let certname = &name.certname;
        let Some(owner) = self.owner_of(name, certificate) else {
            return wrong(format!(
                "nothing tells whose the certificate {} of {certname} is: it has no pp_instance_id and PuppetDB no \
                 ec2_metadata for it; if it is stale, clean it by hand",
                certificate.serial
            ));
        };
        match self.dead(&owner, name, certificate.issued) {
            Err(not_yet) => not_yet,
            Ok(false) => wrong(format!(
                "{certname} belongs to {owner}, which is not known to be gone: two instances cannot have one name"
            )),
            Ok(true) => match whose(name, &owner, self.protected) {
                Whose::Ours(purgeable) => {
                    let certificate = Some(certificate.serial.clone());
                    let removal =
                        Removal { name: purgeable, certificate, request: false, node: None, pins: Vec::new() };
                    Decision::Do(Deed::Remove(vec![removal])).into()
                }
                _ => wrong(format!("nothing tells surely whose {certname} is; if it is stale, clean it by hand")),
            },
        }
    }

    fn owner_of(&self, name: &NameView, certificate: &CertificateView) -> Option<InstanceId> {
        let by_facts = || name.fact_instance.known().ok().flatten().cloned();
        certificate.instance.clone().or_else(by_facts).filter(|owner| *owner != self.subject.instance)
    }

    /// Whether the former owner of the name is surely gone: EC2 says so; or EC2 has forgotten it, its certificate is
    /// one of this profile's, and PuppetDB has not heard of it for long. (An instance that EC2 does not know may live
    /// in another account.)
    fn dead(&self, owner: &InstanceId, name: &NameView, since: Timestamp) -> Result<bool, NotYet> {
        let Some((_, machine)) = self.seen.owner.as_ref().filter(|(asked, _)| asked == owner) else {
            return ask(Question::Owner(owner.clone()));
        };
        match machine.known() {
            Err(why) => Err(trouble(why)),
            Ok(Some(machine)) => Ok(machine.is_gone()),
            Ok(None) => {
                let node = name.node.known().map_err(trouble)?;
                let newest = node.filter(|node| node.active).and_then(|node| node.newest).unwrap_or(since).max(since);
                let required = &self.arriving.profile.rules.require;
                let holds = name.certificate.known().ok().flatten().map(|certificate| &certificate.holds.extensions);
                let of_this_profile =
                    holds.is_none_or(|holds| required.iter().all(|(key, value)| holds.get(key) == Some(value)));
                Ok(of_this_profile && self.now >= deadline::after(newest, SILENCE))
            }
        }
    }

    /// There is no certificate: what to do about the request, or about there being none.
    fn request(&self, name: &NameView) -> NotYet {
        let certname = &name.certname;
        let external = self.arriving.profile.sign == SignMode::External;
        let request = match name.request.known() {
            Err(why) => return trouble(why),
            _ if external => return news(format!("waiting for somebody to sign the certificate of {certname}")),
            Ok(None) => return news(format!("waiting for the certificate request of {certname}")),
            Ok(Some(request)) => request,
        };
        let rules = &self.arriving.profile.rules;
        let objections = match signing::approve(&request.asks, certname, &self.subject.instance, rules) {
            Ok(signable) => return Decision::Do(Deed::Sign(signable)).into(),
            Err(objections) => objections,
        };
        // What a dead predecessor left behind speaks against nobody.
        if let Some(owner) = request.instance.as_ref().filter(|owner| **owner != self.subject.instance) {
            match self.seen.owner.as_ref().filter(|(asked, _)| asked == owner) {
                None => return Decision::Ask(Question::Owner(owner.clone())).into(),
                Some((_, machine)) => match (machine.known(), whose(name, owner, self.protected)) {
                    (Err(why), _) => return trouble(why),
                    (Ok(Some(machine)), Whose::Ours(purgeable)) if machine.is_gone() => {
                        let removal =
                            Removal { name: purgeable, certificate: None, request: true, node: None, pins: Vec::new() };
                        return Decision::Do(Deed::Remove(vec![removal])).into();
                    }
                    _ => {}
                },
            }
        }
        let reason = format!("the certificate request of {certname} is refused: {}", objections.join("; "));
        Decision::Do(Deed::Reject(Rejection::Request(certname.clone(), reason))).into()
    }

    /// It is pinned to every group that the profile pins to.
    fn pinned(&self, name: &NameView) -> Result<(), NotYet> {
        let wanted = &self.arriving.profile.pin;
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
        Err(Decision::Do(Deed::Pin(name.certname.clone(), missing)).into())
    }

    /// The classifier puts it into every group that the profile asks for.
    fn classified(&self) -> Result<(), NotYet> {
        let wanted = &self.arriving.profile.classified;
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
        Err(news(format!("waiting for the classifier to put it into {}", missing.join(", "))))
    }

    fn classification(&self) -> Result<&Classified, NotYet> {
        match &self.seen.classification {
            None => ask(Question::Classification),
            Some(Reachable::Found(classified)) => Ok(classified),
            Some(Reachable::Absent) => Err(wrong("the profile needs a classifier, and none is configured")),
            Some(Reachable::Unreachable(why)) => Err(trouble(why)),
        }
    }

    fn all_known(&self, wanted: &[String], known: &BTreeSet<String>) -> Result<(), NotYet> {
        let unknown: Vec<&str> = wanted.iter().filter(|group| !known.contains(*group)).map(String::as_str).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        Err(wrong(format!(
            "the classifier shows no node group {}: create it, correct the profile {}, or let the token's role view it",
            unknown.join(", "),
            self.arriving.profile.name
        )))
    }

    /// Its newest run of Puppet since it has its certificate was good.
    fn first_run(&self, name: &NameView, certificate: &CertificateView) -> Result<&RunView, NotYet> {
        let run = match &self.seen.run {
            None => return Err(trouble(format!("PuppetDB was not asked about {}", name.certname))),
            Some(run) => run.known().map_err(trouble)?,
        };
        // A run of the name's former owner is not its own; the two clocks that are compared here may differ.
        let own = run.filter(|run| deadline::after(run.end, CLOCKS_DIFFER) >= certificate.issued);
        if let Some(good) = own.filter(|run| run.is_good()) {
            return Ok(good);
        }
        let awaited = match own {
            None => format!("waiting for the first Puppet run of {}", name.certname),
            Some(run) if run.noop => format!(
                "the Puppet run of {} at {} was told to change nothing; waiting for a real one",
                name.certname, run.start
            ),
            Some(run) => {
                format!(
                    "the Puppet run of {} at {} ended as {}; waiting for a good one",
                    name.certname, run.start, run.status
                )
            }
        };
        if self.orchestrated {
            self.order_a_run(name, own, certificate)?;
        }
        Err(news(awaited))
    }

    /// Where the node can be told to run Puppet, and nobody has, it is told.
    fn order_a_run(&self, name: &NameView, own: Option<&RunView>, certificate: &CertificateView) -> Result<(), NotYet> {
        let Some(connection) = &self.seen.connection else { return ask(Question::Connection) };
        // Whoever cannot be asked does not stop the agent from running by itself.
        let (Ok(Some(())), Ok(orders)) = (connection.connected.known(), connection.orders.known()) else {
            return Ok(());
        };
        let settled = |ended: Timestamp| self.now >= deadline::after(ended, SETTLING);
        let busy =
            orders.is_some_and(|orders| orders.iter().any(|order| order.ended.is_none_or(|ended| !settled(ended))));
        if busy || own.is_some_and(|run| !settled(run.end)) {
            return Ok(());
        }
        let attempts = orders.map_or(0, Vec::len);
        let key = format!("{} {} run {}", self.subject.instance, certificate.serial, attempts + 1);
        Err(Decision::Do(Deed::Run(name.certname.clone(), key)).into())
    }

    /// The nodes that must learn of it have run Puppet since.
    fn refreshed(&self, run: &RunView) -> Result<Option<String>, NotYet> {
        let targets = self.seen.targets.as_deref();
        refresh::all(self.subject, self.arriving, targets, run.end, self.orchestrated, self.now)
            .map_err(NotYet::Decided)
    }

    /// Its services answer.
    fn ready(&self) -> Result<(), NotYet> {
        let wanted = self.arriving.profile.ready.iter().filter(|probe| **probe != Probe::Report);
        let mut failing = Vec::new();
        for probe in wanted {
            let Some(probes) = &self.seen.probes else { return ask(Question::Probes) };
            match probes.iter().find(|(asked, _)| asked == probe) {
                Some((_, Ok(()))) => {}
                Some((_, Err(why))) => failing.push(format!("{probe} ({why})")),
                None => failing.push(format!("{probe} (it was not asked)")),
            }
        }
        if failing.is_empty() { Ok(()) } else { Err(news(format!("waiting for {}", failing.join(", ")))) }
    }
}

/// The names that arriving instances may still be waited for at: they have a certificate and no good run yet, so that
/// they will soon change what the refresh targets have to learn.
#[must_use]
pub fn is_about_to_report(decision: &Decision, seen: &Arrival) -> bool {
    matches!(decision, Decision::Wait(_))
        && seen.name.as_ref().is_some_and(|name| matches!(name.certificate, Reachable::Found(_)))
        && !matches!(&seen.run, Some(Reachable::Found(run)) if run.is_good())
}

#[cfg(test)]
mod tests;
