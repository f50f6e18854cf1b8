//! What holds for every observation there can be.

use proptest::prelude::*;

use super::*;
use crate::world::reachable;

fn owner() -> impl Strategy<Value = Option<&'static str>> {
    prop_oneof![Just(None), Just(Some(OURS)), Just(Some(OTHER))]
}

fn any_world() -> impl Strategy<Value = World> {
    let view = (
        reachable(owner().prop_map(certificate)),
        reachable(owner().prop_map(request)),
        reachable(any::<bool>().prop_map(node)),
        reachable(prop_oneof![Just(OURS), Just(OTHER)].prop_map(|id| id.parse().unwrap())),
        prop_oneof![Just(NAME), Just("puppet.example.com"), Just("i-0a1b2c3d4e5f60718.example.com")],
        reachable(prop::collection::vec(Just("Canaries".to_owned()), 0..2)),
    );
    (view, any::<bool>(), prop::option::of(Just(Code::CaUnavailable))).prop_map(
        |((certificate, request, node, fact_instance, name, pins), late, tried)| {
            let mut world = if late { world().late() } else { world() };
            *world.view() =
                NameView { certname: name.parse().unwrap(), certificate, request, node, fact_instance, pins };
            world.tried = tried;
            world
        },
    )
}

proptest! {
    #[test]
    fn nothing_that_belongs_to_another_is_ever_in_a_removal(world in any_world()) {
        if let Decision::Apply(Effect::Remove(removals)) = world.decide() {
            let view = &world.puppet.names[0];
            let certificate_of_another = matches!(&view.certificate, Lookup::Found(c) if c.instance.as_ref().is_some_and(|id| id.as_str() != OURS));
            prop_assert!(!certificate_of_another);
            prop_assert!(world.protected.protects(&view.certname).is_none());
            let facts_of_another = matches!(&view.fact_instance, Lookup::Found(id) if id.as_str() != OURS);
            let certificate_is_ours = matches!(&view.certificate, Lookup::Found(c) if c.instance.as_ref().is_some_and(|id| id.as_str() == OURS));
            prop_assert!(!facts_of_another || certificate_is_ours || removals[0].node.is_none());
            if !removals[0].pins.is_empty() && !certificate_is_ours {
                prop_assert!(!facts_of_another || !matches!(view.node, Lookup::Found(node) if node.active));
            }
            if removals[0].request {
                let own = matches!(&view.request, Lookup::Found(r) if r.instance.as_ref().is_some_and(|id| id.as_str() == OURS));
                prop_assert!(own);
            }
        }
    }

    #[test]
    fn an_early_continue_means_that_all_was_known_and_nothing_of_ours_is_left(world in any_world()) {
        if world.now < at(600) && let Decision::Complete(..) = world.decide() {
            let view = &world.puppet.names[0];
            let ours = |owner: Option<&InstanceId>| owner.is_some_and(|id| id.as_str() == OURS);
            let protected = world.protected.protects(&view.certname).is_some();
            let certificate_of_another = matches!(&view.certificate, Lookup::Found(c) if c.instance.as_ref().is_some_and(|id| id.as_str() != OURS));
            if !protected {
                prop_assert!(view.certificate.known().is_ok());
                let own_certificate = matches!(&view.certificate, Lookup::Found(c) if ours(c.instance.as_ref()));
                prop_assert!(!own_certificate);
                let facts_of_another = matches!(&view.fact_instance, Lookup::Found(id) if id.as_str() != OURS);
                if !certificate_of_another && !facts_of_another {
                    prop_assert!(view.node.known().is_ok());
                }
            }
        }
    }

    #[test]
    fn no_target_is_ordered_to_run_before_the_certificate_is_known_to_be_gone(world in any_world()) {
        let mut world = world;
        world.aws.profile.refresh.waves = vec![vec![PRIMARY.parse().unwrap()]];
        world.orchestrated = true;
        world.puppet.targets = Some(vec![world::target(None, Some(Vec::new()))]);
        let deactivated = |node: &NodeView| NodeView { deactivated: Some(at(0)), ..*node };
        if let Lookup::Found(node) = &world.view().node {
            world.view().node = Lookup::Found(deactivated(&node.clone()));
        }
        if let Decision::Apply(Effect::Refresh(..)) | Decision::CompleteAndOrder(..) = world.decide() {
            let view = &world.puppet.names[0];
            let of_another = |view: &NameView| matches!(&view.certificate, Lookup::Found(its) if its.instance.as_ref().is_some_and(|id| id.as_str() == OTHER));
            let protected = world.protected.protects(&view.certname).is_some();
            let by_facts = matches!(&view.fact_instance, Lookup::Found(id) if id.as_str() == OTHER);
            prop_assert!(view.certificate == Lookup::Absent || of_another(view) || by_facts || protected);
        }
    }

    #[test]
    fn once_the_timeout_has_expired_the_decision_is_never_to_wait(world in any_world()) {
        if world.now >= at(600) {
            let decision = world.decide();
            let first_try = matches!(decision, Decision::Apply(Effect::Remove(_))) && world.tried.is_none();
            prop_assert!(matches!(decision, Decision::Complete(..)) || first_try, "{decision:?}");
        }
    }
}
