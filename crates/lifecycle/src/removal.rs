//! From what is left of an instance under one name to the proof that it is gone. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use stagedoor_types::{Certname, Lookup};

use crate::identity::Purgeable;
use crate::observation::{CertificateView, NameView, NodeView};
use crate::reason::{Code, Fact, Proven, Reason};
use crate::signing::Request;

/// What is left of an instance under one name, and how far its removal is: [`Requested`], then [`Applied`]. What Puppet answers to a
/// removal is no proof: only an observation that began after it gives a [`Proof`].
///
/// ```compile_fail,E0599
/// use stagedoor_lifecycle::removal::{Removal, Requested};
/// fn prove(removal: &Removal<Requested>, seen: &stagedoor_lifecycle::observation::NameView, at: jiff::Timestamp) {
///     removal.proof(seen, at);
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal<S = Requested> {
    /// The name, known to be that instance's.
    pub name: Purgeable,
    /// The serial number of its certificate, which is to be revoked and removed.
    pub certificate: Option<String>,
    /// SHA-256 over the public key of that certificate: one that is renewed meanwhile has another serial number and the same key.
    pub key_print: Option<String>,
    /// Whether its own certificate request is pending.
    pub request: bool,
    /// Its node, if it is active in PuppetDB.
    pub node: Option<NodeView>,
    /// The node groups that it is pinned to.
    pub pins: Vec<String>,
    /// Whether its certificate says that it is a compiler of Puppet Enterprise.
    pub compiler: bool,
    state: S,
}

/// A removal that is to be applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Requested(());

/// A removal that was applied: Puppet was asked for it, whatever it answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    /// When the last answer had come.
    at: Timestamp,
    /// Whether the CA has said that it revoked the certificate.
    revoked: bool,
}

/// A part of a removal that an observation after it shows no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// The certificate with this serial number.
    Certificate(String),
    /// The certificate request.
    Request,
    /// The PuppetDB node.
    Node,
    /// The pins to node groups.
    Pins,
}

/// Shows that nothing is left of what was to be removed under a name. Only an observation that began after the removal gives one:
///
/// ```compile_fail,E0423
/// let forged = stagedoor_lifecycle::removal::Proof("node.example.com".parse().unwrap());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof(Certname);

/// What an invocation has done so far to remove what is left for one action.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removals {
    /// The result of the last attempt: why it failed, or that Puppet said that it was done, which is no proof.
    pub last: Option<Reason>,
    /// What was applied and is not proven yet, by name.
    pub applied: BTreeMap<Certname, Removal<Applied>>,
}

impl Removal<Requested> {
    /// A removal of nothing yet.
    #[must_use]
    pub fn of(name: Purgeable) -> Self {
        Self {
            name,
            certificate: None,
            key_print: None,
            request: false,
            node: None,
            pins: Vec::new(),
            compiler: false,
            state: Requested(()),
        }
    }

    /// A certificate alone.
    #[must_use]
    pub fn of_certificate(name: Purgeable, certificate: &CertificateView) -> Self {
        let mut removal = Self::of(name);
        removal.take(certificate);
        removal
    }

    /// This certificate as well.
    pub(crate) fn take(&mut self, certificate: &CertificateView) {
        self.certificate = Some(certificate.serial.clone());
        self.key_print = Some(certificate.holds.key_print.clone());
        self.compiler = is_compiler(&certificate.holds);
    }

    /// It was applied by this time; `revoked` says whether the CA has said that it revoked the certificate.
    #[must_use]
    pub fn applied(self, at: Timestamp, revoked: bool) -> Removal<Applied> {
        let Self { name, certificate, key_print, request, node, pins, compiler, state: Requested(()) } = self;
        Removal { name, certificate, key_print, request, node, pins, compiler, state: Applied { at, revoked } }
    }
}

impl<S> Removal<S> {
    /// Whether this is the certificate that is to be removed, or what it was renewed to.
    #[must_use]
    pub fn is_of_key(&self, certificate: &CertificateView) -> bool {
        self.key_print.as_ref() == Some(&certificate.holds.key_print)
    }

    /// What is to be removed.
    fn parts(&self) -> Vec<Part> {
        let certificate = self.certificate.clone().map(Part::Certificate);
        let request = self.request.then_some(Part::Request);
        let node = self.node.is_some().then_some(Part::Node);
        let pins = (!self.pins.is_empty()).then_some(Part::Pins);
        [certificate, request, node, pins].into_iter().flatten().collect()
    }

    /// Whether there is nothing to remove.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.parts().is_empty()
    }

    /// What is left, for a person.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut parts = Vec::new();
        if let Some(serial) = &self.certificate {
            parts.push(format!("certificate {serial}"));
        }
        if self.request {
            parts.push("certificate request".to_owned());
        }
        if self.node.is_some() {
            parts.push("PuppetDB node".to_owned());
        }
        if !self.pins.is_empty() {
            parts.push(format!("pin to {}", self.pins.join(", ")));
        }
        format!("{} of {}", parts.join(", "), self.name.certname())
    }
}

impl Removal<Applied> {
    /// With what was removed under the same name before it: all of it is still to be proven, but for a certificate that another one has
    /// replaced.
    #[must_use]
    pub fn after(mut self, earlier: Self) -> Self {
        if self.certificate.is_none() {
            self.certificate.clone_from(&earlier.certificate);
            self.key_print = earlier.key_print;
        }
        self.state.revoked |= earlier.state.revoked && self.certificate == earlier.certificate;
        self.compiler |= earlier.compiler;
        self.request |= earlier.request;
        self.node = self.node.or(earlier.node);
        if self.pins.is_empty() {
            self.pins = earlier.pins;
        }
        self
    }

    /// Whether the CA has said that it revoked the certificate.
    #[must_use]
    pub fn is_revoked(&self) -> bool {
        self.state.revoked
    }

    /// The parts that this observation, which began `at`, shows no more: none that is still there or could not be read, and nothing if
    /// it began before the removal had been applied.
    #[must_use]
    pub fn gone(&self, seen: &NameView, at: Timestamp) -> Vec<Part> {
        if at < self.state.at || seen.certname != *self.name.certname() {
            return Vec::new();
        }
        let is_gone = |part: &Part| match part {
            Part::Certificate(_) => {
                seen.certificate.known().is_ok_and(|now| now.is_none_or(|certificate| !self.is_of_key(certificate)))
            }
            Part::Request => seen.request == Lookup::Absent,
            Part::Node => seen.node.known().is_ok_and(|now| now.is_none_or(|node| !node.active)),
            Part::Pins => seen.pins == Lookup::Found(Vec::new()),
        };
        self.parts().into_iter().filter(is_gone).collect()
    }

    /// The proof that all of it is gone, if this observation, which began `at`, shows that.
    #[must_use]
    pub fn proof(&self, seen: &NameView, at: Timestamp) -> Option<Proof> {
        let gone = self.gone(seen, at);
        (!gone.is_empty() && gone.len() == self.parts().len()).then(|| Proof(self.name.certname().clone()))
    }
}

/// Whether a certificate says that it is of a compiler of Puppet Enterprise: by its extension `pp_auth_role`, which its node groups and
/// plans go by.
fn is_compiler(holds: &Request) -> bool {
    holds.extensions.get("pp_auth_role").is_some_and(|role| is_compiler_role(role))
}

/// Whether this value of `pp_auth_role` is that of a compiler, a legacy one included.
pub(crate) fn is_compiler_role(role: &str) -> bool {
    matches!(role, "pe_compiler" | "pe_compiler_legacy")
}

impl Part {
    /// That it is gone, for a person; `revocation` is what shows that a certificate is revoked.
    #[must_use]
    pub fn describe(&self, certname: &Certname, revocation: &str) -> String {
        match self {
            Self::Certificate(serial) => format!("certificate {serial} of {certname} is gone; {revocation}"),
            Self::Request => format!("no certificate request of {certname} is pending"),
            Self::Node => format!("{certname} is inactive in PuppetDB"),
            Self::Pins => format!("{certname} is pinned to no node group"),
        }
    }
}

impl Proof {
    /// For a receipt: the one fact with the code `purged`.
    #[must_use]
    pub fn fact(&self) -> Fact {
        Fact::new(Code::Purged(Proven(())), format!("{} is gone from Puppet", self.0))
    }
}

#[cfg(test)]
mod tests {
    use stagedoor_types::InstanceId;

    use super::*;
    use crate::identity::{Whose, whose};
    use crate::profile::Protected;
    use crate::world::{NAME, OURS, at, certificate, down, node};

    /// What the first observation shows: everything is there.
    fn before() -> NameView {
        NameView {
            certname: NAME.parse().unwrap(),
            certificate: Lookup::Found(certificate(Some(OURS), at(0))),
            request: Lookup::Absent,
            node: Lookup::Found(node(true, at(0))),
            fact_instance: Lookup::Absent,
            pins: Lookup::Found(vec!["Web".to_owned()]),
        }
    }

    fn after() -> NameView {
        NameView {
            certificate: Lookup::Absent,
            node: Lookup::Found(node(false, at(0))),
            pins: Lookup::Found(Vec::new()),
            ..before()
        }
    }

    fn removal() -> Removal<Applied> {
        let instance: InstanceId = OURS.parse().unwrap();
        let Whose::Ours(name) = whose(&before(), &instance, &Protected::default()) else { panic!() };
        let removal = Removal::of_certificate(name, &certificate(Some(OURS), at(0)));
        Removal { node: Some(node(true, at(0))), pins: vec!["Web".into()], ..removal }.applied(at(10), true)
    }

    #[test]
    fn what_is_gone_in_a_later_observation_is_proven() {
        let proof = removal().proof(&after(), at(10)).unwrap();
        assert!(matches!(proof.fact().code, Code::Purged(_)));
        assert_eq!(removal().gone(&after(), at(10)).len(), 3);
    }

    #[test]
    fn an_observation_from_before_the_removal_proves_nothing() {
        assert_eq!(removal().proof(&after(), at(9)), None);
        assert_eq!(removal().gone(&after(), at(9)), []);
    }

    #[test]
    fn what_is_left_or_unavailable_is_not_proven_and_the_rest_is() {
        let left = [
            NameView { certificate: before().certificate, ..after() },
            NameView { certificate: down(), ..after() },
            NameView { node: Lookup::Found(node(true, at(0))), ..after() },
            NameView { node: down(), ..after() },
            NameView { pins: before().pins, ..after() },
            NameView { pins: down(), ..after() },
        ];
        for seen in left {
            assert_eq!(removal().proof(&seen, at(20)), None, "{seen:?}");
            assert_eq!(removal().gone(&seen, at(20)).len(), 2, "{seen:?}");
        }
    }

    #[test]
    fn a_certificate_is_gone_when_one_of_another_key_has_its_place_and_not_when_it_was_renewed() {
        let now = |serial: &str, key_print: &str| {
            let mut certificate = certificate(Some(OURS), at(15));
            certificate.serial = serial.into();
            certificate.holds.key_print = key_print.into();
            NameView { certificate: Lookup::Found(certificate), ..after() }
        };
        let key_print = certificate(Some(OURS), at(0)).holds.key_print;
        assert_eq!(removal().proof(&now("02", &key_print), at(20)), None, "renewed: the same key");
        assert!(removal().proof(&now("02", "another key"), at(20)).is_some());
    }

    #[test]
    fn what_was_removed_before_is_still_to_be_proven_after_a_second_removal() {
        let node_alone = {
            let mut requested = Removal::of(removal().name);
            requested.node = Some(node(true, at(0)));
            requested.applied(at(20), false)
        };
        let both = node_alone.after(removal());
        assert!(both.is_revoked());
        assert_eq!(both.gone(&after(), at(20)).len(), 3);
        assert_eq!(both.proof(&NameView { certificate: before().certificate, ..after() }, at(20)), None);
        assert_eq!(both.proof(&after(), at(19)), None, "it was observed before the second removal");
    }

    #[test]
    fn that_one_certificate_is_revoked_says_nothing_of_another_under_the_name() {
        let mut another = Removal::of(removal().name);
        another.certificate = Some("FFFF".to_owned());
        assert!(!another.applied(at(20), false).after(removal()).is_revoked());
    }

    #[test]
    fn another_name_proves_nothing() {
        let other = NameView { certname: "other.example.com".parse().unwrap(), ..after() };
        assert_eq!(removal().proof(&other, at(20)), None);
    }
}
