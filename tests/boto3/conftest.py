"""A running lab, its control API, and boto3 clients of it."""

import json
import os
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from xml.etree import ElementTree

import boto3
import pytest
from botocore.config import Config

ROOT = Path(__file__).resolve().parents[2]
LAB_BIN = os.environ.get("LAB_BIN", str(ROOT / "target" / "debug" / "lab"))

INSTANCE = "i-0a1b2c3d4e5f60718"
OTHER = "i-0b1b2c3d4e5f60718"
TOPIC = "arn:aws:sns:eu-west-1:111122223333:stagedoor"
SECRET_TEXT = "correct horse & <battery> \"staple\""


class Lab:
    """The lab's process and its control API."""

    def __init__(self, process):
        self.process = process
        self.url = {}
        for line in process.stdout:
            name, _, address = line.strip().partition(" ")
            self.url[name] = address
            if name == "ready":
                return
        raise RuntimeError(f"{LAB_BIN} ended with {process.wait()} instead of starting")

    def control(self, method, path, body=None):
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url["control"] + path, data=data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path}: {error.code} {error.read().decode()}") from None

    def terminate(self, instance=INSTANCE, **how):
        return self.control("POST", f"/instances/{instance}/terminate", how)["events"]

    def pass_time(self, seconds):
        self.control("POST", "/clock/advance", {"seconds": seconds})

    def fault(self, service, call, kind, **more):
        self.control("POST", "/faults", {"service": service, "call": call, "kind": kind, **more})

    def journal(self, service):
        return self.control("GET", f"/journal?service={service}")["entries"]


@pytest.fixture(scope="session")
def process():
    process = subprocess.Popen([LAB_BIN, "--ports", "0"], stdout=subprocess.PIPE, text=True)
    try:
        yield Lab(process)
    finally:
        process.terminate()
        # SIGTERM is an orderly end.
        assert process.wait(timeout=20) == 0


def scene():
    """One group with two hooks and two instances, a secret and a topic."""
    return {
        "groups": [
            {
                "name": "compilers",
                "tags": {"stagedoor:profile": "compiler", "Name": "a<b>&c"},
                "hooks": [
                    {
                        "name": "stagedoor-terminate",
                        "transition": "terminating",
                        "heartbeat_timeout_s": 600,
                        "default_result": "CONTINUE",
                        "metadata": '{"profile": "compiler"}',
                    },
                    {"name": "stagedoor-launch", "transition": "launching", "heartbeat_timeout_s": 7200},
                ],
                "instances": [
                    {
                        "id": INSTANCE,
                        "private_ip": "10.0.3.7",
                        "private_dns": "ip-10-0-3-7.ec2.internal",
                        "tags": {"Name": "compiler-1"},
                    },
                    {"id": OTHER},
                ],
            },
            {"name": "foreign", "instances": [{"id": "i-0c1b2c3d4e5f60718", "state": "Standby"}]},
        ],
        "secrets": {"other/secret": SECRET_TEXT},
        "topics": [TOPIC],
    }


@pytest.fixture
def lab(process):
    process.control("PUT", "/scene", scene())
    return process


@pytest.fixture
def client(lab):
    """Makes boto3 clients of the lab that do not retry and whose every answer is held against botocore's model."""

    def make(service, **more):
        made = boto3.client(
            service,
            endpoint_url=lab.url["lambda" if service == "lambda" else "aws"],
            region_name="eu-west-1",
            aws_access_key_id="AKIALABLABLABLABLABL",
            aws_secret_access_key="not-a-secret",
            config=Config(retries={"total_max_attempts": 1}, **more),
        )
        service_id = made.meta.service_model.service_id.hyphenize()
        made.meta.events.register(f"before-parse.{service_id}", check_no_strangers)
        made.meta.events.register(f"after-call.{service_id}", check_shape)
        return made

    return make


def check_shape(parsed, model, **_):
    """Members that the model requires are there, enumerated ones have a known value."""
    if "Error" not in parsed and model.output_shape is not None:
        walk(parsed, model.output_shape, model.name)


def walk(value, shape, where):
    if shape.type_name == "structure":
        missing = set(shape.required_members) - set(value)
        assert not missing, f"{where} lacks {missing}"
        for name, member in shape.members.items():
            if name in value:
                walk(value[name], member, f"{where}.{name}")
    elif shape.type_name == "list":
        for index, element in enumerate(value):
            walk(element, shape.member, f"{where}[{index}]")
    elif shape.type_name == "string":
        known = shape.metadata.get("enum")
        assert known is None or value in known, f"{where} is {value!r}, not one of {known}"
        least = shape.metadata.get("min", 0)
        most = shape.metadata.get("max", len(value))
        assert least <= len(value) <= most, f"{where} is {len(value)} characters long, not {least} to {most}"


def check_no_strangers(operation_model, response_dict, **_):
    """Every XML element is one that the model knows: botocore itself skips the others, so a misspelt one is lost."""
    shape = operation_model.output_shape
    is_xml = operation_model.service_model.resolved_protocol in ("query", "ec2")
    if response_dict["status_code"] >= 300 or shape is None or not is_xml:
        return
    root = ElementTree.fromstring(response_dict["body"])
    wrapper = shape.serialization.get("resultWrapper")
    if wrapper is not None:
        assert [tag(child) for child in root] == [wrapper, "ResponseMetadata"]
        walk_xml(root[0], shape, wrapper)
    else:
        root.remove(root[0])  # requestId
        walk_xml(root, shape, operation_model.name)


def tag(element):
    return element.tag.rpartition("}")[2]


def walk_xml(element, shape, where):
    if shape.type_name == "structure":
        members = {member.serialization.get("name", name): member for name, member in shape.members.items()}
        for child in element:
            assert tag(child) in members, f"{where} has a <{tag(child)}> that the model does not know"
            walk_xml(child, members[tag(child)], f"{where}.{tag(child)}")
    elif shape.type_name == "list":
        for child in element:
            assert tag(child) == shape.member.serialization.get("name", "member"), f"{where} has a <{tag(child)}>"
            walk_xml(child, shape.member, where)
    else:
        assert len(element) == 0, f"{where} is {shape.type_name}, and has elements inside"


@pytest.fixture
def autoscaling(client):
    return client("autoscaling")


@pytest.fixture
def ec2(client):
    return client("ec2")
