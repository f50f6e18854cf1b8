//! What one observation saw of AWS and of Puppet, as values. No I/O.

mod code;
mod request;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use stagedoor_lifecycle::admission::CloudView;
use stagedoor_lifecycle::observation::{CertificateView, NameView, NodeView, RequestView};
use stagedoor_lifecycle::onboard::CodeView;
use stagedoor_lifecycle::refresh::RunView;
use stagedoor_lifecycle::signing::Challenge;
use stagedoor_puppet::{Certificate, CodeStatus, Csr, Group, Job, KnownIdentity, NodeStatus, Report, Revocations};
use stagedoor_types::{ActionKey, Certname, InstanceId, Location, Lookup, Service, Trouble, TroubleKind};

use code::code_view;
use request::{asks, unreadable};

pub(crate) use request::{contents, holds};

use crate::call::is_unauthenticated;
use crate::context::{Challenges, Puppet};

/// What AWS said of a set of actions.
pub(crate) struct AwsSnapshot {
    /// When it was asked.
    pub(crate) at: Timestamp,
    /// How long that took.
    pub(crate) took: Duration,
    /// What it said of each.
    pub(crate) views: BTreeMap<ActionKey, CloudView>,
}

/// A certificate and a certificate request, as far as the CA is available.
pub(crate) type Files = (Result<Option<Certificate>, Trouble>, Result<Option<Pending>, Trouble>);

/// A pending certificate request.
#[derive(Debug)]
pub(crate) enum Pending {
    /// It can be read.
    Readable(Box<Csr>),
    /// Why it cannot be read.
    Unreadable(String),
}

/// What one observation saw of Puppet.
#[derive(Debug)]
pub(crate) struct PuppetSnapshot {
    /// When Puppet was asked.
    pub(crate) at: Timestamp,
    pub(crate) took: Duration,
    pub(crate) challenges: Challenges,
    /// Why a challenge that differs cannot be called wrong.
    pub(crate) challenge_unknown: Option<Trouble>,
    /// By how much the CA's clock is ahead of ours; `None` if its answers do not say.
    pub(crate) ca_ahead: Option<SignedDuration>,
    pub(crate) files: BTreeMap<Certname, Files>,
    pub(crate) known_as: Result<BTreeMap<InstanceId, BTreeSet<Certname>>, Trouble>,
    pub(crate) nodes: Result<BTreeMap<Certname, NodeStatus>, Trouble>,
    pub(crate) identities: Result<BTreeMap<Certname, KnownIdentity>, Trouble>,
    pub(crate) runs: Result<BTreeMap<Certname, Report>, Trouble>,
    /// By how much PuppetDB's clock, by which it compares times, is ahead of ours.
    pub(crate) puppetdb_ahead: Option<SignedDuration>,
    /// What the CRL says of the certificates that were removed.
    pub(crate) crl: Option<Revocations>,
    /// Whether it is Puppet Enterprise's.
    pub(crate) enterprise: bool,
    /// All node groups, if they were asked for.
    pub(crate) groups: Option<Result<Vec<Group>, Trouble>>,
    /// The newest orders of the orchestrator, if they were asked for.
    pub(crate) jobs: Option<Result<Vec<Job>, Trouble>>,
    /// What the primary's file sync says of the code, if it was asked; `None` in it: there is no file sync.
    pub(crate) code: Option<Result<Option<CodeStatus>, Trouble>>,
}

impl PuppetSnapshot {
    /// What was seen under names alone.
    pub(crate) fn of_names(
        puppet: &Puppet,
        at: Timestamp,
        files: BTreeMap<Certname, Files>,
        nodes: Result<Vec<NodeStatus>, Trouble>,
        identities: Result<Vec<KnownIdentity>, Trouble>,
        groups: Option<Result<Vec<Group>, Trouble>>,
    ) -> Self {
        Self {
            at,
            took: Duration::ZERO,
            challenges: puppet.challenges.clone(),
            challenge_unknown: None,
            ca_ahead: puppet.clocks.ahead(Service::Ca),
            files,
            known_as: Ok(BTreeMap::new()),
            nodes: by_name(nodes, |node| &node.certname),
            identities: by_name(identities, |known| &known.certname),
            runs: Ok(BTreeMap::new()),
            puppetdb_ahead: None,
            crl: None,
            enterprise: puppet.is_enterprise(),
            groups,
            jobs: None,
            code: None,
        }
    }

    /// What was seen where there was nothing to ask.
    pub(crate) fn nothing(puppet: &Puppet, at: Timestamp) -> Self {
        Self::of_names(puppet, at, BTreeMap::new(), Ok(Vec::new()), Ok(Vec::new()), None)
    }

    /// Whether Puppet refused the credentials.
    pub(crate) fn is_unauthenticated(&self) -> bool {
        let of_files = |(certificate, request): &Files| is_unauthenticated(certificate) || is_unauthenticated(request);
        self.files.values().any(of_files)
            || is_unauthenticated(&self.known_as)
            || is_unauthenticated(&self.nodes)
            || is_unauthenticated(&self.identities)
            || is_unauthenticated(&self.runs)
            || self.groups.as_ref().is_some_and(is_unauthenticated)
            || self.jobs.as_ref().is_some_and(is_unauthenticated)
            || self.code.as_ref().is_some_and(is_unauthenticated)
    }

    /// Whether a request has another challenge than the secret, as far as that was read.
    pub(crate) fn has_another_challenge(&self) -> bool {
        let another = |(_, request): &Files| match request {
            Ok(Some(Pending::Readable(csr))) => asks(csr, &self.challenges).challenge == Challenge::Different,
            _ => false,
        };
        self.files.values().any(another)
    }

    /// The names of the nodes whose facts name this instance.
    pub(crate) fn known_as(&self, instance: &InstanceId) -> Lookup<Vec<Certname>> {
        match &self.known_as {
            Ok(names) => Lookup::Found(names.get(instance).into_iter().flatten().cloned().collect()),
            Err(trouble) => Lookup::Unavailable(trouble.clone()),
        }
    }

    /// The newest run of a node.
    pub(crate) fn run(&self, name: &Certname) -> Lookup<RunView> {
        run_of(&self.runs, name)
    }

    /// The certificate under a name, if it was seen.
    pub(crate) fn certificate(&self, name: &Certname) -> Option<&Certificate> {
        self.files.get(name)?.0.as_ref().ok()?.as_ref()
    }

    /// A name whose certificate is known, and was not asked for again.
    pub(crate) fn view_with(&self, name: &Certname, own: &Certificate, appeared: bool) -> NameView {
        NameView {
            certname: name.clone(),
            certificate: Lookup::Found(CertificateView { appeared, ..certificate_view(own, self.ca_ahead) }),
            request: Lookup::Absent,
            node: Lookup::Absent,
            fact_instance: self.fact_instance(name),
            pins: self.pins(name),
        }
    }

    /// What was seen under a name that was asked for.
    pub(crate) fn view(&self, name: &Certname) -> NameView {
        let Some((certificate, request)) = self.files.get(name) else {
            let text = format!("the Puppet CA was not asked about {name}");
            return NameView::unavailable(
                name.clone(),
                &Trouble { kind: TroubleKind::Timeout, service: Service::Ca, text },
            );
        };
        NameView {
            certname: name.clone(),
            certificate: reachable(certificate, |certificate| certificate_view(certificate, self.ca_ahead)),
            request: self.request(request),
            node: of(&self.nodes, name, |node| Some(node_view(node))),
            fact_instance: self.fact_instance(name),
            pins: self.pins(name),
        }
    }

    fn request(&self, request: &Result<Option<Pending>, Trouble>) -> Lookup<RequestView> {
        let view = reachable(request, |pending| request_view(pending, &self.challenges));
        match (&view, &self.challenge_unknown) {
            (Lookup::Found(RequestView { asks, .. }), Some(unknown)) if asks.challenge == Challenge::Different => {
                Lookup::Unavailable(unknown.clone())
            }
            _ => view,
        }
    }

    /// The names of the node groups, if they were asked for.
    pub(crate) fn node_groups(&self) -> Option<Lookup<BTreeSet<String>>> {
        Some(match self.groups.as_ref()? {
            Ok(groups) => Lookup::Found(groups.iter().map(|group| group.name.clone()).collect()),
            Err(trouble) => Lookup::Unavailable(trouble.clone()),
        })
    }

    /// What the primary's file sync says of this compiler, if it was asked.
    pub(crate) fn code_of(&self, name: &Certname) -> Option<Lookup<CodeView>> {
        self.code.as_ref().map(|code| code_view(code, name))
    }

    /// The node group of this name, if it is known.
    pub(crate) fn node_group(&self, name: &str) -> Option<&Group> {
        self.groups.as_ref()?.as_ref().ok()?.iter().find(|group| group.name == name)
    }

    fn fact_instance(&self, name: &Certname) -> Lookup<InstanceId> {
        of(&self.identities, name, identity)
    }

    /// The instance that the facts under a name say they are of, and where it says that it is.
    pub(crate) fn located(&self, name: &Certname) -> Option<(InstanceId, Location)> {
        let KnownIdentity { reported, account, region, .. } = self.identities.as_ref().ok()?.get(name)?;
        Some((reported.clone()?, Location { account: account.clone()?, region: region.clone()? }))
    }

    fn pins(&self, name: &Certname) -> Lookup<Vec<String>> {
        match &self.groups {
            None => Lookup::Absent,
            Some(Err(trouble)) => Lookup::Unavailable(trouble.clone()),
            Some(Ok(groups)) => {
                let pinning = groups.iter().filter(|group| group.pins(name));
                Lookup::Found(pinning.map(|group| group.name.clone()).collect())
            }
        }
    }
}

/// What the CRL says of a certificate that is gone. `cleaned` says whether the CA has said that it revoked it; `enterprise`, whether the
/// CRL that it gives to agents lists infrastructure nodes alone, as that of Puppet Enterprise does: absence from it proves nothing.
pub(crate) fn revocation(
    crl: Option<&Revocations>,
    certificate: Option<&Certificate>,
    cleaned: bool,
    enterprise: bool,
) -> &'static str {
    match (crl.zip(certificate).and_then(|(crl, certificate)| crl.revokes(certificate)), cleaned) {
        (Some(true), _) => "its serial is in the CRL",
        (Some(false), true) if enterprise => {
            "the CA says that it is revoked; the CRL that Puppet Enterprise gives to agents lists infrastructure certificates only, so \
             absence from it proves nothing"
        }
        (Some(false), true) => {
            "the CA says that it is revoked, but the CRL that it gives to agents does NOT list it: look into the CA's own \
             CRL (docs/operations.md, revocations)"
        }
        (None, true) => "the CA says that it is revoked; its CRL could not be read",
        (Some(false) | None, false) => "that it is revoked could NOT be seen: look into the CA's CRL",
    }
}

fn request_view(pending: &Pending, challenges: &Challenges) -> RequestView {
    match pending {
        Pending::Readable(csr) => RequestView { instance: csr.instance_id(), asks: asks(csr, challenges) },
        Pending::Unreadable(problem) => RequestView { instance: None, asks: unreadable(problem) },
    }
}

/// By how much the time at which a certificate was issued may be wrong where the CA's clock was compared with ours: the answer took
/// its time, and clocks drift.
const COMPARED: Duration = Duration::from_secs(60);
/// The same where it was not. The clock of a CA that is further off is noticed elsewhere first: TLS fails.
const NOT_COMPARED: Duration = Duration::from_secs(3600);

pub(crate) fn certificate_view(certificate: &Certificate, ca_ahead: Option<SignedDuration>) -> CertificateView {
    CertificateView {
        serial: certificate.serial().to_string(),
        instance: certificate.instance_id(),
        issued_by_ca: issued(certificate, None),
        issued: issued(certificate, ca_ahead),
        tolerance: if ca_ahead.is_some() { COMPARED } else { NOT_COMPARED },
        appeared: false,
        holds: holds(certificate),
    }
}

fn node_view(node: &NodeStatus) -> NodeView {
    NodeView {
        active: node.is_active(),
        deactivated: node.deactivated,
        facts: node.facts_timestamp,
        catalog: node.catalog_timestamp,
        newest: node.catalog_timestamp.max(node.facts_timestamp).max(node.report_timestamp),
    }
}

/// The newest run of a node, among those that were asked for.
pub(crate) fn run_of(runs: &Result<BTreeMap<Certname, Report>, Trouble>, name: &Certname) -> Lookup<RunView> {
    of(runs, name, |report| Some(run_view(report)))
}

/// A run, as its report describes it.
pub(crate) fn run_view(report: &Report) -> RunView {
    RunView {
        start: report.start_time,
        end: report.end_time,
        received: report.producer_timestamp,
        stored: report.receive_time,
        status: report.status.clone().unwrap_or_else(|| "unknown".to_owned()),
        noop: report.noop == Some(true),
        cached: report.cached_catalog_status.as_deref().is_some_and(|status| status != "not_used"),
        catalog: report.catalog_uuid.clone(),
        starting: report.metrics.startup_time,
        preparing: report.metrics.preparation,
        retrieving: report.metrics.config_retrieval,
        applying: report.metrics.catalog_application,
        job: report.job_id.clone(),
    }
}

fn reachable<T, V>(answer: &Result<Option<T>, Trouble>, view: impl Fn(&T) -> V) -> Lookup<V> {
    match answer {
        Ok(Some(value)) => Lookup::Found(view(value)),
        Ok(None) => Lookup::Absent,
        Err(trouble) => Lookup::Unavailable(trouble.clone()),
    }
}

/// What was answered, to be found by name: a set may be thousands.
pub(crate) fn by_name<T>(
    answer: Result<Vec<T>, Trouble>,
    name: impl Fn(&T) -> &Certname,
) -> Result<BTreeMap<Certname, T>, Trouble> {
    Ok(answer?.into_iter().map(|one| (name(&one).clone(), one)).collect())
}

fn of<T, V>(
    answer: &Result<BTreeMap<Certname, T>, Trouble>,
    name: &Certname,
    view: impl Fn(&T) -> Option<V>,
) -> Lookup<V> {
    match answer {
        Ok(all) => all.get(name).and_then(view).map_or(Lookup::Absent, Lookup::Found),
        Err(trouble) => Lookup::Unavailable(trouble.clone()),
    }
}

/// When a certificate was issued, by our clock: the CA sets its beginning back by a day, for clocks that are behind.
pub(crate) fn issued(certificate: &Certificate, ca_ahead: Option<SignedDuration>) -> Timestamp {
    let by_ours = SignedDuration::from_hours(24).saturating_sub(ca_ahead.unwrap_or_default());
    certificate.not_before().checked_add(by_ours).unwrap_or(Timestamp::MAX)
}

/// The instance that a node's facts name, unless they name two.
fn identity(known: &KnownIdentity) -> Option<InstanceId> {
    known.instance_id().filter(|_| !known.is_contradictory()).cloned()
}

/// What Puppet says about a name, for a person.
pub(crate) fn describe(view: &NameView) -> String {
    let certificate = match &view.certificate {
        Lookup::Found(certificate) => match &certificate.instance {
            Some(owner) => format!("certificate {} of {owner}", certificate.serial),
            None => format!("certificate {} without pp_instance_id", certificate.serial),
        },
        Lookup::Absent => "no certificate".to_owned(),
        Lookup::Unavailable(trouble) => format!("certificate unknown ({trouble})"),
    };
    let request = match &view.request {
        Lookup::Found(_) => ", a pending certificate request",
        _ => "",
    };
    let node = match &view.node {
        Lookup::Found(NodeView { active: true, .. }) => "active node".to_owned(),
        Lookup::Found(_) => "inactive node".to_owned(),
        Lookup::Absent => "no node".to_owned(),
        Lookup::Unavailable(trouble) => format!("node unknown ({trouble})"),
    };
    format!("{}: {certificate}{request}; {node}", view.certname)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_without_a_catalog_of_its_own_is_seen_as_one() {
        let name: Certname = "n.example.com".parse().unwrap();
        let seen = |catalog_uuid: &str, cached: &str| {
            let report = format!(
                r#"{{"certname":"n.example.com","start_time":"2026-03-04T05:06:07Z","end_time":"2026-03-04T05:06:55Z","producer_timestamp": "2026-03-04T05:06:56Z", "receive_time": "2026-03-04T05:06:56Z","status":"failed",
                    "catalog_uuid":{catalog_uuid},"cached_catalog_status":{cached}}}"#
            );
            let runs = by_name(Ok(vec![serde_json::from_str(&report).unwrap()]), |report: &Report| &report.certname);
            let Lookup::Found(run) = run_of(&runs, &name) else { panic!("no run") };
            (run.catalog.is_some(), run.cached)
        };
        assert_eq!(seen("\"5a1c\"", "\"not_used\""), (true, false));
        assert_eq!(seen("null", "\"not_used\""), (false, false));
        assert_eq!(seen("\"5a1c\"", "\"on_failure\""), (true, true));
    }
}
