"""Anonymous network namespaces, each with a thread that lives in it.

A namespace made here has no name in ``/var/run/netns``. It exists while a thread, process or socket is in it or a
descriptor of it is open, so that the kernel removes it with all that is inside when the process ends, however it ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

P = ParamSpec("P")
T = TypeVar("T")

_CLONE_NEWUSER, _CLONE_NEWNET = 0x1000_0000, 0x4000_0000
_PR_SET_PDEATHSIG = 1
_CAP_NET_BIND_SERVICE, _CAP_NET_ADMIN, _CAP_NET_RAW, _CAP_SYS_ADMIN = 10, 12, 13, 21
_NEEDED = 1 << _CAP_NET_ADMIN | 1 << _CAP_NET_RAW | 1 << _CAP_SYS_ADMIN
_KEPT = _NEEDED | 1 << _CAP_NET_BIND_SERVICE

# os.unshare and os.setns exist from Python 3.12 on.
_libc = ctypes.CDLL(None, use_errno=True)


class LaboratoryUnavailable(RuntimeError):
    """This machine, or this process as it is now, cannot have network namespaces. The message says why."""


def prepare() -> None:
    """Make this process able to have laboratories. Root needs nothing; anybody else moves into a user namespace.

    That move is for the rest of the process's life: it keeps its user and files, but its network is from then on a
    namespace of its own with loopback alone, and programs started later share it. Linux allows the move only while the
    process has a single thread, so a program that starts threads calls this first. May be called again.

    Raises:
        LaboratoryUnavailable: user namespaces are switched off, or there are threads already.
    """
    if _effective_capabilities() & _NEEDED == _NEEDED:
        return
    if len(list(Path("/proc/self/task").iterdir())) > 1:
        raise LaboratoryUnavailable(
            "an ordinary user's process must enter its user namespace before it starts a thread: "
            "call whimbrel.testing.prepare() first, or run as root"
        )
    user, group = os.geteuid(), os.getegid()
    try:
        _unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
        Path("/proc/self/setgroups").write_text("deny")  # Without this the group map is refused.
        # Mapped to itself, not to root: what the process may do to files stays as it was.
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
        _keep_only(_KEPT)
        raise_loopback()
    except OSError as error:
        raise LaboratoryUnavailable(f"no user namespace for an ordinary user here ({error}); run as root") from error


class Namespace:
    """One network namespace and the thread that made it."""

    def __init__(self, name: str) -> None:
        """Make it, with loopback up.

        Raises:
            LaboratoryUnavailable: the kernel refuses.
        """
        self.name = name
        # One worker for the whole life: children started by it are killed when it ends (PR_SET_PDEATHSIG watches the
        # thread that forked, not the process).
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"laboratory-{name}")
        self._descriptor = -1
        try:
            self._descriptor = self.run(_new_network)
        except OSError as error:
            self._thread.shutdown()
            raise LaboratoryUnavailable(f"no network namespace for this process here ({error})") from error

    def fileno(self) -> int:
        """Return a descriptor of the namespace, as ``setns`` takes it."""
        return self._descriptor

    def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the function on the thread inside, wait, and return its result. Sockets it makes stay inside."""
        return self._thread.submit(function, *args, **kwargs).result()

    def popen(self, argv: Sequence[str | os.PathLike[str]], **options: Any) -> subprocess.Popen[Any]:
        """Start a program inside, as `subprocess.Popen` does. It is killed when this process or the namespace ends."""
        before_exec = options.pop("preexec_fn", None)

        def prepare_child() -> None:
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if before_exec is not None:
                before_exec()

        # Between fork and exec this calls prctl() alone, which takes no lock that another thread might hold.
        return self.run(lambda: subprocess.Popen(argv, preexec_fn=prepare_child, **options))  # noqa: PLW1509

    @contextlib.contextmanager
    def enter(self) -> Iterator[None]:
        """Move the calling thread inside for the length of a ``with`` block.

        Sockets stay in the namespace they were made in, and threads in the one they were started in.
        """
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _setns(self._descriptor)
            try:
                yield
            finally:
                _setns(home)
        finally:
            os.close(home)

    def close(self) -> None:
        """End the thread, and with it the programs started inside, and let the namespace go. May be called twice."""
        self._thread.shutdown()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def raise_loopback() -> None:
    """Set the loopback interface of the calling thread's namespace up."""
    import fcntl
    import socket
    import struct

    set_flags, up = 0x8914, 0x1  # SIOCSIFFLAGS, IFF_UP
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, set_flags, struct.pack("16sh14x", b"lo", up))


def _new_network() -> int:
    _unshare(_CLONE_NEWNET)
    raise_loopback()
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _unshare(flags: int) -> None:
    _check(_libc.unshare(flags), "unshare")


def _setns(descriptor: int) -> None:
    _check(_libc.setns(descriptor, _CLONE_NEWNET), "setns")


def _effective_capabilities() -> int:
    status = Path("/proc/thread-self/status").read_text()
    return int(status.split("CapEff:")[1].split()[0], 16)


def _keep_only(capabilities: int) -> None:
    """Give up every other capability, so that a file that must not be written still cannot be."""
    header = (ctypes.c_uint32 * 2)(0x2008_0522, 0)  # _LINUX_CAPABILITY_VERSION_3, this thread
    sets = (ctypes.c_uint32 * 6)(capabilities, capabilities, 0, 0, 0, 0)  # effective, permitted, inheritable; twice
    _check(_libc.capset(header, sets), "capset")


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
