"""Which events wake which function: the template's patterns against every file in events/.

Matched by moto's implementation of EventBridge patterns and of SNS filter policies: the only one on PyPI that is maintained
against AWS's behaviour and needs no Java. The patterns use what is simplest to get right, exact values and one prefix.
"""

import json

import pytest
from moto.events.models import EventPattern
from moto.sns.utils import FilterPolicyMatcher
from template import ROOT, load

EVENTS = {path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "events").glob("*.json"))}


def filled_in(value, prefix="stagedoor-"):
    """A pattern with the parameter HookPrefix in its place."""
    if value == {"Ref": "HookPrefix"}:
        return prefix
    if isinstance(value, dict):
        return {key: filled_in(inner, prefix) for key, inner in value.items()}
    if isinstance(value, list):
        return [filled_in(inner, prefix) for inner in value]
    return value


def rule(name, prefix="stagedoor-"):
    pattern = load("stagedoor")["Resources"][name]["Properties"]["EventPattern"]
    return EventPattern.load(json.dumps(filled_in(pattern, prefix)))


def subscription(name):
    properties = load("stagedoor")["Resources"][name]["Properties"]
    return FilterPolicyMatcher(filled_in(properties["FilterPolicy"]), properties["FilterPolicyScope"])


def woken(event):
    return {name for name in ("Onboard", "Purge") if rule(f"{name}Rule").matches_event(event)}


def notified(message):
    return {name for name in ("Onboard", "Purge") if subscription(f"{name}Subscription").matches({}, message)}


@pytest.mark.parametrize("name", EVENTS)
def test_the_rules_take_the_events_that_are_theirs_and_no_others(name):
    kind, _, what = name.partition("-")
    expected = set()
    # `launch-successful` is another event: the instance is in service already.
    if kind == "eventbridge" and what != "launch-successful":
        expected = {"Onboard"} if "launch" in what else {"Purge"}
    assert woken(EVENTS[name]) == expected


def test_there_are_events_for_both_rules_and_for_neither():
    assert {frozenset(woken(event)) for event in EVENTS.values()} == {
        frozenset({"Onboard"}),
        frozenset({"Purge"}),
        frozenset(),
    }


@pytest.mark.parametrize("name", [name for name in EVENTS if name.startswith("sqs-eventbridge")])
def test_what_a_rule_put_into_a_queue_is_what_it_takes(name):
    for record in EVENTS[name]["Records"]:
        assert woken(json.loads(record["body"])) == ({"Onboard"} if "launch" in name else {"Purge"})


BOTH = pytest.mark.parametrize("name", ["eventbridge-launch", "eventbridge-terminate"])


@BOTH
@pytest.mark.parametrize(
    "change",
    [
        {"LifecycleHookName": "another-tools-hook"},
        {"LifecycleHookName": "my-stagedoor-hook"},
        {"LifecycleTransition": "autoscaling:SOMETHING_ELSE"},
    ],
)
def test_another_tools_hook_or_the_wrong_transition_wakes_nobody(name, change):
    event = EVENTS[name]
    assert woken({**event, "detail": {**event["detail"], **change}}) == set()


@BOTH
def test_an_event_that_another_source_forged_wakes_nobody(name):
    assert woken({**EVENTS[name], "source": "my.application"}) == set()


def test_the_prefix_is_the_parameters():
    event = EVENTS["eventbridge-launch"]
    assert not rule("OnboardRule", prefix="door-").matches_event(event)
    event = {**event, "detail": {**event["detail"], "LifecycleHookName": "door-launch"}}
    assert rule("OnboardRule", prefix="door-").matches_event(event)


def test_the_topics_subscriptions_take_lifecycle_actions_and_not_the_test_notification():
    def message(name):
        return EVENTS[name]["Records"][0]["Sns"]["Message"]

    terminate = message("sns-terminate")
    assert notified(terminate) == {"Purge"}
    assert notified(json.dumps(EVENTS["hook-terminate"])) == {"Purge"}
    assert notified(terminate.replace("TERMINATING", "LAUNCHING")) == {"Onboard"}
    assert notified(terminate.replace("stagedoor-", "other-")) == set()
    assert notified(message("sns-test-notification")) == set()
