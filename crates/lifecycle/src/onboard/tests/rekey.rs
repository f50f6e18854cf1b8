//! Its own certificate from before the launch: has it lost the key?

use super::*;
use crate::observation::RequestView;

/// Its certificate was issued long before this launch, which an event announced at second 20 and which Auto Scaling's
/// record says began at second 0.
fn relaunched() -> World {
    let mut world = world();
    world.certificate().issued = at(-100_000);
    world.view().node = Lookup::Found(node(true, at(-50_000)));
    world.puppet.run = Some(Lookup::Found(run(at(-50_000), "unchanged")));
    world.aws.action.began = Began::Confirmed { recorded: Some(at(0)), launched: None, said: Some(at(20)) };
    world
}

#[test]
fn an_instance_that_has_lost_its_key_may_have_a_new_certificate() {
    let removal = removal(relaunched().decide());
    assert_eq!(removal.certificate.as_deref(), Some("01A1"));
    assert!(removal.node.is_none() && removal.pins.is_empty() && !removal.request);
}

#[test]
fn a_profile_that_refuses_new_keys_leaves_it_to_a_person() {
    let mut world = relaunched();
    world.aws.profile.rekey = Rekey::Refuse;
    assert_eq!(refused(world.decide()).codes(), [Code::RekeyRefused]);
}

#[test]
fn an_events_word_alone_costs_no_certificate() {
    let mut world = relaunched();
    world.aws.action.began = Began::Said(at(20));
    assert_eq!(world.decide(), Decision::Ask(Question::Began));
    world.certificate().issued = at(10);
    world.aws.action.began = Began::Said(at(199));
    assert_eq!(world.decide(), Decision::Ask(Question::Began));
    for recorded in [Some(at(0)), None] {
        world.aws.action.began = Began::Said(at(199)).confirm(recorded, None, world.now);
        assert_eq!(
            waits(world.decide()).codes(),
            [Code::WaitingForRun],
            "it was issued in this launch, or that is unknown"
        );
    }
}

#[test]
fn a_clock_of_the_node_that_is_ahead_does_not_show_a_run_since_the_launch() {
    let mut world = relaunched();
    let before = RunView { received: at(-100), stored: at(-100), ..run(at(100), "changed") };
    world.puppet.run = Some(Lookup::Found(before));
    world.now = at(700);
    assert!(removal(world.decide()).certificate.is_some());
}

#[test]
fn an_instance_that_was_stopped_and_started_while_it_waited_keeps_its_certificate() {
    // A sweep knows neither an event nor an origin.
    for (origin, said) in [(None, None), (Some(Place::Ec2), Some(at(-200_000)))] {
        let mut world = relaunched();
        world.aws.action.origin = origin;
        world.now = at(1_000);
        // Auto Scaling launched it before its certificate was issued. EC2 says when it was started last.
        world.aws.action.began = Began::Confirmed { recorded: Some(at(-200_000)), launched: Some(at(0)), said };
        waits(world.decide());
        world.puppet.run = Some(Lookup::Found(run(at(1), "changed")));
        completed(world.decide());
        // It was launched again with its key, ran Puppet, and was then stopped and started.
        world.puppet.run = Some(Lookup::Found(run(at(-50_000), "changed")));
        world.aws.action.began = Began::Confirmed { recorded: Some(at(-60_000)), launched: Some(at(0)), said };
        waits(world.decide());
        world.view().node = Lookup::Found(node(true, at(-70_000)));
        world.puppet.run = Some(Lookup::Found(run(at(-70_000), "changed")));
        if said.is_none() {
            removal(world.decide());
        }
    }
}

#[test]
fn an_old_event_says_nothing_of_the_launch_that_waits_now() {
    // It announced a launch in which the instance got its certificate and ran Puppet. It is delivered again after the root volume was
    // replaced.
    let mut world = world();
    world.aws.action.began = Began::Said(at(0));
    assert_eq!(world.decide(), Decision::Ask(Question::Began));
    world.aws.profile.ready.clear();
    assert_eq!(world.decide(), Decision::Ask(Question::Began));
    world.aws.action.began = world.aws.action.began.confirm(Some(at(190)), None, world.now);
    waits(world.decide());
    // But a certificate that has just appeared is of the launch that waits.
    let mut signed = self::world();
    signed.aws.action.began = Began::Said(at(0));
    signed.certificate().appeared = true;
    completed(signed.decide());
}

#[test]
fn an_event_of_an_earlier_launch_does_not_say_where_this_one_comes_from() {
    for (said, waits_for) in [(Some(at(-100_100)), Code::NotSeenYet), (None, Code::WaitingForRun)] {
        let mut world = relaunched();
        world.aws.action.began = Began::Confirmed { recorded: Some(at(0)), launched: None, said };
        assert_eq!(waits(world.decide()).codes(), [waits_for]);
        // A run that began before the launch is not one of it, although it ended since.
        world.puppet.run = Some(Lookup::Found(run(at(-5), "changed")));
        assert_eq!(waits(world.decide()).codes(), [waits_for]);
        world.puppet.run = Some(Lookup::Found(run(at(1), "changed")));
        completed(world.decide());
    }
}

#[test]
fn a_certificate_that_is_only_a_little_older_than_the_launch_is_of_the_launch() {
    let mut world = relaunched();
    world.certificate().issued = at(-60);
    assert_eq!(waits(world.decide()).codes(), [Code::WaitingForRun]);
    world.certificate().issued = at(-61);
    removal(world.decide());
}

#[test]
fn a_certificate_that_appeared_in_this_invocation_is_of_this_launch_however_slow_the_clock_of_the_ca_is() {
    for issued in [-150, -3_600, -1_000_000] {
        let mut world = relaunched();
        world.certificate().issued = at(issued);
        removal(world.decide());
        world.certificate().appeared = true;
        assert_eq!(waits(world.decide()).codes(), [Code::WaitingForRun], "{issued}");
    }
}

#[test]
fn a_certificate_whose_age_is_uncertain_is_not_taken_for_old() {
    let mut world = relaunched();
    world.certificate().tolerance = Duration::from_secs(3600);
    for (issued, is_old) in [(-150, false), (-3600, false), (-3601, true)] {
        world.certificate().issued = at(issued);
        assert_eq!(matches!(world.decide(), Decision::Apply(Effect::Remove(_))), is_old, "{issued}");
    }
}

#[test]
fn a_certificate_that_was_renewed_since_the_launch_began_is_the_same_and_not_replaced() {
    let mut world = relaunched();
    let before = removal(world.decide());
    world.certificate().serial = "02".into();
    assert!(before.is_of_key(world.certificate()), "the same key");
    world.certificate().issued = at(5);
    assert_eq!(waits(world.decide()).codes(), [Code::WaitingForRun], "its key was there to renew it");
}

#[test]
fn an_instance_out_of_the_warm_pool_keeps_its_certificate_and_its_good_run() {
    let mut world = relaunched();
    world.aws.action.origin = Some(Place::WarmPool);
    world.puppet.run = Some(Lookup::Found(run(at(-50_000), "unchanged")));
    assert_eq!(waits(world.decide()).codes(), [Code::WaitingForRun], "a group without a pool has none to come from");
    world.aws.group().has_pool = true;
    completed(world.decide());
    world.aws.action.began = Began::Confirmed { recorded: Some(at(0)), launched: None, said: Some(at(-50_000)) };
    assert_eq!(waits(world.decide()).codes(), [Code::NotSeenYet], "that event was of another launch");
}

#[test]
fn a_replaced_root_volume_is_announced_as_coming_from_the_group() {
    let mut world = relaunched();
    world.aws.action.origin = Some(Place::AutoScalingGroup);
    removal(world.decide());
}

#[test]
fn an_unsaid_origin_costs_a_certificate_only_where_there_is_no_warm_pool_to_come_from() {
    let mut world = relaunched();
    world.aws.action.origin = None;
    world.aws.action.began = Began::Unknown;
    assert_eq!(world.decide(), Decision::Ask(Question::Began));
    world.aws.action.began = Began::Confirmed { recorded: Some(at(0)), launched: None, said: None };
    removal(world.decide());
    world.aws.group().has_pool = true;
    assert_eq!(waits(world.decide()).codes(), [Code::WaitingForRun]);
    world.aws.group().has_pool = false;
    world.aws.action.origin = Some(Place::Other);
    assert_eq!(waits(world.decide()).codes(), [Code::WaitingForRun]);
}

#[test]
fn a_certificate_that_it_has_run_puppet_with_since_is_not_taken_for_lost() {
    let mut world = relaunched();
    world.puppet.run = Some(Lookup::Found(run(at(25), "changed")));
    completed(world.decide());
    world.puppet.run = Some(down());
    assert!(matches!(world.decide(), Decision::Fail(_)));
}

#[test]
fn a_run_from_shortly_before_the_launch_neither_lets_it_in_nor_costs_it_its_certificate() {
    let mut world = relaunched();
    assert!(world.now < at(620));
    // It ended before the launch began, by clocks that differ perhaps after; or it ended when the launch had begun.
    for began in [-5, 15] {
        world.puppet.run = Some(Lookup::Found(run(at(began), "changed")));
        assert_eq!(waits(world.decide()).codes(), [Code::WaitingForRun]);
    }
    // It would have run Puppet again by then.
    world.now = at(621);
    assert_eq!(removal(world.decide()).certificate.as_deref(), Some("01A1"));
}

#[test]
fn a_run_that_is_under_way_uses_the_certificate_although_there_is_no_report_yet() {
    let mut world = relaunched();
    world.view().node = Lookup::Found(node(true, at(80)));
    // Long after one that has lost its key is given a new certificate.
    world.now = at(700);
    assert_eq!(waits(world.decide()).codes(), [Code::WaitingForRun]);
    // PuppetDB may have stored these facts only after the launch began: they may be of a run that ended with the old root volume.
    world.view().node = Lookup::Found(node(true, at(79)));
    world.now = at(619);
    assert_eq!(waits(world.decide()).codes(), [Code::WaitingForRun]);
    world.now = at(620);
    assert!(removal(world.decide()).certificate.is_some());
    world.view().node = Lookup::Found(node(true, at(-61)));
    assert!(removal(world.decide()).certificate.is_some());
    world.view().node = down();
    assert!(matches!(world.decide(), Decision::Fail(_)));
}

/// A request under the name of a certificate that is in use, with this key and of this instance.
fn beside_a_certificate(instance: &str, key_print: &str) -> RequestView {
    let mut pending = request(Some(instance));
    pending.asks.key_print = key_print.into();
    pending
}

#[test]
fn a_request_beside_the_certificate_in_use_never_costs_it() {
    let own_key = world().certificate().holds.key_print.clone();
    // Sent again by the agent; with another key by a stranger who knows the challenge; and of another instance.
    for (instance, key_print) in [(OURS, own_key.as_str()), (OURS, "another key"), (OTHER, own_key.as_str())] {
        for rekey in [Rekey::Allow, Rekey::Refuse] {
            let mut world = world();
            world.aws.profile.rekey = rekey;
            world.view().request = Lookup::Found(beside_a_certificate(instance, key_print));
            completed(world.decide());
            world.puppet.run = Some(Lookup::Absent);
            assert_eq!(waits(world.decide()).codes(), [Code::WaitingForRun], "signed a moment ago, and not used yet");
        }
    }
}

#[test]
fn a_request_that_cannot_be_read_beside_the_certificate_in_use_holds_nothing_up() {
    let mut world = world();
    world.view().request = down();
    completed(world.decide());
}

#[test]
fn a_lost_key_is_replaced_whether_the_new_request_is_there_already_or_not() {
    let mut world = relaunched();
    world.view().request = Lookup::Found(beside_a_certificate(OURS, "another key"));
    let removal = removal(world.decide());
    assert!(removal.certificate.is_some() && !removal.request, "its request is still to be signed");
    world.aws.profile.rekey = Rekey::Refuse;
    assert_eq!(refused(world.decide()).codes(), [Code::RekeyRefused]);
}

#[test]
fn a_key_with_which_a_request_is_pending_is_not_taken_for_lost() {
    let mut world = relaunched();
    let own_key = world.certificate().holds.key_print.clone();
    world.view().request = Lookup::Found(beside_a_certificate(OURS, &own_key));
    assert_eq!(waits(world.decide()).codes(), [Code::WaitingForRun]);
    world.view().request = down();
    assert!(matches!(world.decide(), Decision::Fail(_)));
}
