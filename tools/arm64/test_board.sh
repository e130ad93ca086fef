#!/usr/bin/env bash
# On an emulated board: install the archive with no compiler and no network, chat, doctor, quick tests.
#   test_board.sh ARCHIVE [TESTS...]    CPU and BOARD_BASE as for emulate.sh; TESTS default to all quick ones
# The speed says nothing about a board. PYTHON (of the archive's version) fetches what the tests need.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
project=$(cd "$here/../.." && pwd)
archive=$(realpath "$1")
shift
base=${BOARD_BASE:-${TMPDIR:-/tmp}/uhlm-board}
export BOARD_BASE=$base BOARD_WORK=$base/work
"$here/emulate.sh" setup
rm -rf "$BOARD_WORK" && mkdir -p "$BOARD_WORK/bundle" "$BOARD_WORK/python"
tar -xf "$archive" -C "$BOARD_WORK/bundle" --strip-components=1
git -C "$project" ls-files -z | (cd "$project" && xargs -0 cp --parents -t "$(mkdir -p "$BOARD_WORK/python/uhlm_edge" && echo "$BOARD_WORK/python/uhlm_edge")")
version=$(sed -n 's/^version=//p' "$BOARD_WORK/bundle/made-for")
"${PYTHON:-python3}" -m pip download -q --dest "$BOARD_WORK/tests" --only-binary :all: --implementation cp \
    --python-version "$version" --platform manylinux_2_28_aarch64 --platform manylinux2014_aarch64 \
    --platform manylinux_2_17_aarch64 'pytest>=8.3' 'pytest-timeout>=2.3' 'hypothesis>=6.115' 'psutil>=6' 'gguf>=0.17' \
    'safetensors>=0.4.5' 'openai>=1.60' 'matplotlib>=3.9'
# shellcheck disable=SC2016
NETWORK=no "$here/emulate.sh" run bash -c '
    if command -v cc g++ gcc; then echo "test-arm64: there is a compiler"; exit 1; fi
    set -e
    sh bundle/install.sh /work-here/venv
    printf "What is the capital of Peru?\n" | venv/bin/uhlm-edge chat --seed 1 | tee said
    grep -q Lima said
    venv/bin/uhlm-edge doctor
    venv/bin/python -m pip install -q --no-index --find-links tests pytest pytest-timeout hypothesis psutil gguf safetensors openai matplotlib
    cd python/uhlm_edge
    PYTHONPATH=/work-here/python ../../venv/bin/python -m pytest -q -p no:cacheprovider -m "not slow" -o timeout=3000 "$@"
' test_board "$@"
