//! Onboarding, the last rule: everything in `ready` besides the Puppet run has succeeded for some time. Pure.
//!
//! Puppet restarts services while it sets a node up. Connections are then refused, or answered with 503, for 20 seconds or more. One
//! successful poll may be the last one before such a restart, so several in a row are required.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use stagedoor_types::{Lookup, Service};

use super::{NotYet, Rules, ask, unanswered};
use crate::deadline;
use crate::decision::{Missing, Question};
use crate::observation::CertificateView;
use crate::profile::Probe;
use crate::reason::{Code, Fact, Reason};

/// The result of a probe of a service on the node; the error says what is wrong.
pub type ProbeResult = Result<(), String>;

/// How many successful polls in a row make a node ready.
const POLLS: u32 = 3;
/// The least time between the first and the newest of them. A pass that immediately follows another adds no information.
const STEADY: Duration = Duration::from_secs(10);
/// The time without a poll after which earlier polls no longer count: the instance may have been stopped and started again. A pass of a
/// large batch may take a minute.
const KEPT: Duration = Duration::from_secs(120);

/// One poll of everything in `ready` besides the Puppet run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Poll {
    /// The result of each probe of a service on the node.
    pub said: Vec<(Probe, ProbeResult)>,
    /// What the primary's file sync storage service says of the node; `None` if it was not queried, `Absent` if there is no such service.
    pub code: Option<Lookup<CodeView>>,
}

/// Successful polls in a row, up to the newest one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SuccessfulPolls {
    /// How many.
    pub count: u32,
    /// When the first of them was.
    pub since: Timestamp,
    /// When the newest of them was.
    pub newest: Timestamp,
}

/// What the primary's file sync storage service says of one compiler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodeView {
    /// The newest commit on the primary; `None` if no code was ever deployed.
    pub newest: Option<Commits>,
    /// What the compiler reported when it last checked in; `None` if the primary has not heard of it.
    pub client: Option<CheckIn>,
}

/// A compiler's last check-in with the primary's file sync.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckIn {
    /// When it was, by the primary's clock; `None` if the primary does not say.
    pub at: Option<Timestamp>,
    /// What the compiler had deployed; `None` if nothing.
    pub deployed: Option<Commits>,
}

/// A commit of the Puppet code. It belongs to file sync and is not a commit of the control repository.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Commits {
    /// The commit of the whole repository.
    pub commit: String,
    /// The commit of each environment that is listed.
    pub environments: BTreeMap<String, String>,
}

impl SuccessfulPolls {
    /// Adds a successful poll at this time to those before it.
    #[must_use]
    pub fn and(before: Option<Self>, at: Timestamp) -> Self {
        match before.filter(|before| before.count_at(at)) {
            Some(Self { count, since, newest }) => {
                Self { count: count.saturating_add(1), since, newest: at.max(newest) }
            }
            None => Self { count: 1, since: at, newest: at },
        }
    }

    /// Whether they still count at this time.
    #[must_use]
    pub fn count_at(self, now: Timestamp) -> bool {
        now <= deadline::after(self.newest, KEPT)
    }

    /// Whether they make a node ready.
    #[must_use]
    pub fn is_enough(self) -> bool {
        self.count >= POLLS && self.newest >= deadline::after(self.since, STEADY)
    }
}

impl Commits {
    /// What differs from the primary, if anything. Environments are compared only if both list any.
    fn behind(&self, primary: &Self) -> Option<String> {
        if self.commit != primary.commit {
            return Some(format!("commit {}, and the primary has {}", self.commit, primary.commit));
        }
        let differs = |(name, _): &(&String, &String)| self.environments.get(*name) != primary.environments.get(*name);
        let (name, commit) = primary.environments.iter().find(differs).filter(|_| !self.environments.is_empty())?;
        let deployed = self.environments.get(name).map_or("no commit", String::as_str);
        Some(format!("{deployed} of the environment {name}, and the primary has {commit}"))
    }
}

impl CodeView {
    /// Why the compiler does not have the newest code, if it does not. `issued` is when its certificate was issued, by the CA's clock,
    /// which is the primary's. An earlier check-in belongs to a former owner of the name.
    fn lacks(&self, issued: Timestamp) -> Option<String> {
        let Some(newest) = &self.newest else {
            return Some("the primary has no commit: no code was deployed there yet".to_owned());
        };
        let Some(client) = &self.client else {
            return Some("the primary's file sync has not heard of it: has the primary run Puppet since?".to_owned());
        };
        let Some(at) = client.at else { return Some("the primary does not say when it last checked in".to_owned()) };
        if at < issued {
            return Some(format!("it last checked in at {at}, before it had its certificate"));
        }
        match &client.deployed {
            None => Some("it has deployed no code yet".to_owned()),
            Some(deployed) => deployed.behind(newest).map(|behind| format!("it has {behind}")),
        }
    }
}

impl Poll {
    /// Which of these probes do not succeed yet, if any. A probe whose result is unknown does not succeed.
    #[must_use]
    pub fn failing(&self, ready: &[Probe], certificate: &CertificateView) -> Option<Reason> {
        let (mut failing, mut troubles) = (Vec::new(), Vec::new());
        for probe in ready.iter().filter(|probe| !probe.is_report()) {
            let why = match probe {
                Probe::FileSync => match &self.code {
                    None => Some("it was not asked".to_owned()),
                    Some(Lookup::Absent) => {
                        Some("the Puppet Server of puppet.ca has no file sync storage service".to_owned())
                    }
                    Some(Lookup::Found(code)) => code.lacks(certificate.issued_by_ca),
                    Some(Lookup::Unavailable(trouble)) => {
                        troubles.push(Fact::from(trouble));
                        Some("it is not known".to_owned())
                    }
                },
                probe => match self.said.iter().find(|(asked, _)| asked == probe) {
                    Some((_, Ok(()))) => None,
                    Some((_, Err(why))) => Some(why.clone()),
                    None => Some("it was not asked".to_owned()),
                },
            };
            failing.extend(why.map(|why| format!("{probe} ({why})")));
        }
        if failing.is_empty() {
            return None;
        }
        let waiting = Fact::new(Code::WaitingForReadiness, format!("waiting for {}", failing.join(", ")));
        Some(Reason::new(waiting, troubles))
    }
}

impl Rules<'_> {
    /// Requires that everything in `ready` besides the Puppet run has succeeded in enough polls in a row.
    pub(super) fn ready(&self, certificate: &CertificateView) -> Result<(), NotYet> {
        let ready = &self.launching.profile.ready;
        if ready.iter().all(Probe::is_report) {
            return Ok(());
        }
        let Some(poll) = &self.seen.poll else { return ask(Question::Probes) };
        if let Some(failing) = poll.failing(ready, certificate) {
            return Err(NotYet::Missing(Missing::NotYet(failing)));
        }
        let Some(polls) = self.seen.successful_polls else {
            return Err(super::trouble(&unanswered(Service::Node, "how long it has been ready")));
        };
        if polls.is_enough() {
            return Ok(());
        }
        let SuccessfulPolls { count, since, .. } = polls;
        let seconds = STEADY.as_secs();
        let text = format!(
            "ready since {since}, in {count} polls in a row: waiting for {POLLS} in a row over at least {seconds} s, because services \
             restart while Puppet sets them up"
        );
        Err(super::news(Code::WaitingForReadiness, text))
    }
}
