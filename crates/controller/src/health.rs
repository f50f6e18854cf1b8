//! Whether a sweep could do its work: which of the services that it depends on it could reach and use. Reads only, one small read of
//! each service.
//!
//! A fleet in which nothing waits gives no reason to call Puppet, so a sweep that only looked for waiting actions would look healthy
//! while it could do nothing. Each read needs the permission that the work needs: a service that refuses the credentials is not
//! healthy either.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use stagedoor_lifecycle::deadline;
use stagedoor_lifecycle::reason::{Code, Fact};
use stagedoor_lifecycle::receipt::{Outcome, Receipt};
use stagedoor_types::{InstanceId, Kind, Service, Trouble};

use crate::call::call;
use crate::context::{Puppet, Run};

/// How long the read of one service may take.
const LONGEST_READ: Duration = Duration::from_secs(10);
/// EC2 is asked about this instance, which cannot exist: an empty answer costs least.
const NO_INSTANCE: &str = "i-00000000000000000";

/// The services of Puppet that a configuration may name, and their names as the values of the dimension `Service`.
const PUPPET: [(Service, &str); 4] = [
    (Service::Ca, "ca"),
    (Service::PuppetDb, "puppetdb"),
    (Service::Orchestrator, "orchestrator"),
    (Service::Classifier, "classifier"),
];

/// Which services a sweep could use, and what else it could not do.
#[derive(Debug, Default)]
pub(crate) struct Health {
    /// Every service that was read, with the first trouble that the sweep had with it.
    services: BTreeMap<Service, Result<(), Trouble>>,
    /// What the sweep could not do besides.
    undone: Vec<Fact>,
}

/// Reads a little from each service that is configured, side by side, except for Auto Scaling: finding what waits has to ask it
/// in any case.
pub(crate) async fn read_a_little(run: Run<'_>) -> Health {
    let mut health = Health::default();
    let (ec2, puppet) = tokio::join!(Box::pin(ec2(run)), Box::pin(puppet(run)));
    health.saw(Service::Ec2, ec2);
    for (service, answer) in puppet {
        health.saw(service, answer);
    }
    health
}

/// When a read that begins now must have ended.
fn limit(run: Run<'_>) -> Timestamp {
    run.budget.work.min(deadline::after(run.now(), LONGEST_READ))
}

async fn ec2(run: Run<'_>) -> Result<(), Trouble> {
    let instances: Vec<InstanceId> = NO_INSTANCE.parse().into_iter().collect();
    call(run.context, limit(run), Service::Ec2, run.context.machines.machines(&instances)).await.map(drop)
}

/// The secret, and with it the services of Puppet.
async fn puppet(run: Run<'_>) -> Vec<(Service, Result<(), Trouble>)> {
    let Run { context, .. } = run;
    let opened = call(context, limit(run), Service::SecretsManager, context.puppet.open(run.now())).await;
    match opened {
        Ok(puppet) => {
            let mut answers = Box::pin(services(run, &puppet)).await;
            answers.push((Service::SecretsManager, context.puppet.outdated().await.map_or(Ok(()), Err)));
            answers
        }
        Err(trouble) => {
            // Without credentials no service can be used, whatever its state.
            let config = &context.config;
            let configured = PUPPET.into_iter().filter(|(service, _)| match service {
                Service::Orchestrator => config.orchestrator.is_some(),
                Service::Classifier => config.classifier.is_some(),
                _ => true,
            });
            let mut answers: Vec<_> = configured
                .map(|(service, _)| {
                    let text = format!("{service} could not be called without the secret");
                    (service, Err(Trouble { kind: trouble.kind, service: Service::SecretsManager, text }))
                })
                .collect();
            answers.push((Service::SecretsManager, Err(trouble)));
            answers
        }
    }
}

async fn services(run: Run<'_>, puppet: &Puppet) -> Vec<(Service, Result<(), Trouble>)> {
    let own = puppet.transport.certname();
    let orchestrator = async {
        match &puppet.orchestrator {
            Some(orchestrator) => Some(read(run, Service::Orchestrator, orchestrator.jobs(1)).await),
            None => None,
        }
    };
    let classifier = async {
        match &puppet.classifier {
            Some(classifier) => Some(read(run, Service::Classifier, classifier.answers()).await),
            None => None,
        }
    };
    let (ca, puppetdb, orchestrator, classifier) = tokio::join!(
        // The one read of a single name for which the CA requires a permission.
        read(run, Service::Ca, puppet.ca.status(own)),
        // A query, because PuppetDB says its time and version even while its database is down.
        read(run, Service::PuppetDb, puppet.puppetdb.node(own)),
        orchestrator,
        classifier,
    );
    [Some(ca), Some(puppetdb), orchestrator, classifier].into_iter().flatten().collect()
}

async fn read<T, E: Kind + std::fmt::Display>(
    run: Run<'_>,
    service: Service,
    work: impl Future<Output = Result<T, E>>,
) -> (Service, Result<(), Trouble>) {
    (service, call(run.context, limit(run), service, work).await.map(drop))
}

impl Health {
    /// Takes in what a service answered. Its first trouble stays.
    pub(crate) fn saw(&mut self, service: Service, answer: Result<(), Trouble>) {
        let before = self.services.entry(service).or_insert(Ok(()));
        if before.is_ok() {
            *before = answer;
        }
    }

    /// Takes in something else that the sweep could not do.
    pub(crate) fn lacks(&mut self, undone: impl Into<Fact>) {
        self.undone.push(undone.into());
    }

    /// Takes in what the sweep ended with: a service may have failed after it was read, or for one name alone. So this is
    /// something that was not done, and does not say that the service cannot be reached.
    pub(crate) fn ended_with(&mut self, receipts: &[Receipt]) {
        let mut known: Vec<Code> = self.missing().iter().map(|fact| fact.code).collect();
        for Receipt { code, reason, .. } in receipts.iter().filter(|receipt| receipt.outcome == Outcome::Failed) {
            if is_trouble_with_a_service(*code) && !known.contains(code) {
                known.push(*code);
                self.lacks(Fact::new(*code, reason.clone()));
            }
        }
    }

    /// Whether this service was read and could be used.
    fn can_use(&self, service: Service) -> bool {
        matches!(self.services.get(&service), Some(Ok(())))
    }

    /// The services of Puppet that are configured, by their names in the dimension `Service`, and whether each could be used.
    pub(crate) fn of_puppet(&self) -> impl Iterator<Item = (&'static str, bool)> {
        let configured = PUPPET.into_iter().filter(|(service, _)| self.services.contains_key(service));
        configured.map(|(service, name)| (name, self.can_use(service)))
    }

    /// What was missing. That Puppet cannot be called without the secret is not repeated for each of its services.
    fn missing(&self) -> Vec<Fact> {
        let services = self.services.iter().filter_map(|(service, answer)| Some((service, answer.as_ref().err()?)));
        let own = services.filter(|(service, trouble)| trouble.service == **service);
        own.map(|(_, trouble)| Fact::from(trouble)).chain(self.undone.iter().cloned()).collect()
    }

    /// Whether the sweep could do all that it is for.
    pub(crate) fn is_ok(&self) -> bool {
        self.missing().is_empty()
    }

    /// The metrics, each 0 or 1. What was not read is 0.
    pub(crate) fn metrics(&self) -> Vec<(&'static str, i64)> {
        let puppet = self.can_use(Service::Ca) && self.of_puppet().all(|(_, usable)| usable);
        let aws = self.can_use(Service::AutoScaling) && self.can_use(Service::Ec2);
        vec![
            ("SweepOk", self.is_ok().into()),
            ("AwsReachable", aws.into()),
            ("SecretReadable", self.can_use(Service::SecretsManager).into()),
            ("PuppetReachable", puppet.into()),
        ]
    }

    /// For the answer of the invocation.
    pub(crate) fn payload(&self) -> Value {
        let missing = self.missing();
        let missing = missing.iter().map(|Fact { code, text }| json!({"code": code, "reason": text}));
        json!({"ok": self.is_ok(), "missing": missing.collect::<Vec<_>>()})
    }

    /// One line that says what was missing, if anything was.
    pub(crate) fn log(&self) {
        let missing = self.missing();
        if missing.is_empty() {
            return;
        }
        let codes: Vec<&str> = missing.iter().map(|fact| fact.code.as_str()).collect();
        let reasons: Vec<&str> = missing.iter().map(|fact| fact.text.as_str()).collect();
        tracing::error!(codes = codes.join(","), "the sweep could not do all of its work: {}", reasons.join("; "));
    }
}

/// Whether a code says that a service that the sweep depends on could not be used.
fn is_trouble_with_a_service(code: Code) -> bool {
    matches!(
        code,
        Code::AutoScalingUnavailable
            | Code::Ec2Unavailable
            | Code::SecretsManagerUnavailable
            | Code::CaUnavailable
            | Code::PuppetDbUnavailable
            | Code::OrchestratorUnavailable
            | Code::ClassifierUnavailable
            | Code::NotAuthenticated
            | Code::NotPermitted
            | Code::SecretUnusable
    )
}

#[cfg(test)]
mod tests;
