//! Whose the certificate or request is, and whether it may be.

use super::*;
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
fn a_certificate_with_forbidden_content_ends_the_launch_no_matter_who_signed_it_and_is_not_revoked_before() {
    for mode in [SignMode::Verify, SignMode::External] {
        let mut world = world();
        world.aws.profile.sign = mode;
        completed(world.decide());
        world.certificate().holds.extensions.insert("pp_auth_role".into(), "pe_compiler".into());
        refused_certificate(world.decide());
    }
}

#[test]
fn an_own_certificate_that_lacks_what_is_required_ends_the_launch() {
    let mut world = world();
    world.aws.profile.rules.require.insert("pp_role".into(), "compiler".into());
    insta::assert_snapshot!(
        refused_certificate(world.decide()),
        @r#"the certificate 01A1 of ip-10-0-3-7.ec2.internal is refused: it has no pp_role; "compiler" is required"#
    );
    let mut anonymous = self::world();
    anonymous.certificate().instance = None;
    anonymous.certificate().holds.extensions.clear();
    // The facts say that it is its own.
    insta::assert_snapshot!(
        refused_certificate(anonymous.decide()),
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

#[test]
fn an_extension_that_is_not_listed_costs_nobody_a_certificate() {
    let mut world = world();
    world.certificate().holds.extensions.insert("pp_environment".into(), "production".into());
    completed(world.decide());
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
