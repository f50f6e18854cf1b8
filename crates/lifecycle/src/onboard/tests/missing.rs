//! When neither a certificate nor a request comes.

use super::*;
use crate::onboard::Elsewhere;
use crate::profile::SignMode;

fn codes(decision: Decision) -> Vec<Code> {
    match decision {
        Decision::Wait(reason) | Decision::Complete(ActionResult::Abandon, reason) => reason.codes(),
        other => panic!("{other:?}"),
    }
}

/// Nothing has come by second 200, and the instance was looked for under other names.
fn looked_for(found: Vec<Elsewhere>) -> World {
    let mut world = world().new_to_puppet();
    world.puppet.elsewhere = Some(found);
    world
}

fn builder() -> Elsewhere {
    Elsewhere::Facts("image-builder.example.com".parse().unwrap())
}

#[test]
fn an_instance_is_looked_for_under_other_names_once_it_has_waited_for_a_while() {
    let mut world = world().new_to_puppet();
    world.puppet.elsewhere = None;
    world.now = at(119);
    assert_eq!(codes(world.decide()), [Code::RequestPending]);
    world.now = at(120);
    assert_eq!(world.decide(), Decision::Ask(Question::Elsewhere));
    world.puppet.elsewhere = Some(Vec::new());
    assert_eq!(codes(world.decide()), [Code::RequestPending], "nothing was found, or nothing could be asked");
}

#[test]
fn what_is_found_under_another_name_is_added_with_its_remedy() {
    let request = Elsewhere::Request("ip-10-0-3-7.corp.example.com".parse().unwrap());
    let world = looked_for(vec![builder(), request]);
    let facts: Vec<String> = waits(world.decide()).facts().map(|fact| fact.text.clone()).collect();
    insta::assert_snapshot!(facts.join("\n"), @"
    waiting for the certificate request of ip-10-0-3-7.ec2.internal
    PuppetDB has facts of i-0a1b2c3d4e5f60718 under the name image-builder.example.com: it runs Puppet with another certificate, perhaps one that its image was made with; make the image without /etc/puppetlabs/puppet/ssl and without a certname in puppet.conf, or change certname in the profile
    a certificate request with pp_instance_id i-0a1b2c3d4e5f60718 is pending under the name ip-10-0-3-7.corp.example.com: set certname in its puppet.conf, or change certname in the profile (a domain name of its DHCP options is not part of its private DNS name at EC2)
    ");
    let found = [Code::RequestPending, Code::FoundUnderAnotherName, Code::FoundUnderAnotherName];
    assert_eq!(codes(world.decide()), found);
    let mut late = vec![Code::TimeoutExpired];
    late.extend(found);
    assert_eq!(codes(world.late().decide()), late, "the receipt of an abandoned launch says the same");
}

#[test]
fn with_external_signing_it_is_looked_for_only_where_nothing_came() {
    let mut world = looked_for(vec![builder()]);
    world.aws.profile.sign = SignMode::External;
    assert_eq!(codes(world.decide()), [Code::SignaturePending, Code::FoundUnderAnotherName]);
    world.view().request = Lookup::Found(request(Some(OURS)));
    world.puppet.elsewhere = None;
    assert_eq!(codes(world.decide()), [Code::SignaturePending]);
}

#[test]
fn an_instance_that_is_older_than_its_launch_is_said_to_be() {
    let mut world = looked_for(Vec::new());
    world.aws.machine().launched = Some(at(-601));
    assert_eq!(codes(world.decide()), [Code::RequestPending, Code::LaunchedBeforeAction]);
    world.aws.machine().launched = Some(at(-600));
    assert_eq!(codes(world.decide()), [Code::RequestPending]);
    // Out of the warm pool it is as old as that.
    world.aws.machine().launched = Some(at(-100_000));
    for (origin, has_pool) in [(Some(Place::WarmPool), true), (None, true)] {
        world.aws.action.origin = origin;
        world.aws.group().has_pool = has_pool;
        assert_eq!(codes(world.decide()), [Code::RequestPending], "{origin:?}");
    }
}

#[test]
fn an_instance_whose_request_came_is_looked_for_nowhere() {
    let mut world = world().asking(|_| {});
    world.now = at(1000);
    assert!(matches!(done(world.decide()), Effect::Sign(_)));
}
