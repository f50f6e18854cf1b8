# shellcheck shell=bash
# Puppet Enterprise: installs the agent from the primary's package repository. Comes after common.sh. STAGEDOOR_SERVER is the primary,
# not the compilers' load balancer: until file sync admits a new compiler, only the primary has the code that it needs.

url=${STAGEDOOR_INSTALLER:-https://$STAGEDOOR_SERVER:8140/packages/current/install.bash}
printf '%s\n' "$STAGEDOOR_CA_CERT" >"$scratch/ca.pem"
fetch "$scratch/install.bash" "$url" --cacert "$scratch/ca.pem"

write_identity
settings=("main:certname=$certname" "main:server=$STAGEDOOR_SERVER")
if [ -n "${STAGEDOOR_ALT_NAMES:-}" ]; then settings+=("main:dns_alt_names=$STAGEDOOR_ALT_NAMES"); fi
# Stopped and disabled: no run may begin before this script starts one. `run_agent` enables the service.
until bash "$scratch/install.bash" "${settings[@]}" --puppet-service-ensure stopped --puppet-service-enable false; do
  again "the installer failed"
done
run_agent
