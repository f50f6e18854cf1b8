"""What user data meets on an instance, on loopback: the metadata service, Secrets Manager, a package repository, and the
programs that it calls."""

import datetime
import json
import os
import socket
import ssl
import subprocess
import textwrap
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

INSTANCE = "i-0a1b2c3d4e5f60718"
TOKEN = "imdsv2-token"
CHALLENGE = "one-time-7Qm2"
SECRET_ARN = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:stagedoor/challenge-AbCdEf"
CREDENTIALS = {"AccessKeyId": "ASIAEXAMPLE", "SecretAccessKey": "wJalr/EXAMPLE+KEY", "Token": "session/token=="}
METADATA = {
    "meta-data/instance-id": INSTANCE,
    "meta-data/local-hostname": "ip-10-0-3-7.eu-west-1.compute.internal",
    "meta-data/placement/region": "eu-west-1",
    "meta-data/iam/security-credentials/": "compilers\n",
    "meta-data/iam/security-credentials/compilers": json.dumps(CREDENTIALS),
}


class Server:
    """An HTTP server on a port of its own; `answer(handler)` returns status and text."""

    def __init__(self, answer, context=None, host="127.0.0.1"):
        self.requests = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def serve(self):
                self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                outer.requests.append((self.command, self.path, dict(self.headers)))
                status, text = answer(self)
                self.send_response(status)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            do_GET = do_PUT = do_POST = serve

            def log_message(self, *_):
                pass

        class Quiet(ThreadingHTTPServer):
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

            def handle_error(self, *_):
                pass

        self.http = Quiet((host, 0), Handler)
        if context:
            self.http.socket = context.wrap_socket(self.http.socket, server_side=True)
        self.port = self.http.server_address[1]
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def close(self):
        self.http.shutdown()
        self.http.server_close()


def metadata_service(metadata, late=0, not_yet=(), host="127.0.0.1"):
    """IMDSv2: nothing without a token, and a token only by PUT. The first `late` requests it cannot answer yet, and what is
    `not_yet` there it does not know when it is first asked."""
    countdown = iter(range(late))
    missing = set(not_yet)

    def answer(request):
        path = request.path.removeprefix("/latest/")
        if next(countdown, None) is not None:
            return 503, ""
        if path == "api/token":
            granted = request.command == "PUT" and request.headers.get("X-aws-ec2-metadata-token-ttl-seconds")
            return (200, TOKEN) if granted else (403, "")
        if request.headers.get("X-aws-ec2-metadata-token") != TOKEN:
            return 401, ""
        if path in missing:
            missing.remove(path)
            return 404, ""
        return (200, metadata[path]) if path in metadata else (404, "")

    return Server(answer, host=host)


def secrets_manager(secret=CHALLENGE, first=()):
    """GetSecretValue, for a request that is signed as botocore would sign it. What is in `first` it answers first; None: nothing."""
    waiting = iter(first)

    def answer(request):
        for troubled in waiting:
            if troubled is None:
                raise ConnectionAbortedError
            return troubled
        signed = request.headers["Authorization"].split("SignedHeaders=")[1].split(",")[0].split(";")
        expected = AWSRequest(
            method="POST",
            url=f"http://{request.headers['Host']}/",
            data=request.body,
            headers={name: request.headers[name] for name in signed if name not in ("x-amz-date", "host")},
        )
        role = Credentials(CREDENTIALS["AccessKeyId"], CREDENTIALS["SecretAccessKey"], CREDENTIALS["Token"])
        signer = SigV4Auth(role, "secretsmanager", "eu-west-1")
        moment = request.headers["x-amz-date"]
        expected.context["timestamp"] = moment
        del expected.headers["X-Amz-Security-Token"]
        expected.headers["X-Amz-Date"] = moment
        expected.headers["X-Amz-Security-Token"] = CREDENTIALS["Token"]
        string = signer.string_to_sign(expected, signer.canonical_request(expected))
        good = request.headers["Authorization"].endswith(f"Signature={signer.signature(string, expected)}")
        age = datetime.datetime.now(datetime.timezone.utc) - datetime.datetime.strptime(
            moment + "+0000", "%Y%m%dT%H%M%SZ%z"
        )
        if not good or abs(age.total_seconds()) > 300 or "x-amz-security-token" not in signed:
            return 400, '{"__type": "InvalidSignatureException"}'
        if request.headers["X-Amz-Target"] != "secretsmanager.GetSecretValue":
            return 400, '{"__type": "UnknownOperationException"}'
        if json.loads(request.body) != {"SecretId": SECRET_ARN}:
            return 400, '{"__type": "ResourceNotFoundException"}'
        return 200, json.dumps({"SecretString": secret})

    return Server(answer)


class Authority:
    """A certificate authority, and a server certificate of it for localhost."""

    def __init__(self, directory: Path, name: str):
        now = datetime.datetime.now(datetime.timezone.utc)

        def issue(subject, key, issuer, issuer_key, extension):
            return (
                x509.CertificateBuilder()
                .subject_name(subject)
                .issuer_name(issuer)
                .public_key(key.public_key())
                .serial_number(x509.random_serial_number())
                .not_valid_before(now - datetime.timedelta(days=1))
                .not_valid_after(now + datetime.timedelta(days=1))
                .add_extension(extension, critical=False)
                .sign(issuer_key, hashes.SHA256())
            )

        def named(text):
            return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

        root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        root = issue(named(name), root_key, named(name), root_key, x509.BasicConstraints(ca=True, path_length=None))
        leaf = issue(
            named("localhost"), key, named(name), root_key, x509.SubjectAlternativeName([x509.DNSName("localhost")])
        )
        self.pem = root.public_bytes(serialization.Encoding.PEM).decode().strip()
        self.path = directory / f"{name}.pem"
        self.path.write_text(self.pem)
        chain = directory / f"{name}-server.pem"
        chain.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + leaf.public_bytes(serialization.Encoding.PEM)
        )
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(chain)


# Installs as Puppet Enterprise's script does: it records its arguments, and puts the agent's settings in place. Like the package
# managers below it fails as often as $SANDBOX/failures says.
INSTALLER = """#!/bin/bash
echo "installer $*" >>"$SANDBOX/calls"
left=$(cat "$SANDBOX/failures")
if [ "$left" -gt 0 ]; then echo $((left - 1)) >"$SANDBOX/failures"; exit 7; fi
echo "$*" >"$STAGEDOOR_CONFDIR/puppet.conf"
"""

# The agent enrols at the run that $SANDBOX/runs counts down to; what it would put into its request, it keeps.
PUPPET = """#!/bin/bash
echo "puppet $*" >>"$SANDBOX/calls"
[ "$1" = agent ] || exit 0
ssl=$STAGEDOOR_CONFDIR/ssl
mkdir -p "$ssl/private_keys"
touch "$ssl/private_keys/node.pem"
left=$(cat "$SANDBOX/runs")
if [ "$left" -gt 0 ]; then echo $((left - 1)) >"$SANDBOX/runs"; exit 1; fi
touch "$SANDBOX/enrolled"
exit 2
"""

# apt-get and dnf.
INSTALL = """#!/bin/bash
echo "$(basename "$0") $*" >>"$SANDBOX/calls"
left=$(cat "$SANDBOX/failures")
if [ "$left" -gt 0 ]; then echo $((left - 1)) >"$SANDBOX/failures"; exit 100; fi
"""


class Sandbox:
    """A directory that stands for an instance, with stubs first in PATH."""

    def __init__(self, directory: Path):
        self.root = directory
        self.confdir = directory / "etc" / "puppet"
        self.bin = directory / "bin"
        self.temporary = directory / "tmp"
        for one in (self.bin, self.temporary):
            one.mkdir(parents=True)
        for name, text in {"puppet": PUPPET, "apt-get": INSTALL, "dnf": INSTALL}.items():
            (self.bin / name).write_text(textwrap.dedent(text))
            (self.bin / name).chmod(0o755)
        (directory / "runs").write_text("0")
        (directory / "failures").write_text("0")

    def run(self, user_data: str, **environment):
        """Runs the user data as cloud-init does: a file, as it is."""
        script = self.root / "user-data"
        script.write_text(user_data)
        script.chmod(0o700)
        return subprocess.run(
            [script],
            env={
                "PATH": f"{self.bin}:{os.environ['PATH']}",
                "TMPDIR": str(self.temporary),
                "SANDBOX": str(self.root),
                "STAGEDOOR_CONFDIR": str(self.confdir),
                "STAGEDOOR_PUPPET": str(self.bin / "puppet"),
                "STAGEDOOR_PAUSE_S": "0",
                "STAGEDOOR_RETRIES": "0",
                # Must not be used for the metadata service, which is at 127.0.0.1; the other servers are at localhost.
                "http_proxy": "http://127.0.0.1:1",
                "no_proxy": "localhost",
                **environment,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def calls(self):
        """What was called, one line each."""
        file = self.root / "calls"
        return file.read_text().splitlines() if file.exists() else []

    def files(self):
        """Every file in Puppet's directory, with its content."""
        return {
            str(path.relative_to(self.confdir)): path.read_text()
            for path in sorted(self.confdir.rglob("*"))
            if path.is_file()
        }

    def enrol(self, certname):
        """The certificate that the agent fetched."""
        certificate = self.confdir / "ssl" / "certs" / f"{certname}.pem"
        certificate.write_text("certificate")
