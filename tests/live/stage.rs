//! The real servers that `tests/live/stage up` has started, as its descriptor says. Reads files.

use std::path::PathBuf;

use serde_json::Value;
use tokio::sync::{Mutex, MutexGuard};

/// Puppet Server 7.9 loses a revocation when another request of `clean` writes the CRL at the same time. So of the tests
/// in which something is cleaned on the servers that all share, one runs at a time; it holds this as long as it does.
pub(crate) async fn turn_to_clean() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::const_new(());
    TURN.lock().await
}

/// What a test has to know about the stage.
pub(crate) struct LiveStage {
    pub(crate) ca_url: String,
    pub(crate) puppetdb_url: String,
    /// The CA's certificates, PEM.
    pub(crate) ca_cert: String,
    pub(crate) controller: Client,
    pub(crate) outsider: Client,
    pub(crate) puppetserver_version: String,
    pub(crate) puppetdb_version: String,
    pub(crate) agent_version: String,
    /// The directory of agents.
    pub(crate) agents: PathBuf,
    /// The servers' logs.
    pub(crate) logs: PathBuf,
    /// The CA's own directory, on this machine.
    pub(crate) ca_directory: PathBuf,
}

/// A client of the CA and PuppetDB, with the texts of its PEM files.
pub(crate) struct Client {
    pub(crate) certname: String,
    pub(crate) cert: String,
    pub(crate) key: String,
}

impl LiveStage {
    pub(crate) fn read() -> Self {
        let path = crate::e2e::rehearsal::repository().join(".cache/live/stage.json");
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| {
            panic!("{}: {error}; `sudo tests/live/stage up` starts the real servers", path.display())
        });
        let stage: Value = serde_json::from_str(&text).expect("the stage's descriptor is JSON");
        let text = |value: &Value| value.as_str().expect("the stage's descriptor is complete").to_owned();
        let file = |value: &Value| {
            let path = text(value);
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}; is this its owner?"))
        };
        let client = |value: &Value| Client {
            certname: text(&value["certname"]),
            cert: file(&value["cert"]),
            key: file(&value["key"]),
        };
        Self {
            ca_url: text(&stage["ca_url"]),
            puppetdb_url: text(&stage["puppetdb_url"]),
            ca_cert: file(&stage["ca_cert"]),
            controller: client(&stage["controller"]),
            outsider: client(&stage["outsider"]),
            puppetserver_version: text(&stage["puppetserver_version"]),
            puppetdb_version: text(&stage["puppetdb_version"]),
            agent_version: text(&stage["agent_version"]),
            agents: text(&stage["agents"]).into(),
            logs: text(&stage["logs"]).into(),
            ca_directory: text(&stage["ca_directory"]).into(),
        }
    }
}
