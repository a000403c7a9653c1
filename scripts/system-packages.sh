#!/bin/sh
# Installs the Debian packages that set-up, demo, tests and bench run, and says which and why; does nothing when all are there.
# usage: system-packages.sh [python]      with "python": only what makes the virtual environment
set -eu

python_packages="
python3-venv|makes .venv
"
# Commands that tests and demo run, the package that brings each, and what it is for.
tool_packages="
gpg|gnupg|the unmodified client
gpg-agent|gpg-agent|the reference that the bench measures against
rpmsign|rpm|signs and verifies packages
rpmbuild|rpm|builds the demo's package
createrepo_c|createrepo-c|makes the demo's repository
dnf|dnf|installs from it with gpgcheck=1
strace|strace|injects faults in tests
shellcheck|shellcheck|checks our shell scripts
socat|socat|speaks to sockets in tests
"

missing=""
if [ "${1:-}" = python ]; then
    python3 -c 'import ensurepip, venv' 2>/dev/null || missing="python3-venv"
    reason="$python_packages"
else
    old_ifs=$IFS
    IFS='
'
    for line in $tool_packages; do
        command=${line%%|*}
        rest=${line#*|}
        command -v "$command" >/dev/null 2>&1 && continue
        printf 'blind-oracle: %s is missing: Debian package %s (%s)\n' "$command" "${rest%%|*}" "${rest#*|}" >&2
        missing="$missing ${rest%%|*}"
    done
    IFS=$old_ifs
    reason=""
fi
[ -n "$missing" ] || exit 0
[ -z "$reason" ] || printf 'blind-oracle: python3-venv is missing (it makes .venv)\n' >&2

if ! command -v apt-get >/dev/null 2>&1; then
    echo "blind-oracle: error: not a Debian system: install the packages named above by hand" >&2
    exit 1
fi
as_root=""
[ "$(id -u)" = 0 ] || as_root=sudo
echo "blind-oracle: installing with apt-get:$missing" >&2
$as_root apt-get -qq -o DPkg::Lock::Timeout=600 update
# shellcheck disable=SC2086  # a list of package names
$as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=600 install -y --no-install-recommends $missing >/dev/null
