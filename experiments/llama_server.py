"""The verifier beside llama-server: calls per second of several clients, one token a call.

`python -m uhlm_edge.experiments.llama_server PATH/llama-server [--rounds 3] [--threads 2]`

The program is that of the same llama.cpp: its source is in llama-cpp-python's source archive under
vendor/llama.cpp (`cmake -DLLAMA_BUILD_SERVER=ON`). Same model, same threads, eight clients that ask
again at once, turn by turn:
- llama-server: `/completion` with `n_predict` 1 and `cache_prompt`, a slot for each client; a
  conversation grows by the token that came back and begins anew after 32. Once with nothing but
  the token, and once with the 64 most likely ones and their probabilities (`n_probs`): whoever
  judges a draft needs those, and they are still not the whole distribution.
- the verifier: `uhlm-edge bench load --tokens-per-s 0 --upload-rate 1`: one draft a call with its
  distribution, judged and weighed; recorded replies, with their prompts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack

from ..models.resolve import find_model

_REPLY = 32
N_PROBS = 64


async def _client(port: int, slot: int, end: float, times: list[float], n_probs: int) -> None:
    writer: asyncio.StreamWriter | None = None
    ids: list[int] = []
    while time.monotonic() < end:
        if not ids or len(ids) > 30 + _REPLY:
            ids = [300 + (7 * i + 31 * slot + len(times)) % 3000 for i in range(30)]
        body = json.dumps(
            {"prompt": ids, "n_predict": 1, "cache_prompt": True, "id_slot": slot,
             "return_tokens": True, "ignore_eos": True, "n_probs": n_probs}
        ).encode()  # fmt: skip
        begun = time.monotonic()
        if writer is None:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = "POST /completion HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        answer = (await reader.readuntil(b"\r\n\r\n")).lower()
        size = int(answer.split(b"content-length: ")[1].split(b"\r\n")[0])
        content = json.loads(await reader.readexactly(size))
        ids = [*ids, *content["tokens"]]
        times.append(time.monotonic() - begun)
        if b"connection: close" in answer:  # after each 100 requests
            writer.close()
            writer = None
    if writer is not None:
        writer.close()


def others(port: int, clients: int, seconds: float, n_probs: int = 0) -> tuple[float, float]:
    """llama-server's calls per second, and the p95 of a call in milliseconds."""
    times: list[float] = []

    async def play() -> None:
        end = time.monotonic() + seconds
        await asyncio.gather(*(_client(port, slot, end, times, n_probs) for slot in range(clients)))

    asyncio.run(play())
    return len(times) / seconds, 1e3 * statistics.quantiles(times, n=20)[-1]


def ours(clients: int, seconds: float, threads: int) -> tuple[float, float, float]:
    """The verifier's calls per second, p95, and ids read per second, prompts among them."""
    command = [
        sys.executable, "-m", "uhlm_edge.cli", "bench", "load", "--devices", str(clients),
        "--duration", str(seconds), "--tokens-per-s", "0", "--upload-rate", "1", "--format", "json",
    ]  # fmt: skip
    same = {f"UHLM_VERIFIER_ENGINE_N_THREADS{of}": str(threads) for of in ("", "_BATCH")}
    done = subprocess.run(  # noqa: S603 - our own command
        command, env={**os.environ, **same}, stdout=subprocess.PIPE, check=True
    )
    told = json.loads(done.stdout)
    row = (told["rows"] if isinstance(told, dict) else told)[-1]
    return row["calls_per_s"], row["p95_ms"], row["positions_per_s"]


def main() -> None:
    """Take turns, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("program")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        args.program, "-m", str(find_model("demo-llm")), "--host", "127.0.0.1", "--port", str(port),
        "-np", str(args.clients), "-c", str(1024 * args.clients), "-t", str(args.threads),
        "-tb", str(args.threads), "-ngl", "0",
    ]  # fmt: skip
    found: list[tuple[float, ...]] = []
    with ExitStack() as stack:
        quiet = subprocess.DEVNULL
        server = subprocess.Popen(command, stdout=quiet, stderr=quiet)  # noqa: S603
        stack.callback(server.wait)
        stack.callback(server.kill)
        while True:
            try:
                others(port, 1, 1.0)
                break
            except (OSError, EOFError, KeyError, IndexError):
                if server.poll() is not None:
                    raise SystemExit(f"{args.program} ended with {server.returncode}") from None
                time.sleep(0.5)
        others(port, args.clients, 1.0)  # every slot has been used when it counts
        for _ in range(args.rounds):
            theirs = others(port, args.clients, args.seconds)
            told = others(port, args.clients, args.seconds, N_PROBS)
            found.append((*theirs, *told, *ours(args.clients, args.seconds, args.threads)))
            print(found[-1], os.getloadavg()[0], file=sys.stderr)
    a, a95, c, c95, b, b95, read = (
        statistics.median(column) for column in zip(*found, strict=True)
    )
    ratio, of_told = (statistics.median(row[4] / row[i] for row in found) for i in (0, 2))
    print("| | calls/s | p95 ms | ids read/s |\n| --- | ---: | ---: | ---: |")
    print(f"| llama-server | {a:.0f} | {a95:.0f} | - |")
    print(f"| llama-server, {N_PROBS} probabilities | {c:.0f} | {c95:.0f} | - |")
    print(f"| verifier | {b:.0f} | {b95:.0f} | {read:.0f} |")
    print(
        f"\n{args.clients} clients, {args.threads} threads, median of {args.rounds}: {ratio:.2f}x, "
        f"and {of_told:.2f}x with probabilities"
    )


if __name__ == "__main__":
    main()
