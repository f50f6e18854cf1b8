//! The simulated AWS, asked on its wire protocols without a network.

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::*;
use crate::scene::{Place, Throttle};

const INSTANCE: &str = "i-0a1b2c3d4e5f60718";

struct Stage {
    aws: Aws,
    clock: Clock,
}

fn stage(scene: Value) -> Stage {
    let clock = Clock::standing_at(Timestamp::from_second(1_800_000_000).unwrap());
    let aws = Aws::new("eu-west-1", clock.clone());
    aws.set_scene(&serde_json::from_value(scene).unwrap()).unwrap();
    Stage { aws, clock }
}

/// One group with one instance in service and the given hooks.
fn group_with(hooks: &Value) -> Stage {
    stage(json!({"groups": [{
        "name": "compilers", "tags": {"stagedoor:profile": "compiler"}, "hooks": hooks,
        "instances": [{"id": INSTANCE}],
    }]}))
}

fn terminate_hook() -> Value {
    json!([{"name": "leave", "transition": "terminating", "heartbeat_timeout_s": 600, "default_result": "CONTINUE"}])
}

fn launch_hook() -> Value {
    json!([{"name": "enter", "transition": "launching", "heartbeat_timeout_s": 600, "default_result": "ABANDON"}])
}

impl Stage {
    fn pass(&self, seconds: i64) {
        self.clock.advance(SignedDuration::from_secs(seconds));
    }

    fn state(&self) -> String {
        self.aws.lifecycle_state(INSTANCE).unwrap()
    }

    async fn ask(&self, service: &str, pairs: &[(&str, &str)]) -> (u16, String) {
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
        self.send(service, "", body).await
    }

    async fn send(&self, service: &str, target: &str, body: String) -> (u16, String) {
        let mut headers = http::HeaderMap::new();
        let credential = format!("AWS4-HMAC-SHA256 Credential=K/20270115/eu-west-1/{service}/aws4_request");
        headers.insert("authorization", credential.parse().unwrap());
        if !target.is_empty() {
            headers.insert("x-amz-target", target.parse().unwrap());
        }
        let request = Request {
            method: http::Method::POST,
            path: "/".into(),
            query: Vec::new(),
            headers,
            body: Bytes::from(body),
            peer: None,
        };
        let reply = self.aws.answer(&request).await;
        (reply.status().as_u16(), String::from_utf8_lossy(reply.body()).into_owned())
    }

    async fn complete(&self, more: &[(&str, &str)]) -> (u16, String) {
        let mut pairs = vec![
            ("Action", "CompleteLifecycleAction"),
            ("AutoScalingGroupName", "compilers"),
            ("LifecycleHookName", "leave"),
        ];
        pairs.extend(more);
        self.ask("autoscaling", &pairs).await
    }

    async fn continue_by_id(&self) -> (u16, String) {
        self.complete(&[("LifecycleActionResult", "CONTINUE"), ("InstanceId", INSTANCE)]).await
    }
}

#[tokio::test]
async fn a_terminating_instance_waits_and_leaves_when_completed() {
    let stage = group_with(&terminate_hook());
    let begun = stage.aws.terminate(INSTANCE, &Terminate::default()).unwrap();
    assert_eq!(begun.events.len(), 1);
    assert_eq!(stage.state(), "Terminating:Wait");
    let detail = &begun.events[0].eventbridge["detail"];
    assert_eq!(detail["LifecycleTransition"], "autoscaling:EC2_INSTANCE_TERMINATING");
    assert_eq!(detail["Origin"], "AutoScalingGroup");
    let token = detail["LifecycleActionToken"].as_str().unwrap();
    assert_eq!(token.len(), 36);
    let (status, body) =
        stage.complete(&[("LifecycleActionResult", "CONTINUE"), ("LifecycleActionToken", token)]).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(stage.state(), "Terminated");
}

#[tokio::test]
async fn a_completed_action_is_not_found_again() {
    let stage = group_with(&terminate_hook());
    stage.aws.terminate(INSTANCE, &Terminate::default()).unwrap();
    assert_eq!(stage.continue_by_id().await.0, 200);
    let (status, body) = stage.continue_by_id().await;
    assert_eq!(status, 400);
    assert!(body.contains("<Code>ValidationError</Code>"), "{body}");
    let text = format!("<Message>No active Lifecycle Action found with instance ID {INSTANCE}</Message>");
    assert!(body.contains(&text), "{body}");
}

#[tokio::test]
async fn the_race_hides_an_action_for_so_many_calls() {
    let mut settings = Settings { race_calls: 2, ..Settings::default() };
    let stage = group_with(&terminate_hook());
    stage.aws.set(settings.clone());
    stage.aws.terminate(INSTANCE, &Terminate::default()).unwrap();
    settings.race_calls = 0;
    stage.aws.set(settings);
    assert_eq!(stage.state(), "Terminating:Wait");
    let statuses = [stage.continue_by_id().await.0, stage.continue_by_id().await.0, stage.continue_by_id().await.0];
    assert_eq!(statuses, [400, 400, 200]);
}

#[test]
fn a_wait_that_times_out_gives_the_default_result_by_itself() {
    let stage = group_with(&terminate_hook());
    stage.aws.terminate(INSTANCE, &Terminate::default()).unwrap();
    stage.pass(599);
    assert_eq!(stage.state(), "Terminating:Wait");
    stage.pass(1);
    assert_eq!(stage.state(), "Terminated");
}

#[tokio::test]
async fn a_heartbeat_holds_the_instance_for_another_full_timeout() {
    let stage = group_with(&terminate_hook());
    stage.aws.terminate(INSTANCE, &Terminate::default()).unwrap();
    stage.pass(500);
    let beat = [
        ("Action", "RecordLifecycleActionHeartbeat"),
        ("AutoScalingGroupName", "compilers"),
        ("LifecycleHookName", "leave"),
        ("InstanceId", INSTANCE),
    ];
    assert_eq!(stage.ask("autoscaling", &beat).await.0, 200);
    stage.pass(599);
    assert_eq!(stage.state(), "Terminating:Wait");
    stage.pass(1);
    assert_eq!(stage.state(), "Terminated");
}

#[test]
fn an_abandoned_launch_ends_in_termination_through_its_hooks() {
    let mut hooks = launch_hook();
    hooks.as_array_mut().unwrap().extend(terminate_hook().as_array().unwrap().clone());
    let stage = stage(json!({"groups": [{"name": "compilers", "hooks": hooks}]}));
    let launch = Launch { id: Some(INSTANCE.into()), ..Launch::default() };
    assert_eq!(stage.aws.launch("compilers", &launch).unwrap().events.len(), 1);
    assert_eq!(stage.state(), "Pending:Wait");
    stage.pass(600);
    assert_eq!(stage.state(), "Terminating:Wait");
    assert_eq!(stage.aws.events().len(), 2, "the terminating hook has its event");
    stage.pass(600);
    assert_eq!(stage.state(), "Terminated");
}

#[test]
fn timeouts_that_follow_from_each_other_pass_in_one_look() {
    let mut hooks = launch_hook();
    hooks.as_array_mut().unwrap().extend(terminate_hook().as_array().unwrap().clone());
    let stage = stage(json!({"groups": [{"name": "compilers", "hooks": hooks}]}));
    let launch = Launch { id: Some(INSTANCE.into()), ..Launch::default() };
    stage.aws.launch("compilers", &launch).unwrap();
    stage.pass(1200);
    assert_eq!(stage.state(), "Terminated");
}

#[tokio::test]
async fn calls_beyond_the_token_bucket_are_throttled() {
    let stage = group_with(&json!([]));
    stage.aws.set(Settings { throttle: Some(Throttle { burst: 1, per_second: 0.5 }), ..Settings::default() });
    let describe = [("Action", "DescribeAutoScalingGroups")];
    assert_eq!(stage.ask("autoscaling", &describe).await.0, 200);
    let (status, body) = stage.ask("autoscaling", &describe).await;
    assert_eq!(status, 400);
    assert!(body.contains("<Code>Throttling</Code><Message>Rate exceeded</Message>"), "{body}");
    let (status, _) = stage.ask("ec2", &[("Action", "DescribeInstances")]).await;
    assert_eq!(status, 200, "the bucket is that of Auto Scaling");
    stage.pass(2);
    assert_eq!(stage.ask("autoscaling", &describe).await.0, 200);
}

#[test]
fn an_abandoned_launch_without_a_terminating_hook_is_gone_at_once() {
    let stage = stage(json!({"groups": [{"name": "compilers", "hooks": launch_hook()}]}));
    let launch = Launch { id: Some(INSTANCE.into()), ..Launch::default() };
    stage.aws.launch("compilers", &launch).unwrap();
    stage.pass(601);
    assert_eq!(stage.state(), "Terminated");
}

#[test]
fn a_pooled_instance_fires_the_launch_hook_twice() {
    let stage = stage(json!({"groups": [{"name": "compilers", "hooks": [
            {"name": "enter", "transition": "launching", "default_result": "CONTINUE"},
            {"name": "leave", "transition": "terminating", "default_result": "CONTINUE"},
        ], "warm_pool": "Stopped"}]}));
    let into_pool = Launch { id: Some(INSTANCE.into()), to: Some(Place::WarmPool), ..Launch::default() };
    let first = stage.aws.launch("compilers", &into_pool).unwrap();
    assert_eq!(stage.state(), "Warmed:Pending:Wait");
    assert_eq!(first.events[0].notification["Destination"], "WarmPool");
    stage.pass(3600);
    assert_eq!(stage.state(), "Warmed:Stopped");
    let out_of_pool = Launch { id: Some(INSTANCE.into()), ..Launch::default() };
    let second = stage.aws.launch("compilers", &out_of_pool).unwrap();
    assert_eq!(second.events[0].notification["Origin"], "WarmPool");
    assert_eq!(stage.state(), "Pending:Wait");
    stage.pass(3600);
    assert_eq!(stage.state(), "InService");
    let back = Terminate { to: Some(Place::WarmPool), ..Terminate::default() };
    let third = stage.aws.terminate(INSTANCE, &back).unwrap();
    assert_eq!(third.events[0].notification["LifecycleTransition"], "autoscaling:EC2_INSTANCE_TERMINATING");
    assert_eq!(stage.state(), "Warmed:Pending:Wait");
    stage.pass(3600);
    assert_eq!(stage.state(), "Warmed:Stopped");
}

#[test]
fn a_replaced_root_volume_is_a_stay_in_the_group_with_two_waits() {
    let stage = group_with(&json!([
        {"name": "enter", "transition": "launching", "heartbeat_timeout_s": 600, "default_result": "CONTINUE"},
        {"name": "leave", "transition": "terminating", "heartbeat_timeout_s": 600, "default_result": "ABANDON"},
    ]));
    let begun = stage.aws.replace_root_volume(INSTANCE).unwrap();
    assert_eq!(stage.state(), "ReplacingRootVolume:Wait");
    let before = &begun.events[0].eventbridge;
    assert_eq!(before["detail-type"], "EC2 Instance-terminate Lifecycle Action");
    stage.pass(600);
    assert_eq!(stage.state(), "Pending:Wait");
    assert_eq!(stage.aws.machine(INSTANCE).unwrap().root_volumes, 2);
    let after = &stage.aws.events()[1].eventbridge;
    assert_eq!(after["detail-type"], "EC2 Instance-launch Lifecycle Action");
    for event in [before, after] {
        let detail = &event["detail"];
        assert_eq!(
            (&detail["Origin"], &detail["Destination"]),
            (&json!("AutoScalingGroup"), &json!("AutoScalingGroup"))
        );
        assert_eq!(detail["Action"], "ReplaceRootVolume");
    }
    stage.pass(600);
    assert_eq!(stage.state(), "InService");
}

#[test]
fn an_instance_that_does_not_come_up_on_its_new_root_volume_is_terminated() {
    let stage = group_with(&launch_hook());
    stage.aws.replace_root_volume(INSTANCE).unwrap();
    assert_eq!(stage.state(), "Pending:Wait", "without a terminating hook there is one wait");
    assert!(stage.aws.replace_root_volume(INSTANCE).is_err());
    stage.pass(600);
    assert_eq!(stage.state(), "Terminated");
}

#[tokio::test]
async fn a_group_that_retains_keeps_an_abandoned_instance_until_it_is_terminated_again() {
    let stage = stage(json!({"groups": [{
        "name": "compilers", "hooks": terminate_hook(), "retain_on_abandon": true,
        "instances": [{"id": INSTANCE, "state": "Terminating:Wait"}],
    }]}));
    stage.complete(&[("LifecycleActionResult", "ABANDON"), ("InstanceId", INSTANCE)]).await;
    assert_eq!(stage.state(), "Terminating:Retained");
    let terminate = [
        ("Action", "TerminateInstanceInAutoScalingGroup"),
        ("InstanceId", INSTANCE),
        ("ShouldDecrementDesiredCapacity", "true"),
    ];
    assert_eq!(stage.ask("autoscaling", &terminate).await.0, 200);
    assert_eq!(stage.state(), "Terminated");
}

#[tokio::test]
async fn an_instance_proceeds_for_as_long_as_the_settings_say() {
    let stage = group_with(&terminate_hook());
    stage.aws.set(Settings { proceed_s: 10, ..Settings::default() });
    stage.aws.terminate(INSTANCE, &Terminate::default()).unwrap();
    assert_eq!(stage.continue_by_id().await.0, 200);
    assert_eq!(stage.state(), "Terminating:Proceed");
    stage.pass(10);
    assert_eq!(stage.state(), "Terminated");
}

#[test]
fn without_a_hook_nothing_waits_and_no_event_is_sent() {
    let stage = group_with(&json!([]));
    assert!(stage.aws.terminate(INSTANCE, &Terminate::default()).unwrap().events.is_empty());
    assert_eq!(stage.state(), "Terminated");
}

#[tokio::test]
async fn groups_come_in_pages_and_by_tag() {
    let group = |n: usize| json!({"name": format!("g{n:03}"), "tags": {"half": (n % 2).to_string()}});
    let stage = stage(json!({"groups": (0..120).map(group).collect::<Vec<_>>()}));
    let mut pairs = vec![
        ("Action", "DescribeAutoScalingGroups"),
        ("MaxRecords", "50"),
        ("Filters.member.1.Name", "tag:half"),
        ("Filters.member.1.Values.member.1", "1"),
    ];
    let (_, first) = stage.ask("autoscaling", &pairs).await;
    assert_eq!(first.matches("<AutoScalingGroupARN>").count(), 50);
    let token = first.split("<NextToken>").nth(1).unwrap().split('<').next().unwrap();
    pairs.push(("NextToken", token));
    let (_, second) = stage.ask("autoscaling", &pairs).await;
    assert_eq!(second.matches("<AutoScalingGroupARN>").count(), 10);
    assert!(!second.contains("<NextToken>"));
}

#[tokio::test]
async fn a_terminated_instance_keeps_its_id_for_an_hour_but_not_its_name() {
    let stage = group_with(&json!([]));
    stage.aws.terminate(INSTANCE, &Terminate::default()).unwrap();
    let describe = [("Action", "DescribeInstances"), ("InstanceId.1", INSTANCE)];
    let (status, body) = stage.ask("ec2", &describe).await;
    assert_eq!(status, 200);
    assert!(body.contains("<name>terminated</name>") && body.contains("<privateDnsName></privateDnsName>"), "{body}");
    assert!(!body.contains("privateIpAddress"), "{body}");
    stage.pass(3600);
    let (status, body) = stage.ask("ec2", &describe).await;
    assert_eq!(status, 400);
    assert!(body.contains("<Code>InvalidInstanceID.NotFound</Code>"), "{body}");
}

#[tokio::test]
async fn a_rotated_secret_has_a_previous_version() {
    let stage = stage(json!({"secrets": {"s": "old"}}));
    stage.aws.put_secret("s", "new".to_owned().into());
    let (status, current) =
        stage.send("secretsmanager", "secretsmanager.GetSecretValue", json!({"SecretId": "s"}).to_string()).await;
    assert_eq!(status, 200);
    assert!(current.contains("\"SecretString\":\"new\""), "{current}");
    let previous = json!({"SecretId": "s", "VersionStage": "AWSPREVIOUS"}).to_string();
    let (_, previous) = stage.send("secretsmanager", "secretsmanager.GetSecretValue", previous).await;
    assert!(previous.contains("\"SecretString\":\"old\""), "{previous}");
}

#[test]
fn no_text_of_a_secret_is_shown_anywhere() {
    let stage = stage(json!({"secrets": {"s": "hush-hush"}}));
    let shown = format!("{} {:?}", stage.aws.snapshot(), stage.aws);
    assert!(!shown.contains("hush-hush"));
}

#[test]
fn a_scene_with_an_instance_that_nothing_could_hold_is_refused() {
    let aws = Aws::new("eu-west-1", Clock::new());
    let scene = json!({"groups": [{"name": "g", "instances": [{"id": INSTANCE, "state": "Terminating:Wait"}]}]});
    let error = aws.set_scene(&serde_json::from_value(scene).unwrap()).unwrap_err();
    assert!(error.to_string().contains("no hook to hold it there"), "{error}");
}

#[test]
fn a_spot_instance_that_ec2_takes_back_is_gone_while_its_hook_still_waits() {
    let stage = group_with(&terminate_hook());
    stage.aws.terminate(INSTANCE, &Terminate::default()).unwrap();
    stage.pass(120);
    stage.aws.reclaim(INSTANCE).unwrap();
    assert_eq!(stage.aws.machine(INSTANCE).unwrap().state, "terminated");
    assert_eq!(stage.state(), "Terminating:Wait");
}

#[test]
fn an_action_that_times_out_is_recorded_once_and_one_that_is_completed_is_not() {
    let stage = group_with(&terminate_hook());
    stage.aws.terminate(INSTANCE, &Terminate::default()).unwrap();
    stage.pass(599);
    assert_eq!(stage.aws.timed_out(), []);
    stage.pass(1);
    for _ in 0..2 {
        assert_eq!(stage.aws.timed_out(), [(INSTANCE.to_owned(), "leave".to_owned())]);
    }
}
