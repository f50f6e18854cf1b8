# shellcheck shell=bash
# Other Debian releases beside the machine's own, for other releases of Puppet: each in a root directory of its own, made once
# and kept outside the checkout. The network is shared, so servers in a root answer on the machine's loopback ports.

# Where the roots are kept.
ROOTS=${STAGEDOOR_LIVE_ROOTS:-${XDG_CACHE_HOME:-$HOME/.cache}/stagedoor/roots}
KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

# server_release: the Debian release whose servers PUPPET stands for; nothing for the machine's own.
server_release() {
    case ${PUPPET:-7} in
    7) ;;
    8) echo trixie ;;
    *) fail "PUPPET=$PUPPET is not known" 'PUPPET=7 (Debian 12, the default) or PUPPET=8 (Debian 13)' ;;
    esac
}

# agent_release: the Debian release whose agent AGENT stands for; by default the servers' own.
agent_release() {
    case ${AGENT:-} in
    '') server_release ;;
    openvox9) echo sid ;;
    *) fail "AGENT=$AGENT is not known" 'AGENT=openvox9, or leave it out for the agent of the servers'"'"' release' ;;
    esac
}

# mirror: where the machine itself gets Debian's packages from.
mirror() {
    # shellcheck disable=SC2016  # apt-get fills these in
    apt-get indextargets --format '$(REPO_URI) $(ORIGIN)' |
        awk 'NF == 2 && $2 == "Debian" && $1 !~ /security/ && !found { found = 1; print $1 }'
}

# make_root RELEASE PACKAGE…: makes the root of a release, if there is none with these packages.
make_root() {
    local release=$1 root=$ROOTS/$1 log=$LOGS/root-$1.log from options=()
    shift
    [[ ! -s $root/.packages || $(<"$root/.packages") != "$*" ]] || return 0
    if ! command -v mmdebstrap >/dev/null; then
        say 'installing mmdebstrap'
        apt_get update "$log"
        apt_get install "$log" --yes --no-install-recommends mmdebstrap
    fi
    # Lists of the machine's own packages, to read the mirror from.
    from=$(mirror)
    if [[ -z $from ]]; then
        apt_get update "$log"
        from=$(mirror)
    fi
    [[ -n $from ]] || fail 'the machine has no source of Debian packages' 'add one to /etc/apt/sources.list.d' "$log"
    # What its Release file says of its validity may be over before the next one is made.
    [[ $release != sid ]] || options+=('--aptopt=Acquire::Check-Valid-Until "false"')
    say "making a root of Debian $release in $root (one to two minutes; log: $log)"
    install -d -m 0755 "$ROOTS"
    rm -rf --one-file-system "${root:?}.new"
    mmdebstrap --quiet --variant=minbase "${options[@]}" --include="$(tr ' ' ',' <<<"$*")" "$release" "$root.new" \
        "deb [signed-by=$KEYRING] $from $release main" >>"$log" 2>&1 ||
        fail "the root of Debian $release could not be made" \
            "see the log; packages come from Debian's archive, which this machine must be able to reach" "$log"
    printf '%s\n' "$*" >"$root.new/.packages"
    rm -rf --one-file-system "${root:?}"
    mv "$root.new" "$root"
}

# check_roots: whether this machine lets a root be entered at all.
check_roots() {
    unshare --mount --propagation private true 2>/dev/null ||
        fail 'this machine does not allow mounts in a namespace of their own' \
            'PUPPET=8 and AGENT=openvox9 need CAP_SYS_ADMIN: use a virtual machine, or a container with that capability'
}

# enter_root RELEASE COMMAND…: becomes this command, in the root of the release. What it shares with the machine is mounted in a
# namespace of its own, so nothing stays mounted afterwards and nothing can be removed through the root by mistake.
enter_root() {
    local release=$1
    shift
    install -d -m 0755 "$STATE"
    # shellcheck disable=SC2016  # for the inner shell
    exec unshare --mount --propagation private bash -euc '
        root=$1 repo=$2 state=$3
        shift 3
        for directory in /proc /dev /sys; do mount --rbind "$directory" "$root$directory"; done
        for directory in /run/lock "$state" "$repo"; do
            mkdir -p "$root$directory"
            mount --rbind "$directory" "$root$directory"
        done
        for file in /etc/hosts /etc/resolv.conf; do
            touch "$root$file"
            mount --bind "$file" "$root$file"
        done
        exec chroot "$root" env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 HOME=/root \
            PUPPET="${PUPPET:-}" AGENT="${AGENT:-}" CA="${CA:-}" STAGEDOOR_IN_ROOT=yes "$@"
    ' enter_root "$ROOTS/$release" "$REPO" "$STATE" "$@"
}
