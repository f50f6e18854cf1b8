//! Properties of the judgement over arbitrary observations.

use proptest::prelude::*;

use super::*;
use crate::observation::NodeView;
use crate::world;

fn node_state() -> impl Strategy<Value = NodeView> {
    (any::<bool>(), 0..2 * LATER).prop_map(|(active, newest)| node(active, at(newest)))
}

fn maybe_id() -> impl Strategy<Value = Option<InstanceId>> {
    prop::sample::select(vec![None, Some(id(OURS)), Some(id(OTHER))])
}

proptest! {
    /// Whatever comes together: what goes had all evidence.
    #[test]
    fn nothing_goes_without_all_evidence(
        owner in maybe_id(),
        issued in 0..2 * LATER,
        role in prop::sample::select(vec!["compiler", "database"]),
        certificate in prop::sample::select(vec![0, 1, 1, 2]),
        node in world::reachable(node_state()),
        fact in world::reachable(maybe_id().prop_map(|fact| fact.unwrap_or_else(|| id(MEMBER)))),
        reported in maybe_id(),
        region in prop::sample::select(vec![None, Some("eu-west-1"), Some("us-east-1")]),
        states in prop::collection::vec(prop::sample::select(vec!["", "running", "terminated"]), 3),
    ) {
        let mut scene = Scene::forgotten();
        scene.extension("pp_role", Some(role));
        let view = &mut scene.suspect.view;
        if let Lookup::Found(certificate) = &mut view.certificate {
            certificate.instance = owner;
            certificate.issued = at(issued);
        }
        match certificate {
            0 => view.certificate = Lookup::Absent,
            1 => {}
            _ => view.certificate = down(),
        }
        view.node = node;
        view.fact_instance = fact;
        scene.suspect.reported = Reported { instance: reported, region: region.map(Into::into), ..scene.suspect.reported };
        for (instance, state) in [OURS, OTHER, MEMBER].into_iter().zip(states) {
            scene.cloud.machines.remove(&id(instance));
            if !state.is_empty() {
                scene.ec2_knows(instance, state);
            }
        }
        let state = |instance: &InstanceId| scene.cloud.machines.get(instance).map(|machine| machine.state.as_str());
        for orphan in scene.judge().orphans {
            let view = &scene.suspect.view;
            prop_assert!(view.node.known().is_ok() && view.certificate.known().is_ok() && view.fact_instance.known().is_ok());
            prop_assert!(state(&orphan.instance) != Some("running"));
            if let Lookup::Found(certificate) = &view.certificate {
                prop_assert_eq!(certificate.instance.as_ref(), Some(&orphan.instance));
                prop_assert_eq!(role, "compiler");
            }
            prop_assert_ne!(&orphan.instance, &id(MEMBER));
            let same = scene.suspect.reported.instance.as_ref() == Some(&orphan.instance);
            prop_assert!(!(same && region == Some("us-east-1")));
            if state(&orphan.instance).is_none() {
                prop_assert!(same && region == Some("eu-west-1"));
                prop_assert!(state(&id(MEMBER)).is_some(), "EC2's answer has a gap");
                let heard = view.node.known().unwrap().map(|node| node.newest.unwrap());
                prop_assert!(heard.is_none_or(|heard| deadline::after(heard, GRACE) <= scene.now));
            } else {
                let heard = view.node.known().unwrap().map(|node| node.newest.unwrap());
                prop_assert!(heard.is_none_or(|heard| deadline::after(heard, SILENCE) <= scene.now));
            }
        }
    }
}
