//! The credentials for Puppet's mutual TLS, checked field by field, and the HTTP client built
//! from them. No network I/O.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use jiff::Timestamp;
use reqwest::header::HeaderValue;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use secrecy::{ExposeSecret, SecretString};
use stagedoor_types::Certname;

use crate::http::{Network, Sockets};
use crate::x509::Certificate;

/// What the controller shows to Puppet, and what it trusts.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// PEM: every certificate of the Puppet CA, as `GET /puppet-ca/v1/certificate/ca` gives it.
    /// Nothing else is trusted.
    pub ca_cert: String,
    /// PEM: the controller's certificate, issued by that CA.
    pub client_cert: String,
    /// PEM: its private key (PKCS#8, PKCS#1 or SEC1), not encrypted.
    pub client_key: SecretString,
    /// Puppet Enterprise only: an RBAC token.
    pub rbac_token: Option<SecretString>,
    /// The `challengePassword` that instances are given, if they are given one.
    pub challenge: Option<SecretString>,
    /// The one before it, which counts as well while it is here: instances that were launched before a rotation still send it.
    pub previous_challenge: Option<SecretString>,
}

/// A field of the credentials that cannot be used. Names the field, never its value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialsError {
    /// The secret as a whole is not a JSON object.
    #[error(
        "the Puppet secret is not a JSON object: expected the keys ca_cert, client_cert, client_key and, on Puppet Enterprise, rbac_token"
    )]
    NotAnObject,
    /// A field is missing.
    #[error("the Puppet secret has no field {0}")]
    Missing(&'static str),
    /// A field cannot be used.
    #[error("field {field} of the Puppet secret: {problem}")]
    Malformed {
        /// The field's name.
        field: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
}

impl Credentials {
    /// Reads the JSON document kept in Secrets Manager. Other keys in it are ignored.
    pub fn from_json(secret: &SecretString) -> Result<Self, CredentialsError> {
        // Parsed manually: serde's errors quote the invalid value.
        let document: serde_json::Value =
            serde_json::from_str(secret.expose_secret()).map_err(|_| CredentialsError::NotAnObject)?;
        let fields = document.as_object().ok_or(CredentialsError::NotAnObject)?;
        let optional = |field: &'static str| match fields.get(field) {
            None | Some(serde_json::Value::Null) => Ok(None),
            Some(serde_json::Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(malformed(field, "is not a text")),
        };
        let required = |field| optional(field)?.ok_or(CredentialsError::Missing(field));
        let (challenge, previous_challenge) = (optional("challenge")?, optional("previous_challenge")?);
        // With an empty one, a request without any secret would pass.
        if challenge.as_deref() == Some("") {
            return Err(malformed("challenge", "is empty; leave it out if the instances are given none"));
        }
        let previous_challenge = previous_challenge.filter(|previous| !previous.is_empty());
        if challenge.is_none() && previous_challenge.is_some() {
            return Err(malformed(
                "previous_challenge",
                "is set but challenge is not; set challenge, or remove previous_challenge",
            ));
        }
        Ok(Self {
            ca_cert: required("ca_cert")?,
            client_cert: required("client_cert")?,
            client_key: required("client_key")?.into(),
            rbac_token: optional("rbac_token")?.map(SecretString::from),
            challenge: challenge.map(SecretString::from),
            previous_challenge: previous_challenge.map(SecretString::from),
        })
    }

    /// Checks every field and builds the client that all Puppet services are called through.
    pub fn transport(&self) -> Result<Transport, CredentialsError> {
        install_crypto_provider();

        let roots = certificates("ca_cert", &self.ca_cert)?;
        let chain = certificates("client_cert", &self.client_cert)?;
        let own = Certificate::from_der(&chain[0])
            .map_err(|_| malformed("client_cert", "its first certificate cannot be read"))?;
        let certname = own
            .common_name()
            .parse()
            .map_err(|_| malformed("client_cert", "the CN of its first certificate is not a certname"))?;
        self.check_key(chain)?;

        let anchors = roots
            .iter()
            .map(|der| reqwest::Certificate::from_der(der))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| malformed("ca_cert", "holds a certificate that cannot be read"))?;
        // In a SecretString so that the joined text is wiped as well.
        let identity = SecretString::from(format!("{}\n{}", self.client_key.expose_secret(), self.client_cert));
        let identity = reqwest::Identity::from_pem(identity.expose_secret().as_bytes())
            .map_err(|_| malformed("client_cert", "holds something that is not a certificate"))?;
        // What is left to go wrong here is a root that is no valid trust anchor.
        let sockets = Sockets::new(anchors, identity)
            .map_err(|_| malformed("ca_cert", "holds a certificate that cannot be a trust anchor"))?;

        let (token, not_after) = (self.token_header()?, own.not_after());
        Ok(Transport { network: Arc::new(sockets), token, certname, not_after })
    }

    fn check_key(&self, chain: Vec<CertificateDer<'static>>) -> Result<(), CredentialsError> {
        // With a second key it would be unclear which of them is presented to the server.
        if PrivateKeyDer::from_pem_slice(self.client_cert.as_bytes()).is_ok() {
            return Err(malformed("client_cert", "holds a private key; it belongs in client_key"));
        }
        let mut keys = PrivateKeyDer::pem_slice_iter(self.client_key.expose_secret().as_bytes());
        let Some(Ok(key)) = keys.next() else {
            return Err(malformed("client_key", "holds no private key in PEM form (an encrypted one cannot be used)"));
        };
        if keys.next().is_some() {
            return Err(malformed("client_key", "holds more than one private key"));
        }
        match rustls::sign::CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()) {
            Ok(_) => Ok(()),
            Err(rustls::Error::InconsistentKeys(_)) => {
                Err(malformed("client_key", "does not belong to the certificate in client_cert"))
            }
            Err(_) => Err(malformed("client_key", "is not a private key that TLS can use")),
        }
    }

    /// Tokens are often kept with a trailing newline; an empty one is none.
    fn token_header(&self) -> Result<Option<HeaderValue>, CredentialsError> {
        let Some(token) = &self.rbac_token else { return Ok(None) };
        let token = token.expose_secret().trim();
        if token.is_empty() {
            return Ok(None);
        }
        let header = HeaderValue::from_str(token).ok().filter(|header| header.to_str().is_ok());
        let mut header = header.ok_or(malformed("rbac_token", "holds characters that no token has"))?;
        header.set_sensitive(true);
        Ok(Some(header))
    }
}

fn malformed(field: &'static str, problem: &'static str) -> CredentialsError {
    CredentialsError::Malformed { field, problem }
}

fn certificates(field: &'static str, pem: &str) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|_| malformed(field, "is not well-formed PEM"))?;
    if certificates.is_empty() {
        return Err(malformed(field, "holds no certificate in PEM form"));
    }
    if certificates.iter().any(|der| Certificate::from_der(der).is_err()) {
        return Err(malformed(field, "holds a certificate that cannot be read"));
    }
    Ok(certificates)
}

/// A checked set of credentials, ready to connect. Cheap to clone: all clones share one
/// connection pool.
#[derive(Clone)]
pub struct Transport {
    pub(crate) network: Arc<dyn Network>,
    pub(crate) token: Option<HeaderValue>,
    certname: Certname,
    not_after: Timestamp,
}

impl Transport {
    /// The controller's own certname: the CN of its certificate. Never to be purged.
    #[must_use]
    pub fn certname(&self) -> &Certname {
        &self.certname
    }

    /// The same credentials without the RBAC token, so that the certificate alone authenticates the caller.
    ///
    /// If both are sent, the services of Puppet Enterprise refuse a valid certificate because of an expired token next
    /// to it: do not send a token that [`Rbac`](crate::Rbac) reports as expired.
    #[must_use]
    pub fn without_token(&self) -> Self {
        Self { token: None, ..self.clone() }
    }

    /// The same credentials over another network.
    #[must_use]
    pub fn over(self, network: Arc<dyn Network>) -> Self {
        Self { network, ..self }
    }

    /// Trusts the same CA and presents no credentials; see [`Network::anonymous`].
    pub(crate) fn anonymous(&self, host: Option<(&str, SocketAddr)>) -> Option<Self> {
        Some(Self { network: self.network.anonymous(host)?, token: None, ..self.clone() })
    }

    /// Opens a TCP connection to a port of a node and closes it. How long that may take is for the caller to limit.
    pub async fn connect(&self, address: SocketAddr) -> std::io::Result<()> {
        self.network.connect(address).await
    }

    /// When the controller's own certificate expires.
    #[must_use]
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport")
            .field("certname", &self.certname)
            .field("not_after", &self.not_after)
            .field("rbac_token", &self.token.as_ref().map(|_| "[redacted]"))
            .finish_non_exhaustive()
    }
}

/// Makes aws-lc-rs the process's TLS provider, which reqwest requires before it builds a client.
/// May be called any number of times.
pub fn install_crypto_provider() {
    // An error means that one is installed already, which is fine.
    let _already_installed = aws_lc_rs::default_provider().install_default();
}
