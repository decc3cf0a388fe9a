#!/usr/bin/env bash
# Debian's programs without installing them: for tests, as any user, leaving the system as it is.
#
#   debian.sh get PREFIX PACKAGE...       unpack the packages, and what they need that is not installed, below PREFIX
#   debian.sh run PREFIX PROGRAM ARG...   run a program from there
set -euo pipefail

say() { echo "debian.sh: $*" >&2; }
die() { say "$*"; exit 1; }

get() {
    local prefix=$1; shift
    command -v apt-get dpkg >/dev/null || die "no apt-get here: $* come from Debian's or Ubuntu's packages only"
    mkdir -p "$prefix"
    exec 9>"$prefix/lock"
    flock 9  # two test runs may begin together
    # What is unpacked leans on what is installed: a change there (a library removed, say) asks for another look.
    local holds
    holds="$* beside $(dpkg-query -W | sha256sum)"
    [ "$(cat "$prefix/holds" 2>/dev/null)" != "$holds" ] || return 0
    # Package lists of our own: to refresh the system's takes root, and theirs may be empty (as in containers) or old.
    local apt=(-o Dir::State::lists="$prefix/lists" -o Dir::Cache="$prefix/cache" -o APT::Sandbox::User="$(id -un)"
               -o Acquire::Languages=none -qq)
    rm -rf "$prefix/debs" "$prefix/root" "$prefix/holds"
    mkdir -p "$prefix/lists/partial" "$prefix/cache/archives/partial" "$prefix/debs" "$prefix/root"
    say "fetching $* (once, to $prefix)"
    apt-get "${apt[@]}" update >"$prefix/log" 2>&1 || die "apt-get update failed: $(tail -n 3 "$prefix/log")"
    local names
    names=$(apt-get "${apt[@]}" install -s --no-install-recommends --reinstall "$@" 2>>"$prefix/log" |
            awk '/^Inst/ {print $2}' | sort -u)
    [ -n "$names" ] || die "apt-get does not know all of $*: $(tail -n 3 "$prefix/log")"
    # shellcheck disable=SC2086  # one word per package
    (cd "$prefix/debs" && apt-get "${apt[@]}" download $names >>"$prefix/log" 2>&1) ||
        die "apt-get download failed: $(tail -n 3 "$prefix/log")"
    local deb
    for deb in "$prefix"/debs/*.deb; do dpkg -x "$deb" "$prefix/root"; done
    rm -rf "$prefix/debs" "$prefix/lists" "$prefix/cache"
    echo "$holds" >"$prefix/holds"
}

run() {
    local root=$1/root program=$2; shift 2
    local libraries=("$root"/lib/*-linux-gnu "$root"/usr/lib/*-linux-gnu "$root"/usr/lib/*-linux-gnu/{ceph,pulseaudio,blas,lapack})
    local joined
    joined=$(IFS=:; echo "${libraries[*]}")
    LD_LIBRARY_PATH=$joined PYTHONPATH=$root/usr/lib/python3/dist-packages PATH=$root/usr/bin:$PATH exec "$program" "$@"
}

case "${1:-}" in
    get) [ $# -ge 3 ] || die "usage: debian.sh get PREFIX PACKAGE..."; get "${@:2}" ;;
    run) [ $# -ge 3 ] || die "usage: debian.sh run PREFIX PROGRAM ARG..."; run "${@:2}" ;;
    *) die "usage: debian.sh get|run PREFIX ..." ;;
esac
