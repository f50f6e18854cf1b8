//! Templates of certnames and of alternative names: how a name is made from what EC2 knows of an instance, and whether one
//! could have been. Pure.

use thiserror::Error;

use stagedoor_types::{Certname, InstanceId, Machine};

/// How a certname is made from what EC2 knows of an instance: `{private_dns}`, `{short_name}` (its first label), `{instance_id}`,
/// `{tag:Name}` and plain text between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertnameTemplate(Vec<Part>);

/// An alternative name that an instance may ask for: a host name, or how one is made, as in a [`CertnameTemplate`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AltNameTemplate(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    PrivateDns,
    /// The first label of the private DNS name: the host name without its domain.
    ShortName,
    InstanceId,
    Tag(String),
}

/// A template that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidTemplate {
    /// Something else between braces.
    #[error("unknown placeholder {{{0}}}; there are {{private_dns}}, {{short_name}}, {{instance_id}} and {{tag:NAME}}")]
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
    /// It is no host name, or can never give one.
    #[error("{0:?} is no host name (RFC 1123: labels of a-z, 0-9 and '-', with '.' between them)")]
    NoHostName(String),
}

/// The parts of a template, with plain text as `text` makes it.
fn parts(template: &str, text_of: impl Fn(&str) -> String) -> Result<Vec<Part>, InvalidTemplate> {
    let mut parts = Vec::new();
    let mut rest = template;
    while !rest.is_empty() {
        let (text, after) = rest.split_once('{').unwrap_or((rest, ""));
        let is_last = text.len() == rest.len();
        if text.contains('}') {
            return Err(InvalidTemplate::UnbalancedBrace);
        }
        let text = text_of(text);
        if !text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-')) {
            return Err(InvalidTemplate::InvalidText(text));
        }
        if !text.is_empty() {
            parts.push(Part::Text(text));
        }
        if is_last {
            break;
        }
        let (placeholder, after) = after.split_once('}').ok_or(InvalidTemplate::UnbalancedBrace)?;
        parts.push(match placeholder.split_once(':') {
            None if placeholder == "private_dns" => Part::PrivateDns,
            None if placeholder == "short_name" => Part::ShortName,
            None if placeholder == "instance_id" => Part::InstanceId,
            Some(("tag", key)) if !key.is_empty() => Part::Tag(key.to_owned()),
            _ => return Err(InvalidTemplate::UnknownPlaceholder(placeholder.to_owned())),
        });
        rest = after;
    }
    Ok(parts)
}

impl std::str::FromStr for CertnameTemplate {
    type Err = InvalidTemplate;

    fn from_str(template: &str) -> Result<Self, InvalidTemplate> {
        let parts = parts(template, str::to_owned)?;
        if parts.iter().all(|part| matches!(part, Part::Text(_))) {
            return Err(InvalidTemplate::NoPlaceholder);
        }
        Ok(Self(parts))
    }
}

impl std::str::FromStr for AltNameTemplate {
    type Err = InvalidTemplate;

    fn from_str(template: &str) -> Result<Self, InvalidTemplate> {
        // Host names are the same in either case (RFC 4343).
        let parts = parts(template, str::to_ascii_lowercase)?;
        // What stands for a placeholder here is a host name, so what is none now never can be.
        let example = parts.iter().map(|part| if let Part::Text(text) = part { text } else { "x" });
        if !is_host_name(&example.collect::<String>()) {
            return Err(InvalidTemplate::NoHostName(template.to_owned()));
        }
        Ok(Self(parts))
    }
}

/// Whether this, in lower case, is a host name ([RFC 1123, section 2.1](https://www.rfc-editor.org/rfc/rfc1123#section-2.1)).
fn is_host_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

fn needs_machine(parts: &[Part]) -> bool {
    parts.iter().any(|part| matches!(part, Part::PrivateDns | Part::ShortName | Part::Tag(_)))
}

impl AltNameTemplate {
    /// Whether EC2 must be asked to make a name.
    #[must_use]
    pub fn needs_machine(&self) -> bool {
        needs_machine(&self.0)
    }

    /// The name itself, if it is the same for every instance.
    #[must_use]
    pub fn literal(&self) -> Option<&str> {
        match &self.0[..] {
            [Part::Text(name)] => Some(name),
            _ => None,
        }
    }

    /// The name for an instance, in lower case; none if EC2 does not show what it is made of, or if that gives no host name.
    #[must_use]
    pub fn name(&self, instance: &InstanceId, machine: Option<&Machine>) -> Option<String> {
        render(&self.0, instance, machine).ok().filter(|name| is_host_name(name))
    }
}

impl CertnameTemplate {
    /// Whether EC2 must be asked to make a name.
    #[must_use]
    pub fn needs_machine(&self) -> bool {
        needs_machine(&self.0)
    }

    /// Whether this template could have given this instance this certname. What private names and tags look like is not
    /// known here, so that any text may stand for one.
    #[must_use]
    pub fn could_make(&self, certname: &Certname, instance: &InstanceId) -> bool {
        fits(&self.0, certname.as_str(), Some(instance))
    }

    /// The same, for any instance.
    #[must_use]
    pub fn could_be(&self, certname: &Certname) -> bool {
        fits(&self.0, certname.as_str(), None)
    }

    /// The certname of an instance, in lower case as Puppet makes it; or why it is unknown.
    pub fn certname(&self, instance: &InstanceId, machine: Option<&Machine>) -> Result<Certname, String> {
        Certname::try_from(render(&self.0, instance, machine)?).map_err(|error| error.to_string())
    }
}

/// The text that these parts give for an instance, in lower case; or what is missing.
fn render(parts: &[Part], instance: &InstanceId, machine: Option<&Machine>) -> Result<String, String> {
    let known = || machine.ok_or_else(|| format!("EC2 does not know {instance}"));
    let private_dns = || {
        let shown = known()?.private_dns.as_deref();
        shown.ok_or_else(|| format!("EC2 shows no private DNS name for {instance} any more"))
    };
    let mut name = String::new();
    for part in parts {
        match part {
            Part::Text(text) => name.push_str(text),
            Part::InstanceId => name.push_str(instance.as_str()),
            Part::PrivateDns => name.push_str(private_dns()?),
            Part::ShortName => name.push_str(private_dns()?.split('.').next().unwrap_or_default()),
            Part::Tag(key) => {
                let tag = known()?.tags.get(key);
                name.push_str(
                    tag.ok_or_else(|| format!("{instance} has no tag {key}, from which its certname is made"))?,
                );
            }
        }
    }
    name.make_ascii_lowercase();
    Ok(name)
}

/// Whether a text can be read as these parts; a certname is ASCII, so that every place in it is one to cut at.
fn fits(parts: &[Part], rest: &str, instance: Option<&InstanceId>) -> bool {
    let Some((part, others)) = parts.split_first() else { return rest.is_empty() };
    let begins = |text: &str| rest.strip_prefix(text).is_some_and(|rest| fits(others, rest, instance));
    match (part, instance) {
        (Part::Text(text), _) => begins(text),
        (Part::InstanceId, Some(instance)) => begins(instance.as_str()),
        (Part::InstanceId | Part::PrivateDns | Part::ShortName | Part::Tag(_), _) => {
            (1..=rest.len()).any(|at| fits(others, &rest[at..], instance))
        }
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
            ipv6: None,
            terminated: None,
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
        assert_eq!(name("{short_name}.example.com").unwrap().as_str(), "ip-10-0-3-7.example.com");
    }

    fn alt_name(template: &str) -> Option<String> {
        let template: AltNameTemplate = template.parse().unwrap();
        template.name(&machine().instance, Some(&machine()))
    }

    #[test]
    fn an_alternative_name_is_a_host_name_or_made_like_a_certname() {
        for (template, name) in [
            ("Puppet.Example.com", "puppet.example.com"),
            ("puppet", "puppet"),
            ("{short_name}", "ip-10-0-3-7"),
            ("{private_dns}", "ip-10-0-3-7.ec2.internal"),
            ("{tag:Name}.Example.com", "compiler-1.example.com"),
            ("{instance_id}", "i-0a1b2c3d4e5f60718"),
        ] {
            assert_eq!(alt_name(template).as_deref(), Some(name), "{template}");
        }
        let literal = |template: &str| template.parse::<AltNameTemplate>().unwrap().literal().map(str::to_owned);
        assert_eq!((literal("Puppet").as_deref(), literal("{short_name}")), (Some("puppet"), None));
    }

    #[test]
    fn an_alternative_name_that_cannot_be_made_or_is_no_host_name_allows_nothing() {
        assert_eq!(alt_name("{tag:Role}.example.com"), None);
        let mut machine = machine();
        for tag in ["", "a b", "a_b", "*", "a.", "-a", "10.0.3.7:8140", &"a".repeat(64)] {
            machine.tags.insert("Name".into(), tag.into());
            let template: AltNameTemplate = "{tag:Name}.example.com".parse().unwrap();
            assert_eq!(template.name(&machine.instance, Some(&machine)), None, "{tag:?}");
        }
        let template: AltNameTemplate = "{short_name}".parse().unwrap();
        assert_eq!(template.name(&machine.instance, None), None);
    }

    #[test]
    fn an_alternative_name_that_can_never_be_a_host_name_is_refused() {
        for template in ["", "*.example.com", "a_b", "-{tag:Name}", "{tag:Name}..com", "a b", "IP:10.0.3.7", "a."] {
            assert!(template.parse::<AltNameTemplate>().is_err(), "{template:?}");
        }
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
        let template: CertnameTemplate = "{private_dns}".parse().unwrap();
        let gone = Machine { private_dns: None, ..machine() };
        let missing = [
            name("{tag:Role}"),
            template.certname(&gone.instance, Some(&gone)),
            template.certname(&gone.instance, None),
        ];
        insta::assert_snapshot!(missing.map(Result::unwrap_err).join("\n"), @"
        i-0a1b2c3d4e5f60718 has no tag Role, from which its certname is made
        EC2 shows no private DNS name for i-0a1b2c3d4e5f60718 any more
        EC2 does not know i-0a1b2c3d4e5f60718
        ");
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
}
