//! What a warm function remembers between its invocations. Nothing depends on it: a cold one finds all of it out again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use stagedoor_lifecycle::deadline;
use stagedoor_lifecycle::onboard::SuccessfulPolls;
use stagedoor_types::{ActionKey, Certname, Trouble};

/// How long the list of certificates is good for: it takes a CA with 30,000 certificates 20 seconds to more than a minute. EC2 shows a
/// terminated instance for about an hour. In this time the certificate of one that never ran Puppet has to be found by the list, and
/// removed once its name has been silent for 40 minutes.
const LIST_EVERY: Duration = Duration::from_secs(2700);

/// The names of certificates without an active node, or why they are not known.
pub(crate) type Certificates = Result<Arc<[Certname]>, Trouble>;

/// What a warm function remembers.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// The names of certificates without an active node, and when they were asked for.
    certificates: Mutex<Option<(Timestamp, Certificates)>>,
    /// What is wrong and has been reported.
    reported: Mutex<BTreeSet<String>>,
    /// How often in a row everything was ready that launching instances need: passes may be as long as an invocation, so that none
    /// sees several polls.
    polls: Mutex<BTreeMap<ActionKey, SuccessfulPolls>>,
}

impl Memory {
    /// The names of certificates without an active node, or the error that was kept in their place, if they were asked for in the last
    /// 45 minutes: one damaged file fails the list until an operator acts.
    pub(crate) fn certificates(&self, now: Timestamp) -> Option<Certificates> {
        let (at, certificates) = lock(&self.certificates).clone()?;
        (now < deadline::after(at, LIST_EVERY)).then_some(certificates)
    }

    /// Remembers them.
    pub(crate) fn keep_certificates(&self, at: Timestamp, certificates: Certificates) {
        *lock(&self.certificates) = Some((at, certificates));
    }

    /// Takes in one more poll of what a launching instance needs, successful or not; returns the successful ones in a row up to it. One
    /// that is forgotten only delays the launch.
    pub(crate) fn polled(&self, key: &ActionKey, successful: bool, at: Timestamp) -> Option<SuccessfulPolls> {
        let mut all = lock(&self.polls);
        all.retain(|_, polls| polls.count_at(at));
        let before = all.remove(key);
        let polls = successful.then(|| SuccessfulPolls::and(before, at))?;
        all.insert(key.clone(), polls);
        Some(polls)
    }

    /// Those of the things that are wrong now that are to be reported: what was not wrong the last time, at once; the others when a
    /// reminder is due.
    pub(crate) fn to_report(&self, wrong: BTreeSet<String>, remind: bool) -> BTreeSet<String> {
        let mut reported = lock(&self.reported);
        let due = wrong.iter().filter(|one| remind || !reported.contains(*one)).cloned().collect();
        *reported = wrong;
        due
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn what_stays_wrong_is_reported_at_once_and_then_only_as_a_reminder() {
        let memory = Memory::default();
        assert_eq!(memory.to_report(set(&["a", "b"]), false), set(&["a", "b"]));
        assert_eq!(memory.to_report(set(&["a", "b", "c"]), false), set(&["c"]));
        assert_eq!(memory.to_report(set(&["a", "c"]), true), set(&["a", "c"]));
        assert_eq!(memory.to_report(set(&["a"]), false), set(&[]));
        // What was right for a while is news again.
        assert_eq!(memory.to_report(set(&[]), false), set(&[]));
        assert_eq!(memory.to_report(set(&["a"]), false), set(&["a"]));
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn key(instance: &str) -> ActionKey {
        let (group, hook) = ("compilers".parse().unwrap(), "stagedoor-launch".parse().unwrap());
        ActionKey { group, hook, instance: instance.parse().unwrap() }
    }

    #[test]
    fn successful_polls_are_counted_for_each_action_until_one_fails() {
        let memory = Memory::default();
        let (one, other) = (key("i-0a1b2c3d4e5f60718"), key("i-0b2c3d4e5f6071829"));
        let count = |key: &ActionKey, good: bool, second: i64| {
            memory.polled(key, good, at(second)).map(|polls| (polls.count, polls.since))
        };
        assert_eq!(count(&one, true, 0), Some((1, at(0))));
        assert_eq!(count(&other, true, 30), Some((1, at(30))));
        assert_eq!(count(&one, true, 60), Some((2, at(0))), "in another invocation");
        assert_eq!(count(&one, false, 65), None);
        assert_eq!(count(&one, true, 70), Some((1, at(70))));
        assert_eq!(count(&other, true, 90), Some((2, at(30))));
    }

    #[test]
    fn polls_of_actions_that_are_over_are_forgotten() {
        let memory = Memory::default();
        memory.polled(&key("i-0a1b2c3d4e5f60718"), true, at(0));
        memory.polled(&key("i-0b2c3d4e5f6071829"), true, at(121));
        assert_eq!(lock(&memory.polls).len(), 1);
    }

    #[test]
    fn the_list_of_certificates_is_good_for_45_minutes() {
        let memory = Memory::default();
        assert_eq!(memory.certificates(at(0)), None);
        memory.keep_certificates(at(0), Ok(Arc::new(["n.example.com".parse().unwrap()])));
        assert_eq!(memory.certificates(at(2699)).unwrap().unwrap().len(), 1);
        assert_eq!(memory.certificates(at(2700)), None);
    }
}
