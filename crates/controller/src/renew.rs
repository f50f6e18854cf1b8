//! Reads the secret anew where it may have been rotated since: for each reason once in an invocation.

use stagedoor_types::{Service, Trouble};

use crate::call::call;
use crate::context::{Puppet, Run};
use crate::snapshot::PuppetSnapshot;

/// For what the secret was read anew in this invocation.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Renewed {
    /// Puppet refused the credentials.
    credentials: bool,
    /// A request had another challenge, which may be a newer one.
    challenge: bool,
}

impl Renewed {
    /// Before a challenge is called wrong: compares it with that of a new reading.
    pub(crate) async fn challenge(&mut self, run: Run<'_>, puppet: &Puppet, snapshot: &mut PuppetSnapshot) {
        if self.challenge || !snapshot.has_another_challenge() {
            return;
        }
        match reopen(run, puppet).await {
            Ok(challenges) => {
                self.challenge = true;
                snapshot.challenges = challenges.challenges.clone();
            }
            Err(trouble) => snapshot.challenge_unknown = Some(trouble),
        }
    }

    /// After Puppet has refused the credentials; returns whether there are others to try.
    pub(crate) async fn credentials(&mut self, run: Run<'_>, puppet: &Puppet) -> bool {
        !std::mem::replace(&mut self.credentials, true) && reopen(run, puppet).await.is_ok()
    }
}

async fn reopen(run: Run<'_>, puppet: &Puppet) -> Result<std::sync::Arc<Puppet>, Trouble> {
    let reopening = run.context.puppet.reopen(puppet, run.now());
    call(run.context, run.budget.work, Service::SecretsManager, reopening).await
}
