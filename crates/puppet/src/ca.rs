//! The Puppet CA: what can be read from it. I/O.
//!
//! See Puppet's
//! [CA v1 HTTP API](https://www.puppet.com/docs/puppet/8/server/http_certificate_status.html).
//! Writes are in [`CaAdmin`], a type that an observe-only deployment never makes.

mod admin;
mod status;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::Method;
use reqwest::header::HeaderValue;
use serde::Deserialize;
use stagedoor_types::Certname;

pub use admin::{CaAdmin, Outcome, Signed};
pub use status::{CertificateStatus, Expirations, State};

use crate::crl::{Reader, RevocationLists, Revocations};
use crate::csr::Csr;
use crate::error::{Error, Service};
use crate::http::{Answer, Ask, Connection, Endpoint, ServerDate};
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
    /// The last answer of [`Ca::revocations`].
    read: Arc<Mutex<Option<Arc<Read>>>>,
}

/// What the CRL said, and a time at which it had not been read yet, by the CA's clock: a list that was written later is sent again.
#[derive(Debug)]
struct Read {
    since: HeaderValue,
    revocations: Revocations,
}

impl Ca {
    /// The CA at an address. It must be the CA host itself or a balancer that forwards
    /// `/puppet-ca` to it; compilers have no CA.
    #[must_use]
    pub fn new(transport: &Transport, endpoint: &Endpoint) -> Self {
        Self { connection: Connection::new(transport, endpoint, Service::Ca), read: Arc::default() }
    }

    /// The CA's clock, by which it dates certificates, as its newest answer showed it. Puppet Server's Jetty sends the header
    /// `Date` with every answer.
    #[must_use]
    pub fn date(&self) -> Option<ServerDate> {
        self.connection.date()
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

    /// `GET certificate_statuses`: every certificate and CSR, or those in one state. Takes 20 seconds to more than a minute on a
    /// CA with 30,000 certificates, and one damaged file fails it: never for single events. [`Error::Busy`] when a certificate
    /// is deleted while they are read; ask again.
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

    /// `GET certificate_statuses?state=signed`: the name of each certificate that is not revoked, as the CA has it. The answer is
    /// read as it arrives, and nothing but the names is kept. It costs the CA as much as [`Ca::statuses`], and fails as often.
    pub async fn signed_names(&self, mut each: impl FnMut(String) + Send) -> Result<(), Error> {
        #[derive(Deserialize)]
        struct Status {
            name: String,
            state: String,
        }
        let path = ["puppet-ca", "v1", "certificate_statuses", "any"];
        let query = [("state", State::Signed.as_str())];
        let ask = Ask::new(Method::GET, "GET certificate_statuses", &path, LIST_TIMEOUT).query(&query);
        // Old servers do not know the parameter.
        let names = |status: Status| {
            if status.state == State::Signed.as_str() {
                each(status.name);
            }
        };
        self.connection.elements(ask, names).await
    }

    /// `GET certificate`: the certificate of this name, revoked or not. Needs no permission.
    pub async fn certificate(&self, certname: &Certname) -> Result<Option<Certificate>, Error> {
        let path = ["puppet-ca", "v1", "certificate", certname.as_str()];
        let ask = Ask::new(Method::GET, "GET certificate", &path, READ_TIMEOUT);
        let read = |answer: &Answer| {
            Certificate::from_pem(&answer.text()).map_err(|error| answer.unexpected(error.to_string()))
        };
        self.pem(ask.about(certname), read).await
    }

    /// `GET certificate_request`: the pending CSR of this name. Needs no permission.
    ///
    /// One that is there but cannot be read is [`Error::UnreadableRequest`].
    pub async fn csr(&self, certname: &Certname) -> Result<Option<Csr>, Error> {
        let path = ["puppet-ca", "v1", "certificate_request", certname.as_str()];
        let ask = Ask::new(Method::GET, "GET certificate_request", &path, READ_TIMEOUT);
        let read = |answer: &Answer| {
            Csr::from_pem(&answer.text()).map_err(|error| answer.unreadable_request(error.to_string()))
        };
        self.pem(ask.about(certname), read).await
    }

    async fn pem<T>(&self, ask: Ask<'_>, read: fn(&Answer) -> Result<T, Error>) -> Result<Option<T>, Error> {
        let answer = self.connection.send(ask).await?;
        match answer.status {
            200 => read(&answer).map(Some),
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

    /// `GET certificate_revocation_list`: whether these certificates are listed. The answer is read as it arrives. Where the same
    /// was asked before, the CA is only asked for a list that has changed since. Needs no permission.
    pub async fn revocations(&self, certificates: &[&Certificate]) -> Result<Revocations, Error> {
        let before = self.read.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let before = before.filter(|read| certificates.iter().all(|one| read.revocations.revokes(one).is_some()));
        let path = ["puppet-ca", "v1", "certificate_revocation_list", "ca"];
        let ask = Ask::new(Method::GET, "GET certificate_revocation_list", &path, READ_TIMEOUT).streamed();
        let ask = ask.if_modified_since(before.as_ref().map(|read| read.since.clone()));
        let mut reader = Reader::new(certificates);
        let answer = self.connection.send_into(ask, Some(&mut reader)).await?;
        match (answer.status, before) {
            (200, _) => {
                let revocations = reader.finish().map_err(|problem| answer.unexpected(problem))?;
                let read = answer.began().map(|since| Arc::new(Read { since, revocations: revocations.clone() }));
                *self.read.lock().unwrap_or_else(PoisonError::into_inner) = read;
                Ok(revocations)
            }
            (304, Some(read)) => Ok(read.revocations.clone()),
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
