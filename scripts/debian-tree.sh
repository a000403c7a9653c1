#!/bin/sh
# Makes a tree of another Debian release with the clients that `make test-conformance` runs there by chroot.
# usage: debian-tree.sh SUITE DIR       does nothing when DIR holds such a tree, made by this very script
set -eu

packages=gnupg,gpg-agent,rpm,sq,gpg-sq,sqv,git,devscripts,python3-gpg,python3-gnupg,reprepro,createrepo-c,dpkg-dev

suite=$1 directory=$2
made_by=$(sha256sum "$0")
[ "$(cat "$directory/.made-by" 2>/dev/null)" != "$made_by" ] || exit 0

if [ "$(id -u)" != 0 ]; then
    echo "blind-oracle: error: $directory: only root can make and enter the tree of another release" >&2
    echo "blind-oracle: hint: sudo make test-conformance" >&2
    exit 1
fi
echo "blind-oracle: making a tree of Debian $suite in $directory: about half a minute" >&2
mkdir -p "$(dirname "$directory")"
rm -rf "$directory" "$directory.new"
if ! said=$(mmdebstrap --quiet --variant=apt --include="$packages" "$suite" "$directory.new" 2>&1); then
    printf '%s\n' "$said" >&2
    echo "blind-oracle: error: no tree of Debian $suite" >&2
    exit 1
fi
# Only what lies at the end of the way is whole.
printf '%s\n' "$made_by" >"$directory.new/.made-by"
mv "$directory.new" "$directory"
