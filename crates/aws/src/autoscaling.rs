//! EC2 Auto Scaling: groups, hooks, activities; completing a lifecycle action and keeping it alive.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aws_config::retry::RetryMode;
use aws_sdk_autoscaling::Client;
use aws_sdk_autoscaling::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_autoscaling::types::{AutoScalingGroup, Filter, Instance, LifecycleHook};
use jiff::Timestamp;
use stagedoor_types::{
    ActionKey, ActionResult, Group, GroupName, Hook, InstanceId, LifecycleState, Location, PROFILE_TAG, Transition,
    WritePermit,
};

use crate::connect::own_retries;
use crate::{Error, SdkConfig, classify};

/// The most groups that one `DescribeAutoScalingGroups` page holds.
const PAGE: usize = 100;
/// How far back activities are read: the newest come first, and an action that still waits is among them.
const ACTIVITY_PAGES: usize = 100;

/// The API of EC2 Auto Scaling.
#[derive(Debug, Clone)]
pub struct AutoScaling {
    client: Client,
}

/// What Auto Scaling says to [`HookWriter::complete`] and [`HookWriter::heartbeat`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Done.
    Accepted,
    /// `No active Lifecycle Action found`. Two meanings: it was completed before, or it is so new that it
    /// is not visible yet. Only the instance's state shows which: if it still waits, try again.
    NoActiveAction,
}

/// Groups as Auto Scaling describes them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Groups {
    /// The groups.
    pub known: Vec<Group>,
    /// The groups whose warm pool could not be read, and why. They are known, without the instances of the pool: one that is not
    /// among the members may be there.
    pub unread_pools: BTreeMap<GroupName, Error>,
}

impl AutoScaling {
    /// A client with this configuration, whose calls share one token bucket: once Auto Scaling throttles, the SDK sends
    /// as many calls a second as are accepted.
    /// See [adaptive retry mode](https://docs.aws.amazon.com/sdkref/latest/guide/feature-retry-behavior.html).
    #[must_use]
    pub fn new(config: &SdkConfig) -> Self {
        let own = aws_sdk_autoscaling::config::Builder::from(config);
        let mut own = own.retry_partition(own_retries(config, "autoscaling"));
        if let Some(retries) = config.retry_config() {
            own = own.retry_config(retries.clone().with_retry_mode(RetryMode::Adaptive));
        }
        Self { client: Client::from_conf(own.build()) }
    }

    /// The groups with these names; unknown ones are missing from the answer.
    /// See [`DescribeAutoScalingGroups`](https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_DescribeAutoScalingGroups.html).
    pub async fn groups(&self, names: &[GroupName]) -> Result<Groups, Error> {
        let mut groups = Groups::default();
        for chunk in names.chunks(PAGE) {
            let names = chunk.iter().map(ToString::to_string).collect();
            let described = self.describe_groups(Some(names), None).await?;
            groups.known.extend(described.known);
            groups.unread_pools.extend(described.unread_pools);
        }
        Ok(groups)
    }

    /// Every group of the account and Region that carries the tag `stagedoor:profile`.
    /// See [`Filter`](https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_Filter.html).
    pub async fn opted_in_groups(&self) -> Result<Groups, Error> {
        let filter = Filter::builder().name("tag-key").values(PROFILE_TAG).build();
        self.describe_groups(None, Some(vec![filter])).await
    }

    async fn describe_groups(&self, names: Option<Vec<String>>, filters: Option<Vec<Filter>>) -> Result<Groups, Error> {
        const CALL: &str = "DescribeAutoScalingGroups";
        let subject = names.as_ref().map_or_else(|| "groups that opted in".to_owned(), |names| names.join(", "));
        let request = self.client.describe_auto_scaling_groups().set_auto_scaling_group_names(names);
        let mut pages = request.set_filters(filters).max_records(100).into_paginator().send();
        let mut groups = Groups::default();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| classify(CALL, &subject, &error))?;
            groups.known.extend(page.auto_scaling_groups.unwrap_or_default().into_iter().filter_map(group));
        }
        for group in groups.known.iter_mut().filter(|group| group.has_pool) {
            match self.pooled(&group.name).await {
                Ok(pooled) => group.members.extend(pooled),
                Err(error) => {
                    groups.unread_pools.insert(group.name.clone(), error);
                }
            }
        }
        Ok(groups)
    }

    /// The instances of a group's warm pool, which its own description does not include.
    /// See [`DescribeWarmPool`](https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_DescribeWarmPool.html).
    async fn pooled(&self, group: &GroupName) -> Result<Vec<(InstanceId, LifecycleState)>, Error> {
        let mut pages =
            self.client.describe_warm_pool().auto_scaling_group_name(group.as_str()).into_paginator().send();
        let mut pooled = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| classify("DescribeWarmPool", group, &error))?;
            pooled.extend(page.instances.unwrap_or_default().into_iter().filter_map(member));
        }
        Ok(pooled)
    }

    /// The hooks of a group. A group that does not exist is [`Error::Refused`].
    /// See [`DescribeLifecycleHooks`](https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_DescribeLifecycleHooks.html).
    pub async fn hooks(&self, group: &GroupName) -> Result<Vec<Hook>, Error> {
        let answer = self.client.describe_lifecycle_hooks().auto_scaling_group_name(group.as_str()).send().await;
        let answer = answer.map_err(|error| classify("DescribeLifecycleHooks", group, &error))?;
        Ok(answer.lifecycle_hooks.unwrap_or_default().into_iter().filter_map(hook).collect())
    }

    /// When the newest activity that takes each of these instances that way began; those without one are missing.
    /// See [`DescribeScalingActivities`](https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_DescribeScalingActivities.html).
    pub async fn activities_began(
        &self,
        group: &GroupName,
        wanted: &BTreeSet<(InstanceId, Transition)>,
    ) -> Result<BTreeMap<(InstanceId, Transition), Timestamp>, Error> {
        let request = self.client.describe_scaling_activities().auto_scaling_group_name(group.as_str());
        let mut pages = request.max_records(100).into_paginator().send();
        let mut began = BTreeMap::new();
        for _ in 0..ACTIVITY_PAGES {
            let Some(page) = pages.next().await else { break };
            let page = page.map_err(|error| classify("DescribeScalingActivities", group, &error))?;
            for activity in page.activities.unwrap_or_default() {
                // "Terminating EC2 instance: i-0a1b2c3d4e5f60718 - …": the only place that names the instance.
                let description = activity.description.unwrap_or_default();
                let named = description.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
                let named = named.filter_map(|word| word.parse::<InstanceId>().ok());
                let start = activity.start_time.and_then(|time| Timestamp::from_second(time.secs()).ok());
                let ways = ways(&description);
                let keys = named.flat_map(|instance| ways.iter().map(move |way| (instance.clone(), *way)));
                for key in keys.filter(|key| wanted.contains(key)) {
                    if let Some(start) = start {
                        let newest = began.entry(key).or_insert(start);
                        *newest = (*newest).max(start);
                    }
                }
            }
            if began.len() == wanted.len() {
                break;
            }
        }
        Ok(began)
    }
}

/// Completes lifecycle actions and keeps them alive: what can be changed in Auto Scaling. Without a [`WritePermit`] there is none:
///
/// ```compile_fail,E0061
/// use stagedoor_aws::autoscaling::{AutoScaling, HookWriter};
/// fn write(autoscaling: &AutoScaling) -> HookWriter<'_> {
///     HookWriter::new(autoscaling)
/// }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct HookWriter<'a> {
    client: &'a Client,
}

impl<'a> HookWriter<'a> {
    /// Adds the right to complete actions, where the mode permits it.
    #[must_use]
    pub fn new(autoscaling: &'a AutoScaling, _permit: WritePermit) -> Self {
        Self { client: &autoscaling.client }
    }

    /// Completes a lifecycle action, by instance id: that needs no token, which a sweep would not have.
    /// See [`CompleteLifecycleAction`](https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_CompleteLifecycleAction.html).
    pub async fn complete(self, action: &ActionKey, result: ActionResult) -> Result<Answer, Error> {
        let request = self.client.complete_lifecycle_action();
        let request = request
            .auto_scaling_group_name(action.group.as_str())
            .lifecycle_hook_name(action.hook.as_str())
            .instance_id(action.instance.as_str())
            .lifecycle_action_result(result.as_str());
        match request.send().await {
            Ok(_) => Ok(Answer::Accepted),
            Err(error) if no_active_action(&error) => Ok(Answer::NoActiveAction),
            Err(error) => Err(classify("CompleteLifecycleAction", &action.instance, &error)),
        }
    }

    /// Starts the hook's heartbeat timeout anew, up to its global timeout.
    /// See [`RecordLifecycleActionHeartbeat`](https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_RecordLifecycleActionHeartbeat.html).
    pub async fn heartbeat(self, action: &ActionKey) -> Result<Answer, Error> {
        let request = self.client.record_lifecycle_action_heartbeat();
        let request = request
            .auto_scaling_group_name(action.group.as_str())
            .lifecycle_hook_name(action.hook.as_str())
            .instance_id(action.instance.as_str());
        match request.send().await {
            Ok(_) => Ok(Answer::Accepted),
            Err(error) if no_active_action(&error) => Ok(Answer::NoActiveAction),
            Err(error) => Err(classify("RecordLifecycleActionHeartbeat", &action.instance, &error)),
        }
    }
}

/// The unmodelled `ValidationError` (HTTP 400) that is known by its text alone.
fn no_active_action<E: ProvideErrorMetadata, R>(error: &SdkError<E, R>) -> bool {
    let SdkError::ServiceError(service) = error else { return false };
    service.err().code() == Some("ValidationError")
        && service.err().message().is_some_and(|text| text.starts_with("No active Lifecycle Action found"))
}

/// `None` for a group whose name is not valid: no caller can ask about it.
fn group(described: AutoScalingGroup) -> Option<Group> {
    let tags = described.tags.unwrap_or_default().into_iter();
    let members = described.instances.unwrap_or_default().into_iter();
    Some(Group {
        location: described.auto_scaling_group_arn.as_deref().and_then(Location::of_arn),
        name: described.auto_scaling_group_name?.parse().ok()?,
        tags: tags.filter_map(|tag| Some((tag.key?, tag.value.unwrap_or_default()))).collect(),
        members: members.filter_map(member).collect(),
        has_pool: described.warm_pool_configuration.is_some(),
        reuses: described
            .warm_pool_configuration
            .and_then(|pool| pool.instance_reuse_policy)
            .is_some_and(|policy| policy.reuse_on_scale_in == Some(true)),
    })
}

fn member(described: Instance) -> Option<(InstanceId, LifecycleState)> {
    let state = LifecycleState::parse(described.lifecycle_state?.as_str());
    Some((described.instance_id?.parse().ok()?, state))
}

fn hook(described: LifecycleHook) -> Option<Hook> {
    let seconds = |value: Option<i32>| Duration::from_secs(value.and_then(|s| u64::try_from(s).ok()).unwrap_or(0));
    Some(Hook {
        name: described.lifecycle_hook_name?.parse().ok()?,
        transition: described.lifecycle_transition.as_deref().and_then(Transition::parse),
        heartbeat_timeout: seconds(described.heartbeat_timeout),
        global_timeout: seconds(described.global_timeout),
    })
}

/// Which way an activity takes its instance. The words are nowhere promised: one that is not known counts for both.
fn ways(description: &str) -> &'static [Transition] {
    match description.split(' ').next() {
        Some("Launching") => &[Transition::Launching],
        Some("Terminating") => &[Transition::Terminating],
        _ => &[Transition::Launching, Transition::Terminating],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_launch_is_not_taken_for_the_beginning_of_a_termination() {
        assert_eq!(ways("Launching a new EC2 instance: i-0a1b2c3d4e5f60718"), [Transition::Launching]);
        assert_eq!(ways("Terminating EC2 instance: i-0a1b2c3d4e5f60718 - Waiting"), [Transition::Terminating]);
        assert_eq!(ways("Moving EC2 instance: i-0a1b2c3d4e5f60718").len(), 2, "who knows");
    }
}
