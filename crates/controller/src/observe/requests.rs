//! Pending certificate requests, with the instances that they name. Reads only.

use futures_util::stream::{self, StreamExt};
use stagedoor_lifecycle::orphans::{PendingRequest, Rules};
use stagedoor_types::{Certname, Service, Trouble};

use super::ask;
use crate::call::{AT_ONCE, in_turn};
use crate::context::{Puppet, Run};

/// How many requests are read in one housekeeping; the selection rotates with the time. Any client that reaches the CA can send
/// requests.
const READ: usize = 100;

/// The requests that name an instance, under names that a profile could have made and that have no certificate; some of them each
/// time, where there are many. `turn` says which. What cannot be read is left out: nothing is known of it.
pub(crate) async fn requests(
    run: Run<'_>,
    puppet: &Puppet,
    rules: &Rules<'_>,
    turn: i64,
) -> Result<Vec<PendingRequest>, Trouble> {
    let listed = ask(run, Service::Ca, puppet.ca.requested()).await?;
    let mut names: Vec<Certname> = listed.into_iter().filter_map(|status| status.name.parse().ok()).collect();
    names.retain(|name| rules.may_have_asked(name));
    names.sort();
    let reading = stream::iter(in_turn(&names, READ, turn)).map(|name| async move {
        let csr = ask(run, Service::Ca, puppet.ca.csr(name)).await.ok().flatten()?;
        let instance = csr.instance_id()?;
        // After the request: signing writes the certificate first.
        let certificate = ask(run, Service::Ca, puppet.ca.certificate(name)).await;
        let key_print = csr.key().fingerprint.to_string();
        matches!(certificate, Ok(None)).then(|| PendingRequest { certname: name.clone(), instance, key_print })
    });
    let read: Vec<Option<PendingRequest>> = reading.buffer_unordered(AT_ONCE).collect().await;
    Ok(read.into_iter().flatten().collect())
}
