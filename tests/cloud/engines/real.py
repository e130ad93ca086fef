"""A server of vLLM as a process of the Python that has it, on the processor, with one thread."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from pathlib import Path

import urllib3

from .servers import KEY

N_CTX = 512
TOP = 64
_SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}


class RealVllm:
    """Started, and ready when the constructor returns.

    Args:
        python: the interpreter of the environment with vLLM in it.
        checkpoint: folder of the model.
    """

    def __init__(self, python: str, checkpoint: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        # Its command `vllm` asks for a distribution of that name, which vllm-cpu is not.
        # Blocks of 128 ids, its default on a processor, would keep nothing of a short text.
        command = [
            python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(checkpoint),
            "--served-model-name", "demo-llm", "--host", "127.0.0.1", "--port", str(port),
            "--api-key", KEY, "--dtype", "float32", "--max-model-len", str(N_CTX),
            "--max-logprobs", str(TOP), "--block-size", "32", "--enforce-eager",
        ]  # fmt: skip
        omp = [str(found) for found in Path(python).parents[1].glob("lib/libiomp5.so")]
        preload = {"LD_PRELOAD": ":".join([*omp, *filter(None, [os.environ.get("LD_PRELOAD")])])}
        self.process = subprocess.Popen(
            command, env={**os.environ, **_SETTINGS, **preload}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        self.log: list[str] = []
        self._ready = False
        self._told = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self._told.wait()
        if not self._ready:
            self.kill()
            raise AssertionError("vLLM did not start:\n" + "\n".join(self.log[-40:]))
        # It says so a moment before it listens.
        tries = urllib3.Retry(40, backoff_factor=0.05, backoff_max=1.0)
        urllib3.request("GET", f"{self.url}/health", retries=tries)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.log.append(line.decode(errors="replace").rstrip())
            if "Application startup complete" in self.log[-1]:
                self._ready = True
                self._told.set()
        self._told.set()  # it has ended

    def kill(self) -> None:
        """End it and its workers at once, in the middle of whatever they do."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()
