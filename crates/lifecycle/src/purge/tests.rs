mod properties;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::admission::{Admission, CloudView, admit};
use crate::event::Place;
use crate::event::Transition;
use crate::observation::{Began, CertificateView, Group, Hook, LifecycleState, Machine, NodeView, RequestView};
use crate::profile::{PROFILE_TAG, Profile};
use crate::signing::{Challenge, Key, Request};
use crate::{GroupName, InstanceId};

const OURS: &str = "i-0a1b2c3d4e5f60718";
const OTHER: &str = "i-0b2c3d4e5f6071829";
const NAME: &str = "ip-10-0-3-7.ec2.internal";

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn node(active: bool) -> NodeView {
    NodeView { active, deactivated: None, facts: Some(at(-100)), newest: None }
}

fn certificate(owner: Option<&str>) -> CertificateView {
    let instance = owner.map(|id| id.parse().unwrap());
    CertificateView { serial: "01A1".into(), instance, issued: at(-1000), holds: nothing() }
}

fn request(owner: Option<InstanceId>) -> RequestView {
    RequestView { instance: owner, asks: nothing() }
}

/// What a certificate says besides whose it is does not matter here.
fn nothing() -> Request {
    Request {
        common_name: None,
        signature_valid: true,
        extensions: BTreeMap::new(),
        other_extensions: Vec::new(),
        alt_names: Vec::new(),
        challenge: Challenge::NotRequired,
        key: Key::Ec(256),
    }
}

/// A leaving instance in its world; each test changes the one thing that it is about.
#[derive(Debug, Clone)]
struct World {
    subject: Subject,
    cloud: CloudView,
    puppet: PuppetView,
    protected: Protected,
    certname: &'static str,
    tried: Option<&'static str>,
    now: Timestamp,
}

fn world() -> World {
    let instance: InstanceId = OURS.parse().unwrap();
    let group: GroupName = "compilers".parse().unwrap();
    let view = NameView {
        certname: NAME.parse().unwrap(),
        certificate: Reachable::Found(certificate(Some(OURS))),
        request: Reachable::Absent,
        node: Reachable::Found(node(true)),
        fact_instance: Reachable::Found(instance.clone()),
        pins: Reachable::Found(vec![]),
    };
    World {
        subject: Subject {
            instance: instance.clone(),
            group: group.clone(),
            hook: "stagedoor-terminate".parse().unwrap(),
            transition: Transition::Terminating,
            origin: None,
            destination: Some(Place::Ec2),
            began: Began::Said(at(0)),
        },
        cloud: CloudView {
            group: Reachable::Found(Group {
                name: group,
                tags: BTreeMap::from([(PROFILE_TAG.into(), "compiler".into())]),
                members: BTreeMap::from([(instance.clone(), LifecycleState::TerminatingWait)]),
                reuses: false,
            }),
            hooks: Reachable::Found(vec![Hook {
                name: "stagedoor-terminate".parse().unwrap(),
                transition: Some(Transition::Terminating),
                heartbeat_timeout: Duration::from_secs(3600),
                global_timeout: Duration::from_secs(172_800),
            }]),
            machine: Reachable::Found(Machine {
                instance,
                state: "running".into(),
                private_dns: Some(NAME.into()),
                private_ip: None,
                tags: BTreeMap::new(),
            }),
        },
        puppet: PuppetView { names: vec![view], known_as: Reachable::Absent, targets: None },
        protected: Protected::new(["puppet.example.com"]).unwrap(),
        certname: "{private_dns}",
        tried: None,
        now: at(5),
    }
}

impl World {
    fn admit(&self) -> Admission {
        let profile = Arc::new(Profile { certname: self.certname.parse().unwrap(), ..Profile::example() });
        admit(&self.subject, &self.cloud, &|name| (*name == profile.name).then(|| profile.clone()))
    }

    fn leaving(&self) -> Held {
        match self.admit() {
            Admission::Held(leaving) => leaving,
            other => panic!("{other:?}"),
        }
    }

    fn decide(&self) -> Decision {
        decide(&self.subject, &self.leaving(), &self.puppet, &self.protected, self.tried, false, self.now)
    }

    fn in_state(mut self, state: &str) -> Self {
        let Reachable::Found(group) = &mut self.cloud.group else { unreachable!() };
        group.members.insert(self.subject.instance.clone(), LifecycleState::parse(state));
        self
    }

    fn with_warm_pool(mut self) -> Self {
        let Reachable::Found(group) = &mut self.cloud.group else { unreachable!() };
        group.reuses = true;
        self
    }

    fn view(&mut self) -> &mut NameView {
        &mut self.puppet.names[0]
    }

    fn owned_by(mut self, certificate: Option<&str>, facts: Option<&str>) -> Self {
        let view = self.view();
        view.certificate = Reachable::Found(self::certificate(certificate));
        view.fact_instance = facts.map_or(Reachable::Absent, |id| Reachable::Found(id.parse().unwrap()));
        self
    }

    /// As it is when everything has been removed.
    fn purged(mut self) -> Self {
        let view = self.view();
        view.certificate = Reachable::Absent;
        view.node = Reachable::Found(node(false));
        view.fact_instance = Reachable::Absent;
        self
    }

    fn late(mut self) -> Self {
        self.now = at(601);
        self.subject.began = Began::Confirmed(Some(at(0)));
        self
    }
}

fn assert_purges(decision: &Decision) {
    assert!(matches!(decision, Decision::Do(Deed::Remove(_))), "{decision:?}");
}

fn completed(decision: Decision) -> String {
    match decision {
        Decision::Complete(ActionResult::Continue, reason) => reason,
        other => panic!("{other:?}"),
    }
}

// What AWS says.

#[test]
fn a_waiting_instance_of_an_opted_in_group_is_leaving() {
    let leaving = world().leaving();
    assert_eq!(leaving.expected.unwrap().as_str(), NAME);
    assert!(leaving.waits && !leaving.other_hooks);
    assert_eq!(leaving.allowed, Duration::from_secs(600));
}

#[test]
fn a_replayed_event_for_an_instance_in_service_is_refused() {
    for state in ["InService", "Pending", "Pending:Wait", "Standby", "Warmed:Stopped", "Detached", "SomethingNew"] {
        assert!(matches!(world().in_state(state).admit(), Admission::Refuse(_)), "{state}");
    }
}

#[test]
fn an_instance_that_ec2_says_is_gone_from_the_group_is_still_purged() {
    let mut world = world();
    let Reachable::Found(group) = &mut world.cloud.group else { unreachable!() };
    group.members.clear();
    let Reachable::Found(machine) = &mut world.cloud.machine else { unreachable!() };
    machine.state = "terminated".into();
    assert!(matches!(world.admit(), Admission::Refuse(_)), "it may have been of another group");
    let Reachable::Found(machine) = &mut world.cloud.machine else { unreachable!() };
    machine.tags.insert("aws:autoscaling:groupName".into(), "compilers".into());
    assert!(!world.leaving().waits);
    assert_purges(&world.decide());
}

#[test]
fn an_instance_that_auto_scaling_does_not_show_is_refused() {
    let mut world = world();
    let Reachable::Found(group) = &mut world.cloud.group else { unreachable!() };
    group.members.clear();
    assert!(matches!(world.admit(), Admission::Refuse(_)));
    world.cloud.group = Reachable::Absent;
    assert!(matches!(world.admit(), Admission::Refuse(_)));
}

#[test]
fn a_group_without_the_tag_is_none_of_our_business() {
    let mut world = world();
    let Reachable::Found(group) = &mut world.cloud.group else { unreachable!() };
    group.tags.clear();
    assert!(matches!(world.admit(), Admission::Ignore(_)));
}

#[test]
fn a_profile_that_is_not_configured_fails_and_says_so() {
    let mut world = world();
    let Reachable::Found(group) = &mut world.cloud.group else { unreachable!() };
    group.tags.insert(PROFILE_TAG.into(), "databases".into());
    assert!(matches!(world.admit(), Admission::Fail(reason) if reason.contains("databases")));
}

#[test]
fn another_tools_hook_is_left_to_it() {
    let mut world = world();
    world.subject.hook = "drain-logs".parse().unwrap();
    assert!(matches!(world.admit(), Admission::Ignore(reason) if reason.contains("another tool's")));
}

#[test]
fn an_instance_on_its_way_to_the_warm_pool_is_not_purged() {
    let mut world = world().with_warm_pool();
    world.subject.destination = Some(Place::WarmPool);
    for state in ["Terminating:Wait", "Warmed:Pending:Wait"] {
        assert!(matches!(world.clone().in_state(state).admit(), Admission::Pass(_)), "{state}");
    }
}

#[test]
fn a_claimed_warm_pool_that_the_group_does_not_have_is_not_believed() {
    let mut world = world();
    world.subject.destination = Some(Place::WarmPool);
    assert!(world.leaving().waits);
}

#[test]
fn an_instance_that_leaves_the_warm_pool_is_purged_whatever_an_old_event_says() {
    let mut world = world().with_warm_pool().in_state("Warmed:Terminating:Wait");
    assert!(world.leaving().waits);
    world.subject.destination = Some(Place::WarmPool);
    assert!(world.leaving().waits);
}

#[test]
fn where_instances_are_reused_one_is_not_purged_before_it_is_known_where_it_goes() {
    let mut world = world().with_warm_pool();
    world.subject.destination = None;
    assert!(matches!(world.admit(), Admission::Fail(reason) if reason.contains("warm pool")));
}

#[test]
fn an_instance_that_is_about_to_wait_is_not_taken_for_gone() {
    assert!(world().in_state("Terminating").leaving().waits);
}

#[test]
fn an_instance_that_auto_scaling_no_longer_holds_is_still_purged() {
    let world = world().in_state("Terminating:Proceed");
    assert!(!world.leaving().waits);
    assert_purges(&world.decide());
}

#[test]
fn unreachable_is_never_read_as_absent() {
    let trouble = || "connection refused".to_owned();
    let mut w = world();
    w.cloud.group = Reachable::Unreachable(trouble());
    assert!(matches!(w.admit(), Admission::Fail(_)));
    let mut w = world();
    w.cloud.machine = Reachable::Unreachable(trouble());
    w.puppet = PuppetView { names: vec![], known_as: Reachable::Found(vec![]), targets: None };
    assert!(matches!(w.decide(), Decision::Fail(_)));
    let mut w = world().in_state("Terminating:Wait");
    w.cloud.machine = Reachable::Unreachable(trouble());
    let Reachable::Found(group) = &mut w.cloud.group else { unreachable!() };
    group.members.clear();
    assert!(matches!(w.admit(), Admission::Fail(_)));
    let mut w = world();
    w.view().certificate = Reachable::Unreachable(trouble());
    assert!(matches!(w.decide(), Decision::Fail(_)));
    for spoil in [
        (|w: &mut World| w.view().node = Reachable::Unreachable("down".into())) as fn(&mut World),
        |w| w.view().request = Reachable::Unreachable("down".into()),
        |w| w.puppet.known_as = Reachable::Unreachable("down".into()),
    ] {
        let mut w = world().purged();
        spoil(&mut w);
        assert!(matches!(w.decide(), Decision::Fail(_)));
    }
}

#[test]
fn ec2_is_not_needed_where_the_name_is_made_of_the_instance_id() {
    let mut world = world();
    world.certname = "{instance_id}.nodes.example.com";
    world.cloud.machine = Reachable::Unreachable("timed out".into());
    assert_eq!(world.leaving().expected.unwrap().as_str(), "i-0a1b2c3d4e5f60718.nodes.example.com");
}

// What Puppet says.

#[test]
fn what_is_left_is_removed() {
    let Decision::Do(Deed::Remove(removals)) = world().decide() else { panic!() };
    assert_eq!(removals.len(), 1);
    assert_eq!(removals[0].name.certname().as_str(), NAME);
    assert_eq!(removals[0].certificate.as_deref(), Some("01A1"));
    assert!(removals[0].node.is_some() && !removals[0].request);
}

#[test]
fn continue_is_given_only_when_everything_is_seen_to_be_gone() {
    assert!(
        completed(world().purged().decide()).contains("gone from Puppet")
            || completed(world().purged().decide()).contains("not in Puppet")
    );
    let mut active = world().purged();
    active.view().node = Reachable::Found(node(true));
    active.view().fact_instance = Reachable::Found(OURS.parse().unwrap());
    assert_purges(&active.decide());
}

#[test]
fn a_reused_name_is_never_purged() {
    for facts in [None, Some(OURS), Some(OTHER)] {
        let reason = completed(world().owned_by(Some(OTHER), facts).decide());
        assert!(reason.contains(OTHER) && reason.contains("left alone"), "{reason}");
    }
    assert!(completed(world().owned_by(None, Some(OTHER)).decide()).contains(OTHER));
}

#[test]
fn a_certificate_without_the_extension_is_told_by_its_facts() {
    assert_purges(&world().owned_by(None, Some(OURS)).decide());
}

#[test]
fn facts_of_a_former_owner_do_not_speak_for_a_certificate_that_was_issued_later() {
    let mut world = world().owned_by(None, Some(OURS));
    let Reachable::Found(certificate) = &mut world.view().certificate else { unreachable!() };
    certificate.issued = at(-50);
    assert!(matches!(world.decide(), Decision::Wait(_)), "its facts are older than it");
    let mut world = self::world().owned_by(None, Some(OURS));
    world.view().node = Reachable::Found(node(false));
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
    assert!(reason.contains("by hand"), "{reason}");
}

#[test]
fn a_protected_name_is_never_purged_even_if_it_is_the_leaving_instances_own() {
    let mut world = world();
    world.protected = Protected::new([NAME]).unwrap();
    assert!(completed(world.decide()).contains("protected"));
}

#[test]
fn only_its_own_certificate_request_is_removed() {
    let mut world = world().purged();
    world.view().request = Reachable::Found(request(Some(OTHER.parse().unwrap())));
    completed(world.decide());
    world.view().request = Reachable::Found(request(None));
    completed(world.decide());
    world.view().request = Reachable::Found(request(Some(OURS.parse().unwrap())));
    let Decision::Do(Deed::Remove(removals)) = world.decide() else { panic!() };
    assert!(removals[0].request && removals[0].certificate.is_none() && removals[0].node.is_none());
}

#[test]
fn an_instance_that_puppet_never_knew_may_go() {
    let mut world = world();
    world.view().certificate = Reachable::Absent;
    world.view().node = Reachable::Absent;
    world.view().fact_instance = Reachable::Absent;
    assert!(completed(world.decide()).contains("not in Puppet"));
}

#[test]
fn a_name_other_than_the_expected_one_is_looked_at_too() {
    let mut world = world().purged();
    world.puppet.known_as = Reachable::Found(vec!["renamed.example.com".parse().unwrap()]);
    assert_eq!(world.decide(), Decision::Ask(Question::Names(vec!["renamed.example.com".parse().unwrap()])));
}

#[test]
fn an_instance_whose_name_cannot_be_told_is_not_let_go_as_clean() {
    let mut world = world();
    let Reachable::Found(machine) = &mut world.cloud.machine else { unreachable!() };
    machine.private_dns = None;
    world.puppet = PuppetView { names: vec![], known_as: Reachable::Found(vec![]), targets: None };
    assert!(matches!(world.decide(), Decision::Wait(reason) if reason.contains("cannot be told")));
    let gone = world.in_state("Terminating:Proceed");
    assert!(completed(gone.decide()).contains("PuppetDB knows no node of it"), "nobody waits for it");
}

#[test]
fn the_certificate_goes_even_while_puppetdb_is_down() {
    let mut world = world();
    world.view().node = Reachable::Unreachable("down".into());
    let Decision::Do(Deed::Remove(removals)) = world.decide() else { panic!() };
    assert!(removals[0].certificate.is_some() && removals[0].node.is_none());
}

// Time.

#[test]
fn late_work_is_still_done_if_it_can_be() {
    assert_purges(&world().late().decide());
}

#[test]
fn nothing_is_stranded_when_patience_is_over() {
    let mut down = world().late();
    down.view().certificate = Reachable::Unreachable("connection refused".into());
    assert!(completed(down.decide()).contains("connection refused"));

    let mut refused = world().late();
    refused.tried = Some("the CA does not permit clean");
    assert!(completed(refused.decide()).contains("does not permit"));

    let mut unnamed = world().late();
    unnamed.cloud.machine = Reachable::Unreachable("EC2 is down".into());
    unnamed.puppet = PuppetView { names: vec![], known_as: Reachable::Found(vec![]), targets: None };
    assert!(completed(unnamed.decide()).contains("EC2 is down"));

    assert!(completed(world().owned_by(None, None).late().decide()).contains("patience is over"));
}

#[test]
fn an_old_event_alone_does_not_end_patience() {
    let mut down = world().late();
    down.subject.began = Began::Said(at(0));
    down.view().certificate = Reachable::Unreachable("connection refused".into());
    assert_eq!(down.decide(), Decision::Ask(Question::Began));
    down.subject.began = down.subject.began.confirm(Some(at(590)), down.now);
    assert!(matches!(down.decide(), Decision::Fail(_)));
}

#[test]
fn what_is_seen_to_be_gone_is_gone_whatever_went_wrong_before() {
    let mut world = world().purged().late();
    world.tried = Some("the answer was lost");
    assert!(completed(world.decide()).contains("not in Puppet"));
}

#[test]
fn an_event_that_does_not_say_when_has_it_asked() {
    let mut world = world();
    world.subject.began = Began::Unknown;
    assert_purges(&world.decide());
    world.view().certificate = Reachable::Unreachable("down".into());
    assert_eq!(world.decide(), Decision::Ask(Question::Began));
    world.subject.began = world.subject.began.confirm(None, world.now);
    assert!(matches!(world.decide(), Decision::Fail(_)));
}

#[test]
fn a_time_that_is_still_to_come_is_not_believed() {
    assert_eq!(Began::Said(at(99)).confirm(None, at(5)), Began::Confirmed(Some(at(5))));
    assert_eq!(Began::Said(at(1)).confirm(Some(at(3)), at(5)), Began::Confirmed(Some(at(3))));
}

#[test]
fn a_failed_removal_is_tried_again_while_there_is_time() {
    let mut world = world();
    world.tried = Some("the CA was busy");
    assert_purges(&world.decide());
}
