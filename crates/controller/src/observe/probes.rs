//! What the probes of launching instances say. Reads only.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use stagedoor_lifecycle::onboard::ProbeResult;
use stagedoor_lifecycle::profile::Probe;
use stagedoor_puppet::{ServiceState, StatusApi};
use stagedoor_types::{ActionKey, Certname, Service};

use super::ask;
use crate::batch::{Answer, Query};
use crate::call::{AT_ONCE, within};
use crate::context::{Puppet, Run};

/// How long a port may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// What the probes of these instances say.
pub(super) async fn probes(run: Run<'_>, puppet: &Puppet, queries: &[&Query]) -> Vec<(ActionKey, Answer)> {
    let wanted =
        queries.iter().enumerate().flat_map(|(at, query)| query.probes.iter().map(move |probe| (at, *query, *probe)));
    let asked = stream::iter(wanted).map(|(at, query, probe)| async move {
        let answer = match &query.certname {
            Some(name) => ask_addresses(run, puppet, name, &query.addresses, probe).await,
            None => Err("its certname is unknown".to_owned()),
        };
        (at, probe, answer)
    });
    let mut said: Vec<Vec<(Probe, ProbeResult)>> = vec![Vec::new(); queries.len()];
    for (at, probe, answer) in asked.buffer_unordered(AT_ONCE).collect::<Vec<_>>().await {
        if let Some(of_query) = said.get_mut(at) {
            of_query.push((probe, answer));
        }
    }
    queries.iter().zip(said).map(|(query, said)| (query.key.clone(), Answer::Probes(said))).collect()
}

/// What a service said at one address.
enum Said {
    /// What it should, or what it said instead.
    Answered(ProbeResult),
    /// Nothing answers there.
    Unreachable(String),
}

/// Whether the node's service answers as it should at the first of its addresses that answers; the text says what it did instead.
async fn ask_addresses(
    run: Run<'_>,
    puppet: &Puppet,
    name: &Certname,
    addresses: &[IpAddr],
    probe: Probe,
) -> ProbeResult {
    let mut unreachable = Vec::new();
    for address in addresses {
        match ask_probe(run, puppet, name, *address, probe).await {
            Said::Answered(result) => return result,
            Said::Unreachable(why) if addresses.len() == 1 => return Err(why),
            Said::Unreachable(why) => unreachable.push(format!("{address}: {why}")),
        }
    }
    Err(if addresses.is_empty() { "EC2 shows no private address for it".to_owned() } else { unreachable.join("; ") })
}

async fn ask_probe(run: Run<'_>, puppet: &Puppet, name: &Certname, address: IpAddr, probe: Probe) -> Said {
    match probe {
        Probe::Report | Probe::AnyReport => Said::Answered(Ok(())),
        Probe::Status(port) => {
            let api = match StatusApi::of_node(&puppet.transport, name, SocketAddr::new(address, port)) {
                Ok(api) => api,
                Err(error) => return Said::Answered(Err(error.to_string())),
            };
            match ask(run, Service::Node, api.simple()).await {
                Ok(ServiceState::Running) => Said::Answered(Ok(())),
                Ok(ServiceState::Unreachable { reason }) => Said::Unreachable(reason),
                Ok(other) => Said::Answered(Err(format!("it says that it is {other}"))),
                Err(trouble) => Said::Answered(Err(trouble.text)),
            }
        }
        Probe::Tcp(port) => {
            let connecting = tokio::time::timeout(CONNECT, puppet.transport.connect(SocketAddr::new(address, port)));
            match within(run.context, run.budget.work, Service::Node, connecting).await {
                Ok(Ok(Ok(()))) => Said::Answered(Ok(())),
                Ok(Ok(Err(error))) => Said::Unreachable(error.to_string()),
                Ok(Err(_)) => Said::Unreachable("no answer within 5 s".to_owned()),
                Err(trouble) => Said::Answered(Err(trouble.text)),
            }
        }
    }
}
