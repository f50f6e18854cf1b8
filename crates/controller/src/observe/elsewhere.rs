//! Where instances are that wait for their certificate request: under which other names Puppet knows them. Reads only, and bounded: what is
//! found is a hint for an operator, and what cannot be asked is left out.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::stream::{self, StreamExt};
use stagedoor_lifecycle::onboard::Elsewhere;
use stagedoor_types::{Certname, InstanceId, Service};

use super::ask;
use super::lookups::Answers;
use crate::batch::{Answer, Query};
use crate::call::{AT_ONCE, in_turn, is_unauthenticated, unique};
use crate::context::{Puppet, Run};
use crate::snapshot::PuppetSnapshot;

/// How many requests under names that nothing expects are read in one invocation. Any client that reaches the CA can send requests.
const READ: usize = 20;
/// How long the same requests are read, in seconds; then it is the others' turn.
const TURN: i64 = 60;

/// Looks for these instances in PuppetDB, and among the requests under names that no launch expects.
pub(super) async fn elsewhere(run: Run<'_>, puppet: &Puppet, snapshot: &PuppetSnapshot, queries: &[&Query]) -> Answers {
    if queries.is_empty() {
        return Answers::default();
    }
    let instances: Vec<InstanceId> = unique(queries.iter().map(|query| &query.key.instance));
    let (known, requests) = tokio::join!(
        ask(run, Service::PuppetDb, puppet.puppetdb.certnames_of(&instances)),
        ask(run, Service::Ca, puppet.ca.requested())
    );
    let unauthenticated = is_unauthenticated(&known) || is_unauthenticated(&requests);
    let expected: BTreeSet<&Certname> = queries.iter().filter_map(|query| query.certname.as_ref()).collect();
    let requests = requests.unwrap_or_default().into_iter().filter_map(|status| status.name.parse().ok());
    let others: Vec<Certname> = requests.filter(|name| !snapshot.files.contains_key(name)).collect();
    let turn = run.now().as_second() / TURN;
    let reading = stream::iter(chosen(others, &expected, turn)).map(|name| async move {
        let csr = ask(run, Service::Ca, puppet.ca.csr(&name)).await.ok().flatten()?;
        Some((csr.instance_id()?, name))
    });
    let mut found: BTreeMap<InstanceId, BTreeSet<Elsewhere>> = BTreeMap::new();
    for (instance, name) in reading.buffer_unordered(AT_ONCE).filter_map(std::future::ready).collect::<Vec<_>>().await {
        found.entry(instance).or_default().insert(Elsewhere::Request(name));
    }
    for (instance, names) in known.unwrap_or_default() {
        found.entry(instance).or_default().extend(names.into_iter().map(Elsewhere::Facts));
    }
    let answer = |query: &&Query| {
        let expected = query.certname.as_ref();
        let others = found.get(&query.key.instance).into_iter().flatten().filter(|found| {
            let (Elsewhere::Facts(name) | Elsewhere::Request(name)) = found;
            Some(name) != expected
        });
        (query.key.clone(), Answer::Elsewhere(others.cloned().collect()))
    };
    Answers { all: queries.iter().map(answer).collect(), unauthenticated }
}

/// The requests to read: first those with the host name of an instance that is looked for and another domain, then those whose turn it
/// is.
fn chosen(mut names: Vec<Certname>, expected: &BTreeSet<&Certname>, turn: i64) -> Vec<Certname> {
    fn host(name: &Certname) -> &str {
        name.as_str().split('.').next().unwrap_or_default()
    }
    names.sort();
    let hosts: BTreeSet<&str> = expected.iter().map(|name| host(name)).collect();
    let (mut chosen, others): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| hosts.contains(host(name)));
    chosen.truncate(READ);
    let left = READ - chosen.len();
    if left > 0 {
        chosen.extend_from_slice(in_turn(&others, left, turn));
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: impl IntoIterator<Item = String>) -> Vec<Certname> {
        names.into_iter().map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn a_request_with_the_same_host_name_is_read_first_and_every_other_has_its_turn() {
        let expected: Certname = "ip-10-0-3-7.ec2.internal".parse().unwrap();
        let expected = BTreeSet::from([&expected]);
        let flood = || (0..95).map(|number| format!("n{number:02}"));
        let requests = || names(flood().chain(["ip-10-0-3-7.corp.example.com".to_owned()]));
        let mut read = BTreeSet::new();
        for turn in 100..105 {
            let chosen = chosen(requests(), &expected, turn);
            assert!(chosen.len() <= READ);
            assert_eq!(chosen[0].as_str(), "ip-10-0-3-7.corp.example.com");
            read.extend(chosen);
        }
        assert_eq!(read.len(), 96);
        let many = names((0..50).map(|number| format!("ip-10-0-3-7.n{number}")));
        assert_eq!(chosen(many, &expected, 7).len(), READ, "not even those are all read");
        assert_eq!(chosen(Vec::new(), &expected, 7), []);
    }
}
