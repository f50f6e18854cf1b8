mod kept;
mod properties;
mod targets;

use jiff::Timestamp;
use stagedoor_types::Service;

use super::*;
use crate::observation::{Began, NodeView};
use crate::profile::Protected;
use crate::world::{self, Aws, NAME, OTHER, OURS, PRIMARY, at, down, request, unavailable};

fn node(active: bool) -> NodeView {
    NodeView { active, deactivated: None, facts: Some(at(-100)), catalog: None, newest: None }
}

fn certificate(owner: Option<&str>) -> crate::observation::CertificateView {
    world::certificate(owner, at(-1000))
}

/// A terminating instance in its world; each test changes the one thing that it is about.
#[derive(Debug, Clone)]
struct World {
    aws: Aws,
    puppet: TerminationView,
    protected: Protected,
    /// The code of the last attempt to remove it.
    tried: Option<Code>,
    orchestrated: bool,
    sweeps: bool,
    now: Timestamp,
}

fn world() -> World {
    let view = NameView {
        certname: NAME.parse().unwrap(),
        certificate: Lookup::Found(certificate(Some(OURS))),
        request: Lookup::Absent,
        node: Lookup::Found(node(true)),
        fact_instance: Lookup::Found(OURS.parse().unwrap()),
        pins: Lookup::Found(vec![]),
    };
    World {
        aws: Aws::terminating(),
        puppet: TerminationView { names: vec![view], known_as: Lookup::Absent, targets: None },
        protected: Protected::new([PRIMARY]).unwrap(),
        tried: None,
        orchestrated: false,
        sweeps: true,
        now: at(5),
    }
}

impl World {
    fn decide(&self) -> Decision {
        let terminating = self.aws.admitted();
        let last = self.tried.map(|code| Fact::new(code, "the last attempt failed").into());
        let removals = Removals { last, ..Removals::default() };
        let seen = Observed { value: self.puppet.clone(), at: self.now };
        decide(&self.aws.action, &terminating, &seen, &removals, self.site())
    }

    fn site(&self) -> Site<'_> {
        let Self { protected, orchestrated, sweeps, now, .. } = self;
        Site { protected, orchestrated: *orchestrated, sweeps: *sweeps, now: *now }
    }

    fn view(&mut self) -> &mut NameView {
        &mut self.puppet.names[0]
    }

    fn owned_by(mut self, certificate: Option<&str>, facts: Option<&str>) -> Self {
        let view = self.view();
        view.certificate = Lookup::Found(self::certificate(certificate));
        view.fact_instance = facts.map_or(Lookup::Absent, |id| Lookup::Found(id.parse().unwrap()));
        self
    }

    /// As it is when everything has been removed.
    fn purged(mut self) -> Self {
        let view = self.view();
        view.certificate = Lookup::Absent;
        view.node = Lookup::Found(node(false));
        view.fact_instance = Lookup::Absent;
        self
    }

    fn late(mut self) -> Self {
        self.now = at(601);
        self.aws.action.began = Began::Confirmed { recorded: Some(at(0)), launched: None, said: None };
        self
    }
}

fn assert_purges(decision: &Decision) {
    assert!(matches!(decision, Decision::Apply(Effect::Remove(_))), "{decision:?}");
}

fn removals(decision: Decision) -> Vec<Removal> {
    match decision {
        Decision::Apply(Effect::Remove(removals)) => removals,
        other => panic!("{other:?}"),
    }
}

fn completed(decision: Decision) -> Reason {
    match decision {
        Decision::Complete(ActionResult::Continue, reason) => reason,
        other => panic!("{other:?}"),
    }
}

// What AWS says.

#[test]
fn an_instance_that_ec2_says_is_gone_from_the_group_is_still_purged() {
    let mut world = world();
    world.aws = world.aws.not_in_the_group();
    world.aws.machine().state = "terminated".into();
    world.aws.machine().tags.insert("aws:autoscaling:groupName".into(), "compilers".into());
    assert_purges(&world.decide());
}

#[test]
fn an_instance_that_auto_scaling_no_longer_holds_is_still_purged() {
    let mut world = world();
    world.aws = world.aws.in_state("Terminating:Proceed");
    assert_purges(&world.decide());
}

// What Puppet says.

#[test]
fn what_is_left_is_removed() {
    let removals = removals(world().decide());
    assert_eq!(removals.len(), 1);
    assert_eq!(removals[0].name.certname().as_str(), NAME);
    assert_eq!(removals[0].certificate.as_deref(), Some("01A1"));
    assert!(removals[0].node.is_some() && !removals[0].request);
}

#[test]
fn continue_is_given_only_when_everything_is_seen_to_be_gone() {
    assert_eq!(completed(world().purged().decide()).codes(), [Code::NotInPuppet]);
    let mut active = world().purged();
    active.view().node = Lookup::Found(node(true));
    active.view().fact_instance = Lookup::Found(OURS.parse().unwrap());
    assert_purges(&active.decide());
}

#[test]
fn a_reused_name_is_never_purged() {
    for facts in [None, Some(OURS), Some(OTHER)] {
        let reason = completed(world().owned_by(Some(OTHER), facts).decide());
        assert_eq!(reason.codes(), [Code::OwnedByAnotherInstance], "{facts:?}");
    }
    let by_facts = completed(world().owned_by(None, Some(OTHER)).decide());
    assert_eq!(by_facts.codes(), [Code::OwnedByAnotherInstance]);
    insta::assert_snapshot!(by_facts, @"ip-10-0-3-7.ec2.internal belongs to i-0b2c3d4e5f6071829 now and was left alone");
}

#[test]
fn a_certificate_without_the_extension_is_told_by_its_facts() {
    assert_purges(&world().owned_by(None, Some(OURS)).decide());
}

#[test]
fn facts_of_a_former_owner_do_not_speak_for_a_certificate_that_was_issued_later() {
    let mut world = world().owned_by(None, Some(OURS));
    let Lookup::Found(certificate) = &mut world.view().certificate else { unreachable!() };
    certificate.issued = at(-50);
    assert!(matches!(world.decide(), Decision::Wait(_)), "its facts are older than it");
    let mut world = self::world().owned_by(None, Some(OURS));
    world.view().node = Lookup::Found(node(false));
    assert!(matches!(world.decide(), Decision::Wait(_)), "its node is inactive");
}

#[test]
fn a_name_that_holds_the_instance_id_needs_no_other_evidence() {
    let mut world = world().owned_by(None, None);
    world.view().certname = "i-0a1b2c3d4e5f60718.nodes.example.com".parse().unwrap();
    assert_purges(&world.decide());
    world.view().certname = "i-0a1b2c3d4e5f60718ff.nodes.example.com".parse().unwrap();
    assert!(matches!(world.decide(), Decision::Wait(_)));
}

#[test]
fn what_nobody_can_tell_the_owner_of_waits_for_a_person() {
    let Decision::Wait(reason) = world().owned_by(None, None).decide() else { panic!() };
    assert_eq!(reason.codes(), [Code::OwnerUnknown]);
    insta::assert_snapshot!(
        reason,
        @"nothing says whose ip-10-0-3-7.ec2.internal is: its certificate has no pp_instance_id and PuppetDB no ec2_metadata for it; if it was i-0a1b2c3d4e5f60718, clean it manually"
    );
}

#[test]
fn a_protected_name_is_never_purged_even_if_it_is_the_leaving_instances_own() {
    let mut world = world();
    world.protected = Protected::new([NAME]).unwrap();
    assert_eq!(completed(world.decide()).codes(), [Code::ProtectedName]);
}

#[test]
fn only_its_own_certificate_request_is_removed() {
    let mut world = world().purged();
    world.view().request = Lookup::Found(request(Some(OTHER)));
    completed(world.decide());
    world.view().request = Lookup::Found(request(None));
    completed(world.decide());
    world.view().request = Lookup::Found(request(Some(OURS)));
    let removals = removals(world.decide());
    assert!(removals[0].request && removals[0].certificate.is_none() && removals[0].node.is_none());
}

#[test]
fn an_instance_that_puppet_never_knew_may_go() {
    let mut world = world();
    world.view().certificate = Lookup::Absent;
    world.view().node = Lookup::Absent;
    world.view().fact_instance = Lookup::Absent;
    assert_eq!(completed(world.decide()).codes(), [Code::NotInPuppet]);
}

#[test]
fn a_name_other_than_the_expected_one_is_looked_at_too() {
    let mut world = world().purged();
    world.puppet.known_as = Lookup::Found(vec!["renamed.example.com".parse().unwrap()]);
    assert_eq!(world.decide(), Decision::Ask(Question::Names(vec!["renamed.example.com".parse().unwrap()])));
}

#[test]
fn an_instance_whose_name_cannot_be_told_is_not_let_go_as_clean() {
    let mut world = world();
    world.aws.machine().private_dns = None;
    world.puppet = TerminationView { names: vec![], known_as: Lookup::Found(vec![]), targets: None };
    assert!(matches!(world.decide(), Decision::Wait(reason) if reason.code() == Code::CertnameUnknown));
    world.aws = world.aws.in_state("Terminating:Proceed");
    assert_eq!(completed(world.decide()).codes(), [Code::NotInPuppet], "no hook holds it");
}

#[test]
fn the_certificate_goes_even_while_puppetdb_is_down() {
    let mut world = world();
    world.view().node = down();
    let removals = removals(world.decide());
    assert!(removals[0].certificate.is_some() && removals[0].node.is_none());
}

#[test]
fn unreachable_is_never_read_as_absent() {
    let mut w = world();
    w.aws.cloud.machine = down();
    w.puppet = TerminationView { names: vec![], known_as: Lookup::Found(vec![]), targets: None };
    assert!(matches!(w.decide(), Decision::Fail(_)));
    let mut w = world();
    w.view().certificate = down();
    assert!(matches!(w.decide(), Decision::Fail(_)));
    for spoil in [
        (|w: &mut World| w.view().node = down()) as fn(&mut World),
        |w| w.view().request = down(),
        |w| w.view().pins = down(),
        |w| w.puppet.known_as = down(),
    ] {
        let mut w = world().purged();
        spoil(&mut w);
        assert!(matches!(w.decide(), Decision::Fail(_)));
    }
}

// Pins.

#[test]
fn its_pins_go_with_it() {
    let mut world = world();
    world.view().pins = Lookup::Found(vec!["PE Infrastructure Agent".into(), "Canaries".into()]);
    let removals = removals(world.decide());
    assert!(removals[0].certificate.is_some());
    assert_eq!(removals[0].pins, ["PE Infrastructure Agent", "Canaries"]);
}

#[test]
fn a_pin_alone_is_removed_under_a_name_that_nobody_has() {
    let mut world = world().purged();
    world.view().pins = Lookup::Found(vec!["Canaries".into()]);
    let removals = removals(world.decide());
    assert_eq!(removals[0].pins, ["Canaries"]);
    assert!(removals[0].certificate.is_none() && removals[0].node.is_none() && !removals[0].request);
}

#[test]
fn pins_stay_where_a_successor_has_the_name_or_waits_for_it() {
    let pinned = |mut world: World| {
        world.view().pins = Lookup::Found(vec!["Canaries".into()]);
        world
    };
    completed(pinned(world().owned_by(Some(OTHER), None)).decide());
    let mut waits = pinned(world().purged());
    waits.view().request = Lookup::Found(request(Some(OTHER)));
    completed(waits.decide());
    let mut registered = pinned(world().purged());
    registered.view().node = Lookup::Found(node(true));
    registered.view().fact_instance = Lookup::Found(OTHER.parse().unwrap());
    completed(registered.decide());
}

#[test]
fn a_strangers_request_says_nothing_of_the_pins() {
    let mut world = world().purged();
    world.view().request = Lookup::Found(request(None));
    world.view().pins = unavailable(Service::Classifier);
    assert!(matches!(world.decide(), Decision::Fail(_)));
    world.view().pins = Lookup::Found(vec!["Canaries".into()]);
    let removals = removals(world.decide());
    assert_eq!(removals[0].pins, ["Canaries"]);
    assert!(!removals[0].request, "it is left alone");
    world.view().pins = Lookup::Found(Vec::new());
    completed(world.decide());
}

#[test]
fn a_classifier_that_cannot_be_asked_is_not_one_without_pins() {
    let mut world = world();
    world.view().pins = down();
    assert!(removals(world.decide())[0].certificate.is_some(), "the rest is removed all the same");
    let mut world = world.purged();
    world.view().pins = unavailable(Service::Classifier);
    let Decision::Fail(reason) = world.decide() else { panic!() };
    assert_eq!(reason.codes(), [Code::ClassifierUnavailable]);
    insta::assert_snapshot!(reason, @"it is not proven purged: connection refused");
}

// Time.

#[test]
fn late_work_is_still_done_if_it_can_be() {
    assert_purges(&world().late().decide());
}

#[test]
fn no_action_is_left_waiting_when_the_timeout_has_expired() {
    let mut late = world().late();
    late.view().certificate = unavailable(Service::Ca);
    assert_eq!(completed(late.decide()).codes(), [Code::TimeoutExpired, Code::CaUnavailable]);

    let mut refused = world().late();
    refused.tried = Some(Code::NotPermitted);
    assert_eq!(completed(refused.decide()).codes(), [Code::TimeoutExpired, Code::NotPermitted]);

    let mut unnamed = world().late();
    unnamed.aws.cloud.machine = unavailable(Service::Ec2);
    unnamed.puppet = TerminationView { names: vec![], known_as: Lookup::Found(vec![]), targets: None };
    assert_eq!(completed(unnamed.decide()).codes(), [Code::TimeoutExpired, Code::Ec2Unavailable]);

    let unknown = world().owned_by(None, None).late();
    assert_eq!(completed(unknown.decide()).codes(), [Code::TimeoutExpired, Code::OwnerUnknown]);
}

#[test]
fn an_old_event_alone_does_not_make_the_timeout_expire() {
    let mut late = world().late();
    late.aws.action.began = Began::Said(at(0));
    late.view().certificate = down();
    assert_eq!(late.decide(), Decision::Ask(Question::Began));
    late.aws.action.began = late.aws.action.began.confirm(Some(at(590)), None, late.now);
    assert!(matches!(late.decide(), Decision::Fail(_)));
}

#[test]
fn what_is_seen_to_be_gone_is_gone_whatever_went_wrong_before() {
    let mut world = world().purged().late();
    world.tried = Some(Code::CaUnavailable);
    assert_eq!(completed(world.decide()).codes(), [Code::NotInPuppet]);
}

#[test]
fn an_event_that_does_not_say_when_has_it_asked() {
    let mut world = world();
    world.aws.action.began = Began::Unknown;
    assert_purges(&world.decide());
    world.view().certificate = down();
    assert_eq!(world.decide(), Decision::Ask(Question::Began));
    world.aws.action.began = world.aws.action.began.confirm(None, None, world.now);
    assert!(matches!(world.decide(), Decision::Fail(_)));
}

#[test]
fn a_time_that_is_still_to_come_is_not_believed() {
    assert_eq!(Began::Said(at(99)).confirm(None, None, at(5)).time(), Some(at(5)));
    assert_eq!(Began::Said(at(1)).confirm(Some(at(3)), None, at(5)).time(), Some(at(3)));
    assert_eq!(Began::Said(at(4)).confirm(Some(at(3)), None, at(5)).time(), Some(at(4)));
}

#[test]
fn a_failed_removal_is_tried_again_while_there_is_time() {
    let mut world = world();
    world.tried = Some(Code::CaUnavailable);
    assert_purges(&world.decide());
}
