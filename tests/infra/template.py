"""CloudFormation templates as plain values: short forms such as !Ref written out, so that JSON can carry them."""

import base64
import copy
import functools
import json
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"


class _Loader(yaml.SafeLoader):
    """YAML with CloudFormation's tags."""


def _intrinsic(loader, suffix, node):
    name = suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}"
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
        return {name: value.split(".", 1) if suffix == "GetAtt" else value}
    if isinstance(node, yaml.SequenceNode):
        return {name: loader.construct_sequence(node, deep=True)}
    return {name: loader.construct_mapping(node, deep=True)}


_Loader.add_multi_constructor("!", _intrinsic)


@functools.cache
def _parsed(name: str) -> dict:
    return yaml.load((INFRA / f"{name}.yaml").read_text(), _Loader)


def load(name: str) -> dict:
    """The template `infra/NAME.yaml`; a copy that may be changed."""
    return copy.deepcopy(_parsed(name))


def of_type(template: dict, kind: str) -> dict:
    """Its resources of one type, by logical name."""
    return {name: one for name, one in template["Resources"].items() if one["Type"] == kind}


class Account:
    """An AWS account that moto plays: a VPC with two subnets, and a bucket."""

    region = "eu-west-1"

    def __init__(self):
        import boto3

        self.client = lambda service: boto3.client(service, region_name=self.region)
        ec2 = self.client("ec2")
        self.vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        self.subnets = [
            ec2.create_subnet(VpcId=self.vpc, CidrBlock=f"10.0.{n}.0/24", AvailabilityZone=f"{self.region}{zone}")[
                "Subnet"
            ]["SubnetId"]
            for n, zone in enumerate("ab")
        ]
        self.client("s3").create_bucket(
            Bucket="deployments", CreateBucketConfiguration={"LocationConstraint": self.region}
        )

    def security_group(self, name: str) -> str:
        """A security group in the VPC that allows no inbound traffic."""
        group = self.client("ec2").create_security_group(GroupName=name, Description=name, VpcId=self.vpc)
        return group["GroupId"]

    def deploy(self, name: str, template: dict, parameters: dict) -> dict:
        """Creates the stack; its resources' types by logical name. moto makes what it has the type for."""
        cloudformation = self.client("cloudformation")
        self.client("s3").put_object(Bucket="deployments", Key=name, Body=json.dumps(template).encode())
        cloudformation.create_stack(
            StackName=name,
            TemplateURL=f"https://deployments.s3.amazonaws.com/{name}",
            Capabilities=["CAPABILITY_IAM"],
            Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
        )
        stack = cloudformation.describe_stacks(StackName=name)["Stacks"][0]
        assert stack["StackStatus"] == "CREATE_COMPLETE", stack
        made = cloudformation.list_stack_resources(StackName=name)["StackResourceSummaries"]
        # moto lists what a condition left out as a resource without a name.
        return {one["LogicalResourceId"]: one["ResourceType"] for one in made if one["LogicalResourceId"]}

    def user_data(self) -> str:
        """The user data of the only launch template, as an instance gets it."""
        ec2 = self.client("ec2")
        (template,) = ec2.describe_launch_templates()["LaunchTemplates"]
        versions = ec2.describe_launch_template_versions(LaunchTemplateId=template["LaunchTemplateId"])
        data = versions["LaunchTemplateVersions"][-1]["LaunchTemplateData"]["UserData"]
        return base64.b64decode(data).decode()


def controller_parameters(account: Account, **more) -> dict:
    """The parameters that stagedoor.yaml requires."""
    return {
        "CodeBucket": "deployments",
        "CodePrefix": "stagedoor/1",
        "Configuration": 'mode = "observe"',
        "SecretArn": "arn:aws:secretsmanager:eu-west-1:123456789012:secret:stagedoor/puppet-AbCdEf",
        "VpcId": account.vpc,
        "SubnetIds": ",".join(account.subnets),
        "PuppetCidr": "10.0.0.0/16",
        **more,
    }


def fleet_parameters(account: Account, **more) -> dict:
    """The parameters that compilers.yaml requires."""
    return {
        "Edition": "pe",
        "PuppetServer": "puppet.example.com",
        "ChallengeSecretArn": "arn:aws:secretsmanager:eu-west-1:123456789012:secret:stagedoor/challenge-AbCdEf",
        "VpcId": account.vpc,
        "SubnetIds": ",".join(account.subnets),
        "ClientCidr": "10.0.0.0/8",
        "ImageId": "ami-0a1b2c3d4e5f60718",
        **more,
    }
