"""The lab's EC2, Secrets Manager, SNS and Lambda, as boto3 sees them."""

import json
import threading
import urllib.request

import boto3
import pytest
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError
from conftest import INSTANCE, OTHER, SECRET_TEXT, TOPIC
from test_autoscaling import refused


def instances(answer):
    return [instance for reservation in answer["Reservations"] for instance in reservation["Instances"]]


def by_id(*ids):
    return [{"Name": "instance-id", "Values": list(ids)}]


class TestEc2:
    def test_an_instance_is_described(self, ec2):
        (instance,) = instances(ec2.describe_instances(InstanceIds=[INSTANCE]))
        assert instance["State"] == {"Code": 16, "Name": "running"}
        assert instance["PrivateDnsName"] == "ip-10-0-3-7.ec2.internal"
        assert instance["PrivateIpAddress"] == "10.0.3.7"
        assert instance["Placement"]["AvailabilityZone"] == "eu-west-1a"
        assert instance["LaunchTime"].tzinfo is not None
        tags = {tag["Key"]: tag["Value"] for tag in instance["Tags"]}
        assert tags == {"Name": "compiler-1", "aws:autoscaling:groupName": "compilers"}

    def test_a_name_that_is_not_given_follows_from_the_address(self, ec2):
        (instance,) = instances(ec2.describe_instances(InstanceIds=[OTHER]))
        host = instance["PrivateIpAddress"].replace(".", "-")
        assert instance["PrivateDnsName"] == f"ip-{host}.eu-west-1.compute.internal"

    def test_one_unknown_id_fails_the_whole_call(self, ec2):
        unknown = "i-0dddddddddddddddd"
        error = refused(ec2.describe_instances, InstanceIds=[INSTANCE, unknown])
        assert error == (400, "InvalidInstanceID.NotFound", f"The instance ID '{unknown}' does not exist")
        two = refused(ec2.describe_instances, InstanceIds=["i-0dddddddddddddddd", "i-0eeeeeeeeeeeeeeee"])
        assert two[2] == "The instance IDs 'i-0dddddddddddddddd, i-0eeeeeeeeeeeeeeee' do not exist"

    def test_a_filter_leaves_unknown_ids_out(self, ec2):
        found = instances(ec2.describe_instances(Filters=by_id(INSTANCE, "i-0dddddddddddddddd", "nonsense")))
        assert [instance["InstanceId"] for instance in found] == [INSTANCE]

    def test_a_malformed_id_is_an_error_of_its_own(self, ec2):
        error = refused(ec2.describe_instances, InstanceIds=["i-xyz"])
        assert error == (400, "InvalidInstanceID.Malformed", 'Invalid id: "i-xyz"')

    @pytest.mark.parametrize(
        "filters, found",
        [
            ([{"Name": "tag:Name", "Values": ["compiler-*"]}], [INSTANCE]),
            ([{"Name": "tag-key", "Values": ["Name"]}], [INSTANCE]),
            ([{"Name": "private-dns-name", "Values": ["ip-10-0-3-7.ec2.internal"]}], [INSTANCE]),
            ([{"Name": "tag:aws:autoscaling:groupName", "Values": ["compilers"]}], [INSTANCE, OTHER]),
            ([{"Name": "instance-state-name", "Values": ["terminated", "shutting-down"]}], []),
        ],
    )
    def test_instances_are_found_by_filter(self, ec2, filters, found):
        assert [instance["InstanceId"] for instance in instances(ec2.describe_instances(Filters=filters))] == found

    def test_an_unknown_filter_is_refused(self, ec2):
        error = refused(ec2.describe_instances, Filters=[{"Name": "colour", "Values": ["red"]}])
        assert error == (400, "InvalidParameterValue", "The filter 'colour' is invalid")

    def test_more_than_two_hundred_filter_values_are_refused(self, ec2):
        ids = [f"i-0{n:016x}" for n in range(201)]
        assert refused(ec2.describe_instances, Filters=by_id(*ids))[1] == "FilterLimitExceeded"
        assert instances(ec2.describe_instances(Filters=by_id(*ids[:200]))) == []

    def test_instances_come_in_pages(self, lab, ec2):
        members = [{"id": f"i-0{n:016x}"} for n in range(12)]
        lab.control("PUT", "/scene", {"groups": [{"name": "g", "instances": members}]})
        pages = list(ec2.get_paginator("describe_instances").paginate(PaginationConfig={"PageSize": 5}))
        assert [len(page["Reservations"]) for page in pages] == [5, 5, 2]
        error = refused(ec2.describe_instances, InstanceIds=[members[0]["id"]], MaxResults=5)
        assert error[1] == "InvalidParameterCombination"

    def test_a_terminated_instance_has_no_name_and_is_gone_after_an_hour(self, lab, ec2):
        lab.terminate(force=True)
        (instance,) = instances(ec2.describe_instances(InstanceIds=[INSTANCE]))
        assert instance["State"]["Name"] == "terminated"
        assert instance["PrivateDnsName"] == ""
        assert "PrivateIpAddress" not in instance
        assert instance["StateReason"]["Code"] == "Client.UserInitiatedShutdown"
        lab.pass_time(3600)
        assert refused(ec2.describe_instances, InstanceIds=[INSTANCE])[1] == "InvalidInstanceID.NotFound"
        assert instances(ec2.describe_instances(Filters=by_id(INSTANCE))) == []

    def test_a_waiting_instance_still_runs(self, lab, ec2):
        lab.terminate()
        (instance,) = instances(ec2.describe_instances(InstanceIds=[INSTANCE]))
        assert instance["State"]["Name"] == "running"


class TestSecretsManager:
    def test_the_puppet_secret_is_always_there(self, lab, client):
        secret = json.loads(client("secretsmanager").get_secret_value(SecretId="stagedoor/puppet")["SecretString"])
        assert set(secret) == {"ca_cert", "client_cert", "client_key", "rbac_token", "challenge"}
        assert secret["ca_cert"].startswith("-----BEGIN CERTIFICATE-----")
        assert all(secret.values())

    def test_a_secret_is_found_by_name_and_by_arn(self, client):
        secrets = client("secretsmanager")
        by_name = secrets.get_secret_value(SecretId="other/secret")
        assert by_name["SecretString"] == SECRET_TEXT
        assert by_name["VersionStages"] == ["AWSCURRENT"]
        assert by_name["CreatedDate"].year >= 2020
        for arn in (by_name["ARN"], by_name["ARN"].rpartition("-")[0]):
            assert secrets.get_secret_value(SecretId=arn)["Name"] == "other/secret"

    def test_a_rotated_secret_has_a_previous_version(self, lab, client):
        secrets = client("secretsmanager")
        old = secrets.get_secret_value(SecretId="other/secret")["VersionId"]
        lab.control("PUT", "/secrets/other/secret", b"new text")
        assert secrets.get_secret_value(SecretId="other/secret")["SecretString"] == "new text"
        previous = secrets.get_secret_value(SecretId="other/secret", VersionStage="AWSPREVIOUS")
        assert (previous["SecretString"], previous["VersionId"]) == (SECRET_TEXT, old)
        assert secrets.get_secret_value(SecretId="other/secret", VersionId=old)["SecretString"] == SECRET_TEXT

    def test_an_unknown_secret_is_not_found(self, client):
        secrets = client("secretsmanager")
        error = refused(secrets.get_secret_value, SecretId="none")
        assert error == (400, "ResourceNotFoundException", "Secrets Manager can't find the specified secret.")
        with pytest.raises(secrets.exceptions.ResourceNotFoundException):
            secrets.get_secret_value(SecretId="other/secret", VersionStage="AWSPENDING")

    def test_an_action_that_is_not_simulated_says_so(self, client):
        assert refused(client("secretsmanager").list_secrets)[1] == "UnknownOperationException"

    def test_no_secret_is_in_journal_or_state(self, lab, client):
        client("secretsmanager").get_secret_value(SecretId="other/secret")
        lab.control("PUT", "/secrets/other/secret", b"hush-hush")
        shown = json.dumps([lab.control("GET", "/journal"), lab.control("GET", "/state")])
        assert "battery" not in shown and "hush-hush" not in shown and "PRIVATE KEY" not in shown
        assert lab.journal("secretsmanager")[0]["subject"] == "other/secret"


class TestSns:
    def test_a_published_message_can_be_read(self, lab, client):
        answer = client("sns").publish(
            TopicArn=TOPIC,
            Subject="purged",
            Message='{"outcome": "continued & done"}',
            MessageAttributes={"outcome": {"DataType": "String", "StringValue": "continued"}},
        )
        (message,) = lab.control("GET", "/state")["aws"]["topics"][TOPIC]
        assert message["id"] == answer["MessageId"]
        assert (message["subject"], message["text"]) == ("purged", '{"outcome": "continued & done"}')
        assert message["attributes"] == {"outcome": "continued"}

    def test_an_unknown_topic_is_not_found(self, client):
        sns = client("sns")
        error = refused(sns.publish, TopicArn=TOPIC + "2", Message="x")
        assert error == (404, "NotFound", "Topic does not exist")
        with pytest.raises(sns.exceptions.NotFoundException):
            sns.publish(TopicArn=TOPIC + "2", Message="x")

    @pytest.mark.parametrize(
        "wrong",
        [
            {"TopicArn": "stagedoor", "Message": "x"},
            {"TopicArn": TOPIC, "Message": "x", "Subject": "two\nlines"},
            {"TopicArn": TOPIC, "Message": "x", "Subject": "s" * 101},
            {"TopicArn": TOPIC, "Message": "m" * 262_145},
        ],
    )
    def test_what_cannot_be_sent_is_an_invalid_parameter(self, client, wrong):
        assert refused(client("sns").publish, **wrong)[:2] == (400, "InvalidParameter")

    def test_a_batch_tells_which_messages_failed(self, lab, client):
        entries = [{"Id": "a", "Message": "one"}, {"Id": "b", "Message": "two", "Subject": "x\ny"}]
        answer = client("sns").publish_batch(TopicArn=TOPIC, PublishBatchRequestEntries=entries)
        assert [entry["Id"] for entry in answer["Successful"]] == ["a"]
        assert [(entry["Id"], entry["Code"]) for entry in answer["Failed"]] == [("b", "InvalidParameter")]
        assert len(lab.control("GET", "/state")["aws"]["topics"][TOPIC]) == 1

    def test_a_batch_has_one_to_ten_entries_with_different_ids(self, client):
        sns = client("sns")
        entries = [{"Id": str(n), "Message": "x"} for n in range(11)]
        publish = {"TopicArn": TOPIC}
        eleven = refused(sns.publish_batch, **publish, PublishBatchRequestEntries=entries)
        assert eleven[1] == "TooManyEntriesInBatchRequest"
        twice = refused(sns.publish_batch, **publish, PublishBatchRequestEntries=entries[:1] * 2)
        assert twice[1] == "BatchEntryIdsNotDistinct"


class TestUnsigned:
    @pytest.mark.parametrize(
        "service, call, code",
        [
            ("autoscaling", lambda it: it.describe_auto_scaling_groups(), "MissingAuthenticationToken"),
            ("ec2", lambda it: it.describe_instances(), "MissingParameter"),
            ("secretsmanager", lambda it: it.get_secret_value(SecretId="x"), "MissingAuthenticationTokenException"),
            ("sns", lambda it: it.publish(TopicArn=TOPIC, Message="x"), "MissingAuthenticationToken"),
        ],
    )
    def test_a_call_without_a_signature_is_refused(self, lab, service, call, code):
        config = Config(signature_version=UNSIGNED, retries={"total_max_attempts": 1})
        unsigned = boto3.client(service, endpoint_url=lab.url["aws"], region_name="eu-west-1", config=config)
        with pytest.raises(ClientError) as caught:
            call(unsigned)
        assert caught.value.response["Error"]["Code"] == code


class TestLambda:
    def runtime(self, lab, end, answer):
        """A custom runtime that serves one invocation."""
        base = lab.url["lambda"] + "/2018-06-01/runtime/invocation/"
        with urllib.request.urlopen(base + "next", timeout=20) as next_:
            request_id = next_.headers["Lambda-Runtime-Aws-Request-Id"]
            self.seen = (json.load(next_), dict(next_.headers))
        post = urllib.request.Request(base + request_id + end, data=json.dumps(answer).encode(), method="POST")
        with urllib.request.urlopen(post, timeout=20) as done:
            assert done.status == 202

    def invoke(self, lab, client, end, answer):
        runtime = threading.Thread(target=self.runtime, args=(lab, end, answer))
        runtime.start()
        reply = client("lambda").invoke(FunctionName="purge", Payload=b'{"hello": 1}')
        runtime.join(timeout=20)
        return reply, json.load(reply["Payload"])

    def test_an_invocation_reaches_a_runtime_and_comes_back(self, lab, client):
        reply, payload = self.invoke(lab, client, "/response", {"results": []})
        assert (reply["StatusCode"], reply["ExecutedVersion"], payload) == (200, "$LATEST", {"results": []})
        assert "FunctionError" not in reply
        event, headers = self.seen
        assert event == {"hello": 1}
        headers = {name.lower(): value for name, value in headers.items()}
        assert headers["lambda-runtime-invoked-function-arn"].endswith(":function:purge")
        assert int(headers["lambda-runtime-deadline-ms"]) > 1_700_000_000_000
        assert headers["lambda-runtime-trace-id"].startswith("Root=1-")

    def test_an_error_of_the_function_is_marked(self, lab, client):
        reply, payload = self.invoke(lab, client, "/error", {"errorType": "Oops", "errorMessage": "no"})
        assert (reply["StatusCode"], reply["FunctionError"], payload["errorType"]) == (200, "Unhandled", "Oops")
