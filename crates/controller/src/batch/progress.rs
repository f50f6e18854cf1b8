//! How an action is doing until it is finished: the one rule for which status a receipt has. Pure.

use stagedoor_lifecycle::reason::{Code, Fact};
use stagedoor_lifecycle::receipt::Outcome;
use stagedoor_plan::Status;

/// The statuses that the steps of a pass gave an action. What a step reported counts before what was planned, because it happened
/// later; of several reports the worst counts, and of equally bad ones the first. A pass that says nothing leaves the status of the pass
/// before.
#[derive(Debug)]
pub(super) struct Progress {
    before: Status,
    planned: Option<Status>,
    reported: Option<Status>,
}

impl Progress {
    pub(super) fn new() -> Self {
        let ended = Fact::new(Code::InvocationEnded, "the invocation ended before this instance was looked at");
        Self { before: Status::new(Outcome::Failed, ended), planned: None, reported: None }
    }

    /// A pass begins.
    pub(super) fn begin_pass(&mut self) {
        if let Some(status) = self.reported.take().or(self.planned.take()) {
            self.before = status;
        }
        self.planned = None;
    }

    /// What was planned, in place of what was planned before in this pass.
    pub(super) fn plan(&mut self, status: Status) {
        self.planned = Some(status);
    }

    /// What a step reports.
    pub(super) fn report(&mut self, status: Status) {
        if self.reported.as_ref().is_none_or(|reported| severity(reported) < severity(&status)) {
            self.reported = Some(status);
        }
    }

    pub(super) fn status(&self) -> &Status {
        self.reported.as_ref().or(self.planned.as_ref()).unwrap_or(&self.before)
    }
}

fn severity(status: &Status) -> u8 {
    match status.outcome {
        Outcome::Continued | Outcome::Abandoned | Outcome::Ignored => 0,
        Outcome::Waiting => 1,
        Outcome::Refused => 2,
        Outcome::Failed => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(outcome: Outcome, code: Code) -> Status {
        Status::new(outcome, Fact::new(code, "text"))
    }

    fn code(progress: &Progress) -> Code {
        progress.status().reason.code()
    }

    #[test]
    fn a_later_plan_of_the_pass_takes_the_place_of_an_earlier_one() {
        let mut progress = Progress::new();
        assert_eq!(code(&progress), Code::InvocationEnded);
        progress.plan(status(Outcome::Failed, Code::LookupUnanswered));
        progress.plan(status(Outcome::Waiting, Code::WaitingForRun));
        assert_eq!(code(&progress), Code::WaitingForRun);
    }

    #[test]
    fn what_a_step_reports_counts_before_what_was_planned() {
        let mut progress = Progress::new();
        progress.report(status(Outcome::Waiting, Code::WaitingForRefresh));
        progress.plan(status(Outcome::Failed, Code::NotSeenYet));
        assert_eq!(code(&progress), Code::WaitingForRefresh);
    }

    #[test]
    fn of_several_reports_the_worst_counts_and_of_equals_the_first() {
        let mut progress = Progress::new();
        for code in [Code::CaUnavailable, Code::Postponed] {
            progress.report(status(Outcome::Failed, code));
        }
        assert_eq!(code(&progress), Code::CaUnavailable);
        progress.begin_pass();
        progress.report(status(Outcome::Waiting, Code::WaitingForRun));
        progress.report(status(Outcome::Refused, Code::SignatureRefused));
        progress.report(status(Outcome::Waiting, Code::WaitingForRefresh));
        assert_eq!(code(&progress), Code::SignatureRefused);
    }

    #[test]
    fn a_pass_that_says_nothing_leaves_the_status_of_the_one_before() {
        let mut progress = Progress::new();
        progress.report(status(Outcome::Failed, Code::CaUnavailable));
        progress.begin_pass();
        assert_eq!(code(&progress), Code::CaUnavailable);
        progress.plan(status(Outcome::Waiting, Code::RequestPending));
        assert_eq!(code(&progress), Code::RequestPending, "what the pass before reported is over");
        progress.begin_pass();
        progress.begin_pass();
        assert_eq!(code(&progress), Code::RequestPending);
    }
}
