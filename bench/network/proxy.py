"""A TCP proxy on loopback that delays what passes and limits its rate.

The weakest way to have a slow link, and the one that works everywhere. It does not lose packets,
and TCP's own reactions to a slow link (slow start, retransmission) stay on loopback and are not
seen. A new connection waits for one round trip, as a handshake would.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator

from ...common.errors import ResourceError
from .link_spec import Lane, LinkSpec

CHUNK = 1460  # bytes of payload in an Ethernet packet
QUEUE = 256


@contextlib.contextmanager
def delaying_proxy(spec: LinkSpec, port: int, start_s: float = 10.0) -> Iterator[int]:
    """Serve 127.0.0.1:`port` through the link and yield the port to connect to instead.

    Raises:
        ResourceError: no port could be had.
    """
    loop = asyncio.new_event_loop()
    proxy = _Proxy(spec, port)
    started = threading.Event()
    failure: list[OSError] = []

    def run() -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(proxy.listen())
        except OSError as error:
            failure.append(error)
            return
        finally:
            started.set()
        loop.run_forever()

    thread = threading.Thread(target=run, name="slow-link", daemon=True)
    thread.start()
    started.wait(start_s)
    try:
        if failure or proxy.listening is None:
            raise ResourceError(f"no port for the slow link: {failure[0] if failure else 'late'}")
        yield proxy.listening
    finally:
        if thread.is_alive():
            with contextlib.suppress(RuntimeError, TimeoutError):
                asyncio.run_coroutine_threadsafe(proxy.close(), loop).result(5.0)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(5.0)
        if not thread.is_alive():
            loop.close()


class _Proxy:
    def __init__(self, spec: LinkSpec, port: int) -> None:
        self.spec, self.port = spec, port
        self.listening: int | None = None
        self._up, self._down = Lane(spec, spec.up_bps, 1), Lane(spec, spec.down_bps, 2)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.listening = int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        out: asyncio.StreamWriter | None = None
        try:
            await asyncio.sleep(2 * self.spec.delay_ms / 1000)
            back, out = await asyncio.open_connection("127.0.0.1", self.port)
            await asyncio.gather(
                self._pump(self._up, reader, out), self._pump(self._down, back, writer)
            )
        except OSError:
            pass  # one side has gone: the other is told by closing it
        finally:
            for end in (writer, out):
                if end is not None:
                    end.close()

    async def _pump(
        self, lane: Lane, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(QUEUE)

        async def deliver() -> None:
            while True:
                due, data = await queue.get()
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                if not data:
                    if writer.can_write_eof():
                        writer.write_eof()
                    return
                writer.write(data)
                await writer.drain()

        delivery = asyncio.ensure_future(deliver())
        try:
            while True:
                data = await reader.read(CHUNK)
                item = (lane.arrival(time.monotonic(), len(data)), data)
                put = asyncio.ensure_future(queue.put(item))
                await asyncio.wait({put, delivery}, return_when=asyncio.FIRST_COMPLETED)
                if delivery.done():
                    put.cancel()
                if not data or delivery.done():
                    break
            await delivery
        finally:
            delivery.cancel()
