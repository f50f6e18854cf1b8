//! What goes wrong on purpose: faults that wait for the call they are meant for. No I/O.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::journal::call_matches;
use crate::server::Call;

/// A fault and the calls that it hits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// The service as the journal names it; `*` for every one.
    pub service: String,
    /// The call as the journal names it, or a prefix of it with a trailing `*`.
    pub call: String,
    /// Which matching call is hit, from 1, counted from when the fault was set; `None`: every one.
    #[serde(default)]
    pub nth: Option<u32>,
    /// Only calls about this certname, instance, group, …; `None`: whatever they are about.
    #[serde(default)]
    pub subject: Option<String>,
    /// What happens.
    pub kind: FaultKind,
}

/// What happens to a call that is hit. A delay combines with one of the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum FaultKind {
    /// The answer is held back. The call is carried out at once, so a caller that gives up waiting has still
    /// caused what it asked for.
    Delay {
        /// Milliseconds of real time.
        ms: u64,
    },
    /// This answer is sent and the call is not carried out.
    Status {
        /// The HTTP status.
        status: u16,
        /// The whole body, as the caller will see it.
        #[serde(default)]
        body: String,
        /// The `Content-Type` header; none is sent without it.
        #[serde(default)]
        content_type: Option<String>,
    },
    /// The connection is closed before the call is carried out.
    Reset,
    /// The call is carried out and the connection closed without an answer.
    Cut,
}

/// The faults now set. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    set: Arc<Mutex<Vec<Counted>>>,
}

#[derive(Debug)]
struct Counted {
    fault: Fault,
    seen: u32,
    hit: bool,
}

/// What the faults make of one call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hit {
    /// How long to hold the answer back, in milliseconds: the sum of all delays that hit.
    pub delay_ms: u64,
    /// The first fault set, other than a delay, that hits.
    pub failure: Option<FaultKind>,
}

impl Faults {
    /// Sets one more fault.
    pub fn add(&self, fault: Fault) {
        self.lock().push(Counted { fault, seen: 0, hit: false });
    }

    /// Takes this fault away.
    pub fn remove(&self, fault: &Fault) {
        self.lock().retain(|counted| counted.fault != *fault);
    }

    /// Takes all faults away.
    pub fn clear(&self) {
        self.lock().clear();
    }

    /// The faults now set, in the order in which they were added, whether they have hit already or not.
    #[must_use]
    pub fn list(&self) -> Vec<Fault> {
        self.lock().iter().map(|counted| counted.fault.clone()).collect()
    }

    /// Counts `call` on every fault that is meant for it and says what is to happen.
    #[must_use]
    pub fn strike(&self, call: &Call) -> Hit {
        let mut hit = Hit::default();
        for counted in self.lock().iter_mut() {
            let fault = &counted.fault;
            let meant = (fault.service == "*" || fault.service == call.service)
                && call_matches(&fault.call, &call.call)
                && (fault.subject.is_none() || fault.subject == call.subject);
            if !meant {
                continue;
            }
            counted.seen = counted.seen.saturating_add(1);
            if fault.nth.is_some_and(|nth| nth != counted.seen) {
                continue;
            }
            counted.hit = true;
            match &fault.kind {
                FaultKind::Delay { ms } => hit.delay_ms = hit.delay_ms.saturating_add(*ms),
                failure => {
                    hit.failure.get_or_insert_with(|| failure.clone());
                }
            }
        }
        hit
    }

    /// How many of the faults now set have hit a call.
    #[must_use]
    pub fn hits(&self) -> usize {
        self.lock().iter().filter(|counted| counted.hit).count()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Counted>> {
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(name: &str, subject: Option<&str>) -> Call {
        Call {
            service: "ca",
            call: name.to_owned(),
            subject: subject.map(str::to_owned),
            caller: None,
            request: serde_json::Value::Null,
        }
    }

    fn fault(call: &str, nth: Option<u32>, kind: FaultKind) -> Fault {
        Fault { service: "ca".into(), call: call.into(), nth, subject: None, kind }
    }

    #[test]
    fn the_second_call_is_hit_and_no_other() {
        let faults = Faults::default();
        faults.add(fault("PUT /clean", Some(2), FaultKind::Reset));
        let hits: Vec<_> = (0..3).map(|_| faults.strike(&call("PUT /clean", None)).failure).collect();
        assert_eq!(hits, [None, Some(FaultKind::Reset), None]);
    }

    #[test]
    fn other_calls_do_not_count_towards_the_nth() {
        let faults = Faults::default();
        faults.add(fault("PUT /clean", Some(1), FaultKind::Cut));
        assert_eq!(faults.strike(&call("GET /clean", None)), Hit::default());
        assert_eq!(faults.strike(&call("PUT /clean", None)).failure, Some(FaultKind::Cut));
    }

    #[test]
    fn a_delay_combines_with_the_first_other_fault() {
        let faults = Faults::default();
        faults.add(fault("*", None, FaultKind::Delay { ms: 5 }));
        faults.add(fault("PUT *", None, FaultKind::Cut));
        faults.add(fault("PUT *", None, FaultKind::Reset));
        let hit = faults.strike(&call("PUT /clean", None));
        assert_eq!(hit, Hit { delay_ms: 5, failure: Some(FaultKind::Cut) });
    }

    #[test]
    fn a_subject_narrows_a_fault() {
        let faults = Faults::default();
        faults.add(Fault { subject: Some("a.example".into()), ..fault("*", None, FaultKind::Reset) });
        assert_eq!(faults.strike(&call("GET /x", Some("b.example"))), Hit::default());
        assert_eq!(faults.strike(&call("GET /x", None)), Hit::default());
        assert!(faults.strike(&call("GET /x", Some("a.example"))).failure.is_some());
    }

    #[test]
    fn a_star_stands_for_every_service() {
        let faults = Faults::default();
        faults.add(Fault { service: "*".into(), ..fault("*", None, FaultKind::Delay { ms: 1 }) });
        assert_eq!(faults.strike(&call("GET /x", None)).delay_ms, 1);
    }

    #[test]
    fn a_fault_reads_as_flat_json_kind() {
        let fault: Fault = serde_json::from_value(serde_json::json!({
            "service": "ca", "call": "PUT /puppet-ca/v1/clean", "nth": 1,
            "kind": {"kind": "status", "status": 500, "body": "no"},
        }))
        .unwrap();
        assert!(matches!(fault.kind, FaultKind::Status { status: 500, .. }));
    }
}
