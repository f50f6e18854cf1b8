"""The proof of least privilege can fail: tried with made-up observations."""

import copy
import json

import least_privilege
import pytest
from template import load

COMMON = {
    "autoscaling:CompleteLifecycleAction",
    "autoscaling:DescribeAutoScalingGroups",
    "autoscaling:DescribeLifecycleHooks",
    "autoscaling:DescribeScalingActivities",
    "autoscaling:DescribeWarmPool",
    "ec2:DescribeInstances",
    "secretsmanager:GetSecretValue",
    "sns:Publish",
}
HEARTBEAT = "autoscaling:RecordLifecycleActionHeartbeat"
SEEN = {"onboard": COMMON | {HEARTBEAT}, "purge": COMMON | {HEARTBEAT}, "sweep": COMMON | {HEARTBEAT}}
TEMPLATE = load("stagedoor")


@pytest.fixture
def seen(tmp_path):
    """Writes observations as the end-to-end tests do: several files for each function."""

    def write(observations=SEEN):
        for function, actions in observations.items():
            (tmp_path / function).mkdir()
            for number, some in enumerate((sorted(actions)[::2], sorted(actions)[1::2])):
                (tmp_path / function / f"{number}.json").write_text(json.dumps(some))
        return tmp_path

    return write


def statement(template, function, action):
    """The product statement of a function that holds an action."""
    role = least_privilege.roles(template)[function]
    return next(one for one in least_privilege.statements(role, "product") if action in least_privilege.actions(one))


def test_the_roles_are_limited_as_they_must_be():
    assert least_privilege.problems_of_policies(TEMPLATE) == []


def test_there_is_a_role_for_each_function_and_none_shared():
    roles = least_privilege.roles(TEMPLATE)
    assert set(roles) == set(SEEN)
    assert len({id(role) for role in roles.values()}) == len(SEEN)


def test_observations_that_equal_the_roles_pass(seen, capsys):
    assert least_privilege.main([str(seen())]) == 0
    assert "purge calls the 9 actions that its role allows" in capsys.readouterr().out


def test_the_directory_may_come_from_the_environment(seen, monkeypatch):
    monkeypatch.setenv("STAGEDOOR_SEEN", str(seen()))
    assert least_privilege.main([]) == 0


@pytest.mark.parametrize(("function", "action"), [(name, action) for name in SEEN for action in sorted(SEEN[name])])
def test_an_action_that_is_taken_from_a_role_fails(function, action):
    template = copy.deepcopy(TEMPLATE)
    one = statement(template, function, action)
    one["Action"] = sorted(least_privilege.actions(one) - {action})
    assert least_privilege.differences(template, SEEN) == [
        f"{function}: calls {action}, which its role does not allow"
    ]


@pytest.mark.parametrize("function", SEEN)
def test_an_action_that_is_added_to_a_role_fails(function):
    template = copy.deepcopy(TEMPLATE)
    one = statement(template, function, "ec2:DescribeInstances")
    one["Action"].append("ec2:TerminateInstances")
    assert least_privilege.differences(template, SEEN) == [
        f"{function}: its role allows ec2:TerminateInstances, which it was never seen to call"
    ]


def test_a_call_that_no_role_allows_fails(seen, capsys):
    assert least_privilege.main([str(seen({**SEEN, "purge": SEEN["purge"] | {"autoscaling:SetDesiredCapacity"}}))]) == 1
    assert "purge: calls autoscaling:SetDesiredCapacity, which its role does not allow" in capsys.readouterr().err


def test_a_function_of_which_nothing_was_seen_fails(seen, capsys):
    assert least_privilege.main([str(seen({"purge": COMMON}))]) == 1
    assert "sweep: nothing was seen of it" in capsys.readouterr().err


def test_a_function_that_is_not_in_the_template_fails(seen, capsys):
    assert least_privilege.main([str(seen({**SEEN, "doctor": COMMON}))]) == 1
    assert "doctor: was seen, but the template has no such function" in capsys.readouterr().err


def test_no_directory_and_an_empty_one_fail_clearly(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("STAGEDOOR_SEEN", raising=False)
    assert least_privilege.main([]) == 2
    assert least_privilege.main([str(tmp_path / "nowhere")]) == 1
    assert "nowhere does not exist" in capsys.readouterr().err
    (tmp_path / "purge").mkdir()
    assert least_privilege.main([str(tmp_path)]) == 1
    assert "holds no observation" in capsys.readouterr().err
    (tmp_path / "purge" / "1.json").write_text("[]")
    assert least_privilege.main([str(tmp_path)]) == 1


@pytest.mark.parametrize("text", ["{", '{"a": 1}', '["DescribeInstances"]', "[1]"])
def test_a_file_that_is_no_observation_fails(tmp_path, capsys, text):
    (tmp_path / "purge").mkdir()
    (tmp_path / "purge" / "1.json").write_text(text)
    assert least_privilege.main([str(tmp_path)]) == 1
    assert "purge/1.json: not" in capsys.readouterr().err


WIDENINGS = {
    "no condition": ("autoscaling:CompleteLifecycleAction", lambda one: one.pop("Condition")),
    "another tag": (
        "autoscaling:CompleteLifecycleAction",
        lambda one: one.update(Condition={"Null": {"aws:ResourceTag/Name": "false"}}),
    ),
    "the tag must be missing": (
        "autoscaling:CompleteLifecycleAction",
        lambda one: one.update(Condition={"Null": {"aws:ResourceTag/stagedoor:profile": "true"}}),
    ),
    "any secret": ("secretsmanager:GetSecretValue", lambda one: one.update(Resource="*")),
    "any topic": ("sns:Publish", lambda one: one.update(Resource="*")),
    "a wildcard": ("ec2:DescribeInstances", lambda one: one["Action"].append("ec2:Describe*")),
    "an action nobody has thought about": (
        "ec2:DescribeInstances",
        lambda one: one["Action"].append("ec2:TerminateInstances"),
    ),
}


@pytest.mark.parametrize("widening", WIDENINGS)
def test_a_statement_that_is_wider_than_it_must_be_fails(widening):
    action, widen = WIDENINGS[widening]
    template = copy.deepcopy(TEMPLATE)
    widen(statement(template, "purge", action))
    problems = least_privilege.problems_of_policies(template)
    # One for each action of the statement.
    assert problems
    assert all(problem.startswith("purge: ") for problem in problems)


def test_the_policy_for_the_platform_is_no_way_round(capsys):
    template = copy.deepcopy(TEMPLATE)
    platform = least_privilege.roles(template)["sweep"]["Policies"][1]
    platform["PolicyDocument"]["Statement"][0]["Action"].append("ec2:TerminateInstances")
    (problem,) = least_privilege.problems_of_policies(template)
    assert "ec2:TerminateInstances is in the policy platform" in problem


def test_a_third_policy_fails():
    template = copy.deepcopy(TEMPLATE)
    least_privilege.roles(template)["sweep"]["ManagedPolicyArns"] = ["arn:aws:iam::aws:policy/AdministratorAccess"]
    (problem,) = least_privilege.problems_of_policies(template)
    assert "product and platform, and nothing else" in problem
