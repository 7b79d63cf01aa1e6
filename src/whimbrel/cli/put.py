"""``whimbrel put``: uploads over HTTP/3, and tells which network carries them.

Decides what is sent where, what counts as success, and what to say; `_tree` looks at folders, `_sending` sends files,
`_transfers` connects.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from whimbrel.cli import INTERRUPTED, fail
from whimbrel.cli._progress import Progress, progress, size
from whimbrel.cli._sending import Place, Sending
from whimbrel.cli._transfers import Connections, Failure, NoConnection, Outcome, Status, add_connection_arguments
from whimbrel.cli._tree import File, Names, Tree, encoded, scan

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from whimbrel.http import Url

T = TypeVar("T")

JOBS = 8
"""Files sent at once: enough that small ones keep a long way busy."""

EPILOG = f"""exit status: 0 when the server stored all; else that of the first failure, numbered as curl's:
{Status.USAGE} usage, {Status.MALFORMED_URL} malformed URL, {Status.UNKNOWN_HOST} unknown host,
{Status.CANNOT_CONNECT} no connection, {Status.HTTP_ERROR} the server refused,
{Status.CANNOT_READ} cannot read, or a symbolic link,
{Status.TIMEOUT} no answer in time, {Status.HANDSHAKE} handshake failed or no HTTP/3,
{Status.INCOMPLETE} ended half-way or stored something else, {Status.CERTIFICATE} certificate not accepted,
{Status.CA_FILE} CA file unusable, {INTERRUPTED} interrupted.
To a server that can resume, such as whimbrel serve --upload, the same command goes on where it stopped."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="what to send; of a folder, all that is in it; - is standard input"
    )
    parser.add_argument("url", metavar="URL", help="where to; with a slash at its end, they keep their names")
    parser.add_argument(
        "-j", "--jobs", type=_jobs, default=JOBS, metavar="N", help=f"send N files of folders at once (default: {JOBS})"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="show no progress")
    parser.add_argument("--json", action="store_true", help="one JSON object a file on standard output")
    add_connection_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Send the files. Returns the exit status."""
    from whimbrel.http import InvalidUrl, Url

    try:
        url = Url.parse(args.url)
        uploads = [(file, target_of(url, file, alone=len(args.files) == 1)) for file in args.files]
    except InvalidUrl as error:
        return fail(error, Status.MALFORMED_URL)
    except ValueError as error:
        return fail(error, Status.USAGE)
    show = progress(quiet=args.quiet)
    session = _Session(args, show)
    try:
        if any(_is_folder(file) for file in args.files):
            return asyncio.run(session.send_trees(url, args.files))
        return asyncio.run(session.send_files(uploads))
    except KeyboardInterrupt:
        show.close()
        return fail(
            f"interrupted{'; the same command goes on where it stopped' if session.resumes else ''}", INTERRUPTED
        )
    finally:
        show.close()


def target_of(url: Url, file: str, *, alone: bool) -> Url:
    """Where a file or a folder goes.

    Raises:
        ValueError: the URL names no file, and this one has no name to give it.
    """
    from whimbrel.http import Url

    is_folder = _is_folder(file)
    if not url.target.endswith("/"):
        if is_folder:
            raise ValueError(f"{url} cannot take a folder: it does not end in a slash")
        if not alone:
            raise ValueError(f"{url} cannot take several files: it does not end in a slash")
        return url
    name = Path(file).name
    if is_folder and name in ("", ".."):
        return url  # Such as ".": what is in it goes there.
    if file == "-" or name in ("", ".."):
        raise ValueError(f"{url} ends in a slash, and {file} has no name to put there")
    return Url(url.host, url.port, f"{url.target}{encoded((name,))}{'/' if is_folder else ''}")


def _is_folder(file: str) -> bool:
    return file != "-" and Path(file).is_dir()


class _Session:
    """The uploads of one command, over one connection."""

    def __init__(self, args: argparse.Namespace, show: Progress) -> None:
        self._show = show
        self._jobs: int = args.jobs
        self._connections = Connections(args, show)
        self._sending = Sending(self._connections, show)

    @property
    def resumes(self) -> bool:
        """Whether the server keeps what came."""
        return self._sending.resumes

    async def send_files(self, uploads: list[tuple[str, Url]]) -> int:
        """One after the other, with a line for each."""
        exit_status = 0
        try:
            for file, url in uploads:
                outcome = Outcome(str(url), file=file)
                status = await self._connections.run(outcome, self._send_file(file, url, outcome))
                exit_status = exit_status or status
        finally:
            await self._connections.close()
        return exit_status

    async def _send_file(self, file: str, url: Url, outcome: Outcome) -> None:
        await self._sending.send(file, Place(url), outcome, None)
        if outcome.unchanged:
            self._show.done(f"{file}: {size(outcome.resumed_at)} were there already{outcome.over()}")
            return
        seconds = self._connections.elapsed(outcome)
        went_on = f", from byte {outcome.resumed_at} on" if outcome.resumed_at else ""
        rate = size(outcome.bytes / seconds)
        self._show.done(f"{file}: {size(outcome.bytes)} in {seconds:.2f} s ({rate}/s){outcome.over()}{went_on}")

    async def send_trees(self, url: Url, files: list[str]) -> int:
        """Folders first, those above before those below, then their files, several at once."""
        try:
            tree = await asyncio.to_thread(_scanned, files)
            return await _Upload(url, tree, self._jobs, self._connections, self._sending, self._show).run(files)
        finally:
            await self._connections.close()


@dataclass
class _Counts:
    sent: int = 0
    unchanged: int = 0
    resumed: int = 0
    failed: int = 0


class _Upload:
    """Whole trees on their way."""

    def __init__(
        self, url: Url, tree: Tree, jobs: int, connections: Connections, sending: Sending, show: Progress
    ) -> None:
        self._url = url
        self._tree = tree
        self._jobs = jobs
        self._connections = connections
        self._sending = sending
        self._show = show
        self._all = Outcome(str(url))
        self._counts = _Counts()
        self._missing: set[Names] = set()  # Folders that could not be made.
        self._exit_status = 0
        self._stopped = False

    async def run(self, files: list[str]) -> int:
        tree, everything = self._tree, self._all
        total = sum(file.size for file in tree.files)
        with self._connections.during(everything):
            for path, sentence in tree.left_out:
                await self._do(Outcome(str(self._url), file=str(path)), _failing(Failure(sentence, Status.CANNOT_READ)))
            async with self._connections.progressing(self._url, self._name(files), total, everything):
                for depth in sorted({len(names) for names in tree.folders}):
                    await self._each([names for names in tree.folders if len(names) == depth], self._make)
                await self._each(tree.files, lambda file: self._send(file, files))
            seconds = self._connections.elapsed(everything)
        self._show.done(f"{', '.join(files)}: {self._told(seconds)}")
        return self._exit_status

    def _name(self, files: list[str]) -> str:
        return f"{', '.join(files)} ({self._counts.sent + self._counts.unchanged} of {len(self._tree.files)} files)"

    def _told(self, seconds: float) -> str:
        counts, everything = self._counts, self._all
        text = f"{_files(counts.sent)}, {size(everything.bytes)} in {seconds:.2f} s"
        text += f" ({size(everything.bytes / seconds)}/s){everything.over()}"
        left = len(self._tree.files) - counts.sent - counts.unchanged
        more = [
            f"{counts.resumed} resumed" if counts.resumed else "",
            f"{_files(counts.unchanged)} were there already" if counts.unchanged else "",
            f"{_files(left)} not sent" if left else "",
        ]
        return "; ".join([text, *filter(None, more)])

    async def _each(self, items: Iterable[T], work: Callable[[T], Awaitable[None]]) -> None:
        waiting = iter(items)

        async def worker() -> None:
            for item in waiting:
                if self._stopped:
                    return
                await work(item)

        async with asyncio.TaskGroup() as workers:
            for _ in range(self._jobs):
                workers.create_task(worker())

    async def _do(self, outcome: Outcome, work: Awaitable[None]) -> bool:
        """Whether it came about. Where nobody is there any more, the others need not try."""

        async def attempt() -> None:
            try:
                await work
            except NoConnection:
                if self._stopped:
                    raise _Said from None
                self._stopped = True
                raise

        with contextlib.suppress(_Said):
            status = await self._connections.run(outcome, attempt())
            self._exit_status = self._exit_status or status
            return status == 0
        return False

    async def _make(self, names: Names) -> None:
        if self._is_missing(names):
            self._missing.add(names)
            return
        url = self._below(names, folder=True)
        if not await self._do(Outcome(str(url)), self._sending.make_folder(url)):
            self._missing.add(names)

    async def _send(self, file: File, files: list[str]) -> None:
        if self._is_missing(file.names):
            return
        url = self._below(file.names, folder=False)
        outcome = Outcome(str(url), file=str(file.path))
        if await self._do(outcome, self._sending.send(str(file.path), Place(url, is_tree=True), outcome, self._all)):
            counts = self._counts
            counts.sent += not outcome.unchanged
            counts.unchanged += outcome.unchanged
            counts.resumed += outcome.resumed_at > 0 and not outcome.unchanged
            self._show.rename(self._name(files))

    def _is_missing(self, names: Names) -> bool:
        return names[:-1] in self._missing

    def _below(self, names: Names, *, folder: bool) -> Url:
        from whimbrel.http import Url

        url = self._url
        return Url(url.host, url.port, f"{url.target}{encoded(names)}{'/' if folder else ''}")


class _Said(Exception):
    """Another transfer has told what this one would."""


async def _failing(failure: Failure) -> None:
    raise failure


def _scanned(files: list[str]) -> Tree:
    whole = Tree()
    for file in files:
        path = Path(file)
        if path.is_dir():
            tree = scan(path, () if path.name in ("", "..") else (path.name,))
            whole.folders += tree.folders
            whole.files += tree.files
            whole.left_out += tree.left_out
        else:
            with contextlib.suppress(OSError):
                whole.files.append(File(path, (path.name,), path.stat().st_size))
                continue
            whole.files.append(File(path, (path.name,), 0))  # Opening it will say why.
    return whole


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"


def _jobs(text: str) -> int:
    with contextlib.suppress(ValueError):
        if 1 <= (value := int(text)) <= 64:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of files from 1 to 64")
