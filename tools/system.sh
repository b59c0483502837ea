#!/bin/sh
# Installs the system packages that some tests need, where that is possible; elsewhere names what is missing.
# The tests for a missing program are skipped with a message.
set -eu

missing=""
# The peer's sandbox.
command -v bwrap >/dev/null 2>&1 || missing="$missing bubblewrap"
# The laboratory of network namespaces, with real NATs.
command -v ip >/dev/null 2>&1 || missing="$missing iproute2"
command -v iptables >/dev/null 2>&1 || missing="$missing iptables"

[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing from Debian:$missing"
    apt-get update -qq
    # shellcheck disable=SC2086 - one word a package
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
    exit 0
fi

echo "not installed:$missing. Tests that need it are skipped; install it with your system's package manager." >&2
