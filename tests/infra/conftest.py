"""An AWS account played by moto, in this process: no call leaves it."""

import io
import zipfile

import pytest
from moto import mock_aws
from template import Account

PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----"


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch):
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", Account.region)


@pytest.fixture
def account(no_credentials):
    with mock_aws():
        account = Account()
        package = io.BytesIO()
        with zipfile.ZipFile(package, "w") as archive:
            archive.writestr("bootstrap", "#!/bin/sh\n")
        for function in ("onboard", "purge", "sweep"):
            account.client("s3").put_object(
                Bucket="deployments", Key=f"stagedoor/1/{function}.zip", Body=package.getvalue()
            )
        account.client("ssm").put_parameter(Name="/stagedoor/puppet-ca", Value=PEM, Type="String")
        yield account
