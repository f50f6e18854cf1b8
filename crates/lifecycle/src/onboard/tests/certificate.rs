//! Whose the certificate or request is, and whether it may be.

use super::*;
use crate::observation::RequestView;
use crate::signing::{Challenge, Key, Signature};

// The request.

#[test]
fn a_request_that_has_not_come_is_waited_for() {
    assert_eq!(waits(world().new_to_puppet().decide()).codes(), [Code::RequestPending]);
}

#[test]
fn a_request_that_is_what_the_profile_expects_is_signed() {
    let Effect::Sign(signable) = done(world().asking(|_| {}).decide()) else { panic!() };
    assert_eq!(signable.certname().as_str(), NAME);
}

type Flaw = fn(&mut Request);

#[test]
fn each_check_that_fails_has_the_request_deleted_and_says_why() {
    let flaws: [Flaw; 13] = [
        |r| r.common_name = Some(PRIMARY.into()),
        |r| r.common_name = None,
        |r| r.signature = Signature::Wrong,
        |r| drop(r.extensions.remove("pp_instance_id")),
        |r| name(r, "nonsense"),
        |r| drop(r.extensions.remove("pp_role")),
        |r| drop(r.extensions.insert("pp_role".into(), "primary".into())),
        |r| drop(r.extensions.insert("pp_auth_role".into(), "pe_compiler".into())),
        |r| r.other_extensions.push("2.5.29.19".into()),
        |r| r.alt_names.push("console.example.com".into()),
        |r| r.challenge = Challenge::Different,
        |r| r.key = Key::Rsa(1024),
        |r| r.key = Key::Ec(192),
    ];
    let mut reasons = Vec::new();
    for flaw in flaws {
        let mut world = world().asking(|asks| {
            asks.extensions.insert("pp_role".into(), "compiler".into());
            flaw(asks);
        });
        world.aws.profile.rules.require.insert("pp_role".into(), "compiler".into());
        reasons.push(deleted_request(world.decide()));
    }
    insta::assert_snapshot!(reasons.join("\n"), @r#"
    the certificate request of ip-10-0-3-7.ec2.internal is refused: its name is "puppet.example.com", not ip-10-0-3-7.ec2.internal
    the certificate request of ip-10-0-3-7.ec2.internal is refused: its subject is more than a common name
    the certificate request of ip-10-0-3-7.ec2.internal is refused: it is not signed with its own key
    the certificate request of ip-10-0-3-7.ec2.internal is refused: it has no pp_instance_id
    the certificate request of ip-10-0-3-7.ec2.internal is refused: its pp_instance_id is "nonsense", not i-0a1b2c3d4e5f60718
    the certificate request of ip-10-0-3-7.ec2.internal is refused: it has no pp_role; "compiler" is required
    the certificate request of ip-10-0-3-7.ec2.internal is refused: its pp_role is "primary", not "compiler"
    the certificate request of ip-10-0-3-7.ec2.internal is refused: it asks for the extension pp_auth_role, which is listed neither in sign.require nor in sign.allow of the profile
    the certificate request of ip-10-0-3-7.ec2.internal is refused: it asks for the extension 2.5.29.19, which Puppet does not know
    the certificate request of ip-10-0-3-7.ec2.internal is refused: it asks for the alternative name console.example.com, which the profile does not list
    the certificate request of ip-10-0-3-7.ec2.internal is refused: its challengePassword is not the one that the instances are given
    the certificate request of ip-10-0-3-7.ec2.internal is refused: its RSA key has 1024 bits; at least 2048 are required
    the certificate request of ip-10-0-3-7.ec2.internal is refused: its elliptic curve has 192 bits; at least 256 are required
    "#);
}

#[test]
fn a_request_of_another_instance_or_of_none_is_deleted_and_the_launch_goes_on() {
    for owner in [OTHER, "", "nonsense"] {
        let deleted = |world: World| deleted_request(world.decide());
        let world = world().asking(|asks| name(asks, owner));
        deleted(world.clone());
        // Whatever EC2 says, if anything: a predecessor that it has forgotten is as good as one that it shows as terminated.
        for other in [Lookup::Found(machine(OTHER, "running")), Lookup::Absent, down()] {
            deleted(world.clone().other_is(other));
        }
    }
}

/// A request in this invocation was refused; none is pending now.
fn after_a_refusal(left: Option<&str>) -> World {
    let mut world = world().new_to_puppet();
    let reason = Fact::new(Code::RequestRefused, "its pp_role is wrong");
    world.puppet.refused = Some(Refused { reason, left: left.map(str::to_owned) });
    world
}

#[test]
fn a_launch_waits_for_another_request_and_says_why_the_last_one_was_refused() {
    let Decision::Wait(reason) = after_a_refusal(None).decide() else { panic!() };
    assert_eq!(reason.codes(), [Code::RequestRefused, Code::RequestPending]);
    let mut right = after_a_refusal(None);
    right.view().request = Lookup::Found(request(Some(OURS)));
    assert!(matches!(done(right.decide()), Effect::Sign(_)), "the next one is right");
}

#[test]
fn when_the_timeout_expires_the_launch_is_abandoned_with_the_reason_of_the_last_refused_request() {
    let pending = world().asking(|asks| asks.signature = Signature::Wrong);
    let reason = abandoned(pending.late().decide());
    assert_eq!(reason.codes(), [Code::TimeoutExpired, Code::RequestRefused]);
    insta::assert_snapshot!(
        reason,
        @"the timeout has expired: the certificate request of ip-10-0-3-7.ec2.internal is refused: it is not signed with its own key"
    );
    let deleted_before = after_a_refusal(None);
    let reason = abandoned(deleted_before.clone().late().decide());
    assert_eq!(reason.codes(), [Code::TimeoutExpired, Code::RequestRefused, Code::RequestPending]);
    assert_eq!(reason.facts().nth(1), deleted_before.puppet.refused.as_ref().map(|refused| &refused.reason));
}

#[test]
fn in_the_last_two_minutes_a_refused_request_stays_so_that_its_reason_is_at_hand() {
    let mut world = world().asking(|asks| asks.signature = Signature::Wrong).confirmed();
    world.now = at(1679);
    deleted_request(world.decide());
    world.now = at(1680);
    assert_eq!(waits(world.decide()).codes(), [Code::RequestRefused]);
}

#[test]
fn a_request_that_the_sweep_has_to_delete_is_tried_once_in_an_invocation() {
    let own_key = request(Some(OURS)).asks.key_print;
    let mut world = after_a_refusal(Some(&own_key));
    world.view().request = world.clone().asking(|asks| asks.signature = Signature::Wrong).view().request.clone();
    assert_eq!(waits(world.decide()).codes(), [Code::RequestRefused]);
    let Lookup::Found(pending) = &mut world.view().request else { panic!() };
    pending.asks.key_print = "another key".into();
    assert!(matches!(done(world.decide()), Effect::Delete(refused) if refused.key_print == "another key"));
}

#[test]
fn an_alternative_name_is_compared_with_what_its_template_gives_for_this_instance() {
    let mut world = world().asking(|asks| asks.alt_names.push("Compiler-1.example.com".into()));
    deleted_request(world.decide());
    world.aws.profile.rules.alt_names = vec!["{tag:Name}.example.com".parse().unwrap()];
    // It has no such tag.
    deleted_request(world.decide());
    world.aws.machine().tags.insert("Name".into(), "compiler-1".into());
    assert!(matches!(done(world.decide()), Effect::Sign(_)));
    world.protected = Protected::new(["*.example.com"]).unwrap();
    deleted_request(world.decide());
}

#[test]
fn what_ec2_said_about_one_instance_does_not_speak_for_another() {
    let mut world = world().taken(0);
    world.puppet.owner = Some((OURS.parse().unwrap(), Lookup::Found(machine(OURS, "terminated"))));
    assert_eq!(world.decide(), Decision::Ask(Question::Owner(OTHER.parse().unwrap())));
}

#[test]
fn with_external_signing_the_controller_only_waits() {
    for mut world in
        [world().asking(|_| {}), world().asking(|asks| asks.signature = Signature::Wrong), world().new_to_puppet()]
    {
        world.aws.profile.sign = SignMode::External;
        assert_eq!(waits(world.decide()).codes(), [Code::SignaturePending]);
    }
}

// The certificate.

#[test]
fn a_certificate_with_forbidden_content_is_rejected_no_matter_who_signed_it() {
    for mode in [SignMode::Verify, SignMode::External] {
        let mut world = world();
        world.aws.profile.sign = mode;
        completed(world.decide());
        world.certificate().holds.extensions.insert("pp_auth_role".into(), "pe_compiler".into());
        rejected_certificate(world.decide());
    }
}

#[test]
fn an_own_certificate_that_lacks_what_is_required_is_rejected() {
    let mut world = world();
    world.aws.profile.rules.require.insert("pp_role".into(), "compiler".into());
    insta::assert_snapshot!(
        rejected_certificate(world.decide()),
        @r#"the certificate 01A1 of ip-10-0-3-7.ec2.internal is refused: it has no pp_role; "compiler" is required"#
    );
    let mut anonymous = self::world();
    anonymous.certificate().instance = None;
    anonymous.certificate().holds.extensions.clear();
    // The facts say that it is its own.
    insta::assert_snapshot!(
        rejected_certificate(anonymous.decide()),
        @"the certificate 01A1 of ip-10-0-3-7.ec2.internal is refused: it has no pp_instance_id"
    );
}

#[test]
fn a_certificate_that_nothing_tells_the_owner_of_is_left_to_a_person() {
    let mut world = world();
    world.certificate().instance = None;
    world.view().fact_instance = Lookup::Absent;
    let reason = refused(world.decide());
    assert_eq!(reason.codes(), [Code::OwnerUnknown]);
    insta::assert_snapshot!(
        reason,
        @"nothing says whose the certificate 01A1 of ip-10-0-3-7.ec2.internal is: it has no pp_instance_id and PuppetDB no ec2_metadata for it; if it is stale, clean it manually"
    );
}

// A certificate of another.

#[test]
fn the_owner_of_a_foreign_certificate_is_looked_up_at_ec2() {
    let owner = Decision::Ask(Question::Owner(OTHER.parse().unwrap()));
    assert_eq!(world().taken(0).decide(), owner);
    let mut by_facts = world().taken(0);
    by_facts.certificate().instance = None;
    assert_eq!(by_facts.decide(), owner);
}

#[test]
fn the_certificate_of_an_instance_that_ec2_says_is_gone_is_cleaned_and_nothing_else() {
    for state in ["shutting-down", "terminated"] {
        let removal = removal(world().taken(190).other_is(Lookup::Found(machine(OTHER, state))).decide());
        assert_eq!(removal.name.certname().as_str(), NAME);
        assert_eq!(removal.certificate.as_deref(), Some("01A1"));
        assert!(removal.node.is_none() && removal.pins.is_empty() && !removal.request);
    }
}

#[test]
fn the_certificate_of_a_live_instance_is_never_touched() {
    let mut reasons = Vec::new();
    for state in ["pending", "running", "stopping", "stopped", "something-new"] {
        let world = world().taken(-100_000).other_is(Lookup::Found(machine(OTHER, state)));
        reasons.push(refused(world.decide()));
        assert_eq!(reasons[0].codes(), [Code::OwnedByAnotherInstance], "{state}");
    }
    reasons.dedup();
    assert_eq!(reasons.len(), 1, "{reasons:?}");
    insta::assert_snapshot!(
        reasons[0],
        @"ip-10-0-3-7.ec2.internal belongs to i-0b2c3d4e5f6071829, which is not known to be gone: two instances cannot have one name"
    );
}

/// The other instance is unknown to EC2, has this profile's extension, and was last heard of at this time.
fn forgotten(newest: i64) -> World {
    let mut world = world().taken(newest).other_is(Lookup::Absent);
    world.aws.profile.rules.require.insert("pp_role".into(), "compiler".into());
    world.certificate().holds.extensions.insert("pp_role".into(), "compiler".into());
    world.aws.group().location = Some(home());
    world.puppet.located = Some((OTHER.parse().unwrap(), home()));
    world
}

#[test]
fn an_instance_of_the_same_name_that_is_elsewhere_keeps_its_certificate_however_silent_it_is() {
    let elsewhere =
        [Location { account: "999988887777".into(), ..home() }, Location { region: "us-east-1".into(), ..home() }];
    let other: InstanceId = OTHER.parse().unwrap();
    let not_here = elsewhere.map(|location| Some((other.clone(), location)));
    // Nor do facts of another instance say where it is, or none.
    let nothing = [Some((OURS.parse().unwrap(), home())), None];
    for located in not_here.into_iter().chain(nothing) {
        let mut world = forgotten(-100_000);
        world.puppet.located = located.clone();
        assert_eq!(refused(world.decide()).codes(), [Code::OwnedByAnotherInstance], "{located:?}");
    }
    let mut world = forgotten(-100_000);
    world.aws.group().location = None;
    refused(world.decide());
}

#[test]
fn an_instance_that_ec2_has_forgotten_and_puppet_has_not_heard_of_for_long_is_dead() {
    assert!(removal(forgotten(200 - 7200).decide()).certificate.is_some());
    assert_eq!(refused(forgotten(200 - 7199).decide()).codes(), [Code::OwnedByAnotherInstance]);
}

#[test]
fn a_node_that_was_deactivated_by_others_has_still_been_observed() {
    let mut world = forgotten(0);
    world.view().node = Lookup::Found(node(false, at(0)));
    refused(world.decide());
}

#[test]
fn a_certificate_that_was_issued_lately_is_news_too() {
    let mut world = forgotten(-100_000);
    world.certificate().issued = at(200 - 7199);
    refused(world.decide());
    world.certificate().issued = at(200 - 7200);
    world.view().node = Lookup::Absent;
    assert!(removal(world.decide()).certificate.is_some());
}

#[test]
fn a_forgotten_instance_without_this_profiles_extensions_may_live_in_another_account() {
    let mut other_value = forgotten(-100_000);
    other_value.certificate().holds.extensions.insert("pp_role".into(), "database".into());
    refused(other_value.decide());
    let mut nothing_required = forgotten(-100_000);
    nothing_required.aws.profile.rules.require.clear();
    refused(nothing_required.decide());
}

#[test]
fn facts_that_are_older_than_a_certificate_do_not_condemn_it() {
    let mut world = world().taken(0).other_is(Lookup::Found(machine(OTHER, "terminated")));
    world.certificate().instance = None;
    assert!(removal(world.decide()).certificate.is_some());
    world.certificate().issued = at(1);
    assert_eq!(refused(world.decide()).codes(), [Code::OwnerUnknown]);
}

#[test]
fn a_stale_certificate_is_cleaned_with_external_signing_too() {
    let mut world = world().taken(0).other_is(Lookup::Found(machine(OTHER, "terminated")));
    world.aws.profile.sign = SignMode::External;
    assert!(removal(world.decide()).certificate.is_some());
}

// Its own old certificate.

/// Its certificate was issued long before this launch, which an event announced at second 20 and which Auto Scaling's
/// record says began at second 0.
fn relaunched() -> World {
    let mut world = world();
    world.certificate().issued = at(-100_000);
    world.view().node = Lookup::Found(node(true, at(-50_000)));
    world.puppet.run = Some(Lookup::Found(run(at(-50_000), "unchanged")));
    world.aws.action.began = Began::Confirmed { recorded: Some(at(0)), said: Some(at(20)) };
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
        world.aws.action.began = Began::Said(at(199)).confirm(recorded, world.now);
        assert_eq!(
            waits(world.decide()).codes(),
            [Code::WaitingForRun],
            "it was issued in this launch, or that is unknown"
        );
    }
}

#[test]
fn an_event_of_an_earlier_launch_does_not_say_where_this_one_comes_from() {
    for said in [Some(at(-100_100)), None] {
        let mut world = relaunched();
        world.aws.action.began = Began::Confirmed { recorded: Some(at(0)), said };
        assert_eq!(waits(world.decide()).codes(), [Code::WaitingForRun]);
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
    world.aws.action.began = Began::Confirmed { recorded: Some(at(0)), said: Some(at(-50_000)) };
    assert_eq!(waits(world.decide()).codes(), [Code::WaitingForRun], "that event was of another launch");
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
    world.aws.action.began = Began::Confirmed { recorded: Some(at(0)), said: None };
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
    assert!(world.now < at(600));
    // It ended before the launch began, by clocks that differ perhaps after; or it ended when the launch had begun.
    for began in [-5, 15] {
        world.puppet.run = Some(Lookup::Found(run(at(began), "changed")));
        assert_eq!(waits(world.decide()).codes(), [Code::WaitingForRun]);
    }
    // It would have run Puppet again by then.
    world.now = at(601);
    assert_eq!(removal(world.decide()).certificate.as_deref(), Some("01A1"));
}

#[test]
fn a_run_that_is_under_way_uses_the_certificate_although_there_is_no_report_yet() {
    let mut world = relaunched();
    world.view().node = Lookup::Found(node(true, at(0)));
    assert_eq!(waits(world.decide()).codes(), [Code::WaitingForRun]);
    world.view().node = down();
    assert!(matches!(world.decide(), Decision::Fail(_)));
}

#[test]
fn an_extension_that_is_not_listed_costs_nobody_a_certificate() {
    let mut world = world();
    world.certificate().holds.extensions.insert("pp_environment".into(), "production".into());
    completed(world.decide());
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
