"""A slow IP link in user space: packets between two TUN devices, delayed, lost and rate-limited.

For kernels without `tc netem`. Each device lives in a network namespace, so real TCP runs over
the link with its handshake, slow start and retransmissions. The relay is one thread; it adds
about a tenth of a millisecond to each packet.
"""

from __future__ import annotations

import contextlib
import os
import select
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from ...common.errors import ResourceError
from .link_spec import Lane, LinkSpec

__all__ = ["open_tun", "relay"]

TUNSETIFF = 0x400454CA  # linux/if_tun.h
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
QUEUE = 1000  # packets per direction, as netem's default limit; more are dropped
MTU = 1500


def open_tun(name: str) -> int:
    """Make a TUN device and return its file. Closing the file removes the device.

    Raises:
        ResourceError: no rights, or no TUN in this kernel.
    """
    try:
        import fcntl

        handle = os.open(Path("/dev/net/tun"), os.O_RDWR | os.O_NONBLOCK)
    except (ImportError, OSError) as error:
        raise ResourceError(f"/dev/net/tun: {error}") from error
    try:
        fcntl.ioctl(handle, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    except OSError as error:
        os.close(handle)
        raise ResourceError(f"no TUN device {name}: {error}") from error
    return handle


@contextlib.contextmanager
def relay(device: int, cloud: int, spec: LinkSpec) -> Iterator[None]:
    """Carry packets between two TUN files by the rules of `spec` until the block ends."""
    stop = threading.Event()
    wake, waker = os.pipe()
    lanes = {
        device: (Lane(spec, spec.up_bps, 1), cloud),
        cloud: (Lane(spec, spec.down_bps, 2), device),
    }
    thread = threading.Thread(target=_carry, args=(lanes, wake, stop), daemon=True, name="relay")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        os.write(waker, b"x")
        thread.join(5.0)
        os.close(waker)
        os.close(wake)


def _carry(lanes: dict[int, tuple[Lane, int]], wake: int, stop: threading.Event) -> None:
    waiting: dict[int, deque[tuple[float, bytes]]] = {source: deque() for source in lanes}
    while not stop.is_set():
        due = min((queue[0][0] for queue in waiting.values() if queue), default=None)
        timeout = None if due is None else max(0.0, due - time.monotonic())
        ready, _, _ = select.select([*lanes, wake], [], [], timeout)
        for source in ready:
            if source != wake:
                _take(source, lanes[source][0], waiting[source])
        now = time.monotonic()
        for source, queue in waiting.items():
            while queue and queue[0][0] <= now:
                _, packet = queue.popleft()
                with contextlib.suppress(OSError):  # the device is down or full: a lost packet
                    os.write(lanes[source][1], packet)


def _take(source: int, lane: Lane, queue: deque[tuple[float, bytes]]) -> None:
    """Read what has come and queue it with its time of arrival."""
    for _ in range(64):  # then the other direction's turn
        try:
            packet = os.read(source, MTU + 100)
        except OSError:
            return
        if len(queue) < QUEUE and not lane.is_lost():
            queue.append((lane.arrival(time.monotonic(), len(packet)), packet))
