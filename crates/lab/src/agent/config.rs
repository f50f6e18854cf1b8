//! The configuration of a simulated agent. No I/O.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::Context as _;
use secrecy::SecretString;
use serde::Deserialize;
use stagedoor_lab_aws::Aws;
use stagedoor_lab_puppet::{CsrAttributes, ServiceState};

/// A simulated agent: `puppet.conf`, `csr_attributes.yaml`, and what runs on its node. Times are real time. An impostor
/// is an agent whose request makes false claims.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(clippy::struct_excessive_bools, reason = "they are settings of an agent and its node that are on or off")]
pub struct Agent {
    /// What the lab calls it; the certname if absent.
    pub name: Option<String>,
    /// The certname. May be left empty for an agent on an instance.
    pub certname: String,
    /// The EC2 instance that it runs on. It is off while the instance is stopped, and ends with it. Gives what is left
    /// out here: the private DNS name as certname, the id as `instance_id`, the private address as `address`.
    pub on: Option<String>,
    /// The extension `pp_instance_id` of its request; empty: none, although it runs on an instance.
    pub instance_id: Option<String>,
    /// Further extension requests, by short name or OID.
    pub extensions: BTreeMap<String, String>,
    /// `dns_alt_names`.
    pub alt_names: Vec<String>,
    /// The custom attribute `challengePassword`.
    pub challenge: Option<SecretString>,
    /// `waitforcert`, in milliseconds: the pause before it submits its request and looks for its certificate again.
    pub wait_for_cert_ms: u64,
    /// `onetime`: it ends if it has no certificate that fits at the first attempt.
    pub one_time: bool,
    /// Whether it runs Puppet as soon as it has its certificate; if not, only when the orchestrator says so.
    pub first_run: bool,
    /// How its runs end: `changed`, `unchanged` or `failed`.
    pub status: String,
    /// How long a run of its own takes, in milliseconds.
    pub run_ms: u64,
    /// The private address at which its node's ports are, `127.x.y.z` or `::1`; needed if there are any.
    pub address: Option<IpAddr>,
    /// Ports that answer the Status API over TLS, under its own certificate, from the first report on.
    pub status_ports: Vec<u16>,
    /// Ports that take connections, from the first report on.
    pub tcp_ports: Vec<u16>,
    /// What the Status API says.
    pub service_state: ServiceState,
    /// What it says of single services: `server`; on Puppet Enterprise also `broker-service` and `file-sync-client-service`.
    pub service_states: BTreeMap<String, ServiceState>,
    /// Puppet Enterprise: whether it checks in with the primary's file sync and fetches code, as long as it serves status ports.
    pub file_sync: bool,
    /// So many of its answers say `starting` first, after each boot.
    pub starting_answers: u32,
    /// Whether its ports listen at all; may be changed later.
    pub listening: bool,
}

impl Default for Agent {
    fn default() -> Self {
        Self {
            name: None,
            certname: String::new(),
            on: None,
            instance_id: None,
            extensions: BTreeMap::new(),
            alt_names: Vec::new(),
            challenge: None,
            wait_for_cert_ms: 50,
            one_time: false,
            first_run: true,
            status: "changed".to_owned(),
            run_ms: 10,
            address: None,
            status_ports: Vec::new(),
            tcp_ports: Vec::new(),
            service_state: ServiceState::Running,
            service_states: BTreeMap::new(),
            file_sync: true,
            starting_answers: 0,
            listening: true,
        }
    }
}

impl Agent {
    /// An agent of this name, on no instance.
    #[must_use]
    pub fn new(certname: &str) -> Self {
        Self { certname: certname.to_owned(), ..Self::default() }
    }

    /// An agent on this EC2 instance.
    #[must_use]
    pub fn on(instance_id: &str) -> Self {
        Self { on: Some(instance_id.to_owned()), ..Self::default() }
    }

    /// Fills in what its instance gives.
    pub(super) fn complete(mut self, aws: &Aws) -> anyhow::Result<Self> {
        if let Some(id) = &self.on {
            let machine = aws.machine(id).with_context(|| format!("EC2 knows no instance {id} for an agent"))?;
            if self.certname.is_empty() {
                self.certname = machine.private_dns;
            }
            let id = id.clone();
            self.instance_id.get_or_insert(id);
            if self.address.is_none() {
                self.address = machine.private_ip.or(machine.ipv6).and_then(|address| address.parse().ok());
            }
        }
        anyhow::ensure!(!self.certname.is_empty(), "an agent needs a certname, or `on`: the instance it runs on");
        anyhow::ensure!(
            ["changed", "unchanged", "failed"].contains(&self.status.as_str()),
            "agent {}: a run ends as changed, unchanged or failed, not as {}",
            self.certname,
            self.status
        );
        let serves = !self.status_ports.is_empty() || !self.tcp_ports.is_empty();
        anyhow::ensure!(
            !serves || self.address.is_some_and(|address| address.is_loopback()),
            "agent {}: its ports need an address on loopback, 127.x.y.z or ::1; the scene's setting loopback_addresses gives \
             instances such",
            self.certname
        );
        // So that a request that cannot be written is an error here, and not a silence later.
        self.attributes().check(&self.certname)?;
        Ok(self)
    }

    /// What its signing request asks for.
    pub(super) fn attributes(&self) -> CsrAttributes {
        CsrAttributes {
            instance_id: self.instance_id.clone().filter(|id| !id.is_empty()),
            extensions: self.extensions.clone(),
            alt_names: self.alt_names.clone(),
            challenge: self.challenge.clone(),
            legacy_extension_encoding: false,
        }
    }
}
