//! Housekeeping: what the sweep does every few minutes besides handling waiting actions. Its parts do the I/O.

mod credentials;
mod orphans;
mod pins;
mod refresh;
mod requests;

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};
use stagedoor_lifecycle::reason::{Code, Fact};
use stagedoor_lifecycle::{deadline, expiry};
use stagedoor_types::{Certname, Group, Service, Trouble};

use crate::budget::Budget;
use crate::call::call;
use crate::config::OrphanMode;
use crate::context::{Context, Run};
use credentials::Watch;
use orphans::Check;
use pins::LeftOver;

/// The interval of the sweeps: one of those that run once in it finds that housekeeping is due.
const SWEEPS: std::time::Duration = std::time::Duration::from_secs(60);
/// The time reserved for housekeeping when it is due, so that actions that wait for a long time cannot postpone it indefinitely.
const KEPT: std::time::Duration = std::time::Duration::from_secs(20);

/// The result of a housekeeping.
pub(crate) struct HousekeepingReport {
    /// The orphans that were found, or why they could not be looked for; `None` where they are not to be.
    pub(crate) orphans: Option<Result<Check, Trouble>>,
    /// The requests of terminated instances that were found, or why they could not be looked for; `None` where they are not to be.
    requests: Option<Result<Vec<requests::Dealt>, Trouble>>,
    /// The greatest difference between a clock of Puppet and ours, in seconds, if one was measured.
    pub(crate) clock_skew_s: Option<i64>,
    /// The pins without a node, or why they could not be looked for; `None` where no profile pins.
    pub(crate) pins: Option<Result<LeftOver, Trouble>>,
    /// The refresh targets that were ordered to run, or why that could not be looked at.
    refresh: Result<Option<refresh::Ordered>, Trouble>,
    /// When the credentials expire.
    pub(crate) credentials: Watch,
    /// The messages to publish, each with its subject.
    pub(crate) news: Vec<(String, Value)>,
}

/// What was done about a thing that is left of a terminated instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// It is gone: that was observed, or, of a request, the CA has said that it deleted it.
    Removed,
    /// It is not gone, or that was not observed.
    Failed,
    /// It is only reported, as a mode says.
    Found,
    /// The breaker is open.
    Held,
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Removed => "removed",
            Self::Failed => "failed",
            Self::Found => "found",
            Self::Held => "held",
        }
    }
}

/// Why something is only reported: a profile that it may be of only observes.
fn observe_mode() -> Fact {
    Fact::new(Code::ObserveMode, "would be removed, but its profile only observes")
}

/// Why something is only reported: orphans are.
fn report_mode() -> Fact {
    Fact::new(Code::ReportMode, "would be removed, but orphans.mode is report")
}

/// What could not be done, for the answer of the invocation.
fn error(trouble: &Trouble) -> Value {
    json!({"code": Code::from(trouble), "error": trouble.text})
}

/// Whether housekeeping is due in this sweep.
pub(crate) fn is_due(context: &Context, now: Timestamp) -> bool {
    context
        .config
        .housekeeping
        .every
        .is_some_and(|every| deadline::slot_begun(every, deadline::before(now, SWEEPS), now))
}

/// Until when waiting actions are handled, where housekeeping is due afterwards: it gets at most half of the time.
pub(crate) fn less_what_is_kept(budget: Budget, now: Timestamp) -> Budget {
    let half = std::time::Duration::try_from(budget.passes.duration_since(now)).unwrap_or_default() / 2;
    Budget { passes: deadline::before(budget.passes, KEPT.min(half)), ..budget }
}

/// Looks for orphans, for requests of terminated instances and for pins without a node, and checks the credentials, side by side.
/// `groups` are those that opted in, as far as they are known, and `launching` the names of the instances that launch.
pub(crate) async fn housekeep(
    run: Run<'_>,
    groups: Result<Vec<Group>, Trouble>,
    launching: &BTreeSet<Certname>,
) -> HousekeepingReport {
    let Run { context, budget, .. } = run;
    let config = &context.config.housekeeping;
    let now = context.clock.now();
    let every = config.every.unwrap_or_default();
    let puppet = call(context, budget.work, Service::SecretsManager, context.puppet.open(context.clock.now())).await;
    let turn = now.as_second() / i64::try_from(every.as_secs()).unwrap_or(i64::MAX).max(1);
    let refresh_targets = async {
        match (&puppet, &groups) {
            (Ok(puppet), Ok(groups)) => Box::pin(refresh::check(run, puppet, groups, every)).await,
            // What is unavailable is reported by the parts that cannot do without it.
            (Err(_), _) | (_, Err(_)) => Ok(None),
        }
    };
    let refresh = refresh_targets.await;
    let ready = match (&puppet, groups) {
        _ if config.orphans == OrphanMode::Off => None,
        (Ok(puppet), Ok(groups)) => Some(Ok((puppet, groups))),
        (Err(trouble), _) => Some(Err(trouble.clone())),
        (_, Err(trouble)) => Some(Err(trouble)),
    };
    let look_for_requests = async {
        Some(match ready.as_ref()? {
            Ok((puppet, groups)) => Box::pin(requests::check(run, puppet, groups.clone(), turn)).await,
            Err(trouble) => Err(trouble.clone()),
        })
    };
    let look_for_orphans = async {
        Some(match ready.as_ref()? {
            Ok((puppet, groups)) => Box::pin(orphans::check(run, puppet, groups.clone(), turn)).await,
            Err(trouble) => Err(trouble.clone()),
        })
    };
    let look_for_pins = async {
        if context.config.profiles.values().all(|profile| profile.pin.is_empty()) {
            return None;
        }
        Some(match &puppet {
            Ok(puppet) => Box::pin(pins::look(run, puppet, launching, turn)).await,
            Err(trouble) => Err(trouble.clone()),
        })
    };
    let before = puppet.as_ref().ok().and_then(|puppet| puppet.ca.date());
    let (orphans, requests, pins, credentials) =
        tokio::join!(look_for_orphans, look_for_requests, look_for_pins, credentials::look(run, &puppet));
    if let Ok(puppet) = &puppet {
        puppet.compare_clock(before, context.clock.now());
    }

    // What lasts for days is reported once a day; what has been done, and that the breaker is open, at once.
    let remind = expiry::reminds(every, now);
    let mut news = Vec::new();
    match &orphans {
        Some(Ok(check)) => news.extend(check.tell(context, remind)),
        Some(Err(trouble)) => {
            let code = Code::from(trouble).as_str();
            tracing::error!(code, "orphans could not be looked for; nothing was removed: {trouble}");
        }
        None => {}
    }
    match &pins {
        Some(Ok(left)) => news.extend(left.tell(remind)),
        Some(Err(trouble)) => {
            let code = Code::from(trouble).as_str();
            tracing::warn!(code, "pins without a node could not be looked for: {trouble}");
        }
        None => {}
    }
    news.extend(credentials.tell(config.warn_days.into(), remind, now));
    if let Some(Err(trouble)) = &requests {
        let code = Code::from(trouble).as_str();
        tracing::error!(code, "the pending requests could not be looked at; none was deleted: {trouble}");
    }
    if let Err(trouble) = &refresh {
        let code = Code::from(trouble).as_str();
        tracing::warn!(code, "whether refresh targets have to run could not be looked at: {trouble}");
    }
    let clock_skew_s = context.puppet.clocks.greatest();
    HousekeepingReport { orphans, requests, clock_skew_s, pins, refresh, credentials, news }
}

impl HousekeepingReport {
    /// For the answer of the invocation.
    pub(crate) fn payload(&self, now: Timestamp) -> Value {
        let orphans = match &self.orphans {
            None => Value::Null,
            Some(Ok(check)) => check.payload(),
            Some(Err(trouble)) => error(trouble),
        };
        let requests = match &self.requests {
            None => Value::Null,
            Some(Ok(dealt)) => dealt.iter().map(requests::Dealt::payload).collect(),
            Some(Err(trouble)) => error(trouble),
        };
        let pins = match &self.pins {
            None => Value::Null,
            Some(Ok(left)) => left.payload(),
            Some(Err(trouble)) => error(trouble),
        };
        let refresh = match &self.refresh {
            Ok(ordered) => ordered.as_ref().map_or(Value::Null, refresh::Ordered::payload),
            Err(trouble) => error(trouble),
        };
        let credentials = self.credentials.payload(now);
        json!({ "orphans": orphans, "requests": requests, "pins": pins, "refresh": refresh, "credentials": credentials })
    }

    /// What it could not do.
    pub(crate) fn troubles(&self) -> impl Iterator<Item = &Trouble> {
        fn of<T>(part: Option<&Result<T, Trouble>>) -> Option<&Trouble> {
            part.and_then(|part| part.as_ref().err())
        }
        let unlisted = self.orphans.as_ref().and_then(|orphans| orphans.as_ref().ok()?.unlisted.as_ref());
        let parts = [of(self.orphans.as_ref()), unlisted, of(self.requests.as_ref()), of(self.pins.as_ref())];
        parts.into_iter().chain([self.refresh.as_ref().err(), self.credentials.trouble()]).flatten()
    }

    /// The metrics that there are values for.
    pub(crate) fn metrics(&self, now: Timestamp) -> Vec<(&'static str, i64)> {
        let mut values = vec![("HousekeepingOk", self.troubles().next().is_none().into())];
        if let Some(Ok(check)) = &self.orphans {
            values.push(("BreakerOpen", check.breaker.is_some().into()));
            values.push(("OrphansRemoved", i64::try_from(check.removed()).unwrap_or(i64::MAX)));
        }
        values.extend(self.clock_skew_s.map(|seconds| ("ClockSkewSeconds", seconds)));
        values.extend(expiry::days_left(&self.credentials.known, now).map(|days| ("CredentialDaysLeft", days)));
        values
    }
}
