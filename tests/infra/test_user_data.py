"""The user data of the launch template, run as an instance runs it, against what it meets there."""

import functools
import os
import re
import subprocess
import sys
import warnings

import pytest
import sandbox
import yaml
from moto import mock_aws
from sandbox import CHALLENGE, INSTANCE, METADATA, SECRET_ARN, Authority, Sandbox, Server
from template import INFRA, Account, fleet_parameters, load

NAME = "ip-10-0-3-7.eu-west-1.compute.internal"
IDENTITY = {
    "extension_requests": {"pp_instance_id": INSTANCE, "pp_role": "compiler"},
    "custom_attributes": {"challengePassword": CHALLENGE},
}


@pytest.fixture(scope="module")
def rendered():
    """The user data as CloudFormation puts it together, for an edition and other parameters."""

    @functools.cache
    def render(edition, **parameters):
        template = load("compilers")
        wanted = ("LaunchTemplate", "InstanceProfile", "InstanceRole", "InstanceSecurityGroup", "LoadBalancerSecurityGroup")
        template["Resources"] = {name: template["Resources"][name] for name in wanted}
        del template["Outputs"]
        with mock_aws(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            account = Account()
            account.client("ssm").put_parameter(Name="/stagedoor/puppet-ca", Value="CA\nBUNDLE", Type="String")
            account.deploy("fleet", template, fleet_parameters(account, Edition=edition, **parameters))
            return account.user_data()

    return render


def told(user_data, settings):
    """The user data with other settings: the lines NAME='value' at its top."""
    for name, value in settings.items():
        user_data, changed = re.subn(rf"^{name}='[^']*'$", f"{name}='{value}'", user_data, count=1, flags=re.MULTILINE)
        assert changed, f"the template does not set {name}"
    return user_data


# No time for a retry.
AT_ONCE = {"STAGEDOOR_TIMEOUT_S": "0"}


class World:
    """An instance and the servers around it."""

    def __init__(self, directory, rendered):
        self.instance = Sandbox(directory / "instance")
        self.authority = Authority(directory, "site")
        self.other = Authority(directory, "other")
        self.metadata = dict(METADATA)
        self.imds = sandbox.metadata_service(self.metadata)
        self.secrets = sandbox.secrets_manager()
        self.packages = self.repository(self.authority)
        self.rendered = rendered
        self.servers = [self.imds, self.secrets, self.packages]

    def repository(self, authority, late=0):
        """A repository; the first `late` requests it cannot answer yet."""
        countdown = iter(range(late))
        return Server(
            lambda request: (200, sandbox.INSTALLER) if next(countdown, None) is None else (503, ""), authority.context
        )

    def run(self, edition="pe", packages=None, environment=None, **settings):
        port = (packages or self.packages).port
        settings = {
            "STAGEDOOR_CA_CERT": self.authority.pem,
            "STAGEDOOR_RELEASE_PACKAGE": f"https://localhost:{port}/openvox8-release-debian12.deb",
            **settings,
        }
        usual = {
            "STAGEDOOR_IMDS": f"http://127.0.0.1:{self.imds.port}",
            "STAGEDOOR_SECRETS_ENDPOINT": f"http://localhost:{self.secrets.port}/",
            "STAGEDOOR_INSTALLER": f"https://localhost:{port}/packages/current/install.bash",
            # The operating system's own trust, which the open source repositories are checked with.
            "CURL_CA_BUNDLE": str(self.authority.path),
        }
        return self.instance.run(told(self.rendered(edition), settings), **{**usual, **(environment or {})})

    def replace(self, name, server):
        """Puts another server in the place of one."""
        getattr(self, name).close()
        self.servers.remove(getattr(self, name))
        self.servers.append(server)
        setattr(self, name, server)

    def identity(self):
        return yaml.safe_load(self.instance.files()["csr_attributes.yaml"])


@pytest.fixture
def world(tmp_path, rendered, no_credentials):
    world = World(tmp_path, rendered)
    yield world
    for server in world.servers:
        server.close()
    # Nothing is left behind outside Puppet's directory, whatever happened.
    assert list(world.instance.temporary.iterdir()) == []


EDITIONS = pytest.mark.parametrize("edition", ["pe", "open-source"])


@EDITIONS
def test_the_instance_enrols_with_its_identity_and_the_challenge(world, edition):
    done = world.run(edition)
    assert done.returncode == 0, done.stderr
    assert world.identity() == IDENTITY
    assert (world.instance.root / "enrolled").exists()
    assert oct((world.instance.confdir / "csr_attributes.yaml").stat().st_mode)[-3:] == "600"
    files = world.instance.files()
    assert files["ssl/certs/ca.pem"].strip() == world.authority.pem
    assert f"certname={NAME}" in files["puppet.conf"].replace(" ", "")
    assert "server=puppet.example.com" in files["puppet.conf"].replace(" ", "")
    assert world.instance.calls()[-1] == "puppet resource service puppet ensure=running enable=true"


def test_puppet_enterprises_installer_is_told_everything_but_the_secret(world):
    world.run("pe", STAGEDOOR_ALT_NAMES="puppet.example.com,compilers.example.com")
    assert world.instance.calls()[0] == (
        f"installer main:certname={NAME} main:server=puppet.example.com "
        "main:dns_alt_names=puppet.example.com,compilers.example.com --puppet-service-ensure stopped "
        "--puppet-service-enable false"
    )


@EDITIONS
def test_the_daemon_is_started_only_after_a_successful_run_but_goes_on_after_a_reboot(world, edition):
    (world.instance.root / "runs").write_text("2")
    assert world.run(edition).returncode == 0
    calls = [call for call in world.instance.calls() if call.startswith("puppet ")]
    assert calls == [
        "puppet resource service puppet ensure=stopped enable=true",
        *["puppet agent --test --waitforcert 0"] * 3,
        "puppet resource service puppet ensure=running enable=true",
    ]


def test_open_source_packages_are_installed_before_anything_is_written(world):
    done = world.run("open-source", STAGEDOOR_ALT_NAMES="puppet.example.com")
    assert done.returncode == 0, done.stderr
    release, update, install, service, agent, _ = world.instance.calls()
    apt = "apt-get --yes -o DPkg::Lock::Timeout=300 -o Acquire::Retries=5"
    assert re.fullmatch(rf"{apt} install /\S+/release\.deb", release)
    assert (update, install) == (f"{apt} update", f"{apt} install openvox-agent")
    # A package may have started the service.
    assert (service, agent) == ("puppet resource service puppet ensure=stopped enable=true", "puppet agent --test --waitforcert 0")
    assert "dns_alt_names = puppet.example.com\n" in world.instance.files()["puppet.conf"]


def test_rpm_packages_are_installed_with_dnf(world):
    port = world.packages.port
    done = world.run("open-source", STAGEDOOR_RELEASE_PACKAGE=f"https://localhost:{port}/openvox8-release-el-9.noarch.rpm")
    assert done.returncode == 0, done.stderr
    first, second, *_ = world.instance.calls()
    assert re.fullmatch(r"dnf install --assumeyes \S+/release\.rpm", first)
    assert second == "dnf install --assumeyes openvox-agent"


def test_the_certname_may_be_made_from_the_instance_id_and_is_lower_case(world):
    assert world.run(STAGEDOOR_CERTNAME="{instance_id}.Nodes.example.com").returncode == 0
    assert f"main:certname={INSTANCE}.nodes.example.com" in world.instance.calls()[0]


def test_only_the_first_of_several_host_names_counts(world):
    world.metadata["meta-data/local-hostname"] = f"{NAME} ip-10-0-3-7.example.com"
    world.run()
    assert f"main:certname={NAME} " in world.instance.calls()[0]


def test_an_authorization_role_is_asked_for_only_if_one_is_set(world):
    world.run(STAGEDOOR_PP_AUTH_ROLE="pe_compiler")
    assert world.identity()["extension_requests"] == {**IDENTITY["extension_requests"], "pp_auth_role": "pe_compiler"}


def test_further_extensions_are_asked_for_by_oid(world):
    peadm = {"1.3.6.1.4.1.34380.1.1.9812": "puppet/compiler", "1.3.6.1.4.1.34380.1.1.9813": "A"}
    world.run(STAGEDOOR_EXTENSIONS=",".join(f"{oid}={value}" for oid, value in peadm.items()))
    assert world.identity()["extension_requests"] == {**IDENTITY["extension_requests"], **peadm}


@pytest.mark.parametrize("text", ["1.3.6.1", "=A", "1.3.6.1=", 'pp_x=a"b', "pp_x=a b", "pp_x=a,,pp_y=b"])
def test_an_extension_that_would_break_the_file_ends_it(world, text):
    refused(world, world.run(STAGEDOOR_EXTENSIONS=text), "which is not OID=value")


@EDITIONS
def test_the_metadata_service_is_only_asked_with_a_token(world, rendered, edition):
    world.run(edition)
    (first, *others) = world.imds.requests
    assert first[:2] == ("PUT", "/latest/api/token")
    # It must outlive the timeout, which is in common.sh.
    timeout = int(re.search(r"STAGEDOOR_TIMEOUT_S:-(\d+)", rendered(edition))[1])
    assert int(first[2]["X-aws-ec2-metadata-token-ttl-seconds"]) > timeout
    assert len(others) >= 5
    for method, _, headers in others:
        assert (method, headers.get("X-aws-ec2-metadata-token")) == ("GET", sandbox.TOKEN)


def test_the_agent_runs_until_a_run_goes_through(world):
    (world.instance.root / "runs").write_text("3")
    assert world.run().returncode == 0
    assert world.instance.calls().count("puppet agent --test --waitforcert 0") == 4


def test_when_the_timeout_expires_the_service_is_not_started(world):
    (world.instance.root / "runs").write_text("1000")
    done = world.run(environment=AT_ONCE)
    assert done.returncode == 1
    assert "no agent run went through in time; the last one ended with 1" in done.stderr
    assert not any("ensure=running" in call for call in world.instance.calls())
    # The request has been made with it: the next attempt must find it.
    assert world.identity() == IDENTITY


def test_a_reboot_changes_nothing(world):
    world.run()
    world.instance.enrol(NAME)
    before, calls = world.instance.files(), world.instance.calls()
    asked = len(world.packages.requests), len(world.secrets.requests)
    done = world.run()
    assert (done.returncode, done.stdout) == (0, f"stagedoor: {NAME} is enrolled already; nothing to do\n")
    assert (world.instance.files(), world.instance.calls()) == (before, calls)
    assert (len(world.packages.requests), len(world.secrets.requests)) == asked


def test_an_attempt_that_was_cut_short_can_be_repeated(world):
    (world.instance.root / "runs").write_text("1000")
    world.run(environment=AT_ONCE)
    (world.instance.root / "runs").write_text("0")
    assert world.run().returncode == 0
    assert world.identity() == IDENTITY


def test_an_image_with_another_instances_identity_is_refused(world):
    world.run()
    world.metadata["meta-data/instance-id"] = "i-0b2c3d4e5f6071829"
    calls = world.instance.calls()
    done = world.run()
    assert (done.returncode, world.instance.calls()) == (1, calls)
    assert "belongs to another instance: make images without it" in done.stderr


def refused(world, done, *texts):
    """It failed, said why, ran no agent, and wrote nothing."""
    assert done.returncode != 0
    for text in texts:
        assert text in done.stderr
    assert not any(call.startswith("puppet") for call in world.instance.calls())
    assert world.instance.files() == {}


@EDITIONS
def test_without_the_metadata_service_nothing_is_done(world, edition):
    world.imds.close()
    world.servers.remove(world.imds)
    refused(world, world.run(edition), "gives no IMDSv2 token")
    assert world.instance.calls() == []


def test_a_metadata_service_that_has_ipv6_alone_is_found(world):
    try:
        service = sandbox.metadata_service(world.metadata, host="::1")
    except OSError:
        pytest.skip("this machine has no ::1")
    world.replace("imds", service)
    addresses = f"http://127.0.0.1:1 http://[::1]:{service.port}"
    done = world.run(environment={"STAGEDOOR_IMDS": addresses})
    assert done.returncode == 0, done.stderr
    assert world.identity() == IDENTITY


def test_one_without_a_token_at_either_address_is_an_error(world):
    done = world.run(environment={"STAGEDOOR_IMDS": "http://127.0.0.1:1 http://127.0.0.1:2"})
    assert done.returncode == 1
    assert "the metadata service gives no IMDSv2 token" in done.stderr
    assert world.instance.files() == {}


def test_both_addresses_of_the_metadata_service_are_tried(rendered):
    assert "STAGEDOOR_IMDS:-http://169.254.169.254 http://[fd00:ec2::254]}" in rendered("pe")


def test_a_metadata_service_that_is_late_is_waited_for(world):
    world.replace("imds", sandbox.metadata_service(world.metadata, late=1))
    assert world.run(environment={"STAGEDOOR_RETRIES": "2"}).returncode == 0


@pytest.mark.parametrize("what", [key for key in METADATA if not key.endswith("credentials/")])
def test_metadata_that_is_missing_ends_it(world, what):
    del world.metadata[what]
    refused(world, world.run(environment=AT_ONCE), f"does not say {what}")


def test_metadata_that_makes_no_certname_ends_it(world):
    world.metadata["meta-data/local-hostname"] = "$(reboot)"
    refused(world, world.run(), "cannot be used")


def test_an_instance_without_a_role_gets_no_challenge(world):
    del world.metadata["meta-data/iam/security-credentials/"]
    refused(world, world.run(environment=AT_ONCE), "no challenge yet, and there is no time left")


@pytest.mark.parametrize("what", [key for key in METADATA if "credentials/" in key])
def test_a_role_that_is_not_there_yet_is_waited_for(world, what):
    world.replace("imds", sandbox.metadata_service(world.metadata, not_yet=[what]))
    done = world.run()
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("no challenge yet; trying again\n") == 1
    assert world.identity() == IDENTITY


THROTTLED = (400, '{"__type":"ThrottlingException","message":"Rate exceeded"}')
TROUBLE = [THROTTLED, (429, ""), (500, '{"__type": "InternalServiceError"}'), (503, ""), None]


@pytest.mark.parametrize("trouble", TROUBLE, ids=["throttled", "429", "500", "503", "cut"])
def test_a_secrets_manager_that_fails_once_is_asked_again(world, trouble):
    world.replace("secrets", sandbox.secrets_manager(first=[trouble]))
    done = world.run()
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("no challenge yet; trying again\n") == 1
    assert len(world.secrets.requests) == 2
    assert world.identity() == IDENTITY


def test_a_secrets_manager_that_stays_away_ends_it(world):
    world.secrets.close()
    world.servers.remove(world.secrets)
    refused(world, world.run(environment=AT_ONCE), "no challenge yet, and there is no time left")


def test_a_secret_that_does_not_exist_ends_it_at_once(world):
    refused(
        world,
        world.run(STAGEDOOR_CHALLENGE_SECRET=SECRET_ARN.replace("challenge", "puppet")),
        "Secrets Manager does not give the challenge: HTTP Error 400: Bad Request ResourceNotFoundException",
        "no challenge, no request",
    )
    assert len(world.secrets.requests) == 1


@pytest.mark.parametrize("kind", ["AccessDeniedException", "ValidationException", "com.amazon.coral.service#AccessDeniedException"])
def test_a_refusal_ends_it_at_once_and_only_its_kind_is_told(world, kind):
    answer = 400, f'{{"__type":"{kind}","Message":"x-amz-security-token:{sandbox.CREDENTIALS["Token"]}"}}'
    world.replace("secrets", sandbox.secrets_manager(first=[answer] * 3))
    done = world.run()
    refused(world, done, f"HTTP Error 400: Bad Request {kind}\n", "no challenge, no request")
    assert len(world.secrets.requests) == 1
    assert sandbox.CREDENTIALS["Token"] not in done.stderr


def test_a_secret_without_text_is_refused(world):
    world.replace("secrets", sandbox.secrets_manager(first=[(200, '{"SecretBinary": "AAAA"}')]))
    refused(world, world.run(), "the challenge must be")


def test_a_challenge_that_would_break_the_file_is_refused(world):
    world.replace("secrets", sandbox.secrets_manager('a"\nextension_requests: {pp_cli_auth: "true"}'))
    refused(world, world.run(), "the challenge must be")


@EDITIONS
def test_a_repository_with_a_certificate_of_another_ca_is_not_trusted(world, edition):
    impostor = world.repository(world.other)
    world.servers.append(impostor)
    refused(world, world.run(edition, packages=impostor, environment=AT_ONCE), "does not answer with a file, and there is no time left")
    assert world.instance.calls() == []
    assert impostor.requests == []


@EDITIONS
def test_a_repository_that_is_down_ends_it(world, edition):
    world.packages.close()
    world.servers.remove(world.packages)
    refused(world, world.run(edition, environment=AT_ONCE), "does not answer with a file, and there is no time left")


@EDITIONS
def test_a_repository_that_cannot_be_reached_yet_is_waited_for(world, edition):
    late = world.repository(world.authority, late=2)
    world.servers.append(late)
    done = world.run(edition, packages=late)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("does not answer with a file; trying again\n") == 2
    assert len(late.requests) == 3
    assert world.identity() == IDENTITY


@EDITIONS
def test_an_installation_that_fails_leaves_nothing_half_written(world, edition):
    (world.instance.root / "failures").write_text("1000")
    refused(world, world.run(edition, environment=AT_ONCE), "failed, and there is no time left")


@EDITIONS
def test_an_installation_that_fails_for_a_while_is_repeated(world, edition):
    (world.instance.root / "failures").write_text("2")
    done = world.run(edition)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("failed; trying again\n") == 2
    assert world.identity() == IDENTITY


def test_the_next_attempt_after_a_failed_installation_succeeds(world):
    (world.instance.root / "failures").write_text("1000")
    assert world.run(environment=AT_ONCE).returncode != 0
    (world.instance.root / "failures").write_text("0")
    assert world.run().returncode == 0
    assert world.identity() == IDENTITY


@EDITIONS
def test_the_challenge_and_credentials_are_in_no_output_and_no_argument(world, edition):
    done = world.run(edition)
    told = done.stdout + done.stderr + "\n".join(world.instance.calls())
    for secret in (CHALLENGE, sandbox.TOKEN, *sandbox.CREDENTIALS.values()):
        assert secret not in told


def test_a_setting_that_is_missing_is_named(world):
    refused(world, world.run(STAGEDOOR_PP_ROLE=""), "STAGEDOOR_PP_ROLE is not set")


def test_the_parameters_become_the_settings(rendered):
    text = rendered(
        "pe",
        PuppetServer="primary.example.com",
        Certname="{instance_id}.x",
        PpRole="web",
        PpAuthRole="pe_compiler",
        Extensions="1.3.6.1.4.1.34380.1.1.9813=A",
        AltNames="a,b",
        ReleasePackage="https://example.com/x.rpm",
        AgentPackage="puppet-agent",
    )
    assert text.startswith("#!/bin/bash\n")
    assert dict(re.findall(r"^STAGEDOOR_(\w+)='([^']*)'$", text[: text.index("# shellcheck")], re.MULTILINE)) == {
        "SERVER": "primary.example.com",
        "CERTNAME": "{instance_id}.x",
        "PP_ROLE": "web",
        "PP_AUTH_ROLE": "pe_compiler",
        "EXTENSIONS": "1.3.6.1.4.1.34380.1.1.9813=A",
        "ALT_NAMES": "a,b",
        "CHALLENGE_SECRET": SECRET_ARN,
        "RELEASE_PACKAGE": "https://example.com/x.rpm",
        "PACKAGE": "puppet-agent",
        "CA_CERT": "CA\nBUNDLE",
    }


@EDITIONS
def test_what_the_template_embeds_is_what_the_files_say_and_fits(rendered, edition):
    text = told(rendered(edition), {"STAGEDOOR_CA_CERT": "X" * 4300})
    for name in ("common", edition):
        assert (INFRA / "user-data" / f"{name}.sh").read_text() in text
    # EC2's limit, with a bundle of two CA certificates of 4096 bits.
    assert len(text.encode()) < 16 * 1024


def test_an_edited_script_that_is_not_embedded_is_noticed(tmp_path):
    copy = tmp_path / "infra"
    subprocess.run(["cp", "-r", INFRA, copy], check=True)
    with (copy / "user-data" / "common.sh").open("a") as script:
        script.write("\n# something new\n")

    def embed(*arguments):
        return subprocess.run([sys.executable, copy / "embed", *arguments], capture_output=True, text=True)

    assert embed("--check").returncode == 1
    assert embed().returncode == 0
    assert embed("--check").returncode == 0
    assert "                # something new\n" in (copy / "compilers.yaml").read_text()


def test_tls_is_never_left_unchecked():
    for path in (INFRA / "user-data").iterdir():
        for line in path.read_text().splitlines():
            assert not re.search(r"\s-[a-zA-Z]*k\b|--insecure|--no-check|GIT_SSL|unverified", line), f"{path}: {line}"


@EDITIONS
def test_shellcheck_is_content_with_the_whole(tmp_path, rendered, edition):
    script = tmp_path / "user-data.sh"
    script.write_text(rendered(edition))
    shellcheck = os.environ.get("SHELLCHECK", "shellcheck")
    # Not every setting is for every edition.
    done = subprocess.run([shellcheck, "--exclude=SC2034", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
