//! Calls to services: each under a deadline of the invocation, each with a typed failure. The one place for both.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use stagedoor_types::{Certname, Kind, Service, Trouble, TroubleKind};

use crate::context::Context;

/// How many calls go to one service at a time.
pub(crate) const AT_ONCE: usize = 16;

/// Waits for this until then at the most.
pub(crate) async fn within<T>(
    context: &Context,
    until: Timestamp,
    service: Service,
    work: impl Future<Output = T>,
) -> Result<T, Trouble> {
    let left = Duration::try_from(until.duration_since(context.clock.now())).unwrap_or_default();
    // Boxed: the SDKs' futures are large, and would be copied through every step that awaits this one.
    tokio::time::timeout(left, Box::pin(work)).await.map_err(|_| Trouble {
        kind: TroubleKind::Timeout,
        service,
        text: format!("{service} did not answer in time"),
    })
}

/// A call to a service, whose answer must come until then.
pub(crate) async fn call<T, E: Kind + std::fmt::Display>(
    context: &Context,
    until: Timestamp,
    service: Service,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, Trouble> {
    within(context, until, service, work).await?.map_err(|error| Trouble::of(service, &error))
}

/// Whether a failure says that credentials were not accepted.
pub(crate) fn is_unauthenticated<T>(answer: &Result<T, Trouble>) -> bool {
    matches!(answer, Err(trouble) if trouble.kind == TroubleKind::Unauthenticated)
}

/// Each of these once, in order.
pub(crate) fn unique<'a, T: Ord + Clone + 'a>(all: impl Iterator<Item = &'a T>) -> Vec<T> {
    all.collect::<BTreeSet<_>>().into_iter().cloned().collect()
}

/// Those whose turn it is, at most so many.
pub(crate) fn in_turn(names: &[Certname], at_once: usize, turn: i64) -> &[Certname] {
    let turns = i64::try_from(names.len().div_ceil(at_once)).unwrap_or(i64::MAX).max(1);
    let chosen = usize::try_from(turn.rem_euclid(turns)).unwrap_or(0);
    names.chunks(at_once).nth(chosen).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_certificate_has_its_turn() {
        let names: Vec<Certname> = (0..250).map(|number| format!("n{number:03}").parse().unwrap()).collect();
        let seen: BTreeSet<&Certname> = (7..10).flat_map(|turn| in_turn(&names, 100, turn)).collect();
        assert_eq!(seen.len(), 250);
        assert!((0..9).all(|turn| in_turn(&names, 100, turn).len() <= 100));
        assert_eq!(in_turn(&[], 100, 3), []);
    }
}
