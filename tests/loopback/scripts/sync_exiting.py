"""Ends with a live connection, and threads that wait for it: `sync_exiting.py CA PORT`. Says when it is up."""

import sys
import threading

import whimbrel.sync


def serve(connection: whimbrel.sync.Connection) -> None:
    connection.wait_closed()


authority, port = sys.argv[1:]
link = whimbrel.sync.connect("127.0.0.1", int(port), alpn="test", verify=authority, migration=None)
stream = link.open_stream()
stream.write(b"x")
assert stream.readexactly(1) == b"x"
waits = [link.accept_stream, link.receive_datagram, stream.readall]
for wait in waits:
    threading.Thread(target=wait, daemon=True).start()
while len(link._pump._waiting) < len(waits):
    pass
sys.stdout.write("up\n")
sys.stdout.flush()
sys.stdin.readline()
