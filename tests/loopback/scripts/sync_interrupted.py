"""Blocks until Ctrl-C comes, and goes on: `sync_interrupted.py CA PORT HOW`; tells on stdout how far it is."""

import sys
import threading

import whimbrel.sync


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


authority, port, how = sys.argv[1:]
limits = whimbrel.Limits(send_buffer=64 << 10)
with whimbrel.sync.connect(
    "127.0.0.1", int(port), alpn="test", verify=authority, migration=None, limits=limits
) as link:
    stream = link.open_stream()
    stream.write(b"x")
    assert stream.readexactly(1) == b"x"
    if how == "follow":
        # Another thread leads.
        leader = threading.Thread(target=link.wait_closed)
        leader.start()
        while not link._pump._leading:
            pass
    try:
        say("up")
        if how == "write":
            stream.write(bytes(100 << 20))  # The answers are not read, so that no more is taken.
        else:
            stream.read(1)
    except KeyboardInterrupt:
        say("interrupted")
    if how == "write":
        assert stream.readexactly(stream.bytes_written - 1) == bytes(stream.bytes_written - 1)
    stream.write(b"y")
    assert stream.readexactly(1) == b"y"
    stream.finish()
say("usable")
