"""The laboratory is what it says, and the kernel behaves as the library relies on.

cli ── wlan0 ~~~ ap  ── srv     10 ms, 200 Mbit/s
 └──── wwan0 ~~~ bts ──┘        40 ms, 100 Mbit/s
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
import subprocess
import sys
import sysconfig
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

import pytest

import whimbrel
from whimbrel.testing import SCENARIOS, Journey, Laboratory, Scenario, Step, carried, flapping, outage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PORT = 4433
UDP_SEGMENT, SO_TIMESTAMPNS = 103, 35
IP_PKTINFO = 8  # Named by the socket module from Python 3.14 on.
SOON = 10.0  # Seconds: no test waits so long unless it fails.

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def echo(lossless_lab: Laboratory) -> Iterator[Echo]:
    with Echo(lossless_lab) as server:
        yield server


class Echo:
    """A server that answers each datagram with the address it came from."""

    def __init__(self, lab: Laboratory) -> None:
        self.lab = lab
        self.closing, self.closed = os.pipe()
        with lab.enter("srv"):
            self.sockets = [socket.socket(family, socket.SOCK_DGRAM) for family in (socket.AF_INET, socket.AF_INET6)]
            for server, address in zip(self.sockets, (lab.server_address, lab.server_address_ipv6), strict=True):
                server.bind((address, PORT))
        self.thread = threading.Thread(target=self.serve)

    def serve(self) -> None:
        while True:
            watched: list[int | socket.socket] = [self.closing, *self.sockets]
            ready, _, _ = select.select(watched, (), ())
            if self.closing in ready:
                return
            for server in (server for server in self.sockets if server in ready):
                _data, peer = server.recvfrom(2048)
                server.sendto(f"{peer[0]} {peer[1]}".encode(), peer)

    @contextlib.contextmanager
    def client(self, family: int = socket.AF_INET) -> Iterator[socket.socket]:
        with self.lab.enter("cli"):
            client = socket.socket(family, socket.SOCK_DGRAM)
        client.settimeout(SOON)
        with client:
            yield client

    def address(self, client: socket.socket) -> tuple[str, int]:
        ipv6 = client.family == socket.AF_INET6
        return (self.lab.server_address_ipv6 if ipv6 else self.lab.server_address), PORT

    def ask(self, client: socket.socket) -> tuple[str, int]:
        """Return the address that the server sees, asked over an unconnected socket."""
        client.sendto(b"?", self.address(client))
        host, port = client.recv(2048).split()
        return host.decode(), int(port)

    def ask_pinned(self, client: socket.socket, interface: str, source: str) -> tuple[str, int]:
        """The same with a packet that names its interface and source address (IP_PKTINFO)."""
        with self.lab.enter("cli"):
            index = socket.if_nametoindex(interface)
        info = struct.pack("=i4s4s", index, socket.inet_aton(source), bytes(4))
        client.sendmsg([b"?"], [(socket.IPPROTO_IP, IP_PKTINFO, info)], 0, self.address(client))
        host, port = client.recv(2048).split()
        return host.decode(), int(port)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.closed)
        self.thread.join()
        os.close(self.closing)
        for server in self.sockets:
            server.close()


def test_nothing_leads_out_before_a_network_is_joined(echo: Echo) -> None:
    with echo.client() as client, pytest.raises(OSError, match="unreachable") as caught:
        echo.ask(client)
    assert caught.value.errno == errno.ENETUNREACH


def test_the_server_sees_the_address_of_the_nat(echo: Echo) -> None:
    lab = echo.lab
    lab.cellular.join()
    with echo.client() as client:
        assert echo.ask(client)[0] == lab.cellular.nat_address


def test_ipv6_is_routed_and_not_translated(echo: Echo) -> None:
    lab = echo.lab
    lab.cellular.join()
    with echo.client(socket.AF_INET6) as client:
        assert echo.ask(client) == (lab.cellular.address_ipv6, client.getsockname()[1])
        lab.wifi.join()
        assert echo.ask(client)[0] == lab.wifi.address_ipv6
        lab.wifi.down()
        assert echo.ask(client)[0] == lab.cellular.address_ipv6
        lab.wifi.up()
        assert echo.ask(client)[0] == lab.wifi.address_ipv6


def test_an_unconnected_socket_follows_the_routing_table(echo: Echo) -> None:
    lab = echo.lab
    lab.cellular.join()
    with echo.client() as client:
        assert echo.ask(client)[0] == lab.cellular.nat_address
        lab.wifi.join()  # Preferred, with cellular still up.
        assert echo.ask(client)[0] == lab.wifi.nat_address
        lab.wifi.down()
        assert echo.ask(client)[0] == lab.cellular.nat_address
        lab.cellular.down()
        with pytest.raises(OSError, match="unreachable"):
            echo.ask(client)
        lab.wifi.up()  # Address and routes in one call.
        assert echo.ask(client)[0] == lab.wifi.nat_address


def test_a_connected_socket_stops_working_when_another_route_is_preferred(echo: Echo) -> None:
    lab = echo.lab
    lab.cellular.join()
    with echo.client() as client, echo.client() as unconnected:
        client.connect(echo.address(client))
        client.send(b"?")
        assert client.recv(2048).split()[0].decode() == lab.cellular.nat_address
        lab.wifi.join()
        client.send(b"?")  # Leaves by wlan0 with wwan0's address, which the access point translates to…
        echo.ask(unconnected)  # The datagram above is through, one way or the other, when this is answered.
        client.settimeout(0)
        with pytest.raises(BlockingIOError):  # … nothing that finds its way back.
            client.recv(2048)


def test_a_pinned_packet_takes_its_interface_whatever_the_kernel_prefers(echo: Echo) -> None:
    lab = echo.lab
    lab.cellular.join()
    lab.wifi.join()
    with echo.client() as client:
        assert echo.ask(client)[0] == lab.wifi.nat_address
        assert echo.ask_pinned(client, "wwan0", lab.cellular.address)[0] == lab.cellular.nat_address
        assert echo.ask_pinned(client, "wlan0", lab.wifi.address)[0] == lab.wifi.nat_address


def test_a_pinned_packet_to_a_cut_link_is_unreachable_and_the_socket_lives_on(echo: Echo) -> None:
    lab = echo.lab
    lab.cellular.join()
    lab.wifi.join()
    with echo.client() as client:
        assert echo.ask_pinned(client, "wlan0", lab.wifi.address)[0] == lab.wifi.nat_address
        lab.wifi.down()
        with pytest.raises(OSError, match="unreachable") as caught:
            echo.ask_pinned(client, "wlan0", lab.wifi.address)
        assert caught.value.errno == errno.ENETUNREACH
        assert echo.ask_pinned(client, "wwan0", lab.cellular.address)[0] == lab.cellular.nat_address


def test_leaving_takes_the_address_and_keeps_the_link(echo: Echo) -> None:
    lab = echo.lab
    lab.cellular.join()
    lab.wifi.join()
    lab.wifi.leave()
    lab.wifi.leave()
    with echo.client() as client:
        assert echo.ask(client)[0] == lab.cellular.nat_address
        with pytest.raises(OSError, match="Cannot assign requested address"):
            client.bind((lab.wifi.address, 0))
        with lab.enter("cli"):
            assert _link_is_up("wlan0")
        lab.wifi.join()
        assert echo.ask(client)[0] == lab.wifi.nat_address


def test_a_renewed_address_is_another_one(echo: Echo) -> None:
    lab = echo.lab
    lab.wifi.join()
    seen = set()
    with echo.client(socket.AF_INET6) as client:
        for _ in range(20):
            seen.add(echo.ask(client)[0])
            lab.wifi.renew()
    assert len(seen) == 20
    with echo.client() as client:
        client.bind((lab.wifi.address, 0))
        assert echo.ask(client)[0] == lab.wifi.nat_address


def test_after_a_rebinding_the_server_sees_another_port(echo: Echo) -> None:
    lab = echo.lab
    lab.cellular.join()
    with echo.client() as client:
        ports = []
        for _ in range(5):
            assert echo.ask(client) == echo.ask(client)
            ports.append(echo.ask(client)[1])
            lab.cellular.rebind()
    assert len(set(ports)) == len(ports)


def test_what_comes_for_a_forgotten_mapping_is_dropped(echo: Echo) -> None:
    lab = echo.lab
    lab.cellular.join()
    with echo.client() as client:
        old = echo.ask(client)
        lab.cellular.rebind()
        echo.sockets[0].sendto(b"late", old)
        assert echo.ask(client) != old  # The late one would have come first.


def test_a_silent_radio_carries_nothing_and_the_kernel_is_not_told(echo: Echo) -> None:
    lab = echo.lab
    lab.cellular.join()
    lab.wifi.join()
    with echo.client() as client:
        echo.ask(client)
        lab.wifi.silence(True)
        before = [way.frames for way in lab.wifi.traffic()]
        for _ in range(10):
            client.sendto(b"?", echo.address(client))  # No error: still the kernel's choice.
        assert echo.ask_pinned(client, "wwan0", lab.cellular.address)[0] == lab.cellular.nat_address
        assert [way.frames for way in lab.wifi.traffic()] == before
        lab.wifi.silence(False)
        assert echo.ask(client)[0] == lab.wifi.nat_address


def test_each_way_takes_half_of_the_round_trip_that_was_set(lossless_lab: Laboratory) -> None:
    lab = lossless_lab
    with lab.enter("srv"):
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind((lab.server_address, 9))
    with lab.enter("cli"):
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with server, client:
        for end in (server, client):
            end.settimeout(SOON)
            end.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        for network in (lab.cellular, lab.wifi):  # The one joined last is preferred.
            network.join()
            for rtt in (network.radio.rtt, 0.065):
                network.set(rtt=rtt)
                there, back = [], []
                for _ in range(11):
                    time_there, peer = _one_way(client, server, (lab.server_address, 9))
                    there.append(time_there)
                    back.append(_one_way(server, client, peer)[0])
                for times in (there, back):
                    assert rtt / 2 <= sorted(times)[5] < rtt / 2 + 0.001


def test_loss_is_what_was_set(echo: Echo) -> None:
    lab = echo.lab
    lab.wifi.join()
    lab.wifi.set(loss=0.2, rate=1e9)
    with echo.client() as client:
        for _ in range(2000):
            client.sendto(b"?", echo.address(client))
        _wait_until(lambda: lab.wifi.traffic()[0].frames + lab.wifi.traffic()[0].lost >= 2000)
    sent, _ = lab.wifi.traffic()
    assert 300 < sent.lost < 500  # Five standard deviations are 90.


def test_just_those_packets_are_lost(echo: Echo) -> None:
    lab = echo.lab
    lab.wifi.join()
    lab.wifi.set(loss=0.0)
    with echo.client() as client:
        echo.ask(client)  # Whatever the network has to find out first is found out.
        before = [way.lost for way in lab.wifi.traffic()]  # While it joins, what is sent to it may be lost.
        lab.wifi.lose(sent=(1, 4), received=(0,))
        for number in range(6):
            client.sendto(bytes(number), echo.address(client))
        _wait_until(lambda: lab.wifi.traffic()[1].frames >= 4)
    assert [way.lost - lost for way, lost in zip(lab.wifi.traffic(), before, strict=True)] == [2, 1]
    lengths = [packet.length for packet in lab.wifi.packets if packet.direction == "to_server"]
    assert lengths[-6:] == list(range(6))  # Those are seen when they leave.


def test_the_rate_is_what_was_set_and_the_queue_holds_50_ms(echo: Echo) -> None:
    lab = echo.lab
    lab.wifi.join()
    lab.wifi.set(rate=20e6)
    datagram = bytes(1472)
    with echo.client() as client:
        for _ in range(500):  # 0.3 s worth at once.
            client.sendto(datagram, echo.address(client))
        _wait_until(lambda: lab.wifi.traffic()[0].frames + lab.wifi.traffic()[0].overflowed >= 500)
    sent, _ = lab.wifi.traffic()
    frames_in_queue = 0.050 * 20e6 / 8 / 1514
    # Sending so many took a moment, in which the radio carried some.
    assert frames_in_queue - 2 <= sent.frames < frames_in_queue + 60


def test_a_radio_holds_200_mbit_per_second(echo: Echo) -> None:
    lab = echo.lab
    lab.wifi.join()
    with lab.enter("srv"):
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind((lab.server_address, 9))
    with server, echo.client() as client:
        client.sendto(b"?", (lab.server_address, 9))
        _data, peer = server.recvfrom(100)
        tries = [_carried(lab, lambda: _send_at(server, peer, 195e6, seconds=0.5), 0.5)]
        while tries[-1].rate < 185e6 and len(tries) < 5:
            tries.append(_carried(lab, lambda: _send_at(server, peer, 195e6, seconds=0.5), 0.5))
    if max(attempt.offered for attempt in tries) < 188e6:
        pytest.skip("too little of this machine is free to send 190 Mbit/s")
    assert tries[-1].rate > 185e6
    assert tries[-1].rate > 0.99 * tries[-1].offered


def test_tcp_crosses_the_nat(echo: Echo) -> None:
    lab = echo.lab
    lab.wifi.join()
    with lab.enter("srv"):
        listener = socket.create_server((lab.server_address, 80))
    with lab.enter("cli"):
        client = socket.create_connection((lab.server_address, 80), timeout=SOON)
    with listener, client:
        server, peer = listener.accept()
        assert peer[0] == lab.wifi.nat_address
        data = os.urandom(2_000_000)
        with server:
            sender = threading.Thread(target=server.sendall, args=(data,))
            sender.start()
            received = bytearray()
            while len(received) < len(data):
                received += client.recv(1 << 16)
            sender.join()
    assert received == data
    # The air carries frames as a radio would, not what the kernel hands on in one piece.
    assert max(packet.size for packet in lab.wifi.packets) <= 1500


@pytest.mark.parametrize("sender", ["cli", "srv"])
def test_datagrams_sent_in_one_piece_cross_the_air_one_by_one(echo: Echo, sender: str) -> None:
    lab = echo.lab
    lab.wifi.join()
    with lab.enter("srv"):
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind((lab.server_address, 9))
    with server, echo.client() as client:
        client.sendto(b"?", (lab.server_address, 9))
        client.connect((lab.server_address, 9))
        server.settimeout(SOON)
        server.connect(server.recvfrom(100)[1])
        one, other = (client, server) if sender == "cli" else (server, client)
        one.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1200)
        try:
            one.send(bytes(1200 * 40 + 7))
        except OSError as error:
            # Before Linux 6.11, where an interface computes no checksums: Wi-Fi cards are like that as well.
            assert error.errno == errno.EIO  # noqa: PT017
            pytest.skip("this kernel refuses UDP_SEGMENT on such interfaces")
        assert [len(other.recv(2048)) for _ in range(41)] == [1200] * 40 + [7]
    assert [packet.length for packet in lab.wifi.packets][1:] == [1200] * 40 + [7]


def test_an_address_that_nobody_has_is_unreachable_at_once(lossless_lab: Laboratory) -> None:
    lossless_lab.wifi.join()
    with lossless_lab.enter("cli"), pytest.raises(OSError, match="unreachable"):
        socket.create_connection(("192.0.2.99", 80), timeout=SOON)


def test_packets_are_captured_on_the_radio_they_cross(echo: Echo) -> None:
    lab = echo.lab
    lab.cellular.join()
    with echo.client() as client:
        began = time.monotonic()
        echo.ask(client)
        ended = time.monotonic()
        port = client.getsockname()[1]
        question, answer = lab.cellular.packets
        assert (question.direction, answer.direction) == ("to_server", "to_client")
        assert question.source == answer.destination == (lab.cellular.address, port)
        assert question.destination == answer.source == (lab.server_address, PORT)
        assert question.payload == b"?"
        assert began <= question.time < answer.time <= ended
        lab.wifi.join()
        echo.ask(client)
    assert [len(network.packets) for network in lab.networks] == [2, 2]
    assert sum(size for _, size in carried(lab.wifi.packets)) == sum(packet.size for packet in lab.wifi.packets)
    assert [(move.source, move.target) for move in lab.moves(PORT)] == [("wwan0", "wlan0")]


def test_a_capture_can_be_saved_for_other_programs(echo: Echo, tmp_path: Path) -> None:
    echo.lab.wifi.join()
    with echo.client() as client:
        echo.ask(client)
    echo.lab.wifi.save(tmp_path / "wifi.pcap")
    data = (tmp_path / "wifi.pcap").read_bytes()
    assert data[:4] == b"\x4d\x3c\xb2\xa1"
    assert len(data) > 24


def test_programs_run_inside_and_end_with_the_laboratory() -> None:
    with Laboratory() as lab:
        lab.wifi.join()
        program = lab.python("cli", ["-c", "import socket; print(socket.if_nameindex())"], stdout=subprocess.PIPE)
        output, _ = program.communicate(timeout=SOON * 5)
        assert b"wlan0" in output
        sleeper = lab.python("srv", ["-c", "import signal; signal.pause()"])
        assert sleeper.poll() is None
    assert sleeper.poll() is not None


def test_a_laboratory_is_built_in_less_than_a_second_and_leaves_nothing() -> None:
    descriptors, threads = _descriptors(), threading.active_count()
    times = []
    for _ in range(3):
        began = time.monotonic()
        with Laboratory() as lab:
            times.append(time.monotonic() - began)
            lab.wifi.join()
        lab.close()
        assert _descriptors() == descriptors
        assert threading.active_count() == threads
    assert min(times) < 1.0


def test_an_exception_in_the_block_takes_the_laboratory_down() -> None:
    lab = Laboratory()
    with pytest.raises(ZeroDivisionError), lab:
        raise ZeroDivisionError
    assert lab.wifi._air._process.poll() == 0


@pytest.mark.parametrize("signal_name", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_nothing_remains_when_the_process_is_killed(lossless_lab: Laboratory, signal_name: str) -> None:
    import signal

    story = """
import sys, signal
from whimbrel.testing import Laboratory
with Laboratory() as lab:
    child = lab.python("cli", ["-c", "import signal; signal.pause()"])
    print(child.pid, lab.wifi._air._process.pid, lab.cellular._air._process.pid, flush=True)
    signal.pause()
"""
    program = subprocess.Popen([sys.executable, "-c", story], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    with program:
        assert program.stdout is not None
        processes = [os.pidfd_open(int(number)) for number in program.stdout.readline().split()]
        assert len(processes) == 3
        program.send_signal(getattr(signal, signal_name))
        program.wait(SOON * 2)
    for process in processes:
        assert select.select([process], (), (), SOON)[0], "a child outlived the laboratory"
        os.close(process)


@pytest.mark.skipif(os.geteuid() != 0, reason="is about being somebody else, which only root may choose")
def test_an_ordinary_user_has_a_laboratory_too(tmp_path: Path) -> None:
    story = """
import os, socket
from whimbrel.testing import Laboratory
with Laboratory() as lab:
    lab.cellular.join()
    with lab.enter("srv"):
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind((lab.server_address, 443))
    with lab.enter("cli"):
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.sendto(b"?", (lab.server_address, 443))
    print(os.geteuid(), server.recvfrom(10)[1][0])
"""
    # Root's own Python is often where nobody else may read; the system's does as well, with the same packages.
    for python in (sys.executable, "/usr/bin/python3"):
        with contextlib.suppress(OSError):
            if _as_nobody(python, "import whimbrel.testing, pyroute2").returncode == 0:
                break
    else:
        pytest.skip("no Python and packages that an ordinary user may read")
    run = _as_nobody(python, story)
    if "LaboratoryUnavailable" in run.stderr:
        pytest.skip(run.stderr.splitlines()[-1])
    assert run.stdout.split() == ["65534", "203.0.113.2"], run.stderr


def _as_nobody(python: str, program: str) -> subprocess.CompletedProcess[str]:
    packages = [str(Path(whimbrel.__file__).parents[1]), sysconfig.get_path("purelib")]
    return subprocess.run(
        [python, "-c", program], user=65534, group=65534, extra_groups=[], cwd="/", text=True, capture_output=True,
        check=False, env=os.environ | {"PYTHONPATH": os.pathsep.join(packages)},
    )  # fmt: skip


def test_a_process_with_threads_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch, lossless_lab: Laboratory) -> None:
    from whimbrel.testing import LaboratoryUnavailable, _namespace, prepare

    monkeypatch.setattr(_namespace, "_effective_capabilities", lambda: 0)
    with pytest.raises(LaboratoryUnavailable, match="before it starts a thread"):
        prepare()


def test_steps_fall_on_their_part_of_the_transfer(lossless_lab: Laboratory) -> None:
    lab = lossless_lab
    told: list[str] = []
    with Journey(lab, SCENARIOS["hard-cut"], on_event=lambda event: told.append(event.action)) as journey:
        assert _routes(lab) == ["wwan0"]
        journey.progress(0.24)
        assert not journey.wait(0)
        journey.progress(0.25)
        _wait_until(lambda: _routes(lab) == ["wlan0", "wwan0"])
        journey.progress(1.0)
        assert journey.wait(SOON)
        assert _routes(lab) == ["wwan0"]
    assert told == [event.action for event in journey.events] == ["join", "join", "down"]
    assert [event.interface for event in journey.events] == ["wwan0", "wlan0", "wlan0"]
    assert journey.events == sorted(journey.events, key=lambda event: event.time)


def test_an_outage_lasts_its_time(lossless_lab: Laboratory) -> None:
    with Journey(lossless_lab, outage(0.2)) as journey:
        journey.progress(0.5)
        _wait_until(lambda: len(journey.events) == 2)
        _wait_until(lambda: _routes(lossless_lab) == [])
        assert journey.wait(SOON)
    _, lost, found = journey.events
    assert 0.2 <= found.time - lost.time < 0.3
    assert _routes(lossless_lab) == ["wlan0"]


def test_a_flapping_network_changes_ten_times_a_second(lossless_lab: Laboratory) -> None:
    with Journey(lossless_lab, flapping(10)) as journey:
        journey.progress(0.25)
        assert journey.wait(SOON * 2)
    assert len(journey.events) == 11
    assert 0.9 <= journey.events[-1].time - journey.events[1].time < 1.2
    assert _routes(lossless_lab) == ["wwan0"]


def test_a_journey_ends_early_when_it_is_left(lossless_lab: Laboratory) -> None:
    with Journey(lossless_lab, outage(60)) as journey:
        journey.progress(1)
        _wait_until(lambda: len(journey.events) == 2)
    assert len(journey.events) == 2


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario_ends_with_a_network_but_for_those_that_carry_nothing(lab: Laboratory, name: str) -> None:
    steps = tuple(Step(step.network, step.action, at=step.at) for step in SCENARIOS[name].steps)  # Without its pauses.
    with Journey(lab, Scenario(name, "", steps)) as journey:
        journey.progress(1.0)
        assert journey.wait(SOON * 4)
    assert _routes(lab)
    assert len(journey.events) == len(steps)


def _routes(lab: Laboratory) -> list[str]:
    """The interfaces with a default route, preferred first."""
    with lab.enter("cli"):
        lines = [line.split() for line in Path("/proc/thread-self/net/route").read_text().splitlines()[1:]]
    return [name for _, name in sorted((int(line[6]), line[0]) for line in lines if line[1] == "00000000")]


def _link_is_up(interface: str) -> bool:
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        flags = fcntl.ioctl(control, 0x8913, struct.pack("16s16x", interface.encode()))[16]  # SIOCGIFFLAGS
    return bool(flags & 1)


def _descriptors() -> set[Path]:
    return set(Path("/proc/self/fd").iterdir())


def _one_way(sender: socket.socket, receiver: socket.socket, to: tuple[str, int]) -> tuple[float, tuple[str, int]]:
    """Send a datagram and return the seconds until it came, by the kernel's clock, and whom it seems to come from.

    When this process gets to run does not count, as it would in a round trip.
    """
    began = time.time()
    sender.sendto(b"?", to)
    _data, ancillary, _flags, peer = receiver.recvmsg(100, 100)
    [(_level, _kind, stamp)] = ancillary
    seconds, nanoseconds = struct.unpack("@ll", stamp)
    return seconds + nanoseconds * 1e-9 - began, peer


def _wait_until(condition: Callable[[], object]) -> None:
    """Ask again and again: nothing tells when a radio has carried its last frame."""
    give_up = time.monotonic() + SOON * 2
    while not condition():
        assert time.monotonic() < give_up, "did not happen"


class Carried(NamedTuple):
    """Bits per second of IP."""

    offered: float
    rate: float


def _carried(lab: Laboratory, send: Callable[[], int], seconds: float) -> Carried:
    """Return what was offered to the radio for the device in some seconds, and what it carried of it."""
    before, handled = lab.wifi.traffic()[1], _handled(lab)
    offered = send()
    _wait_until(lambda: _handled(lab) >= handled + offered)
    after = lab.wifi.traffic()[1]
    return Carried(offered * 1428 * 8 / seconds, (after.bytes - before.bytes) * 8 / seconds)


def _handled(lab: Laboratory) -> int:
    """Frames that came to the radio for the device, whatever became of them."""
    received = lab.wifi.traffic()[1]
    return received.frames + received.lost + received.overflowed


def _send_at(sender: socket.socket, peer: tuple[str, int], rate: float, seconds: float) -> int:
    """Send large datagrams at a rate, a bunch each millisecond or so, and return how many."""
    data, began, sent = bytes(1400), time.monotonic(), 0
    tick = threading.Event()
    while (elapsed := time.monotonic() - began) < seconds:
        while sent < elapsed * rate / 8 / (1400 + 42):
            sender.sendto(data, peer)
            sent += 1
        tick.wait(0.0005)
    return sent
