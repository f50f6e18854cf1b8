//! What AWS says of the instances that Puppet knows, and whether it is to be believed. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use stagedoor_types::{Group, InstanceId, LifecycleState, Location, Machine};

use super::Reported;

/// What Auto Scaling and EC2 say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cloud {
    /// Every group that opted in.
    pub groups: Vec<Group>,
    /// What EC2 knows of the instances that it was asked about: those that Puppet knows, and [`Cloud::witnesses`].
    pub machines: BTreeMap<InstanceId, Machine>,
}

/// The state of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is there, or may come back; holds in which state.
    Alive(String),
    /// EC2 says that it is terminated, and mostly when its termination began.
    Terminated(Option<Timestamp>),
    /// EC2 does not know it: it is long gone, or somewhere else.
    Unknown,
}

impl Cloud {
    /// The instances that EC2 must know: those that Auto Scaling has, unless they are terminating.
    pub fn witnesses(groups: &[Group]) -> impl Iterator<Item = &InstanceId> {
        let members = groups.iter().flat_map(|group| &group.members);
        let observe_termination = |state: &LifecycleState| {
            use LifecycleState::{Past, Terminating, TerminatingWait, WarmedTerminatingWait};
            matches!(state, Past | Terminating | TerminatingWait | WarmedTerminatingWait)
        };
        members.filter(move |(_, state)| !observe_termination(state)).map(|(instance, _)| instance)
    }

    /// The state of an instance. One that is in a group is left to the group's hooks.
    #[must_use]
    pub(crate) fn fate(&self, instance: &InstanceId) -> Fate {
        if let Some(group) = self.groups.iter().find(|group| group.members.contains_key(instance)) {
            return Fate::Alive(format!("in the group {}", group.name));
        }
        match self.machines.get(instance) {
            None => Fate::Unknown,
            Some(machine) if machine.state == "terminated" => Fate::Terminated(machine.terminated),
            Some(machine) => Fate::Alive(machine.state.clone()),
        }
    }

    /// The account and Region of the fleet: those of its groups.
    pub fn home(groups: &[Group]) -> Result<&Location, String> {
        let mut homes = groups.iter().filter_map(|group| group.location.as_ref());
        let Some(home) = homes.next() else {
            return Err("no Auto Scaling group has opted in here: the fleet's account and Region are unknown".into());
        };
        match homes.find(|other| *other != home) {
            Some(other) => Err(format!("Auto Scaling shows groups of {} and {}", home.region, other.region)),
            None => Ok(home),
        }
    }

    /// Where this is, if EC2 is to be believed when it does not know an instance; else why it is not. Asked in another
    /// account or Region, or with a gap in its answer, EC2 does not know instances that live.
    pub fn believed(&self) -> Result<&Location, String> {
        let home = Self::home(&self.groups)?;
        if self.machines.is_empty() {
            return Err("EC2 does not know a single instance that it was asked about".into());
        }
        match Self::witnesses(&self.groups).find(|instance| !self.machines.contains_key(*instance)) {
            Some(missing) => Err(format!("EC2 does not know {missing}, which Auto Scaling has: its answer has gaps")),
            None => Ok(home),
        }
    }

    /// Where else an instance said that it was, if it said so.
    pub(super) fn elsewhere(&self, reported: &Reported) -> Option<String> {
        let home = self.groups.iter().find_map(|group| group.location.as_ref());
        let differs = |told: &Option<String>, ours: fn(&Location) -> &String| match (told, home) {
            (Some(told), Some(home)) if told != ours(home) => Some(told.clone()),
            _ => None,
        };
        let account = differs(&reported.account, |home| &home.account).map(|told| format!("account {told}"));
        let region = || differs(&reported.region, |home| &home.region).map(|told| format!("Region {told}"));
        account.or_else(region).map(|place| format!("its facts say that it was in {place}"))
    }
}
