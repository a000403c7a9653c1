#!/bin/sh
# Installs the Debian packages that set-up, demo, tests and bench run, and says which and why; does nothing when all are there.
# usage: [PYTHON=python3.11] system-packages.sh [python|conformance|hosts]
#   python       only what makes the virtual environment
#   hosts        only what `make test-hosts` runs besides: what boots a Debian
#   conformance  only what `make test-conformance` runs besides: the clients of a Debian build server
set -eu
PATH="$PATH:/usr/sbin"  # where daemons lie, and which not every user has there

# Commands that tests and demo run, the package that brings each, and what it is for.
tools="
gpg|gnupg|the unmodified client
gpg-agent|gpg-agent|the reference that the bench measures against
rpmsign|rpm|signs and verifies packages
rpmbuild|rpm|builds the demo's package
createrepo_c|createrepo-c|makes the demo's repository
dnf|dnf|installs from it with gpgcheck=1
git|git|signs commits and tags in tests
debsign|devscripts|signs source packages in tests
sq|sq|verifies what needs no gpg to be signed, in tests
openssl|openssl|makes a protected TLS key in tests
strace|strace|injects faults in tests
faketime|faketime|lets clocks jump in tests
shellcheck|shellcheck|checks our shell scripts
groff|groff-base|reads our man pages in tests
fish|fish|completes our commands in tests
socat|socat|speaks to sockets in tests
ip|iproute2|makes networks of their own in tests
ssh|openssh-client|reaches oracles and forwards sockets, in tests and bench
/usr/sbin/sshd|openssh-server|the other end of that
curl|curl|runs the examples of docs/HTTP-API.md in tests
nginx|nginx-light|stands before the oracle in tests
/usr/lib/nginx/modules/ngx_stream_module.so|libnginx-mod-stream|passes relays through in tests
promtool|prometheus|checks our alert rules
systemd-analyze|systemd|checks our units
systemd-socket-activate|systemd|starts daemons by their sockets in tests and the bench
nft|nftables|filters in network namespaces of tests
pg_ctlcluster|postgresql|holds a registry that several oracles share, in tests
"
clients="
/usr/bin/reprepro|reprepro|signs an apt repository
/usr/lib/python3/dist-packages/gpg/__init__.py|python3-gpg|gpgme, as Python calls it
/usr/lib/python3/dist-packages/gnupg.py|python3-gnupg|runs gpg for Python programs
/usr/bin/mmdebstrap|mmdebstrap|makes a tree of another Debian release
"

# What `make test-hosts` runs besides.
machines="
systemd-nspawn|systemd-container|boots a Debian in tests
/sbin/init|systemd-sysv|is what boots there
dbus-daemon|dbus|systemctl speaks over it there
podman|podman|builds and runs our images
runc|runc|runs them where cgroups are of two kinds
/usr/bin/mmdebstrap|mmdebstrap|makes the Debian that they begin with
/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1|libfaketime|gives a host a wrong clock
/usr/lib/python3/dist-packages/cryptography/__init__.py|python3-cryptography|what our package recommends, for hosts without a network
/usr/lib/python3/dist-packages/nacl/__init__.py|python3-nacl|the same
"

missing=""
needs() { # PACKAGE REASON
    printf 'blind-oracle: missing: Debian package %s (%s)\n' "$1" "$2" >&2
    case " $missing " in *" $1 "*) ;; *) missing="$missing $1" ;; esac
}

is_there() { # COMMAND, or the path of a file
    case $1 in /*) [ -e "$1" ] ;; *) command -v "$1" >/dev/null 2>&1 ;; esac
}

[ "${1:-}" != conformance ] || tools=$clients
[ "${1:-}" != hosts ] || tools=$machines
if [ "${1:-}" = python ]; then
    python=${PYTHON:-python3}
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        echo "blind-oracle: error: $python: expected Python 3.11 or newer" >&2
        echo "blind-oracle: hint: make setup PYTHON=/path/to/python3.11" >&2
        exit 1
    fi
    "$python" -c 'import ensurepip, venv' 2>/dev/null || needs python3-venv "makes .venv"
else
    while IFS='|' read -r command package reason; do
        [ -z "$command" ] || is_there "$command" || needs "$package" "$command: $reason"
    done <<EOF
$tools
EOF
fi
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null 2>&1; then
    echo "blind-oracle: error: not a Debian system: install what is named above by hand" >&2
    exit 1
fi
as_root=""
if [ "$(id -u)" != 0 ]; then
    if ! command -v sudo >/dev/null 2>&1; then
        echo "blind-oracle: error: only root can install packages, and there is no sudo" >&2
        echo "blind-oracle: hint: as root: apt-get install$missing" >&2
        exit 1
    fi
    as_root=sudo
fi
echo "blind-oracle: installing with apt-get:$missing" >&2
$as_root apt-get -qq -o DPkg::Lock::Timeout=600 update
# shellcheck disable=SC2086  # a list of package names
$as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=600 install -y --no-install-recommends $missing >/dev/null
