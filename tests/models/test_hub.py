"""`pull` against a hub that misbehaves: verified, resumed, pinned, or refused in one line."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from uhlm_edge.common.errors import ModelError, ResourceError, UhlmError, UsageError
from uhlm_edge.models import download
from uhlm_edge.models.store import SAFETENSORS, Store

from ..lm.gguf.gguf_files import gguf
from .hub_server import COMMIT, MODEL, Hub, HubServer, final_files, get, refused

pytest.importorskip("huggingface_hub")

CUT = 4 * download.CHUNK


def test_a_model_is_pulled_verified_and_pinned(hub: Hub, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    pulled = get(hub, tmp_path, progress=lambda *args: seen.append(args))
    assert pulled.stored.type == "Q4_K_M"
    assert pulled.stored.path == tmp_path / "maker/model/m.Q4_K_M.gguf"
    assert pulled.stored.path.read_bytes() == MODEL
    assert pulled.received == len(MODEL)
    assert seen[-1] == ("m.Q4_K_M.gguf", len(MODEL), len(MODEL))
    manifest = json.loads((tmp_path / "maker/model/.pulled.json").read_text())
    assert manifest["commit"] == COMMIT
    assert manifest["licence"] == "apache-2.0"
    digest = hashlib.sha256(MODEL).hexdigest()
    assert manifest["files"]["m.Q4_K_M.gguf"]["digest"] == digest
    assert [path for path, _, _ in hub.asked("/resolve/")] == [
        f"/maker/model/resolve/{COMMIT}/m.Q4_K_M.gguf"
    ]


def test_what_is_there_is_not_asked_for_again(hub: Hub, tmp_path: Path) -> None:
    get(hub, tmp_path)
    hub.requests.clear()
    assert get(hub, tmp_path).received == 0
    assert get(hub, tmp_path, "maker/model:q4_k_m").received == 0
    assert hub.requests == []


def test_the_type_chooses_the_file(hub: Hub, tmp_path: Path) -> None:
    assert get(hub, tmp_path, "maker/model:q8_0").stored.path.name == "m.Q8_0.gguf"
    assert get(hub, tmp_path, type_="Q4_K_M").stored.path.name == "m.Q4_K_M.gguf"
    assert {stored.type for stored in Store(tmp_path).models()} == {"Q4_K_M", "Q8_0"}


def test_a_type_that_is_not_there_names_those_that_are(hub: Hub, tmp_path: Path) -> None:
    message = refused(hub, tmp_path, UsageError, type_="Q2_K")
    assert "no Q2_K; it has Q4_K_M (0.00 GB), Q8_0 (0.00 GB)" in message


def test_an_interrupted_download_goes_on_where_it_ended(hub: Hub, tmp_path: Path) -> None:
    hub.cut = [CUT] + [0] * (download.TRIES - 1)
    message = refused(hub, tmp_path, ResourceError)
    assert f"broke off at {CUT:,} of" in message
    assert "run it again" in message
    (part,) = (tmp_path / ".partial").rglob("*.part")
    assert part.stat().st_size == CUT
    hub.requests.clear()
    assert get(hub, tmp_path).received == len(MODEL) - CUT
    assert [span for _, span, _ in hub.asked("/resolve/")] == [f"bytes={CUT}-"]
    assert hub.served == len(MODEL)


def test_one_run_gets_over_a_few_interruptions(hub: Hub, tmp_path: Path) -> None:
    hub.cut = [CUT, 0, 2 * CUT]
    assert get(hub, tmp_path).stored.path.read_bytes() == MODEL
    assert hub.served == len(MODEL)


def test_a_server_without_ranges_sends_it_all_again(hub: Hub, tmp_path: Path) -> None:
    hub.cut, hub.ranges = [CUT], False
    assert get(hub, tmp_path).stored.path.read_bytes() == MODEL
    assert hub.served == len(MODEL) + CUT


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_hub_is_asked_again_and_then_named(hub: Hub, tmp_path: Path, status: int) -> None:
    hub.status["m.Q4_K_M.gguf"] = status
    assert str(status) in refused(hub, tmp_path, ResourceError)
    assert len(hub.asked("/resolve/")) == download.TRIES


def test_wrong_bytes_never_get_the_final_place(hub: Hub, tmp_path: Path) -> None:
    hub.replace["m.Q4_K_M.gguf"] = MODEL[:-1] + b"\x01"
    assert "not what the hub announced" in refused(hub, tmp_path, ModelError)
    assert list((tmp_path / ".partial").rglob("*.part")) == []
    hub.replace.clear()
    assert get(hub, tmp_path).received == len(MODEL)


def test_wrong_bytes_kept_from_before_are_found_out(hub: Hub, tmp_path: Path) -> None:
    hub.cut = [CUT] + [0] * (download.TRIES - 1)
    refused(hub, tmp_path, ResourceError)
    (part,) = (tmp_path / ".partial").rglob("*.part")
    part.write_bytes(b"\x01" + part.read_bytes()[1:])
    assert "not what the hub announced" in refused(hub, tmp_path, ModelError)
    assert get(hub, tmp_path).stored.path.read_bytes() == MODEL


def test_more_bytes_than_announced_are_not_taken(hub: Hub, tmp_path: Path) -> None:
    hub.replace["m.Q4_K_M.gguf"] = MODEL + bytes(1 << 20)
    assert "more than the" in refused(hub, tmp_path, ModelError)


def test_a_hostile_gguf_with_the_right_digest_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.files["m.Q4_K_M.gguf"] = gguf(n_keys=(1 << 64) - 1)
    assert "claims 18446744073709551615 keys" in refused(hub, tmp_path, ModelError)
    assert list((tmp_path / ".partial").rglob("*.gguf*")) == []


def test_no_room_on_the_disk_is_said_before_anything_is_sent(hub: Hub, tmp_path: Path) -> None:
    message = refused(hub, tmp_path, ResourceError, free=lambda folder: 1_000_000)
    assert "are needed and 1 MB are free" in message
    assert hub.asked("/resolve/") == []


def test_a_full_disk_keeps_what_came(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert "the disk is full" in refused(hub, tmp_path, ResourceError)
    assert list((tmp_path / ".partial").rglob("*.part")) != []
    assert get(hub, tmp_path).stored.path.read_bytes() == MODEL


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("maker/other", "no such model, or it is private"),
        ("no-such-name", "no model of the catalogue"),
        ("../escape", "no model of the catalogue"),
        ("a/../b", "no model of the catalogue"),
        ("", "no model of the catalogue"),
    ],
)
def test_an_unknown_name_says_what_to_do(hub: Hub, tmp_path: Path, name: str, why: str) -> None:
    assert why in refused(hub, tmp_path, UsageError, name=name)


def test_an_unknown_revision_is_named(hub: Hub, tmp_path: Path) -> None:
    message = refused(hub, tmp_path, UsageError, revision="b" * 40)
    assert f"no revision {'b' * 40}" in message


@pytest.mark.parametrize(("status", "code"), [(403, "GatedRepo"), (401, "GatedRepo"), (403, None)])
def test_a_gated_model_says_how_to_get_in(
    hub: Hub, tmp_path: Path, status: int, code: str | None
) -> None:
    hub.status["api"], hub.error_code = status, code
    assert "HF_TOKEN" in refused(hub, tmp_path, UsageError)


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_file_says_how_to_get_in(hub: Hub, tmp_path: Path, status: int) -> None:
    hub.status["m.Q4_K_M.gguf"] = status
    message = refused(hub, tmp_path, UsageError)
    assert "accept the model's licence" in message
    assert len(hub.asked("/resolve/")) == 1


def test_the_login_goes_to_the_hub_and_to_no_one_else(hub: Hub, tmp_path: Path) -> None:
    with HubServer(Hub(files=hub.files)) as other:
        hub.token, hub.redirect = "hf_canary", other.url
        get(hub, tmp_path, token="hf_canary")
        assert {login for _, _, login in hub.requests} == {"Bearer hf_canary"}
        assert [login for _, _, login in other.requests] == [None]
    assert "hf_canary" not in (tmp_path / "maker/model/.pulled.json").read_text()


@pytest.mark.parametrize("target", ["http://192.0.2.1", "file:///etc", "ftp://127.0.0.1"])
def test_a_redirect_away_from_https_is_not_followed(hub: Hub, tmp_path: Path, target: str) -> None:
    hub.redirect = target
    assert "over https only" in refused(hub, tmp_path, UsageError)


def test_redirects_in_circles_end(hub: Hub, tmp_path: Path) -> None:
    hub.redirect = hub.url
    assert "in circles" in refused(hub, tmp_path, ResourceError)


def test_a_hub_without_https_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.url = "http://192.0.2.1"
    assert "over https only" in refused(hub, tmp_path, UsageError)


def test_a_hub_that_is_not_there_is_named(hub: Hub, tmp_path: Path) -> None:
    hub.url = "http://127.0.0.1:9"
    assert "no answer from http://127.0.0.1:9" in refused(hub, tmp_path, ResourceError)


def test_the_commit_of_the_first_pull_is_kept(hub: Hub, tmp_path: Path) -> None:
    get(hub, tmp_path)
    get(hub, tmp_path, type_="Q8_0")
    assert hub.asked("/api/")[-1][0].endswith(f"/revision/{COMMIT}")
    hub.commit, hub.files["m.Q4_K_M.gguf"] = "c" * 40, gguf()
    assert get(hub, tmp_path).received == 0
    newer = get(hub, tmp_path, revision="main").stored
    assert newer.commit == "c" * 40
    assert newer.path.read_bytes() == gguf()
    assert {stored.type: stored.commit[0] for stored in Store(tmp_path).models()} == {
        "Q4_K_M": "c",
        "Q8_0": "a",
    }


def test_a_model_in_parts_is_pulled_whole(hub: Hub, tmp_path: Path) -> None:
    from ..lm.gguf.test_check import _part

    first, second = "q4_k_m-00001-of-00002.gguf", "q4_k_m-00002-of-00002.gguf"
    hub.files = {first: _part(0, 2, "a"), second: _part(1, 2, "b")}
    assert get(hub, tmp_path).stored.path.name == first
    assert final_files(tmp_path) == [
        f"maker/model/{name}" for name in (".pulled.json", first, second)
    ]


def test_only_harmless_files_of_a_folder_are_taken(hub: Hub, tmp_path: Path) -> None:
    taken = ("config.json", "model.safetensors", "tokenizer.model", "chat_template.jinja", "a.txt")
    left = ("pytorch_model.bin", "run.py", "x.pkl", "onnx/model.onnx", "README.md", "sub/b.json")
    hub.files = {name: name.encode() for name in (*taken, *left)}
    stored = get(hub, tmp_path).stored
    assert (stored.type, stored.path) == (SAFETENSORS, tmp_path / "maker/model")
    assert sorted(path.name for path in stored.path.iterdir()) == sorted((*taken, ".pulled.json"))
    assert get(hub, tmp_path).received == 0


def test_wanting_gguf_of_a_folder_says_how_to_make_one(hub: Hub, tmp_path: Path) -> None:
    hub.files = {"config.json": b"{}", "model.safetensors": b"x"}
    assert "uhlm-edge quantize" in refused(hub, tmp_path, UsageError, type_="Q4_K_M")


def test_a_repository_with_neither_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.files = {"pytorch_model.bin": b"x", "config.json": b"{}"}
    assert "neither GGUF files nor" in refused(hub, tmp_path, UsageError)


@pytest.mark.parametrize(
    "name", ["../x.Q4_0.gguf", "/x.Q4_0.gguf", "a\\..\\x.Q4_0.gguf", "x\x1b.Q4_0.gguf", "a/../b"]
)
def test_a_file_name_cannot_leave_the_folder(hub: Hub, tmp_path: Path, name: str) -> None:
    hub.files = {name: MODEL}
    assert "unsafe name" in refused(hub, tmp_path, ModelError)


def test_a_hub_that_gives_no_digest_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.announced = {"siblings": [{"rfilename": "m.Q4_0.gguf", "size": 9, "blobId": "f" * 40}]}
    assert "no SHA-256" in refused(hub, tmp_path, ModelError)
    hub.announced = {"siblings": [{"rfilename": "m.Q4_0.gguf", "size": 9}]}
    assert "no digest" in refused(hub, tmp_path, ModelError)
    hub.announced = {"siblings": [{"rfilename": "m.Q4_0.gguf"}]}
    assert "no size" in refused(hub, tmp_path, ModelError)


@pytest.mark.parametrize(
    "wrong",
    [
        {"sha": None},
        {"sha": 7},
        {"sha": "../../x"},
        {"sha": "a" * 65},
        {"siblings": [7]},
        {"siblings": [{}]},
        {"siblings": [{"rfilename": 7, "size": 1, "blobId": "x"}]},
        {"siblings": "m.gguf"},
        {"siblings": None},
        {"siblings": [{"rfilename": "m.gguf", "size": -1, "blobId": "x"}]},
        {"siblings": [{"rfilename": "m.gguf", "size": 1 << 60, "blobId": "x"}]},
        {"siblings": [{"rfilename": "m.gguf", "size": "9", "blobId": "x"}]},
        {"siblings": [{"rfilename": "m.gguf", "size": 9, "lfs": {}}]},
        {"siblings": [{"rfilename": "m.gguf", "size": 9, "lfs": 5}]},
        {"siblings": [{"rfilename": "m.gguf", "size": 9, "blobId": 5}]},
        {"cardData": "x"},
        {"cardData": {"license": ["a", 7]}},
        {"id": None},
    ],
    ids=str,
)
def test_a_nonsense_answer_is_refused_or_harmless(
    hub: Hub, tmp_path: Path, wrong: dict[str, Any]
) -> None:
    hub.announced = wrong
    try:
        assert get(hub, tmp_path).stored.path.read_bytes() == MODEL
    except UhlmError as error:
        assert "\n" not in str(error)  # noqa: PT017
        assert final_files(tmp_path) == []


def test_two_pulls_of_one_model_do_not_mix(hub: Hub, tmp_path: Path) -> None:
    from filelock import FileLock

    folder = tmp_path / ".partial" / "maker--model"
    folder.mkdir(parents=True)
    with FileLock(folder / ".lock"):
        assert "another process" in refused(hub, tmp_path, UsageError)
    assert get(hub, tmp_path).received == len(MODEL)


SCRIPT = """
import sys
from pathlib import Path
from uhlm_edge.common.errors import UhlmError
from uhlm_edge.models.hub import pull
try:
    print(pull("maker/model", folder=Path(sys.argv[1])).received)
except UhlmError as error:
    print(error)
"""


def in_a_process(hub: Hub, folder: Path, **env: str) -> str:
    """Pull in a new process with the hub's settings in the environment."""
    env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_TELEMETRY": "1", **env}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder)], capture_output=True, text=True, env=env
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_hubs_own_settings_are_respected(hub: Hub, tmp_path: Path) -> None:
    hub.token = "hf_canary"
    message = in_a_process(hub, tmp_path, HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE is set" in message
    assert hub.requests == []
    assert in_a_process(hub, tmp_path, HF_TOKEN="hf_canary") == f"{len(MODEL)}\n"
    hub.requests.clear()
    assert in_a_process(hub, tmp_path, HF_HUB_OFFLINE="1") == "0\n"
    assert hub.requests == []
