//! What an operator wants for the instances of a group, as checked values. No I/O.

use std::time::Duration;

use thiserror::Error;

use crate::observation::Machine;
use crate::signing::SigningRules;
use crate::{Certname, HookName, InstanceId, ProfileName};

/// The Auto Scaling group tag by which a group opts in; its value names the profile.
pub const PROFILE_TAG: &str = "stagedoor:profile";

/// How the instances of a group are dealt with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// Its name, as the group's tag gives it.
    pub name: ProfileName,
    /// How an instance's certname is made.
    pub certname: CertnameTemplate,
    /// The beginning of the names of the hooks that are ours; hooks of other tools are left to them.
    pub hook_prefix: String,
    /// Who signs certificate requests.
    pub sign: SignMode,
    /// What a request must be like to be signed, and a certificate that somebody else signed to be accepted.
    pub rules: SigningRules,
    /// Node groups to pin an arriving node to.
    pub pin: Vec<String>,
    /// Node groups that an arriving node must be in before it may serve.
    pub classified: Vec<String>,
    /// Nodes that must run Puppet after a change.
    pub refresh: Vec<Certname>,
    /// Whether to wait for those runs where there is no orchestrator to order them.
    pub await_refresh: bool,
    /// What else must answer before an arriving node may serve. Its first good report always must.
    pub ready: Vec<Probe>,
    /// Whether an instance may get a new certificate in place of its own old one.
    pub rekey: Rekey,
    /// How long an arriving instance is held at the most.
    pub onboard_patience: Duration,
    /// How the action of an arriving instance ends when patience does.
    pub on_launch_timeout: ActionResult,
    /// How long a leaving instance is held at the most.
    pub purge_patience: Duration,
    /// How the action of a leaving instance ends when patience does.
    pub on_terminate_timeout: ActionResult,
}

impl Profile {
    /// A profile with nothing but what must be there, for tests.
    #[cfg(test)]
    pub(crate) fn example() -> Self {
        Self {
            name: "compiler".parse().unwrap(),
            certname: "{private_dns}".parse().unwrap(),
            hook_prefix: "stagedoor-".into(),
            sign: SignMode::Verify,
            rules: SigningRules::default(),
            pin: Vec::new(),
            classified: Vec::new(),
            refresh: Vec::new(),
            await_refresh: false,
            ready: Vec::new(),
            rekey: Rekey::Allow,
            onboard_patience: Duration::from_secs(1800),
            on_launch_timeout: ActionResult::Abandon,
            purge_patience: Duration::from_secs(600),
            on_terminate_timeout: ActionResult::Continue,
        }
    }

    /// Whether this hook is ours to answer.
    #[must_use]
    pub fn owns(&self, hook: &HookName) -> bool {
        hook.as_str().starts_with(&self.hook_prefix)
    }
}

/// Who signs certificate requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignMode {
    /// The controller, after its checks.
    Verify,
    /// Somebody else; the controller checks the certificate.
    External,
}

/// What to do about an instance that has a new key and still its old certificate, as after its root volume was
/// replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rekey {
    /// Clean the old certificate, so that it may have a new one, while a hook holds it.
    Allow,
    /// Leave it to a person.
    Refuse,
}

/// What must answer before a node may serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Probe {
    /// `report`: its newest Puppet run was good. Always required.
    Report,
    /// `status:8140`: the Status API on this port says `running`, under the node's own certificate.
    Status(u16),
    /// `tcp:8142`: the port takes connections.
    Tcp(u16),
}

/// A text that is no probe.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is no probe; there are \"report\", \"status:PORT\" and \"tcp:PORT\"")]
pub struct InvalidProbe(String);

impl std::str::FromStr for Probe {
    type Err = InvalidProbe;

    fn from_str(text: &str) -> Result<Self, InvalidProbe> {
        let port = |port: &str| port.parse().ok().filter(|port| *port != 0);
        match text.split_once(':') {
            None if text == "report" => Some(Self::Report),
            Some(("status", number)) => port(number).map(Self::Status),
            Some(("tcp", number)) => port(number).map(Self::Tcp),
            _ => None,
        }
        .ok_or_else(|| InvalidProbe(text.to_owned()))
    }
}

impl std::fmt::Display for Probe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Report => f.write_str("report"),
            Self::Status(port) => write!(f, "status:{port}"),
            Self::Tcp(port) => write!(f, "tcp:{port}"),
        }
    }
}

/// The result with which a lifecycle action is completed.
/// See [`CompleteLifecycleAction`](https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_CompleteLifecycleAction.html).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActionResult {
    /// `CONTINUE`: into service, or on to the end.
    Continue,
    /// `ABANDON`: a launching instance is terminated; a terminating one skips the other hooks.
    Abandon,
}

impl ActionResult {
    /// The API's word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Continue => "CONTINUE",
            Self::Abandon => "ABANDON",
        }
    }
}

/// How a certname is made from what EC2 knows of an instance: `{private_dns}`, `{instance_id}`, `{tag:Name}` and
/// plain text between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertnameTemplate(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    PrivateDns,
    InstanceId,
    Tag(String),
}

/// A template that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidTemplate {
    /// Something else between braces.
    #[error("unknown placeholder {{{0}}}; there are {{private_dns}}, {{instance_id}} and {{tag:NAME}}")]
    UnknownPlaceholder(String),
    /// A brace without its counterpart.
    #[error("a brace is not closed, or closes nothing")]
    UnbalancedBrace,
    /// Every instance would get the same name.
    #[error("it has no placeholder, so that all instances would have one name")]
    NoPlaceholder,
    /// The plain text can never be part of a certname.
    #[error("{0:?} cannot be part of a certname (a-z, 0-9, '.', '_' and '-')")]
    InvalidText(String),
}

impl std::str::FromStr for CertnameTemplate {
    type Err = InvalidTemplate;

    fn from_str(template: &str) -> Result<Self, InvalidTemplate> {
        let mut parts = Vec::new();
        let mut rest = template;
        while !rest.is_empty() {
            let (text, after) = rest.split_once('{').unwrap_or((rest, ""));
            if text.contains('}') {
                return Err(InvalidTemplate::UnbalancedBrace);
            }
            if !text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-')) {
                return Err(InvalidTemplate::InvalidText(text.to_owned()));
            }
            if !text.is_empty() {
                parts.push(Part::Text(text.to_owned()));
            }
            if text.len() == rest.len() {
                break;
            }
            let (placeholder, after) = after.split_once('}').ok_or(InvalidTemplate::UnbalancedBrace)?;
            parts.push(match placeholder.split_once(':') {
                None if placeholder == "private_dns" => Part::PrivateDns,
                None if placeholder == "instance_id" => Part::InstanceId,
                Some(("tag", key)) if !key.is_empty() => Part::Tag(key.to_owned()),
                _ => return Err(InvalidTemplate::UnknownPlaceholder(placeholder.to_owned())),
            });
            rest = after;
        }
        if parts.iter().all(|part| matches!(part, Part::Text(_))) {
            return Err(InvalidTemplate::NoPlaceholder);
        }
        Ok(Self(parts))
    }
}

impl CertnameTemplate {
    /// Whether EC2 must be asked to make a name.
    #[must_use]
    pub fn needs_machine(&self) -> bool {
        self.0.iter().any(|part| matches!(part, Part::PrivateDns | Part::Tag(_)))
    }

    /// Whether this template could have given this instance this certname. What private names and tags look like is not
    /// known here, so that any text may stand for one.
    #[must_use]
    pub fn could_make(&self, certname: &Certname, instance: &InstanceId) -> bool {
        fits(&self.0, certname.as_str(), Some(instance))
    }

    /// The same, for whatever instance.
    #[must_use]
    pub fn could_be(&self, certname: &Certname) -> bool {
        fits(&self.0, certname.as_str(), None)
    }

    /// The certname of an instance, in lower case as Puppet makes it; or why it cannot be told.
    pub fn certname(&self, instance: &InstanceId, machine: Option<&Machine>) -> Result<Certname, String> {
        let known = || machine.ok_or_else(|| format!("EC2 does not know {instance}"));
        let mut name = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => name.push_str(text),
                Part::InstanceId => name.push_str(instance.as_str()),
                Part::PrivateDns => name.push_str(
                    known()?
                        .private_dns
                        .as_deref()
                        .ok_or_else(|| format!("EC2 shows no private DNS name for {instance} any more"))?,
                ),
                Part::Tag(key) => name.push_str(
                    known()?
                        .tags
                        .get(key)
                        .ok_or_else(|| format!("{instance} has no tag {key}, from which its certname is made"))?,
                ),
            }
        }
        name.make_ascii_lowercase();
        Certname::try_from(name).map_err(|error| error.to_string())
    }
}

/// Whether a text can be read as these parts; a certname is ASCII, so that every place in it is one to cut at.
fn fits(parts: &[Part], rest: &str, instance: Option<&InstanceId>) -> bool {
    let Some((part, others)) = parts.split_first() else { return rest.is_empty() };
    let begins = |text: &str| rest.strip_prefix(text).is_some_and(|rest| fits(others, rest, instance));
    match (part, instance) {
        (Part::Text(text), _) => begins(text),
        (Part::InstanceId, Some(instance)) => begins(instance.as_str()),
        (Part::InstanceId | Part::PrivateDns | Part::Tag(_), _) => {
            (1..=rest.len()).any(|at| fits(others, &rest[at..], instance))
        }
    }
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
        self.0.iter().map(String::as_str).find(|pattern| match pattern.strip_prefix("*.") {
            Some(domain) => {
                name.as_str().strip_suffix(domain).is_some_and(|host| host.len() > 1 && host.ends_with('.'))
            }
            None => name.as_str() == *pattern,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn machine() -> Machine {
        Machine {
            launched: None,
            instance: "i-0a1b2c3d4e5f60718".parse().unwrap(),
            state: "running".into(),
            private_dns: Some("ip-10-0-3-7.ec2.internal".into()),
            private_ip: None,
            tags: BTreeMap::from([("Name".into(), "Compiler-1".into())]),
        }
    }

    fn name(template: &str) -> Result<Certname, String> {
        let template: CertnameTemplate = template.parse().unwrap();
        template.certname(&machine().instance, Some(&machine()))
    }

    #[test]
    fn a_certname_is_made_of_the_private_name_the_instance_id_or_a_tag() {
        assert_eq!(name("{private_dns}").unwrap().as_str(), "ip-10-0-3-7.ec2.internal");
        assert_eq!(name("{instance_id}.nodes.example.com").unwrap().as_str(), "i-0a1b2c3d4e5f60718.nodes.example.com");
        assert_eq!(name("{tag:Name}.example.com").unwrap().as_str(), "compiler-1.example.com");
        assert_eq!(name("a-{tag:Name}-b").unwrap().as_str(), "a-compiler-1-b");
    }

    #[test]
    fn a_name_that_no_instance_could_have_is_known_as_such() {
        let could = |template: &str, name: &str| {
            let template: CertnameTemplate = template.parse().unwrap();
            template.could_make(&name.parse().unwrap(), &machine().instance)
        };
        assert!(could("{private_dns}", "ip-10-0-3-7.ec2.internal"));
        assert!(could("{instance_id}.nodes.example.com", "i-0a1b2c3d4e5f60718.nodes.example.com"));
        assert!(!could("{instance_id}.nodes.example.com", "i-0a1b2c3d4e5f60719.nodes.example.com"));
        assert!(!could("{instance_id}.nodes.example.com", "i-0a1b2c3d4e5f60718.example.com"));
        let template: CertnameTemplate = "{instance_id}.nodes.example.com".parse().unwrap();
        assert!(template.could_be(&"i-0a1b2c3d4e5f60719.nodes.example.com".parse().unwrap()));
        assert!(!template.could_be(&"puppet.example.com".parse().unwrap()));
        assert!(could("a-{tag:Name}-b", "a-b-b-b"));
        assert!(!could("a-{tag:Name}-b", "a--c") && !could("a-{tag:Name}", "a-"));
    }

    #[test]
    fn a_name_that_cannot_be_made_says_what_is_missing() {
        assert!(name("{tag:Role}").unwrap_err().contains("no tag Role"));
        let template: CertnameTemplate = "{private_dns}".parse().unwrap();
        let gone = Machine { private_dns: None, ..machine() };
        assert!(template.certname(&gone.instance, Some(&gone)).unwrap_err().contains("no private DNS name"));
        assert!(template.certname(&gone.instance, None).unwrap_err().contains("does not know"));
    }

    #[test]
    fn a_template_that_gives_every_instance_one_name_is_refused() {
        assert_eq!("puppet.example.com".parse::<CertnameTemplate>(), Err(InvalidTemplate::NoPlaceholder));
        assert_eq!("".parse::<CertnameTemplate>(), Err(InvalidTemplate::NoPlaceholder));
    }

    #[test]
    fn a_malformed_template_says_what_is_wrong() {
        assert!(
            matches!("{host}".parse::<CertnameTemplate>(), Err(InvalidTemplate::UnknownPlaceholder(p)) if p == "host")
        );
        assert!(matches!("{tag:}".parse::<CertnameTemplate>(), Err(InvalidTemplate::UnknownPlaceholder(_))));
        assert_eq!("{private_dns".parse::<CertnameTemplate>(), Err(InvalidTemplate::UnbalancedBrace));
        assert_eq!("a}{private_dns}".parse::<CertnameTemplate>(), Err(InvalidTemplate::UnbalancedBrace));
        assert!(matches!("{private_dns} x".parse::<CertnameTemplate>(), Err(InvalidTemplate::InvalidText(_))));
    }

    #[test]
    fn a_probe_is_written_as_it_is_read() {
        for text in ["report", "status:8140", "tcp:8142"] {
            assert_eq!(text.parse::<Probe>().unwrap().to_string(), text);
        }
        for text in ["", "reports", "status", "status:0", "tcp:70000", "udp:53"] {
            assert!(text.parse::<Probe>().unwrap_err().to_string().contains("no probe"), "{text}");
        }
    }

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
