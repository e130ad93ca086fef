"""Forward TCP connections: `python -m uhlm_edge.bench.network.forward HOST PORT TO_HOST TO_PORT`.

Run at both ends of a link of namespaces, so that device and verifier each talk to their own
loopback, as they must without TLS, and the link lies between the two forwarders.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


async def _serve(host: str, port: int, to_host: str, to_port: int) -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            back, out = await asyncio.open_connection(to_host, to_port)
            for end in (writer, out):
                end.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                await asyncio.gather(_copy(reader, out), _copy(back, writer))
            finally:
                out.close()
        writer.close()

    server = await asyncio.start_server(connected, host, port)
    async with server:
        await server.serve_forever()


def main() -> None:
    """Forward until killed."""
    host, port, to_host, to_port = sys.argv[1:]
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(host, int(port), to_host, int(to_port)))


if __name__ == "__main__":
    main()
