//! What file sync said, as the decision sees it. No I/O.

use stagedoor_lifecycle::onboard::{CheckIn, CodeView, Commits};
use stagedoor_puppet::{CodeCommit, CodeStatus};
use stagedoor_types::{Certname, Lookup, Trouble};

/// What the storage service said of one compiler.
pub(super) fn code_view(code: &Result<Option<CodeStatus>, Trouble>, name: &Certname) -> Lookup<CodeView> {
    let commits =
        |commit: &CodeCommit| Commits { commit: commit.commit.clone(), environments: commit.environments.clone() };
    match code {
        Err(trouble) => Lookup::Unavailable(trouble.clone()),
        Ok(None) => Lookup::Absent,
        Ok(Some(code)) => Lookup::Found(CodeView {
            newest: code.newest.as_ref().map(commits),
            client: code
                .clients
                .get(name.as_str())
                .map(|client| CheckIn { at: client.checked_in, deployed: client.deployed.as_ref().map(commits) }),
        }),
    }
}
