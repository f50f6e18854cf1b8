//! Deliberately broken rules: a simulation that cannot see what each of them does would be blind.
//!
//! A rule is broken from outside: by the configuration, by leaving a part out, or by a network that answers as if the controller had
//! not looked. The controller itself stays what is shipped.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::StatusCode;
use stagedoor_lab_core::clock::Clock;
use stagedoor_lab_core::server::{Reply, Request};
use stagedoor_lab_puppet::{CsrAttributes, Puppet, PuppetOptions};

use crate::aws::REGION;
use crate::run::ELSEWHERE;
use crate::watch::{Truth, Watch};

/// A rule that does not hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Broken {
    /// None: the controller as it is.
    #[default]
    Nothing,
    /// A request is signed without its challenge and its extensions being checked.
    RequestsUnchecked,
    /// A launch does not wait for a Puppet run.
    NoRunAwaited,
    /// What is unavailable is read as absent.
    UnavailableIsAbsent,
    /// A removal is taken for proven as soon as it was asked for.
    NoProof,
    /// No sweep makes up for lost events.
    NoSweep,
    /// No housekeeping looks for orphans.
    NoHousekeeping,
    /// A launch is abandoned long before it could succeed.
    Impatient,
    /// A certificate under an instance's name is taken for its own, whatever instance it names.
    NamesDecide,
    /// The nodes of another Region are taken for those of this one.
    ForeignCounted,
}

impl Broken {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::RequestsUnchecked,
        Self::NoRunAwaited,
        Self::UnavailableIsAbsent,
        Self::NoProof,
        Self::NoSweep,
        Self::NoHousekeeping,
        Self::Impatient,
        Self::NamesDecide,
        Self::ForeignCounted,
    ];

    /// The top of the configuration, and the keys of the profile.
    pub(crate) fn configuration(self) -> (&'static str, &'static str) {
        let checked = "sign.require = { pp_role = \"compiler\" }\n";
        match self {
            Self::RequestsUnchecked => ("", "sign.allow = { pp_role = [\"compiler\"] }\n"),
            Self::NoRunAwaited => ("", "sign.require = { pp_role = \"compiler\" }\nready = []\n"),
            Self::NoHousekeeping => ("housekeeping.every = \"never\"\n", checked),
            Self::Impatient => ("", "sign.require = { pp_role = \"compiler\" }\ntimeout.launch = \"1m\"\n"),
            _ => ("", checked),
        }
    }
}

/// What a network that lies remembers.
#[derive(Clone)]
pub(crate) struct Lies {
    broken: Broken,
    watch: Watch,
    /// A CA that makes what is not so look so.
    forger: Option<Puppet>,
    /// The names whose removal was asked for.
    removed: Arc<Mutex<BTreeSet<String>>>,
}

impl Lies {
    pub(crate) fn new(broken: Broken, watch: Watch) -> anyhow::Result<Self> {
        let forge = || Puppet::new(PuppetOptions::default(), Clock::with_tokio(watch.now()));
        let forger = (broken == Broken::NamesDecide).then(forge).transpose()?;
        Ok(Self { broken, watch, forger, removed: Arc::default() })
    }

    /// What the service gets instead of this request.
    pub(crate) fn sent(&self, mut request: Request) -> Request {
        if self.broken == Broken::ForeignCounted && request.path.starts_with("/pdb/query/") {
            for (_, value) in &mut request.query {
                *value = value.replace(REGION, ELSEWHERE);
            }
            request.body = replaced(&request.body, REGION, ELSEWHERE);
        }
        request
    }

    /// What the caller sees instead of this answer.
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
            Broken::NamesDecide if reads && of_name => {
                let name = request.path.rsplit('/').next().unwrap_or_default();
                self.forged(name, reply)
            }
            Broken::ForeignCounted => reply.map(|reply| reply.map(|body| replaced(&body, ELSEWHERE, REGION))),
            _ => reply,
        }
    }

    /// A certificate that names the instance that terminates, in place of the one that is there.
    fn forged(&self, certname: &str, reply: Option<Reply>) -> Option<Reply> {
        let leaves =
            |(id, truth): (String, Truth)| (truth.certname == certname && self.watch.leaves(&id)).then_some(id);
        let leaving = self.watch.instances().into_iter().find_map(leaves);
        let (Some(forger), Some(id), true) = (&self.forger, leaving, reply.as_ref()?.status() == StatusCode::OK) else {
            return reply;
        };
        // The same each time, as the one in its place is.
        let same = forger.certificate(certname).is_some_and(|held| held.instance_id.as_ref() == Some(&id));
        let issued =
            if same { forger.credentials(certname) } else { forger.issue(certname, &CsrAttributes::of_instance(&id)) };
        let pem = issued.ok()?.cert_pem;
        reply.map(|reply| reply.map(|_| Bytes::from(pem)))
    }
}

fn replaced(body: &Bytes, from: &str, to: &str) -> Bytes {
    String::from_utf8_lossy(body).replace(from, to).into()
}

/// As the CA says it.
fn absent() -> Reply {
    let mut reply = Reply::new(Bytes::from_static(b"Could not find certificate"));
    *reply.status_mut() = StatusCode::NOT_FOUND;
    reply.headers_mut().insert("x-puppet-version", http::HeaderValue::from_static("8.7.0"));
    reply
}
