//! What the tests share: one instance as AWS shows it, of which each test changes the one thing that it is about, and what
//! Puppet may hold of it. No I/O.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use proptest::prelude::*;
use stagedoor_types::{
    Certname, Group, Hook, InstanceId, LifecycleState, Lookup, Machine, PROFILE_TAG, Place, Service, Transition,
    Trouble, TroubleKind,
};

use crate::admission::{Admission, CloudView, PendingAction, admit};
use crate::observation::{Began, CertificateView, LifecycleAction, NodeView, RequestView};
use crate::profile::Profile;
use crate::refresh::{Order, RunView, TargetView};
use crate::signing::{Challenge, Key, Request, Signature};

/// The instance that launches or terminates.
pub(crate) const OURS: &str = "i-0a1b2c3d4e5f60718";
/// Another one.
pub(crate) const OTHER: &str = "i-0b2c3d4e5f6071829";
/// Our instance's certname.
pub(crate) const NAME: &str = "ip-10-0-3-7.ec2.internal";
/// A refresh target.
pub(crate) const PRIMARY: &str = "puppet.example.com";

/// So many seconds after the beginning.
pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

/// One instance as AWS shows it, with its group's profile.
#[derive(Debug, Clone)]
pub(crate) struct Aws {
    pub(crate) action: LifecycleAction,
    pub(crate) cloud: CloudView,
    pub(crate) profile: Profile,
}

impl Aws {
    /// Auto Scaling holds it while it terminates.
    pub(crate) fn terminating() -> Self {
        Self::held(Transition::Terminating, "stagedoor-terminate", "Terminating:Wait")
    }

    /// Auto Scaling holds it while it launches.
    pub(crate) fn launching() -> Self {
        Self::held(Transition::Launching, "stagedoor-launch", "Pending:Wait")
    }

    fn held(transition: Transition, hook: &str, state: &str) -> Self {
        let instance: InstanceId = OURS.parse().unwrap();
        let (origin, destination) = match transition {
            Transition::Launching => (Some(Place::Ec2), Some(Place::AutoScalingGroup)),
            Transition::Terminating => (None, Some(Place::Ec2)),
        };
        let action = LifecycleAction {
            instance: instance.clone(),
            group: "compilers".parse().unwrap(),
            hook: hook.parse().unwrap(),
            transition,
            origin,
            destination,
            began: Began::Confirmed { recorded: Some(at(0)), launched: None, said: Some(at(0)) },
        };
        let cloud = CloudView {
            group: Lookup::Found(Arc::new(Group {
                name: "compilers".parse().unwrap(),
                tags: BTreeMap::from([(PROFILE_TAG.into(), "compiler".into())]),
                members: BTreeMap::from([(instance, LifecycleState::parse(state))]),
                has_pool: false,
                reuses: false,
                location: None,
            })),
            hooks: Lookup::Found(vec![self::hook(hook, transition)]),
            machine: Lookup::Found(machine(OURS, "running")),
        };
        Self { action, cloud, profile: Profile::example() }
    }

    pub(crate) fn admit(&self) -> Admission {
        let profile = Arc::new(self.profile.clone());
        admit(&self.action, &self.cloud, &|name| (*name == profile.name).then(|| profile.clone())).1
    }

    /// It is handled, like this.
    pub(crate) fn admitted(&self) -> PendingAction {
        match self.admit() {
            Admission::Ours(held) => *held,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn group(&mut self) -> &mut Group {
        let Lookup::Found(group) = &mut self.cloud.group else { panic!("the group is not there") };
        Arc::make_mut(group)
    }

    pub(crate) fn machine(&mut self) -> &mut Machine {
        let Lookup::Found(machine) = &mut self.cloud.machine else { panic!("the instance is not there") };
        machine
    }

    pub(crate) fn hooks(&mut self) -> &mut Vec<Hook> {
        let Lookup::Found(hooks) = &mut self.cloud.hooks else { panic!("the hooks are not there") };
        hooks
    }

    pub(crate) fn in_state(mut self, state: &str) -> Self {
        let instance = self.action.instance.clone();
        self.group().members.insert(instance, LifecycleState::parse(state));
        self
    }

    pub(crate) fn not_in_the_group(mut self) -> Self {
        self.group().members.clear();
        self
    }

    pub(crate) fn with_warm_pool(mut self) -> Self {
        self.group().has_pool = true;
        self.group().reuses = true;
        self
    }
}

pub(crate) fn hook(name: &str, transition: Transition) -> Hook {
    Hook {
        name: name.parse().unwrap(),
        transition: Some(transition),
        heartbeat_timeout: Duration::from_secs(3600),
        global_timeout: Duration::from_secs(172_800),
    }
}

pub(crate) fn machine(instance: &str, state: &str) -> Machine {
    Machine {
        launched: None,
        instance: instance.parse().unwrap(),
        state: state.into(),
        private_dns: Some(NAME.into()),
        private_ip: Some([10, 0, 3, 7].into()),
        ipv6: None,
        terminated: None,
        tags: BTreeMap::new(),
    }
}

/// What a flawless certificate or request of this instance, or of none, says.
pub(crate) fn says(owner: Option<&str>) -> Request {
    Request {
        common_name: Some(NAME.into()),
        signature: Signature::Valid,
        extensions: owner.map(|id| ("pp_instance_id".to_owned(), id.to_owned())).into_iter().collect(),
        other_extensions: Vec::new(),
        alt_names: Vec::new(),
        challenge: Challenge::NotRequired,
        key: Key::Ec(256),
        key_print: "A7:0C".into(),
        unreadable: None,
    }
}

pub(crate) fn certificate(owner: Option<&str>, issued: Timestamp) -> CertificateView {
    let instance = owner.map(|id| id.parse().unwrap());
    let tolerance = Duration::from_secs(60);
    CertificateView {
        issued_by_ca: issued,
        serial: "01A1".into(),
        instance,
        issued,
        tolerance,
        appeared: false,
        holds: says(owner),
    }
}

pub(crate) fn request(owner: Option<&str>) -> RequestView {
    RequestView { instance: owner.map(|id| id.parse().unwrap()), asks: says(owner) }
}

/// A node whose newest news is of this time.
pub(crate) fn node(active: bool, newest: Timestamp) -> NodeView {
    NodeView { active, deactivated: None, facts: Some(newest), catalog: None, newest: Some(newest) }
}

pub(crate) fn run(start: Timestamp, status: &str) -> RunView {
    let end = Timestamp::from_second(start.as_second() + 10).unwrap();
    RunView {
        start,
        end,
        received: end,
        stored: end,
        status: status.into(),
        noop: false,
        cached: false,
        catalog: Some(format!("catalog of {start}")),
        starting: None,
        preparing: None,
        retrieving: None,
        applying: None,
        job: None,
    }
}

/// One wave of the refresh target.
pub(crate) fn primary() -> Vec<Vec<Certname>> {
    vec![vec![PRIMARY.parse().unwrap()]]
}

/// A run that was ordered in this job.
pub(crate) fn order(job: &str, began: Timestamp, ended: Option<Timestamp>) -> Order {
    Order { job: job.into(), began: Some(began), ended }
}

/// The refresh target.
pub(crate) fn target(run: Option<RunView>, orders: Option<Vec<Order>>) -> TargetView {
    TargetView {
        disconnected: false,
        certname: PRIMARY.parse().unwrap(),
        runs: Lookup::Found(run.into_iter().collect()),
        catalog: None,
        orders: orders.map(Lookup::Found),
    }
}

/// The CA is unavailable, or any service where it does not matter which.
pub(crate) fn down<T>() -> Lookup<T> {
    Lookup::Unavailable(trouble())
}

pub(crate) fn trouble() -> Trouble {
    trouble_with(Service::Ca)
}

/// This service is unavailable.
pub(crate) fn unavailable<T>(service: Service) -> Lookup<T> {
    Lookup::Unavailable(trouble_with(service))
}

fn trouble_with(service: Service) -> Trouble {
    Trouble { kind: TroubleKind::Unreachable, service, text: "connection refused".into() }
}

/// Found, absent or unavailable.
pub(crate) fn reachable<T: Clone + std::fmt::Debug + 'static>(
    value: impl Strategy<Value = T> + 'static,
) -> BoxedStrategy<Lookup<T>> {
    prop_oneof![3 => value.prop_map(Lookup::Found), 1 => Just(Lookup::Absent), 1 => Just(down())].boxed()
}
