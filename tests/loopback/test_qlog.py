"""What is written of a connection: one standard file, at each end."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
import time
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

import pytest

import whimbrel
from tests.loopback.recorder import recorder
from tests.loopback.support import ALPN, Certificates, echo, until
from tests.loopback.test_server_moves import Nat
from whimbrel import Migration

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from whimbrel import SessionStore

    Record = dict[str, Any]

SECRET = b"the payload, which is nobody's business "


class Options(TypedDict, total=False):
    """Of `connect`, as far as these tests vary them."""

    qlog: Path | str
    verify: bool | Path
    sessions: SessionStore
    early_data: bool


def records(file: Path) -> list[Record]:
    """The records of a JSON text sequence (RFC 7464): each begins with RS and ends with a line feed."""
    data = file.read_bytes()
    assert data.startswith(b"\x1e")
    assert data.endswith(b"\n")
    return [json.loads(text) for text in data[1:].split(b"\x1e")]


def files_in(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def names(events: list[Record]) -> set[str]:
    return {event["name"] for event in events}


def named(events: list[Record], name: str) -> list[Record]:
    return [event for event in events if event["name"] == name]


def only(folder: Path, side: str) -> list[Record]:
    """The events of the one connection that this side has a log of."""
    [file] = folder.glob(f"*_{side}.sqlog")
    return records(file)[1:]


def migrations(events: list[Record]) -> list[tuple[str, str | None]]:
    """What became of which path."""
    moves = named(events, "transport:migration_state_updated")
    return [(move["data"]["new"], move["data"].get("path_id")) for move in moves]


def paths(events: list[Record], half: str) -> dict[str, tuple[Any, ...]]:
    """The addresses of each path, as they were told last."""
    assigned = named(events, "connectivity:path_assigned")
    ends = {event["data"]["path_id"]: event["data"].get(half, {}) for event in assigned}
    return {
        path: (end.get("ip_v4", end.get("ip_v6")), end.get("port_v4", end.get("port_v6"))) for path, end in ends.items()
    }


def runs(events: list[Record], name: str) -> list[str]:
    """The paths of those events, one after the other."""
    return [path for path, _ in itertools.groupby(event["path"] for event in named(events, name))]


@pytest.fixture(autouse=True)
def no_folder_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QLOGDIR", raising=False)


def serve(certificates: Certificates, *, qlog: Path | None = None, early_data: bool = False) -> whimbrel._server._Serve:
    return whimbrel.serve(echo, "127.0.0.1", cert=certificates.pair, alpn=ALPN, qlog=qlog, early_data=early_data)


async def talk(address: tuple[str, int], certificates: Certificates, **options: Unpack[Options]) -> None:
    options.setdefault("verify", certificates.ca)
    async with (
        whimbrel.connect(*address, alpn=ALPN, migration=None, **options) as connection,
        await connection.open_stream() as stream,
    ):
        await stream.write(SECRET * 500)
        await stream.finish()
        assert await stream.read() == SECRET * 500


async def test_both_ends_write_a_file_of_the_same_name(certificates: Certificates, tmp_path: Path) -> None:
    ours, theirs = tmp_path / "client", tmp_path / "server"
    async with serve(certificates, qlog=theirs) as server, recorder(server) as between:
        ours.mkdir()
        await talk(between.address, certificates, qlog=ours)
        first = between.of_client()[0]
    # RFC 9000 §17.2: flags, version, the length of the destination connection ID, and the ID.
    original = first[6 : 6 + first[5]].hex()
    [client], [server_file] = files_in(ours), files_in(theirs)
    assert client.name == f"{original}_client.sqlog"
    assert server_file.name == f"{original}_server.sqlog"
    for file, side in ((client, "client"), (server_file, "server")):
        header, *events = records(file)
        assert header["qlog_format"] == "JSON-SEQ"
        assert header["trace"]["vantage_point"]["type"] == side
        assert header["trace"]["common_fields"]["ODCID"] == original
        assert {event["group_id"] for event in events} == {original}
        assert {"transport:packet_sent", "transport:packet_received", "recovery:metrics_updated"} <= names(events)


async def test_what_is_in_it_is_true(certificates: Certificates, tmp_path: Path) -> None:
    file = tmp_path / "trace.sqlog"
    async with serve(certificates) as server:
        options = {"alpn": ALPN, "verify": certificates.ca, "migration": None, "qlog": file}
        async with whimbrel.connect(*server.addresses[0], **options) as connection:  # type: ignore[arg-type]
            async with await connection.open_stream() as stream:
                await stream.write(SECRET * 500)
                await stream.finish()
                await stream.read()
            stats = connection.stats()
    _, *events = records(file)
    times = [event["time"] for event in events]
    assert times == sorted(times)
    assert times[0] >= 0
    sent = named(events, "transport:packet_sent")
    kinds = [event["data"]["header"]["packet_type"] for event in sent]
    assert kinds[0] == "initial"
    assert {"initial", "handshake", "1RTT"} <= set(kinds)
    received = named(events, "transport:packet_received")
    for packets, size in ((sent, stats.bytes_sent), (received, stats.bytes_received)):
        # Of packets that share a datagram when they come, as in the handshake, nobody knows the size.
        told = sum(event["data"].get("raw", {"length": 0})["length"] for event in packets)
        assert size - 6000 <= told <= size + 200
    # Milliseconds, as everything in qlog.
    rtts = [event["data"]["smoothed_rtt"] for event in events if "smoothed_rtt" in event["data"]]
    assert rtts[-1] == pytest.approx(stats.rtt * 1000, rel=0.5, abs=0.1)
    assert all(event["data"].get("ssthresh", 0) < 1 << 40 for event in events)


async def test_a_server_writes_a_file_for_each_connection(certificates: Certificates, tmp_path: Path) -> None:
    async with serve(certificates, qlog=tmp_path) as server:
        await asyncio.gather(*(talk(server.addresses[0], certificates) for _ in range(5)))
    files = files_in(tmp_path)
    assert len(files) == 5
    for file in files:
        _, *events = records(file)
        assert "transport:packet_received" in names(events)
        numbers = [
            event["data"]["header"]["packet_number"]
            for event in events
            if event["name"] == "transport:packet_sent" and event["data"]["header"]["packet_type"] == "1RTT"
        ]
        # One connection's, and no other's.
        assert len(numbers) == len(set(numbers))


async def test_the_environment_names_a_folder_for_both(
    certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "not" / "yet" / "there"
    monkeypatch.setenv("QLOGDIR", str(folder))
    async with serve(certificates) as server:
        await talk(server.addresses[0], certificates)
    assert sorted(file.name.rpartition("_")[2] for file in files_in(folder)) == ["client.sqlog", "server.sqlog"]


async def test_the_argument_goes_before_the_environment(
    certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere, here = tmp_path / "elsewhere", tmp_path / "here"
    monkeypatch.setenv("QLOGDIR", str(elsewhere))
    async with serve(certificates, qlog=here) as server:
        await talk(server.addresses[0], certificates, qlog=f"{here}/")
    assert len(files_in(here)) == 2
    assert not elsewhere.exists()


async def test_a_dial_that_fails_is_on_record_too(certificates: Certificates, tmp_path: Path) -> None:
    file = tmp_path / "failed.sqlog"
    async with serve(certificates) as server:
        other = certificates.chain  # No authority of anybody's.
        with pytest.raises(whimbrel.CertificateError):
            await talk(server.addresses[0], certificates, qlog=file, verify=other)
    _, *events = records(file)
    assert "transport:packet_received" in names(events)


async def test_an_older_file_is_replaced(certificates: Certificates, tmp_path: Path) -> None:
    file = tmp_path / "trace.sqlog"
    async with serve(certificates) as server:
        for _ in range(2):
            await talk(server.addresses[0], certificates, qlog=file)
    assert len([record for record in records(file) if "qlog_version" in record]) == 1
    assert files_in(tmp_path) == [file]


async def test_it_has_no_secrets(certificates: Certificates, tmp_path: Path) -> None:
    store = whimbrel.SessionStore()
    async with serve(certificates, qlog=tmp_path, early_data=True) as server, recorder(server) as between:
        for _ in range(2):
            await talk(between.address, certificates, qlog=tmp_path, sessions=store, early_data=True)
    files = files_in(tmp_path)
    assert len(files) == 4
    allowed = {
        "transport:packet_sent": {"header", "raw"},
        "transport:packet_received": {"header", "raw"},
        "recovery:packet_lost": {"header", "raw", "trigger"},
        "recovery:metrics_updated": None,
        # What anybody sees who sees the packets.
        "connectivity:path_assigned": {"path_id", "path_local", "path_remote"},
        "connectivity:connection_id_updated": {"owner", "old", "new"},
    }
    kinds = set()
    for file in files:
        assert SECRET not in file.read_bytes()
        for event in records(file)[1:]:
            fields = allowed[event["name"]]
            if fields is None:
                assert all(isinstance(value, int | float) for value in event["data"].values())
                continue
            assert set(event["data"]) <= fields
            # No tokens and no payload.
            assert set(event["data"].get("raw", {})) <= {"length"}
            if "header" in event["data"]:
                assert set(event["data"]["header"]) <= {"packet_type", "packet_number"}
                kinds.add(event["data"]["header"]["packet_type"])
    assert "0RTT" in kinds


async def test_a_folder_that_cannot_be_written(certificates: Certificates, tmp_path: Path) -> None:
    # Root may write everywhere but here.
    blocked = tmp_path / "file"
    blocked.write_text("")
    for qlog in (blocked / "below", blocked):
        with pytest.raises(OSError, match=r"cannot write the qlog folder '.*file.*': ") as caught:
            serve(certificates, qlog=qlog)
        assert "\n" not in str(caught.value)
    with pytest.raises(OSError, match=r"cannot write the qlog file '.*below': Not a directory"):
        whimbrel.connect("127.0.0.1", 443, alpn=ALPN, verify=certificates.ca, qlog=blocked / "below")


async def test_a_variable_that_names_no_folder(
    certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("QLOGDIR", str(blocked))
    with pytest.raises(OSError, match="QLOGDIR"):
        serve(certificates)
    with pytest.raises(OSError, match="QLOGDIR"):
        whimbrel.connect("127.0.0.1", 443, alpn=ALPN, verify=certificates.ca)


async def test_a_folder_that_goes_away_costs_the_logs_alone(certificates: Certificates, tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    async with serve(certificates, qlog=folder) as server:
        folder.rmdir()
        (tmp_path / "gone").write_text("a file in its place")
        await talk(server.addresses[0], certificates)
    assert (tmp_path / "gone").read_text() == "a file in its place"


# Paths ----------------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def connected(
    address: tuple[str, int], certificates: Certificates, qlog: Path | None = None, migration: Migration | None = None
) -> AsyncIterator[tuple[whimbrel.Connection, whimbrel.Stream]]:
    async with (
        whimbrel.connect(*address, alpn=ALPN, verify=certificates.ca, migration=migration, qlog=qlog) as connection,
        await connection.open_stream() as stream,
    ):
        yield connection, stream


async def go_over(stream: whimbrel.Stream, size: int = 200_000) -> None:
    """Some bytes go over, and come back."""
    sending = asyncio.create_task(stream.write(bytes(size)))
    await stream.readexactly(size)
    await sending


def pin(connection: whimbrel.Connection, source: str, *, fresh: bool = True) -> None:
    """The same machine has no other network; a new port is a new path."""
    assert connection._core.pin(socket.if_nametoindex("lo"), source, fresh)


async def test_each_end_tells_the_paths_that_its_packets_took(certificates: Certificates, tmp_path: Path) -> None:
    async with (
        serve(certificates, qlog=tmp_path) as server,
        connected(server.addresses[0], certificates, tmp_path) as (connection, stream),
    ):
        await go_over(stream)
        for source in ("127.0.0.5", "127.0.0.6"):
            pin(connection, source)
            await go_over(stream)
    client, server_side = only(tmp_path, "client"), only(tmp_path, "server")
    assert [local[0] for local in paths(client, "path_local").values()] == ["127.0.0.1", "127.0.0.5", "127.0.0.6"]
    assert set(paths(client, "path_remote").values()) == {server.addresses[0]}
    # Where the one has it from, the other sends it to.
    assert paths(client, "path_local") == paths(server_side, "path_remote")
    for events in (client, server_side):
        steps = [("migration_started", "1"), ("migration_complete", "1"), ("migration_started", "2")]
        assert migrations(events) == [*steps, ("migration_complete", "2")]
        times = [event["time"] for event in events]
        assert times == sorted(times)
        for path in ("", "1", "2"):
            for kind in ("sent", "received"):
                packets = [event for event in named(events, f"transport:packet_{kind}") if event["path"] == path]
                assert sum(event["data"].get("raw", {"length": 0})["length"] for event in packets) > 200_000
        metrics = named(events, "recovery:metrics_updated")
        assert runs(events, "recovery:metrics_updated") == ["", "1", "2"]
        for path in ("", "1", "2"):
            told = [event["data"] for event in metrics if event["path"] == path]
            assert {"congestion_window", "bytes_in_flight"} <= set(told[0])
            # Until it is measured, the engine takes it for 100 ms.
            assert 0 < next(each["smoothed_rtt"] for each in told if "smoothed_rtt" in each) < 99
        # RFC 9000 §9.5: another connection ID, at the same time.
        for owner in ("local", "remote"):
            updates = named(events, "connectivity:connection_id_updated")
            changed = [event for event in updates if event["data"]["owner"] == owner]
            assert {event["path"] for event in changed} == {"", "1", "2"}
            ids = [event["data"]["new"] for event in changed]
            assert len(set(ids)) == len(ids)
            assert [event["data"].get("old") for event in changed] == [None, *ids[:-1]]
    assert runs(client, "transport:packet_sent") == ["", "1", "2"]


async def test_what_comes_late_belongs_to_the_path_that_it_came_by(certificates: Certificates, tmp_path: Path) -> None:
    async with (
        serve(certificates, qlog=tmp_path) as server,
        connected(server.addresses[0], certificates, tmp_path) as (connection, stream),
    ):
        await go_over(stream)
        sending = asyncio.create_task(stream.write(bytes(4_000_000)))
        await stream.readexactly(1_000_000)
        pin(connection, "127.0.0.5")
        await stream.readexactly(3_000_000)
        await sending
    events = only(tmp_path, "client")
    moved = next(at for at, event in enumerate(events) if event["name"] == "transport:migration_state_updated")
    late = [event for event in named(events[moved:], "transport:packet_received") if event["path"] == ""]
    assert late, "the server had nothing under way"
    assert runs(events[moved:], "transport:packet_sent") == ["1"]
    # What was sent before the move and is lost was lost on the old path.
    first = named(events[moved:], "transport:packet_sent")[0]["data"]["header"]["packet_number"]
    for lost in named(events[moved:], "recovery:packet_lost"):
        assert lost["path"] == ("" if lost["data"]["header"]["packet_number"] < first else "1")


async def test_a_path_keeps_its_name_when_it_is_used_again(certificates: Certificates, tmp_path: Path) -> None:
    async with (
        serve(certificates, qlog=tmp_path) as server,
        connected(server.addresses[0], certificates, tmp_path) as (connection, stream),
    ):
        await go_over(stream)
        pin(connection, "127.0.0.1")
        # No packet has come over it yet.
        pin(connection, "127.0.0.1", fresh=False)
        await go_over(stream)
    events = only(tmp_path, "client")
    steps = [
        ("migration_started", "1"),
        ("migration_abandoned", "1"),
        ("migration_started", ""),
        ("migration_complete", ""),
    ]
    assert migrations(events) == steps
    assert events[-1]["path"] == ""


async def test_a_server_tells_that_an_address_was_not_proven(certificates: Certificates, tmp_path: Path) -> None:
    async with serve(certificates, qlog=tmp_path) as server:
        nat = Nat(server.addresses[0])
        await nat.start()
        try:
            async with connected(nat.address, certificates) as (connection, stream):
                await go_over(stream)
                [server_end] = server.connections
                home, changes = server_end.path.remote, server_end.path_changes()
                nat.deaf = True
                await nat.rebind()
                connection._core.ping()
                away = await anext(changes)
                assert isinstance(away, whimbrel.PathMigrated)
                await anext(changes)
        finally:
            nat.stop()
    events = only(tmp_path, "server")
    assert migrations(events)[:2] == [("migration_started", "1"), ("migration_abandoned", "1")]
    assert paths(events, "path_remote") == {"": home, "1": away.new.remote}
    back = next(at for at, event in enumerate(events) if event["data"].get("new") == "migration_abandoned") + 1
    assert named(events[back:], "transport:packet_sent")[0]["path"] == ""


@pytest.mark.parametrize("sockets", ["pinned", "unconnected", "connected"])
async def test_the_first_path_is_told_with_every_kind_of_socket(
    certificates: Certificates, tmp_path: Path, host: str, sockets: Literal["pinned", "unconnected", "connected"]
) -> None:
    async with (
        whimbrel.serve(echo, host, cert=certificates.pair, alpn=ALPN, qlog=tmp_path) as server,
        connected(server.addresses[0], certificates, tmp_path, Migration(sockets=sockets)) as (connection, stream),
    ):
        await go_over(stream)
        [server_end] = server.connections
        seen_at = server_end.path.remote
        await until(lambda: connection.path.local == seen_at)
    assert paths(only(tmp_path, "client"), "path_local") == {"": seen_at}
    assert paths(only(tmp_path, "server"), "path_remote") == {"": seen_at}


async def test_probes_and_what_the_kernel_chooses_are_told(certificates: Certificates, tmp_path: Path) -> None:
    """The log cannot see them by itself: probes have sockets of their own, and the kernel asks nobody."""
    async with (
        serve(certificates) as server,
        connected(server.addresses[0], certificates, tmp_path) as (connection, stream),
    ):
        connection._core.probing("probing_started", "192.0.2.7")
        connection._core.probing("probing_abandoned", "192.0.2.7")
        port = connection.path.local[1]
        connection._core.leaves_from("192.0.2.8")
        await go_over(stream)
    events = only(tmp_path, "client")
    probes = [event["data"] for event in named(events, "transport:migration_state_updated")]
    assert [(probe["new"], probe["path_local"]) for probe in probes] == [
        ("probing_started", {"ip_v4": "192.0.2.7"}),
        ("probing_abandoned", {"ip_v4": "192.0.2.7"}),
    ]
    assert paths(events, "path_local") == {"": ("127.0.0.1", port), "1": ("192.0.2.8", port)}
    assert runs(events, "transport:packet_sent")[-1] == "1"


async def test_the_time_without_a_network_counts(certificates: Certificates, tmp_path: Path) -> None:
    """The engine's clock stands still then; who reads the log lives in the world."""
    async with (
        serve(certificates) as server,
        connected(server.addresses[0], certificates, tmp_path) as (connection, stream),
    ):
        await go_over(stream)
        held = time.monotonic()
        connection._pump.endpoint.hold(True)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(stream.read(1), 0.3)
        connection._pump.endpoint.hold(False)
        held = time.monotonic() - held
        await go_over(stream)
    times = [event["time"] for event in only(tmp_path, "client")]
    assert times == sorted(times)
    assert max(later - earlier for earlier, later in itertools.pairwise(times)) >= held * 1000 - 50
