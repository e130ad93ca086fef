"""What a closed model took is the system's again."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

OPEN_AND_CLOSE = """
import ctypes, threading
from pathlib import Path
from uhlm_edge.lm.engines.llama import LlamaEngine
from uhlm_edge.lm.engines.options import EngineOptions
from uhlm_edge.models import shipped

def resident():
    return int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0]) >> 10

def work(n):
    for _ in range(3):
        engine, states = LlamaEngine(path, options), []
        for i in range(20):
            engine.eval(list(range(100, 110 + i + n)))
            states.append(engine.save())
            engine.truncate(0)
        states.clear()
        engine.close()

path, options = shipped.path_of("demo-slm"), EngineOptions(n_threads=1, n_ctx=1024)
threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
before = resident()
ctypes.CDLL(None).malloc_trim(0)
print(before, resident())
"""


LARGE_AGAIN = """
import ctypes
from uhlm_edge.lm.engines.llama import LlamaEngine
from uhlm_edge.lm.engines.options import EngineOptions
from uhlm_edge.models import shipped

class Info(ctypes.Structure):
    _fields_ = [(str(i), ctypes.c_int) for i in range(10)]

libc = ctypes.CDLL(None)
libc.mallinfo.restype = Info
libc.malloc.restype = ctypes.c_void_p
engine = LlamaEngine(shipped.path_of("demo-slm"), EngineOptions(n_threads=1, n_ctx=1024))
libc.free(ctypes.c_void_p(libc.malloc(8 << 20)))
before = getattr(libc.mallinfo(), "4")
libc.malloc(8 << 20)
print(getattr(libc.mallinfo(), "4") - before)  # bytes that are mapped apart
"""

about_glibc = pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="about glibc"
)


@about_glibc
def test_what_models_closed_by_several_threads_took_is_not_kept() -> None:
    done = subprocess.run(
        [sys.executable, "-c", OPEN_AND_CLOSE], stdout=subprocess.PIPE, text=True, check=True
    )
    before, after = map(int, done.stdout.split())
    assert before - after < 10  # MB


@about_glibc
def test_large_buffers_stay_apart_from_small_ones() -> None:
    """Also when one of their size was freed before."""
    done = subprocess.run(
        [sys.executable, "-c", LARGE_AGAIN], stdout=subprocess.PIPE, text=True, check=True
    )
    assert int(done.stdout) >= 8 << 20
