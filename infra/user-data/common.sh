# shellcheck shell=bash
# What both kinds of user data need: the instance's identity from IMDSv2, its Puppet name, and the agent's first runs.
# Part of the launch template's user data, before pe.sh or open-source.sh; what they need to know comes from the STAGEDOOR_
# variables that the template puts in front (docs/deployment.md). No credential is written, and nothing here may purge:
# a reboot changes nothing.
set -euo pipefail

confdir=${STAGEDOOR_CONFDIR:-/etc/puppetlabs/puppet}
puppet=${STAGEDOOR_PUPPET:-/opt/puppetlabs/bin/puppet}

say() { echo "stagedoor: $*"; }
die() { echo "stagedoor: $*" >&2; exit 1; }

for setting in STAGEDOOR_SERVER STAGEDOOR_CERTNAME STAGEDOOR_PP_ROLE STAGEDOOR_CHALLENGE_SECRET STAGEDOOR_CA_CERT; do
  [ -n "${!setting:-}" ] || die "$setting is not set"
done

# The installation and the agent's first successful run must finish within 70 minutes. On Puppet Enterprise, a compiler's first run
# fails, or its PuppetDB blocks it, until other hosts have run Puppet (docs/puppet-enterprise.md).
deadline=$((SECONDS + ${STAGEDOOR_TIMEOUT_S:-4200}))

scratch=$(mktemp -d)
unfinished=()
leave() {
  local code=$?
  rm -rf "$scratch"
  # What was put in place for an installation that then failed must not be found by the next attempt, or by an agent.
  if [ "$code" != 0 ] && [ "${#unfinished[@]}" -gt 0 ]; then rm -f "${unfinished[@]}" "${unfinished[@]/%/.new}"; fi
}
trap leave EXIT

# Waits for the next attempt at what has failed, as $1 says, unless the time is over.
again() {
  [ "$SECONDS" -lt "$deadline" ] || die "$1, and there is no time left"
  say "$1; trying again"
  sleep "${STAGEDOOR_PAUSE_S:-15}"
}

retries=${STAGEDOOR_RETRIES:-10}
# curl for the metadata service: never through a proxy, and with retries, as the network may still be starting.
metadata_curl() {
  curl --silent --show-error --fail --globoff --noproxy '*' --connect-timeout 2 --max-time 5 \
    --retry "$retries" --retry-delay 1 --retry-connrefused --header @- "$@"
}
# The metadata service has an IPv4 address and, where the launch template enables it, an IPv6 address: in a subnet with IPv6 alone
# only that is reached. The token is valid for longer than all attempts take.
read -ra services <<<"${STAGEDOOR_IMDS:-http://169.254.169.254 http://[fd00:ec2::254]}"
find_metadata_service() {
  local attempt service
  for ((attempt = 0; attempt <= retries; attempt++)); do
    [ "$attempt" = 0 ] || sleep 1
    for service in "${services[@]}"; do
      imds=$service/latest
      token=$(metadata_curl --retry 0 --request PUT "$imds/api/token" <<<"X-aws-ec2-metadata-token-ttl-seconds: 21600") &&
        return
    done
  done
  return 1
}
find_metadata_service || die "the metadata service gives no IMDSv2 token"
# Passed on standard input, so that no process list shows it.
metadata() { metadata_curl "$imds/$1" <<<"X-aws-ec2-metadata-token: $token" || die "the metadata service does not say $1"; }

instance_id=$(metadata meta-data/instance-id)
private_dns=$(metadata meta-data/local-hostname)
region=$(metadata meta-data/placement/region)
private_dns=${private_dns%% *}
[[ $instance_id =~ ^i-[0-9a-f]{8,17}$ ]] || die "'$instance_id' is not an instance id"

certname=${STAGEDOOR_CERTNAME//\{instance_id\}/$instance_id}
certname=${certname//\{private_dns\}/$private_dns}
certname=${certname,,}
[[ $certname =~ ^[a-z0-9]([a-z0-9._-]*[a-z0-9])?$ ]] ||
  die "the certname '$certname' cannot be used; STAGEDOOR_CERTNAME knows {private_dns} and {instance_id}"

attributes=$confdir/csr_attributes.yaml
if [ -s "$confdir/ssl/certs/$certname.pem" ] && grep -qs "pp_instance_id: \"$instance_id\"" "$attributes"; then
  say "$certname is enrolled already; nothing to do"
  exit 0
fi
if compgen -G "$confdir/ssl/private_keys/*.pem" >/dev/null && ! grep -qs "pp_instance_id: \"$instance_id\"" "$attributes"; then
  die "$confdir/ssl belongs to another instance: make images without it"
fi

# The challenge, from Secrets Manager with the instance role, which may read nothing else. Python is there wherever cloud-init is.
# Code 2: another attempt would get the same answer.
ask_for_challenge() {
  local role credentials
  role=$(metadata meta-data/iam/security-credentials/) || return 1
  credentials=$(metadata "meta-data/iam/security-credentials/${role%%$'\n'*}") || return 1
  printf %s "$credentials" | "$(command -v python3 || echo /usr/libexec/platform-python)" -c '
import datetime, hashlib, hmac, json, re, sys, urllib.request
role, (region, secret, endpoint) = json.load(sys.stdin), sys.argv[1:]
url = endpoint or "https://secretsmanager.%s.amazonaws.com%s/" % (region, ".cn" if region.startswith("cn-") else "")
body = json.dumps({"SecretId": secret})
moment = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
headers = {
    "content-type": "application/x-amz-json-1.1",
    "host": url.split("/")[2],
    "x-amz-date": moment,
    "x-amz-security-token": role["Token"],
    "x-amz-target": "secretsmanager.GetSecretValue",
}
digest = lambda text: hashlib.sha256(text.encode()).hexdigest()
names = ";".join(sorted(headers))
request = ["POST", "/", "", *("%s:%s" % (name, headers[name]) for name in sorted(headers)), "", names, digest(body)]
scope = "/".join([moment[:8], region, "secretsmanager", "aws4_request"])
key = ("AWS4" + role["SecretAccessKey"]).encode()
for part in [*scope.split("/"), "\n".join(["AWS4-HMAC-SHA256", moment, scope, digest("\n".join(request))])]:
    key = hmac.new(key, part.encode(), hashlib.sha256).digest()
headers["authorization"] = "AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=%s, Signature=%s" % (
    role["AccessKeyId"], scope, names, key.hex())
try:
    answer = urllib.request.urlopen(urllib.request.Request(url, body.encode(), headers), timeout=20)
    print(json.load(answer).get("SecretString", ""))
except Exception as problem:
    # Of an answer only its kind: what is said about a bad signature has the session token in it.
    kind = " ".join(re.findall(r"__type\W+([\w.#]+)", problem.read().decode()) if hasattr(problem, "read") else [])
    print("stagedoor: Secrets Manager does not give the challenge: %s %s" % (problem, kind), file=sys.stderr)
    refused = 400 <= getattr(problem, "code", 0) < 500 and problem.code != 429
    sys.exit(2 if refused and not re.search("Throttl|TooMany|LimitExceeded|SlowDown|Timeout", kind) else 1)
' "$region" "$STAGEDOOR_CHALLENGE_SECRET" "${STAGEDOOR_SECRETS_ENDPOINT:-}"
}
# Retried: the role's credentials, name resolution and the route to Secrets Manager may not be ready yet.
until challenge=$(ask_for_challenge); do
  [ $? != 2 ] || die "no challenge, no request"
  again "no challenge yet"
done
[[ $challenge =~ ^[A-Za-z0-9+/=._~-]{8,}$ ]] || die "the challenge must be 8 or more of A-Z a-z 0-9 + / = . _ ~ -"

# Fetches URL $2 into the file $1, with more options for curl after them. Retried: the first instances start while
# the firewalls are still being opened to their security group.
fetch() {
  until curl --silent --show-error --fail --proto '=https' --tlsv1.2 --connect-timeout 10 --max-time 120 \
    --output "$1" "$2" "${@:3}"; do
    again "$2 does not answer with a file"
  done
}

# Puts standard input in place as file $1 with mode $2, whole or not at all.
put() {
  mkdir -p "$(dirname "$1")"
  (umask 077 && cat >"$1.new")
  chmod "$2" "$1.new"
  [ -e "$1" ] || unfinished+=("$1")
  mv "$1.new" "$1"
}

# Further extensions: OID=value, separated by commas.
extensions=()
if [ -n "${STAGEDOOR_EXTENSIONS:-}" ]; then
  IFS=, read -ra extensions <<<"$STAGEDOOR_EXTENSIONS"
  for extension in "${extensions[@]}"; do
    [[ $extension =~ ^[0-9a-z_.]+=[A-Za-z0-9_.:/-]+$ ]] || die "STAGEDOOR_EXTENSIONS has '$extension', which is not OID=value"
  done
fi

# What the certificate request says, and the CA to trust from the first byte on. The agent reads both when it makes its request.
write_identity() {
  put "$attributes" 600 < <(
    echo "extension_requests:"
    echo "  pp_instance_id: \"$instance_id\""
    echo "  pp_role: \"$STAGEDOOR_PP_ROLE\""
    if [ -n "${STAGEDOOR_PP_AUTH_ROLE:-}" ]; then echo "  pp_auth_role: \"$STAGEDOOR_PP_AUTH_ROLE\""; fi
    if [ "${#extensions[@]}" -gt 0 ]; then
      for extension in "${extensions[@]}"; do echo "  \"${extension%%=*}\": \"${extension#*=}\""; done
    fi
    echo "custom_attributes:"
    echo "  challengePassword: \"$challenge\""
  )
  put "$confdir/ssl/certs/ca.pem" 644 <<<"$STAGEDOOR_CA_CERT"
}

# Runs the agent until a run succeeds. Until the controller has signed the request, each attempt ends with 1.
run_agent() {
  unfinished=()
  local code
  # Enabled but stopped. If the instance reboots before the first successful run, this script does not run again.
  # The service then runs the agent.
  "$puppet" resource service puppet ensure=stopped enable=true >/dev/null
  while true; do
    code=0
    "$puppet" agent --test --waitforcert 0 || code=$?
    # 2: the run made changes, and all of them succeeded.
    if [ "$code" = 0 ] || [ "$code" = 2 ]; then break; fi
    [ "$SECONDS" -lt "$deadline" ] || die "no agent run went through in time; the last one ended with $code"
    sleep "${STAGEDOOR_PAUSE_S:-15}"
  done
  "$puppet" resource service puppet ensure=running enable=true >/dev/null
  say "$certname is enrolled"
}
