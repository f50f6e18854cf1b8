//! What Puppet Enterprise keeps of a compiler that was purged. Pure.
//!
//! PuppetDB and RBAC admit compilers by certificate allowlists, to which Puppet Enterprise's modules only add lines. A line is harmless
//! while the certificate is revoked and these services read the CRL, but a certificate that is issued for the same name later is trusted
//! again. The controller cannot remove the lines, because they are in files on the primary.

use stagedoor_types::Lookup;

use super::TerminationView;
use crate::profile::{Probe, Profile};
use crate::reason::{Code, Fact};
use crate::removal::{Removals, is_compiler_role};

/// The lines that Puppet Enterprise keeps, if the instance was a compiler whose name may be in the allowlists: PuppetDB must have had its
/// node.
///
/// Whether it was a compiler is known from its certificate, if this invocation has removed that, or from its profile.
pub(super) fn allowlist_lines(profile: &Profile, seen: &TerminationView, removals: &Removals) -> Option<Fact> {
    let of_compilers = is_for_compilers(profile);
    let names = seen.names.iter().filter(|view| {
        let was_known = view.node.known().is_ok_and(|node| node.is_some_and(|node| node.deactivated.is_some()));
        let is_compiler = || removals.applied.get(&view.certname).is_some_and(|removal| removal.compiler);
        view.certificate == Lookup::Absent && was_known && (of_compilers || is_compiler())
    });
    let names: Vec<&str> = names.map(|view| view.certname.as_str()).collect();
    if names.is_empty() {
        return None;
    }
    Some(Fact::new(Code::AllowlistLinesKept, allowlist_lines_kept(&names.join(", "))))
}

/// What Puppet Enterprise keeps of compilers with these names.
#[must_use]
pub fn allowlist_lines_kept(names: &str) -> String {
    format!(
        "Puppet Enterprise keeps the lines of {names} in the certificate allowlists of PuppetDB and RBAC; a certificate that is issued for \
         the name again is trusted there"
    )
}

/// Whether a profile is for compilers of Puppet Enterprise: it permits their `pp_auth_role`, or it probes a service that only they have, a
/// PCP broker or file sync. (A port alone shows nothing: any service may listen on 8142.)
fn is_for_compilers(profile: &Profile) -> bool {
    let only_compilers = |probe: &Probe| match probe {
        Probe::FileSync => true,
        Probe::Service(_, service) => matches!(service.as_str(), "broker-service" | "file-sync-client-service"),
        Probe::Report | Probe::AnyReport | Probe::Status(_) | Probe::Tcp(_) => false,
    };
    profile.rules.permitted("pp_auth_role").any(is_compiler_role) || profile.ready.iter().any(only_compilers)
}
