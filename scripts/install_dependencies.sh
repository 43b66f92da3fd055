#!/bin/sh
# Install what the build and the tests need, on Debian 12 or a relative of it.
#
# usage: scripts/install_dependencies.sh [--fuzz]
#
# Does nothing when everything is there already. Needs root, or sudo, only when something is missing.
# --fuzz adds clang, whose libFuzzer `make fuzz` uses.
set -eu

packages="gcc g++ make pkg-config libdnnl-dev libhdf5-dev libpng-dev libjpeg62-turbo-dev libwebp-dev
libtiff-dev libyaml-dev libjansson-dev libutf8proc-dev libssl-dev liblapacke-dev
libcmocka-dev"
[ "${1:-}" = --fuzz ] && packages="$packages clang libclang-rt-14-dev"

missing=""
for package in $packages; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' ||
        missing="$missing $package"
done
[ -z "$missing" ] && exit 0

echo "installing:$missing"
sudo=""
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || { echo "run as root: apt-get install$missing" >&2; exit 1; }
    sudo=sudo
fi
$sudo env DEBIAN_FRONTEND=noninteractive apt-get update -q
# shellcheck disable=SC2086 -- a list of words
$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing
