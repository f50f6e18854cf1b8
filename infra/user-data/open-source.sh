# shellcheck shell=bash
# Open source Puppet and OpenVox: packages from their repository, which the release package sets up. Comes after common.sh.

release=${STAGEDOOR_RELEASE_PACKAGE:?URL of the release package, such as https://apt.voxpupuli.org/openvox8-release-debian12.deb}
package=${STAGEDOOR_PACKAGE:-openvox-agent}
curl --silent --show-error --fail --location --proto '=https' --tlsv1.2 --connect-timeout 10 --max-time 120 \
  --retry "${STAGEDOOR_RETRIES:-10}" --retry-delay 1 --retry-connrefused --output "$scratch/release.${release##*.}" "$release" ||
  die "$release did not give the release package"

case $release in
  *.deb)
    export DEBIAN_FRONTEND=noninteractive
    dpkg --install "$scratch/release.deb" && apt-get update && apt-get install --yes "$package"
    ;;
  *.rpm)
    dnf install --assumeyes "$scratch/release.rpm" && dnf install --assumeyes "$package"
    ;;
  *) die "$release is neither .deb nor .rpm" ;;
esac || die "installing $package failed"

write_identity
put "$confdir/puppet.conf" 644 < <(
  printf '[main]\ncertname = %s\nserver = %s\n' "$certname" "$STAGEDOOR_SERVER"
  if [ -n "${STAGEDOOR_ALT_NAMES:-}" ]; then printf 'dns_alt_names = %s\n' "$STAGEDOOR_ALT_NAMES"; fi
)
run_agent
