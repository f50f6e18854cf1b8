//! When the credentials expire that everything depends on. Reads only.

use jiff::Timestamp;
use serde_json::{Value, json};
use stagedoor_lifecycle::expiry::{Credential, expiring};
use stagedoor_lifecycle::reason::Code;
use stagedoor_puppet::Rbac;
use stagedoor_types::{Service, Trouble, TroubleKind};

use super::error;
use crate::budget::Budget;
use crate::call::call;
use crate::context::{Context, Puppet, Run};
use crate::size::messages;

/// What is known of the credentials.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    pub(crate) known: Vec<Credential>,
    /// What is unknown, and why.
    unknown: Vec<Trouble>,
}

/// Reads when each credential expires; `puppet` may hold why there are no clients.
pub(super) async fn look(run: Run<'_>, puppet: &Result<std::sync::Arc<Puppet>, Trouble>) -> Watch {
    let Run { context, budget, .. } = run;
    let mut watch = Watch::default();
    match puppet {
        Ok(puppet) => look_with(context, puppet, budget, &mut watch).await,
        Err(trouble) => watch.unknown.push(trouble.clone()),
    }
    let now = context.clock.now();
    for credential in &watch.known {
        tracing::info!(days_left = credential.days_left(now), "{}", credential.describe(now));
    }
    for trouble in &watch.unknown {
        let code = Code::from(trouble).as_str();
        tracing::warn!(code, "could not read when a credential expires: {trouble}");
    }
    watch
}

async fn look_with(context: &Context, puppet: &Puppet, budget: Budget, watch: &mut Watch) {
    let transport = &puppet.transport;
    let own = format!("the controller's certificate {}", transport.certname());
    watch.known.push(Credential { name: own, expires: transport.not_after() });

    let rbac = context.config.classifier.as_ref().map(|url| Rbac::new(transport, url));
    let token = async {
        match &rbac {
            Some(rbac) => Some(call(context, budget.work, Service::Rbac, rbac.token()).await),
            None => None,
        }
    };
    let (expirations, token) = tokio::join!(call(context, budget.work, Service::Ca, puppet.ca.expirations()), token);
    match expirations {
        Ok(expirations) => {
            let certificates =
                expirations.ca_certs.into_iter().map(|(name, at)| (format!("the CA certificate {name}"), at));
            let crls = expirations.crls.into_iter().map(|(name, at)| (format!("the CRL of {name}"), at));
            watch.known.extend(certificates.chain(crls).map(|(name, expires)| Credential { name, expires }));
        }
        Err(trouble) => watch.unknown.push(trouble),
    }
    match token {
        None if context.config.orchestrator.is_some() => {
            watch.unknown.push(Trouble {
                kind: TroubleKind::Unusable,
                service: Service::Rbac,
                text: "the RBAC token: RBAC is asked at the classifier's address, and puppet.classifier is not set"
                    .into(),
            });
        }
        None | Some(Ok(None)) => {}
        Some(Ok(Some(token))) => {
            let credential = |expires| Credential { name: "the RBAC token".into(), expires };
            watch.known.extend(token.expiration.map(credential));
        }
        // It is refused: it has expired already, whatever its date.
        Some(Err(Trouble { kind: TroubleKind::Unauthenticated, .. })) => {
            let name = "the RBAC token, which is refused,".into();
            watch.known.push(Credential { name, expires: context.clock.now() });
        }
        Some(Err(trouble)) => watch.unknown.push(trouble),
    }
}

impl Watch {
    /// The alert to publish, if it is due.
    pub(super) fn tell(&self, warn_days: i64, remind: bool, now: Timestamp) -> Option<(String, Value)> {
        let soon: Vec<String> =
            expiring(&self.known, warn_days, now).into_iter().map(|credential| credential.describe(now)).collect();
        let first = soon.first().filter(|_| remind)?;
        // The most urgent come first, and one message has more of them than there can be.
        let soon = messages(soon.iter().map(|text| json!(text))).into_iter().next();
        Some((format!("Stagedoor: {first}"), json!({ "function": "sweep", "alert": "credentials", "expiring": soon })))
    }

    /// Why the expiry of a credential is unknown, if it is. That there is no address to ask RBAC at is as it is configured.
    pub(super) fn trouble(&self) -> Option<&Trouble> {
        self.unknown.iter().find(|trouble| (trouble.service, trouble.kind) != (Service::Rbac, TroubleKind::Unusable))
    }

    pub(super) fn payload(&self, now: Timestamp) -> Value {
        let known = self.known.iter().map(|credential| {
            json!({"name": credential.name, "expires": credential.expires.to_string(), "days_left": credential.days_left(now)})
        });
        let unknown: Vec<Value> = self.unknown.iter().map(error).collect();
        json!({ "known": known.collect::<Vec<_>>(), "unknown": unknown })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_is_told_of_what_expires_soon_when_it_is_time_to() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let credential = |name: &str, days: i64| Credential {
            name: name.into(),
            expires: Timestamp::from_second(now.as_second() + days * 86_400).unwrap(),
        };
        let watch = Watch { known: vec![credential("the CA", 900), credential("the CRL", 5)], unknown: Vec::new() };
        let (subject, message) = watch.tell(30, true, now).unwrap();
        insta::assert_snapshot!(subject, @"Stagedoor: the CRL expires in 5 days, at 2027-01-20T08:00:00Z");
        assert_eq!(message["expiring"].as_array().unwrap().len(), 1, "{message}");
        assert_eq!(watch.tell(30, false, now), None, "once a day is enough");
        assert_eq!(watch.tell(5, true, now), None, "five days are not less than five");
    }
}
