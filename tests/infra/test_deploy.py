"""infra/deploy and infra/package, against moto and a cargo that builds nothing."""

import datetime
import importlib.util
import json
import os
import re
import subprocess
import tomllib
import urllib.parse
import warnings
from importlib.machinery import SourceFileLoader

import boto3
import pytest
from botocore.exceptions import WaiterError
from template import INFRA, ROOT, controller_parameters, load, of_type
from test_templates import LEFT_OUT

_spec = importlib.util.spec_from_loader("deploy", SourceFileLoader("deploy", str(INFRA / "deploy")))
deploy = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(deploy)

CONFIGURATION = """
[puppet]
secret = "stagedoor/puppet"
[profile.compiler]
certname = "{private_dns}"
"""


@pytest.fixture
def operator(account, tmp_path, monkeypatch, capsys):
    """An operator with packages, settings and a configuration, who calls infra/deploy."""
    # moto cannot make the whole template (see test_templates); what it is about here are the steps.
    template = load("stagedoor")
    kept = ("FunctionSecurityGroup", "Outcomes", "PurgeFunction", "PurgeRole", "PurgeLog", "PurgeQueue", "PurgeDeadLetters")
    template["Resources"] = {name: template["Resources"][name] for name in kept}
    template["Outputs"] = {"OutcomesTopicArn": template["Outputs"]["OutcomesTopicArn"]}
    (tmp_path / "stagedoor.yaml").write_text(json.dumps(template))
    monkeypatch.setattr(deploy, "INFRA", tmp_path)
    # moto is done at once; what it is not done with at once is a mistake.
    for wait in ("CHANGE_SET_WAIT", "STACK_WAIT"):
        monkeypatch.setattr(deploy, wait, {"Delay": 0, "MaxAttempts": 2})
    assert not {template["Resources"][name]["Type"] for name in kept} & LEFT_OUT["stagedoor"]

    class Operator:
        settings = {
            key: value
            for key, value in controller_parameters(account).items()
            if key not in ("CodeBucket", "CodePrefix", "Configuration")
        }
        configuration = CONFIGURATION

        def packages(self, text="one", size=10):
            for architecture in ("arm64", "x86_64"):
                directory = tmp_path / "lambda" / architecture
                directory.mkdir(parents=True, exist_ok=True)
                for name in deploy.FUNCTIONS:
                    (directory / f"{name}.zip").write_text(f"{architecture} {name} {text}" + "." * size)

        def run(self, *more, answer="y"):
            (tmp_path / "settings.json").write_text(json.dumps(self.settings))
            (tmp_path / "stagedoor.toml").write_text(self.configuration)
            monkeypatch.setattr("builtins.input", lambda _: answer)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                code = deploy.main(
                    ["controller", "--bucket", "deployments", "--settings", str(tmp_path / "settings.json")]
                    + ["--configuration", str(tmp_path / "stagedoor.toml"), "--packages", str(tmp_path / "lambda"), *more]
                )
            self.said = capsys.readouterr()
            return code

        def parameter(self, key):
            (stack,) = boto3.client("cloudformation").describe_stacks(StackName="stagedoor")["Stacks"]
            return next(one["ParameterValue"] for one in stack["Parameters"] if one["ParameterKey"] == key)

    operator = Operator()
    operator.packages()
    return operator


def stacks():
    return [one["StackStatus"] for one in boto3.client("cloudformation").describe_stacks()["Stacks"]]


def test_a_new_stack_is_previewed_and_made(operator):
    assert operator.run() == 0, operator.said.err
    assert stacks() == ["CREATE_COMPLETE"]
    assert "  Add      PurgeFunction (AWS::Lambda::Function)\n" in operator.said.out
    assert f"--code {operator.parameter('CodePrefix')}\n" in operator.said.out
    assert operator.parameter("Configuration") == CONFIGURATION


def test_who_does_not_agree_changes_nothing(operator):
    assert operator.run(answer="") == 0
    assert "nothing was changed" in operator.said.out
    assert "CREATE_COMPLETE" not in stacks()


def test_nobody_at_the_terminal_is_no_agreement(operator, monkeypatch):
    def end_of_input(_):
        raise EOFError

    assert operator.run("--yes") == 0
    monkeypatch.setattr("builtins.input", end_of_input)
    assert deploy.agreed() is False


def test_new_code_gets_a_new_place_and_the_old_one_can_be_gone_back_to(operator):
    prefixes = []
    for text in ("one", "two", "three"):
        operator.packages(text)
        assert operator.run() == 0, operator.said.err
        prefixes.append(operator.parameter("CodePrefix"))
    assert len(set(prefixes)) == 3
    assert operator.run("--code", prefixes[1]) == 0, operator.said.err
    assert "uploaded" not in operator.said.out
    assert operator.parameter("CodePrefix") == prefixes[1]
    keys = {one["Key"] for one in boto3.client("s3").list_objects_v2(Bucket="deployments")["Contents"]}
    assert {f"{prefix}/{name}.zip" for prefix in prefixes for name in deploy.FUNCTIONS} <= keys


def test_deploying_the_same_again_changes_nothing(operator):
    operator.run()
    assert operator.run() == 0
    assert operator.said.out.endswith("stagedoor: nothing to change\n")


def test_the_architecture_of_the_settings_chooses_the_packages(operator):
    operator.settings["Architecture"] = "x86_64"
    assert operator.run() == 0
    code = boto3.client("s3").get_object(Bucket="deployments", Key=f"{operator.parameter('CodePrefix')}/purge.zip")
    assert code["Body"].read().startswith(b"x86_64 purge")


def test_packages_that_are_missing_are_named(operator, tmp_path):
    (tmp_path / "lambda" / "arm64" / "sweep.zip").unlink()
    assert operator.run() == 1
    assert "arm64/sweep.zip: not there; run `make package` first" in operator.said.err
    assert stacks() == []


def test_the_region_is_the_one_that_the_aws_cli_would_use(operator, monkeypatch):
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    assert operator.run() == 0, operator.said.err
    told = "stagedoor in account 123456789012, Region eu-west-1\n"
    assert told in operator.said.out[: operator.said.out.index("would change")]
    assert stacks() == []
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    assert stacks() == ["CREATE_COMPLETE"]


def test_without_a_region_nothing_is_done(operator, monkeypatch):
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    assert operator.run() == 1
    assert "Set AWS_REGION" in operator.said.err


class Stuck:
    """A CloudFormation whose stack ends, or stays, in a status that is not the one that is waited for."""

    def __init__(self, before, after):
        self.statuses = iter([before, after])

    def describe_stacks(self, **_):
        return {"Stacks": [{"StackStatus": next(self.statuses)}]}

    def execute_change_set(self, **_):
        pass

    def get_waiter(self, _):
        return self

    def wait(self, **_):
        raise WaiterError("stack", "Max attempts exceeded", {})

    def describe_stack_events(self, **_):
        now = datetime.datetime.now(datetime.timezone.utc)
        failed = {"ResourceStatus": "UPDATE_FAILED", "LogicalResourceId": "PurgeFunction", "Timestamp": now}
        return {"StackEvents": [{**failed, "ResourceStatusReason": "no such key"}]}


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("REVIEW_IN_PROGRESS", "CREATE_IN_PROGRESS", "still at it (CREATE_IN_PROGRESS), nothing is lost"),
        ("UPDATE_COMPLETE", "UPDATE_IN_PROGRESS", "aws cloudformation wait stack-update-complete --stack-name s"),
        ("UPDATE_COMPLETE", "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS", "wait stack-update-complete --stack-name s"),
        ("REVIEW_IN_PROGRESS", "ROLLBACK_IN_PROGRESS", "it failed, and CloudFormation is still going back"),
        ("UPDATE_COMPLETE", "UPDATE_ROLLBACK_IN_PROGRESS", "aws cloudformation wait stack-rollback-complete --stack-name s"),
        ("UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE_CLEANUP_IN_PROGRESS", "still going back"),
        ("UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE", "the stack went back to what it was:"),
        ("UPDATE_COMPLETE", "UPDATE_ROLLBACK_FAILED", "could not go back to what it was (UPDATE_ROLLBACK_FAILED)"),
        ("REVIEW_IN_PROGRESS", "ROLLBACK_COMPLETE", "what there was of it is gone; before the next attempt: aws cloudformation"),
        ("REVIEW_IN_PROGRESS", "ROLLBACK_FAILED", "nor all of it be removed again (ROLLBACK_FAILED)"),
        ("UPDATE_COMPLETE", "DELETE_COMPLETE", "the stack is now DELETE_COMPLETE"),
    ],
)
def test_a_stack_that_is_not_done_is_told_as_what_it_is(before, after, says):
    with pytest.raises(deploy.CannotDeploy) as problem:
        deploy.carry_out(Stuck(before, after), "s", "change-set")
    first, second = str(problem.value).splitlines()
    assert says in first
    assert second == "  PurgeFunction: no such key"
    assert ("went back" in first) == (after == "UPDATE_ROLLBACK_COMPLETE")


def test_the_fleets_ca_certificate_must_be_there_and_should_fit(account, capsys):
    assert load("compilers")["Parameters"]["CaCertificate"]["Default"] == deploy.CA_CERTIFICATE
    ssm = account.client("ssm")
    deploy.look_at_ca(ssm, deploy.CA_CERTIFICATE)
    assert capsys.readouterr().err == ""
    with pytest.raises(deploy.CannotDeploy, match="no SSM parameter /elsewhere"):
        deploy.look_at_ca(ssm, "/elsewhere")
    ssm.put_parameter(Name="/large", Value="x" * 4097, Type="String", Tier="Advanced")
    deploy.look_at_ca(ssm, "/large")
    assert "/large has 4097 bytes" in capsys.readouterr().err


def test_the_fleet_is_not_deployed_without_its_ca_certificate(account, tmp_path, capsys):
    (tmp_path / "fleet.json").write_text('{"CaCertificate": "/elsewhere"}')
    assert deploy.main(["fleet", "--bucket", "deployments", "--settings", str(tmp_path / "fleet.json"), "--yes"]) == 1
    assert "no SSM parameter /elsewhere" in capsys.readouterr().err
    assert stacks() == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("secret =", "secret"), "stagedoor.toml: Expected '='"),
        (("stagedoor/puppet", "another"), "puppet.secret is 'another'"),
        (("[puppet]", '[notify]\ntopic = "arn"\n[puppet]'), "[notify] must not be there"),
        (("[profile.compiler]", '[profile.compiler]\nhooks = "door-"'), "its hooks would wake nothing"),
        (("[profile.compiler]", "#" * 3500 + "\n[profile.compiler]"), "bytes are too many"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused_before_anything_is_uploaded(operator, change, says):
    operator.configuration = CONFIGURATION.replace(*change)
    assert operator.run() == 1
    assert says in operator.said.err
    assert "uploaded" not in operator.said.out


def test_the_secret_may_be_named_by_its_arn(operator):
    operator.configuration = CONFIGURATION.replace("stagedoor/puppet", operator.settings["SecretArn"])
    assert operator.run() == 0, operator.said.err


def test_settings_may_be_lists_truths_and_numbers(tmp_path):
    (tmp_path / "s.json").write_text('{"SubnetIds": ["a", "b"], "PuppetEnterprise": true, "LogRetentionDays": 90}')
    assert deploy.settings(tmp_path / "s.json") == {
        "SubnetIds": "a,b",
        "PuppetEnterprise": "true",
        "LogRetentionDays": "90",
    }


@pytest.mark.parametrize("name", ["controller", "fleet"])
def test_the_example_settings_name_parameters_that_exist_and_every_one_without_a_default(name):
    example = json.loads((INFRA / f"{name}.example.json").read_text())
    parameters = load(deploy.TEMPLATES[name].removesuffix(".yaml"))["Parameters"]
    made_by_deploy = {"CodeBucket", "CodePrefix", "Configuration"}
    needed = {key for key, one in parameters.items() if "Default" not in one} - made_by_deploy
    assert needed <= set(example) <= set(parameters) - made_by_deploy


EXAMPLE = INFRA / "stagedoor.example.toml"


def example_profile():
    """The example fleet's settings, defaults included, and the profile that they name."""
    fleet = {key: one["Default"] for key, one in load("compilers")["Parameters"].items() if "Default" in one}
    fleet |= deploy.settings(INFRA / "fleet.example.json")
    return fleet, tomllib.loads(EXAMPLE.read_text())["profile"][fleet["Profile"]]


def test_the_example_fleet_asks_for_what_its_profile_in_the_example_configuration_allows():
    fleet, profile = example_profile()
    assert fleet["Certname"] == profile["certname"]
    assert {"pp_role": fleet["PpRole"], "pp_auth_role": fleet["PpAuthRole"]} == profile["sign"]["require"]
    assert fleet["AltNames"].split(",") == profile["sign"]["alt_names"]


def test_the_example_configuration_goes_with_the_example_settings():
    controller = deploy.settings(INFRA / "controller.example.json")
    configuration = tomllib.loads(deploy.configuration(EXAMPLE, controller))
    fleet, profile = example_profile()
    template = load("stagedoor")["Resources"]["FunctionSecurityGroup"]["Properties"]["SecurityGroupEgress"]
    open_ports = {rule.get("Fn::If", [None, rule])[1]["FromPort"] for rule in template}
    urls = [urllib.parse.urlsplit(configuration["puppet"][key]) for key in ("ca", "puppetdb", "orchestrator", "classifier")]
    assert {url.hostname for url in urls} == {fleet["PuppetServer"]}
    probed = {int(probe.partition(":")[2].partition("/")[0]) for probe in profile["ready"] if ":" in probe}
    assert {url.port for url in urls} | probed == open_ports
    fleet_template = load("compilers")
    rules = [one["Properties"] for one in of_type(fleet_template, "AWS::EC2::SecurityGroupIngress").values()]
    from_controller = [one for one in rules if one["GroupId"] == {"Ref": "InstanceSecurityGroup"}]
    assert probed == {one["FromPort"] for one in from_controller}
    assert {json.dumps(one["SourceSecurityGroupId"]) for one in from_controller} == {'{"Ref": "ControllerSecurityGroupId"}'}
    # The compilers talk to the same services of the primary as the controller, their agents to its broker, their PuppetDB to PostgreSQL.
    to_puppet = [one for one in rules if one["GroupId"] == {"Ref": "PuppetSecurityGroupId"}]
    assert {url.port for url in urls} | {8142, 5432} == {one["FromPort"] for one in to_puppet}


def test_the_example_gives_a_compiler_the_time_that_its_first_run_takes():
    fleet, profile = example_profile()
    launch, terminate = (deploy.seconds(profile["timeout"][key]) for key in ("launch", "terminate"))
    assert launch == 75 * 60
    # The hooks wait longer than the controller, and the instance gives up before it.
    assert int(fleet["LaunchHeartbeat"]) > launch and int(fleet["TerminateHeartbeat"]) > terminate
    user_data = (INFRA / "user-data" / "common.sh").read_text()
    assert 3600 < int(re.search(r"STAGEDOOR_TIMEOUT_S:-(\d+)", user_data)[1]) < launch
    alarm = load("stagedoor")["Parameters"]["OldestWaitingAlarmSeconds"]["Default"]
    assert int(alarm) > launch


def test_the_example_configuration_has_only_keys_that_the_readme_explains():
    readme = (ROOT / "README.md").read_text()
    documented = tomllib.loads(re.search(r"```toml\n(.*?)```", readme, re.DOTALL)[1])

    def keys(table, path=""):
        for key, value in table.items():
            yield path + key
            # The extensions of sign.require are the operator's.
            if isinstance(value, dict) and key != "require":
                yield from keys(value, f"{path}{key}.")

    assert set(keys(tomllib.loads(EXAMPLE.read_text()))) <= set(keys(documented))


@pytest.mark.parametrize(
    ("timeout", "more", "accepted"),
    [
        ("90m", {}, True),
        ("1h 31m", {}, False),
        ("91 minutes", {}, False),
        ("2h", {"OldestWaitingAlarmSeconds": 7200}, True),
        ("PT2H", {}, True),
    ],
)
def test_a_timeout_must_not_be_longer_than_what_raises_the_alarm(tmp_path, timeout, more, accepted):
    assert load("stagedoor")["Parameters"]["OldestWaitingAlarmSeconds"]["Default"] == deploy.OLDEST_WAITING
    file = tmp_path / "stagedoor.toml"
    file.write_text(f'{CONFIGURATION}timeout.launch = "{timeout}"\n')
    parameters = {"SecretArn": "arn:aws:secretsmanager:eu-west-1:123456789012:secret:stagedoor/puppet-AbCdEf", **more}
    if accepted:
        assert deploy.configuration(file, parameters) == file.read_text()
    else:
        with pytest.raises(deploy.CannotDeploy, match="profile.compiler.timeout.launch .* OldestWaitingAlarmSeconds"):
            deploy.configuration(file, parameters)


@pytest.mark.parametrize("name", ["stagedoor", "compilers"])
def test_every_parameter_is_explained_in_the_guide(name):
    guide = (ROOT / "docs" / "deployment.md").read_text()
    assert [key for key in load(name)["Parameters"] if f"`{key}`" not in guide] == []


# A cargo whose `lambda build` makes a package of the size that is asked for.
CARGO = """#!/bin/bash
echo "$*" >>"$CALLS"
while [ "$#" -gt 0 ]; do
  case $1 in --lambda-dir) dir=$2 ;; --bin) mkdir -p "$dir/$2"; head -c "$SIZE" /dev/zero >"$dir/$2/bootstrap.zip" ;; esac
  shift
done
"""
# A toolchain that can build for x86-64 only, and a rustup that cannot fetch anything.
RUSTC = """#!/bin/bash
echo "$SYSROOT"
"""


@pytest.fixture
def package(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "root" / "crates" / "functions" / "src" / "bin").mkdir(parents=True)
    (tmp_path / "root" / "infra").mkdir()
    script = tmp_path / "root" / "infra" / "package"
    script.write_text((INFRA / "package").read_text())
    script.chmod(0o755)
    for name in deploy.FUNCTIONS:
        (tmp_path / "root" / "crates" / "functions" / "src" / "bin" / f"{name}.rs").touch()
    for name, text in {"cargo": CARGO, "rustc": RUSTC, "rustup": "#!/bin/bash\nexit 1\n"}.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)

    def run(*architectures, size=1_234_567, targets=("x86_64",), **environment):
        for target in targets:
            (tmp_path / "sysroot" / "lib" / "rustlib" / f"{target}-unknown-linux-gnu" / "lib").mkdir(parents=True)
        return subprocess.run(
            [script, *architectures],
            env={
                "PATH": os.environ["PATH"],
                "CARGO_LAMBDA": str(tmp_path / "bin"),
                "CALLS": str(tmp_path / "calls"),
                "SYSROOT": str(tmp_path / "sysroot"),
                "OUT": str(tmp_path / "out"),
                "SIZE": str(size),
                **environment,
            },
            capture_output=True,
            text=True,
        )

    run.out, run.calls = tmp_path / "out", tmp_path / "calls"
    return run


def test_packages_are_made_for_both_architectures_and_their_sizes_told(package):
    done = package(targets=("x86_64", "aarch64"))
    assert done.returncode == 0, done.stderr
    assert [line.split()[:4] for line in done.stdout.splitlines()] == [
        [architecture, function, "1234", "kB"] for architecture in ("arm64", "x86_64") for function in deploy.FUNCTIONS
    ]
    assert "--target aarch64-unknown-linux-gnu.2.34" in package.calls.read_text()
    for architecture in ("arm64", "x86_64"):
        made = sorted(path.name for path in (package.out / architecture).iterdir())
        assert made == [f"{name}.zip" for name in deploy.FUNCTIONS]


def test_a_package_above_five_megabytes_fails(package):
    assert package("x86_64", size=5_000_000).returncode == 0
    done = package("x86_64", size=5_000_001, targets=())
    assert done.returncode == 1
    assert done.stderr.count("has 5000001 bytes, more than the 5000000 that are allowed") == 3


def test_an_architecture_that_the_toolchain_lacks_is_left_out_loudly(package):
    done = package()
    assert done.returncode == 0
    assert "NOT packaged for arm64" in done.stderr
    assert [path.name for path in package.out.iterdir()] == ["x86_64"]


def test_an_architecture_that_was_asked_for_must_be_there(package):
    assert package("arm64").returncode == 1
    assert package("sparc", targets=()).returncode == 2


def test_a_function_that_does_not_exist_is_named(package):
    done = package("x86_64", FUNCTIONS="purge nosuch")
    assert done.returncode == 1
    assert "there is no function nosuch" in done.stderr
