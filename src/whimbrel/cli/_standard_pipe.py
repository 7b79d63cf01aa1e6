"""Standard input and output as one connection, whatever they are: pipes, sockets, terminals, files."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import sys

from whimbrel.cli._waiting import readable, writable


class StandardPipe:
    """What `whimbrel pipe` carries at its local end."""

    def __init__(self) -> None:
        """Take them over.

        Raises:
            ValueError: one of them is closed.
        """
        if sys.stdin is None or sys.stdout is None:
            raise ValueError("standard input and output are what is piped, and one of them is closed")
        self._input, self._output = sys.stdin.fileno(), sys.stdout.fileno()
        self._kind = stat.S_IFMT(os.fstat(self._output).st_mode)
        self._socket: socket.socket | None = None
        if self._kind == stat.S_IFSOCK:
            self._socket = socket.socket(fileno=os.dup(self._output))
        elif self._kind == stat.S_IFIFO:
            # Opened anew, so that O_NONBLOCK is ours alone and not that of whoever shares the pipe with us.
            with contextlib.suppress(OSError):
                anew = os.open(f"/proc/self/fd/{self._output}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                os.dup2(anew, self._output)
                os.close(anew)

    async def read(self, n: int) -> bytes:
        """What came on standard input."""
        with contextlib.suppress(PermissionError):  # A file keeps nobody waiting.
            await readable(self._input)
        return os.read(self._input, n)

    async def write(self, data: bytes) -> None:
        """Put it on standard output."""
        view = memoryview(data)
        while view:
            try:
                view = view[self._write(view) :]
            except BlockingIOError:
                await writable(self._output)

    async def finish(self) -> None:
        """The end of standard output, of which standard input knows nothing."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)
        elif self._kind == stat.S_IFIFO:
            devnull = os.open(os.devnull, os.O_WRONLY)
            os.dup2(devnull, self._output)
            os.close(devnull)

    def cancel(self) -> None:
        """Nobody can be told by a pipe that something is missing: the exit status says it."""

    def close(self) -> None:
        """Give back what was opened."""
        if self._socket is not None:
            self._socket.close()

    def _write(self, view: memoryview) -> int:
        if self._socket is not None:
            return self._socket.send(view, socket.MSG_DONTWAIT)
        return os.write(self._output, view)
