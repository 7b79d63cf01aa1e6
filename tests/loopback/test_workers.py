"""serve(workers=...): several processes on one port, clients that move among them, and workers that end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography import x509

import whimbrel
from tests.loopback.support import ALPN, SOON, Certificates, until
from tests.loopback.test_server_moves import Nat
from tests.loopback.workers_handlers import CannotTravel, number_and_echo, number_of_process, stuck
from whimbrel import Migration, SessionStore, StatelessReset, http

if TYPE_CHECKING:
    from collections.abc import Callable

    from whimbrel import Connection, Workers

MIB = 1 << 20


def serve(certificates: Certificates, workers: int = 2, host: str = "127.0.0.1") -> whimbrel._workers.ServeWorkers:
    return whimbrel.serve(number_and_echo, host, cert=certificates.pair, alpn=ALPN, workers=workers)


def dial(
    server: Workers, certificates: Certificates, *, moves: bool = False, sessions: SessionStore | None = None
) -> whimbrel._client._Connect:
    host, port = server.addresses[0]
    migration = Migration(auto=False) if moves else None
    return whimbrel.connect(
        host, port, alpn=ALPN, verify=certificates.ca, migration=migration, sessions=sessions, timeout=SOON
    )


async def worker_of(connection: Connection) -> int:
    """The number of the process that answers."""
    async with await connection.open_stream() as stream:
        await stream.finish()
        return int(await stream.readuntil())


async def transfer(connection: Connection, size: int, *, begun: Callable[[], None] | None = None) -> int:
    """Bytes go over and come back whole; the number of the process that sent them back."""
    content = os.urandom(1024) * (size // 1024)
    async with await connection.open_stream() as stream:
        sending = asyncio.create_task(stream.write(content))
        worker = int(await stream.readuntil())
        if begun is not None:
            begun()
        assert await stream.readexactly(len(content)) == content
        await sending
    return worker


async def fallen(connection: Connection) -> type[Exception]:
    """What ends a connection that goes on sending."""
    try:
        while True:
            await worker_of(connection)
    except whimbrel.ConnectionLost as lost:
        return type(lost)


def exists(process: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        state = Path(f"/proc/{process}/stat").read_text("ascii").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


async def test_two_hundred_connections_spread_and_each_stays_where_it_is(certificates: Certificates) -> None:
    async with serve(certificates) as server, contextlib.AsyncExitStack() as clients:
        connections = [await clients.enter_async_context(dial(server, certificates)) for _ in range(200)]
        first = [await worker_of(connection) for connection in connections]
        assert [await worker_of(connection) for connection in connections] == first
        spread = Counter(first)
        assert set(spread) == set(server.processes)
        # Of 200 fair throws, less than 60 of a kind is one chance in a hundred million.
        assert min(spread.values()) >= 60
        stats = await server.stats()
        assert (stats.connections, stats.accepted) == (200, 200)
        assert stats.stateless_resets == 0


async def test_clients_that_move_still_reach_their_worker(certificates: Certificates) -> None:
    # Nothing but the connection ID leads the packets of a new port to the worker: by addresses, half would go astray.
    async with serve(certificates) as server, contextlib.AsyncExitStack() as clients:
        loopback = socket.if_nametoindex("lo")
        for _ in range(12):
            connection = await clients.enter_async_context(dial(server, certificates, moves=True))
            worker = await worker_of(connection)
            moving = asyncio.create_task(transfer(connection, 2 * MIB))
            for source in ("127.0.0.1", "127.0.0.7", "127.0.0.1"):
                assert connection._core.pin(loopback, source, True)
                assert await worker_of(connection) == worker
            assert await moving == worker
        assert (await server.stats()).moves >= 12


async def test_clients_whose_port_changes_under_them_still_reach_their_worker(certificates: Certificates) -> None:
    async with serve(certificates) as server:
        for _ in range(12):
            between = Nat(server.addresses[0])
            await between.start()
            host, port = between.address
            async with whimbrel.connect(host, port, alpn=ALPN, verify=certificates.ca, migration=None) as connection:
                worker = await worker_of(connection)
                for _ in range(3):
                    await between.rebind()
                    assert await worker_of(connection) == worker
            between.stop()
        assert (await server.stats()).moves >= 12


async def test_who_has_proven_an_address_to_one_worker_has_proven_it_to_all(certificates: Certificates) -> None:
    described = whimbrel.serve(
        number_and_echo, "127.0.0.1", cert=certificates.pair, alpn=ALPN, retry="always", workers=2
    )
    async with described as server:
        sessions, seen = SessionStore(), set[int]()
        for _ in range(16):
            async with dial(server, certificates, sessions=sessions) as connection:
                seen.add(await worker_of(connection))
        assert seen == set(server.processes)
        # The first one; the others bring a token (NEW_TOKEN, RFC 9000 §8.1.3).
        assert (await server.stats()).retried == 1


async def test_a_session_is_resumed_at_any_worker(certificates: Certificates) -> None:
    async with serve(certificates) as server:
        sessions, seen = SessionStore(), Counter[tuple[int, bool]]()
        for _ in range(16):
            async with dial(server, certificates, sessions=sessions) as connection:
                seen[await worker_of(connection), connection.session_reused] += 1
        assert sum(count for (_, reused), count in seen.items() if reused) == 15
        assert {worker for (worker, reused) in seen if reused} == set(server.processes)


async def test_a_dead_workers_clients_hear_of_it_and_the_others_notice_nothing(certificates: Certificates) -> None:
    async with serve(certificates) as server, contextlib.AsyncExitStack() as clients:
        connections = [await clients.enter_async_context(dial(server, certificates)) for _ in range(12)]
        workers = [await worker_of(connection) for connection in connections]
        victim, survivor = server.processes
        assert {victim, survivor} == set(workers)
        running = [
            asyncio.create_task(transfer(connection, 8 * MIB))
            for connection, worker in zip(connections, workers, strict=True)
            if worker == survivor
        ]
        os.kill(victim, signal.SIGKILL)
        bereft = [
            asyncio.create_task(fallen(connection))
            for connection, worker in zip(connections, workers, strict=True)
            if worker == victim
        ]
        assert set(await asyncio.gather(*running)) == {survivor}
        assert set(await asyncio.gather(*bereft)) == {StatelessReset}
        async with dial(server, certificates) as newcomer:
            assert await worker_of(newcomer) in server.processes
        assert victim not in server.processes
        assert len(server.processes) == 2


async def test_what_comes_for_a_dead_worker_is_answered_within_a_round_trip_of_its_follower(
    certificates: Certificates,
) -> None:
    async with serve(certificates, workers=1) as server, dial(server, certificates) as connection:
        await worker_of(connection)
        (victim,) = server.processes
        os.kill(victim, signal.SIGKILL)
        await until(lambda: bool(server.processes) and victim not in server.processes)
        async with dial(server, certificates) as newcomer:
            await worker_of(newcomer)
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert await fallen(connection) is StatelessReset
        assert loop.time() - began < 0.2


async def test_renewal_keeps_transfers_whole_and_shows_newcomers_the_new_certificate(
    issue: Callable[..., Certificates], tmp_path: Path
) -> None:
    old, new = issue("127.0.0.1"), issue("127.0.0.1")
    pair = (tmp_path / "chain.pem", tmp_path / "key.pem")
    use(old, pair)
    described = whimbrel.serve(number_and_echo, "127.0.0.1", cert=pair, alpn=ALPN, workers=2)
    async with described as server, contextlib.AsyncExitStack() as clients:
        connections = [await clients.enter_async_context(dial(server, old, moves=True)) for _ in range(6)]
        before = set(server.processes)
        workers = [await worker_of(connection) for connection in connections]
        begun = asyncio.Event()
        running = [asyncio.create_task(transfer(connection, 16 * MIB, begun=begun.set)) for connection in connections]
        await begun.wait()
        use(new, pair)
        await server.renew()
        after = set(server.processes) - before
        assert len(after) == 2
        for _ in range(8):
            async with dial(server, new) as newcomer:
                assert newcomer.peer_certificate == certificate(new)
                assert await worker_of(newcomer) in after
        assert await asyncio.gather(*running) == workers
        # Who stays is served by the old ones for as long as they like, and may still move.
        for connection, worker in zip(connections, workers, strict=True):
            assert connection._core.pin(socket.if_nametoindex("lo"), "127.0.0.9", True)
            assert await worker_of(connection) == worker
            await connection.close()
        await until(lambda: set(server.processes) == after)
        async with dial(server, new, moves=True) as connection:
            worker = await worker_of(connection)
            assert connection._core.pin(socket.if_nametoindex("lo"), "127.0.0.9", True)
            assert await worker_of(connection) == worker
        # Nothing that was counted is forgotten.
        while (stats := await server.stats()).connections:
            pass  # It has not heard of the client's end yet.
        assert stats.accepted == 15
        assert stats.bytes_sent > 6 * 16 * MIB


async def test_a_renewed_worker_that_is_to_end_gives_its_connections_what_time_there_is(
    certificates: Certificates,
) -> None:
    async with serve(certificates, workers=1) as server, dial(server, certificates) as connection:
        await worker_of(connection)
        await server.renew()
        running = asyncio.create_task(transfer(connection, 8 * MIB))
        await until(lambda: connection.stats().bytes_received > MIB)
        closing = asyncio.create_task(server.close(drain=SOON))
        await running
        await connection.close()
        await closing


async def test_a_worker_that_dies_is_replaced_while_the_one_before_it_lives_on(certificates: Certificates) -> None:
    async with serve(certificates, workers=1) as server, dial(server, certificates) as connection:
        before = await worker_of(connection)
        await server.renew()
        (victim,) = set(server.processes) - {before}
        os.kill(victim, signal.SIGKILL)
        await until(lambda: victim not in server.processes and len(server.processes) == 2)
        async with dial(server, certificates) as newcomer:
            assert await worker_of(newcomer) not in (before, victim)
        assert await worker_of(connection) == before


async def test_a_second_renewal_closes_what_was_left_over_from_the_first(certificates: Certificates) -> None:
    async with serve(certificates, workers=1) as server, dial(server, certificates) as connection:
        await worker_of(connection)
        await server.renew()
        assert len(server.processes) == 2
        await worker_of(connection)
        await server.renew()
        await connection.wait_closed()
        async with dial(server, certificates) as newcomer:
            assert await worker_of(newcomer) in server.processes


async def test_who_cannot_be_renewed_stays(certificates: Certificates, tmp_path: Path) -> None:
    pair = (tmp_path / "chain.pem", tmp_path / "key.pem")
    use(certificates, pair)
    described = whimbrel.serve(number_and_echo, "127.0.0.1", cert=pair, alpn=ALPN, workers=2)
    async with described as server:
        before = set(server.processes)
        pair[0].unlink()
        with pytest.raises(FileNotFoundError, match=r"cannot read the certificate .*chain\.pem"):
            await server.renew()
        async with dial(server, certificates) as connection:
            assert await worker_of(connection) in before


async def test_handshakes_during_renewals_are_completed(certificates: Certificates) -> None:
    async with serve(certificates) as server:
        over = asyncio.Event()

        async def come_and_go() -> int:
            count = 0
            while not over.is_set():
                async with dial(server, certificates) as connection:
                    await worker_of(connection)
                count += 1
            return count

        visitors = [asyncio.create_task(come_and_go()) for _ in range(4)]
        for _ in range(2):
            await server.renew()
        over.set()
        assert min(await asyncio.gather(*visitors)) > 1


async def test_closing_lets_connections_end_and_leaves_nothing(certificates: Certificates) -> None:
    async with serve(certificates) as server:
        processes = server.processes
        async with dial(server, certificates) as connection:
            running = asyncio.create_task(transfer(connection, 8 * MIB))
            await until(lambda: connection.stats().bytes_received > MIB)
            closing = asyncio.create_task(server.close(drain=SOON))
            await running
        await closing
        assert not any(map(exists, processes))
        assert not server.processes
    # The port is free again.
    host, port = server.addresses[0]
    async with whimbrel.serve(number_and_echo, host, port, cert=certificates.pair, alpn=ALPN):
        pass


async def test_a_worker_that_does_not_end_is_ended(certificates: Certificates) -> None:
    described = whimbrel.serve(stuck, "127.0.0.1", cert=certificates.pair, alpn=ALPN, workers=1)
    async with described as server:
        processes = server.processes
        async with dial(server, certificates) as connection:
            await worker_of(connection)
    assert not any(map(exists, processes))


async def test_requests_are_answered_by_all_workers(certificates: Certificates) -> None:
    described = http.serve(number_of_process, "127.0.0.1", cert=certificates.pair, workers=2)
    async with described as server:
        answers: set[int] = set()
        host, port = server.addresses[0]
        while len(answers) < 2:
            async with (
                http.connect(f"https://{host}:{port}", verify=certificates.ca) as client,
                await client.request("GET", "/") as response,
            ):
                answers.add(int(await response.read()))
        assert answers == set(server.processes)


async def test_all_addresses_are_served_on_one_port(certificates: Certificates) -> None:
    described = whimbrel.serve(number_and_echo, ["127.0.0.1", "::1"], cert=certificates.pair, alpn=ALPN, workers=2)
    async with described as server:
        assert [host for host, _ in server.addresses] == ["127.0.0.1", "::1"]
        assert len({port for _, port in server.addresses}) == 1
        for host, port in server.addresses:
            async with whimbrel.connect(host, port, alpn=ALPN, verify=certificates.ca, migration=None) as connection:
                assert await worker_of(connection) in server.processes


async def test_a_port_in_use_is_an_error_even_if_others_share_it(certificates: Certificates) -> None:
    async with serve(certificates) as server:
        host, port = server.addresses[0]
        with pytest.raises(OSError, match="cannot listen on 127"):
            await whimbrel.serve(number_and_echo, host, port, cert=certificates.pair, alpn=ALPN, workers=2)
        with pytest.raises(OSError, match="cannot listen on 127"):
            await whimbrel.serve(number_and_echo, host, port, cert=certificates.pair, alpn=ALPN)


def test_what_workers_cannot_do_is_said_at_once(certificates: Certificates) -> None:
    async def here(connection: Connection) -> None:
        await connection.wait_closed()

    for handler in (here, CannotTravel()):
        with pytest.raises(ValueError, match="it must be a function of a module"):
            whimbrel.serve(handler, cert=certificates.pair, alpn=ALPN, workers=2)
    for count in (0, -1, 257):
        with pytest.raises(ValueError, match=f"workers must be 1 to 256, not {count}"):
            whimbrel.serve(number_and_echo, cert=certificates.pair, alpn=ALPN, workers=count)
    with pytest.raises(ValueError, match="workers need sockets='wildcard'"):
        whimbrel.serve(  # type: ignore[call-overload]
            number_and_echo, cert=certificates.pair, alpn=ALPN, sockets="connected", workers=2
        )
    with pytest.raises(ValueError, match="workers need sockets='wildcard'"):
        http.serve(number_of_process, cert=certificates.pair, sockets="connected", workers=2)


@pytest.mark.parametrize("handler", ["number_and_echo", "stuck"])
async def test_no_worker_outlives_a_supervisor_that_was_killed(
    certificates: Certificates, tmp_path: Path, handler: str
) -> None:
    script = tmp_path / "supervisor.py"
    script.write_text(SUPERVISOR)
    arguments = [str(script), str(certificates.chain), str(certificates.key), handler]
    supervisor = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=subprocess.PIPE, cwd=ROOT)
    try:
        assert supervisor.stdout is not None
        port, *workers = map(int, (await supervisor.stdout.readline()).split())
        async with whimbrel.connect("127.0.0.1", port, alpn=ALPN, verify=certificates.ca, migration=None) as connection:
            assert await worker_of(connection) in workers
            supervisor.kill()
            if handler != "stuck":
                await connection.wait_closed()
        await until(lambda: not any(map(exists, workers)))
    finally:
        with contextlib.suppress(ProcessLookupError):
            supervisor.kill()
        await supervisor.communicate()


ROOT = Path(__file__).parents[2]
SUPERVISOR = f"""
import asyncio, sys
sys.path.insert(0, ".")
import whimbrel
from tests.loopback import workers_handlers

async def main():
    pair, handler = (sys.argv[1], sys.argv[2]), getattr(workers_handlers, sys.argv[3])
    async with whimbrel.serve(handler, "127.0.0.1", cert=pair, alpn="{ALPN}", workers=2) as server:
        print(server.addresses[0][1], *server.processes, flush=True)
        await server.obey_signals()

if __name__ == "__main__":
    asyncio.run(main())
"""


async def test_workers_that_nobody_closes_are_told_of_and_end(certificates: Certificates) -> None:
    server = [await serve(certificates)]
    processes = server[0].processes
    with pytest.warns(ResourceWarning, match="2 workers on .* was never closed"):
        drop(server)
    await until(lambda: not any(map(exists, processes)))


def drop(objects: list[Workers]) -> None:
    objects.clear()
    gc.collect()


def use(certificates: Certificates, pair: tuple[Path, Path]) -> None:
    for source, target in zip(certificates.pair, pair, strict=True):
        shutil.copyfile(source, target)


def certificate(certificates: Certificates) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return x509.load_pem_x509_certificates(certificates.chain.read_bytes())[0].public_bytes(Encoding.DER)
