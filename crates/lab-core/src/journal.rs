//! What was called: one entry for each request to a simulated service. No I/O.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::server::Call;

/// The record of all requests since the lab started or the journal was cleared. Clones share it.
#[derive(Clone, Debug)]
pub struct Journal {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    start: Instant,
    next: u64,
    entries: Vec<Entry>,
}

/// One request as a simulated service saw it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// Counts up from 1 in order of arrival; clearing the journal does not restart it.
    pub number: u64,
    /// `autoscaling`, `ec2`, `secretsmanager`, `sns`, `ca`, `puppetdb`, `orchestrator`, `classifier`, `rbac`; `node`:
    /// the Status API on a simulated agent's node; `agent`: what agents themselves ask the CA.
    pub service: String,
    /// AWS: the action (`DescribeAutoScalingGroups`). Puppet: method and path, with the certname's segment
    /// replaced (`GET /puppet-ca/v1/certificate/{certname}`).
    pub call: String,
    /// The certname, instance id, group, secret or topic that the call is about, where there is one.
    pub subject: Option<String>,
    /// The common name of the client certificate (Puppet only).
    pub caller: Option<String>,
    /// When the request had been read, in microseconds since the lab started.
    pub started_us: u64,
    /// When the answer was ready, in microseconds since the lab started; while the call is under way,
    /// equal to `started_us`.
    pub ended_us: u64,
    /// The HTTP status answered; `None` while the call is under way and when the connection was cut.
    pub status: Option<u16>,
    /// Parameters or body, for assertions. Never holds a secret's value.
    pub request: serde_json::Value,
}

impl Default for Journal {
    fn default() -> Self {
        Self::new()
    }
}

impl Journal {
    /// An empty journal; its microseconds count from here.
    #[must_use]
    pub fn new() -> Self {
        let inner = Inner { start: Instant::now(), next: 1, entries: Vec::new() };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    /// Enters a call that has just arrived. The entry is closed by [`Open::end`], or, without a status,
    /// when the handle is dropped: then no answer was sent.
    #[must_use]
    pub fn begin(&self, call: Call) -> Open {
        let mut inner = self.lock();
        let now = inner.elapsed_us();
        let number = inner.next;
        inner.next += 1;
        inner.entries.push(Entry {
            number,
            service: call.service.to_owned(),
            call: call.call,
            subject: call.subject,
            caller: call.caller,
            started_us: now,
            ended_us: now,
            status: None,
            request: call.request,
        });
        Open { journal: self.clone(), number, closed: false }
    }

    /// All entries in order of arrival.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        self.lock().entries.clone()
    }

    /// Forgets all entries.
    pub fn clear(&self) {
        self.lock().entries.clear();
    }

    /// The entries of one service in order of arrival.
    #[must_use]
    pub fn calls(&self, service: &str) -> Vec<Entry> {
        self.lock().entries.iter().filter(|entry| entry.service == service).cloned().collect()
    }

    /// How often `call` of `service` arrived. A `call` that ends in `*` stands for all with that prefix.
    #[must_use]
    pub fn count(&self, service: &str, call: &str) -> usize {
        self.lock().entries.iter().filter(|entry| entry.service == service && call_matches(call, &entry.call)).count()
    }

    /// The length of the longest chain of calls each of which arrived after the former was answered: what a
    /// caller waited for one after the other.
    ///
    /// Calls made side by side count once only if they overlap, so slow every answer down when asserting
    /// this (`Fault { service: "*", call: "*", kind: Delay { ms: 20 }, … }`). What simulated agents ask the CA does
    /// not count.
    #[must_use]
    pub fn round_trips(&self) -> usize {
        let by_others = |entry: &&Entry| entry.service != "agent";
        let mut spans: Vec<(u64, u64)> =
            self.lock().entries.iter().filter(by_others).map(|entry| (entry.started_us, entry.ended_us)).collect();
        // The call that ends first leaves the most room for others (interval scheduling).
        spans.sort_by_key(|&(started, ended)| (ended, started));
        let mut chain = 0;
        let mut free_from = 0;
        for (started, ended) in spans {
            if chain == 0 || started >= free_from {
                chain += 1;
                free_from = ended;
            }
        }
        chain
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn elapsed_us(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

/// A call under way.
#[derive(Debug)]
pub struct Open {
    journal: Journal,
    number: u64,
    closed: bool,
}

impl Open {
    /// The call was answered with this HTTP status; `None`: its connection was closed without an answer.
    pub fn end(mut self, status: Option<u16>) {
        self.close(status);
    }

    fn close(&mut self, status: Option<u16>) {
        self.closed = true;
        let mut inner = self.journal.lock();
        let now = inner.elapsed_us();
        // Not found: the journal was cleared in between.
        if let Some(entry) = inner.entries.iter_mut().rev().find(|entry| entry.number == self.number) {
            entry.ended_us = now;
            entry.status = status;
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if !self.closed {
            self.close(None);
        }
    }
}

/// Whether `pattern`, a name or a prefix with a trailing `*`, stands for `call`.
pub(crate) fn call_matches(pattern: &str, call: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => call.starts_with(prefix),
        None => pattern == call,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(name: &str) -> Call {
        Call { service: "ca", call: name.to_owned(), subject: None, caller: None, request: serde_json::Value::Null }
    }

    fn journal_of(spans: &[(u64, u64)]) -> Journal {
        let journal = Journal::new();
        for &(started_us, ended_us) in spans {
            journal.begin(call("GET /x")).end(Some(200));
            let mut inner = journal.lock();
            let entry = inner.entries.last_mut().unwrap();
            (entry.started_us, entry.ended_us) = (started_us, ended_us);
        }
        journal
    }

    #[test]
    fn calls_side_by_side_are_one_round_trip() {
        assert_eq!(journal_of(&[(10, 30), (11, 29), (31, 50), (32, 60)]).round_trips(), 2);
    }

    #[test]
    fn a_long_call_beside_two_short_ones_does_not_shorten_the_chain() {
        assert_eq!(journal_of(&[(0, 100), (1, 10), (11, 20), (21, 30)]).round_trips(), 3);
    }

    #[test]
    fn an_empty_journal_has_no_round_trips() {
        assert_eq!(Journal::new().round_trips(), 0);
    }

    #[test]
    fn a_call_that_was_never_answered_has_no_status() {
        let journal = Journal::new();
        drop(journal.begin(call("GET /a")));
        journal.begin(call("GET /b")).end(Some(204));
        let statuses: Vec<_> = journal.entries().iter().map(|entry| entry.status).collect();
        assert_eq!(statuses, [None, Some(204)]);
    }

    #[test]
    fn numbers_go_on_after_clearing() {
        let journal = Journal::new();
        let early = journal.begin(call("GET /a"));
        journal.clear();
        early.end(Some(200));
        journal.begin(call("GET /b")).end(Some(200));
        let numbers: Vec<_> = journal.entries().iter().map(|entry| entry.number).collect();
        assert_eq!(numbers, [2]);
    }

    #[test]
    fn counting_takes_a_prefix() {
        let journal = Journal::new();
        journal.begin(call("PUT /puppet-ca/v1/clean")).end(Some(200));
        journal.begin(call("GET /puppet-ca/v1/certificate/{certname}")).end(Some(200));
        assert_eq!(journal.count("ca", "PUT *"), 1);
        assert_eq!(journal.count("ca", "*"), 2);
        assert_eq!(journal.count("puppetdb", "*"), 0);
    }
}
