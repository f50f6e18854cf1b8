#![doc = include_str!("../README.md")]

mod ca;
mod classifier;
mod crl;
mod csr;
mod error;
mod http;
mod orchestrator;
mod puppetdb;
mod rbac;
mod rows;
mod status;
mod tls;
mod x509;

pub use ca::{Ca, CaAdmin, CertificateStatus, Expirations, Outcome, Signed, State};
pub use classifier::{Classification, Classifier, ClassifierAdmin, Group, GroupId, GroupRef, Unpinned, trusted_facts};
pub use crl::{RevocationList, RevocationLists, Revocations};
pub use csr::{Csr, SIZE_LIMIT as CSR_SIZE_LIMIT};
pub use error::{Call, Error, Service};
pub use http::{Attempt, Endpoint, Failure, InvalidEndpoint, Network, Reply, Sink};
pub use orchestrator::{Job, JobId, JobState, Orchestrator, OrchestratorAdmin};
pub use puppetdb::{Deactivated, KnownIdentity, NodeStatus, PuppetDb, PuppetDbAdmin, Report};
pub use rbac::{Rbac, TokenStatus};
pub use status::{ServiceState, ServiceStatus, StatusApi};
pub use tls::{Credentials, CredentialsError, Transport, install_crypto_provider};
pub use x509::{
    AltName, Certificate, Extensions, Fingerprint, KeyKind, PublicKey, Serial, Unreadable, long_name, short_name,
};
