//! Deletes certificate requests that must not be signed, and nothing else under their names. Every write may safely be repeated.

use futures_util::stream::{self, StreamExt};
use stagedoor_lifecycle::decision::RefusedRequest;
use stagedoor_lifecycle::reason::{Code, Fact};
use stagedoor_lifecycle::receipt::{Outcome, StepKind};
use stagedoor_puppet::Error;
use stagedoor_types::{ActionKey, Certname, Service, Trouble, TroubleKind};

use super::remove::{CA_WRITES_AT_ONCE, delete_only_request};
use crate::batch::Reports;
use crate::call::call;
use crate::context::{PuppetWriter, Run};

/// What came of deleting a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Deletion {
    /// It is deleted, or had gone.
    Done,
    /// Another request or a certificate has taken its place.
    Changed,
    /// The CA permits only a deletion that would remove a new certificate as well: that is left to the sweep, of which one runs at a
    /// time.
    LeftToTheSweep,
}

/// Deletes the requests of launching instances that were refused; their launches wait for others.
pub(super) async fn refuse(
    run: Run<'_>,
    writer: &PuppetWriter,
    requests: Vec<(ActionKey, RefusedRequest)>,
    reports: &mut Reports,
) {
    let deletions = stream::iter(requests).map(|(key, request)| async move {
        let started = run.now();
        let deleted = delete_request(run, writer, &request.certname, &request.key_print).await;
        (key, request, deleted, run.context.clock.since(started))
    });
    let mut deletions = deletions.buffer_unordered(CA_WRITES_AT_ONCE);
    while let Some((key, RefusedRequest { certname, key_print, reason }, deleted, took)) = deletions.next().await {
        let report = reports.of(&key);
        match deleted {
            Ok(Deletion::Done) => {
                report.step(StepKind::Applied, took, format!("deleted a certificate request: {}", reason.text));
                report.refuse(reason, None);
            }
            Ok(Deletion::Changed) => {
                let changed = format!("the certificate request of {certname} has just changed; it is observed again");
                report.status(Outcome::Waiting, Fact::new(Code::NotSeenYet, changed));
                report.may_repeat = true;
            }
            Ok(Deletion::LeftToTheSweep) => {
                let left = format!("left to the sweep, which alone may delete it: {}", reason.text);
                report.step(StepKind::Observed, took, left);
                report.refuse(reason, Some(key_print));
            }
            Err(trouble) => {
                report.record(took, Err(trouble));
            }
        }
    }
}

/// Deletes the request that is pending under a name, if it still has this key (empty: if it still cannot be read).
///
/// The route that deletes nothing but a request is denied by the rules that Puppet Server ships. The other one deletes the
/// certificate under the name as well, without revoking it. So it is only taken by the sweep, and when there is no certificate.
pub(crate) async fn delete_request(
    run: Run<'_>,
    writer: &PuppetWriter,
    name: &Certname,
    key_print: &str,
) -> Result<Deletion, Trouble> {
    let ca = writer.ca.ca();
    let pending = call(run.context, run.budget.work, Service::Ca, async {
        match ca.csr(name).await {
            Err(Error::UnreadableRequest { .. }) => Ok(Some(String::new())),
            other => other.map(|csr| csr.map(|csr| csr.key().fingerprint.to_string())),
        }
    });
    match pending.await? {
        None => return Ok(Deletion::Done),
        Some(now) if now != key_print => return Ok(Deletion::Changed),
        Some(_) => {}
    }
    let deleting =
        async { if run.sweeps { delete_only_request(writer, name).await } else { writer.ca.delete_csr(name).await } };
    match call(run.context, run.budget.work, Service::Ca, deleting).await {
        Err(trouble) if trouble.kind == TroubleKind::NotPermitted && !run.sweeps => Ok(Deletion::LeftToTheSweep),
        // There is a certificate by now.
        Err(trouble) if trouble.kind == TroubleKind::NotTried => Ok(Deletion::Changed),
        other => other.map(|_| Deletion::Done),
    }
}
