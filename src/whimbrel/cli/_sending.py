"""Sends a file to a server: from where an attempt before has stopped, where the server can resume, and else whole.

The server is asked with the SHA-256 of the file, so that it knows what it may have of it: all, a part, or nothing. What
changed meanwhile has another hash, and begins anew.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import sys
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING

from whimbrel.cli._digest import sha256_field, sha256_in
from whimbrel.cli._disk import sha256
from whimbrel.cli._transfers import Broken, Connections, Failure, Outcome, Status, broken, status_text
from whimbrel.cli._waiting import readable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from typing import BinaryIO

    from whimbrel.cli._progress import Progress
    from whimbrel.http import Client, FilePart, Response, Url

PIECE = 256 << 10
"""Bytes read from a pipe at once."""
SMALL = 256 << 10
"""Bytes that a single file is sent with whole: asking how much is there would take as long."""
ATTEMPTS = 3
"""Connections that one file may break, or times that it may change under our hands."""
MAX_SENTENCE = 300
"""Characters of a server's explanation that are shown."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a file goes.

    Args:
        url: of the file.
        is_tree: whether it is one of many: then progress is shown of all, and what is there already is worth asking.
    """

    url: Url
    is_tree: bool = False


@dataclass(frozen=True, slots=True)
class _Abilities:
    """What a server says that it can do."""

    resume: bool
    methods: frozenset[str]


class _Changed(Exception):
    """What the server has is not what we thought, or the file is not what it was."""


class Sending:
    """Sends files over a command's connections."""

    def __init__(self, connections: Connections, show: Progress) -> None:
        self.resumes = False
        """Whether a server has said that it keeps what came."""
        self._connections = connections
        self._show = show
        self._abilities: dict[tuple[str, int], _Abilities] = {}

    async def send(self, file: str, place: Place, outcome: Outcome, everything: Outcome | None) -> None:
        """Send a file.

        Args:
            file: its path; ``-``: standard input.
            place: where it goes.
            outcome: told what came of it.
            everything: the same of the tree that it belongs to.

        Raises:
            Failure: it was not stored.
        """
        from whimbrel.http._files import whole_file

        with _open(file) as source:
            part = whole_file(source)
            upload = _Upload(file, source.fileno(), part, place.url, outcome, everything)

            async def attempt(client: Client) -> None:
                resume = part is not None and (place.is_tree or part.length > SMALL)
                if resume and (await self._ask(client, place.url)).resume:
                    await upload.resume(client)
                else:
                    await upload.whole(client)

            async def shown(client: Client) -> None:
                if place.is_tree:
                    await attempt(client)
                    return
                length = None if part is None else part.length
                async with self._connections.progressing(place.url, file, length, outcome):
                    await attempt(client)

            await self._persist(place.url, shown, lambda: upload.can_go_on)

    async def make_folder(self, url: Url) -> None:
        """Have a folder made, unless it is there.

        Raises:
            Failure: it is not.
        """

        async def attempt(client: Client) -> None:
            if "MKCOL" not in (await self._ask(client, url)).methods:
                raise Failure(f"{url}: the server makes no folders (MKCOL)", Status.HTTP_ERROR)
            with _breaking(url):
                async with await client.request("MKCOL", url.target, headers=_headers()) as response:
                    if response.status != 405:  # RFC 4918 §9.3.1: there is one.
                        await _check(url, response)

        await self._persist(url, attempt, lambda: True)

    async def _persist(self, url: Url, attempt: Callable[[Client], Awaitable[None]], again: Callable[[], bool]) -> None:
        """Try it, over another connection where one breaks."""
        for left in reversed(range(ATTEMPTS)):
            client = await self._connections.to(url)
            try:
                await attempt(client)
                return
            except Broken as failure:
                await self._connections.drop(url, client)
                if not left or not again():
                    raise
                self._show.note(f"{failure}; connecting again")
            except _Changed:
                if not left:
                    raise Failure(f"{url}: the file changes all the time", Status.INCOMPLETE) from None

    async def _ask(self, client: Client, url: Url) -> _Abilities:
        from whimbrel import StreamError

        known = self._abilities.get(url.origin)
        if known is None:
            known = _Abilities(resume=False, methods=frozenset())
            with _breaking(url), contextlib.suppress(StreamError):
                async with await client.request("OPTIONS", url.target, headers=_headers()) as response:
                    if 200 <= response.status <= 299:
                        methods = frozenset(response.headers.get("allow", "").replace(" ", "").split(","))
                        known = _Abilities("upload-limit" in response.headers, methods)
            self._abilities[url.origin] = known
            self.resumes = self.resumes or known.resume
        return known


class _Upload:
    """One file on its way, through as many attempts as it takes."""

    def __init__(
        self,
        file: str,
        descriptor: int,
        part: FilePart | None,
        url: Url,
        outcome: Outcome,
        everything: Outcome | None,
    ) -> None:
        self.can_go_on = False
        """Whether another attempt would send less, or at least begin anew."""
        self._file = file
        self._descriptor = descriptor
        self._part = part
        self._url = url
        self._outcome = outcome
        self._everything = everything
        self._digest: bytes | None = None
        self._headers = _headers()
        if part is not None:
            with contextlib.suppress(ValueError, OverflowError, OSError):
                # Meant for answers, but it says what we have to say; who does not know it ignores it.
                self._headers["last-modified"] = formatdate(os.fstat(descriptor).st_mtime, usegmt=True)

    async def whole(self, client: Client) -> None:
        """Send all of it, in one request."""
        digest = hashlib.sha256()
        headers = dict(self._headers)
        if self._part is not None:
            headers["content-length"] = str(self._part.length)
        body = self._content(self._part, digest)
        with _breaking(self._url, lambda: f"after {self._outcome.bytes} bytes"):
            async with await client.request("PUT", self._url.target, headers=headers, body=body) as response:
                await self._check(response)
                await response.read()
                if not body.is_whole:
                    text = f"{self._url}: the server answered {response.status} before it had all"
                    raise Failure(text, Status.INCOMPLETE)
                self._compare(response, digest.digest())

    async def resume(self, client: Client) -> None:
        """Send what the server does not have of it."""
        part = self._part
        assert part is not None, "only of files is known what they are"
        with _reading(self._file):
            self._digest = self._digest or (await sha256(self._descriptor, part.length)).digest()
        self.can_go_on = True
        where = await self._begin(client, part.length)
        if where is not None:
            await self._append(client, where, part.length)

    async def _begin(self, client: Client, length: int) -> tuple[str, int] | None:
        """Where it goes on, and from which byte on; None: all is there."""
        assert self._digest is not None, "it was hashed before"
        headers = {
            **self._headers,
            "upload-complete": "?0",
            "upload-length": str(length),
            "repr-digest": sha256_field(self._digest),
        }
        with _breaking(self._url):
            async with await client.request("PUT", self._url.target, headers=headers) as response:
                await self._check(response)
        if response.headers.get("upload-complete") == "?1":
            self._goes_on(length, unchanged=True)
            self._outcome.sha256 = self._digest.hex()
            return None
        offset, location = _number(response, "upload-offset"), response.headers.get("location")
        where = None if location is None else self._url.join(location)
        if offset is None or where is None or offset > length or where.origin != self._url.origin:
            text = f"{self._url}: the server does not say where the upload goes on"
            raise Failure(text, Status.INCOMPLETE)
        self._goes_on(offset, unchanged=False)
        return where.target, offset

    async def _append(self, client: Client, where: tuple[str, int], length: int) -> None:
        from whimbrel.http import FilePart

        target, offset = where
        headers = {
            **self._headers,
            "content-type": "application/partial-upload",
            "content-length": str(length - offset),
            "upload-offset": str(offset),
            "upload-complete": "?1",
        }
        body = self._content(FilePart(self._descriptor, offset, length - offset), None)
        with _breaking(self._url, lambda: f"after {self._outcome.resumed_at + self._outcome.bytes} bytes"):
            async with await client.request("PATCH", target, headers=headers, body=body) as response:
                if response.status in (404, 409, 410):
                    self._digest = None  # Look again, and ask again.
                    raise _Changed
                await self._check(response)
                await response.read()
                assert self._digest is not None, "it was hashed before"
                self._compare(response, self._digest)

    def _compare(self, response: Response, digest: bytes) -> None:
        self._outcome.sha256 = digest.hex()
        stored = None
        with contextlib.suppress(ValueError):
            stored = sha256_in(response.headers.get("repr-digest", ""))
        if stored is not None and stored != digest:
            raise Failure(f"{self._url}: the server stored something else than was sent", Status.INCOMPLETE)

    async def _check(self, response: Response) -> None:
        self._outcome.status = response.status
        await _check(self._url, response)

    def _goes_on(self, offset: int, *, unchanged: bool) -> None:
        """So much is there: from before, or carried by an attempt of ours that broke."""
        outcome, everything = self._outcome, self._everything
        outcome.unchanged = unchanged and not outcome.bytes
        # Where an attempt of ours broke, some of what it had sent may be missing there.
        before = min(offset, outcome.resumed_at) if outcome.bytes else offset
        for count in (outcome,) if everything is None else (outcome, everything):
            if count is everything:
                count.bytes += offset - before - outcome.bytes
                count.resumed_at += before - outcome.resumed_at
        outcome.bytes, outcome.resumed_at = offset - before, before

    def _content(self, part: FilePart | None, digest: hashlib._Hash | None) -> _Content:
        counted = [self._outcome] if self._everything is None else [self._outcome, self._everything]
        return _Content(self._file, self._descriptor, part, digest, counted)


class _Content:
    """The content of a file, piece by piece, counted and hashed on its way."""

    def __init__(
        self, file: str, descriptor: int, part: FilePart | None, digest: hashlib._Hash | None, counted: list[Outcome]
    ) -> None:
        self.is_whole = False
        self._file = file
        self._descriptor = descriptor
        self._part = part
        self._digest = digest
        self._counted = counted

    async def __aiter__(self) -> AsyncIterator[bytes]:
        from whimbrel.http._files import file_pieces

        part, came = self._part, 0
        with _reading(self._file):
            async for piece in _arriving(self._descriptor) if part is None else file_pieces(part):
                if self._digest is not None:
                    self._digest.update(piece)
                yield piece
                came += len(piece)
                for outcome in self._counted:
                    outcome.bytes += len(piece)
        if part is not None and came < part.length:
            raise Failure(f"{self._file} was cut short while it was sent", Status.CANNOT_READ)
        self.is_whole = True


async def _arriving(descriptor: int) -> AsyncIterator[bytes]:
    """What comes through a pipe or from a terminal, to its end."""
    while True:
        with contextlib.suppress(PermissionError):
            await readable(descriptor)
        piece = os.read(descriptor, PIECE)
        if not piece:
            return
        yield piece


def _open(file: str) -> BinaryIO:
    with _reading(file):
        if file != "-":
            return Path(file).open("rb", buffering=0)
        if sys.stdin is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return open(sys.stdin.fileno(), "rb", buffering=0, closefd=False)


@contextlib.contextmanager
def _reading(file: str) -> Iterator[None]:
    from whimbrel import WhimbrelError

    try:
        yield
    except WhimbrelError:
        raise  # Some of them are OSErrors as well.
    except OSError as error:
        raise Failure(f"cannot read {file}: {error.strerror}", Status.CANNOT_READ) from error


@contextlib.contextmanager
def _breaking(url: Url, where: Callable[[], str] = str) -> Iterator[None]:
    """Tells what became of the connection, and where."""
    from whimbrel import WhimbrelError

    try:
        yield
    except WhimbrelError as error:
        raise broken(url, error, where()) from error


async def _check(url: Url, response: Response) -> None:
    if not 200 <= response.status <= 299:
        said = " ".join((await response.read()).decode("utf-8", "replace").split())[:MAX_SENTENCE]
        text = f"{url}: the server answered {status_text(response.status)}{f' ({said})' if said else ''}"
        raise Failure(text, Status.HTTP_ERROR)


def _headers() -> dict[str, str]:
    from whimbrel import __version__

    return {"user-agent": f"whimbrel/{__version__}"}


def _number(response: Response, name: str) -> int | None:
    text = response.headers.get(name, "")
    return int(text) if text.isascii() and text.isdigit() else None
