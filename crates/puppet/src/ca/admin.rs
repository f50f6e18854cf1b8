//! The Puppet CA: what can be changed in it. I/O.

mod cleaning;
mod signing;

use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use stagedoor_types::{Certname, WritePermit};

use super::{ABSENT, Ca, CertificateStatus, State, is_file_not_found};
use crate::error::Error;
use crate::http::{Answer, Ask};

/// Writes queue for the CA's locks, for up to 60 s each.
const WRITE_TIMEOUT: Duration = Duration::from_secs(80);
const _: () = assert!(WRITE_TIMEOUT.as_secs() > 60, "a lock time-out must be heard");

/// Whether there was anything left to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The CA did it. (It answers the same when a certificate is revoked a second time.)
    Done,
    /// There was nothing to do it to.
    AlreadyDone,
}

/// The result of signing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signed {
    /// The CSR was signed by this call.
    Done,
    /// There is no CSR any more, and there is a signed certificate. Compare its fingerprint or
    /// key: it may be of an earlier owner of the name.
    AlreadySigned(Box<CertificateStatus>),
    /// There is nothing to sign: the CSR has not arrived yet, or has been deleted.
    NoRequest,
}

/// The Puppet CA with the right to change it.
///
/// Every call may be repeated: a change that was made before is reported as such and is no error. None of
/// them checks whom a name belongs to. Since Puppet Server 8.2.2 revoking (and cleaning) a name revokes
/// **every** unexpired certificate ever issued to it, a live successor's included: first establish that
/// the name still belongs to the terminating instance.
///
/// Without a [`WritePermit`] there is none:
///
/// ```compile_fail,E0061
/// fn write(ca: stagedoor_puppet::Ca) -> stagedoor_puppet::CaAdmin {
///     stagedoor_puppet::CaAdmin::new(ca)
/// }
/// ```
#[derive(Debug, Clone)]
pub struct CaAdmin {
    ca: Ca,
}

impl CaAdmin {
    /// Adds the right to write to a CA, where the mode permits it.
    #[must_use]
    pub fn new(ca: Ca, _permit: WritePermit) -> Self {
        Self { ca }
    }

    /// The same CA, read only.
    #[must_use]
    pub fn ca(&self) -> &Ca {
        &self.ca
    }

    /// `PUT certificate_status`, desired state `signed`: signs the pending CSR of this name.
    ///
    /// A certificate of the same name is overwritten on the CA's disk and *not* revoked. A CSR that
    /// the CA will not sign is [`Error::Refused`], with the remedy.
    pub async fn sign(&self, certname: &Certname) -> Result<Signed, Error> {
        let answer = self.put_status(certname, "signed").await?;
        match answer.status {
            204 => Ok(Signed::Done),
            404 if answer.is_from_ca(&ABSENT) => Ok(Signed::NoRequest),
            409 => self.judge_conflict(certname, &answer).await,
            _ => Err(answer.into_error()),
        }
    }

    /// 409 is said of a CSR that may not be signed, and also when there is none, be it signed
    /// already. Texts may be in the server's language, so where the text is not known, what is
    /// there decides.
    async fn judge_conflict(&self, certname: &Certname, answer: &Answer) -> Result<Signed, Error> {
        let text = answer.text();
        let remedy = signing_remedy(&text);
        let no_request = text.contains("without a certificate request");
        if remedy.is_some() || (!no_request && self.ca.csr(certname).await?.is_some()) {
            return Err(answer.refused(remedy));
        }
        self.without_request(certname).await
    }

    /// `PUT certificate_status`, desired state `revoked`. `AlreadyDone` when there is no
    /// certificate of this name; there may still be a CSR.
    pub async fn revoke(&self, certname: &Certname) -> Result<Outcome, Error> {
        let answer = self.put_status(certname, "revoked").await?;
        match answer.status {
            204 => Ok(Outcome::Done),
            404 if answer.is_from_ca(&ABSENT) => Ok(Outcome::AlreadyDone),
            // Only a CSR of this name exists.
            409 => Ok(Outcome::AlreadyDone),
            // The inventory knows only expired certificates of this name, and there is no file.
            500 if is_file_not_found(&answer) => match self.ca.certificate(certname).await? {
                None => Ok(Outcome::AlreadyDone),
                Some(_) => Err(answer.into_error()),
            },
            _ => Err(answer.into_error()),
        }
    }

    /// `DELETE certificate_status`: deletes the certificate *and* a pending CSR of this name.
    /// Revokes nothing.
    pub async fn delete(&self, certname: &Certname) -> Result<Outcome, Error> {
        let path = ["puppet-ca", "v1", "certificate_status", certname.as_str()];
        self.delete_at("DELETE certificate_status", &path, certname).await
    }

    /// `DELETE certificate_request`: deletes a pending CSR of this name, and nothing else.
    ///
    /// No rule of the shipped `auth.conf` allows it. Where there is no certificate of
    /// this name, [`CaAdmin::delete`] has the same effect and needs no further rule.
    pub async fn delete_csr(&self, certname: &Certname) -> Result<Outcome, Error> {
        let path = ["puppet-ca", "v1", "certificate_request", certname.as_str()];
        self.delete_at("DELETE certificate_request", &path, certname).await
    }

    async fn put_status(&self, certname: &Certname, state: &'static str) -> Result<Answer, Error> {
        let path = ["puppet-ca", "v1", "certificate_status", certname.as_str()];
        let ask = Ask::new(Method::PUT, "PUT certificate_status", &path, WRITE_TIMEOUT);
        self.ca.connection.send(ask.about(certname).json(json!({ "desired_state": state }))).await
    }

    async fn delete_at(&self, name: &'static str, path: &[&str], certname: &Certname) -> Result<Outcome, Error> {
        let ask = Ask::new(Method::DELETE, name, path, WRITE_TIMEOUT);
        let answer = self.ca.connection.send(ask.about(certname)).await?;
        match answer.status {
            // 200: servers before Puppet 4.
            200 | 204 => Ok(Outcome::Done),
            404 if answer.is_from_ca(&ABSENT) => Ok(Outcome::AlreadyDone),
            _ => Err(answer.into_error()),
        }
    }
}

/// Makes the same call for each name, one after another: the CA takes writes one at a time anyway. Each name has a result of its own; but
/// without a connection, behind a lock of the CA that is held, or behind a proxy that waits in vain, the next call would take as long and
/// end as this one did: then the rest is [`Error::NotTried`]. What is not permitted for one name is not for another, with the same remedy.
async fn one_by_one<T>(
    certnames: &[Certname],
    mut call: impl AsyncFnMut(&Certname) -> Result<T, Error>,
) -> BTreeMap<Certname, Result<T, Error>> {
    let mut all = BTreeMap::new();
    let mut rest: Option<Error> = None;
    for certname in certnames {
        let result = match &rest {
            Some(error) => Err(error.clone().about(certname)),
            None => call(certname).await,
        };
        if let (None, Err(error)) = (&rest, &result) {
            rest = of_the_rest(error);
        }
        all.insert(certname.clone(), result);
    }
    all
}

/// What every other name of a set ends with after this, if nothing else can come of it.
fn of_the_rest(error: &Error) -> Option<Error> {
    match error {
        Error::Locked { call, .. } | Error::Unreachable { call, .. } | Error::Busy { call, status: 502..=504, .. } => {
            let because = format!("an earlier call of the same set failed: {error}");
            Some(Error::NotTried { call: call.clone(), because })
        }
        Error::TlsRefused { .. } | Error::Unauthorized { .. } | Error::NotPermitted { .. } => Some(error.clone()),
        _ => None,
    }
}

/// What to do about a CSR that the CA will not sign.
fn signing_remedy(text: &str) -> Option<&'static str> {
    if text.contains("subject alternative names") {
        Some(
            "Take the names out of the node's dns_alt_names, or set allow-subject-alt-names to true in the CA's ca.conf and restart puppetserver",
        )
    } else if text.contains("authorization extension") {
        Some(
            "Take the extension out of the node's csr_attributes.yaml, or set allow-authorization-extensions to true in the CA's ca.conf and restart puppetserver",
        )
    } else if text.contains("extensions that are not permitted") {
        Some(
            "Take these extensions out of the node's csr_attributes.yaml: the CA signs none but Puppet's own, and pp_cli_auth never",
        )
    } else if text.contains("does not correspond to the signing key") {
        Some(
            "Delete the request and the node's ssl directory, and have the agent ask again: the sender does not hold its private key",
        )
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_documented_refusal_to_sign_has_its_remedy() {
        for (text, remedy) in [
            (
                "CSR 'n' contains extra subject alternative names (DNS:a, DNS:b), which are disallowed.",
                "allow-subject-alt-names",
            ),
            ("CSR 'n' contains an authorization extension, which is disallowed.", "allow-authorization-extensions"),
            ("Found extensions that are not permitted: 1.2.3, 1.3.6.1.4.1.34380.1.3.39", "pp_cli_auth never"),
            ("CSR contains a public key that does not correspond to the signing key", "ask again"),
        ] {
            assert!(signing_remedy(text).unwrap().contains(remedy), "{text}");
        }
        let no_request = "Cannot sign certificate for host n without a certificate request";
        assert_eq!(signing_remedy(no_request), None);
    }
}
