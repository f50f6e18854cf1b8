//! The clients against a scripted server on loopback: real TLS, one answer for each request.

mod ca;
mod ca_admin;
mod credentials;
mod pki;
mod puppetdb;
mod stage;
mod wire;
