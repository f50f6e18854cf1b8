//! Whose is a name? The one place that decides whether what Puppet holds under a certname may be purged. No I/O.
//!
//! Names are reused, instance ids are not. So a name says nothing: the certificate's extension `pp_instance_id`
//! does, else the node's facts in PuppetDB, else the name itself if the profile makes it of the instance id.

use stagedoor_types::broken::{Rule, is_broken};
use stagedoor_types::{Certname, InstanceId, Lookup, Trouble};

use crate::observation::NameView;
use crate::profile::Protected;

/// A certname that may be purged. Only [`whose`] makes one, so that code that forgets the check does not compile:
///
/// ```compile_fail,E0451
/// use stagedoor_lifecycle::identity::{Evidence, Purgeable};
/// let forged = Purgeable { certname: "node.example.com".parse().unwrap(), evidence: Evidence::Name };
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purgeable {
    certname: Certname,
    evidence: Evidence,
}

impl Purgeable {
    /// The name.
    #[must_use]
    pub fn certname(&self) -> &Certname {
        &self.certname
    }

    /// How it is known to belong to the terminating instance.
    #[must_use]
    pub fn evidence(&self) -> Evidence {
        self.evidence
    }
}

/// What ties a name to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// The extension `pp_instance_id` of its certificate.
    Certificate,
    /// The node's facts in PuppetDB.
    Facts,
    /// The extension `pp_instance_id` that its pending certificate request asks for.
    Request,
    /// The name holds the instance id.
    Name,
    /// It is the name that the instance's profile gives it, and no other instance has it now.
    Nobody,
}

impl Evidence {
    /// As part of a sentence: "… by the …".
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Certificate => "pp_instance_id in its certificate",
            Self::Facts => "instance id in its facts",
            Self::Request => "pp_instance_id in its certificate request",
            Self::Name => "instance id in its name",
            Self::Nobody => "name, which no other instance has now",
        }
    }
}

/// The answer to the question whose a name is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whose {
    /// It belongs to the terminating instance.
    Ours(Purgeable),
    /// It belongs to another instance now; nothing under it may be touched.
    Another(String),
    /// Nothing is there under that name.
    Nobody,
    /// It is protected by this pattern, no matter which instance it belongs to.
    Protected(String),
    /// Something is there, and nothing says whose it is.
    Unknown,
    /// The service that could say is unavailable.
    Unavailable(Trouble),
}

/// Decides whose the name is that `view` describes, for the terminating `instance`.
#[must_use]
pub fn whose(view: &NameView, instance: &InstanceId, protected: &Protected) -> Whose {
    if let Some(pattern) = protected.protects(&view.certname) {
        return Whose::Protected(pattern.to_owned());
    }
    let ours = |evidence| Whose::Ours(Purgeable { certname: view.certname.clone(), evidence });
    if is_broken(Rule::NameCheck) && matches!(view.certificate, Lookup::Found(_)) {
        return ours(Evidence::Name);
    }
    match view.certificate.known() {
        Err(trouble) => return Whose::Unavailable(trouble.clone()),
        Ok(Some(certificate)) => match &certificate.instance {
            Some(owner) if owner == instance => return ours(Evidence::Certificate),
            Some(owner) => return Whose::Another(owner.to_string()),
            None => match view.node.known() {
                Err(trouble) => return Whose::Unavailable(trouble.clone()),
                // Facts say whose a certificate is only if they were sent with it: those of a former owner of the
                // name stay until the new one has run.
                Ok(node)
                    if !node.is_some_and(|node| {
                        node.active && node.facts >= Some(certificate.issued.max(certificate.issued_by_ca))
                    }) =>
                {
                    return if names(&view.certname, instance) { ours(Evidence::Name) } else { Whose::Unknown };
                }
                Ok(_) => {}
            },
        },
        Ok(None) => match view.node.known() {
            Err(trouble) => return Whose::Unavailable(trouble.clone()),
            Ok(Some(node)) if node.active => {}
            Ok(_) => return whose_request(view, instance, ours(Evidence::Request), ours(Evidence::Nobody)),
        },
    }
    // A certificate without the extension that has been used, or an active node without a certificate: the facts
    // decide.
    match &view.fact_instance {
        Lookup::Unavailable(trouble) => Whose::Unavailable(trouble.clone()),
        Lookup::Found(owner) if owner == instance => ours(Evidence::Facts),
        Lookup::Found(owner) => Whose::Another(owner.to_string()),
        Lookup::Absent if names(&view.certname, instance) => ours(Evidence::Name),
        Lookup::Absent => Whose::Unknown,
    }
}

/// With neither certificate nor active node, a pending request is all there can be, or a pin.
fn whose_request(view: &NameView, instance: &InstanceId, ours: Whose, pinned: Whose) -> Whose {
    match view.request.known() {
        Err(trouble) => Whose::Unavailable(trouble.clone()),
        Ok(Some(request)) if request.instance.as_ref() == Some(instance) => ours,
        // The request of another instance: a successor may be waiting for its certificate, and the pins may be its own.
        Ok(Some(request)) if request.instance.is_some() => Whose::Nobody,
        // A request that names no instance is a stranger's: it is left alone, and says nothing of the pins.
        Ok(_) => match view.pins.known() {
            Err(trouble) => Whose::Unavailable(trouble.clone()),
            Ok(Some(pins)) if !pins.is_empty() => pinned,
            Ok(_) => Whose::Nobody,
        },
    }
}

/// Whether the name holds the instance id as a whole word.
fn names(certname: &Certname, instance: &InstanceId) -> bool {
    certname.as_str().match_indices(instance.as_str()).any(|(at, id)| {
        let text = certname.as_str();
        let outside = |c: Option<char>| c.is_none_or(|c| !c.is_ascii_alphanumeric());
        outside(text[..at].chars().next_back()) && outside(text[at + id.len()..].chars().next())
    })
}
