//! Onboarding, the classifier's part: is the node pinned, and is it in the groups that the profile asks for? Pure.
//!
//! A node is pinned before its request is signed, because a Puppet run that began before the pin proves nothing. The groups of
//! `classified` are looked at before the first run, as far as the certificate decides, and again with the facts that the run sent: the
//! catalog of a run is classified with the facts of that same run, so a run whose facts put the node into a group has had that group.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use stagedoor_types::{Lookup, Service};

use super::{NotYet, Rules, ask, trouble, unanswered, wrong};
use crate::admission::PendingAction;
use crate::deadline;
use crate::decision::{Decision, Effect, Missing, Question};
use crate::identity::{Whose, whose};
use crate::observation::{CertificateView, LifecycleAction, NameView};
use crate::onboard::LaunchView;
use crate::profile::Protected;
use crate::reason::{Code, Fact, Reason};
use crate::refresh::RunView;

/// What the classifier says about a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Classified {
    /// The groups that the node is in, by rule or by pin.
    pub groups: BTreeSet<String>,
    /// Those of the profile's groups that the classifier has, or shows to us.
    pub known: BTreeSet<String>,
    /// Why the node is not in a group of the profile.
    pub mismatches: BTreeMap<String, Mismatch>,
    /// Whether it was asked with the facts of the node's newest run.
    pub with_facts: bool,
}

/// Why a node is not in a group, by the rules of the group and of those above it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mismatch {
    /// Its name or its certificate contradicts these conditions, which no run changes.
    Certificate(Vec<String>),
    /// The facts of its newest run contradict these conditions. Another run may bring other facts.
    Facts(Vec<String>),
    /// Facts decide, and none are known yet.
    FactsNeeded,
    /// The rules do not explain it, as far as they can be evaluated.
    Unexplained,
}

/// The node's own agent is left this time for another run, before one is ordered for the sake of its facts.
const ANOTHER_RUN: Duration = Duration::from_secs(300);
/// The most conditions in one reason.
const CONDITIONS: usize = 3;

impl Rules<'_> {
    /// It is pinned to every group that the profile pins to.
    pub(super) fn pinned(&self, name: &NameView) -> Result<(), NotYet> {
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
        match &self.seen.node_groups {
            Some(Lookup::Found(known)) => self.all_known(&missing, known)?,
            Some(Lookup::Unavailable(why)) => return Err(trouble(why)),
            Some(Lookup::Absent) => return Err(not_configured()),
            None => return Err(trouble(&unanswered(Service::Classifier, "its node groups"))),
        }
        Err(Decision::Apply(Effect::Pin(name.certname.clone(), missing)).into())
    }

    /// The classifier puts it into every group that the profile asks for. What is returned is the reason to wait for where the facts of
    /// a Puppet run decide: of the first, or of another.
    pub(super) fn classified(&self, has_run: bool) -> Result<Option<Reason>, NotYet> {
        let wanted = &self.launching.profile.classified;
        if wanted.is_empty() {
            return Ok(None);
        }
        let classification = self.classification(has_run)?;
        let missing: Vec<String> =
            wanted.iter().filter(|group| !classification.groups.contains(*group)).cloned().collect();
        if missing.is_empty() {
            return Ok(None);
        }
        self.all_known(&missing, &classification.known)?;
        let why = |group: &String| classification.mismatches.get(group).unwrap_or(&Mismatch::Unexplained);
        let never: Vec<Fact> = missing.iter().filter_map(|group| never_matches(group, why(group))).collect();
        if let Some((first, more)) = never.split_first() {
            return Err(NotYet::Missing(Missing::Wrong(Reason::new(first.clone(), more.to_vec()))));
        }
        let needs_facts = missing.iter().any(|group| *why(group) == Mismatch::FactsNeeded);
        let when = if needs_facts { ", when its Puppet run has sent the facts that the rules need" } else { "" };
        let waiting = format!("waiting for the classifier to put it into {}{when}", missing.join(", "));
        let facts = missing.iter().filter_map(|group| contradicted_by_facts(group, why(group))).collect();
        let reason = Reason::new(Fact::new(Code::ClassificationPending, waiting), facts);
        let a_run_decides = |group| matches!(why(group), Mismatch::Facts(_) | Mismatch::FactsNeeded);
        if missing.iter().all(a_run_decides) {
            return Ok(Some(reason));
        }
        Err(NotYet::Missing(Missing::NotYet(reason)))
    }

    /// It has run Puppet as required, and the facts of that run keep it out of a group: another run may bring others.
    pub(super) fn reclassified(
        &self,
        name: &NameView,
        certificate: &CertificateView,
        own: Option<&RunView>,
        waiting: Reason,
    ) -> NotYet {
        let its_turn = own.is_some_and(|run| self.now >= deadline::after(run.received, ANOTHER_RUN));
        if self.orchestrated
            && its_turn
            && let Err(order) = self.order_a_run(name, own, certificate)
        {
            return order;
        }
        NotYet::Missing(Missing::NotYet(waiting))
    }

    fn classification(&self, with_facts: bool) -> Result<&Classified, NotYet> {
        match &self.seen.classification {
            Some(Lookup::Found(classified)) if classified.with_facts == with_facts => Ok(classified),
            None | Some(Lookup::Found(_)) => ask(Question::Classification { with_facts }),
            Some(Lookup::Absent) => Err(not_configured()),
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
}

fn not_configured() -> NotYet {
    wrong(Code::NotConfigured, "the profile needs a classifier, and none is configured")
}

fn never_matches(group: &str, why: &Mismatch) -> Option<Fact> {
    let Mismatch::Certificate(conditions) = why else { return None };
    let text = format!(
        "its certificate can never match the rules of the node group {group}: {}; change the rule, what the instance asks for, or \
         `classified`",
        shortened(conditions)
    );
    Some(Fact::new(Code::ClassificationNeverMatches, text))
}

fn contradicted_by_facts(group: &str, why: &Mismatch) -> Option<Fact> {
    let Mismatch::Facts(conditions) = why else { return None };
    let text = format!(
        "the facts of its newest Puppet run do not match the rules of the node group {group}: {}",
        shortened(conditions)
    );
    Some(Fact::new(Code::ClassificationRuleNotMet, text))
}

/// The first few: a rule may have hundreds of conditions.
fn shortened(conditions: &[String]) -> String {
    let shown: Vec<&str> = conditions.iter().take(CONDITIONS).map(String::as_str).collect();
    match conditions.len().saturating_sub(CONDITIONS) {
        0 => shown.join("; "),
        more => format!("{}; and {more} more", shown.join("; ")),
    }
}

/// The groups that an abandoned launch would leave its name pinned to, unless the name may be another instance's: a reused name would
/// inherit them.
#[must_use]
pub fn pins_left(
    action: &LifecycleAction,
    launching: &PendingAction,
    seen: &LaunchView,
    protected: &Protected,
) -> Option<(stagedoor_types::Certname, Vec<String>)> {
    let name = seen.name.as_ref()?;
    let pins = name.pins.known().ok().flatten()?;
    let ours: Vec<String> = launching.profile.pin.iter().filter(|group| pins.contains(group)).cloned().collect();
    let free = match whose(name, &action.instance, protected) {
        Whose::Ours(_) => true,
        Whose::Nobody => {
            // A request of another instance may be from the name's next owner; one without pp_instance_id is not.
            let request = name.request.known().ok()?;
            request.and_then(|request| request.instance.as_ref()).is_none_or(|owner| *owner == action.instance)
        }
        Whose::Another(_) | Whose::Protected(_) | Whose::Unknown | Whose::Unavailable(_) => false,
    };
    (free && !ours.is_empty()).then(|| (name.certname.clone(), ours))
}
