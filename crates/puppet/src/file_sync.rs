//! Puppet Enterprise's file sync: which Puppet code the compilers have, as the primary's storage service says. I/O.
//!
//! See [checking your deployments](https://help.puppet.com/pe/2023.8/topics/filesync_check_deployments.htm). The manual documents the
//! endpoint and what the answer holds, not its form; the form is that which
//! [peadm](https://github.com/puppetlabs/puppetlabs-peadm/blob/main/tasks/code_sync_status.rb) reads.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use reqwest::Method;
use serde::Deserialize;

use crate::error::{Error, Service};
use crate::http::{Ask, Connection, Endpoint};
use crate::status::is_no_such_service;
use crate::tls::Transport;

/// The status of the service looks through the working directories of the code: longer than that of others.
const TIMEOUT: Duration = Duration::from_secs(20);
const STORAGE: &str = "file-sync-storage-service";
/// The repository in which Code Manager deploys.
const CODE: &str = "puppet-code";

/// The primary's file sync storage service, read only.
#[derive(Debug, Clone)]
pub struct FileSync {
    connection: Connection,
}

/// What the storage service says of the repository `puppet-code`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CodeStatus {
    /// The newest commit; `None` if nothing was ever deployed.
    pub newest: Option<CodeCommit>,
    /// The compilers that have checked in since the service started, by certname. The primary's own services are among them.
    pub clients: BTreeMap<String, CodeClient>,
}

/// A commit of the code. It is file sync's own, not one of the control repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodeCommit {
    /// The commit of the whole.
    pub commit: String,
    /// The commit of each environment, as far as they are listed.
    pub environments: BTreeMap<String, String>,
}

/// A compiler, as it checked in last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodeClient {
    /// When, by the primary's clock; `None` if the answer does not say.
    pub checked_in: Option<Timestamp>,
    /// What it had deployed then; `None` if nothing.
    pub deployed: Option<CodeCommit>,
}

/// A commit: an object of its id, date, author and message, or its id alone.
#[derive(Deserialize)]
#[serde(untagged)]
enum Commit {
    Whole { commit: Option<String> },
    Id(String),
}

#[derive(Deserialize)]
struct Repository {
    #[serde(default)]
    latest_commit: Option<Commit>,
    #[serde(default)]
    submodules: Option<BTreeMap<String, Repository>>,
}

#[derive(Deserialize)]
struct Client {
    #[serde(default)]
    last_check_in_time: Option<String>,
    #[serde(default)]
    repos: Option<BTreeMap<String, Repository>>,
}

#[derive(Deserialize)]
struct Storage {
    repos: BTreeMap<String, Repository>,
    #[serde(default)]
    clients: BTreeMap<String, Client>,
}

impl FileSync {
    /// The storage service behind this port of the primary, which is that of its Puppet Server.
    #[must_use]
    pub fn new(transport: &Transport, endpoint: &Endpoint) -> Self {
        Self { connection: Connection::new(transport, endpoint, Service::Status) }
    }

    /// `GET services/file-sync-storage-service?level=debug`: the newest commit and what each compiler has deployed, in one call;
    /// `None` when Puppet Server has no such service. A service that is not running answers nothing: that is [`Error::Busy`].
    ///
    /// Called with the controller's certificate and without its token, which the status API does not know.
    pub async fn code(&self) -> Result<Option<CodeStatus>, Error> {
        #[derive(Deserialize)]
        struct Wire {
            state: String,
            status: serde_json::Value,
        }
        let path = ["status", "v1", "services", STORAGE];
        let ask = Ask::new(Method::GET, "GET services", &path, TIMEOUT).about(STORAGE);
        let answer = self.connection.send(ask.query(&[("level", "debug")]).large().without_token()).await?;
        match answer.status {
            200 => {
                let Wire { state, status } = answer.json()?;
                if state != "running" {
                    return Err(answer.busy());
                }
                match serde_json::from_value::<Storage>(status) {
                    Ok(mut storage) => match storage.repos.remove(CODE) {
                        Some(repository) => Ok(Some(code_status(repository, storage.clients))),
                        None => Err(answer.unexpected("it names no repository puppet-code")),
                    },
                    Err(error) => Err(answer.unexpected(error.to_string())),
                }
            }
            404 if is_no_such_service(&answer, STORAGE) => Ok(None),
            _ => Err(answer.into_error()),
        }
    }
}

fn code_status(code: Repository, clients: BTreeMap<String, Client>) -> CodeStatus {
    let client = |(name, client): (String, Client)| {
        let checked_in = client.last_check_in_time.as_deref().and_then(|time| time.parse().ok());
        let deployed = client.repos.and_then(|mut repos| commit(repos.remove(CODE)?));
        (name, CodeClient { checked_in, deployed })
    };
    CodeStatus { newest: commit(code), clients: clients.into_iter().map(client).collect() }
}

fn commit(repository: Repository) -> Option<CodeCommit> {
    let id = |commit: Option<Commit>| match commit? {
        Commit::Whole { commit } => commit.filter(|commit| !commit.is_empty()),
        Commit::Id(commit) => Some(commit).filter(|commit| !commit.is_empty()),
    };
    let environments = repository.submodules.unwrap_or_default().into_iter();
    Some(CodeCommit {
        commit: id(repository.latest_commit)?,
        environments: environments.filter_map(|(name, one)| Some((name, id(one.latest_commit)?))).collect(),
    })
}
