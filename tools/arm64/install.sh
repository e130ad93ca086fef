#!/bin/sh
# Install uhlm-edge from this folder: no compiler and no network are needed.
#   ./install.sh           into ~/.local/share/uhlm-edge/venv
#   ./install.sh FOLDER    into a virtual environment of that name
# PYTHON is the interpreter, python3 unless named.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
venv=${1:-${XDG_DATA_HOME:-$HOME/.local/share}/uhlm-edge/venv}
python=${PYTHON:-python3}
. "$here/made-for"

has=$("$python" -c 'import platform, sys; print("%s %d.%d" % (platform.machine(), *sys.version_info[:2]))')
if [ "$has" != "$machine $version" ]; then
    echo "install: made for $machine and Python $version, and $python is $has: name another with PYTHON=" >&2
    exit 2
fi
missing=
for feature in $features; do
    grep -qw "$feature" /proc/cpuinfo || missing="$missing $feature"
done
if [ -n "$missing" ]; then
    echo "install: made for $target, and this processor lacks$missing: use the bundle of another target" >&2
    exit 2
fi
(cd "$here" && sha256sum --check --quiet SHA256SUMS)
"$python" -m venv "$venv"
"$venv/bin/python" -m pip install --disable-pip-version-check --no-index --no-cache-dir --quiet \
    --find-links "$here/wheels" 'uhlm-edge[cloud,serve]'
echo "install: done; $venv/bin/uhlm-edge chat"
