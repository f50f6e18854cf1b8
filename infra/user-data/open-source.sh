# shellcheck shell=bash
# Open source Puppet and OpenVox: packages from their repository, which the release package sets up. Comes after common.sh.

release=${STAGEDOOR_RELEASE_PACKAGE:?URL of the release package, such as https://apt.voxpupuli.org/openvox8-release-debian12.deb}
package=${STAGEDOOR_PACKAGE:-openvox-agent}
fetch "$scratch/release.${release##*.}" "$release" --location

case $release in
  *.deb)
    export DEBIAN_FRONTEND=noninteractive
    # The timers of the operating system may hold the lock when an instance starts.
    apt() { apt-get --yes -o DPkg::Lock::Timeout=300 -o Acquire::Retries=5 "$@"; }
    install_agent() { apt install "$scratch/release.deb" && apt update && apt install "$package"; }
    ;;
  *.rpm)
    install_agent() { dnf install --assumeyes "$scratch/release.rpm" && dnf install --assumeyes "$package"; }
    ;;
  *) die "$release is neither .deb nor .rpm" ;;
esac
until install_agent; do again "installing $package failed"; done

write_identity
put "$confdir/puppet.conf" 644 < <(
  printf '[main]\ncertname = %s\nserver = %s\n' "$certname" "$STAGEDOOR_SERVER"
  if [ -n "${STAGEDOOR_ALT_NAMES:-}" ]; then printf 'dns_alt_names = %s\n' "$STAGEDOOR_ALT_NAMES"; fi
)
run_agent
