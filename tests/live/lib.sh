# shellcheck shell=bash
# What `stage` and `agent` share: where things are, how they speak, how they ask the CA.

# shellcheck disable=SC2034  # read by the scripts that source this file
{
    LIVE_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
    REPO=$(cd "$LIVE_DIR/../.." && pwd)

    # The repository's side: logs, credentials for the tests, agents. Everything here may be deleted when the stage is down.
    CACHE=$REPO/.cache/live
    LOGS=$CACHE/logs
    CREDENTIALS=$CACHE/credentials
    AGENTS=$CACHE/agents
    DESCRIPTOR=$CACHE/stage.json

    # The servers' side. One fixed place for the machine, because the servers run under their packages' own
    # users, who may not be able to enter the checkout, and so that every checkout finds what another one started.
    STATE=/var/lib/stagedoor-live

    CA_URL=https://localhost:8140
    PUPPETDB_URL=https://localhost:8081
    POSTGRES_PORT=58432 # not 5432: a cluster of the machine's own may run there

    CONTROLLER=controller.stagedoor.test
    OUTSIDER=outsider.stagedoor.test
    # Puppet Server stands for the compilers of this domain too: its certificate is valid for their names.
    COMPILERS=compilers.stagedoor.test
}

STARTED_AT=$SECONDS

say() {
    printf 'live: %4ss  %s\n' "$((SECONDS - STARTED_AT))" "$*"
}

# fail WHAT REMEDY [LOG]: what happened, the end of the log that explains it, what to do.
fail() {
    local what=$1 remedy=$2 log=${3:-}
    {
        printf '\nlive: FAILED: %s\n' "$what"
        if [[ -n $log && -s $log ]]; then
            printf -- '----- the last lines of %s\n' "$log"
            tail -n 30 "$log"
            printf -- '-----\n'
        fi
        printf 'live: what to do: %s\n' "$remedy"
    } >&2
    exit 1
}

# An unexpected failure also has to say where it happened.
trap 'printf "live: FAILED unexpectedly at %s:%s: %s\n" "${BASH_SOURCE[0]}" "$LINENO" "$BASH_COMMAND" >&2' ERR

# api CURL-ARGUMENTS: a request to one of the servers as the controller; prints the body, then the status on a line of its own.
api() {
    curl --silent --show-error --noproxy '*' --max-time 90 \
        --cacert "$CREDENTIALS/ca.pem" \
        --cert "$CREDENTIALS/$CONTROLLER.cert.pem" --key "$CREDENTIALS/$CONTROLLER.key.pem" \
        --write-out '\n%{http_code}\n' "$@"
}
