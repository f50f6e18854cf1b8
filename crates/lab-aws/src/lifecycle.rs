//! Launching, terminating, and what time does to instances in between. No I/O; time is handed in.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use uuid::Uuid;

use crate::events::Event;
use crate::passage::{Action, Passage, RootVolume};
use crate::scene::{self, ActionResult, Place, PoolState, Transition};
use crate::wire::AwsError;
use crate::world::{Activity, World, is_instance_id, make_up_id};

/// What to launch into a group.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Launch {
    /// The new instance's id; made up if absent. The id of an instance that rests in the warm pool takes that one.
    pub id: Option<String>,
    /// `WarmPool`: into the pool instead of the group.
    pub to: Option<Place>,
    /// The private IPv4 address; made up if absent.
    pub private_ip: Option<String>,
    /// The IPv6 address; none if absent.
    pub ipv6: Option<String>,
    /// Whether it is launched into a subnet with IPv6 alone, so that it has no IPv4 address.
    pub ipv6_only: bool,
    /// The private DNS name; follows from the address if absent.
    pub private_dns: Option<String>,
    /// The instance's tags.
    pub tags: BTreeMap<String, String>,
    /// Tokens of the lifecycle actions, by hook name; made up if absent.
    pub tokens: BTreeMap<String, String>,
}

/// How to terminate an instance.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Terminate {
    /// `WarmPool`: back into the pool (`ReuseOnScaleIn`) instead of away.
    pub to: Option<Place>,
    /// At once and without hooks, as after a forced delete or the death of the host.
    pub force: bool,
    /// Tokens of the lifecycle actions, by hook name; made up if absent.
    pub tokens: BTreeMap<String, String>,
}

/// What has begun.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Begun {
    /// The instance.
    pub instance_id: String,
    /// One event for each hook that now holds it; empty if none does.
    pub events: Vec<Event>,
}

/// Where an instance goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    pub(crate) origin: Place,
    pub(crate) destination: Place,
    pub(crate) root_volume: Option<RootVolume>,
}

impl World {
    /// Carries out everything that was due by `now`.
    pub(crate) fn settle(&mut self, now: Timestamp) {
        let ids: Vec<String> = self
            .instances
            .values()
            .filter(|instance| instance.passage.is_some())
            .map(|instance| instance.id.clone())
            .collect();
        for id in ids {
            self.settle_one(&id, now);
        }
    }

    pub(crate) fn settle_one(&mut self, id: &str, now: Timestamp) {
        let proceed = SignedDuration::from_secs(self.settings.proceed_s.into());
        let Some(instance) = self.instances.get_mut(id) else { return };
        let Some(passage) = &mut instance.passage else { return };
        passage.settle(now);
        instance.state = passage.state();
        let Some((since, result)) = passage.done else { return };
        for action in &mut passage.actions {
            if std::mem::take(&mut action.timed_out) {
                self.timed_out.push((id.to_owned(), action.hook.clone()));
            }
        }
        let group = instance.group.as_ref().and_then(|name| self.groups.get(name));
        let retain = group.is_some_and(|group| group.retain_on_abandon);
        let pool = group.and_then(|group| group.warm_pool);
        let (origin, destination) = (passage.origin, passage.destination);
        // Before a replacement of the root volume, as before a termination, there is nothing to give up.
        let replacing = passage.root_volume == Some(RootVolume::Replacing);
        if result == ActionResult::Abandon && !replacing {
            if destination == Place::Ec2 && retain {
                instance.state = instance.state.replace(":Proceed", ":Retained");
                instance.passage = None;
                return;
            }
            if destination != Place::Ec2 {
                return self.give_up(id, since, now);
            }
        }
        let at = since + proceed;
        if at > now {
            return;
        }
        if replacing {
            return self.root_volume_replaced(id, at, now);
        }
        passage.arrival(pool).clone_into(&mut instance.state);
        if destination == Place::Ec2 {
            instance.terminated.get_or_insert(at);
        }
        let activity = instance.passage.take().map(|passage| passage.activity);
        self.end_activity(activity.as_deref(), "Successful", at);
        tracing::debug!(id, ?origin, ?destination, "transition completed");
    }

    /// An abandoned launch is terminated, through the terminating hooks. An abandoned return to the warm pool has
    /// been through them already.
    fn give_up(&mut self, id: &str, at: Timestamp, now: Timestamp) {
        let Some(instance) = self.instances.get_mut(id) else { return };
        let Some(passage) = instance.passage.take() else { return };
        self.end_activity(Some(&passage.activity), "Cancelled", at);
        let origin = if passage.destination == Place::WarmPool { Place::WarmPool } else { Place::AutoScalingGroup };
        let cause = "an instance was taken out of service as its lifecycle action was abandoned";
        if passage.transition() == Transition::Terminating {
            self.finish_at_once(id, cause, at);
        } else {
            let none = BTreeMap::new();
            // Its own hooks may have timed out by now too.
            self.begin(id, origin, Place::Ec2, &none, cause, at);
            self.settle_one(id, now);
        }
    }

    fn begin(
        &mut self,
        id: &str,
        origin: Place,
        destination: Place,
        tokens: &BTreeMap<String, String>,
        cause: &str,
        at: Timestamp,
    ) -> Vec<Event> {
        let way = Way { origin, destination, root_volume: None };
        self.begin_way(id, way, tokens, cause, at)
    }

    /// Starts a passage at `at`, with an action for each of the group's hooks on that transition.
    pub(crate) fn begin_way(
        &mut self,
        id: &str,
        way: Way,
        tokens: &BTreeMap<String, String>,
        cause: &str,
        at: Timestamp,
    ) -> Vec<Event> {
        let Some(instance) = self.instances.get(id) else { return Vec::new() };
        let Some(group) = instance.group.as_ref().and_then(|name| self.groups.get(name)) else {
            return Vec::new();
        };
        let Way { origin, destination, root_volume } = way;
        let activity = Uuid::new_v4().to_string();
        let mut passage =
            Passage { origin, destination, root_volume, actions: Vec::new(), done: None, activity: activity.clone() };
        let transition = passage.transition();
        passage.actions = group
            .hooks
            .iter()
            .filter(|hook| hook.transition == transition)
            .map(|hook| Action::start(hook, tokens.get(&hook.name).cloned(), self.settings.race_calls, at))
            .collect();
        passage.settle(at);
        let events: Vec<Event> =
            passage.actions.iter().map(|action| Event::of(&self.region, group, id, &passage, action, at)).collect();
        self.events.extend(events.iter().cloned());
        self.activities.push(Activity {
            id: activity,
            group: group.name.clone(),
            description: describe(id, origin, destination),
            cause: format!("At {} {cause}.", at.strftime("%Y-%m-%dT%H:%M:%SZ")),
            started: at,
            ended: None,
            status: if passage.done.is_none() { "MidLifecycleAction" } else { "InProgress" },
        });
        if let Some(instance) = self.instances.get_mut(id) {
            instance.state = passage.state();
            instance.passage = Some(passage);
        }
        self.settle_one(id, at);
        events
    }

    fn finish_at_once(&mut self, id: &str, cause: &str, at: Timestamp) {
        let Some(instance) = self.instances.get_mut(id) else { return };
        "Terminated".clone_into(&mut instance.state);
        instance.terminated = Some(at);
        instance.passage = None;
        if let Some(group) = instance.group.clone() {
            self.activities.push(Activity {
                id: Uuid::new_v4().to_string(),
                group,
                description: describe(id, Place::AutoScalingGroup, Place::Ec2),
                cause: format!("At {} {cause}.", at.strftime("%Y-%m-%dT%H:%M:%SZ")),
                started: at,
                ended: Some(at),
                status: "Successful",
            });
        }
    }

    pub(crate) fn end_activity(&mut self, id: Option<&str>, status: &'static str, at: Timestamp) {
        let activity = self.activities.iter_mut().find(|activity| Some(activity.id.as_str()) == id);
        if let Some(activity) = activity {
            activity.status = status;
            activity.ended = Some(at);
        }
    }

    /// Gives an instance that a scene places in a `…:Wait` state the passage that explains it.
    pub(crate) fn resume_passage(&mut self, from: &scene::Instance, now: Timestamp) -> anyhow::Result<()> {
        let Some(state) = from.state.as_deref() else { return Ok(()) };
        let (origin, destination) = match state {
            "Pending:Wait" => (Place::Ec2, Place::AutoScalingGroup),
            "Terminating:Wait" => (Place::AutoScalingGroup, Place::Ec2),
            "Warmed:Pending:Wait" => (Place::Ec2, Place::WarmPool),
            "Warmed:Terminating:Wait" => (Place::WarmPool, Place::Ec2),
            "ReplacingRootVolume:Wait" => (Place::AutoScalingGroup, Place::AutoScalingGroup),
            _ => return Ok(()),
        };
        let origin = from.origin.unwrap_or(origin);
        let destination = from.destination.unwrap_or(destination);
        let root_volume = match (origin, destination, state) {
            (Place::AutoScalingGroup, Place::AutoScalingGroup, "Pending:Wait") => Some(RootVolume::Replaced),
            (Place::AutoScalingGroup, Place::AutoScalingGroup, _) => Some(RootVolume::Replacing),
            _ => None,
        };
        let way = Way { origin, destination, root_volume };
        self.begin_way(&from.id, way, &from.tokens, "the scene was set", now);
        let shown = self.instances.get(&from.id).map_or("", |instance| instance.state.as_str());
        anyhow::ensure!(
            shown == state,
            "instance {} is to be in {state} from {} to {}, but its group has no hook to hold it there",
            from.id,
            origin.aws_name(),
            destination.aws_name()
        );
        Ok(())
    }

    /// Launches an instance into a group or its warm pool, or takes it from the pool.
    pub(crate) fn launch(&mut self, group: &str, launch: &Launch, now: Timestamp) -> anyhow::Result<Begun> {
        self.settle(now);
        anyhow::ensure!(self.groups.contains_key(group), "there is no group {group}");
        let id = launch.id.clone().unwrap_or_else(make_up_id);
        let destination = launch.to.unwrap_or(Place::AutoScalingGroup);
        let cause = "an instance was started in response to a request of the lab's control API";
        anyhow::ensure!(destination != Place::Ec2, "a launch goes to AutoScalingGroup or WarmPool");
        let rests_in_pool = self.instances.get(&id).map(|instance| {
            let in_pool = ["Warmed:Stopped", "Warmed:Running", "Warmed:Hibernated"];
            instance.group.as_deref() == Some(group) && in_pool.contains(&instance.state.as_str())
        });
        let origin = match rests_in_pool {
            Some(true) => Place::WarmPool,
            Some(false) => anyhow::bail!("instance {id} exists and does not rest in the warm pool of {group}"),
            None => {
                anyhow::ensure!(is_instance_id(&id), "{id:?} is not an instance id");
                let from = scene::Instance {
                    id: id.clone(),
                    private_ip: launch.private_ip.clone(),
                    ipv6: launch.ipv6.clone(),
                    ipv6_only: launch.ipv6_only,
                    private_dns: launch.private_dns.clone(),
                    tags: launch.tags.clone(),
                    ..scene::Instance::default()
                };
                let mut instance = self.new_instance(&from, Some(group));
                instance.launched = now;
                self.instances.insert(id.clone(), instance);
                Place::Ec2
            }
        };
        let events = self.begin(&id, origin, destination, &launch.tokens, cause, now);
        Ok(Begun { instance_id: id, events })
    }

    /// Terminates an instance of a group, through its hooks, or sends it back to the warm pool.
    pub(crate) fn terminate(&mut self, id: &str, how: &Terminate, now: Timestamp) -> anyhow::Result<Begun> {
        self.settle(now);
        let Some(instance) = self.instances.get_mut(id) else { anyhow::bail!("there is no instance {id}") };
        let instance_id = id.to_owned();
        let cause = "an instance was taken out of service in response to a request of the lab's control API";
        if how.force || instance.group.is_none() {
            anyhow::ensure!(instance.terminated.is_none(), "instance {id} is terminated already");
            self.finish_at_once(id, cause, now);
            return Ok(Begun { instance_id, events: Vec::new() });
        }
        let state = instance.state.as_str();
        let destination = how.to.unwrap_or(Place::Ec2);
        anyhow::ensure!(destination != Place::AutoScalingGroup, "a termination goes to EC2 or WarmPool");
        let leaving = state.starts_with("Terminat") || state.starts_with("Warmed:Terminat");
        anyhow::ensure!(!leaving, "instance {id} is in {state} already");
        let origin = if state.starts_with("Warmed:") { Place::WarmPool } else { Place::AutoScalingGroup };
        if let Some(passage) = instance.passage.take() {
            self.end_activity(Some(&passage.activity), "Cancelled", now);
        }
        let events = self.begin(id, origin, destination, &how.tokens, cause, now);
        Ok(Begun { instance_id, events })
    }

    /// EC2 takes back a Spot Instance: it is terminated at once, while its lifecycle actions still wait.
    pub(crate) fn reclaim(&mut self, id: &str, now: Timestamp) -> anyhow::Result<()> {
        self.settle(now);
        let Some(instance) = self.instances.get_mut(id) else { anyhow::bail!("there is no instance {id}") };
        instance.terminated.get_or_insert(now);
        Ok(())
    }

    /// `TerminateInstanceInAutoScalingGroup`; also the way out of `Terminating:Retained`. Answers with the index of
    /// the activity.
    pub(crate) fn terminate_in_group(&mut self, id: &str, now: Timestamp) -> Result<usize, AwsError> {
        let not_found =
            || AwsError::validation(format!("Instance Id not found - No managed instance found for instance ID: {id}"));
        let instance = self.instances.get(id).filter(|instance| instance.in_group()).ok_or_else(not_found)?;
        let cause = "instance was taken out of service in response to a user request";
        if instance.state.ends_with(":Retained") {
            self.finish_at_once(id, cause, now);
        } else if !instance.state.contains("Terminating") {
            let origin = if instance.state.starts_with("Warmed:") { Place::WarmPool } else { Place::AutoScalingGroup };
            self.begin(id, origin, Place::Ec2, &BTreeMap::new(), cause, now);
        }
        let activity = self.activities.iter().rposition(|activity| activity.description.ends_with(id));
        activity.ok_or_else(not_found)
    }

    /// Finds an action that waits, by its token or else by the instance, and lets `then` have it.
    pub(crate) fn with_action(
        &mut self,
        wanted: &WantedAction<'_>,
        now: Timestamp,
        then: impl FnOnce(&mut Passage, usize),
    ) -> Result<(), AwsError> {
        let none = || {
            AwsError::validation(match wanted.token {
                Some(token) => format!("No active Lifecycle Action found with token {token}"),
                None => {
                    format!("No active Lifecycle Action found with instance ID {}", wanted.instance.unwrap_or("null"))
                }
            })
        };
        let found = self.instances.values_mut().find_map(|instance| {
            let here = instance.group.as_deref() == Some(wanted.group)
                && (wanted.token.is_some() || wanted.instance == Some(instance.id.as_str()));
            let passage = instance.passage.as_mut().filter(|passage| here && passage.done.is_none())?;
            let index = passage.actions.iter().position(|action| {
                action.hook == wanted.hook
                    && action.result.is_none()
                    && wanted.token.is_none_or(|token| token == action.token)
            })?;
            Some((instance.id.clone(), passage, index))
        });
        let (id, passage, index) = found.ok_or_else(none)?;
        let action = &mut passage.actions[index];
        if action.is_hidden(now) {
            action.hidden_calls -= 1;
            return Err(none());
        }
        then(passage, index);
        self.settle_one(&id, now);
        Ok(())
    }

    /// The instance whose action has this token.
    pub(crate) fn owner_of(&self, token: &str) -> Option<&str> {
        let owns = |passage: &Passage| passage.actions.iter().any(|action| action.token == token);
        let mut owners = self.instances.values().filter(|instance| instance.passage.as_ref().is_some_and(owns));
        owners.next().map(|instance| instance.id.as_str())
    }
}

/// What `CompleteLifecycleAction` and `RecordLifecycleActionHeartbeat` name an action by.
#[derive(Debug)]
pub(crate) struct WantedAction<'a> {
    pub(crate) group: &'a str,
    pub(crate) hook: &'a str,
    pub(crate) token: Option<&'a str>,
    pub(crate) instance: Option<&'a str>,
}

fn describe(id: &str, origin: Place, destination: Place) -> String {
    match (origin, destination) {
        (Place::Ec2, Place::WarmPool) => format!("Launching a new EC2 instance into warm pool: {id}"),
        (Place::WarmPool, Place::AutoScalingGroup) => {
            format!("Launching a new EC2 instance from warm pool: {id}")
        }
        (Place::Ec2, _) => format!("Launching a new EC2 instance: {id}"),
        (Place::AutoScalingGroup, Place::AutoScalingGroup) => format!("Replacing root volume of EC2 instance: {id}"),
        (_, Place::WarmPool) => format!("Returning an EC2 instance to warm pool: {id}"),
        (Place::WarmPool, _) => format!("Terminating EC2 instance from warm pool: {id}"),
        (_, _) => format!("Terminating EC2 instance: {id}"),
    }
}

/// The state that `group`'s warm pool keeps its instances in, as `DescribeAutoScalingGroups` shows it.
pub(crate) fn pool_state_name(state: PoolState) -> &'static str {
    match state {
        PoolState::Stopped => "Stopped",
        PoolState::Running => "Running",
        PoolState::Hibernated => "Hibernated",
    }
}
