//! What the probes of launching instances say. Reads only.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use stagedoor_lifecycle::onboard::{Poll, ProbeResult};
use stagedoor_lifecycle::profile::Probe;
use stagedoor_puppet::{ServiceState, StatusApi};
use stagedoor_types::{ActionKey, Certname, Service, Trouble};

use super::ask;
use crate::batch::{Answer, Query};
use crate::call::{AT_ONCE, within};
use crate::context::{Puppet, Run};
use crate::snapshot::{PuppetSnapshot, certificate_view};

/// How long a port may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// What the probes of these instances say, and in how many polls in a row they have succeeded. File sync is read once a pass.
pub(super) async fn probes(
    run: Run<'_>,
    puppet: &Puppet,
    snapshot: &PuppetSnapshot,
    queries: &[&Query],
) -> Vec<(ActionKey, Answer)> {
    let on_nodes = |query: &&Query| query.probes.iter().filter(|probe| **probe != Probe::FileSync).cloned().collect();
    let wanted: Vec<Vec<Probe>> = queries.iter().map(on_nodes).collect();
    let wanted = wanted.into_iter().enumerate().zip(queries);
    let wanted = wanted.flat_map(|((at, probes), query)| probes.into_iter().map(move |probe| (at, *query, probe)));
    let asked = stream::iter(wanted).map(|(at, query, probe)| async move {
        let answer = match &query.certname {
            Some(name) => ask_addresses(run, puppet, name, &query.addresses, &probe).await,
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
    let polled = |(query, said): (&&Query, Vec<(Probe, ProbeResult)>)| {
        let code = query.certname.as_ref().and_then(|name| snapshot.code_of(name));
        let code = code.filter(|_| query.probes.contains(&Probe::FileSync));
        let poll = Poll { said, code };
        let certificate = query.certificate.as_ref().map(|own| certificate_view(own, None));
        let is_good = certificate.is_some_and(|own| poll.failing(&query.probes, &own).is_none());
        let polls = run.context.memory.polled(&query.key, is_good, run.now());
        (query.key.clone(), Answer::Poll(poll, polls))
    };
    queries.iter().zip(said).map(polled).collect()
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
    probe: &Probe,
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

async fn ask_probe(run: Run<'_>, puppet: &Puppet, name: &Certname, address: IpAddr, probe: &Probe) -> Said {
    match probe {
        Probe::Report | Probe::AnyReport | Probe::FileSync => Said::Answered(Ok(())),
        Probe::Status(port) => match status_api(puppet, name, address, *port) {
            Ok(api) => said(ask(run, Service::Node, api.simple()).await.map(Some)),
            Err(why) => Said::Answered(Err(why)),
        },
        Probe::Service(port, service) => match status_api(puppet, name, address, *port) {
            Ok(api) => said(ask(run, Service::Node, api.simple_of(service.as_str())).await),
            Err(why) => Said::Answered(Err(why)),
        },
        Probe::Tcp(port) => {
            let connecting = tokio::time::timeout(CONNECT, puppet.transport.connect(SocketAddr::new(address, *port)));
            match within(run.context, run.budget.work, Service::Node, connecting).await {
                Ok(Ok(Ok(()))) => Said::Answered(Ok(())),
                Ok(Ok(Err(error))) => Said::Unreachable(error.to_string()),
                Ok(Err(_)) => Said::Unreachable("no answer within 5 s".to_owned()),
                Err(trouble) => Said::Answered(Err(trouble.text)),
            }
        }
    }
}

fn status_api(puppet: &Puppet, name: &Certname, address: IpAddr, port: u16) -> Result<StatusApi, String> {
    StatusApi::of_node(&puppet.transport, name, SocketAddr::new(address, port)).map_err(|error| error.to_string())
}

/// What the state of a service is to a probe; `None` is that there is no such service.
fn said(state: Result<Option<ServiceState>, Trouble>) -> Said {
    match state {
        Ok(Some(ServiceState::Running)) => Said::Answered(Ok(())),
        Ok(Some(ServiceState::Unreachable { reason })) => Said::Unreachable(reason),
        Ok(Some(other)) => Said::Answered(Err(format!("it says that it is {other}"))),
        Ok(None) => Said::Answered(Err("it has no such service".to_owned())),
        Err(trouble) => Said::Answered(Err(trouble.text)),
    }
}
