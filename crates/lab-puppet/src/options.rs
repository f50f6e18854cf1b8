//! How the simulated site is set up: versions, switches of `ca.conf`, who may do what, how slow it is. No I/O.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use jiff::{SignedDuration, Timestamp};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::site::SERVER;

/// A release of Puppet Server. Several answers of the CA depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServerVersion {
    /// The parts of `8.7.0`.
    pub major: u16,
    /// The second part.
    pub minor: u16,
    /// The third part.
    pub patch: u16,
}

impl ServerVersion {
    /// The version `major.minor.patch`.
    #[must_use]
    pub const fn new(major: u16, minor: u16, patch: u16) -> Self {
        Self { major, minor, patch }
    }

    /// `PUT clean` came with 5.3.15, 6.14 and 7.0.
    pub(crate) fn has_clean(self) -> bool {
        self >= Self::new(5, 3, 15) && !(self >= Self::new(6, 0, 0) && self < Self::new(6, 14, 0))
    }

    /// From 8.2.2 a name counts as issued while the inventory lists it, and revoking it revokes every
    /// unexpired serial that it ever had.
    pub(crate) fn looks_into_inventory(self) -> bool {
        self >= Self::new(8, 2, 2)
    }

    /// From 8.2.2 to 8.6.0 the status of a name whose file was deleted is a 500 (puppetserver#2851).
    pub(crate) fn status_needs_file(self) -> bool {
        self.looks_into_inventory() && self < Self::new(8, 6, 1)
    }

    /// `POST sign` and `POST sign/all` came with 8.4.0.
    pub(crate) fn has_bulk_signing(self) -> bool {
        self >= Self::new(8, 4, 0)
    }
}

impl fmt::Display for ServerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl FromStr for ServerVersion {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a version like 8.7.0");
        let parts: Vec<u16> = text.split('.').map(str::parse).collect::<Result<_, _>>().map_err(|_| wrong())?;
        let [major, minor, patch] = parts[..] else {
            return Err(wrong());
        };
        Ok(Self::new(major, minor, patch))
    }
}

impl TryFrom<String> for ServerVersion {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<ServerVersion> for String {
    fn from(version: ServerVersion) -> Self {
        version.to_string()
    }
}

/// Puppet's setting `autosign`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Autosign {
    /// `true` signs everything, `false` nothing.
    Switch(bool),
    /// The names (exact, or `*.suffix`) of an `autosign.conf`.
    Names(Vec<String>),
}

impl Autosign {
    pub(crate) fn covers(&self, certname: &str) -> bool {
        match self {
            Self::Switch(on) => *on,
            Self::Names(names) => names.iter().any(|name| match name.strip_prefix('*') {
                Some(suffix) => certname.ends_with(suffix) && certname.len() > suffix.len(),
                None => name == certname,
            }),
        }
    }
}

/// What Puppet Enterprise's RBAC service would say about a token in `X-Authentication`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum TokenState {
    /// Valid, with these permissions, `type:action:instance`, e.g. `cert_requests:accept_reject:*`.
    Valid(Vec<String>),
    /// Past its lifetime.
    Expired,
    /// Taken back.
    Revoked,
}

impl TokenState {
    /// Valid, with what a role needs for the work of a controller.
    #[must_use]
    pub fn for_controller() -> Self {
        Self::Valid(CONTROLLER_PERMISSIONS.map(str::to_owned).to_vec())
    }
}

/// What a role needs for the work of a controller.
const CONTROLLER_PERMISSIONS: [&str; 8] = [
    "cert_requests:accept_reject:*",
    "puppet_agent:run:*",
    "orchestrator:view:*",
    "nodes:view_data:*",
    "nodes:edit_data:*",
    "node_groups:view:*",
    "node_groups:modify_children:*",
    "node_groups:edit_child_rules:*",
];

/// How long a PuppetDB command waits in the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum QueueDelay {
    /// Commands are carried out at once.
    #[default]
    None,
    /// Carried out this many milliseconds (of the lab's clock) after they arrived. A client that
    /// asks to wait for completion does wait.
    Ms(u64),
    /// Carried out after this many further reads of PuppetDB did not show it. A client that asks to
    /// wait for completion gets a time-out at once.
    Reads(u32),
}

/// What a status service says it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ServiceState {
    /// Ready.
    #[default]
    Running,
    /// Coming up.
    Starting,
    /// Going down.
    Stopping,
    /// Broken.
    Error,
    /// Not known yet.
    Unknown,
}

impl ServiceState {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Starting => "starting",
            Self::Stopping => "stopping",
            Self::Error => "error",
            Self::Unknown => "unknown",
        }
    }
}

/// The set-up of the simulated site. Every field has a default: an open source site of the shipped
/// configuration, whose `auth.conf` also lets the controller's certname administer certificates.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(clippy::struct_excessive_bools, reason = "they are the on/off settings of ca.conf and auth.conf")]
pub struct PuppetOptions {
    /// Release of Puppet Server; also sent as `X-Puppet-Version`.
    pub server_version: ServerVersion,
    /// Release of PuppetDB.
    pub puppetdb_version: ServerVersion,
    /// `ca.conf`: sign requests with alternative names beyond their own name.
    pub allow_subject_alt_names: bool,
    /// `ca.conf`: sign requests with extensions under 1.3.6.1.4.1.34380.1.3.
    pub allow_authorization_extensions: bool,
    /// `puppet.conf`: take a request although the name has a certificate or a request.
    pub allow_duplicate_certs: bool,
    /// `puppet.conf`: which requests are signed as they arrive.
    pub autosign: Autosign,
    /// `ca.conf`: agents get the CRL that lists revoked infrastructure nodes only (Puppet Enterprise).
    pub enable_infra_crl: bool,
    /// The certnames in `infra_inventory.txt`.
    pub infra_nodes: Vec<String>,
    /// Lifetime of issued certificates in seconds.
    pub ca_ttl_s: u32,
    /// Certname of the controller.
    pub controller: String,
    /// `auth.conf` allows the controller's certname on `certificate_status`, `certificate_statuses`,
    /// `clean` and, where they exist, `sign` and `sign/all`.
    pub controller_by_certname: bool,
    /// The controller's certificate carries `pp_cli_auth`, as `puppetserver ca generate --ca-client` gives it.
    pub controller_cli_auth: bool,
    /// `auth.conf` has an added rule that allows `DELETE certificate_request` to CA administrators.
    pub allow_request_deletion: bool,
    /// `certificate-allowlist` of PuppetDB. None: every certificate of this CA may do everything.
    pub puppetdb_allowlist: Option<Vec<String>>,
    /// How long commands stay in PuppetDB's queue.
    pub puppetdb_queue: QueueDelay,
    /// PuppetDB answers 503 to everything but its status.
    pub puppetdb_maintenance: bool,
    /// RBAC tokens that this site knows (Puppet Enterprise). None: an open source site, which ignores tokens.
    pub rbac_tokens: Option<BTreeMap<String, TokenState>>,
    /// How long each write of the CA takes, in milliseconds. Writes come one after the other.
    pub ca_write_ms: u64,
    /// By how many seconds the clock of the CA's host is ahead of all others; below zero, behind them.
    pub ca_clock_ahead_s: i32,
    /// By how many seconds PuppetDB's clock is ahead of all others; below zero, behind them.
    pub puppetdb_clock_ahead_s: i32,
    /// State of the status service beside the CA.
    pub server_state: ServiceState,
    /// State of the status service beside PuppetDB.
    pub puppetdb_state: ServiceState,
    /// Puppet Enterprise: orchestrator, classifier and RBAC are served. Decided when the lab starts; a site that has
    /// them and names no `rbac_tokens` has one that may do everything a controller needs.
    pub enterprise: bool,
    /// When every valid RBAC token expires, by the lab's clock. None: 90 days from whenever it is asked.
    pub rbac_token_expires: Option<Timestamp>,
    /// `rbac-certificate-allowlist`: certnames that may do everything at orchestrator and classifier.
    pub rbac_certificate_allowlist: Vec<String>,
    /// State of the status services beside orchestrator and classifier.
    pub enterprise_state: ServiceState,
    /// State of the primary's file sync storage service.
    pub file_sync_state: ServiceState,
    /// Certname of the primary. If it is set, hosts admit a compiler only after they have run Puppet and found its catalog. `None`: every
    /// compiler is admitted from the start.
    pub primary: Option<String>,
    /// How long the primary's services are unavailable after a run of Puppet that changed what they read, in milliseconds of real time.
    pub services_restart_ms: u64,
    /// Whether agents use the primary's services: while these restart, no run can begin, and a report that is sent is lost.
    pub agents_need_services: bool,
    /// How long a compiler's run waits for its PuppetDB, which waits for its database, before it goes on and fails; in milliseconds of real
    /// time.
    pub puppetdb_start_limit_ms: u64,
    /// The environments that the orchestrator knows.
    pub environments: Vec<String>,
    /// The `challenge` of the secret `stagedoor/puppet`. None: one is made up; empty: the secret has none.
    pub challenge: Option<SecretString>,
    /// How long the Puppet run of an orchestrator job takes, in milliseconds of real time.
    pub run_ms: u64,
}

/// Tokens are secrets and stay out.
impl fmt::Debug for PuppetOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PuppetOptions")
            .field("server_version", &self.server_version)
            .field("controller", &self.controller)
            .finish_non_exhaustive()
    }
}

impl Default for PuppetOptions {
    fn default() -> Self {
        const FIVE_YEARS_S: u32 = 5 * 365 * 24 * 60 * 60;
        Self {
            server_version: ServerVersion::new(8, 7, 0),
            puppetdb_version: ServerVersion::new(8, 7, 2),
            allow_subject_alt_names: false,
            allow_authorization_extensions: false,
            allow_duplicate_certs: false,
            autosign: Autosign::Switch(false),
            enable_infra_crl: false,
            infra_nodes: Vec::new(),
            ca_ttl_s: FIVE_YEARS_S,
            controller: "stagedoor.example.net".to_owned(),
            controller_by_certname: true,
            controller_cli_auth: false,
            allow_request_deletion: false,
            puppetdb_allowlist: None,
            puppetdb_queue: QueueDelay::None,
            puppetdb_maintenance: false,
            rbac_tokens: None,
            ca_write_ms: 0,
            ca_clock_ahead_s: 0,
            puppetdb_clock_ahead_s: 0,
            server_state: ServiceState::Running,
            puppetdb_state: ServiceState::Running,
            enterprise: false,
            rbac_token_expires: None,
            rbac_certificate_allowlist: Vec::new(),
            enterprise_state: ServiceState::Running,
            file_sync_state: ServiceState::Running,
            primary: None,
            services_restart_ms: 0,
            agents_need_services: false,
            puppetdb_start_limit_ms: 60_000,
            environments: vec!["production".to_owned()],
            challenge: None,
            run_ms: 30,
        }
    }
}

/// This time on a clock that is so many seconds ahead.
fn ahead(at: Timestamp, seconds: i32) -> Timestamp {
    at.saturating_add(SignedDuration::from_secs(seconds.into())).unwrap_or(at)
}

impl PuppetOptions {
    /// A Puppet Enterprise site: all its services, and agents that are given the CRL of infrastructure nodes.
    #[must_use]
    pub fn enterprise() -> Self {
        Self { enterprise: true, enable_infra_crl: true, infra_nodes: vec![SERVER.to_owned()], ..Self::default() }
    }

    /// This time as the clock of the CA's host shows it.
    pub(crate) fn on_ca_clock(&self, at: Timestamp) -> Timestamp {
        ahead(at, self.ca_clock_ahead_s)
    }

    /// This time as PuppetDB's clock shows it.
    pub(crate) fn on_puppetdb_clock(&self, at: Timestamp) -> Timestamp {
        ahead(at, self.puppetdb_clock_ahead_s)
    }

    /// Gives a Puppet Enterprise site that names no tokens one that may do everything a controller needs.
    pub(super) fn with_token(mut self) -> Self {
        if self.enterprise && self.rbac_tokens.is_none() {
            let token = format!("lab-token-{}", Uuid::new_v4().simple());
            self.rbac_tokens = Some(BTreeMap::from([(token, TokenState::for_controller())]));
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clean_exists_from_the_release_of_each_line_that_brought_it() {
        let has_clean = |text: &str| text.parse::<ServerVersion>().unwrap().has_clean();
        assert!(!has_clean("5.3.14"));
        assert!(has_clean("5.3.15"));
        assert!(!has_clean("6.13.0"));
        assert!(has_clean("6.14.0"));
        assert!(has_clean("7.0.0"));
    }

    #[test]
    fn autosign_names_match_whole_labels_or_a_suffix() {
        let names = Autosign::Names(vec!["*.asg.example.net".to_owned(), "one".to_owned()]);
        assert!(names.covers("a.asg.example.net"));
        assert!(names.covers("one"));
        assert!(!names.covers("asg.example.net"));
        assert!(!names.covers("someone"));
    }

    #[test]
    fn options_are_read_from_json_and_do_not_print_tokens() {
        let text = r#"{
            "server_version": "7.9.5", "autosign": ["*.example.net"], "puppetdb_queue": {"reads": 2},
            "puppetdb_state": "starting", "rbac_tokens": {"0fd1c6e2": {"valid": ["nodes:view_data:*"]}, "8a": "expired"}
        }"#;
        let options: PuppetOptions = serde_json::from_str(text).unwrap();
        assert_eq!(options.server_version, ServerVersion::new(7, 9, 5));
        assert_eq!(options.puppetdb_queue, QueueDelay::Reads(2));
        assert!(options.autosign.covers("a.example.net"));
        assert_eq!(options.rbac_tokens.as_ref().unwrap()["8a"], TokenState::Expired);
        assert!(!format!("{options:?}").contains("0fd1c6e2"));
    }

    #[test]
    fn options_refuse_an_unknown_key() {
        let error = serde_json::from_str::<PuppetOptions>(r#"{"autosing":true}"#).unwrap_err();
        assert!(error.to_string().contains("autosing"));
    }
}
