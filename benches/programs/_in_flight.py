"""One download over a long path in virtual time: ``python -m programs._in_flight RTT RATE QUEUE WINDOW SIZE PIECE``.

Seconds, bits per second, seconds, bytes (0: what is the default), bytes, and bytes of each write. Both ends, the link
and the engine under them are in this process, so that its processor time is divided: what the core takes, what our
Python does, and what the simulation costs, which is most of it.
"""

from __future__ import annotations

import cProfile
import gc
import json
import resource
import sys
import time
from typing import Any

import whimbrel
from programs._files import ALPN, PIECE
from whimbrel.testing import SimulatedNetwork

HORIZON = 120.0
"""Seconds of the simulation's time."""
SETTLED = 0.5
"""The part of the bytes after which slow start should be over."""


def main() -> None:
    rtt, rate, queue = (float(word) for word in sys.argv[1:4])
    window, size, piece = (int(word) for word in sys.argv[4:])
    # What is noted of every packet is kept, so that it would be gone through again and again.
    gc.disable()
    with SimulatedNetwork(seed=1) as network:
        network.interface("wan0", latency=rtt / 2, rate=rate, queue=queue, metric=1)
        began, profile = time.process_time(), cProfile.Profile()
        profile.enable()
        came = network.run(transfer(network, window, size, piece), horizon=HORIZON)
        profile.disable()
        used = time.process_time() - began
    report = {"rtt": rtt, "rate": rate, "size": size, "cpu": used, "memory": peak()}
    print(json.dumps(report | shares(profile) | came), flush=True)


async def transfer(network: SimulatedNetwork, window: int, size: int, piece: int) -> dict[str, Any]:
    """Fetch so many bytes; say how it went."""
    limits = whimbrel.Limits()
    if window:
        limits = whimbrel.Limits(stream_window=window, connection_window=window, send_buffer=window)
    content, served = bytes(piece), []

    async def attend(connection: whimbrel.Connection) -> None:
        served.append(connection)
        stream = await connection.accept_stream()
        assert isinstance(stream, whimbrel.Stream)
        async with stream:
            for _ in range(size // piece):
                await stream.write(content)
            await stream.finish()
            await connection.wait_closed()

    files = network.certificate
    cert = (files.chain, files.key)
    options: dict[str, Any] = {"alpn": ALPN, "limits": limits, "idle_timeout": HORIZON}
    async with (
        whimbrel.serve(attend, port=4433, cert=cert, **options),
        whimbrel.connect(network.name, 4433, verify=files.authority, **options) as connection,
    ):
        stream = await connection.open_stream()
        await stream.write(b"?")
        began, marks = network.now, [(network.now, 0)]
        failure = ""
        try:
            while data := await stream.read(PIECE):
                marks.append((network.now, marks[-1][1] + len(data)))
        except whimbrel.ConnectionLost as error:
            failure = str(error)
        ended, received = marks[-1]
        settled, before = next(mark for mark in marks if mark[1] >= received * SETTLED)
        stats = served[0].stats()
        return {
            "failure": failure,
            "received": received,
            "seconds": ended - began,
            "settled_rate": (received - before) * 8 / max(ended - settled, 1e-9),
            "lost": stats.packets_lost,
            "sent": stats.packets_sent,
            "window": stats.congestion_window,
        }


def shares(profile: cProfile.Profile) -> dict[str, float]:
    """Seconds in the core, in our own Python, and in the simulation."""
    profile.create_stats()
    found = {"core": 0.0, "library": 0.0, "simulation": 0.0}
    for (file, _, name), (_, _, own, _, _) in profile.stats.items():  # type: ignore[attr-defined]
        if "whimbrel._core" in name:
            found["core"] += own
        elif "/whimbrel/" in file and "/whimbrel/testing/" not in file:
            found["library"] += own
        else:
            found["simulation"] += own
    return found


def peak() -> int:
    """Bytes that were resident at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
