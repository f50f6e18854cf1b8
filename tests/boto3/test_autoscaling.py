"""The lab's Auto Scaling, as boto3 sees it."""

import uuid
from datetime import datetime, timezone

import boto3
import pytest
from botocore.exceptions import ClientError, HTTPClientError
from conftest import INSTANCE, OTHER, scene

HOOK = {"AutoScalingGroupName": "compilers", "LifecycleHookName": "stagedoor-terminate"}


def state(autoscaling, instance=INSTANCE):
    found = autoscaling.describe_auto_scaling_instances(InstanceIds=[instance])["AutoScalingInstances"]
    return found[0]["LifecycleState"] if found else None


def refused(call, **parameters):
    """The error of a call: status, code, message."""
    with pytest.raises(ClientError) as caught:
        call(**parameters)
    response = caught.value.response
    assert response["ResponseMetadata"]["RequestId"]
    error = response["Error"]
    return response["ResponseMetadata"]["HTTPStatusCode"], error["Code"], error["Message"]


def test_a_group_is_described_with_tags_and_instances(autoscaling):
    answer = autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=["compilers"])
    (group,) = answer["AutoScalingGroups"]
    assert "NextToken" not in answer
    assert {tag["Key"]: tag["Value"] for tag in group["Tags"]} == {
        "stagedoor:profile": "compiler",
        "Name": "a<b>&c",
    }
    assert all(tag["ResourceId"] == "compilers" for tag in group["Tags"])
    assert [instance["InstanceId"] for instance in group["Instances"]] == [INSTANCE, OTHER]
    assert {instance["LifecycleState"] for instance in group["Instances"]} == {"InService"}
    assert group["Instances"][0]["AvailabilityZone"] == "eu-west-1a"
    assert group["DesiredCapacity"] == 2
    assert group["CreatedTime"].tzinfo is not None
    assert answer["ResponseMetadata"]["RequestId"]


def test_the_warm_pool_is_described_apart_from_its_group(lab, autoscaling):
    arranged = scene()
    arranged["groups"][0]["warm_pool"] = "Stopped"
    arranged["groups"][0]["instances"][1]["state"] = "Warmed:Stopped"
    lab.control("PUT", "/scene", arranged)
    (group,) = autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=["compilers"])["AutoScalingGroups"]
    assert [instance["InstanceId"] for instance in group["Instances"]] == [INSTANCE]
    assert (group["WarmPoolConfiguration"]["PoolState"], group["WarmPoolSize"]) == ("Stopped", 1)
    pages = autoscaling.get_paginator("describe_warm_pool").paginate(AutoScalingGroupName="compilers")
    pooled = [(one["InstanceId"], one["LifecycleState"]) for page in pages for one in page["Instances"]]
    assert pooled == [(OTHER, "Warmed:Stopped")]
    assert refused(autoscaling.describe_warm_pool, AutoScalingGroupName="none")[:2] == (400, "ValidationError")


def test_an_unknown_group_is_an_empty_list(autoscaling):
    assert autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=["none"])["AutoScalingGroups"] == []


@pytest.mark.parametrize(
    "filters, names",
    [
        ([{"Name": "tag-key", "Values": ["stagedoor:profile"]}], ["compilers"]),
        ([{"Name": "tag:stagedoor:profile", "Values": ["web", "compiler"]}], ["compilers"]),
        ([{"Name": "tag:stagedoor:profile", "Values": ["web"]}], []),
        ([{"Name": "tag-key", "Values": ["Name"]}, {"Name": "tag-value", "Values": ["compiler"]}], ["compilers"]),
        ([], ["compilers", "foreign"]),
    ],
)
def test_groups_are_found_by_tag(autoscaling, filters, names):
    found = autoscaling.describe_auto_scaling_groups(Filters=filters)["AutoScalingGroups"]
    assert [group["AutoScalingGroupName"] for group in found] == names


def test_groups_come_in_pages_that_botocore_follows(lab, autoscaling):
    lab.control("PUT", "/scene", {"groups": [{"name": f"g{n:03}"} for n in range(130)]})
    pages = list(autoscaling.get_paginator("describe_auto_scaling_groups").paginate(PaginationConfig={"PageSize": 100}))
    assert [len(page["AutoScalingGroups"]) for page in pages] == [100, 30]
    names = {group["AutoScalingGroupName"] for page in pages for group in page["AutoScalingGroups"]}
    assert len(names) == 130
    assert len(autoscaling.describe_auto_scaling_groups()["AutoScalingGroups"]) == 50


def test_more_than_a_hundred_groups_at_once_are_refused(autoscaling):
    status, code, message = refused(autoscaling.describe_auto_scaling_groups, MaxRecords=101)
    assert (status, code) == (400, "ValidationError")
    assert "less than or equal to 100" in message


def test_a_made_up_page_token_is_refused(autoscaling):
    status, code, _ = refused(autoscaling.describe_auto_scaling_groups, NextToken="made-up")
    assert (status, code) == (400, "InvalidNextToken")
    with pytest.raises(autoscaling.exceptions.InvalidNextToken):
        autoscaling.describe_auto_scaling_groups(NextToken="made-up")


def test_unknown_instances_are_left_out(autoscaling):
    answer = autoscaling.describe_auto_scaling_instances(InstanceIds=[INSTANCE, "i-0dddddddddddddddd"])
    (instance,) = answer["AutoScalingInstances"]
    assert (instance["InstanceId"], instance["AutoScalingGroupName"]) == (INSTANCE, "compilers")


def test_at_most_fifty_instances_are_asked_for_at_once(autoscaling):
    ids = [f"i-0{n:016x}" for n in range(51)]
    assert refused(autoscaling.describe_auto_scaling_instances, InstanceIds=ids)[:2] == (400, "ValidationError")
    assert autoscaling.describe_auto_scaling_instances(InstanceIds=ids[:50])["AutoScalingInstances"] == []


def test_hooks_tell_their_timeouts(autoscaling):
    hooks = autoscaling.describe_lifecycle_hooks(AutoScalingGroupName="compilers")["LifecycleHooks"]
    by_name = {hook["LifecycleHookName"]: hook for hook in hooks}
    leave, enter = by_name["stagedoor-terminate"], by_name["stagedoor-launch"]
    assert leave["LifecycleTransition"] == "autoscaling:EC2_INSTANCE_TERMINATING"
    assert (leave["HeartbeatTimeout"], leave["GlobalTimeout"], leave["DefaultResult"]) == (600, 60_000, "CONTINUE")
    assert leave["NotificationMetadata"] == '{"profile": "compiler"}'
    assert (enter["HeartbeatTimeout"], enter["GlobalTimeout"], enter["DefaultResult"]) == (7200, 172_800, "ABANDON")
    assert "NotificationMetadata" not in enter
    one = autoscaling.describe_lifecycle_hooks(AutoScalingGroupName="compilers", LifecycleHookNames=["stagedoor-launch"])
    assert len(one["LifecycleHooks"]) == 1


def test_hooks_of_an_unknown_group_are_an_error(autoscaling):
    error = refused(autoscaling.describe_lifecycle_hooks, AutoScalingGroupName="none")
    assert error == (400, "ValidationError", "AutoScalingGroup name not found - null")


def test_an_activity_tells_since_when_an_instance_leaves(lab, autoscaling):
    lab.terminate()
    (activity,) = autoscaling.describe_scaling_activities(AutoScalingGroupName="compilers")["Activities"]
    assert activity["Description"] == f"Terminating EC2 instance: {INSTANCE}"
    assert activity["StatusCode"] == "MidLifecycleAction"
    assert abs((activity["StartTime"] - datetime.now(timezone.utc)).total_seconds()) < 10**9
    assert "EndTime" not in activity
    autoscaling.complete_lifecycle_action(**HOOK, InstanceId=INSTANCE, LifecycleActionResult="CONTINUE")
    (activity,) = autoscaling.describe_scaling_activities(AutoScalingGroupName="compilers")["Activities"]
    assert (activity["StatusCode"], activity["Progress"]) == ("Successful", 100)
    assert activity["EndTime"] >= activity["StartTime"]


def test_activities_come_in_pages_the_newest_first(lab, autoscaling):
    lab.terminate(INSTANCE)
    lab.terminate(OTHER)
    pages = autoscaling.get_paginator("describe_scaling_activities").paginate(
        AutoScalingGroupName="compilers", PaginationConfig={"PageSize": 1}
    )
    assert [page["Activities"][0]["Description"][-19:] for page in pages] == [OTHER, INSTANCE]


def test_an_action_is_completed_by_its_token(lab, autoscaling):
    (event,) = lab.terminate()
    token = event["eventbridge"]["detail"]["LifecycleActionToken"]
    assert state(autoscaling) == "Terminating:Wait"
    autoscaling.complete_lifecycle_action(**HOOK, LifecycleActionToken=token, LifecycleActionResult="CONTINUE")
    assert state(autoscaling) is None
    (group,) = autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=["compilers"])["AutoScalingGroups"]
    assert [instance["InstanceId"] for instance in group["Instances"]] == [OTHER]


def test_an_action_is_completed_by_its_instance(lab, autoscaling):
    lab.terminate()
    autoscaling.complete_lifecycle_action(**HOOK, InstanceId=INSTANCE, LifecycleActionResult="ABANDON")
    assert state(autoscaling) is None
    completed = [entry for entry in lab.journal("autoscaling") if entry["call"] == "CompleteLifecycleAction"]
    assert [entry["subject"] for entry in completed] == [INSTANCE]


def test_no_active_action_is_said_in_two_ways(lab, autoscaling):
    token = str(uuid.uuid4())
    result = {"LifecycleActionResult": "CONTINUE"}
    by_token = refused(autoscaling.complete_lifecycle_action, **HOOK, **result, LifecycleActionToken=token)
    assert by_token == (400, "ValidationError", f"No active Lifecycle Action found with token {token}")
    by_instance = refused(autoscaling.complete_lifecycle_action, **HOOK, **result, InstanceId=INSTANCE)
    assert by_instance == (400, "ValidationError", f"No active Lifecycle Action found with instance ID {INSTANCE}")
    beat = refused(autoscaling.record_lifecycle_action_heartbeat, **HOOK, InstanceId=INSTANCE)
    assert beat == by_instance


def test_another_hook_or_group_does_not_complete_the_action(lab, autoscaling):
    (event,) = lab.terminate()
    token = event["notification"]["LifecycleActionToken"]
    result = {"LifecycleActionResult": "CONTINUE", "LifecycleActionToken": token}
    other_hook = {**HOOK, "LifecycleHookName": "stagedoor-launch"}
    other_group = {**HOOK, "AutoScalingGroupName": "foreign"}
    for wrong in (other_hook, other_group):
        status, code, message = refused(autoscaling.complete_lifecycle_action, **wrong, **result)
        assert (status, code, message) == (400, "ValidationError", f"No active Lifecycle Action found with token {token}")
    assert state(autoscaling) == "Terminating:Wait"


def test_neither_token_nor_instance_is_an_error(autoscaling):
    assert refused(autoscaling.complete_lifecycle_action, **HOOK, LifecycleActionResult="CONTINUE")[1] == "ValidationError"


def test_a_result_is_continue_or_abandon(lab, autoscaling):
    lab.terminate()
    wrong = refused(
        autoscaling.complete_lifecycle_action, **HOOK, InstanceId=INSTANCE, LifecycleActionResult="PROCEED"
    )
    assert wrong[:2] == (400, "ValidationError")
    assert state(autoscaling) == "Terminating:Wait"


def test_a_fresh_action_can_be_invisible_for_some_calls(lab, autoscaling):
    lab.control("PUT", "/settings", {"race_calls": 1})
    lab.terminate()
    complete = {**HOOK, "InstanceId": INSTANCE, "LifecycleActionResult": "CONTINUE"}
    assert "No active Lifecycle Action" in refused(autoscaling.complete_lifecycle_action, **complete)[2]
    assert state(autoscaling) == "Terminating:Wait"
    autoscaling.complete_lifecycle_action(**complete)
    assert state(autoscaling) is None


def test_heartbeats_hold_an_instance_until_they_stop(lab, autoscaling):
    lab.terminate()
    lab.pass_time(500)
    autoscaling.record_lifecycle_action_heartbeat(**HOOK, InstanceId=INSTANCE)
    lab.pass_time(500)
    assert state(autoscaling) == "Terminating:Wait"
    lab.pass_time(200)
    assert state(autoscaling) is None


def test_a_launch_that_is_abandoned_leads_to_termination(lab, autoscaling):
    begun = lab.control("POST", "/groups/compilers/launch", {})
    new = begun["instance_id"]
    assert state(autoscaling, new) == "Pending:Wait"
    autoscaling.complete_lifecycle_action(
        AutoScalingGroupName="compilers",
        LifecycleHookName="stagedoor-launch",
        InstanceId=new,
        LifecycleActionResult="ABANDON",
    )
    assert state(autoscaling, new) == "Terminating:Wait"


def test_a_proceeding_instance_is_shown_as_such(lab, autoscaling):
    lab.control("PUT", "/settings", {"proceed_s": 60})
    lab.terminate()
    autoscaling.complete_lifecycle_action(**HOOK, InstanceId=INSTANCE, LifecycleActionResult="CONTINUE")
    assert state(autoscaling) == "Terminating:Proceed"


def test_tags_are_described(autoscaling):
    filters = [{"Name": "key", "Values": ["stagedoor:profile"]}]
    (tag,) = autoscaling.describe_tags(Filters=filters)["Tags"]
    assert (tag["ResourceId"], tag["Value"], tag["PropagateAtLaunch"]) == ("compilers", "compiler", True)
    error = refused(autoscaling.describe_tags, Filters=[{"Name": "colour", "Values": ["red"]}])
    assert error[:2] == (400, "ValidationError")


def test_an_instance_is_terminated_through_the_api(lab, autoscaling):
    answer = autoscaling.terminate_instance_in_auto_scaling_group(
        InstanceId=INSTANCE, ShouldDecrementDesiredCapacity=True
    )
    assert answer["Activity"]["Description"] == f"Terminating EC2 instance: {INSTANCE}"
    assert state(autoscaling) == "Terminating:Wait"
    (event,) = lab.control("GET", "/events")["events"]
    assert event["eventbridge"]["detail"]["EC2InstanceId"] == INSTANCE


def test_an_instance_of_no_group_is_not_terminated(autoscaling):
    error = refused(
        autoscaling.terminate_instance_in_auto_scaling_group,
        InstanceId="i-0dddddddddddddddd",
        ShouldDecrementDesiredCapacity=True,
    )
    assert error[:2] == (400, "ValidationError")


def test_throttling_says_rate_exceeded_until_time_passes(lab, autoscaling):
    lab.control("PUT", "/settings", {"throttle": {"burst": 2, "per_second": 0.001}})
    autoscaling.describe_auto_scaling_groups()
    autoscaling.describe_lifecycle_hooks(AutoScalingGroupName="compilers")
    assert refused(autoscaling.describe_auto_scaling_groups) == (400, "Throttling", "Rate exceeded")
    lab.pass_time(1000)
    autoscaling.describe_auto_scaling_groups()


def error_document(code, message, kind="Sender"):
    return (
        '<ErrorResponse xmlns="http://autoscaling.amazonaws.com/doc/2011-01-01/"><Error>'
        f"<Type>{kind}</Type><Code>{code}</Code><Message>{message}</Message></Error>"
        f"<RequestId>{uuid.uuid4()}</RequestId></ErrorResponse>"
    )


def test_resource_contention_is_a_fault_that_hits_once(lab, autoscaling):
    lab.terminate()
    body = error_document("ResourceContention", "You already have a pending update", "Receiver")
    kind = {"kind": "status", "status": 500, "body": body, "content_type": "text/xml"}
    lab.fault("autoscaling", "CompleteLifecycleAction", kind, nth=1, subject=INSTANCE)
    complete = {**HOOK, "InstanceId": INSTANCE, "LifecycleActionResult": "CONTINUE"}
    with pytest.raises(autoscaling.exceptions.ResourceContentionFault):
        autoscaling.complete_lifecycle_action(**complete)
    assert state(autoscaling) == "Terminating:Wait"
    autoscaling.complete_lifecycle_action(**complete)


def test_botocore_retries_a_throttling_fault_by_itself(lab):
    kind = {"kind": "status", "status": 400, "body": error_document("Throttling", "Rate exceeded")}
    lab.fault("autoscaling", "Describe*", kind, nth=1)
    retrying = boto3.client(
        "autoscaling",
        endpoint_url=lab.url["aws"],
        region_name="eu-west-1",
        aws_access_key_id="AKIALABLABLABLABLABL",
        aws_secret_access_key="not-a-secret",
    )
    assert retrying.describe_auto_scaling_groups()["AutoScalingGroups"]
    assert [entry["status"] for entry in lab.journal("autoscaling")] == [400, 200]


def test_a_cut_connection_has_done_its_work(lab, autoscaling):
    lab.terminate()
    lab.fault("autoscaling", "CompleteLifecycleAction", {"kind": "cut"})
    with pytest.raises(HTTPClientError):
        autoscaling.complete_lifecycle_action(**HOOK, InstanceId=INSTANCE, LifecycleActionResult="CONTINUE")
    assert state(autoscaling) is None
    assert lab.journal("autoscaling")[0]["status"] is None


def test_a_reset_connection_has_not(lab, autoscaling):
    lab.terminate()
    lab.fault("autoscaling", "CompleteLifecycleAction", {"kind": "reset"})
    with pytest.raises(HTTPClientError):
        autoscaling.complete_lifecycle_action(**HOOK, InstanceId=INSTANCE, LifecycleActionResult="CONTINUE")
    assert state(autoscaling) == "Terminating:Wait"


def test_an_action_that_is_not_simulated_says_so(autoscaling):
    assert refused(autoscaling.describe_policies)[1] == "InvalidAction"


def test_events_have_the_fields_of_aws(lab):
    (event,) = lab.terminate(tokens={"stagedoor-terminate": "8dfe0d40-1fd2-4ac5-9c7a-f1e0d8e5a001"})
    eventbridge, notification = event["eventbridge"], event["notification"]
    assert eventbridge["detail-type"] == "EC2 Instance-terminate Lifecycle Action"
    assert eventbridge["source"] == "aws.autoscaling"
    assert eventbridge["resources"][0].endswith(":autoScalingGroupName/compilers")
    expected = {
        "LifecycleActionToken": "8dfe0d40-1fd2-4ac5-9c7a-f1e0d8e5a001",
        "AutoScalingGroupName": "compilers",
        "LifecycleHookName": "stagedoor-terminate",
        "EC2InstanceId": INSTANCE,
        "LifecycleTransition": "autoscaling:EC2_INSTANCE_TERMINATING",
        "NotificationMetadata": '{"profile": "compiler"}',
        "Origin": "AutoScalingGroup",
        "Destination": "EC2",
    }
    assert eventbridge["detail"] == expected
    assert notification.items() >= expected.items()
    assert set(notification) - set(expected) == {"AccountId", "RequestId", "Service", "Time"}
