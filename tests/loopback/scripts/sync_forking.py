"""Forks with a live connection: `sync_forking.py CA PORT`. Parent and child say what became of it."""

import os
import sys
import threading
from collections.abc import Callable

import whimbrel.sync
from whimbrel.sync import Connection, Stream


def target(descriptor: int) -> str:
    """What a descriptor leads to; "" if it is not open."""
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115 - no file
    except FileNotFoundError:
        return ""


def dial() -> Connection:
    authority, port = sys.argv[1:]
    return whimbrel.sync.connect("127.0.0.1", int(port), alpn="test", verify=authority, migration=None)


def ask(connection: Connection) -> bytes:
    with connection.open_stream() as stream:
        stream.write(b"alive")
        stream.finish()
        return stream.read(timeout=10)


def use_what_is_dead(connection: Connection, stream: Stream, sockets: set[str]) -> None:
    uses: list[Callable[[], object]] = [connection.stats, lambda: connection.path, connection.path_changes]
    uses += [connection.open_stream, connection.accept_stream, connection.close, connection.wait_closed]
    uses += [stream.reset, stream.stop, stream.read, lambda: stream.write(b"x"), stream.finish, stream.close]
    for use in uses:
        said = ""
        try:
            use()
        except RuntimeError as error:
            said = str(error)
        assert "forked" in said, f"{use} worked after fork"
    assert not [number for number in range(256) if target(number) in sockets], "the child kept a socket"


def in_child(act: Callable[[], None]) -> None:
    number = os.fork()
    if number == 0:
        status = 1
        try:
            act()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(number, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def begin_anew() -> None:
    with dial() as fresh:
        assert ask(fresh) == b"alive"


connection = dial()
stream = connection.open_stream()
stream.write(b"x")
assert stream.readexactly(1) == b"x"
waiting = threading.Thread(target=connection.wait_closed)
waiting.start()
while not connection._pump._leading:
    pass
sockets = {target(number) for number in connection._pump.endpoint.descriptors()}
sockets = {name for name in sockets if name.startswith("socket:")}
assert sockets
in_child(lambda: use_what_is_dead(connection, stream, sockets))
assert ask(connection) == b"alive"
in_child(begin_anew)
assert ask(connection) == b"alive"
stream.reset()
connection.close()
waiting.join()
sys.stdout.write("both fine\n")
