//! The loop: look, decide, act, look again. The page to read first. The stages that it calls do the I/O.

use std::time::Duration;

use jiff::Timestamp;
use stagedoor_lifecycle::deadline;
use stagedoor_lifecycle::observation::Subject;
use stagedoor_lifecycle::purge::{Decision, Removal, decide};
use stagedoor_lifecycle::receipt::{Outcome, Receipt, Stage};

use crate::apply::apply;
use crate::case::Case;
use crate::complete::complete;
use crate::door::Door;
use crate::gather::{Sight, ask_when_it_began, look};

/// Between two looks at first; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Until when an invocation goes on.
#[derive(Debug, Clone, Copy)]
pub struct Until {
    /// After a pause, no new pass begins after this.
    pub passes: Timestamp,
    /// Every look and every change at Puppet has ended by this, so that there is time to answer the hooks.
    pub work: Timestamp,
    /// Every call has ended by this.
    pub calls: Timestamp,
}

/// Kept from the platform's deadline for writing the answer.
const ANSWER_RESERVE: Duration = Duration::from_secs(2);
/// Kept for answering the hooks: a CA that takes a minute for a write must not leave them unanswered.
const HOOKS_RESERVE: Duration = Duration::from_secs(8);
/// Kept for the calls of a pass that has begun.
const PASS_RESERVE: Duration = Duration::from_secs(15);

impl Until {
    /// The budget, as far as the platform's own deadline allows it.
    #[must_use]
    pub fn new(now: Timestamp, budget: Duration, platform_deadline: Option<Timestamp>) -> Self {
        let passes = deadline::invocation_ends(now, budget, platform_deadline, PASS_RESERVE);
        // A CA write may wait for a minute on a lock; without a platform that kills us we wait for it.
        let longest = budget + Duration::from_secs(90);
        let by = |reserve| deadline::invocation_ends(now, longest, platform_deadline, reserve);
        Self { passes, work: by(HOOKS_RESERVE), calls: by(ANSWER_RESERVE) }
    }
}

/// Deals with a set of leaving instances until each is settled or the time is up.
pub async fn reconcile(door: &Door, subjects: Vec<Subject>, until: Until) -> Vec<Receipt> {
    let mut cases: Vec<Case> = subjects.into_iter().map(Case::new).collect();
    let mut pause = FIRST_PAUSE;
    let (mut renewed, mut asked) = (false, false);
    loop {
        let sight = look(door, &mut cases, until).await;
        let next = settle_what_is_decided(door, &sight, &mut cases);

        // What a pass finds out or changes is looked at again at once: that look is the proof.
        let mut again = next.look_again;
        if let (Some(puppet), false) = (&sight.puppet, next.removals.is_empty()) {
            again |= apply(door, puppet, &sight, &mut cases, next.removals, until).await;
        }
        if !next.ask_when_it_began.is_empty() && !asked {
            asked = true;
            again |= ask_when_it_began(door, &mut cases, &next.ask_when_it_began, until).await;
        }
        if sight.stale && !renewed {
            renewed = true;
            again |= sight.reopen(door, until).await;
        }
        complete(door, &mut cases, until).await;

        if !cases.iter().any(Case::is_open) || door.clock.now() >= until.calls {
            break;
        }
        if !again {
            if deadline::after(door.clock.now(), pause) >= until.passes {
                break;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            for case in &mut cases {
                case.just_tried = false;
            }
        }
    }
    cases.into_iter().map(Case::into_receipt).collect()
}

/// What a pass has to do before the next.
#[derive(Default)]
struct Next {
    removals: Vec<(usize, Vec<Removal>)>,
    look_again: bool,
    ask_when_it_began: Vec<usize>,
}

/// Decides about every open case; what needs I/O is returned.
fn settle_what_is_decided(door: &Door, sight: &Sight, cases: &mut [Case]) -> Next {
    let mut next = Next::default();
    let now = door.clock.now();
    for (index, case) in cases.iter_mut().enumerate().filter(|(_, case)| case.is_open() && case.ready.is_none()) {
        let Some((leaving, _)) = &case.leaving else { continue };
        let protected = sight.protected(door);
        match decide(&case.subject, leaving, &case.seen, protected, case.tried.as_deref(), now) {
            Decision::Look(names) => {
                case.extra_names.extend(names);
                next.look_again = true;
            }
            Decision::AskWhenItBegan => {
                case.stands(
                    Outcome::Failed,
                    "patience seems to be over, but Auto Scaling could not be asked since when",
                );
                next.ask_when_it_began.push(index);
            }
            Decision::Purge(removals) if !door.acts() => {
                for removal in &removals {
                    case.step(Stage::Would, Duration::ZERO, format!("remove {}", describe(removal)));
                }
                case.settle(Outcome::Waiting, "observe mode: nothing was removed and the hook was not answered");
            }
            Decision::Purge(removals) if case.just_tried => {
                // The look that follows still shows something: not at once again, but after a pause.
                let left: Vec<_> = removals.iter().map(describe).collect();
                let tried = case.tried.clone().unwrap_or_default();
                case.stands(Outcome::Failed, format!("{tried}; still there: {}", left.join("; ")));
            }
            Decision::Purge(removals) => next.removals.push((index, removals)),
            Decision::Complete(result, reason) => {
                sight.prove(case);
                case.ready = Some((result, reason));
            }
            Decision::Wait(reason) => case.stands(Outcome::Waiting, reason),
            Decision::Fail(reason) => case.stands(Outcome::Failed, reason),
        }
    }
    next
}

/// What is left of an instance, for a person.
pub(crate) fn describe(removal: &Removal) -> String {
    let mut parts = Vec::new();
    if let Some(serial) = &removal.certificate {
        parts.push(format!("certificate {serial}"));
    }
    if removal.request {
        parts.push("certificate request".to_owned());
    }
    if removal.node.is_some() {
        parts.push("PuppetDB node".to_owned());
    }
    format!("{} of {}", parts.join(", "), removal.name.certname())
}
