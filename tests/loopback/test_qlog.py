"""What is written of a connection: one standard file, at each end."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import pytest

import whimbrel
from tests.loopback.recorder import recorder
from tests.loopback.support import ALPN, Certificates, echo

if TYPE_CHECKING:
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
    sent = [event["data"]["header"] for event in events if event["name"] == "transport:packet_sent"]
    kinds = [header["packet_type"] for header in sent]
    assert kinds[0] == "initial"
    assert {"initial", "handshake", "1RTT"} <= set(kinds)
    assert sum(header["length"] for header in sent) >= len(SECRET) * 500
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
        "transport:packet_sent": {"header"},
        "transport:packet_received": {"header"},
        "recovery:packet_lost": {"header", "trigger"},
        "recovery:metrics_updated": None,
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
            # No tokens, no connection IDs but the one that names the file, no payload.
            assert set(event["data"]["header"]) <= {"packet_type", "packet_number", "length"}
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


async def test_a_move_is_on_record(certificates: Certificates, tmp_path: Path) -> None:
    file = tmp_path / "trace.sqlog"
    async with serve(certificates) as server:
        host, port = server.addresses[0]
        async with (
            whimbrel.connect(host, port, alpn=ALPN, verify=certificates.ca, migration=None, qlog=file) as connection,
            await connection.open_stream() as stream,
        ):
            await stream.write(b"before ")
            assert await stream.readexactly(7) == b"before "
            # The same machine has no other network; a new port is a new path.
            connection._core.pin(socket.if_nametoindex("lo"), host, True)
            await stream.write(b"after")
            assert await stream.readexactly(5) == b"after"
    [move] = [event for event in records(file)[1:] if event["name"] == "connectivity:path_assigned"]
    assert move["data"]["path_remote"] == {"ip_v4": host, "port_v4": port}
    times = [event["time"] for event in records(file)[1:]]
    assert times == sorted(times)
