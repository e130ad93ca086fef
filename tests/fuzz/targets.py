"""What reads bytes from outside, as functions of bytes that may only refuse them in one way.

Each target has seeds, which are valid, and a way to change them. A case is a failure when it raises
anything but the refusals named here.
"""

from __future__ import annotations

import contextlib
import json
import struct
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from uhlm_edge.common.errors import UhlmError, UsageError
from uhlm_edge.common.keys import read_key_file
from uhlm_edge.common.prompts import Message
from uhlm_edge.configs.layers import load_config
from uhlm_edge.edge.policy.calibration import load as load_calibration
from uhlm_edge.lm import template
from uhlm_edge.lm.gguf.check import check
from uhlm_edge.lm.sampling import TOTAL, Distribution
from uhlm_edge.lm.sandbox import PER_BYTE
from uhlm_edge.lm.template import ChatTemplate
from uhlm_edge.models import shipped
from uhlm_edge.models.catalogue import Name
from uhlm_edge.models.hub import _choose
from uhlm_edge.models.hub_api import _read
from uhlm_edge.models.inspect import render
from uhlm_edge.models.store import Manifest, Store, StoredFile
from uhlm_edge.quantize.convert.checkpoint import Checkpoint
from uhlm_edge.quantize.convert.families import read_layout
from uhlm_edge.quantize.convert.reference import reference_tokenizer
from uhlm_edge.quantize.convert.tokenizer import read_tokenizer
from uhlm_edge.wire.messages import (
    Conflict,
    Info,
    Limits,
    Malformed,
    OutOfRange,
    Reply,
    Request,
    Settings,
    prefix_hash,
)

from ..lm.gguf.test_fuzz import GOOD
from ..quantize.tiny_models import make

N_VOCAB = 300
LIMITS = Limits()
SESSION = "5" * 32


@dataclass(frozen=True)
class Target:
    """Something that reads bytes. `form` says how seeds are changed, `child` who else reads."""

    run: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]
    form: Literal["bytes", "json", "text"]
    child: Apart | None = None


def _request() -> Request:
    draft = Distribution(np.array([5, 7, 299]), np.array([60_000, 5_000, 536]))
    return Request(3, 4, prefix_hash([1, 2, 3, 4]), [8, 9, 5], [20_000], [draft], 1, Settings())


def wire(body: bytes) -> None:
    """A call and a reply in MessagePack. What is taken can be sent again and is the same."""
    try:
        taken = Request.unpack(body, LIMITS, N_VOCAB)
    except (Malformed, OutOfRange):
        pass
    else:
        assert Request.unpack(taken.pack(), LIMITS, N_VOCAB).pack() == taken.pack()
    with contextlib.suppress(Malformed):
        Reply.unpack(body, _request(), N_VOCAB, SESSION)


def _wire_seeds() -> list[bytes]:
    asked = _request()
    reply = Reply(3, 4, 0, [7], [0.25, 0.5], 7, binding=asked.binding(SESSION))
    first = Request(1, 0, prefix_hash([]), [1], bonus=5)
    certain = Request(2, 9, prefix_hash([1]), [8, 5], [TOTAL], [Distribution.certain(5)], 1)
    return [message.pack() for message in (asked, reply, first, certain)]


def wire_json(body: bytes) -> None:
    """The same in JSON, `/v1/info`, and a conflict."""
    with contextlib.suppress(Malformed):
        Info.parse(body)
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return
    for read in (
        lambda: Request.from_json(value, LIMITS, N_VOCAB),
        lambda: Conflict.from_json(value),
    ):
        with contextlib.suppress(Malformed, OutOfRange):
            read()


def _wire_json_seeds() -> list[bytes]:
    info = Info(
        model="m", fingerprint=(N_VOCAB, "0" * 32), end_ids=frozenset({2}), n_ctx=64, limits=LIMITS
    )
    asked = {
        "id": 1, "start": 0, "prefix": prefix_hash([]).hex(), "tokens": [1, 5], "bonus": 1,
        "q": {"weights": [100], "drafts": [{"ids": [5, 9], "weights": [60_000, 5_536]}]},
        "settings": json.loads(json.dumps(Settings().pack())), "v": 3,
    }  # fmt: skip
    conflict = Conflict(3, prefix_hash([1, 2, 3])).to_json()
    return [info.model_dump_json().encode(), *(json.dumps(v).encode() for v in (asked, conflict))]


def gguf(body: bytes) -> None:
    """A model file: checked, and its header printed."""
    path = _scratch() / "m.gguf"
    path.write_bytes(body)
    try:
        text = render(check(path), tensors=True)
    except UhlmError as error:
        text = str(error)
    assert text.isprintable() or not set(text) & {"\x1b", "\x9b", "\u202e"}


def safetensors(body: bytes) -> None:
    """Weights of a Hugging Face folder: the header and every tensor."""
    folder = _scratch()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(body)
    try:
        checkpoint = Checkpoint(folder)
        for name in checkpoint.tensors:
            for _ in checkpoint.blocks(name):
                pass
    except UhlmError:
        pass


def _safetensors_seeds() -> list[bytes]:
    header = {
        "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
        "b": {"dtype": "BF16", "shape": [4], "data_offsets": [16, 24]},
        "__metadata__": {"format": "pt"},
    }
    text = json.dumps(header).encode()
    return [struct.pack("<Q", len(text)) + text + bytes(24)]


def tokenizer(body: bytes) -> None:
    """tokenizer.json: read by this project and by the library."""
    folder = _scratch()
    (folder / "tokenizer.json").write_bytes(body)
    for name in ("model.safetensors", "config.json", "tokenizer_config.json"):
        (folder / name).unlink(missing_ok=True)
    (folder / "model.safetensors").write_bytes(_safetensors_seeds()[0])
    (folder / "config.json").write_text('{"eos_token_id": 2}')
    try:
        checkpoint = Checkpoint(folder)
        read_tokenizer(checkpoint)
        reference_tokenizer(checkpoint).encode("Hello 12 worlds\n é\U0001f600")
    except UhlmError:
        pass


@cache
def _tokenizer_seeds() -> list[bytes]:
    found = []
    for family, options in (("llama", {}), ("gemma3", {"tied": True})):
        content = json.loads(make(family, layers=1, **options).tokenizer)
        model = content["model"]
        if isinstance(model["vocab"], dict):  # the first pieces are enough, and quicker
            model["vocab"] = dict(list(model["vocab"].items())[:270])
            model["merges"] = model.get("merges", [])[:5]
        found.append(json.dumps(content).encode())
    return found


class Apart:
    """A template of somebody else's, compiled and rendered in its child process.

    Attributes:
        idle: bytes, the most that a child had with the first of the templates, a usual one.
        peak: the most that one had which was not stopped; the system sees to those that were.
    """

    def __init__(self) -> None:
        self.idle = self.peak = 0

    def __call__(self, body: bytes) -> None:
        template.SECONDS = 0.5
        messages: list[Message] = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi"},
        ]
        source = body.decode("utf-8", "replace")
        with contextlib.suppress(UhlmError):
            made = ChatTemplate(source, "<s>", "</s>")
            try:
                made.render(messages)
            finally:
                self._look(made._renderer, PER_BYTE * len(json.dumps(source)))

    def _look(self, renderer: object, more: int) -> None:
        if not isinstance(renderer, template._Child) or sys.platform != "linux":
            return
        status = Path(f"/proc/{renderer._child._process.pid}/status")
        text = status.read_text() if status.exists() else ""
        if "VmHWM:" in text:
            most = 1024 * int(text.partition("VmHWM:")[2].split()[0])
            self.peak = max(self.peak, most)
            self.idle = self.idle or most
            if most > 2 * self.idle + more:
                raise MemoryError(f"the child: {most >> 20} MB, and {self.idle >> 20} MB when idle")


def _template_seeds() -> list[bytes]:
    from ..lm.test_template import CHATML, HOSTILE, LLAMA2

    return [text.encode() for text in (CHATML, LLAMA2, *HOSTILE.values())]


def hub(body: bytes) -> None:
    """What the hub says of a repository, and the manifest beside pulled files."""
    try:
        found = _read("maker/model", "https://example.org", json.loads(body))
    except UhlmError:
        pass
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass  # one place, `ask_hub`, says in one line that it is no description
    else:
        for type_ in (None, "Q4_K_M", "SAFETENSORS"):
            with contextlib.suppress(UsageError):
                _choose(Name("maker/model", type_), {n: f.size for n, f in found.files.items()})
    store = Store(_scratch())
    place = store.place("maker/model")
    place.mkdir(parents=True, exist_ok=True)
    (place / ".pulled.json").write_bytes(body)
    with contextlib.suppress(UhlmError):
        store.models()


def _hub_seeds() -> list[bytes]:
    answer = {
        "sha": "a" * 40,
        "siblings": [
            {"rfilename": "m.Q4_K_M.gguf", "size": 9, "lfs": {"sha256": "b" * 64, "size": 9}},
            {"rfilename": "config.json", "size": 2, "blobId": "c" * 40},
        ],
        "cardData": {"license": "apache-2.0"},
    }
    files = {"m.Q4_K_M.gguf": StoredFile("Q4_K_M", 9, "b" * 64, "a" * 40).__dict__}
    manifest = {**Manifest("maker/model", "a" * 40, "mit").__dict__, "files": files}
    return [json.dumps(answer).encode(), json.dumps(manifest).encode()]


def config(body: bytes) -> None:
    """config.toml, config.json of a model, a calibration, a key file: files of people."""
    path = _scratch() / "file"
    path.write_bytes(body)
    path.chmod(0o600)
    readers: tuple[Callable[[], Any], ...] = (
        lambda: load_config({}, file=path, environment={}),
        lambda: load_calibration(path),
        lambda: read_key_file(path),
        lambda: read_layout(json.loads(body)),
    )
    for read in readers:
        try:
            read()
        except UhlmError:
            pass
        except (ValueError, RecursionError):
            if read is not readers[-1]:  # that one reads what was parsed elsewhere
                raise
        except AttributeError:
            if read is not readers[-1] or isinstance(json.loads(body), dict):
                raise


def _config_seeds() -> list[bytes]:
    calibration = next((shipped.FOLDER / "calibrations").glob("*.json"))
    toml = (
        b'[strategy]\nname = "uhlm"\nthreshold = 0.2\n[sampler]\ntemperature = 0.7\ntop_k = 40\n'
        b'[cloud]\nurl = "https://example.org"\ndeadline = 5.0\n[chat]\nmax_tokens = 64\n'
    )
    layout = json.dumps(make("gemma3", layers=1, tied=True).config).encode()
    return [toml, layout, calibration.read_bytes(), b"sk-0123456789abcdef\n"]


@cache
def _scratch() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="uhlm-fuzz-"))
    return folder


TARGETS = {
    "wire": Target(wire, _wire_seeds, "bytes"),
    "wire-json": Target(wire_json, _wire_json_seeds, "json"),
    "gguf": Target(gguf, lambda: [GOOD], "bytes"),
    "safetensors": Target(safetensors, _safetensors_seeds, "bytes"),
    "tokenizer": Target(tokenizer, _tokenizer_seeds, "json"),
    "template": Target(_apart := Apart(), _template_seeds, "text", _apart),
    "hub": Target(hub, _hub_seeds, "json"),
    "config": Target(config, _config_seeds, "text"),
}
