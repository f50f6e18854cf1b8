//! Deliberately broken rules. A test asserts that the simulation detects each of them.
//!
//! A rule is broken by changing the configuration, by omitting a part, by a network that falsifies answers as if the controller had not
//! checked, or inside the controller (`stagedoor_types::broken`).

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::StatusCode;
use stagedoor_lab_core::server::{Reply, Request};
use stagedoor_types::broken::Rule;

/// The rule that is broken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Broken {
    /// No rule is broken.
    #[default]
    Nothing,
    /// A request is signed although its challenge and its extensions were not checked.
    RequestsUnchecked,
    /// A launch does not wait for a Puppet run.
    NoRunAwaited,
    /// "Unavailable" is read as "absent".
    UnavailableIsAbsent,
    /// A removal is considered proven as soon as it is requested.
    NoProof,
    /// No sweep runs, so lost events are never found.
    NoSweep,
    /// No housekeeping runs, so orphans are never found.
    NoHousekeeping,
    /// A launch is abandoned long before it could succeed.
    ShortTimeout,
    /// A rule inside the controller is broken.
    Inside(Rule),
}

impl Broken {
    /// All rules that can be broken.
    pub const ALL: [Self; 18] = [
        Self::RequestsUnchecked,
        Self::NoRunAwaited,
        Self::UnavailableIsAbsent,
        Self::NoProof,
        Self::NoSweep,
        Self::NoHousekeeping,
        Self::ShortTimeout,
        Self::Inside(Rule::NameCheck),
        Self::Inside(Rule::Confirmation),
        Self::Inside(Rule::Proof),
        Self::Inside(Rule::Unavailable),
        Self::Inside(Rule::Breaker),
        Self::Inside(Rule::Home),
        Self::Inside(Rule::SameKey),
        Self::Inside(Rule::PinFirst),
        Self::Inside(Rule::FixedChange),
        Self::Inside(Rule::Refresh),
        Self::Inside(Rule::Heartbeats),
    ];

    /// The rule inside the controller that is broken, if one is.
    pub(crate) fn rule(self) -> Option<Rule> {
        if let Self::Inside(rule) = self { Some(rule) } else { None }
    }

    /// The configuration's top-level keys, and the keys of the profile.
    pub(crate) fn configuration(self) -> (&'static str, &'static str) {
        let checked = "sign.require = { pp_role = \"compiler\" }\n";
        match self {
            Self::RequestsUnchecked => ("", "sign.allow = { pp_role = [\"compiler\"] }\n"),
            Self::NoRunAwaited => ("", "sign.require = { pp_role = \"compiler\" }\nready = []\n"),
            Self::NoHousekeeping => ("housekeeping.every = \"never\"\n", checked),
            Self::ShortTimeout => ("", "sign.require = { pp_role = \"compiler\" }\ntimeout.launch = \"1m\"\n"),
            _ => ("", checked),
        }
    }
}

/// The state of a network that falsifies answers.
#[derive(Clone)]
pub(crate) struct Lies {
    broken: Broken,
    /// The names whose removal was requested.
    removed: Arc<Mutex<BTreeSet<String>>>,
}

impl Lies {
    pub(crate) fn new(broken: Broken) -> Self {
        Self { broken, removed: Arc::default() }
    }

    /// The answer that the caller receives in place of `reply`.
    pub(crate) fn instead(&self, request: &Request, reply: Option<Reply>) -> Option<Reply> {
        let reads = request.method == http::Method::GET;
        let failed = reply.as_ref().is_none_or(|reply| reply.status().as_u16() >= 429);
        let of_name = request.path.starts_with("/puppet-ca/v1/certificate/");
        let mut removed = self.removed.lock().unwrap_or_else(PoisonError::into_inner);
        match self.broken {
            Broken::UnavailableIsAbsent if reads && failed && of_name => Some(absent()),
            Broken::NoProof => {
                let body: serde_json::Value = serde_json::from_slice(&request.body).unwrap_or_default();
                let names = body["certnames"].as_array().into_iter().flatten();
                removed.extend(names.filter_map(|name| name.as_str().map(str::to_owned)));
                let name = request.path.rsplit('/').next().unwrap_or_default();
                if reads && of_name && removed.contains(name) { Some(absent()) } else { reply }
            }
            _ => reply,
        }
    }
}

/// The CA's answer for a name without a certificate.
fn absent() -> Reply {
    let mut reply = Reply::new(Bytes::from_static(b"Could not find certificate"));
    *reply.status_mut() = StatusCode::NOT_FOUND;
    reply.headers_mut().insert("x-puppet-version", http::HeaderValue::from_static("8.7.0"));
    reply
}
