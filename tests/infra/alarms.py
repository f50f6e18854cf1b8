#!/usr/bin/env python3
"""Evaluates the template's alarms, as CloudWatch does, on the metrics that the sweep wrote in the end-to-end tests.

Usage: alarms.py [DIRECTORY]

The directory (without it: $STAGEDOOR_SEEN) holds DIRECTORY/metrics/SCENARIO.jsonl: one line for each sweep, a list of its documents in
CloudWatch's embedded metric format. The sweeps of a scenario count as one a minute. Which alarms must fire in which scenario is
EXPECTED; all others must not.
"""

import json
import operator
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from template import load, of_type

UNUSABLE_SECRET = {"SweepNotOkAlarm", "SecretUnreadableAlarm", "PuppetUnreachableAlarm"}
EXPECTED = {
    "healthy": set(),
    "an idle fleet": set(),
    "a CA that is being migrated": set(),
    "Auto Scaling refuses": {"SweepNotOkAlarm", "AwsUnreachableAlarm"},
    "the hooks cannot be read": {"SweepNotOkAlarm", "AwsUnreachableAlarm"},
    "EC2 refuses": {"SweepNotOkAlarm", "AwsUnreachableAlarm"},
    "Secrets Manager is down": UNUSABLE_SECRET,
    "the secret is scheduled for deletion": UNUSABLE_SECRET,
    "KMS denies the key of the secret": UNUSABLE_SECRET,
    "the secret holds no certificate": UNUSABLE_SECRET,
    "the CA is down": {"SweepNotOkAlarm", "PuppetUnreachableAlarm"},
    "the CA does not permit": {"SweepNotOkAlarm", "PuppetUnreachableAlarm"},
    "PuppetDB is down": {"SweepNotOkAlarm", "PuppetUnreachableAlarm"},
    "PuppetDB's database is down": {"SweepNotOkAlarm", "PuppetUnreachableAlarm"},
    "the orchestrator is down": {"SweepNotOkAlarm", "PuppetUnreachableAlarm"},
    "the classifier is down": {"SweepNotOkAlarm", "PuppetUnreachableAlarm"},
    "Puppet has certificates of another CA": {"SweepNotOkAlarm", "PuppetUnreachableAlarm"},
    "every launch is abandoned": {"LaunchLoopAlarm"},
}

COMPARISONS = {
    "GreaterThanThreshold": operator.gt,
    "GreaterThanOrEqualToThreshold": operator.ge,
    "LessThanThreshold": operator.lt,
    "LessThanOrEqualToThreshold": operator.le,
}
STATISTICS = {"Maximum": max, "Minimum": min, "Sum": sum}
# CloudWatch retrieves more data points than it evaluates, in its documentation five for three:
# https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/alarms-and-missing-data.html
RETRIEVED_BESIDES = 2


@dataclass(frozen=True)
class Point:
    """A value of a metric, so many minutes after the scenario began."""

    minute: float
    namespace: str
    metric: str
    dimensions: frozenset
    value: float


def points_of(minute: float, documents: list[dict]) -> list[Point]:
    """The values in what one sweep wrote, in CloudWatch's embedded metric format."""
    points = []
    for document in documents:
        for directive in document["_aws"]["CloudWatchMetrics"]:
            for names in directive["Dimensions"]:
                dimensions = frozenset((name, document[name]) for name in names)
                for metric in directive["Metrics"]:
                    name = metric["Name"]
                    points.append(Point(minute, directive["Namespace"], name, dimensions, document[name]))
    return points


def of_lambda(minute: float, function: str, errors: int = 0) -> list[Point]:
    """What Lambda itself reports of an invocation."""
    dimensions = frozenset({("FunctionName", function)})
    values = {"Invocations": 1, "Errors": errors}
    return [Point(minute, "AWS/Lambda", metric, dimensions, value) for metric, value in values.items()]


class Alarm:
    """An alarm of the template."""

    def __init__(self, template: dict, properties: dict):
        self.template, self.properties = template, properties

    def resolved(self, value):
        """The value of a reference: a function by its short name, a parameter by its default, a queue by its logical name."""
        if not isinstance(value, dict):
            return value
        ((kind, name),) = value.items()
        if kind == "Fn::GetAtt":
            return name[0]
        assert kind == "Ref", value
        if name in self.template["Parameters"]:
            return self.template["Parameters"][name]["Default"]
        return self.template["Resources"][name]["Properties"]["FunctionName"]["Fn::Sub"].removeprefix("${AWS::StackName}-")

    def statistic(self, stat: dict, points: list[Point], begin: float, end: float) -> float | None:
        """One data point of a metric, if it has values in this time."""
        metric = stat["Metric"]
        dimensions = frozenset((one["Name"], self.resolved(one["Value"])) for one in metric["Dimensions"])
        wanted = (metric["Namespace"], metric["MetricName"], dimensions)
        values = [
            one.value
            for one in points
            if (one.namespace, one.metric, one.dimensions) == wanted and begin < one.minute <= end
        ]
        return STATISTICS[stat["Stat"]](values) if values else None

    def queries(self) -> list[dict]:
        """What the alarm reads, in the form of metric math also where it reads one metric."""
        if "Metrics" in self.properties:
            return self.properties["Metrics"]
        metric = {key: self.properties[key] for key in ("Namespace", "MetricName", "Dimensions")}
        stat = {"Metric": metric, "Period": self.properties["Period"], "Stat": self.properties["Statistic"]}
        return [{"Id": "metric", "MetricStat": stat, "ReturnData": True}]

    def data_point(self, points: list[Point], now: float, age: int) -> float | None:
        """The data point that ended so many periods ago."""
        values = {}
        for query in self.queries():
            if "MetricStat" in query:
                period = query["MetricStat"]["Period"] / 60
                end = now - age * period
                values[query["Id"]] = self.statistic(query["MetricStat"], points, end - period, end)
        # Expressions may stand before those that they use.
        expressions = [query for query in self.queries() if "Expression" in query]
        for query in sorted(expressions, key=lambda query: query["ReturnData"]):
            values[query["Id"]] = calculated(query["Expression"], values)
        (returned,) = (query["Id"] for query in self.queries() if query["ReturnData"])
        return values[returned]

    def state(self, points: list[Point], now: float) -> str:
        """The state of the alarm, by CloudWatch's rules for missing data."""
        count = self.properties["EvaluationPeriods"]
        retrieved = [self.data_point(points, now, age) for age in range(count + RETRIEVED_BESIDES)]
        present = [value for value in retrieved if value is not None][:count]
        compare = COMPARISONS[self.properties["ComparisonOperator"]]
        threshold = float(self.resolved(self.properties["Threshold"]))
        breaching = sum(compare(value, threshold) for value in present)
        missing = self.properties.get("TreatMissingData", "missing")
        if not present and missing in ("missing", "ignore"):
            return "INSUFFICIENT_DATA"
        if missing == "breaching":
            breaching += count - len(present)
        return "ALARM" if breaching >= self.properties.get("DatapointsToAlarm", count) else "OK"


def calculated(expression: str, values: dict) -> float | None:
    """The value of a metric math expression, as far as the template uses it; it reads like Python."""

    def over(function):
        def result(series):
            present = [value for value in series if value is not None]
            return function(present) if present else None

        return result

    def chosen(condition, one, other):
        return one if condition else other

    functions = {"MAX": over(max), "SUM": over(sum), "IF": chosen}
    try:
        return eval(expression, {"__builtins__": {}}, {**functions, **values})  # noqa: S307 (an expression of our template)
    except TypeError:
        # An operator whose operand is missing.
        return None


def fired(template: dict, points: list[Point], now: float) -> set[str]:
    """The alarms, by logical name, that are in the state ALARM."""
    alarms = of_type(template, "AWS::CloudWatch::Alarm")
    return {name for name, one in alarms.items() if Alarm(template, one["Properties"]).state(points, now) == "ALARM"}


def recorded(file: Path) -> list[list[dict]]:
    """The sweeps of one scenario."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def fired_by(template: dict, sweeps: list[list[dict]]) -> set[str]:
    """The alarms that fire when these sweeps ran one a minute."""
    points = []
    for minute, documents in enumerate(sweeps):
        points += points_of(minute, documents) + of_lambda(minute, "sweep")
    return fired(template, points, len(sweeps) - 1)


def problems(template: dict, directory: Path) -> list[str]:
    """Where the alarms do not fire as they should."""
    found = []
    for scenario, expected in EXPECTED.items():
        file = directory / "metrics" / f"{scenario}.jsonl"
        if not file.is_file():
            found.append(f"{scenario}: no metrics were recorded, so nothing is proven")
            continue
        actual = fired_by(template, recorded(file))
        found += [f"{scenario}: {alarm} does not fire" for alarm in sorted(expected - actual)]
        found += [f"{scenario}: {alarm} fires" for alarm in sorted(actual - expected)]
    recorded_ones = {file.stem for file in (directory / "metrics").glob("*.jsonl")}
    found += [f"{scenario}: say in EXPECTED which alarms fire" for scenario in sorted(recorded_ones - EXPECTED.keys())]
    return found


def main(arguments: list[str]) -> int:
    where = arguments[0] if arguments else os.environ.get("STAGEDOOR_SEEN")
    if not where:
        print("say where the metrics are: alarms.py DIRECTORY, or STAGEDOOR_SEEN", file=sys.stderr)
        return 2
    found = problems(load("stagedoor"), Path(where))
    for problem in found:
        print(f"alarms: {problem}", file=sys.stderr)
    if not found:
        print(f"alarms: in {len(EXPECTED)} scenarios, those fire that should, and no other")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
