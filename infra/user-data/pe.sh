# shellcheck shell=bash
# Puppet Enterprise: the agent from the primary's own package repository. Comes after common.sh.

url=${STAGEDOOR_INSTALLER:-https://$STAGEDOOR_SERVER:8140/packages/current/install.bash}
printf '%s\n' "$STAGEDOOR_CA_CERT" >"$scratch/ca.pem"
curl --silent --show-error --fail --proto '=https' --tlsv1.2 --cacert "$scratch/ca.pem" --connect-timeout 10 --max-time 120 \
  --retry "${STAGEDOOR_RETRIES:-10}" --retry-delay 1 --retry-connrefused --output "$scratch/install.bash" "$url" ||
  die "$url did not give the installer"

write_identity
settings=("main:certname=$certname" "main:server=$STAGEDOOR_SERVER")
if [ -n "${STAGEDOOR_ALT_NAMES:-}" ]; then settings+=("main:dns_alt_names=$STAGEDOOR_ALT_NAMES"); fi
# Stopped: no run may begin before this script says so.
bash "$scratch/install.bash" "${settings[@]}" --puppet-service-ensure stopped || die "the installer failed"
run_agent
