//! PuppetDB: what can be read from it. I/O.
//!
//! See PuppetDB's [API](https://www.puppet.com/docs/puppetdb/8/api/overview.html). Writes are in
//! [`PuppetDbAdmin`], a type that an observe-only deployment never makes.

mod admin;
mod ast;
mod node;
mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use reqwest::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use stagedoor_types::{Certname, InstanceId, Location};

pub use admin::{Deactivated, PuppetDbAdmin};
pub use node::{KnownIdentity, NodeStatus};
pub use report::{Report, RunTimes, StoredCatalog};

use crate::error::{Error, Service};
use crate::http::{Ask, Connection, Endpoint};
use crate::rows::{Row, Rows};
use crate::tls::Transport;

const TIMEOUT: Duration = Duration::from_secs(20);

/// So many names go into one query: 500 names are about 20 KiB of text.
const NAMES_PER_QUERY: usize = 500;

/// So many nodes go into one query for their runs, each with a time.
const NODES_PER_RUNS_QUERY: usize = 100;

/// For so long after a time runs are searched for: no lifecycle action lives longer than 48 hours.
const RUNS_FOR: SignedDuration = SignedDuration::from_hours(50);

/// So many nodes' facts go into one answer: those of a node may be 100 KiB.
const NODES_PER_FACTS_QUERY: usize = 50;

/// What is read of a report.
const REPORT: [&str; 11] = [
    "certname",
    "start_time",
    "end_time",
    "producer_timestamp",
    "receive_time",
    "status",
    "job_id",
    "noop",
    "cached_catalog_status",
    "catalog_uuid",
    "metrics",
];

/// PuppetDB, read only.
#[derive(Debug, Clone)]
pub struct PuppetDb {
    connection: Connection,
}

impl PuppetDb {
    /// The PuppetDB at an address.
    #[must_use]
    pub fn new(transport: &Transport, endpoint: &Endpoint) -> Self {
        Self { connection: Connection::new(transport, endpoint, Service::PuppetDb) }
    }

    /// `GET nodes/<certname>`: the node of this name, deactivated and expired ones included.
    pub async fn node(&self, certname: &Certname) -> Result<Option<NodeStatus>, Error> {
        /// PuppetDB's own 404; that of anything else in between has another shape.
        #[derive(Deserialize)]
        struct Unknown {
            #[serde(rename = "error")]
            _error: String,
        }
        let path = ["pdb", "query", "v4", "nodes", certname.as_str()];
        let ask = Ask::new(Method::GET, "GET nodes", &path, TIMEOUT).about(certname);
        let answer = self.connection.send(ask).await?;
        match answer.status {
            200 => {
                let node: NodeStatus = answer.json()?;
                if node.certname == *certname {
                    Ok(Some(node))
                } else {
                    Err(answer.unexpected(format!("it is about {}", node.certname)))
                }
            }
            404 if answer.json::<Unknown>().is_ok() => Ok(None),
            _ => Err(answer.into_error()),
        }
    }

    /// The nodes of these names, deactivated and expired ones included; unknown names are left
    /// out. One query for every 500 names.
    pub async fn nodes(&self, certnames: &[Certname]) -> Result<Vec<NodeStatus>, Error> {
        let mut nodes = Vec::with_capacity(certnames.len());
        for chunk in certnames.chunks(NAMES_PER_QUERY) {
            // No projection: fields differ between versions, and a node is small.
            let query = json!(["from", "nodes", ["and", ast::named(chunk), ast::in_any_state()]]);
            nodes.extend(self.rows::<NodeStatus>(&query).await?);
        }
        Ok(nodes)
    }

    /// Which instance each of these names belongs to, as far as PuppetDB knows, deactivated and
    /// expired nodes included. Names without any such fact are left out.
    ///
    /// One query for every 500 names, of the facts `trusted` and `ec2_metadata` alone.
    pub async fn identities(&self, certnames: &[Certname]) -> Result<Vec<KnownIdentity>, Error> {
        let mut facts = Vec::new();
        for chunk in certnames.chunks(NAMES_PER_QUERY) {
            let wanted = json!(["in", "name", ["array", ["trusted", "ec2_metadata"]]]);
            let condition = json!(["and", wanted, ast::named(chunk), ast::in_any_state()]);
            let query = json!(["from", "facts", ["extract", ["certname", "name", "value"], condition]]);
            facts.extend(self.query::<node::Fact>(&query).await?);
        }
        Ok(KnownIdentity::collect(facts))
    }

    /// The facts of these names with these first names, `trusted` among them if it is named; all facts where no names are given. Names
    /// without any are left out, deactivated and expired nodes included. One query for every 50 names.
    pub async fn facts(
        &self,
        certnames: &[Certname],
        names: Option<&BTreeSet<String>>,
    ) -> Result<BTreeMap<Certname, Map<String, Value>>, Error> {
        let mut all: BTreeMap<Certname, Map<String, Value>> = BTreeMap::new();
        for chunk in certnames.chunks(NODES_PER_FACTS_QUERY) {
            let mut condition = vec![json!("and"), ast::named(chunk), ast::in_any_state()];
            condition.extend(names.map(ast::facts_named));
            let query = json!(["from", "facts", ["extract", ["certname", "name", "value"], condition]]);
            for node::Fact { certname, name, value } in self.query::<node::Fact>(&query).await? {
                if let Ok(certname) = certname.parse() {
                    all.entry(certname).or_default().insert(name, value);
                }
            }
        }
        Ok(all)
    }

    /// What the certificate of every active node said at its newest run, but for nodes whose fact `ec2_metadata` says that they are
    /// in another account or Region. Nodes that never sent facts are left out. One query, of the fact `trusted` alone, whose answer
    /// is read as it arrives: `keep` says what is kept of each.
    pub async fn certified<T: Send>(
        &self,
        home: Option<&Location>,
        mut keep: impl FnMut(KnownIdentity) -> Option<T> + Send,
    ) -> Result<Vec<T>, Error> {
        let trusted = json!(["=", "name", "trusted"]);
        let condition = match home {
            Some(home) => json!(["and", trusted, ["not", ast::elsewhere(home)]]),
            None => trusted,
        };
        let query = json!(["from", "facts", ["extract", ["certname", "name", "value"], condition]]);
        let mut kept = Vec::new();
        let each = |fact: node::Fact| kept.extend(KnownIdentity::collect(vec![fact]).into_iter().filter_map(&mut keep));
        self.connection.elements(Self::ask(&query), each).await?;
        Ok(kept)
    }

    /// The name of each active node. One query, whose answer is read as it arrives.
    pub async fn active_names(&self, mut each: impl FnMut(&str) + Send) -> Result<(), Error> {
        #[derive(Deserialize)]
        struct Name {
            certname: String,
        }
        let query = json!(["from", "nodes", ["extract", ["certname"], ["=", "node_state", "active"]]]);
        self.connection.elements(Self::ask(&query), |name: Name| each(&name.certname)).await
    }

    /// The names of the nodes, deactivated and expired ones included, whose fact `ec2_metadata` says that they are, or were, in
    /// this account and Region. One query.
    pub async fn located_in(&self, home: &Location) -> Result<BTreeSet<Certname>, Error> {
        #[derive(Deserialize)]
        struct Name {
            certname: String,
        }
        let query = json!(["from", "fact_contents", ["extract", ["certname"], ast::located_in(home)]]);
        let mut names = BTreeSet::new();
        let each = |name: Name| names.extend(name.certname.parse::<Certname>());
        self.connection.elements(Self::ask(&query), each).await?;
        Ok(names)
    }

    /// The newest report of each of these nodes, no matter what started the run, with its metrics, which are some kilobytes. Nodes without any
    /// are left out, and so are deactivated and expired ones. One query for every 500 names.
    pub async fn latest_reports(&self, certnames: &[Certname]) -> Result<Vec<Report>, Error> {
        let mut reports = Vec::with_capacity(certnames.len());
        for chunk in certnames.chunks(NAMES_PER_QUERY) {
            let condition = json!(["and", ["=", "latest_report?", true], ast::named(chunk)]);
            let query = json!(["from", "reports", ["extract", REPORT, condition]]);
            reports.extend(self.rows::<Report>(&query).await?);
        }
        Ok(reports)
    }

    /// The runs of these nodes of which PuppetDB heard in the 50 hours after a time, each node's own, by its own clock
    /// (`receive_time`), in any order, with their metrics, which are some kilobytes for each run. A node may be named more than once.
    /// Deactivated and expired nodes are left out. One query for every 100 nodes.
    pub async fn runs_since(&self, wanted: &[(Certname, Timestamp)]) -> Result<Vec<Report>, Error> {
        let mut reports = Vec::new();
        for chunk in wanted.chunks(NODES_PER_RUNS_QUERY) {
            let query = json!(["from", "reports", ["extract", REPORT, ast::heard_of(chunk, RUNS_FOR)]]);
            reports.extend(self.rows::<Report>(&query).await?);
        }
        Ok(reports)
    }

    /// The stored catalog of each of these nodes: PuppetDB keeps the newest, from when it was compiled on, however the run ends. Nodes without
    /// any are left out, and so are deactivated and expired ones. One query for every 500 names, without the catalogs' contents.
    pub async fn catalogs(&self, certnames: &[Certname]) -> Result<Vec<StoredCatalog>, Error> {
        let fields = ["certname", "catalog_uuid", "producer_timestamp"];
        let mut catalogs = Vec::with_capacity(certnames.len());
        for chunk in certnames.chunks(NAMES_PER_QUERY) {
            let query = json!(["from", "catalogs", ["extract", fields, ast::named(chunk)]]);
            catalogs.extend(self.rows::<StoredCatalog>(&query).await?);
        }
        Ok(catalogs)
    }

    /// The nodes that were deactivated after this time and still are, with when; the last one first, and at most so many. One query of all
    /// inactive nodes, whose answer is read as it arrives: PuppetDB cannot compare the time of a deactivation.
    pub async fn deactivated_since(&self, since: Timestamp, most: usize) -> Result<Vec<(Certname, Timestamp)>, Error> {
        #[derive(Deserialize)]
        struct Node {
            certname: String,
            deactivated: Option<Timestamp>,
        }
        let query = json!(["from", "nodes", ["extract", ["certname", "deactivated"], ["=", "node_state", "inactive"]]]);
        let mut newest: BTreeSet<(Timestamp, Certname)> = BTreeSet::new();
        let each = |node: Node| {
            let Some(deactivated) = node.deactivated.filter(|time| *time > since) else { return };
            newest.extend(node.certname.parse().ok().map(|name| (deactivated, name)));
            if newest.len() > most {
                newest.pop_first();
            }
        };
        self.connection.elements(Self::ask(&query), each).await?;
        Ok(newest.into_iter().rev().map(|(time, name)| (name, time)).collect())
    }

    /// The names under which these instances are known, by certificate extension or by fact, deactivated and expired
    /// nodes included. An instance that is not known has none. One query for every 500 instances.
    pub async fn certnames_of(
        &self,
        instances: &[InstanceId],
    ) -> Result<BTreeMap<InstanceId, BTreeSet<Certname>>, Error> {
        #[derive(Deserialize)]
        struct Named {
            certname: Certname,
            value: InstanceId,
        }
        impl Row for Named {}
        let mut names: BTreeMap<_, BTreeSet<_>> = instances.iter().map(|id| (id.clone(), BTreeSet::new())).collect();
        for chunk in instances.chunks(NAMES_PER_QUERY) {
            let certified = json!(["=", "path", ["trusted", "extensions", "pp_instance_id"]]);
            let reported = json!(["=", "path", ["ec2_metadata", "instance-id"]]);
            let known = json!(["in", "value", ["array", chunk]]);
            let condition = json!(["and", ["or", certified, reported], known, ast::in_any_state()]);
            let query = json!(["from", "fact_contents", ["extract", ["certname", "value"], condition]]);
            for Named { certname, value } in self.rows::<Named>(&query).await? {
                names.entry(value).or_default().insert(certname);
            }
        }
        Ok(names)
    }

    /// The rows of a query, without those of names that are no certnames.
    async fn rows<T: Row>(&self, query: &Value) -> Result<Vec<T>, Error> {
        let rows: Rows<T> = self.connection.json(Self::ask(query)).await?;
        Ok(rows.valid())
    }

    fn ask(query: &Value) -> Ask<'static> {
        let ask = Ask::new(Method::POST, "POST query", &["pdb", "query", "v4"], TIMEOUT);
        ask.json(json!({ "query": query })).large()
    }

    /// The rows of any query in the [AST query language](https://www.puppet.com/docs/puppetdb/8/api/query/v4/ast.html):
    /// `["from", ENTITY, …]`. Inactive nodes are left out unless the query has a condition on `node_state`, such as
    /// `["=", "node_state", "any"]`.
    ///
    /// A text in the query is a value, whatever characters it has. Only the list of an `array` must not begin with a word
    /// of the query language, because PuppetDB takes such a list for an expression. [`Error::Refused`] says that PuppetDB
    /// does not know an operator, an entity or a field.
    pub async fn query<T: DeserializeOwned>(&self, query: &Value) -> Result<Vec<T>, Error> {
        self.connection.json(Self::ask(query)).await
    }

    /// PuppetDB's clock, by which timestamps of commands are compared.
    pub async fn server_time(&self) -> Result<Timestamp, Error> {
        #[derive(Deserialize)]
        struct Wire {
            server_time: Timestamp,
        }
        let path = ["pdb", "meta", "v1", "server-time"];
        let ask = Ask::new(Method::GET, "GET server-time", &path, TIMEOUT);
        Ok(self.connection.json::<Wire>(ask).await?.server_time)
    }

    /// PuppetDB's version: `8.7.2`.
    pub async fn version(&self) -> Result<String, Error> {
        #[derive(Deserialize)]
        struct Wire {
            version: String,
        }
        let ask = Ask::new(Method::GET, "GET version", &["pdb", "meta", "v1", "version"], TIMEOUT);
        Ok(self.connection.json::<Wire>(ask).await?.version)
    }
}
