#![doc = include_str!("../README.md")]

mod ca;
mod classifier;
mod crl;
mod csr;
mod error;
mod file_sync;
mod http;
mod orchestrator;
mod puppetdb;
mod rbac;
mod rows;
mod status;
mod tls;
mod x509;

pub use ca::{Ca, CaAdmin, CertificateStatus, Expirations, Outcome, Signed, State};
pub use classifier::{
    Classification, Classifier, ClassifierAdmin, Fit, Group, GroupId, GroupRef, NodeFacts, Unmet, Unpinned,
    facts_of_rules, fit, reported_trusted_facts, trusted_facts,
};
pub use crl::{RevocationList, RevocationLists, Revocations};
pub use csr::{Csr, SelfSignature};
pub use error::{Call, Error, Service};
pub use file_sync::{CodeClient, CodeCommit, CodeStatus, FileSync};
pub use http::{Attempt, Endpoint, Failure, InvalidEndpoint, Network, Reply, ServerDate, Sink};
pub use orchestrator::{Job, JobId, JobState, Orchestrator, OrchestratorAdmin};
pub use puppetdb::{Deactivated, KnownIdentity, NodeStatus, PuppetDb, PuppetDbAdmin, Report, RunTimes, StoredCatalog};
pub use rbac::{Rbac, TokenStatus};
pub use status::{ServiceState, ServiceStatus, StatusApi};
pub use tls::{Credentials, CredentialsError, Transport, install_crypto_provider};
pub use x509::{
    AltName, Certificate, Curve, Extensions, Fingerprint, KeyKind, PublicKey, Serial, Unreadable, long_name, short_name,
};
