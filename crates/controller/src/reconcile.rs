//! The loop: look, decide, act, look again. The page to read first. The stages that it calls do the I/O.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use stagedoor_lifecycle::decision::{Decision, Deed, Question, Removal};
use stagedoor_lifecycle::observation::{Began, Reachable, Subject};
use stagedoor_lifecycle::profile::ActionResult;
use stagedoor_lifecycle::receipt::{Outcome, Receipt, Stage};
use stagedoor_lifecycle::{deadline, onboard, purge};

use crate::apply::apply;
use crate::case::Case;
use crate::complete::complete;
use crate::door::{Door, Puppet};
use crate::gather::{Sight, answer, ask_when_it_began, look_at_aws, look_at_puppet};
use crate::heartbeat::Heartbeats;

/// Between two looks at first; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// More questions than there are, so that a question without an answer ends.
const QUESTIONS_IN_A_ROW: usize = 8;
/// How long hooks are answered before deeds are done.
const BEFORE_DEEDS: Duration = Duration::from_secs(3);
/// How long an order for refresh targets waits for others to join it.
const GATHERING: Duration = Duration::from_secs(15);

/// Until when an invocation goes on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Until {
    /// After a pause, no new pass begins after this.
    pub(crate) passes: Timestamp,
    /// Every look and every change at Puppet has ended by this, so that there is time to answer the hooks.
    pub(crate) work: Timestamp,
    /// Every call has ended by this.
    pub(crate) calls: Timestamp,
}

/// Kept from the platform's deadline for writing the answer.
const ANSWER_RESERVE: Duration = Duration::from_secs(2);
/// Kept for answering the hooks when all work has ended: a CA that takes a minute for a write must not leave them unanswered.
pub(crate) const HOOKS_RESERVE: Duration = Duration::from_secs(6);
/// Kept for the calls of a pass that has begun.
const PASS_RESERVE: Duration = Duration::from_secs(15);

impl Until {
    /// The budget, as far as the platform's own deadline allows it.
    pub(crate) fn new(now: Timestamp, budget: Duration, platform_deadline: Option<Timestamp>) -> Self {
        let passes = deadline::invocation_ends(now, budget, platform_deadline, PASS_RESERVE);
        // A CA write may wait for a minute on a lock; without a platform that kills us we wait for it.
        let longest = budget + Duration::from_secs(90);
        let calls = deadline::invocation_ends(now, longest, platform_deadline, ANSWER_RESERVE);
        Self { passes, work: deadline::before(calls, HOOKS_RESERVE), calls }
    }
}

/// Deals with a set of instances until each is settled or the time is up.
pub(crate) async fn reconcile(door: &Door, subjects: Vec<Subject>, until: Until) -> Vec<Receipt> {
    let mut round = Round::new(door.clock.now());
    round.admit(subjects);
    loop {
        let pace = Box::pin(round.pass(door, until)).await;
        if pace == Pace::Over || !round.rest(door, pace, until).await {
            return round.into_cases().into_iter().map(Case::into_receipt).collect();
        }
    }
}

/// The instances that an invocation deals with, and how far it is with them.
pub(crate) struct Round {
    cases: Vec<Case>,
    pub(crate) beats: Heartbeats,
    pause: Duration,
    /// Whether the credentials were read anew.
    renewed: bool,
    /// The cases of which it was asked when they began.
    asked_began: BTreeSet<usize>,
}

/// How to go on after a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// It found out or changed something: look again at once, that look is the proof.
    AtOnce,
    /// Others have to do something first.
    AfterAPause,
    /// Every case is settled, or the time is up.
    Over,
}

impl Round {
    pub(crate) fn new(now: Timestamp) -> Self {
        Self {
            cases: Vec::new(),
            beats: Heartbeats::new(now),
            pause: FIRST_PAUSE,
            renewed: false,
            asked_began: BTreeSet::new(),
        }
    }

    /// Takes these on, unless they are known already: whoever was answered may be shown as waiting for a little longer.
    pub(crate) fn admit(&mut self, subjects: Vec<Subject>) {
        let key = |subject: &Subject| (subject.group.clone(), subject.hook.clone(), subject.instance.clone());
        let mut known: BTreeSet<_> = self.cases.iter().map(|case| key(&case.subject)).collect();
        let new: Vec<Case> = subjects.into_iter().filter(|subject| known.insert(key(subject))).map(Case::new).collect();
        if !new.is_empty() {
            self.pause = FIRST_PAUSE;
        }
        self.cases.extend(new);
    }

    /// Whether any case is not settled yet.
    pub(crate) fn is_open(&self) -> bool {
        self.cases.iter().any(Case::is_open)
    }

    /// Looks, decides, acts.
    pub(crate) async fn pass(&mut self, door: &Door, until: Until) -> Pace {
        let Self { cases, beats, renewed, asked_began, .. } = self;
        // Boxed, as below: futures of this size are copied about otherwise.
        let puppet = Box::pin(look_at_aws(door, cases, until)).await;
        beats.watch(cases, door.clock.now());
        let again = beats.beside(door, until, Box::pin(act(door, puppet, cases, renewed, asked_began, until))).await;
        if !self.is_open() || door.clock.now() >= until.calls {
            Pace::Over
        } else if again {
            Pace::AtOnce
        } else {
            Pace::AfterAPause
        }
    }

    /// Waits as long as it is good before the next pass; whether there is time for one.
    pub(crate) async fn rest(&mut self, door: &Door, pace: Pace, until: Until) -> bool {
        if pace == Pace::AtOnce {
            return true;
        }
        if deadline::after(door.clock.now(), self.pause) >= until.passes {
            return false;
        }
        self.beats.beside(door, until, tokio::time::sleep(self.pause)).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        for case in &mut self.cases {
            case.just_did = None;
            case.trouble = None;
        }
        true
    }

    pub(crate) fn into_cases(self) -> Vec<Case> {
        self.cases
    }
}

/// What a pass does once AWS was looked at; whether to look again at once.
async fn act(
    door: &Door,
    puppet: Result<Arc<Puppet>, String>,
    cases: &mut [Case],
    renewed: &mut bool,
    asked_began: &mut BTreeSet<usize>,
    until: Until,
) -> bool {
    let mut sight = look_at_puppet(door, puppet, cases, until).await;
    let mut next = settle_what_is_decided(door, &sight, cases);
    for _ in 0..QUESTIONS_IN_A_ROW {
        if next.questions.is_empty() {
            break;
        }
        answer(door, &mut sight, cases, next.questions, until).await;
        let (again, began) = (next.look_again, next.ask_when_it_began);
        next = settle_what_is_decided(door, &sight, cases);
        next.look_again |= again;
        next.ask_when_it_began.extend(began);
    }

    let mut again = next.look_again;
    let deeds = hold_refreshes(next.deeds, next.about_to_report, cases, door.clock.now());
    if let (Some(puppet), false) = (sight.puppet.clone(), deeds.is_empty()) {
        // Not when it is decided: the answer to another case's question has everything decided once more.
        for (index, deed) in &deeds {
            cases[*index].just_did = Some(deed.clone());
        }
        // What is decided must not wait for others' deeds, nor these so long that what was seen is not true any more.
        complete(door, cases, until, deadline::after(door.clock.now(), BEFORE_DEEDS)).await;
        again |= apply(door, &puppet, &sight, cases, deeds, until).await;
    }
    again |= ask_when_they_began(door, cases, &next.ask_when_it_began, asked_began, until).await;
    if sight.stale && !*renewed {
        *renewed = true;
        again |= sight.reopen(door, until).await;
    }
    complete(door, cases, until, until.calls).await;
    again
}

/// Asks Auto Scaling once for each case that has to know it since when it waits. One call answers for a whole group, so
/// those that nobody has told anything are asked about as well; whether anything is known now that was not.
async fn ask_when_they_began(
    door: &Door,
    cases: &mut [Case],
    wanted: &[usize],
    asked: &mut BTreeSet<usize>,
    until: Until,
) -> bool {
    if wanted.iter().all(|index| asked.contains(index)) {
        return false;
    }
    let unknown = |case: &Case| case.is_open() && case.held.is_some() && case.subject.began == Began::Unknown;
    let unknown = cases.iter().enumerate().filter(|(_, case)| unknown(case)).map(|(index, _)| index);
    let which: BTreeSet<usize> = unknown.chain(wanted.iter().copied()).filter(|index| !asked.contains(index)).collect();
    let which: Vec<usize> = which.into_iter().collect();
    let answered = ask_when_it_began(door, cases, &which, until).await;
    asked.extend(&answered);
    !answered.is_empty()
}

/// What a pass has to do before the next.
#[derive(Default)]
struct Next {
    deeds: Vec<(usize, Deed)>,
    questions: Vec<(usize, Question)>,
    look_again: bool,
    ask_when_it_began: Vec<usize>,
    /// Whether arriving nodes are about to make another change that refresh targets have to learn of.
    about_to_report: bool,
}

/// Decides about every open case; what needs I/O is returned.
fn settle_what_is_decided(door: &Door, sight: &Sight, cases: &mut [Case]) -> Next {
    let mut next = Next::default();
    let now = door.clock.now();
    let orchestrated = door.config.orchestrator.is_some();
    let protected = sight.protected(door);
    for (index, case) in cases.iter_mut().enumerate().filter(|(_, case)| case.is_undecided()) {
        let Some((held, _)) = &case.held else { continue };
        let confirmed = matches!(case.subject.began, Began::Confirmed { .. });
        let over = (confirmed && held.is_late(case.subject.began, now)).then_some(held.on_timeout);
        let decision = if case.is_arriving() {
            onboard::decide(&case.subject, held, &case.arrival, protected, orchestrated, now)
        } else {
            purge::decide(&case.subject, held, &case.seen, protected, case.tried.as_deref(), orchestrated, now)
        };
        next.about_to_report |= onboard::is_about_to_report(&decision, &case.arrival);
        if case.is_arriving() && !case.removed.is_empty() && !shows_what_was_removed(case) {
            sight.prove(case);
        }
        match decision {
            Decision::Ask(Question::Names(names)) => {
                case.look_at_too(names);
                next.look_again = true;
            }
            Decision::Ask(Question::Began) => {
                case.stands(
                    Outcome::Failed,
                    "Auto Scaling could not be asked since when it waits, and so how long it still may",
                );
                next.ask_when_it_began.push(index);
            }
            Decision::Ask(question) => {
                case.stands(Outcome::Failed, format!("{} could not be found out in time", question.describe()));
                next.questions.push((index, question));
            }
            // Nothing is changed on the strength of what AWS said a while ago.
            Decision::Do(_) if case.blind.is_some() => {
                let blind = case.blind.clone().unwrap_or_default();
                match over {
                    Some(answer) => case.ready = Some((answer, format!("patience is over: {blind}"))),
                    None => case.stands(Outcome::Failed, blind),
                }
            }
            Decision::Do(deed) if !door.acts() => {
                match &deed {
                    Deed::Remove(removals) => {
                        for removal in removals {
                            case.step(Stage::Would, Duration::ZERO, format!("remove {}", removal.describe()));
                        }
                    }
                    deed => case.step(Stage::Would, Duration::ZERO, deed.describe()),
                }
                case.settle(Outcome::Waiting, "observe mode: nothing was changed and the hook was not answered");
            }
            Decision::Do(Deed::Remove(removals)) if matches!(case.just_did, Some(Deed::Remove(_))) => {
                // The look that follows still shows something: not at once again, but after a pause.
                let left: Vec<_> = removals.iter().map(Removal::describe).collect();
                let tried = case.tried.clone().unwrap_or_default();
                case.stands(Outcome::Failed, format!("{tried}; still there: {}", left.join("; ")));
            }
            // What the CA will not sign it will not sign a moment later either.
            Decision::Do(Deed::Sign(_)) if case.refused.is_some() => {
                case.stands(Outcome::Refused, case.refused.clone().unwrap_or_default());
            }
            Decision::Do(deed) if case.just_did.as_ref().is_some_and(|did| did.describe() == deed.describe()) => {
                let unseen = || format!("it was just done, and is not seen yet: {}", deed.describe());
                case.stands(Outcome::Failed, case.trouble.clone().unwrap_or_else(unseen));
            }
            Decision::Do(deed) => {
                // So that patience can end, also if this never succeeds.
                if case.subject.began == Began::Unknown {
                    next.ask_when_it_began.push(index);
                }
                next.deeds.push((index, deed));
            }
            Decision::Complete(result, reason) => {
                if case.is_arriving() && result == ActionResult::Continue {
                    for fact in reason.split("; ") {
                        case.step(Stage::Proven, Duration::ZERO, fact);
                    }
                }
                sight.prove(case);
                case.ready = Some((result, reason));
            }
            Decision::Wait(reason) => case.stands(Outcome::Waiting, reason),
            Decision::Refuse(reason) => case.stands(Outcome::Refused, reason),
            Decision::Fail(reason) => case.stands(Outcome::Failed, reason),
        }
    }
    next
}

/// Whether a look still shows the certificate or request that was removed.
fn shows_what_was_removed(case: &Case) -> bool {
    let Some(view) = &case.arrival.name else { return true };
    case.removed.get(&view.certname).is_some_and(|(removal, _)| {
        let same = |serial: &String| matches!(&view.certificate, Reachable::Found(now) if now.serial == *serial);
        let unknown = view.certificate.known().is_err();
        unknown || removal.certificate.as_ref().is_some_and(same)
    })
}

/// Holds orders for refresh targets back for a little while, as long as other nodes are about to make a change that the
/// same run could serve.
fn hold_refreshes(
    deeds: Vec<(usize, Deed)>,
    about_to_report: bool,
    cases: &mut [Case],
    now: Timestamp,
) -> Vec<(usize, Deed)> {
    let oldest =
        deeds.iter().filter_map(|(_, deed)| if let Deed::Refresh(_, change) = deed { Some(*change) } else { None });
    let hold = about_to_report && oldest.min().is_some_and(|oldest| now < deadline::after(oldest, GATHERING));
    if !hold {
        return deeds;
    }
    let (postponed, rest): (Vec<_>, Vec<_>) =
        deeds.into_iter().partition(|(_, deed)| matches!(deed, Deed::Refresh(..)));
    for (index, deed) in postponed {
        let what = format!("about to {}, for this and what else is about to change", deed.describe());
        cases[index].stands(Outcome::Waiting, what);
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_always_time_to_answer_the_hooks_when_all_work_has_ended() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        for platform in [None, Some(20), Some(60), Some(140), Some(150), Some(900)] {
            let ends = platform.map(|seconds| deadline::after(now, Duration::from_secs(seconds)));
            let until = Until::new(now, Duration::from_secs(50), ends);
            assert_eq!(until.calls, deadline::after(until.work, HOOKS_RESERVE), "{platform:?}");
            assert!(until.passes < until.work, "{platform:?}");
            assert!(ends.is_none_or(|ends| until.calls <= deadline::before(ends, ANSWER_RESERVE)), "{platform:?}");
        }
    }
}
