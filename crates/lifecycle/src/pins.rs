//! Pins that have outlived their node: the next instance that gets such a name would be in these node groups. Pure.
//!
//! They are only reported. Operators pin names too, before there is a node of that name or for good.

use std::collections::{BTreeMap, BTreeSet};

use stagedoor_types::{Certname, Trouble};

use crate::observation::NameView;
use crate::profile::{Profile, Protected};

/// The names that are pinned to groups of `pin`, and that a profile with that group could have given to an instance, each with these
/// groups. Left out are protected names, and those of instances that launch now: they are pinned before they have a certificate.
#[must_use]
pub fn ours<'a>(
    pins: impl IntoIterator<Item = (&'a str, Vec<Certname>)>,
    profiles: &[&Profile],
    protected: &Protected,
    launching: &BTreeSet<Certname>,
) -> BTreeMap<Certname, BTreeSet<String>> {
    let mut ours: BTreeMap<Certname, BTreeSet<String>> = BTreeMap::new();
    for (group, names) in pins {
        let profiles: Vec<&&Profile> =
            profiles.iter().filter(|profile| profile.pin.iter().any(|pin| pin == group)).collect();
        for name in names {
            let could_be = profiles.iter().any(|profile| profile.certname.could_be(&name));
            if could_be && protected.protects(&name).is_none() && !launching.contains(&name) {
                ours.entry(name).or_default().insert(group.to_owned());
            }
        }
    }
    ours
}

/// Whether nothing but pins is under this name: no certificate, no request, and no active node.
pub fn is_left_over(view: &NameView) -> Result<bool, &Trouble> {
    let pinned = view.pins.known()?.is_some_and(|pins| !pins.is_empty());
    let active = view.node.known()?.is_some_and(|node| node.active);
    Ok(pinned && !active && view.certificate.known()?.is_none() && view.request.known()?.is_none())
}

#[cfg(test)]
mod tests {
    use stagedoor_types::Lookup;

    use super::*;
    use crate::world::{NAME, OTHER, OURS, PRIMARY, at, certificate, down, node, request};

    fn name(name: &str) -> Certname {
        name.parse().unwrap()
    }

    #[test]
    fn names_that_a_profile_pins_are_ours_and_no_others_are() {
        let mut agents = Profile::example();
        agents.pin = vec!["Agents".into()];
        agents.certname = "{instance_id}.nodes.example.com".parse().unwrap();
        let mut canaries = Profile::example();
        canaries.pin = vec!["Canaries".into()];
        let (of_agents, launches) =
            (name(&format!("{OURS}.nodes.example.com")), name(&format!("{OTHER}.nodes.example.com")));
        let all = || vec![of_agents.clone(), name("other.example.com"), name(PRIMARY), launches.clone()];
        let pins = [("Agents", all()), ("Canaries", all()), ("Of an operator", all())];
        let protected = Protected::new([PRIMARY]).unwrap();
        let ours = ours(pins, &[&agents, &canaries], &protected, &BTreeSet::from([launches.clone()]));
        let groups = |name: &Certname| ours[name].iter().map(String::as_str).collect::<Vec<_>>();
        assert_eq!(ours.len(), 2, "{ours:?}");
        assert_eq!(groups(&of_agents), ["Agents", "Canaries"]);
        assert_eq!(groups(&name("other.example.com")), ["Canaries"], "the other profile makes no such name");
    }

    fn pinned() -> NameView {
        NameView {
            certname: name(NAME),
            certificate: Lookup::Absent,
            request: Lookup::Absent,
            node: Lookup::Found(node(false, at(0))),
            fact_instance: Lookup::Absent,
            pins: Lookup::Found(vec!["Agents".into()]),
        }
    }

    #[test]
    fn a_pin_is_left_over_when_there_is_nothing_else_under_the_name() {
        assert_eq!(is_left_over(&pinned()), Ok(true));
        assert_eq!(is_left_over(&NameView { node: Lookup::Absent, ..pinned() }), Ok(true));
        for used in [
            NameView { certificate: Lookup::Found(certificate(Some(OTHER), at(0))), ..pinned() },
            NameView { request: Lookup::Found(request(None)), ..pinned() },
            NameView { node: Lookup::Found(node(true, at(0))), ..pinned() },
            NameView { pins: Lookup::Found(Vec::new()), ..pinned() },
        ] {
            assert_eq!(is_left_over(&used), Ok(false), "{used:?}");
        }
    }

    #[test]
    fn what_is_unavailable_is_not_left_over() {
        for unknown in [
            NameView { certificate: down(), ..pinned() },
            NameView { request: down(), ..pinned() },
            NameView { node: down(), ..pinned() },
            NameView { pins: down(), ..pinned() },
        ] {
            assert!(is_left_over(&unknown).is_err(), "{unknown:?}");
        }
    }
}
