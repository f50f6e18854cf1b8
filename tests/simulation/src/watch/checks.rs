//! The checks of each write, against the actual state before it is carried out.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use stagedoor_lab_core::server::{Call, Request};
use stagedoor_lab_puppet::Right;

use super::{
    ALWAYS_ALLOWED, CONTROLLER, DATABASE, HOUSEKEEPING, Invariant, LAUNCH_HOOK, MAX_SHARE, NEARLY, OBSERVED,
    ONE_HOUSEKEEPING, PINNED_TO, PRIMARY, TERMINATE_HOOK, TIMEOUTS, TIMEOUTS_OF_COMPILERS, Truth, Watch,
};

impl Watch {
    pub(super) fn check(&self, request: &Request, call: &Call) {
        let body: Value = serde_json::from_slice(&request.body).unwrap_or(Value::Null);
        let segments = request.segments();
        let path: Vec<&str> = segments.iter().map(String::as_str).collect();
        let names = || body["certnames"].as_array().into_iter().flatten().filter_map(Value::as_str);
        if self.lock().observes && writes(call, request, &path) {
            self.violate(Invariant::ObserverWrote, format!("{} {}", call.service, call.call));
        }
        match (call.service, request.method.as_str(), path.as_slice()) {
            ("ca", "PUT", ["puppet-ca", "v1", "clean"]) => names().for_each(|name| self.removes(name)),
            ("ca", "POST", ["puppet-ca", "v1", "sign"]) => names().for_each(|name| self.signs(name)),
            ("ca", "PUT", ["puppet-ca", "v1", "certificate_status", name]) => match body["desired_state"].as_str() {
                Some("signed") => self.signs(name),
                _ => self.removes(name),
            },
            ("ca", "DELETE", ["puppet-ca", "v1", "certificate_status", name]) => self.removes(name),
            ("puppetdb", "POST", ["pdb", "cmd", "v1", ..]) => self.commands(request, &body),
            ("classifier", "POST", ["classifier-api", "v1", "commands", "unpin-from-all"]) => {
                let nodes = body["nodes"].as_array().into_iter().flatten().filter_map(Value::as_str);
                nodes.for_each(|name| self.unpins(name));
            }
            ("classifier", "POST", ["classifier-api", "v1", "groups", _, "pin"]) => {
                let nodes = body["nodes"].as_array().into_iter().flatten().filter_map(Value::as_str);
                let now = self.now();
                self.lock().pinned.extend(nodes.map(|name| (name.to_owned(), now)));
            }
            ("classifier", "POST", ["classifier-api", "v1", "groups", _, "unpin"]) => {
                let nodes = body["nodes"].as_array().into_iter().flatten().filter_map(Value::as_str);
                nodes.for_each(|name| self.unpins(name));
            }
            ("orchestrator", "POST", ["orchestrator", "v1", "command", "deploy"]) => {
                let nodes = body["scope"]["nodes"].as_array().into_iter().flatten().filter_map(Value::as_str);
                nodes.for_each(|name| self.orders(name));
            }
            ("autoscaling", ..) if call.call == "CompleteLifecycleAction" => self.completes(&call.request),
            _ => {}
        }
    }

    fn removes(&self, certname: &str) {
        if [PRIMARY, CONTROLLER].contains(&certname) {
            self.violate(Invariant::Protected, format!("{certname} is removed"));
        }
        if self.lock().foreign.contains(certname) {
            self.violate(Invariant::CertificateInUse, format!("{certname} of another Region is removed"));
        }
        self.counts(certname);
        for (id, _) in self.users(certname) {
            self.violate(
                Invariant::CertificateInUse,
                format!("the certificate of {certname} is removed, which {id} uses"),
            );
        }
    }

    /// Counts the names that one housekeeping removes and whose instances were terminated without a lifecycle action.
    fn counts(&self, certname: &str) {
        let (now, instances) = (self.now(), self.instances());
        let mut of_name = instances.iter().filter(|(_, truth)| truth.certname == certname);
        if !of_name.clone().all(|(id, truth)| truth.waits_since.is_none() && self.is_gone(id)) {
            return;
        }
        // Each controller counts its own fleet.
        let Some(region) = of_name.next().map(|(_, truth)| truth.region) else { return };
        let fleet = instances.values().filter(|truth| truth.region == region).count();
        let count = {
            let mut inner = self.lock();
            inner.orphans.retain(|_, at| now.duration_since(*at) < ONE_HOUSEKEEPING);
            inner.orphans.insert((region, certname.to_owned()), now);
            inner.orphans.keys().filter(|(of, _)| *of == region).count()
        };
        if is_too_many(count, fleet) {
            self.violate(Invariant::TooManyAtOnce, format!("{count} of {fleet} names are removed at once"));
        }
    }

    fn signs(&self, certname: &str) {
        let Some(key) = self.puppet.requested_key(certname) else { return };
        let now = self.now();
        self.lock().signed.insert((certname.to_owned(), key), now);
        // It is not a violation if the instance began to terminate after the controller's last observation.
        if !self.instances().values().any(|truth| truth.certname == certname && truth.key == Some(key)) {
            let what = format!("a request for {certname} is signed that no agent of that name has sent");
            self.violate(Invariant::StrangerSigned, what);
        }
        if self.puppet.options().enterprise && !self.puppet.is_pinned(PINNED_TO, certname) {
            self.violate(Invariant::SignedUnpinned, format!("{certname} is signed, and is not pinned"));
        }
    }

    fn commands(&self, request: &Request, body: &Value) {
        let command = request.query("command").or(body["command"].as_str()).unwrap_or_default().replace('_', " ");
        let name = request.query("certname").or(body["certname"].as_str()).or(body["payload"]["certname"].as_str());
        if command != "deactivate node" {
            return;
        }
        let certname = name.unwrap_or_default();
        let now = self.now();
        self.lock().deactivated = Some(now);
        if self.lock().foreign.contains(certname) {
            self.violate(Invariant::NodeInUse, format!("{certname} of another Region is deactivated"));
        }
        for (id, truth) in self.owners(certname) {
            if truth.has_run {
                self.violate(Invariant::NodeInUse, format!("{certname} is deactivated, which is {id}, live"));
            }
        }
    }

    fn orders(&self, certname: &str) {
        if ![PRIMARY, DATABASE].contains(&certname) {
            return;
        }
        let under_way = self.puppet.jobs_under_way(certname);
        // The sweeps of two Regions may order a run at the same moment.
        if under_way > self.aws.len() {
            let what = format!("{certname} is ordered to run while {under_way} orders are in progress");
            self.violate(Invariant::OrdersPileUp, what);
        }
        // For a removal, the order of the hosts does not matter.
        let in_waves = {
            let inner = self.lock();
            inner.own_database && inner.deactivated.is_none()
        };
        if in_waves && certname == PRIMARY && !self.database_has_learnt() {
            self.violate(Invariant::WaveTooEarly, format!("{PRIMARY} is ordered to run before {DATABASE} has run"));
        }
    }

    /// Whether the PostgreSQL host has run Puppet since some compiler's first catalog, or the launch goes on without it.
    fn database_has_learnt(&self) -> bool {
        let gives_up = TIMEOUTS_OF_COMPILERS[1] / 2;
        self.instances()
            .values()
            .filter_map(|truth| truth.first_catalog)
            .any(|change| self.puppet.has_run_since(DATABASE, change) || self.now().duration_since(change) >= gives_up)
    }

    /// When the last node was deactivated, if the refresh targets have not all run Puppet since.
    pub(crate) fn unknown_removal(&self) -> Option<Timestamp> {
        let (at, own_database) = {
            let inner = self.lock();
            (inner.deactivated.filter(|_| self.puppet.options().enterprise)?, inner.own_database)
        };
        let targets: &[&str] = if own_database { &[PRIMARY, DATABASE] } else { &[PRIMARY] };
        targets.iter().any(|target| !self.puppet.has_run_since(target, at)).then_some(at)
    }

    fn unpins(&self, certname: &str) {
        if self.lock().foreign.contains(certname) {
            self.violate(Invariant::PinInUse, format!("{certname} of another Region is unpinned"));
        }
        for (id, truth) in self.owners(certname) {
            // A launch that is about to be abandoned is unpinned first.
            let waits = self.lifecycle_state(&id).is_some_and(|state| state.ends_with("Pending:Wait"));
            if truth.has_run && (truth.fit || !waits) {
                self.violate(Invariant::PinInUse, format!("{certname} is unpinned, which is {id}, live"));
            }
        }
    }

    fn completes(&self, parameters: &Value) {
        let text = |name: &str| parameters[name].as_str().unwrap_or_default();
        let (id, hook, result) = (text("InstanceId"), text("LifecycleHookName"), text("LifecycleActionResult"));
        let state = self.lifecycle_state(id).unwrap_or_default();
        let Some(truth) = self.truth(id) else { return };
        let accepted = truth.serial.is_some_and(|serial| !self.puppet.is_revoked(serial));
        // A completion for another hook has no effect.
        match (state.as_str(), hook, result) {
            ("Pending:Wait" | "Warmed:Pending:Wait", LAUNCH_HOOK, "CONTINUE") if !(accepted && truth.has_run) => {
                self.violate(Invariant::AdmittedUnfit, format!("{id} is admitted: {truth:?}"));
            }
            ("Pending:Wait" | "Warmed:Pending:Wait", LAUNCH_HOOK, "CONTINUE") if self.is_unknown(&truth) => {
                self.violate(Invariant::AdmittedUnknown, format!("{id} is admitted: {truth:?}"));
            }
            ("Pending:Wait" | "Warmed:Pending:Wait", LAUNCH_HOOK, "ABANDON") if truth.fit => {
                self.violate(Invariant::FitAbandoned, format!("{id} is abandoned"));
            }
            ("Terminating:Wait" | "Warmed:Terminating:Wait", TERMINATE_HOOK, _)
                if self.is_left(id, &truth) && !self.is_late(&truth) && !self.is_signed_late(&truth) =>
            {
                self.violate(
                    Invariant::CompletedUnproven,
                    format!("{id} is released, and something is left of {}", truth.certname),
                );
            }
            _ => {}
        }
    }

    /// Whether the launch must still wait for other hosts: neither timeout has nearly expired, and the primary has not run Puppet since the
    /// instance's first successful run or, for compilers, the compiler is not admitted to what it needs.
    fn is_unknown(&self, truth: &Truth) -> bool {
        let options = self.puppet.options();
        let compilers = options.primary.is_some();
        let change = if compilers { truth.first_catalog } else { truth.first_run };
        let Some(change) = change.filter(|_| options.enterprise) else { return false };
        let waited = self.now().duration_since(change);
        let rights = self.puppet.rights_of(&truth.certname);
        let known = if compilers {
            [Right::Database, Right::FileSync, Right::Broker].iter().all(|right| rights.contains(right))
        } else {
            self.puppet.has_run_since(PRIMARY, change)
        };
        waited < self.timeouts()[1] && !known && !self.is_nearly_late(truth)
    }

    /// Whether the launch's own timeout expires within a few minutes, so that it goes on without the refresh targets.
    fn is_nearly_late(&self, truth: &Truth) -> bool {
        truth.launched.is_some_and(|since| self.now().duration_since(since) >= self.timeouts()[0] - NEARLY)
    }

    fn timeouts(&self) -> [SignedDuration; 2] {
        if self.puppet.options().primary.is_some() { TIMEOUTS_OF_COMPILERS } else { TIMEOUTS }
    }

    /// Whether the action's timeout has expired, less a minute to allow for clocks that differ.
    fn is_late(&self, truth: &Truth) -> bool {
        let waited = truth.waits_since.map(|since| self.puppet.now().duration_since(since).as_secs());
        waited.is_some_and(|seconds| seconds >= 540)
    }

    /// Whether the certificate was signed after the termination began, by an invocation that had observed AWS before. Housekeeping removes
    /// the certificate once nothing has been heard of its name for 40 minutes.
    pub(crate) fn is_signed_late(&self, truth: &Truth) -> bool {
        self.was_signed_late(truth).is_some_and(|signed| self.now().duration_since(signed) < HOUSEKEEPING)
    }

    /// When that was.
    pub(crate) fn was_signed_late(&self, truth: &Truth) -> Option<Timestamp> {
        let (key, since) = truth.key.zip(truth.waits_since)?;
        let signed = self.lock().signed.get(&(truth.certname.clone(), key)).copied();
        signed.filter(|signed| *signed >= since && signed.duration_since(since) < OBSERVED)
    }
}

/// Whether a call of the controller changes anything.
fn writes(call: &Call, request: &Request, path: &[&str]) -> bool {
    match call.service {
        "ca" => request.method != http::Method::GET,
        "puppetdb" => path.starts_with(&["pdb", "cmd"]),
        "orchestrator" => path.contains(&"command"),
        "classifier" => ["pin", "unpin", "unpin-from-all"].iter().any(|write| path.last() == Some(write)),
        "autoscaling" => ["CompleteLifecycleAction", "RecordLifecycleActionHeartbeat"].contains(&call.call.as_str()),
        _ => false,
    }
}

/// Whether this is too many names to remove at once from a fleet of this size.
pub(crate) fn is_too_many(count: usize, fleet: usize) -> bool {
    count > ALWAYS_ALLOWED && count * 100 > MAX_SHARE * fleet
}
