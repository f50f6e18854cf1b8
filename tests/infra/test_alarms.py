"""The alarms of the template on made-up metrics; and the evaluation of them by the examples of CloudWatch's documentation."""

import json

import alarms
import pytest
from alarms import Alarm, Point, fired, fired_by, of_lambda
from template import load, of_type

TEMPLATE = load("stagedoor")
HEALTHY = {
    "SweepOk": 1,
    "AwsReachable": 1,
    "SecretReadable": 1,
    "PuppetReachable": 1,
    "OldestWaitingSeconds": 0,
    "Failed": 0,
    "Abandoned": 0,
    "Enrolled": 0,
    "WaitingNearDeadline": 0,
    "RefreshTimedOut": 0,
}
OUTAGE = {"SweepNotOkAlarm", "AwsUnreachableAlarm", "SecretUnreadableAlarm", "PuppetUnreachableAlarm"}


def sweep(**values):
    """What a sweep writes: the healthy values, but for these."""
    values = {**HEALTHY, **values}
    metrics = [{"Name": name, "Unit": "Count"} for name in values]
    directive = {"Namespace": "Stagedoor", "Dimensions": [["Function"]], "Metrics": metrics}
    return [{"_aws": {"Timestamp": 0, "CloudWatchMetrics": [directive]}, "Function": "sweep", **values}]


def in_a_row(count, **values):
    return [sweep(**values)] * count


def test_a_healthy_hour_raises_no_alarm():
    assert fired_by(TEMPLATE, in_a_row(60, HousekeepingOk=1, CredentialDaysLeft=300, BreakerOpen=0)) == set()


def test_without_any_data_every_alarm_about_the_sweep_fires():
    assert fired(TEMPLATE, [], 60) == OUTAGE | {"SweepSilentAlarm"}


def test_a_sweep_that_runs_and_never_ends_raises_the_alarms_about_it():
    points = [point for minute in range(60) for point in of_lambda(minute, "sweep", errors=1)]
    assert fired(TEMPLATE, points, 59) == OUTAGE | {"SweepErrorsAlarm"}


@pytest.mark.parametrize("metric", ["SweepOk", "AwsReachable", "SecretReadable", "PuppetReachable"])
def test_five_failed_sweeps_in_a_row_raise_the_alarm_and_four_do_not(metric):
    alarm = {
        "SweepOk": "SweepNotOkAlarm",
        "AwsReachable": "AwsUnreachableAlarm",
        "SecretReadable": "SecretUnreadableAlarm",
        "PuppetReachable": "PuppetUnreachableAlarm",
    }[metric]
    assert fired_by(TEMPLATE, in_a_row(10) + in_a_row(4, **{metric: 0})) == set()
    assert fired_by(TEMPLATE, in_a_row(10) + in_a_row(5, **{metric: 0})) == {alarm}
    assert fired_by(TEMPLATE, in_a_row(10, **{metric: 0}) + in_a_row(1)) == set()


def test_long_sweeps_with_minutes_between_them_raise_no_alarm():
    points = [
        point
        for minute in range(0, 60, 3)
        for point in alarms.points_of(minute, sweep()) + of_lambda(minute, "sweep")
    ]
    for now in range(10, 58):
        assert fired(TEMPLATE, points, now) == set(), now


def test_failures_of_single_instances_count_when_they_last():
    assert fired_by(TEMPLATE, in_a_row(14, Failed=3)) == set()
    assert fired_by(TEMPLATE, in_a_row(15, Failed=1)) == {"SweepFailsAlarm"}


def test_an_action_that_waits_for_longer_than_any_timeout_raises_an_alarm():
    limit = TEMPLATE["Parameters"]["OldestWaitingAlarmSeconds"]["Default"]
    assert fired_by(TEMPLATE, in_a_row(10, OldestWaitingSeconds=limit)) == set()
    assert fired_by(TEMPLATE, in_a_row(10, OldestWaitingSeconds=limit + 1)) == {"OldestWaitingAlarm"}


def test_a_launch_that_goes_on_without_a_refresh_target_raises_an_alarm():
    assert fired_by(TEMPLATE, in_a_row(10) + in_a_row(1, Enrolled=1, RefreshTimedOut=1)) == {"RefreshTimedOutAlarm"}
    assert fired_by(TEMPLATE, in_a_row(1, Enrolled=1, RefreshTimedOut=1) + in_a_row(10)) == set()


def test_a_fleet_whose_every_launch_is_abandoned_raises_an_alarm_however_long_each_waits():
    # One launch at a time, each abandoned after 75 minutes.
    loop = [sweep(Abandoned=int(minute % 75 == 74)) for minute in range(360)]
    assert fired_by(TEMPLATE, loop) == {"LaunchLoopAlarm"}
    # A fleet that scales all the time, of which one launch in ten fails.
    scaling = [sweep(Enrolled=int(minute % 4 == 0), Abandoned=int(minute % 40 == 0)) for minute in range(360)]
    assert fired_by(TEMPLATE, scaling) == set()
    # Two that fail while nothing else launches.
    assert fired_by(TEMPLATE, in_a_row(2, Abandoned=1) + in_a_row(30)) == set()


def test_housekeeping_that_fails_for_an_hour_raises_an_alarm_and_one_that_is_off_does_not():
    def hour(value):
        return [sweep(**({"HousekeepingOk": value} if minute % 5 == 0 else {})) for minute in range(61)]

    assert fired_by(TEMPLATE, hour(0)) == {"HousekeepingFailsAlarm"}
    assert fired_by(TEMPLATE, hour(1)) == set()
    assert fired_by(TEMPLATE, in_a_row(61)) == set()


def test_every_alarm_can_fire():
    """An alarm that reads a metric, a dimension or a function that nothing writes would never fire."""
    function = {"SweepFunction": "sweep", "OnboardFunction": "onboard", "PurgeFunction": "purge"}
    for name, one in of_type(TEMPLATE, "AWS::CloudWatch::Alarm").items():
        alarm = Alarm(TEMPLATE, one["Properties"])
        states = set()
        for value in (0, 1, 10**6):
            points = []
            for query in alarm.queries():
                if "MetricStat" not in query:
                    continue
                metric = query["MetricStat"]["Metric"]
                dimensions = frozenset((one["Name"], alarm.resolved(one["Value"])) for one in metric["Dimensions"])
                assert all(value in function.values() or value.endswith("DeadLetters") for _, value in dimensions), name
                low = metric["MetricName"] == "Enrolled"
                for minute in range(60):
                    point = Point(minute, metric["Namespace"], metric["MetricName"], dimensions, 0 if low else value)
                    points.append(point)
            states.add(alarm.state(points, 59))
        assert states == {"OK", "ALARM"}, name


@pytest.mark.parametrize(
    ("data", "missing", "state"),
    [
        ("0-X-X", "breaching", "OK"),
        ("0----", "breaching", "OK"),
        ("-----", "breaching", "ALARM"),
        ("0XX-X", "notBreaching", "ALARM"),
        ("----X", "breaching", "ALARM"),
        ("----X", "notBreaching", "OK"),
        ("-----", "notBreaching", "OK"),
        ("-----", "missing", "INSUFFICIENT_DATA"),
    ],
)
def test_missing_data_is_treated_as_cloudwatch_documents_it(data, missing, state):
    properties = {
        "Namespace": "N",
        "MetricName": "M",
        "Dimensions": [],
        "Statistic": "Maximum",
        "Period": 300,
        "EvaluationPeriods": 3,
        "Threshold": 1,
        "ComparisonOperator": "LessThanThreshold",
        "TreatMissingData": missing,
    }
    values = {"0": 1, "X": 0}
    points = [Point(5 * at, "N", "M", frozenset(), values[one]) for at, one in enumerate(data) if one != "-"]
    assert Alarm(TEMPLATE, properties).state(points, 5 * (len(data) - 1)) == state


@pytest.fixture
def recorded(tmp_path):
    """Metrics of every scenario, such that just the expected alarms fire."""
    alarm_of = {
        "SweepNotOkAlarm": {"SweepOk": 0},
        "AwsUnreachableAlarm": {"AwsReachable": 0},
        "SecretUnreadableAlarm": {"SecretReadable": 0},
        "PuppetUnreachableAlarm": {"PuppetReachable": 0},
        "LaunchLoopAlarm": {"Abandoned": 1},
    }
    (tmp_path / "metrics").mkdir()
    for scenario, expected in alarms.EXPECTED.items():
        values = {key: value for alarm in expected for key, value in alarm_of[alarm].items()}
        lines = [json.dumps(one) for one in in_a_row(5, **values)]
        (tmp_path / "metrics" / f"{scenario}.jsonl").write_text("\n".join(lines))
    return tmp_path


def test_metrics_that_raise_the_expected_alarms_are_no_problem(recorded, capsys, monkeypatch):
    assert alarms.main([str(recorded)]) == 0
    monkeypatch.setenv("STAGEDOOR_SEEN", str(recorded))
    assert alarms.main([]) == 0
    assert "no other" in capsys.readouterr().out


def test_an_alarm_that_does_not_fire_or_fires_for_nothing_is_a_problem(recorded):
    silent = load("stagedoor")
    silent["Resources"]["PuppetUnreachableAlarm"]["Properties"]["MetricName"] = "PuppetReachible"
    silent["Resources"]["PuppetUnreachableAlarm"]["Properties"]["TreatMissingData"] = "notBreaching"
    assert "the CA is down: PuppetUnreachableAlarm does not fire" in alarms.problems(silent, recorded)
    noisy = load("stagedoor")
    noisy["Resources"]["AwsUnreachableAlarm"]["Properties"]["Threshold"] = 2
    assert "healthy: AwsUnreachableAlarm fires" in alarms.problems(noisy, recorded)


def test_a_scenario_without_metrics_or_without_expectation_is_a_problem(recorded, capsys):
    (recorded / "metrics" / "healthy.jsonl").rename(recorded / "metrics" / "something else.jsonl")
    assert alarms.main([str(recorded)]) == 1
    said = capsys.readouterr().err
    assert "healthy: no metrics were recorded" in said and "something else: say in EXPECTED" in said


def test_it_says_what_it_needs(monkeypatch):
    monkeypatch.delenv("STAGEDOOR_SEEN", raising=False)
    assert alarms.main([]) == 2
