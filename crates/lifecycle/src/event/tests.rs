use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// A file of `events/`, which are also what operators replay.
fn sample(name: &str) -> Value {
    let path = format!("{}/../../events/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(&path).expect(&path)).expect(&path)
}

fn only(name: &str) -> Content {
    let delivery = decode(&sample(name));
    assert_eq!(delivery.messages.len(), 1, "{name}");
    delivery.messages.into_iter().next().unwrap().content
}

fn action_of(name: &str) -> LifecycleAction {
    match only(name) {
        Content::Action(action) => action,
        other => panic!("{name}: {other:?}"),
    }
}

#[test]
fn the_same_action_is_read_from_every_shape() {
    for name in [
        "eventbridge-terminate",
        "hook-terminate",
        "sns-terminate",
        "sqs-eventbridge-terminate",
        "sqs-hook-terminate",
        "sqs-sns-terminate",
    ] {
        let action = action_of(name);
        assert_eq!(action.instance.as_str(), "i-0a1b2c3d4e5f60718", "{name}");
        assert_eq!(action.group.as_str(), "compilers", "{name}");
        assert_eq!(action.hook.as_str(), "stagedoor-terminate", "{name}");
        assert_eq!(action.transition, Transition::Terminating, "{name}");
        assert_eq!(action.destination, Some(Place::Ec2), "{name}");
        assert_eq!(action.began.time().unwrap().as_second(), 1_772_600_760, "{name}");
    }
}

#[test]
fn a_launch_is_read_from_every_shape_as_well() {
    for name in ["eventbridge-launch", "hook-launch", "sns-launch", "sqs-eventbridge-launch"] {
        let action = action_of(name);
        assert_eq!(action.instance.as_str(), "i-0c3d4e5f60718293a", "{name}");
        assert_eq!(action.hook.as_str(), "stagedoor-launch", "{name}");
        assert_eq!(action.transition, Transition::Launching, "{name}");
        assert_eq!((action.origin, action.destination), (Some(Place::Ec2), Some(Place::AutoScalingGroup)), "{name}");
    }
}

#[test]
fn an_instance_that_gets_a_new_root_volume_comes_from_the_group_and_goes_there() {
    for name in ["eventbridge-replace-root-volume-terminate", "eventbridge-replace-root-volume-launch"] {
        let action = action_of(name);
        assert_eq!((action.origin, action.destination), (Some(Place::AutoScalingGroup), Some(Place::AutoScalingGroup)));
    }
}

#[test]
fn only_sqs_is_answered_with_batch_item_failures() {
    for name in ["sqs-eventbridge-terminate", "sqs-hook-terminate", "sqs-sns-terminate", "sqs-batch"] {
        let delivery = decode(&sample(name));
        assert_eq!(delivery.source, Source::Sqs, "{name}");
        assert!(delivery.messages.iter().all(|message| message.id.is_some()), "{name}");
    }
    for name in ["eventbridge-terminate", "hook-terminate", "sns-terminate", "unknown-shape"] {
        assert_eq!(decode(&sample(name)).source, Source::Other, "{name}");
    }
}

#[test]
fn a_batch_keeps_every_record_in_order() {
    let contents: Vec<_> = decode(&sample("sqs-batch")).messages.into_iter().map(|m| m.content).collect();
    assert!(matches!(
        contents.as_slice(),
        [Content::Action(a), Content::Action(b), Content::Action(c), Content::Ignored(_), Content::Unusable(_)]
            if a == c && a.instance != b.instance
    ));
}

#[test]
fn a_test_notification_is_acknowledged() {
    for name in ["sns-test-notification", "sqs-test-notification"] {
        assert!(matches!(only(name), Content::Ignored(_)), "{name}");
    }
}

#[test]
fn an_event_of_another_type_is_ignored() {
    assert!(matches!(only("eventbridge-launch-successful"), Content::Ignored(_)));
}

#[test]
fn the_warm_pool_is_told_apart() {
    assert_eq!(action_of("eventbridge-terminate-to-warm-pool").destination, Some(Place::WarmPool));
    assert_eq!(action_of("eventbridge-terminate-from-warm-pool").destination, Some(Place::Ec2));
    assert_eq!(action_of("eventbridge-launch-to-warm-pool").destination, Some(Place::WarmPool));
    assert_eq!(action_of("eventbridge-launch-from-warm-pool").destination, Some(Place::AutoScalingGroup));
    assert_eq!(action_of("eventbridge-launch").transition, Transition::Launching);
}

#[test]
fn an_unknown_shape_is_a_clear_refusal() {
    let Content::Unusable(reason) = only("unknown-shape") else { panic!() };
    insta::assert_snapshot!(
        reason,
        @"the event has none of the shapes in which Auto Scaling announces a lifecycle action"
    );
    for event in
        [Value::Null, json!(7), json!([]), json!("text"), json!({"Records": [null]}), json!({"Records": [{"body": 7}]})]
    {
        let delivery = decode(&event);
        assert!(delivery.messages.iter().all(|m| matches!(m.content, Content::Unusable(_))), "{event}");
        assert_eq!(delivery.messages.len(), 1, "{event}");
    }
}

#[test]
fn a_missing_or_invalid_field_is_named() {
    let whole = sample("hook-terminate");
    let mut reasons = Vec::new();
    let mut unusable = |event: &Value| match document(event, 0) {
        Content::Unusable(reason) => reasons.push(reason),
        other => panic!("{other:?}"),
    };
    for field in ["EC2InstanceId", "AutoScalingGroupName", "LifecycleHookName"] {
        let mut event = whole.clone();
        event.as_object_mut().unwrap().remove(field);
        unusable(&event);
    }
    for field in ["EC2InstanceId", "LifecycleTransition"] {
        let mut event = whole.clone();
        event[field] = json!("*");
        unusable(&event);
    }
    insta::assert_snapshot!(reasons.join("\n"), @r#"
    the lifecycle action has no text field EC2InstanceId
    the lifecycle action has no text field AutoScalingGroupName
    the lifecycle action has no text field LifecycleHookName
    "*" is not a valid instance id: 'i-' and 8 or 17 lower-case hexadecimal digits
    unknown LifecycleTransition "*"
    "#);
}

#[test]
fn an_event_that_does_not_say_when_or_where_is_still_an_action() {
    let mut event = sample("hook-terminate");
    for field in ["Time", "Origin", "Destination"] {
        event.as_object_mut().unwrap().remove(field);
    }
    assert!(matches!(document(&event, 0), Content::Action(a) if a.began == Began::Unknown && a.destination.is_none()));
}

#[test]
fn endless_wrapping_ends() {
    let mut event = sample("hook-terminate");
    for _ in 0..10 {
        event = json!({"TopicArn": "t", "Type": "Notification", "Message": event.to_string()});
    }
    assert!(matches!(document(&event, 0), Content::Unusable(_)));
}

/// Any JSON at all, with the keys that decoding looks for made likely.
fn any_json() -> impl Strategy<Value = Value> {
    let key = prop_oneof![
        Just("Records".to_owned()),
        Just("body".to_owned()),
        Just("messageId".to_owned()),
        Just("Sns".to_owned()),
        Just("Message".to_owned()),
        Just("TopicArn".to_owned()),
        Just("detail".to_owned()),
        Just("detail-type".to_owned()),
        Just("source".to_owned()),
        Just("LifecycleTransition".to_owned()),
        Just("EC2InstanceId".to_owned()),
        "[a-zA-Z]{0,6}",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
        Just(Value::from("aws.autoscaling")),
        Just(Value::from("EC2 Instance-terminate Lifecycle Action")),
        Just(Value::from("{\"LifecycleTransition\":\"autoscaling:EC2_INSTANCE_TERMINATING\"}")),
    ];
    leaf.prop_recursive(4, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((key.clone(), inner), 0..6)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn whatever_arrives_is_answered_record_by_record(event in any_json()) {
        let delivery = decode(&event);
        let records = event.get("Records").and_then(Value::as_array).map_or(1, Vec::len);
        prop_assert_eq!(delivery.messages.len(), records);
    }
}
