"""The blocking face: the names of `whimbrel`, without ``await``, for programs of threads or of one thread.

Every call that can wait takes ``timeout``, in seconds: when it is over, TimeoutError is raised and the object stays
usable. Streams are `io.RawIOBase`, so that `io.BufferedReader`, `shutil.copyfileobj` and `tarfile` work on them. Any
thread may use any object. No event loop runs underneath: whoever waits moves the packets meanwhile, and connections
follow the machine from network to network also while the program does something else.
"""

from __future__ import annotations

from whimbrel.sync._client import connect
from whimbrel.sync._connection import Connection
from whimbrel.sync._server import Server, serve
from whimbrel.sync._stream import ReceiveStream, SendStream, Stream

__all__ = ["Connection", "ReceiveStream", "SendStream", "Server", "Stream", "connect", "serve"]
