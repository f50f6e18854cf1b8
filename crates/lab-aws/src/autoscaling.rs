//! The Auto Scaling API (<https://docs.aws.amazon.com/autoscaling/ec2/APIReference/Welcome.html>). No I/O.

use jiff::{SignedDuration, Timestamp};

use crate::lifecycle::{WantedAction, pool_state_name};
use crate::passage::global_timeout;
use crate::scene::ActionResult;
use crate::wire::{Answer, Ask, AwsError, not_simulated, page};
use crate::world::{Activity, Group, Instance, World, iso};
use crate::xml::Xml;

/// Carries out everything that is due, then one call.
pub(crate) fn answer(world: &mut World, ask: &Ask, now: Timestamp) -> Result<Answer, AwsError> {
    world.settle(now);
    let xml = match ask.action.as_str() {
        "DescribeAutoScalingGroups" => describe_groups(world, ask),
        "DescribeAutoScalingInstances" => describe_instances(world, ask),
        "DescribeWarmPool" => describe_warm_pool(world, ask),
        "DescribeLifecycleHooks" => describe_hooks(world, ask),
        "DescribeScalingActivities" => describe_activities(world, ask),
        "DescribeTags" => describe_tags(world, ask),
        "CompleteLifecycleAction" => complete(world, ask, now),
        "RecordLifecycleActionHeartbeat" => heartbeat(world, ask, now),
        "TerminateInstanceInAutoScalingGroup" => terminate(world, ask, now),
        _ => Err(not_simulated(ask)),
    }?;
    Ok(Answer::Xml(xml))
}

fn describe_groups(world: &World, ask: &Ask) -> Result<Xml, AwsError> {
    let names = ask.texts("AutoScalingGroupNames");
    let filters = ask.filters("Filters", "Values");
    let mut groups = Vec::new();
    for group in world.groups.values() {
        if (names.is_empty() || names.contains(&group.name.as_str())) && tags_match(group, &filters)? {
            groups.push(group);
        }
    }
    let with_instances = ask.text("IncludeInstances") != Some("false");
    let (groups, next) = one_page(groups, ask, 50, 100)?;
    let mut xml = Xml::default();
    xml.list("AutoScalingGroups", "member", groups, |xml, group| {
        write_group(xml, world, group, with_instances);
    });
    xml.maybe("NextToken", next);
    Ok(xml)
}

/// All filters must match; within one filter any of its values.
fn tags_match(group: &Group, filters: &[(&str, Vec<&str>)]) -> Result<bool, AwsError> {
    for (name, values) in filters {
        let matches = if let Some(key) = name.strip_prefix("tag:") {
            group.tags.get(key).is_some_and(|value| values.contains(&value.as_str()))
        } else {
            match *name {
                "tag-key" => group.tags.keys().any(|key| values.contains(&key.as_str())),
                "tag-value" => group.tags.values().any(|value| values.contains(&value.as_str())),
                other => return Err(unknown_filter(other)),
            }
        };
        if !matches {
            return Ok(false);
        }
    }
    Ok(true)
}

fn unknown_filter(name: &str) -> AwsError {
    AwsError::validation(format!("Filter type {name} is not correct."))
}

fn one_page<'a, T>(
    all: Vec<&'a T>,
    ask: &Ask,
    default: usize,
    most: usize,
) -> Result<(Vec<&'a T>, Option<String>), AwsError> {
    let size = match ask.text("MaxRecords") {
        None => default,
        Some(text) => match text.parse::<usize>() {
            Ok(size) if (1..=most).contains(&size) => size,
            _ => return Err(bad_max_records(text, most)),
        },
    };
    page(all, ask.text("NextToken"), size)
        .ok_or_else(|| AwsError::new(400, "InvalidNextToken", "The NextToken value is not valid."))
}

fn bad_max_records(text: &str, most: usize) -> AwsError {
    let too_small = text.starts_with('-') || text == "0";
    let (bound, limit) = if too_small { ("greater", 1) } else { ("less", most) };
    AwsError::validation(format!(
        "1 validation error detected: Value '{text}' at 'maxRecords' failed to satisfy constraint: \
         Member must have value {bound} than or equal to {limit}"
    ))
}

fn write_group(xml: &mut Xml, world: &World, group: &Group, with_instances: bool) {
    let (pooled, members): (Vec<&Instance>, Vec<&Instance>) =
        world.members(&group.name).partition(|one| is_pooled(one));
    let (warmed, desired) = (pooled.len(), members.len());
    xml.text("AutoScalingGroupName", &group.name)
        .text("AutoScalingGroupARN", &group.arn)
        .within("LaunchTemplate", launch_template)
        .text("MinSize", 0)
        .text("MaxSize", 1000)
        .text("DesiredCapacity", desired)
        .text("DefaultCooldown", 300)
        .list("AvailabilityZones", "member", [world.zone()], |xml, zone| {
            xml.value(zone);
        })
        .text("HealthCheckType", "EC2")
        .text("HealthCheckGracePeriod", 0)
        .text("CreatedTime", iso(group.created))
        .text("VPCZoneIdentifier", "subnet-0aaaaaaaaaaaaaaaa")
        .text("NewInstancesProtectedFromScaleIn", false);
    if with_instances {
        xml.list("Instances", "member", members, |xml, instance| write_instance(xml, world, instance));
    }
    xml.list("Tags", "member", &group.tags, |xml, (key, value)| {
        write_tag(xml, &group.name, key, value);
    });
    if group.warm_pool.is_some() {
        write_pool(xml, group);
        xml.text("WarmPoolSize", warmed);
    }
    if group.retain_on_abandon {
        xml.within("InstanceLifecyclePolicy", |xml| {
            xml.within("RetentionTriggers", |xml| {
                xml.text("TerminateHookAbandon", "retain");
            });
        });
    }
}

/// Auto Scaling shows what rests in the warm pool, or is on its way into or out of it, apart from the group.
fn is_pooled(instance: &Instance) -> bool {
    instance.state.starts_with("Warmed:")
}

fn write_pool(xml: &mut Xml, group: &Group) {
    let Some(state) = group.warm_pool else { return };
    xml.within("WarmPoolConfiguration", |xml| {
        xml.text("MinSize", 0).text("PoolState", pool_state_name(state));
        xml.within("InstanceReusePolicy", |xml| {
            xml.text("ReuseOnScaleIn", group.reuse_on_scale_in);
        });
    });
}

fn describe_warm_pool(world: &World, ask: &Ask) -> Result<Xml, AwsError> {
    let group = known_group(world, ask.required("AutoScalingGroupName")?)?;
    let pooled = world.members(&group.name).filter(|one| is_pooled(one)).collect();
    let (pooled, next) = one_page(pooled, ask, 50, 50)?;
    let mut xml = Xml::default();
    write_pool(&mut xml, group);
    xml.list("Instances", "member", pooled, |xml, instance| write_instance(xml, world, instance));
    xml.maybe("NextToken", next);
    Ok(xml)
}

fn write_tag(xml: &mut Xml, group: &str, key: &str, value: &str) {
    xml.text("ResourceId", group)
        .text("ResourceType", "auto-scaling-group")
        .text("Key", key)
        .text("Value", value)
        .text("PropagateAtLaunch", true);
}

fn launch_template(xml: &mut Xml) {
    xml.text("LaunchTemplateId", "lt-0aaaaaaaaaaaaaaaa").text("LaunchTemplateName", "lab").text("Version", 1);
}

fn write_instance(xml: &mut Xml, world: &World, instance: &Instance) {
    xml.text("InstanceId", &instance.id)
        .text("InstanceType", "m6i.large")
        .text("AvailabilityZone", world.zone())
        .text("LifecycleState", &instance.state)
        .text("HealthStatus", "Healthy")
        .within("LaunchTemplate", launch_template)
        .text("ProtectedFromScaleIn", false);
}

fn describe_instances(world: &World, ask: &Ask) -> Result<Xml, AwsError> {
    let ids = ask.texts("InstanceIds");
    if ids.len() > 50 {
        return Err(AwsError::validation("The number of instance ids that may be passed in is limited to 50"));
    }
    let found = world
        .instances
        .values()
        .filter(|instance| instance.in_group())
        .filter(|instance| ids.is_empty() || ids.contains(&instance.id.as_str()))
        .collect();
    let (found, next) = one_page(found, ask, 50, 50)?;
    let mut xml = Xml::default();
    xml.list("AutoScalingInstances", "member", found, |xml, instance| {
        xml.maybe("AutoScalingGroupName", instance.group.as_ref());
        write_instance(xml, world, instance);
    });
    xml.maybe("NextToken", next);
    Ok(xml)
}

fn describe_hooks(world: &World, ask: &Ask) -> Result<Xml, AwsError> {
    let group = known_group(world, ask.required("AutoScalingGroupName")?)?;
    let names = ask.texts("LifecycleHookNames");
    let hooks = group.hooks.iter().filter(|hook| names.is_empty() || names.contains(&hook.name.as_str()));
    let mut xml = Xml::default();
    xml.list("LifecycleHooks", "member", hooks, |xml, hook| {
        let heartbeat = SignedDuration::from_secs(hook.heartbeat_timeout_s.into());
        let result = result_name(hook.default_result);
        xml.text("LifecycleHookName", &hook.name)
            .text("AutoScalingGroupName", &group.name)
            .text("LifecycleTransition", hook.transition.aws_name())
            .maybe("NotificationTargetARN", hook.notification_target.as_ref())
            .maybe("NotificationMetadata", hook.metadata.as_ref())
            .text("HeartbeatTimeout", hook.heartbeat_timeout_s)
            .text("GlobalTimeout", global_timeout(heartbeat).as_secs())
            .text("DefaultResult", result);
    });
    Ok(xml)
}

fn result_name(result: ActionResult) -> &'static str {
    match result {
        ActionResult::Continue => "CONTINUE",
        ActionResult::Abandon => "ABANDON",
    }
}

fn known_group<'a>(world: &'a World, name: &str) -> Result<&'a Group, AwsError> {
    let by_arn = |group: &&Group| group.arn == name;
    let found = world.groups.get(name).or_else(|| world.groups.values().find(by_arn));
    found.ok_or_else(|| AwsError::validation("AutoScalingGroup name not found - null"))
}

fn describe_activities(world: &World, ask: &Ask) -> Result<Xml, AwsError> {
    let group = match ask.text("AutoScalingGroupName") {
        Some(name) => Some(&known_group(world, name)?.name),
        None => None,
    };
    let ids = ask.texts("ActivityIds");
    // The newest first.
    let found = world
        .activities
        .iter()
        .rev()
        .filter(|activity| group.is_none_or(|group| *group == activity.group))
        .filter(|activity| ids.is_empty() || ids.contains(&activity.id.as_str()))
        .collect();
    let (found, next) = one_page(found, ask, 100, 100)?;
    let mut xml = Xml::default();
    xml.list("Activities", "member", found, |xml, activity| write_activity(xml, world, activity));
    xml.maybe("NextToken", next);
    Ok(xml)
}

fn write_activity(xml: &mut Xml, world: &World, activity: &Activity) {
    let progress = match activity.status {
        "MidLifecycleAction" => 60,
        "InProgress" => 80,
        _ => 100,
    };
    let details = format!("{{\"Subnet ID\":\"subnet-0aaaaaaaaaaaaaaaa\",\"Availability Zone\":\"{}\"}}", world.zone());
    xml.text("ActivityId", &activity.id)
        .text("AutoScalingGroupName", &activity.group)
        .text("Description", &activity.description)
        .text("Cause", &activity.cause)
        .text("StartTime", iso(activity.started))
        .maybe("EndTime", activity.ended.map(iso))
        .text("StatusCode", activity.status)
        .text("Progress", progress)
        .text("Details", details)
        .maybe("AutoScalingGroupARN", world.groups.get(&activity.group).map(|group| &group.arn));
}

fn describe_tags(world: &World, ask: &Ask) -> Result<Xml, AwsError> {
    let filters = ask.filters("Filters", "Values");
    let mut tags = Vec::new();
    for group in world.groups.values() {
        for (key, value) in &group.tags {
            if tag_matches(&group.name, key, value, &filters)? {
                tags.push((&group.name, key, value));
            }
        }
    }
    let tags: Vec<_> = tags.iter().collect();
    let (tags, next) = one_page(tags, ask, 50, 100)?;
    let mut xml = Xml::default();
    xml.list("Tags", "member", tags, |xml, (group, key, value)| write_tag(xml, group, key, value));
    xml.maybe("NextToken", next);
    Ok(xml)
}

fn tag_matches(group: &str, key: &str, value: &str, filters: &[(&str, Vec<&str>)]) -> Result<bool, AwsError> {
    for (name, values) in filters {
        let subject = match *name {
            "auto-scaling-group" => group,
            "key" => key,
            "value" => value,
            "propagate-at-launch" => "true",
            other => return Err(unknown_filter(other)),
        };
        if !values.contains(&subject) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn wanted<'a>(world: &World, ask: &'a Ask) -> Result<WantedAction<'a>, AwsError> {
    let group = ask.required("AutoScalingGroupName")?;
    let hook = ask.required("LifecycleHookName")?;
    known_group(world, group)?;
    let wanted =
        WantedAction { group, hook, token: ask.text("LifecycleActionToken"), instance: ask.text("InstanceId") };
    if wanted.token.is_none() && wanted.instance.is_none() {
        return Err(AwsError::validation("Either a lifecycle action token or an instance ID must be specified"));
    }
    if let Some(token) = wanted.token.filter(|token| token.chars().count() != 36) {
        let bound = if token.chars().count() < 36 { "greater" } else { "less" };
        return Err(AwsError::validation(format!(
            "1 validation error detected: Value '{token}' at 'lifecycleActionToken' failed to satisfy constraint: \
             Member must have length {bound} than or equal to 36"
        )));
    }
    Ok(wanted)
}

fn complete(world: &mut World, ask: &Ask, now: Timestamp) -> Result<Xml, AwsError> {
    let wanted = wanted(world, ask)?;
    let result = match ask.required("LifecycleActionResult")? {
        "CONTINUE" => ActionResult::Continue,
        "ABANDON" => ActionResult::Abandon,
        other => {
            return Err(AwsError::validation(format!(
                "Lifecycle action result {other} is not valid. It must be one of CONTINUE, ABANDON"
            )));
        }
    };
    world.with_action(&wanted, now, |passage, index| passage.complete(index, result, now))?;
    Ok(Xml::default())
}

fn heartbeat(world: &mut World, ask: &Ask, now: Timestamp) -> Result<Xml, AwsError> {
    let wanted = wanted(world, ask)?;
    world.with_action(&wanted, now, |passage, index| passage.actions[index].heartbeat(now))?;
    Ok(Xml::default())
}

fn terminate(world: &mut World, ask: &Ask, now: Timestamp) -> Result<Xml, AwsError> {
    let id = ask.required("InstanceId")?;
    ask.required("ShouldDecrementDesiredCapacity")?;
    let activity = world.terminate_in_group(id, now)?;
    let mut xml = Xml::default();
    xml.within("Activity", |xml| write_activity(xml, world, &world.activities[activity]));
    Ok(xml)
}
