//! Pending certificate requests of instances that are gone: nothing else would ever delete them. Pure.
//!
//! A request is deleted if no certificate is under its name and EC2 says that its instance is terminated. Of an instance that EC2
//! does not know, a request says too little: no account, no Region, and not when it was sent. Where an active node has reported
//! those, [`Rules::judge`] removes the request with the node.

use stagedoor_types::{Certname, InstanceId, Mode};

use super::{Cloud, Fate, Rules};

/// A pending request under a name that has no certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingRequest {
    /// The name.
    pub certname: Certname,
    /// The requested extension `pp_instance_id`.
    pub instance: InstanceId,
    /// SHA-256 over its public key: another request may take its place at any time.
    pub key_print: String,
}

impl Rules<'_> {
    /// Whether the request under a name is worth reading: some profile could have made the name.
    #[must_use]
    pub fn may_have_asked(&self, certname: &Certname) -> bool {
        self.protected.protects(certname).is_none()
            && self.profiles.iter().any(|profile| profile.certname.could_be(certname))
    }

    /// The mode in which a request is deleted: not at all if its instance may live, or if no profile could have made its name; it is
    /// only reported if one of those only observes.
    #[must_use]
    pub fn may_delete(&self, request: &PendingRequest, cloud: &Cloud) -> Option<Mode> {
        let PendingRequest { certname, instance, .. } = request;
        if self.protected.protects(certname).is_some() || !matches!(cloud.fate(instance), Fate::Terminated(_)) {
            return None;
        }
        let makers = self.profiles.iter().filter(|profile| profile.certname.could_make(certname, instance));
        Mode::strictest(makers.map(|profile| profile.mode))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::super::Limits;
    use super::*;
    use crate::profile::{Profile, Protected};
    use crate::world::{Aws, NAME, OTHER, machine};

    fn request() -> PendingRequest {
        PendingRequest { certname: NAME.parse().unwrap(), instance: OTHER.parse().unwrap(), key_print: "A7:0C".into() }
    }

    /// What EC2 says of the other instance, if it knows it.
    fn cloud(state: Option<&str>) -> Cloud {
        let machines = state.map(|state| (OTHER.parse().unwrap(), machine(OTHER, state)));
        Cloud { groups: vec![Aws::launching().group().clone()], machines: machines.into_iter().collect() }
    }

    fn verdict(profiles: &[&Profile], protected: &Protected, cloud: &Cloud) -> Option<Mode> {
        let limits = Limits { max_share: 20, grace: Duration::ZERO };
        Rules { profiles, protected, limits }.may_delete(&request(), cloud)
    }

    #[test]
    fn only_the_request_of_an_instance_that_ec2_says_is_terminated_is_deleted() {
        let profile = Profile::example();
        for (state, mode) in [
            (Some("terminated"), Some(Mode::Act)),
            (Some("shutting-down"), None),
            (Some("stopped"), None),
            (Some("running"), None),
            (None, None),
        ] {
            assert_eq!(verdict(&[&profile], &Protected::default(), &cloud(state)), mode, "{state:?}");
        }
        let mut in_a_group = cloud(Some("terminated"));
        let members = in_a_group.groups[0].members.values().next().unwrap().clone();
        in_a_group.groups[0].members = BTreeMap::from([(OTHER.parse().unwrap(), members)]);
        assert_eq!(verdict(&[&profile], &Protected::default(), &in_a_group), None, "its hooks see to it");
    }

    #[test]
    fn a_request_under_a_protected_name_or_one_that_no_profile_makes_is_left_alone() {
        let profile = Profile { certname: "{instance_id}.example.com".parse().unwrap(), ..Profile::example() };
        assert_eq!(verdict(&[&profile], &Protected::default(), &cloud(Some("terminated"))), None);
        let protected = Protected::new([NAME]).unwrap();
        assert_eq!(verdict(&[&Profile::example()], &protected, &cloud(Some("terminated"))), None);
        let (profiles, protected) = ([&profile], Protected::default());
        let limits = Limits { max_share: 20, grace: Duration::ZERO };
        let rules = Rules { profiles: &profiles, protected: &protected, limits };
        assert!(!rules.may_have_asked(&NAME.parse().unwrap()));
        assert!(rules.may_have_asked(&"i-0a.example.com".parse().unwrap()));
    }

    #[test]
    fn where_a_profile_that_could_have_made_the_name_only_observes_nothing_is_deleted() {
        let (acts, observes) = (Profile::example(), Profile { mode: Mode::Observe, ..Profile::example() });
        for profiles in [[&acts, &observes], [&observes, &acts]] {
            let mode = verdict(&profiles, &Protected::default(), &cloud(Some("terminated")));
            assert_eq!(mode, Some(Mode::Observe));
        }
    }
}
