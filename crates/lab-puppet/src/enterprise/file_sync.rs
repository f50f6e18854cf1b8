//! File sync on the primary: the newest commit of the Puppet code, and which one each compiler has. No I/O.
//! (<https://help.puppet.com/pe/2023.8/topics/filesync_check_deployments.htm>)

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::Puppet;
use crate::enterprise::admission::Services;
use crate::puppetdb::store::millis;

pub(crate) const SERVICE: &str = "file-sync-storage-service";
/// The one repository, and the one environment in it.
const CODE: &str = "puppet-code";
const ENVIRONMENT: &str = "production";

/// What the storage service knows. It keeps nothing of its clients on disk.
#[derive(Default)]
pub(crate) struct FileSync {
    newest: Option<String>,
    clients: BTreeMap<String, Client>,
}

struct Client {
    checked_in: Timestamp,
    /// What it said that it has.
    deployed: Option<String>,
}

impl FileSync {
    pub(crate) fn restart(&mut self) {
        self.clients.clear();
    }

    /// The `status` of the service. Only at the level `debug` does it say anything of code.
    pub(crate) fn status(&self, level: Option<&str>, now: Timestamp) -> Value {
        if level != Some("debug") {
            return json!({});
        }
        let clients: Map<String, Value> =
            self.clients.iter().map(|(name, client)| (name.clone(), described(client))).collect();
        json!({"timestamp": millis(now), "repos": {CODE: repository(self.newest.as_deref())}, "clients": clients})
    }
}

fn described(client: &Client) -> Value {
    let repos = client.deployed.as_ref().map(|commit| json!({CODE: repository(Some(commit))}));
    json!({"last_check_in_time": millis(client.checked_in), "repos": repos.unwrap_or_else(|| json!({}))})
}

fn repository(commit: Option<&str>) -> Value {
    let listed = |commit: &str| {
        let author = json!({"name": "Code Manager", "email": "code-manager@example.net"});
        json!({"commit": commit, "date": "2026-01-01T00:00:00Z", "message": "code-manager deploy", "author": author})
    };
    let environment =
        commit.map(|commit| json!({ENVIRONMENT: {"latest_commit": listed(&format!("{commit}-production"))}}));
    json!({"latest_commit": commit.map(listed), "submodules": environment.unwrap_or_else(|| json!({}))})
}

impl Puppet {
    /// Code Manager has deployed: this commit is the newest at the primary from now on.
    pub fn deploy_code(&self, commit: &str) {
        self.site.file_sync().newest = Some(commit.to_owned());
    }

    /// A compiler's file sync client checks in: it has this commit, or none yet. Returns `false` if the primary
    /// refuses the check-in: with 403 because it has not learnt of the compiler, or because its services are restarting.
    pub fn check_in(&self, certname: &str, deployed: Option<&str>) -> bool {
        if self.site.services() != Services::Running || !self.admits(certname) {
            return false;
        }
        // By the primary's clock, and so by the CA's.
        let checked_in = self.site.ca_time(&self.site.options());
        let client = Client { checked_in, deployed: deployed.map(str::to_owned) };
        self.site.file_sync().clients.insert(certname.to_owned(), client);
        true
    }

    /// The newest commit at the primary, which a file sync client fetches after it has checked in.
    #[must_use]
    pub fn newest_code(&self) -> Option<String> {
        self.site.file_sync().newest.clone()
    }

    /// The primary's Puppet Server restarts: it knows none of its clients until they check in again.
    pub fn restart_file_sync(&self) {
        self.site.file_sync().restart();
    }
}
