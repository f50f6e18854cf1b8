//! Batches for the tests: numbered actions, and what Puppet says about their instances.

use std::sync::Arc;

use stagedoor_lifecycle::decision::Site;
use stagedoor_lifecycle::observation::{CertificateView, NameView, NodeView, RequestView};
use stagedoor_lifecycle::profile::{Probe, Profile, Protected, Refresh, Rekey, SignMode};
use stagedoor_lifecycle::refresh::RunView;
use stagedoor_lifecycle::signing::{AltNames, Challenge, Key, Request, Signature, SigningRules};
use stagedoor_types::{InstanceId, Mode, Place, Service, Transition, TroubleKind};

use super::*;

pub(super) const PRIMARY: &str = "puppet.example.com";

pub(super) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

pub(super) fn trouble(service: Service) -> Trouble {
    Trouble { kind: TroubleKind::Unreachable, service, text: format!("{service} is down") }
}

pub(super) fn down<T>() -> Lookup<T> {
    Lookup::Unavailable(trouble(Service::Ca))
}

pub(super) fn profile() -> Profile {
    Profile {
        name: "compiler".parse().unwrap(),
        mode: Mode::Act,
        certname: "{private_dns}".parse().unwrap(),
        hook_prefix: "stagedoor-".into(),
        sign: SignMode::Verify,
        rules: SigningRules::default(),
        pin: Vec::new(),
        classified: Vec::new(),
        refresh: Refresh::default(),
        ready: vec![Probe::Report],
        rekey: Rekey::Allow,
        launch_timeout: Duration::from_secs(1800),
        on_launch_timeout: ActionResult::Abandon,
        terminate_timeout: Duration::from_secs(600),
        on_terminate_timeout: ActionResult::Continue,
    }
}

/// A batch of actions that are numbered, and what they share.
pub(super) struct World {
    pub(super) items: Vec<Item>,
    pub(super) protected: Protected,
    pub(super) orchestrated: bool,
    pub(super) sweeps: bool,
    pub(super) now: Timestamp,
}

/// One action: launching instances are enrolled, terminating ones are still in Puppet, until a test changes that.
pub(super) struct Item {
    pub(super) action: LifecycleAction,
    pub(super) pending: Observed<PendingAction>,
    pub(super) unconfirmed: Option<Fact>,
    pub(super) launch: LaunchView,
    pub(super) termination: Observed<TerminationView>,
    pub(super) tried: Tried,
}

pub(super) fn name(number: u32) -> Certname {
    format!("ip-10-0-0-{number}.ec2.internal").parse().unwrap()
}

pub(super) fn id(number: u32) -> InstanceId {
    format!("i-{number:017x}").parse().unwrap()
}

pub(super) fn says(number: u32) -> Request {
    Request {
        common_name: Some(name(number).to_string()),
        signature: Signature::Valid,
        extensions: [("pp_instance_id".to_owned(), id(number).to_string())].into(),
        other_extensions: Vec::new(),
        alt_names: Vec::new(),
        challenge: Challenge::NotRequired,
        key: Key::Ec(256),
        key_print: "A7:0C".into(),
        unreadable: None,
    }
}

pub(super) fn view(number: u32) -> NameView {
    let issued = at(60);
    let node = NodeView {
        active: true,
        deactivated: None,
        facts: Some(at(110)),
        catalog: Some(at(110)),
        newest: Some(at(110)),
    };
    NameView {
        certname: name(number),
        certificate: Lookup::Found(CertificateView {
            issued_by_ca: issued,
            serial: format!("{number:04X}"),
            instance: Some(id(number)),
            issued,
            tolerance: Duration::from_secs(60),
            appeared: false,
            holds: says(number),
        }),
        request: Lookup::Absent,
        node: Lookup::Found(node),
        fact_instance: Lookup::Found(id(number)),
        pins: Lookup::Found(Vec::new()),
    }
}

pub(super) fn ran(start: i64) -> RunView {
    RunView {
        start: at(start),
        end: at(start + 10),
        received: at(start + 10),
        stored: at(start + 10),
        status: "changed".into(),
        noop: false,
        cached: false,
        catalog: Some("its catalog".into()),
        starting: None,
        preparing: None,
        retrieving: None,
        applying: None,
        job: None,
    }
}

impl Item {
    pub(super) fn new(number: u32, transition: Transition) -> Self {
        let launching = transition == Transition::Launching;
        let action = LifecycleAction {
            instance: id(number),
            group: "compilers".parse().unwrap(),
            hook: if launching { "stagedoor-launch" } else { "stagedoor-terminate" }.parse().unwrap(),
            transition,
            origin: launching.then_some(Place::Ec2),
            destination: Some(if launching { Place::AutoScalingGroup } else { Place::Ec2 }),
            began: if launching {
                Began::Confirmed { recorded: Some(at(0)), launched: None, said: Some(at(0)) }
            } else {
                Began::Said(at(0))
            },
        };
        let profile = profile();
        let pending = PendingAction {
            alt_names: AltNames::default(),
            expected: Ok(name(number)),
            has_pool: false,
            home: None,
            launched: None,
            addresses: Vec::new(),
            waits: true,
            other_hooks: false,
            allowed: if launching { profile.launch_timeout } else { profile.terminate_timeout },
            heartbeat: None,
            on_timeout: if launching { profile.on_launch_timeout } else { profile.on_terminate_timeout },
            profile: Arc::new(profile),
        };
        let launch =
            LaunchView { name: Some(view(number)), run: Some(Lookup::Found(ran(100))), ..LaunchView::default() };
        let termination =
            TerminationView { names: vec![view(number)], known_as: Lookup::Found(vec![name(number)]), targets: None };
        let pending = Observed { value: pending, at: at(199) };
        let termination = Observed { value: termination, at: at(200) };
        Self { action, pending, unconfirmed: None, launch, termination, tried: Tried::default() }
    }

    pub(super) fn situation(&self) -> Situation<'_> {
        let Self { action, pending, unconfirmed, launch, termination, tried } = self;
        let seen = if action.is_launching() { Seen::Launch(launch) } else { Seen::Termination(termination) };
        let confirmed = unconfirmed.clone().map_or_else(|| Ok(pending.fresh(at(199)).unwrap()), Err);
        Situation { action, pending: &pending.value, confirmed, seen, tried }
    }

    pub(super) fn profile(&mut self) -> &mut Profile {
        Arc::make_mut(&mut self.pending.value.profile)
    }

    pub(super) fn launch_view(&mut self) -> &mut NameView {
        self.launch.name.as_mut().unwrap()
    }

    pub(super) fn termination_view(&mut self) -> &mut NameView {
        &mut self.termination.value.names[0]
    }

    /// A launching instance whose request waits.
    pub(super) fn asks(&mut self) {
        let number = u32::from_str_radix(&self.action.instance.as_str()[2..], 16).unwrap();
        let view = self.launch_view();
        view.certificate = Lookup::Absent;
        view.node = Lookup::Absent;
        view.fact_instance = Lookup::Absent;
        view.request = Lookup::Found(RequestView { instance: Some(id(number)), asks: says(number) });
        self.launch.run = Some(Lookup::Absent);
    }

    /// A terminating instance of which nothing is left.
    pub(super) fn gone(&mut self) {
        let view = self.termination_view();
        view.certificate = Lookup::Absent;
        let node = NodeView { active: false, deactivated: Some(at(150)), facts: None, catalog: None, newest: None };
        view.node = Lookup::Found(node);
        view.fact_instance = Lookup::Absent;
    }

    pub(super) fn confirmed(&mut self) {
        self.action.began = Began::Confirmed { recorded: Some(at(0)), launched: None, said: None };
    }
}

pub(super) fn world(items: Vec<Item>) -> World {
    World { items, protected: Protected::new([PRIMARY]).unwrap(), orchestrated: false, sweeps: true, now: at(200) }
}

pub(super) fn launching(count: u32) -> World {
    world((0..count).map(|number| Item::new(number, Transition::Launching)).collect())
}

pub(super) fn terminating(count: u32) -> World {
    world((0..count).map(|number| Item::new(number, Transition::Terminating)).collect())
}

impl World {
    /// With this change of each item.
    pub(super) fn each(mut self, change: impl Fn(&mut Item)) -> Self {
        self.items.iter_mut().for_each(change);
        self
    }

    pub(super) fn plan(&self) -> Plan {
        let site =
            Site { protected: &self.protected, orchestrated: self.orchestrated, sweeps: self.sweeps, now: self.now };
        plan(site, self.items.iter().map(Item::situation))
    }

    pub(super) fn key(&self, at: usize) -> ActionKey {
        self.items[at].action.key()
    }

    /// The code of an item's status.
    pub(super) fn code(&self, at: usize) -> (Outcome, Code) {
        let status = self.plan().statuses.remove(&self.key(at)).expect("a status");
        (status.outcome, status.reason.code())
    }

    pub(super) fn verdict(&self, at: usize) -> (ActionResult, Code) {
        let verdict = self.plan().verdicts.remove(&self.key(at)).expect("a verdict");
        (verdict.result, verdict.reason.code())
    }

    pub(super) fn effects(&self) -> Vec<EffectKey> {
        self.plan().effects.iter().map(|permitted| permitted.effect.key()).collect()
    }
}
