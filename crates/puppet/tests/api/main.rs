//! The clients against a scripted server on loopback: real TLS, one answer for each request.

mod ca;
mod ca_admin;
mod ca_signing;
mod classifier;
mod credentials;
mod file_sync;
mod memory;
mod orchestrator;
mod orchestrator_admin;
mod pki;
mod puppetdb;
mod rbac;
mod stage;
mod status;
mod wire;
