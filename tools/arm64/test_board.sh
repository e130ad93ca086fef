#!/usr/bin/env bash
# On an emulated board: install the archive with no compiler and no network, chat, serve, doctor, quick tests.
#   test_board.sh ARCHIVE [TESTS...]    CPU and BOARD_BASE as for emulate.sh; TESTS default to all quick ones
# An archive is installed once, and stays for further runs. The speed says nothing about a board.
# PYTHON (of the archive's version) fetches what the tests need; JOBS processes share them.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
project=$(cd "$here/../.." && pwd)
archive=$(realpath "$1")
shift
base=${BOARD_BASE:-${TMPDIR:-/tmp}/uhlm-board}
export BOARD_BASE=$base BOARD_WORK=$base/work
"$here/emulate.sh" setup
sum=$(sha256sum <"$archive")
if [ "$(cat "$BOARD_WORK/archive" 2>/dev/null)" != "$sum" ]; then
    rm -rf "$BOARD_WORK" && mkdir -p "$BOARD_WORK/bundle"
    tar -xf "$archive" -C "$BOARD_WORK/bundle" --strip-components=1
    version=$(sed -n 's/^version=//p' "$BOARD_WORK/bundle/made-for")
    "${PYTHON:-python3}" -m pip download -q --dest "$BOARD_WORK/tests" --only-binary :all: --implementation cp \
        --python-version "$version" --platform manylinux_2_28_aarch64 --platform manylinux2014_aarch64 \
        --platform manylinux_2_17_aarch64 'pytest>=8.3' 'pytest-timeout>=2.3' 'pytest-xdist>=3.6' 'hypothesis>=6.115' 'psutil>=6' 'gguf>=0.17' \
        'safetensors>=0.4.5' 'openai>=1.60' 'matplotlib>=3.9' 'onnx>=1.17' 'huggingface_hub>=0.26'
    # shellcheck disable=SC2016
    NETWORK=no "$here/emulate.sh" run bash -ec '
        if command -v cc g++ gcc; then echo "test-arm64: there is a compiler"; exit 1; fi
        sh bundle/install.sh /work-here/venv
        venv/bin/python -m pip install -q --no-index --find-links tests pytest pytest-timeout pytest-xdist hypothesis psutil gguf safetensors openai matplotlib \
            onnx huggingface_hub
    '
    echo "$sum" >"$BOARD_WORK/archive"
fi
# A run has the files of now in a folder of its own: several may go on at once.
tree=$(mktemp -d "$BOARD_WORK/tree.XXXXXX")
trap 'rm -rf "$tree"' EXIT
mkdir "$tree/uhlm_edge"
git -C "$project" ls-files -z | (cd "$project" && xargs -0 cp --parents -t "$tree/uhlm_edge")
# shellcheck disable=SC2016
NETWORK=no "$here/emulate.sh" run bash -ec '
    uhlm=/work-here/venv/bin/uhlm-edge
    cd "$1"; shift
    printf "What is the capital of Peru?\n" | $uhlm chat --seed 1 | tee said
    grep -q Lima said
    $uhlm serve --port 0 --seed 1 2>served & server=$!
    until grep -q "http://" served; do kill -0 $server; sleep 1; done
    python3 - "$(grep -o "http://[0-9.:]*" served | head -1)" <<"END"
import json, sys, urllib.request
body = {"messages": [{"role": "user", "content": "What is the capital of Peru?"}]}
asked = urllib.request.Request(sys.argv[1] + "/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"})
said = json.load(urllib.request.urlopen(asked))["choices"][0]["message"]["content"]
print("serve:", said)
assert "Lima" in said
END
    kill $server; wait $server || [ $? = 143 ]
    $uhlm doctor
    cd uhlm_edge
    jobs=$1; shift
    PYTHONPATH=.. /work-here/venv/bin/python -m pytest -q -p no:cacheprovider -m "not slow" -o timeout=3000 \
        -n "$jobs" --dist loadfile "$@"
' test_board "/work-here/${tree##*/}" "${JOBS:-auto}" "$@"
