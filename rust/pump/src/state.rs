//! What one turn of the pump does: receive, expire, send, tell.

use std::{
    collections::{HashMap, VecDeque},
    io, mem,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use whimbrel_engine::{ClientConfig, Datagram, Endpoint, Kind, News, Transmit};
use whimbrel_udp::{EventFd, Outgoing, Pin, Socket};

use crate::{
    clock::Clock,
    paths::{ActivePath, Paths},
    pump::Control,
    traffic::Traffic,
    waiting::Waiting,
    wire::{Wire, any_address, virtual_port},
};

/// Datagrams in one send: speed comes from large batches, and a UDP payload ends at 64 KiB.
const BATCH: usize = 40;
const MAX_BATCH_BYTES: usize = 65_000;
/// Datagrams read before what they brought is answered and told, nearly: one batch of full messages. Of more, the first
/// would have left the processor's cache again before the application reads them.
const MOST_DATAGRAMS: usize = 256;
/// How long a server listens to the socket of a client that has moved.
const LATE: Duration = Duration::from_secs(1);
/// When the socket's buffer is full, how long until the next try.
const RETRY: Duration = Duration::from_millis(1);
/// A connection that has heard nothing for so long is told of as soon as something is asked of it.
const QUIET: f64 = 0.1;

const EMSGSIZE: i32 = 90;

/// Datagrams that wait for room.
pub(crate) struct Blocked {
    pub(crate) number: u64,
    transmit: Transmit,
    data: Vec<u8>,
}

/// Everything that a lock must guard.
pub(crate) struct State {
    pub(crate) engine: Endpoint,
    pub(crate) clock: Clock,
    pub(crate) wire: Wire,
    pub(crate) paths: Paths,
    pub(crate) client: Option<ClientConfig>,
    pub(crate) buffer: Vec<u8>,
    pub(crate) response: Vec<u8>,
    /// What a socket had no room for, by socket.
    pub(crate) blocked: HashMap<Option<u64>, Blocked>,
    /// A server opens a socket for each client that has proven its address.
    pub(crate) connects: bool,
    /// When to give back the sockets of connections whose clients have moved: connection, socket.
    pub(crate) late: VecDeque<(Instant, u64, u64)>,
    /// Connections that have something to send, and when they may.
    pub(crate) resting: Vec<(Instant, u64)>,
    pub(crate) traffic: Traffic,
    pub(crate) news: VecDeque<News>,
    pub(crate) control_news: VecDeque<News>,
    /// Readable when a thread other than the owner left news; gone once closed.
    pub(crate) wake: Option<EventFd>,
    /// Readable when there is news for whoever decides about paths; gone once closed.
    pub(crate) control: Option<EventFd>,
    /// Made for the first caller who waits; gone once closed.
    pub(crate) waiting: Option<Arc<Waiting>>,
    pub(crate) told_due: bool,
    /// The timer that the owner knows of.
    pub(crate) owner_deadline: Option<Instant>,
    pub(crate) closed: bool,
}

impl State {
    pub(crate) fn turn(&mut self) {
        if self.closed {
            return;
        }
        let mut datagrams = 0;
        while datagrams < MOST_DATAGRAMS {
            let (count, more) = self.receive();
            datagrams += count;
            if !more {
                break;
            }
        }
        self.close_late_sockets();
        if !self.clock.is_held() {
            let now = self.clock.now();
            self.engine.expire(now);
        }
        self.flush();
        self.sort_news();
    }

    /// Takes in one batch of every socket that has any; returns how many datagrams there were, and whether there may be
    /// more.
    fn receive(&mut self) -> (usize, bool) {
        let Wire::Sockets(sockets) = &mut self.wire else { return (0, false) };
        let (now, at) = (self.clock.now(), self.clock.seconds());
        let mut answers = Vec::new();
        let mut began = Vec::new();
        let mut datagrams = 0;
        let more = sockets.receive(|socket, received| {
            for data in received.data.chunks(received.segment.max(1)) {
                let datagram = Datagram { data, source: received.source, local: received.local, ecn: received.ecn, at };
                let active = |number| self.paths.is_active(number, socket, received.local, received.interface);
                let result = self.engine.receive(now, datagram, active, &mut self.response);
                self.traffic.received(data.len());
                datagrams += 1;
                if let Some(answer) = result.answer {
                    answers.push((socket, answer, mem::take(&mut self.response)));
                }
                if result.is_new {
                    began.extend(result.connection.map(|number| (number, socket)));
                }
            }
        });
        for (number, socket) in began {
            let home = Some(sockets.home(socket));
            self.paths.insert(number, ActivePath { socket: home, home, ..ActivePath::default() });
        }
        for (socket, answer, data) in answers {
            self.answer(Some(socket), &answer, &data);
        }
        (datagrams, more)
    }

    pub(crate) fn receive_one(
        &mut self,
        socket: u64,
        data: &[u8],
        source: SocketAddr,
        local: Option<IpAddr>,
        interface: u32,
        ecn: u8,
    ) {
        let (now, at) = (self.clock.now(), self.clock.seconds());
        let datagram = Datagram { data, source, local, ecn, at };
        let active = |number| self.paths.is_active(number, socket, local, interface);
        let result = self.engine.receive(now, datagram, active, &mut self.response);
        self.traffic.received(data.len());
        if let (true, Some(number)) = (result.is_new, result.connection) {
            self.paths.insert(number, ActivePath::default());
        }
        if let Some(answer) = result.answer {
            let data = mem::take(&mut self.response);
            self.answer(None, &answer, &data);
        }
    }

    /// An answer that cannot be sent is one that was lost.
    fn answer(&mut self, socket: Option<u64>, answer: &Transmit, data: &[u8]) {
        let _ = self.send(ActivePath { socket, ..ActivePath::default() }, answer, data);
    }

    /// Sends what every connection that may has to send.
    pub(crate) fn flush(&mut self) {
        if self.closed || self.clock.is_held() {
            return;
        }
        self.retry();
        let now = self.clock.now();
        for (_, number) in self.resting.extract_if(.., |(until, _)| *until <= now) {
            self.engine.touch(number);
        }
        let mut parked = Vec::new();
        while !self.is_stuck()
            && let Some(number) = self.engine.next_ready()
        {
            let path = self.paths.get(number);
            if let Some(until) = path.rests_until.filter(|until| *until > now) {
                self.engine.settle(number);
                self.resting.push((until, number));
                continue;
            }
            if self.blocked.contains_key(&path.socket) {
                parked.push(number);
                continue;
            }
            if !self.flush_one(number, path) {
                parked.push(number);
            }
            self.engine.settle(number);
            self.follow_end(number);
        }
        for number in parked {
            self.engine.touch(number);
        }
    }

    /// Sends what one connection has to send; `false`: there was no room for all of it.
    fn flush_one(&mut self, number: u64, path: ActivePath) -> bool {
        let size = self.engine.mtu(number).max(1);
        let segments = match (&self.wire, path.socket) {
            (Wire::Sockets(sockets), Some(socket)) => sockets.max_segments(socket),
            (Wire::Sockets(_), None) => 1,
            (Wire::Virtual(_), _) => BATCH,
        };
        let batch = segments.min(BATCH).min(MAX_BATCH_BYTES / size).max(1);
        let mut buffer = mem::take(&mut self.buffer);
        let mut sent = true;
        while sent {
            let now = self.clock.now();
            let Some(transmit) = self.engine.transmit(number, now, batch, &mut buffer) else { break };
            sent = self.send_for(number, &transmit, &buffer);
            if !sent {
                let data = buffer[..transmit.size].to_vec();
                self.blocked.insert(path.socket, Blocked { number, transmit, data });
            }
        }
        self.buffer = buffer;
        sent
    }

    /// A connection that has ended gives its socket back at once; one that is gone, everything.
    pub(crate) fn follow_end(&mut self, number: u64) {
        let ended = match self.engine.connection(number) {
            None => self.paths.remove(number),
            Some(connection) if connection.ended().is_some() => Some(self.paths.get(number)),
            Some(_) => return,
        };
        let Some(path) = ended else { return };
        if let Some(own) = path.own_socket() {
            self.release(own);
            self.paths.replace_socket(number, path.home);
        }
        while let Some(index) = self.late.iter().position(|&(_, connection, _)| connection == number)
            && let Some((_, _, own)) = self.late.remove(index)
        {
            self.release(own);
        }
    }

    /// Nothing can leave: there is one socket for all, and it is full.
    fn is_stuck(&self) -> bool {
        let apart = matches!(&self.wire, Wire::Sockets(sockets) if sockets.accepted() > 0);
        !self.blocked.is_empty() && !apart
    }

    /// Tries again what the sockets had no room for.
    fn retry(&mut self) {
        for (socket, blocked) in mem::take(&mut self.blocked) {
            if !self.send_for(blocked.number, &blocked.transmit, &blocked.data) {
                self.blocked.insert(socket, blocked);
            }
        }
    }

    /// `false`: no room. A packet that the kernel refuses counts as lost, and the refusal is told: it is news of the
    /// network, never the end of a connection.
    fn send_for(&mut self, number: u64, transmit: &Transmit, data: &[u8]) -> bool {
        let result = self.send(self.paths.get(number), transmit, data);
        let Some(path) = self.paths.get_mut(number) else { return true };
        match result {
            Ok(()) => path.refused = None,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(0);
                path.send_errors += 1;
                // A probe for a larger MTU may be refused; that is its answer.
                if errno != EMSGSIZE && path.refused.replace(errno) != Some(errno) {
                    let news = News { connection: number, kind: Kind::SendFailed, value: errno.unsigned_abs().into() };
                    self.tell_control(news);
                }
            }
        }
        true
    }

    fn send(&mut self, path: ActivePath, transmit: &Transmit, data: &[u8]) -> io::Result<()> {
        // A server answers from the address that it was reached on, or a NAT would not know the answer.
        let pin = path.pin.or_else(|| transmit.source.map(|source| Pin { interface: 0, source }));
        let contents = &data[..transmit.size];
        let outgoing =
            Outgoing { contents, destination: transmit.destination, segment: transmit.segment, pin, ecn: transmit.ecn };
        match &mut self.wire {
            Wire::Sockets(sockets) => {
                let socket = path.socket.ok_or(io::ErrorKind::NotConnected)?;
                sockets.send(sockets.reaching(socket, transmit.destination), &outgoing)?;
            }
            Wire::Virtual(sockets) => sockets.send(path.socket, &outgoing)?,
        }
        self.traffic.sent(transmit.size, transmit.segment);
        Ok(())
    }

    /// The address that packets of this connection leave from, as far as it is known.
    pub(crate) fn local_address(&mut self, number: u64) -> Option<SocketAddr> {
        let path = self.paths.get(number);
        let connection = self.engine.connection(number);
        let remote = connection.as_ref().map(|connection| connection.remote_address());
        let reached = connection.and_then(|connection| connection.local_ip());
        let mut address = match &self.wire {
            _ if self.closed => None,
            Wire::Sockets(sockets) => path.socket.and_then(|socket| sockets.local_addr(socket)),
            Wire::Virtual(sockets) => remote.map(any_address).map(|any| {
                let socket = path.socket.unwrap_or(0);
                SocketAddr::new(sockets.bound(socket).unwrap_or(any.ip()), virtual_port(socket))
            }),
        }?;
        // A server's socket hears all of the machine's addresses; its client knows one of them.
        if let Some(ip) = path.pin.map(|pin| pin.source).or(reached) {
            address.set_ip(ip);
        }
        Some(address)
    }

    // ── a server's sockets for one client each ──────────────────────────────────────────────────────────────────────

    /// The client has proven its address: from now on the kernel may tell its datagrams from all others.
    fn give_socket(&mut self, number: u64) {
        let path = self.paths.get(number);
        let (Wire::Sockets(sockets), Some(home), None) = (&mut self.wire, path.home, path.own_socket()) else { return };
        let Some(connection) = self.engine.connection(number).filter(|connection| connection.ended().is_none()) else {
            return;
        };
        let Some(local) = connection.local_ip() else { return };
        match sockets.accept(home, local, connection.remote_address()) {
            Ok(own) => self.paths.replace_socket(number, Some(own)),
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(0);
                self.news.push_back(News {
                    connection: number,
                    kind: Kind::Crowded,
                    value: errno.unsigned_abs().into(),
                });
            }
        }
    }

    /// The client has moved. Where it is now, it must prove first; late datagrams from where it was still come.
    fn keep_socket_a_while(&mut self, number: u64) {
        let path = self.paths.get(number);
        if let Some(own) = path.own_socket() {
            self.late.push_back((self.clock.now() + LATE, number, own));
            self.paths.replace_socket(number, path.home);
        }
        if let Some(path) = self.paths.get_mut(number) {
            path.moves += 1;
        }
    }

    fn close_late_sockets(&mut self) {
        let now = self.clock.now();
        while let Some(&(when, _, own)) = self.late.front()
            && when <= now
        {
            self.late.pop_front();
            self.release(own);
        }
    }

    fn release(&mut self, own: u64) {
        if let Wire::Sockets(sockets) = &mut self.wire {
            sockets.release(own);
        }
    }

    pub(crate) fn open_socket(&mut self, remote: SocketAddr, kind: Control, pin: Option<Pin>) -> io::Result<u64> {
        match &mut self.wire {
            Wire::Sockets(sockets) => sockets.add(match kind {
                Control::Connected => Socket::connected(remote, pin)?,
                Control::Pinned => Socket::on_interface(any_address(remote), pin.map_or(0, |pin| pin.interface))?,
                Control::Unconnected => Socket::unconnected(any_address(remote))?,
            }),
            Wire::Virtual(sockets) => Ok(sockets.add(pin.filter(|_| kind == Control::Connected).map(|pin| pin.source))),
        }
    }

    /// Something is asked of the connection, after a quiet time or since whoever watches for silence saw that nothing is
    /// due, and set no timer: they should know.
    pub(crate) fn note_due(&mut self, number: u64) {
        if self.client.is_none() {
            return; // Nobody does.
        }
        let seconds = self.clock.seconds();
        let Some(connection) = self.engine.connection(number) else { return };
        let quiet = seconds - connection.last_heard() > QUIET;
        let newly = connection.newly_due();
        if quiet && !mem::replace(&mut self.told_due, true) || newly {
            self.tell_control(News { connection: number, kind: Kind::Due, value: 0 });
        } else if !quiet {
            self.told_due = false;
        }
    }

    pub(crate) fn sort_news(&mut self) {
        while let Some(news) = self.engine.news.pop_front() {
            match news.kind {
                Kind::Heard => self.tell_control(news),
                Kind::Proven if self.connects => self.give_socket(news.connection),
                Kind::Proven => {}
                Kind::Connected | Kind::Lost => {
                    self.tell_control(news);
                    self.news.push_back(news);
                    if news.kind == Kind::Connected && self.connects {
                        self.give_socket(news.connection);
                    }
                }
                Kind::Moved => {
                    self.keep_socket_a_while(news.connection);
                    self.news.push_back(news);
                }
                _ => self.news.push_back(news),
            }
        }
    }

    /// Who decides about paths listens on a client only: a server's clients decide for it.
    fn tell_control(&mut self, news: News) {
        // What waits is not told twice: where nobody decides about paths, nobody takes it.
        if self.client.is_none() || self.control_news.contains(&news) {
            return;
        }
        if self.control_news.is_empty()
            && let Some(control) = &self.control
        {
            control.signal();
        }
        self.control_news.push_back(news);
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        if self.closed || self.clock.is_held() {
            return None;
        }
        if !self.blocked.is_empty() {
            return Some(self.clock.now() + RETRY);
        }
        if self.engine.has_ready() {
            return Some(self.clock.now());
        }
        let late = self.late.front().map(|&(when, _, _)| when);
        let rested = self.resting.iter().map(|&(until, _)| until).min();
        self.engine.next_timeout().into_iter().chain(late).chain(rested).min()
    }
}

#[cfg(test)]
mod tests {
    use whimbrel_engine::Transport;

    use super::*;
    use crate::{Pump, pump::Time};

    fn transport() -> Transport {
        Transport {
            idle_timeout: Duration::from_secs(30),
            keepalive: None,
            stream_window: 1 << 20,
            connection_window: 1 << 20,
            max_streams: 100,
            send_buffer: 1 << 20,
            initial_rtt: Duration::from_millis(100),
            mtu: None,
            qlog: None,
        }
    }

    #[test]
    fn what_nobody_takes_does_not_pile_up() {
        let config = ClientConfig::new(vec![b"test".to_vec()], None, None, &transport(), None, false).unwrap();
        let pump = Pump::client(config, Time::Virtual(None)).unwrap();
        let number = pump.connect(([192, 0, 2, 1], 443).into(), "test", Control::Unconnected, None).unwrap();
        for _ in 0..3 {
            let mut state = pump.lock();
            state.told_due = false;
            state.note_due(number);
        }
        let due = News { connection: number, kind: Kind::Due, value: 0 };
        assert_eq!(pump.take_control_news(), [due]);
        assert_eq!(pump.take_control_news(), []);
    }
}
