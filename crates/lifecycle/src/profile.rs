//! What an operator configures for the instances of a group, as checked values. No I/O.

mod probe;
mod refresh;
mod template;

use std::time::Duration;

pub use probe::{InvalidProbe, Probe};
pub use refresh::{OnRefreshTimeout, Refresh, RefreshAfter};
use stagedoor_types::broken::{Rule, is_broken};
use stagedoor_types::{ActionResult, Certname, HookName, Mode, ProfileName};
pub use template::{AltNameTemplate, CertnameTemplate, InvalidTemplate};

use crate::signing::SigningRules;

/// How the instances of a group are handled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// Its name, as the group's tag gives it.
    pub name: ProfileName,
    /// Whether anything is changed for its instances.
    pub mode: Mode,
    /// How an instance's certname is made.
    pub certname: CertnameTemplate,
    /// The beginning of the names of the hooks that are ours; hooks of other tools are left to them.
    pub hook_prefix: String,
    /// Who signs certificate requests.
    pub sign: SignMode,
    /// What a request must be like to be signed, and a certificate that was signed by other means to be accepted.
    pub rules: SigningRules,
    /// Node groups to pin a launching node to.
    pub pin: Vec<String>,
    /// Node groups that a launching node must be in before it may serve.
    pub classified: Vec<String>,
    /// Nodes that must run Puppet after a change.
    pub refresh: Refresh,
    /// What a launching node needs before it may serve: a Puppet run, and services that answer.
    pub ready: Vec<Probe>,
    /// Whether an instance may get a new certificate in place of its own old one.
    pub rekey: Rekey,
    /// How long a launching instance is held at the most.
    pub launch_timeout: Duration,
    /// The result that a launch is completed with when its timeout expires.
    pub on_launch_timeout: ActionResult,
    /// How long a terminating instance is held at the most.
    pub terminate_timeout: Duration,
    /// The result that a termination is completed with when its timeout expires.
    pub on_terminate_timeout: ActionResult,
}

impl Profile {
    /// A profile with nothing but what must be there, for tests.
    #[cfg(test)]
    pub(crate) fn example() -> Self {
        Self {
            name: "compiler".parse().unwrap(),
            mode: Mode::Act,
            certname: "{private_dns}".parse().unwrap(),
            hook_prefix: "stagedoor-".into(),
            sign: SignMode::Verify,
            rules: SigningRules::default(),
            pin: Vec::new(),
            classified: Vec::new(),
            refresh: Refresh::default(),
            ready: vec![Probe::Report],
            rekey: Rekey::Allow,
            launch_timeout: Duration::from_secs(1800),
            on_launch_timeout: ActionResult::Abandon,
            terminate_timeout: Duration::from_secs(600),
            on_terminate_timeout: ActionResult::Continue,
        }
    }

    /// The Puppet run that a launching node must have ended: the strictest that `ready` names.
    #[must_use]
    pub fn awaited_run(&self) -> AwaitedRun {
        if self.ready.contains(&Probe::Report) {
            AwaitedRun::Successful
        } else if self.ready.contains(&Probe::AnyReport) {
            AwaitedRun::WithCatalog
        } else {
            AwaitedRun::None
        }
    }

    /// Whether actions of this hook are ours to complete.
    #[must_use]
    pub fn owns(&self, hook: &HookName) -> bool {
        hook.as_str().starts_with(&self.hook_prefix)
    }
}

/// The Puppet run that a launching node must have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AwaitedRun {
    /// None.
    None,
    /// Any run with a catalog that was compiled for it.
    WithCatalog,
    /// A successful run.
    Successful,
}

/// Who signs certificate requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignMode {
    /// The controller, after its checks.
    Verify,
    /// Another signer; the controller checks the certificate.
    External,
}

/// What to do about an instance that has a new key and still its old certificate, as after its root volume was
/// replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rekey {
    /// Clean the old certificate, so that it may have a new one, while a hook holds it.
    Allow,
    /// Leave it to an operator.
    Refuse,
}

/// Names that are never purged: exact certnames, and `*.example.com` for everything below a domain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Protected(Vec<String>);

impl Protected {
    /// From patterns; the first one that is neither a certname nor `*.` and a domain is the error.
    pub fn new<S: Into<String>>(patterns: impl IntoIterator<Item = S>) -> Result<Self, String> {
        let mut kept = Vec::new();
        for pattern in patterns {
            let pattern: String = pattern.into();
            let name = pattern.strip_prefix("*.").unwrap_or(&pattern);
            name.parse::<Certname>()
                .map_err(|_| format!("{pattern:?} is neither a certname nor \"*.\" and a domain"))?;
            kept.push(pattern);
        }
        Ok(Self(kept))
    }

    /// Also protects this one name.
    #[must_use]
    pub fn and(mut self, name: &Certname) -> Self {
        self.0.push(name.to_string());
        self
    }

    /// The pattern that protects this name, if one does.
    #[must_use]
    pub fn protects(&self, name: &Certname) -> Option<&str> {
        if is_broken(Rule::Protected) {
            return None;
        }
        self.0.iter().map(String::as_str).find(|pattern| match pattern.strip_prefix("*.") {
            Some(domain) => {
                name.as_str().strip_suffix(domain).is_some_and(|host| host.len() > 1 && host.ends_with('.'))
            }
            None => name.as_str() == *pattern,
        })
    }

    /// The same for a host name in either case, as an alternative name may be written.
    #[must_use]
    pub fn protects_host(&self, name: &str) -> Option<&str> {
        // What is no certname in lower case can be no protected name.
        self.protects(&name.to_ascii_lowercase().parse().ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_protects_everything_below_a_domain_but_not_the_domain() {
        let protected = Protected::new(["puppet.example.com", "*.infra.example.com"]).unwrap();
        for name in ["puppet.example.com", "a.infra.example.com", "a.b.infra.example.com"] {
            assert!(protected.protects(&name.parse().unwrap()).is_some(), "{name}");
        }
        for name in ["infra.example.com", "xinfra.example.com", "puppet.example.com.evil.org", "a.puppet.example.com"] {
            assert!(protected.protects(&name.parse().unwrap()).is_none(), "{name}");
        }
        assert!(Protected::new(["*"]).is_err());
    }
}
