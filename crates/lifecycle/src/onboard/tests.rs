//! Onboarding, rule by rule.

mod certificate;
mod classification;
mod fitness;
mod missing;
mod properties;
mod readiness;
mod refresh;
mod rekey;
use jiff::SignedDuration;
use stagedoor_types::Place;

use super::*;
use crate::decision::RefusedRequest;
use crate::observation::Began;
use crate::profile::{Rekey, SignMode};
use crate::removal::Removal;
use crate::signing::{Request, Signature};
use crate::world::{
    Aws, NAME, OTHER, OURS, PRIMARY, at, certificate, down, machine, node, order, primary, request, run, target,
    unavailable,
};

/// When its certificate was issued. The launch begins at 0.
const ISSUED: i64 = 60;

/// A launching instance in its world; each test changes the one thing that it is about.
#[derive(Debug, Clone)]
struct World {
    aws: Aws,
    puppet: LaunchView,
    protected: Protected,
    orchestrated: bool,
    sweeps: bool,
    now: Timestamp,
}

/// It has its own certificate and a successful run, and nothing more is asked of it.
fn world() -> World {
    let name = NameView {
        certname: NAME.parse().unwrap(),
        certificate: Lookup::Found(certificate(Some(OURS), at(ISSUED))),
        request: Lookup::Absent,
        node: Lookup::Found(node(true, at(110))),
        fact_instance: Lookup::Found(OURS.parse().unwrap()),
        pins: Lookup::Found(vec![]),
    };
    World {
        aws: Aws::launching(),
        puppet: LaunchView {
            name: Some(name),
            run: Some(Lookup::Found(run(at(100), "changed"))),
            elsewhere: Some(Vec::new()),
            puppetdb_ahead: Some(SignedDuration::ZERO),
            ..LaunchView::default()
        },
        protected: Protected::new([PRIMARY]).unwrap(),
        orchestrated: false,
        sweeps: true,
        now: at(200),
    }
}

/// Where the group is.
fn home() -> Location {
    Location { account: "111122223333".into(), region: "eu-west-1".into() }
}

impl World {
    fn decide(&self) -> Decision {
        let launching = self.aws.admitted();
        let Self { protected, orchestrated, sweeps, now, .. } = self;
        let site = Site { protected, orchestrated: *orchestrated, sweeps: *sweeps, now: *now };
        decide(&self.aws.action, &launching, &self.puppet, site)
    }

    fn view(&mut self) -> &mut NameView {
        self.puppet.name.as_mut().unwrap()
    }

    fn certificate(&mut self) -> &mut CertificateView {
        let Lookup::Found(certificate) = &mut self.view().certificate else { panic!("there is no certificate") };
        certificate
    }

    /// Nothing of it is in Puppet yet.
    fn new_to_puppet(mut self) -> Self {
        let view = self.view();
        view.certificate = Lookup::Absent;
        view.node = Lookup::Absent;
        view.fact_instance = Lookup::Absent;
        self.puppet.run = Some(Lookup::Absent);
        self
    }

    /// Its request is pending, and this is wrong with it.
    fn asking(self, flaw: impl FnOnce(&mut Request)) -> Self {
        let mut world = self.new_to_puppet();
        let mut pending = request(Some(OURS));
        flaw(&mut pending.asks);
        pending.instance = pending.asks.extensions.get("pp_instance_id").and_then(|id| id.parse().ok());
        world.view().request = Lookup::Found(pending);
        world
    }

    /// The certificate under its name is of the other instance, which has reported last at this time.
    fn taken(mut self, newest: i64) -> Self {
        let view = self.view();
        view.certificate = Lookup::Found(certificate(Some(OTHER), at(-100_000)));
        view.node = Lookup::Found(node(true, at(newest)));
        view.fact_instance = Lookup::Found(OTHER.parse().unwrap());
        self.puppet.run = Some(Lookup::Found(run(at(newest - 10), "unchanged")));
        self
    }

    /// EC2 was asked about the other instance.
    fn other_is(mut self, machine: Lookup<Machine>) -> Self {
        self.puppet.owner = Some((OTHER.parse().unwrap(), machine));
        self
    }

    /// The timeout has expired, and Auto Scaling's record says so.
    fn late(mut self) -> Self {
        self.now = at(1801);
        self.confirmed()
    }

    fn confirmed(mut self) -> Self {
        self.aws.action.began = Began::Confirmed { recorded: Some(at(0)), launched: None, said: None };
        self
    }
}

fn completed(decision: Decision) -> Reason {
    match decision {
        Decision::Complete(ActionResult::Continue, story) => story,
        other => panic!("{other:?}"),
    }
}

fn abandoned(decision: Decision) -> Reason {
    match decision {
        Decision::Complete(ActionResult::Abandon, reason) => reason,
        other => panic!("{other:?}"),
    }
}

fn waits(decision: Decision) -> Reason {
    match decision {
        Decision::Wait(reason) => reason,
        other => panic!("{other:?}"),
    }
}

fn waiting_code(decision: Decision) -> Code {
    match decision {
        Decision::Wait(reason) => reason.code(),
        other => panic!("{other:?}"),
    }
}

fn refused(decision: Decision) -> Reason {
    match decision {
        Decision::Refuse(reason) => reason,
        other => panic!("{other:?}"),
    }
}

fn failed(decision: Decision) -> Reason {
    match decision {
        Decision::Fail(reason) => reason,
        other => panic!("{other:?}"),
    }
}

fn done(decision: Decision) -> Effect {
    match decision {
        Decision::Apply(effect) => effect,
        other => panic!("{other:?}"),
    }
}

fn removal(decision: Decision) -> Removal {
    match done(decision) {
        Effect::Remove(mut removals) if removals.len() == 1 => removals.remove(0),
        other => panic!("{other:?}"),
    }
}

fn deleted_request(decision: Decision) -> String {
    match done(decision) {
        Effect::Delete(RefusedRequest { certname, key_print, reason }) if certname.as_str() == NAME => {
            assert_eq!((reason.code, key_print), (Code::RequestRefused, request(Some(OURS)).asks.key_print));
            reason.text
        }
        other => panic!("{other:?}"),
    }
}

fn refused_certificate(decision: Decision) -> String {
    let reason = abandoned(decision);
    assert_eq!(reason.codes(), [Code::CertificateRefused]);
    reason.to_string()
}

#[test]
fn an_instance_with_its_own_certificate_and_a_good_run_may_serve() {
    let story = completed(world().decide());
    assert_eq!(story.codes(), [Code::Enrolled, Code::Enrolled]);
    insta::assert_snapshot!(
        story,
        @"ip-10-0-3-7.ec2.internal has its certificate 01A1; its Puppet run at 2027-01-15T08:01:40Z was successful (changed)"
    );
}

// Its name.

#[test]
fn a_name_that_cannot_be_told_is_waited_for() {
    let mut world = world();
    world.puppet.name = None;
    world.aws.machine().private_dns = None;
    assert_eq!(waits(world.decide()).codes(), [Code::CertnameUnknown]);
}

#[test]
fn an_ec2_that_cannot_be_asked_for_the_name_is_a_failure() {
    let mut world = world();
    world.aws.cloud.machine = unavailable(Service::Ec2);
    assert_eq!(failed(world.decide()).codes(), [Code::Ec2Unavailable]);
}

#[test]
fn a_protected_name_is_refused_to_every_arriving_instance() {
    for mut world in [world(), world().new_to_puppet(), world().asking(|_| {})] {
        world.protected = Protected::new([NAME]).unwrap();
        assert_eq!(refused(world.decide()).codes(), [Code::ProtectedName]);
    }
}

#[test]
fn a_puppet_that_was_not_asked_is_a_failure() {
    let mut world = world();
    world.puppet.name = None;
    assert_eq!(failed(world.decide()).codes(), [Code::CaUnavailable]);
}

// What is unavailable.

/// What is unavailable, and how that comes about.
type Outage = (&'static str, fn(&mut World));

#[test]
fn unreachable_is_never_read_as_absent() {
    let outages: [Outage; 12] = [
        ("certificate", |w| w.view().certificate = down()),
        ("request", |w| {
            *w = w.clone().new_to_puppet();
            w.view().request = down();
        }),
        ("owner of the certificate", |w| *w = w.clone().taken(0).other_is(down())),
        ("tags that an alternative name may be made of", |w| {
            *w = w.clone().asking(|asks| asks.alt_names.push("compiler-1.example.com".into()));
            by_tag(w);
        }),
        ("tags that an alternative name of the certificate may be made of", |w| {
            w.certificate().holds.alt_names.push("compiler-1.example.com".into());
            by_tag(w);
        }),
        ("node of a forgotten owner", |w| {
            *w = w.clone().taken(0).other_is(Lookup::Absent);
            w.view().node = down();
        }),
        ("facts of a certificate without pp_instance_id", |w| {
            w.certificate().instance = None;
            w.view().fact_instance = down();
        }),
        ("facts that are older than the certificate", |w| {
            w.certificate().instance = None;
            w.view().node = Lookup::Found(node(true, at(0)));
            w.view().fact_instance = down();
        }),
        ("pins", |w| {
            w.aws.profile.pin = vec!["Canaries".into()];
            w.view().pins = down();
        }),
        ("classification", |w| {
            w.aws.profile.classified = vec!["PE Master".into()];
            w.puppet.classification = Some(down());
        }),
        ("run", |w| w.puppet.run = Some(down())),
        ("facts of the instance that ran", |w| w.view().fact_instance = down()),
    ];
    for (what, spoil) in outages {
        let mut world = world();
        spoil(&mut world);
        let decision = world.decide();
        assert!(matches!(&decision, Decision::Fail(why) if why.code() == Code::CaUnavailable), "{what}: {decision:?}");
    }
}

/// The certname is known without EC2, which is unavailable, and an alternative name is not.
fn by_tag(world: &mut World) {
    let profile = &mut world.aws.profile;
    profile.certname = "{instance_id}.example.com".parse().unwrap();
    profile.rules.alt_names = vec!["{tag:Name}.example.com".parse().unwrap()];
    world.aws.cloud.machine = down();
}

fn name(asks: &mut Request, owner: &str) {
    asks.extensions.insert("pp_instance_id".into(), owner.into());
}

// Time.

#[test]
fn until_the_timeout_expires_an_event_is_enough_to_wait() {
    assert_eq!(waits(world().new_to_puppet().decide()).codes(), [Code::RequestPending]);
}

#[test]
fn an_old_event_alone_does_not_make_the_timeout_expire() {
    let mut world = world().new_to_puppet();
    world.aws.action.began = Began::Said(at(0));
    world.now = at(1801);
    assert_eq!(world.decide(), Decision::Ask(Question::Began));
    world.aws.action.began = world.aws.action.began.confirm(Some(at(1700)), None, world.now);
    waits(world.decide());
}

#[test]
fn nobody_waits_before_it_is_asked_when_the_launch_began() {
    let mut world = world().new_to_puppet();
    world.aws.action.began = Began::Unknown;
    assert_eq!(world.decide(), Decision::Ask(Question::Began));
}

#[test]
fn when_the_timeout_has_expired_the_reason_names_what_was_missing() {
    for (mut world, because) in [
        (world().new_to_puppet(), Code::RequestPending),
        (world().taken(0).other_is(Lookup::Found(machine(OTHER, "running"))), Code::OwnedByAnotherInstance),
    ] {
        world = world.late();
        assert_eq!(abandoned(world.decide()).codes(), [Code::TimeoutExpired, because]);
        world.aws.profile.on_launch_timeout = ActionResult::Continue;
        assert_eq!(completed(world.decide()).codes(), [Code::TimeoutExpired, because]);
    }
    let mut unreachable = world().late();
    unreachable.view().certificate = down();
    assert_eq!(abandoned(unreachable.decide()).codes(), [Code::TimeoutExpired, Code::CaUnavailable]);
}

#[test]
fn an_instance_that_is_fit_may_serve_however_late_it_is() {
    assert_eq!(completed(world().late().decide()), completed(world().decide()));
}

#[test]
fn nothing_is_begun_that_there_is_no_time_to_finish() {
    let sign = world().asking(|_| {});
    let remove = world().taken(0).other_is(Lookup::Found(machine(OTHER, "terminated")));
    let mut reasons = Vec::new();
    for world in [sign, remove] {
        done(world.decide());
        let mut late = world.late();
        let reason = abandoned(late.decide());
        assert_eq!(reason.codes(), [Code::TimeoutExpired, Code::NoTimeLeft]);
        reasons.push(reason.to_string());
        late.aws.action.began = Began::Said(at(0));
        assert_eq!(late.decide(), Decision::Ask(Question::Began), "an event alone does not say that it is late");
    }
    insta::assert_snapshot!(reasons.join("\n"), @"
    the timeout has expired: there is no time left to sign the certificate request of ip-10-0-3-7.ec2.internal
    the timeout has expired: there is no time left to remove certificate 01A1 of ip-10-0-3-7.ec2.internal
    ");
}

#[test]
fn a_certificate_that_must_not_be_is_removed_however_late_it_is() {
    let mut world = world().late();
    world.certificate().holds.alt_names.push("console.example.com".into());
    refused_certificate(world.decide());
}

// Instances that will soon change what the targets must learn.

#[test]
fn an_instance_that_has_a_certificate_and_no_good_run_is_about_to_change() {
    let is = |world: &World| is_about_to_change(&world.decide(), &world.puppet);
    let mut signed = world();
    for run in [Lookup::Absent, Lookup::Found(run(at(100), "failed"))] {
        signed.puppet.run = Some(run);
        assert!(is(&signed));
    }
    assert!(!is(&world().new_to_puppet()), "it may never come");
    assert!(!is(&world()), "it has");
    signed.view().certificate = down();
    assert!(!is(&signed));
}
