# shellcheck shell=bash
# Puppet Enterprise: the agent from the primary's own package repository. Comes after common.sh.

url=${STAGEDOOR_INSTALLER:-https://$STAGEDOOR_SERVER:8140/packages/current/install.bash}
printf '%s\n' "$STAGEDOOR_CA_CERT" >"$scratch/ca.pem"
fetch "$scratch/install.bash" "$url" --cacert "$scratch/ca.pem"

write_identity
settings=("main:certname=$certname" "main:server=$STAGEDOOR_SERVER")
if [ -n "${STAGEDOOR_ALT_NAMES:-}" ]; then settings+=("main:dns_alt_names=$STAGEDOOR_ALT_NAMES"); fi
# Stopped: no run may begin before this script starts it.
until bash "$scratch/install.bash" "${settings[@]}" --puppet-service-ensure stopped; do again "the installer failed"; done
run_agent
