//! Certname templates: how a name is made from what EC2 knows of an instance, and whether one could have been. Pure.

use thiserror::Error;

use stagedoor_types::{Certname, InstanceId, Machine};

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

    /// The same, for any instance.
    #[must_use]
    pub fn could_be(&self, certname: &Certname) -> bool {
        fits(&self.0, certname.as_str(), None)
    }

    /// The certname of an instance, in lower case as Puppet makes it; or why it is unknown.
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
}
