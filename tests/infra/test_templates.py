"""Both templates, deployed to moto's CloudFormation as far as it knows their types."""

import json
import re
import tomllib
import warnings

import botocore.session
import pytest
from botocore.validate import ParamValidator
from template import INFRA, ROOT, controller_parameters, fleet_parameters, load, of_type

# moto's CloudFormation cannot make these; cfn-lint alone holds them against AWS's schemas.
NOT_IN_MOTO = {
    "stagedoor": {
        "AWS::CloudWatch::Alarm",
        "AWS::EC2::SecurityGroupEgress",
        "AWS::Lambda::EventInvokeConfig",
        "AWS::SNS::Subscription",
        "AWS::SQS::QueuePolicy",
        "AWS::Scheduler::Schedule",
    },
    "compilers": {"AWS::AutoScaling::ScalingPolicy"},
}
# moto's CloudFormation makes every load balancer an application load balancer, which cannot have these listeners.
WRONG_IN_MOTO = {"stagedoor": set(), "compilers": {"AWS::ElasticLoadBalancingV2::Listener"}}
LEFT_OUT = {name: NOT_IN_MOTO[name] | WRONG_IN_MOTO[name] for name in NOT_IN_MOTO}


@pytest.fixture
def deploy(account):
    """Deploys a template without what moto cannot make, and returns what it made."""

    def run(name, parameters):
        template = load(name)
        missing = {key for key, one in template["Resources"].items() if one["Type"] in LEFT_OUT[name]}
        left = {key: one for key, one in template["Resources"].items() if key not in missing}
        # The dashboard lists the alarms by ARN.
        text = re.sub(r"\$\{(%s)\.Arn\}" % "|".join(missing), r"arn:\1", json.dumps({**template, "Resources": left}))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return account.deploy(name, json.loads(text), parameters)

    return run


def expected(name, *conditions):
    """The types that a template makes when just these conditions hold."""
    return {
        key: one["Type"]
        for key, one in load(name)["Resources"].items()
        if one.get("Condition", conditions[0]) in conditions and one["Type"] not in LEFT_OUT[name]
    }


@pytest.mark.parametrize("name", NOT_IN_MOTO)
def test_what_is_named_as_missing_in_moto_is_missing_there(name):
    from moto.cloudformation import models  # noqa: F401  (fills the table of types)
    from moto.cloudformation.parsing import resource_class_from_type

    types = {one["Type"] for one in load(name)["Resources"].values()}
    assert {kind for kind in types if resource_class_from_type(kind) is None} == NOT_IN_MOTO[name]


def test_the_controller_deploys_with_the_least_that_must_be_said(account, deploy):
    made = deploy("stagedoor", controller_parameters(account))
    assert made == expected("stagedoor", "UsesEventBridge", "UsesOtherEndpoints")


def test_the_controller_deploys_with_everything(account, deploy):
    key = account.client("kms").create_key()["KeyMetadata"]["Arn"]
    topic = "arn:aws:sns:eu-west-1:123456789012:alarms"
    more = dict(Wiring="both", CreateEndpoints="true", EndpointClientCidr="10.0.0.0/16", PuppetEnterprise="true")
    more |= dict(KmsKeyArn=key, SecretKmsKeyArn=key)
    made = deploy("stagedoor", controller_parameters(account, **more, AlarmTopicArn=topic, Architecture="x86_64"))
    assert made == expected("stagedoor", "UsesEventBridge", "UsesSns", "MakesEndpoints")


def test_the_functions_reach_puppet_over_ipv6_only_where_there_is_a_range_for_it(account, deploy):
    # moto's CloudFormation does not keep egress rules.
    template = load("stagedoor")
    rules = template["Resources"]["FunctionSecurityGroup"]["Properties"]["SecurityGroupEgress"]
    conditions = {
        rule["Fn::If"][1]["FromPort"]: rule["Fn::If"][0]
        for rule in rules
        if "Fn::If" in rule and "CidrIpv6" in rule["Fn::If"][1]
    }
    enterprise = dict.fromkeys((8143, 4433, 8142), "HasIpv6AndEnterprise")
    assert conditions == {8140: "HasIpv6", 8081: "HasIpv6", **enterprise}
    for function in of_type(template, "AWS::Lambda::Function").values():
        allowed = function["Properties"]["VpcConfig"]["Ipv6AllowedForDualStack"]
        assert allowed == {"Fn::If": ["HasIpv6", True, {"Ref": "AWS::NoValue"}]}
    made = deploy("stagedoor", controller_parameters(account, PuppetIpv6Cidr="2001:db8:7::/56"))
    assert made == expected("stagedoor", "UsesEventBridge", "UsesOtherEndpoints")


def test_the_functions_are_configured_with_the_text_and_the_topic(account, deploy):
    text = 'mode = "act"\n\n[puppet]\nsecret = "stagedoor/puppet"\n\n[profile.x]\ncertname = "{private_dns}"'
    deploy("stagedoor", controller_parameters(account, Configuration=text))
    for function in ("onboard", "purge", "sweep"):
        made = account.client("lambda").get_function(FunctionName=f"stagedoor-{function}")["Configuration"]
        assert made["Runtime"] == "provided.al2023"
        configuration = tomllib.loads(made["Environment"]["Variables"]["STAGEDOOR_CONFIG"])
        assert configuration["profile"]["x"]["certname"] == "{private_dns}"
        assert configuration["notify"]["topic"] == "arn:aws:sns:eu-west-1:123456789012:stagedoor-outcomes"


def test_queues_give_their_function_six_times_its_timeout_and_keep_what_fails():
    template = load("stagedoor")
    sources = of_type(template, "AWS::Lambda::EventSourceMapping")
    assert set(sources) == {"OnboardSource", "PurgeSource"}
    for source in (one["Properties"] for one in sources.values()):
        queue = template["Resources"][source["EventSourceArn"]["Fn::GetAtt"][0]]["Properties"]
        function = template["Resources"][source["FunctionName"]["Ref"]]["Properties"]
        assert queue["VisibilityTimeout"] == 6 * function["Timeout"]
        assert queue["RedrivePolicy"]["deadLetterTargetArn"]["Fn::GetAtt"][0] in template["Resources"]
        assert source["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
        assert "MaximumConcurrency" in source["ScalingConfig"]


def test_the_sweep_runs_every_minute_and_never_twice_at_a_time():
    resources = load("stagedoor")["Resources"]
    assert resources["SweepSchedule"]["Properties"]["ScheduleExpression"] == "rate(1 minute)"
    assert resources["SweepFunction"]["Properties"]["ReservedConcurrentExecutions"] == 1


@pytest.mark.parametrize(("serial", "reserved", "receives"), [("true", 1, 50), ("false", None, 5)])
def test_purges_run_one_at_a_time_where_that_is_wanted(account, deploy, serial, reserved, receives):
    deploy("stagedoor", controller_parameters(account, SerialPurge=serial, MaximumConcurrency="10"))
    function = account.client("lambda").get_function(FunctionName="stagedoor-purge")
    assert function.get("Concurrency", {}).get("ReservedConcurrentExecutions") == reserved
    sqs = account.client("sqs")
    queue = sqs.get_queue_url(QueueName="stagedoor-purge")["QueueUrl"]
    redrive = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["RedrivePolicy"])["Attributes"]["RedrivePolicy"]
    assert json.loads(redrive)["maxReceiveCount"] == receives
    # moto's CloudFormation does not keep this of the event source.
    source = load("stagedoor")["Resources"]["PurgeSource"]["Properties"]["ScalingConfig"]["MaximumConcurrency"]
    assert source == {"Fn::If": ["PurgesOneAtATime", 2, {"Ref": "MaximumConcurrency"}]}


def test_the_functions_may_only_go_out_to_puppet_and_to_endpoints():
    group = load("stagedoor")["Resources"]["FunctionSecurityGroup"]["Properties"]
    assert "SecurityGroupIngress" not in group
    rules = [rule.get("Fn::If", [None, rule])[1] for rule in group["SecurityGroupEgress"]]
    for family, parameter in (("CidrIp", "PuppetCidr"), ("CidrIpv6", "PuppetIpv6Cidr")):
        of_family = [rule for rule in rules if family in rule]
        assert sorted(rule["FromPort"] for rule in of_family) == [4433, 8081, 8140, 8142, 8143]
        assert all(rule[family] == {"Ref": parameter} and rule["FromPort"] == rule["ToPort"] for rule in of_family)
    assert len(rules) == 10


def test_endpoints_that_answer_for_the_whole_vpc_let_the_whole_vpc_in():
    template = load("stagedoor")
    endpoints = [one["Properties"] for one in of_type(template, "AWS::EC2::VPCEndpoint").values()]
    assert len(endpoints) == 4
    for endpoint in endpoints:
        assert (endpoint["PrivateDnsEnabled"], endpoint["SecurityGroupIds"]) == (True, [{"Ref": "EndpointSecurityGroup"}])
    ingress = template["Resources"]["EndpointSecurityGroup"]["Properties"]["SecurityGroupIngress"]
    assert {(rule["FromPort"], rule["ToPort"]) for rule in ingress} == {(443, 443)}
    assert {"Ref": "EndpointClientCidr"} in [rule.get("CidrIp") for rule in ingress]


@pytest.mark.parametrize(
    ("made", "clients", "accepted"),
    [("false", "", True), ("true", "", False), ("true", "10.0.0.0/16", True)],
)
def test_who_makes_endpoints_must_say_who_uses_them(made, clients, accepted):
    given = {"CreateEndpoints": made, "EndpointClientCidr": clients}

    def holds(condition):
        ((function, operands),) = condition.items()
        if function == "Fn::Not":
            return not holds(operands[0])
        assert function == "Fn::Equals"
        first, second = (given[one["Ref"]] if isinstance(one, dict) else one for one in operands)
        return first == second

    # moto does not look at rules.
    rules = load("stagedoor")["Rules"].values()
    assert accepted == all(
        holds(one["Assert"]) for rule in rules if holds(rule["RuleCondition"]) for one in rule["Assertions"]
    )


def test_every_alarm_is_on_the_dashboard_and_notifies():
    template = load("stagedoor")
    alarms = of_type(template, "AWS::CloudWatch::Alarm")
    body = template["Resources"]["Dashboard"]["Properties"]["DashboardBody"]["Fn::Sub"]
    assert set(re.findall(r"\$\{(\w+Alarm)\.Arn\}", body)) == set(alarms)
    assert all(one["Properties"]["AlarmActions"] for one in alarms.values())
    json.loads(re.sub(r"\$\{[^}]+\}", "x", body))


def widgets():
    """What the dashboard shows, with `x` for whatever the template puts in."""
    body = load("stagedoor")["Resources"]["Dashboard"]["Properties"]["DashboardBody"]["Fn::Sub"]
    return [widget["properties"] for widget in json.loads(re.sub(r"\$\{[^}]+\}", "x", body))["widgets"]]


def test_only_documented_metrics_are_read():
    text = (INFRA / "stagedoor.yaml").read_text()
    head = text[: text.index("AWSTemplateFormatVersion")]
    documented = set(re.findall(r"^#   ([A-Z]\w+) ", head, re.M))
    shown = {metric[1] for one in widgets() for metric in one.get("metrics", []) if metric[0] == "Stagedoor"}
    watched = set(re.findall(r"Namespace: Stagedoor,?\s+MetricName: (\w+)", text))
    assert shown | watched == documented
    # What the controller writes.
    controller = ROOT / "crates" / "controller" / "src"
    sources = [(controller / name).read_text() for name in ("telemetry.rs", "housekeeping.rs", "health.rs")]
    assert documented == set(re.findall(r'\("([A-Z][A-Za-z]+)", ', "\n".join(sources)))


def test_the_table_of_outcomes_shows_fields_that_the_log_has():
    (query,) = [one["query"] for one in widgets() if "query" in one]
    shown = re.search(r"fields @timestamp, (.*?) \|", query)[1].split(", ")
    telemetry = (ROOT / "crates" / "controller" / "src" / "telemetry.rs").read_text()
    logged = set.intersection(*(set(one.split(", ")) for one in re.findall(r'tracing::\w+!\((.*), "\{reason\}"\)', telemetry)))
    # The reason is the text of the log line.
    assert {field.removesuffix(" as reason") for field in shown} <= logged | {"message"}
    assert "message as reason" in shown


@pytest.mark.parametrize("name", NOT_IN_MOTO)
def test_the_template_is_small_enough_for_the_bucket_that_it_is_sent_through(name):
    # infra/deploy and the commands in docs/deployment.md upload it; sent within the call, a template may have 51,200 bytes.
    assert len((INFRA / f"{name}.yaml").read_bytes()) <= 460_800


@pytest.mark.parametrize("edition", ["pe", "open-source"])
def test_the_fleet_deploys(account, deploy, edition):
    controller = account.security_group("controller")
    made = deploy("compilers", fleet_parameters(account, Edition=edition, ControllerSecurityGroupId=controller))
    enterprise = ("IsPuppetEnterprise", "HasControllerAndBroker") if edition == "pe" else ()
    assert made == expected("compilers", "HasController", *enterprise)


def opened(account, group):
    """The ports of a security group that are open, all of them to the compilers alone."""
    groups = {one["GroupId"]: one for one in account.client("ec2").describe_security_groups()["SecurityGroups"]}
    (instances,) = (key for key, one in groups.items() if one["Description"] == "Puppet compilers")
    rules = groups[group]["IpPermissions"]
    assert all(pair["GroupId"] == instances for rule in rules for pair in rule["UserIdGroupPairs"])
    assert not any(rule["IpRanges"] or rule["FromPort"] != rule["ToPort"] for rule in rules)
    return sorted(rule["FromPort"] for rule in rules)


@pytest.mark.parametrize(
    ("edition", "ports"), [("pe", [4433, 5432, 8081, 8140, 8142, 8143]), ("open-source", [8081, 8140])]
)
def test_the_fleet_is_let_in_to_puppet_where_that_is_wanted(account, deploy, edition, ports):
    puppet = account.security_group("puppet")
    deploy("compilers", fleet_parameters(account, Edition=edition, PuppetSecurityGroupId=puppet))
    assert opened(account, puppet) == ports


def test_compilers_are_let_in_to_a_postgresql_host_of_its_own_in_place_of_the_primary(account, deploy):
    puppet, database = account.security_group("puppet"), account.security_group("database")
    groups = dict(PuppetSecurityGroupId=puppet, PostgresqlSecurityGroupId=database)
    deploy("compilers", fleet_parameters(account, **groups))
    assert opened(account, database) == [5432]
    assert opened(account, puppet) == [4433, 8081, 8140, 8142, 8143]


def test_a_restart_of_puppet_server_or_of_the_orchestrator_replaces_no_instance():
    # Connections are refused or answered with 503 for 20 s or more, and the group replaces what is unhealthy.
    resources = load("compilers")["Resources"]
    assert resources["Group"]["Properties"]["HealthCheckType"] == "ELB"
    checks = {}
    for key, group in of_type(load("compilers"), "AWS::ElasticLoadBalancingV2::TargetGroup").items():
        check = group["Properties"]
        assert check["HealthCheckIntervalSeconds"] * check["UnhealthyThresholdCount"] >= 90
        # What AWS allows of a network load balancer.
        assert 2 <= check["HealthyThresholdCount"] <= 10 and check["UnhealthyThresholdCount"] <= 10
        checks[key] = (check["HealthCheckProtocol"], check["HealthCheckPort"], check.get("HealthCheckPath"))
    # Nothing that depends on another host: an orchestrator that restarts must not have every compiler replaced.
    assert checks == {
        "PuppetTargets": ("HTTPS", "8140", "/status/v1/simple/server"),
        "BrokerTargets": ("TCP", "8142", None),
    }


def test_no_instance_starts_before_puppet_is_open_to_it():
    template = load("compilers")
    rules = of_type(template, "AWS::EC2::SecurityGroupIngress")
    awaited = {}
    for condition, references, _ in (one["Fn::If"] for one in template["Resources"]["Group"]["Metadata"].values()):
        awaited |= {one["Ref"]: condition for one in references}
    assert awaited == {
        key: rule["Condition"]
        for key, rule in rules.items()
        if rule["Properties"]["SourceSecurityGroupId"] == {"Ref": "InstanceSecurityGroup"}
    }
    assert len(awaited) == 7


def test_the_fleets_group_has_opted_in_and_has_its_hooks_from_the_start(account, deploy):
    deploy("compilers", fleet_parameters(account))
    (group,) = account.client("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
    tags = {tag["Key"]: (tag["Value"], tag["PropagateAtLaunch"]) for tag in group["Tags"]}
    assert tags["stagedoor:profile"] == ("compiler", False)
    # moto's CloudFormation makes the group without its hooks.
    hooks = load("compilers")["Resources"]["Group"]["Properties"]["LifecycleHookSpecificationList"]
    assert [(hook["LifecycleTransition"], hook["DefaultResult"]) for hook in hooks] == [
        ("autoscaling:EC2_INSTANCE_LAUNCHING", "ABANDON"),
        ("autoscaling:EC2_INSTANCE_TERMINATING", "CONTINUE"),
    ]
    assert all(hook["LifecycleHookName"]["Fn::Sub"].startswith("${HookPrefix}") for hook in hooks)


def test_the_instance_refresh_is_one_that_auto_scaling_carries_out():
    request = json.loads((INFRA / "instance-refresh.json").read_text())
    model = botocore.session.get_session().get_service_model("autoscaling").operation_model("StartInstanceRefresh")
    report = ParamValidator().validate({**request, "AutoScalingGroupName": "compilers"}, model.input_shape)
    assert not report.has_errors(), report.generate_report()
    # Without another template to go to, there is none to go back to; and what matches the template is just what is replaced.
    assert "DesiredConfiguration" not in request
    assert "AutoRollback" not in request["Preferences"]
    assert request["Preferences"]["SkipMatching"] is False


def test_instances_speak_imdsv2_only_and_may_read_the_challenge_only():
    resources = load("compilers")["Resources"]
    options = resources["LaunchTemplate"]["Properties"]["LaunchTemplateData"]["MetadataOptions"]
    assert options.pop("HttpProtocolIpv6") == {"Ref": "MetadataIpv6"}
    assert options == {"HttpEndpoint": "enabled", "HttpTokens": "required", "HttpPutResponseHopLimit": 1}
    role = resources["InstanceRole"]["Properties"]
    assert "ManagedPolicyArns" not in role
    (policy,) = role["Policies"]
    read, decrypt = policy["PolicyDocument"]["Statement"]
    assert (read["Action"], read["Resource"]) == ("secretsmanager:GetSecretValue", {"Ref": "ChallengeSecretArn"})
    condition, allowed, otherwise = decrypt["Fn::If"]
    assert (condition, allowed["Action"], otherwise) == ("HasChallengeKey", "kms:Decrypt", {"Ref": "AWS::NoValue"})
