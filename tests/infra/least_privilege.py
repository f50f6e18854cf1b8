#!/usr/bin/env python3
"""Proves least privilege: what each function was seen to call equals what its role allows its code, no more and no less.

Usage: least_privilege.py [DIRECTORY]

The directory (without it: $STAGEDOOR_SEEN) holds what the end-to-end tests saw: DIRECTORY/FUNCTION/*.json, each a list of
AWS actions such as "autoscaling:DescribeAutoScalingGroups". A function's role is compared by its inline policy `product`;
`platform` is for what Lambda needs, and may hold nothing but that.
"""

import json
import os
import sys
from pathlib import Path

from template import load, of_type

# What the Lambda service needs to run a function, take from its queue, write its log, and use keys for it. The code of the
# functions calls none of these.
PLATFORM = {
    "ec2:AssignPrivateIpAddresses",
    "ec2:CreateNetworkInterface",
    "ec2:DeleteNetworkInterface",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSubnets",
    "ec2:UnassignPrivateIpAddresses",
    "kms:Decrypt",
    "kms:GenerateDataKey",
    "logs:CreateLogStream",
    "logs:PutLogEvents",
    "sqs:DeleteMessage",
    "sqs:GetQueueAttributes",
    "sqs:ReceiveMessage",
}

# Actions that know no resource: https://docs.aws.amazon.com/service-authorization/latest/reference/
WITHOUT_RESOURCE = {
    "autoscaling:DescribeAutoScalingGroups",
    "autoscaling:DescribeLifecycleHooks",
    "autoscaling:DescribeScalingActivities",
    "autoscaling:DescribeWarmPool",
    "ec2:DescribeInstances",
}

# What every other product action must be limited to.
LIMITS = {
    "autoscaling:CompleteLifecycleAction": "opted-in groups",
    "autoscaling:RecordLifecycleActionHeartbeat": "opted-in groups",
    "secretsmanager:GetSecretValue": {"Ref": "SecretArn"},
    "sns:Publish": {"Ref": "Outcomes"},
}
GROUPS = {
    "Fn::Sub": "arn:${AWS::Partition}:autoscaling:${AWS::Region}:${AWS::AccountId}:autoScalingGroup:*:autoScalingGroupName/*"
}
OPTED_IN = {"Null": {"aws:ResourceTag/stagedoor:profile": "false"}}


def roles(template: dict) -> dict[str, dict]:
    """The properties of each function's role, by the function's short name."""
    found = {}
    for function in of_type(template, "AWS::Lambda::Function").values():
        name = function["Properties"]["FunctionName"]["Fn::Sub"].removeprefix("${AWS::StackName}-")
        found[name] = template["Resources"][function["Properties"]["Role"]["Fn::GetAtt"][0]]["Properties"]
    return found


def statements(role: dict, policy: str):
    """The statements of an inline policy, those under a condition of the template included."""
    for one in role["Policies"]:
        if one["PolicyName"] == policy:
            for statement in one["PolicyDocument"]["Statement"]:
                yield statement["Fn::If"][1] if "Fn::If" in statement else statement


def actions(statement: dict) -> set[str]:
    """What one statement is about."""
    named = statement.get("Action", [])
    return {named} if isinstance(named, str) else set(named)


def allowed(role: dict, policy: str = "product") -> set[str]:
    """The actions that an inline policy allows."""
    return {action for one in statements(role, policy) if one["Effect"] == "Allow" for action in actions(one)}


def problems_of_policies(template: dict) -> list[str]:
    """What is wrong with the roles whatever was seen: too wide a resource, a condition that is missing, a third policy."""
    problems = []
    for function, role in roles(template).items():
        if [one["PolicyName"] for one in role["Policies"]] != ["product", "platform"] or "ManagedPolicyArns" in role:
            problems.append(f"{function}: its role must have the inline policies product and platform, and nothing else")
        for action in sorted(allowed(role, "platform") - PLATFORM):
            problems.append(f"{function}: {action} is in the policy platform, but Lambda does not need it")
        for statement in statements(role, "product"):
            if statement["Effect"] != "Allow" or "NotAction" in statement or "NotResource" in statement:
                problems.append(f"{function}: the policy product may only hold Allow, Action and Resource")
            for action in sorted(actions(statement)):
                problems.extend(f"{function}: {problem}" for problem in problems_of_action(action, statement))
    return problems


def problems_of_action(action: str, statement: dict):
    """Whether one action of a product statement is limited as it must be."""
    resource, condition = statement.get("Resource"), statement.get("Condition")
    if "*" in action or "?" in action:
        yield f"{action} has a wildcard"
    elif action in WITHOUT_RESOURCE:
        return
    elif action not in LIMITS:
        yield f"{action} is not known here: say in LIMITS what it must be limited to"
    elif LIMITS[action] == "opted-in groups":
        if resource != GROUPS or condition != OPTED_IN:
            yield f"{action} must be limited to groups with the tag stagedoor:profile"
    elif resource != LIMITS[action]:
        yield f"{action} must be limited to {LIMITS[action]}"


def observed(directory: Path) -> dict[str, set[str]]:
    """What the tests saw each function call. Raises ValueError if there is nothing, or something that is no observation."""
    if not directory.is_dir():
        raise ValueError(f"{directory} does not exist: the end-to-end tests write there what each function calls")
    seen: dict[str, set[str]] = {}
    for file in sorted(directory.glob("*/*.json")):
        try:
            listed = json.loads(file.read_text())
        except ValueError as problem:
            raise ValueError(f"{file}: not JSON: {problem}") from None
        if not isinstance(listed, list) or not all(isinstance(one, str) and one.count(":") == 1 for one in listed):
            raise ValueError(f"{file}: not a list of actions such as sns:Publish")
        seen.setdefault(file.parent.name, set()).update(listed)
    if not any(seen.values()):
        raise ValueError(f"{directory} holds no observation (FUNCTION/*.json): nothing is proven")
    return seen


def differences(template: dict, seen: dict[str, set[str]]) -> list[str]:
    """Where observations and roles differ."""
    problems = []
    every = roles(template)
    for function in sorted(seen.keys() - every.keys()):
        problems.append(f"{function}: was seen, but the template has no such function")
    for function, role in every.items():
        if not seen.get(function):
            problems.append(f"{function}: nothing was seen of it, so nothing is proven")
            continue
        for action in sorted(seen[function] - allowed(role)):
            problems.append(f"{function}: calls {action}, which its role does not allow")
        for action in sorted(allowed(role) - seen[function]):
            problems.append(f"{function}: its role allows {action}, which it was never seen to call")
    return problems


def main(arguments: list[str]) -> int:
    where = arguments[0] if arguments else os.environ.get("STAGEDOOR_SEEN")
    if not where:
        print("say where the observations are: least_privilege.py DIRECTORY, or STAGEDOOR_SEEN", file=sys.stderr)
        return 2
    template = load("stagedoor")
    try:
        seen = observed(Path(where))
    except ValueError as problem:
        print(f"least privilege: {problem}", file=sys.stderr)
        return 1
    problems = problems_of_policies(template) + differences(template, seen)
    for problem in problems:
        print(f"least privilege: {problem}", file=sys.stderr)
    if not problems:
        for function, calls in sorted(seen.items()):
            print(f"least privilege: {function} calls the {len(calls)} actions that its role allows, and no other")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
