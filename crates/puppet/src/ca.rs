//! The Puppet CA: what can be read from it. I/O.
//!
//! See Puppet's
//! [CA v1 HTTP API](https://www.puppet.com/docs/puppet/8/server/http_certificate_status.html).
//! Writes are in [`CaAdmin`], a type that an observe-only deployment never makes.

mod admin;
mod status;

use std::time::Duration;

use reqwest::Method;
use serde::Deserialize;
use stagedoor_types::Certname;

pub use admin::{CaAdmin, Outcome, Signed};
pub use status::{CertificateStatus, Expirations, State};

use crate::crl::RevocationLists;
use crate::csr::Csr;
use crate::error::{Error, Service};
use crate::http::{Answer, Ask, Connection, Endpoint};
use crate::tls::Transport;
use crate::x509::Certificate;

const READ_TIMEOUT: Duration = Duration::from_secs(15);

/// The list of pending requests is short unless a client floods the CA with them.
const REQUESTS_TIMEOUT: Duration = Duration::from_secs(3);

/// The CA reads and parses every certificate it ever issued for this answer.
const LIST_TIMEOUT: Duration = Duration::from_secs(60);

/// How the CA says in English that nothing is there, for the case that a proxy removed the header
/// by which it is known.
const ABSENT: [&str; 4] =
    ["Resource not found.", "Could not find certificate", "Invalid certificate subject.", "No certificate request for"];

/// The Puppet CA, read only.
#[derive(Debug, Clone)]
pub struct Ca {
    connection: Connection,
}

impl Ca {
    /// The CA at an address. It must be the CA host itself or a balancer that forwards
    /// `/puppet-ca` to it; compilers have no CA.
    #[must_use]
    pub fn new(transport: &Transport, endpoint: &Endpoint) -> Self {
        Self { connection: Connection::new(transport, endpoint, Service::Ca) }
    }

    /// `GET certificate_status`: the state of the certificate of this name, or of the pending CSR
    /// where there is no certificate. `None` when the CA has neither.
    ///
    /// A certificate hides a CSR of the same name; [`Ca::csr`] finds it.
    pub async fn status(&self, certname: &Certname) -> Result<Option<CertificateStatus>, Error> {
        let path = ["puppet-ca", "v1", "certificate_status", certname.as_str()];
        let ask = Ask::new(Method::GET, "GET certificate_status", &path, READ_TIMEOUT);
        let answer = self.connection.send(ask.about(certname)).await?;
        match answer.status {
            200 => {
                let status = CertificateStatus::from_answer(&answer)?;
                if status.name == certname.as_str() {
                    Ok(Some(status))
                } else {
                    Err(answer.unexpected(format!("it is about {}", status.name)))
                }
            }
            404 if answer.is_from_ca(&ABSENT) => Ok(None),
            500 if is_file_not_found(&answer) => self.status_without_file(certname, &answer).await,
            _ => Err(answer.into_error()),
        }
    }

    /// Puppet Server 8.2.2 to 8.6.0 fails for a name that is in its inventory and whose
    /// certificate has been deleted
    /// ([puppetserver#2851](https://github.com/puppetlabs/puppetserver/issues/2851)). What is
    /// really there is learnt from the two files themselves.
    async fn status_without_file(
        &self,
        certname: &Certname,
        failure: &Answer,
    ) -> Result<Option<CertificateStatus>, Error> {
        if self.certificate(certname).await?.is_some() {
            return Err(failure.busy());
        }
        let csr = self.csr(certname).await?;
        Ok(csr.map(|csr| CertificateStatus::requested(certname, &csr)))
    }

    /// `GET certificate_statuses`: every certificate and CSR, or those in one state. Takes half a minute on a CA with
    /// 30,000 certificates, and one damaged file fails it: never for single events. [`Error::Busy`] when a certificate is
    /// deleted while they are read; ask again.
    pub async fn statuses(&self, state: Option<State>) -> Result<Vec<CertificateStatus>, Error> {
        self.list(state, LIST_TIMEOUT).await
    }

    /// `GET certificate_statuses?state=requested`: every pending CSR. Reads no certificate, so neither their number nor
    /// a damaged one matters. Any client that reaches the CA can send requests, so the call is limited to 3 s.
    pub async fn requested(&self) -> Result<Vec<CertificateStatus>, Error> {
        self.list(Some(State::Requested), REQUESTS_TIMEOUT).await
    }

    async fn list(&self, state: Option<State>, timeout: Duration) -> Result<Vec<CertificateStatus>, Error> {
        let path = ["puppet-ca", "v1", "certificate_statuses", "any"];
        let query: Vec<_> = state.iter().map(|state| ("state", state.as_str())).collect();
        let ask = Ask::new(Method::GET, "GET certificate_statuses", &path, timeout);
        let answer = self.connection.send(ask.query(&query).large()).await?;
        match answer.status {
            200 => CertificateStatus::list_from_answer(&answer),
            _ => Err(answer.into_error()),
        }
    }

    /// `GET certificate`: the certificate of this name, revoked or not. Needs no permission.
    pub async fn certificate(&self, certname: &Certname) -> Result<Option<Certificate>, Error> {
        let path = ["puppet-ca", "v1", "certificate", certname.as_str()];
        let ask = Ask::new(Method::GET, "GET certificate", &path, READ_TIMEOUT);
        self.pem(ask.about(certname), Certificate::from_pem).await
    }

    /// `GET certificate_request`: the pending CSR of this name. Needs no permission.
    ///
    /// One that is there but cannot be read is [`Error::UnreadableRequest`].
    pub async fn csr(&self, certname: &Certname) -> Result<Option<Csr>, Error> {
        let path = ["puppet-ca", "v1", "certificate_request", certname.as_str()];
        let ask = Ask::new(Method::GET, "GET certificate_request", &path, READ_TIMEOUT);
        self.pem(ask.about(certname), Csr::from_pem).await
    }

    async fn pem<T>(&self, ask: Ask<'_>, read: fn(&str) -> Result<T, crate::Unreadable>) -> Result<Option<T>, Error> {
        let answer = self.connection.send(ask).await?;
        match answer.status {
            200 => read(&answer.text()).map(Some).map_err(|error| answer.unreadable(error.to_string())),
            404 if answer.is_from_ca(&ABSENT) => Ok(None),
            _ => Err(answer.into_error()),
        }
    }

    /// `GET certificate_revocation_list`: see [`RevocationLists`] for what it can prove. Needs no
    /// permission.
    pub async fn crl(&self) -> Result<RevocationLists, Error> {
        let path = ["puppet-ca", "v1", "certificate_revocation_list", "ca"];
        let ask = Ask::new(Method::GET, "GET certificate_revocation_list", &path, READ_TIMEOUT);
        let answer = self.connection.send(ask.large()).await?;
        match answer.status {
            200 => RevocationLists::from_pem(&answer.text()).map_err(|error| answer.unexpected(error.to_string())),
            _ => Err(answer.into_error()),
        }
    }

    /// `GET expirations`: when the CA's certificates and CRLs expire.
    pub async fn expirations(&self) -> Result<Expirations, Error> {
        let path = ["puppet-ca", "v1", "expirations"];
        let ask = Ask::new(Method::GET, "GET expirations", &path, READ_TIMEOUT);
        let answer = self.connection.send(ask).await?;
        match answer.status {
            200 => Expirations::from_answer(&answer),
            _ => Err(answer.into_error()),
        }
    }

    /// The version of the CA service, which is Puppet Server's: `8.7.0`. From the
    /// [status API](https://www.puppet.com/docs/puppet/8/server/status-api/v1/services.html).
    pub async fn version(&self) -> Result<String, Error> {
        #[derive(Deserialize)]
        struct Services {
            ca: Ca,
        }
        #[derive(Deserialize)]
        struct Ca {
            service_version: String,
        }
        let ask = Ask::new(Method::GET, "GET services", &["status", "v1", "services"], READ_TIMEOUT);
        let answer = self.connection.send(ask).await?;
        match answer.status {
            // 503: some service is not running; the document is the same.
            200 | 503 => match answer.json::<Services>() {
                Ok(services) => Ok(services.ca.service_version),
                Err(_) if answer.status == 503 => Err(answer.busy()),
                Err(error) => Err(error),
            },
            _ => Err(answer.into_error()),
        }
    }
}

/// Puppet Server's uncaught exception for a certificate that its inventory knows and its disk does
/// not.
fn is_file_not_found(answer: &Answer) -> bool {
    answer.status == 500 && answer.text().contains("FileNotFound")
}
