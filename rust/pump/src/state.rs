//! What one turn of the pump does: receive, expire, send, tell.

use std::{
    collections::VecDeque,
    io, mem,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use whimbrel_engine::{ClientConfig, Datagram, Endpoint, Kind, News, Transmit};
use whimbrel_udp::{EventFd, Outgoing, Pin, Socket};

use crate::{
    clock::Clock,
    paths::Paths,
    pump::Control,
    waiting::Waiting,
    wire::{Wire, any_address},
};

/// Datagrams in one send: speed comes from large batches, and a UDP payload ends at 64 KiB.
const BATCH: usize = 40;
const MAX_BATCH_BYTES: usize = 65_000;
/// Batches read before what they brought is answered and told.
const RECEIVE_ROUNDS: usize = 8;
/// When the socket's buffer is full, how long until the next try.
const RETRY: Duration = Duration::from_millis(1);
/// A connection that has heard nothing for so long is told of as soon as something is asked of it.
const QUIET: f64 = 0.1;

const EMSGSIZE: i32 = 90;

/// Everything that a lock must guard.
pub(crate) struct State {
    pub(crate) engine: Endpoint,
    pub(crate) clock: Clock,
    pub(crate) wire: Wire,
    pub(crate) paths: Paths,
    pub(crate) client: Option<ClientConfig>,
    pub(crate) buffer: Vec<u8>,
    pub(crate) response: Vec<u8>,
    pub(crate) blocked: Option<(u64, Transmit, Vec<u8>)>,
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
        for _ in 0..RECEIVE_ROUNDS {
            if !self.receive() {
                break;
            }
        }
        if !self.clock.is_held() {
            let now = self.clock.now();
            self.engine.expire(now);
        }
        self.flush();
        self.sort_news();
    }

    fn receive(&mut self) -> bool {
        let Wire::Sockets(sockets) = &mut self.wire else { return false };
        let (now, at) = (self.clock.now(), self.clock.seconds());
        let mut answers = Vec::new();
        let more = sockets.receive(|socket, received| {
            for data in received.data.chunks(received.segment.max(1)) {
                let datagram = Datagram { data, source: received.source, local: received.local, ecn: received.ecn, at };
                let active = |number| self.paths.is_active(number, socket, received.local, received.interface);
                let (_, answer) = self.engine.receive(now, datagram, active, &mut self.response);
                if let Some(answer) = answer {
                    answers.push((answer, mem::take(&mut self.response)));
                }
            }
        });
        for (answer, data) in answers {
            // An answer that cannot be sent is one that was lost.
            let _ = self.send(None, &answer, &data);
        }
        more
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
        let (_, answer) = self.engine.receive(now, datagram, active, &mut self.response);
        if let Some(answer) = answer {
            let data = mem::take(&mut self.response);
            let _ = self.send(None, &answer, &data);
        }
    }

    /// Sends what every connection that may has to send.
    pub(crate) fn flush(&mut self) {
        if self.closed || self.clock.is_held() || !self.retry() {
            return;
        }
        while let Some(number) = self.engine.next_ready() {
            let path = self.paths.get(number);
            let size = self.engine.mtu(number).max(1);
            let segments = match &self.wire {
                Wire::Sockets(sockets) => {
                    let remote = self.engine.connection(number).map(|connection| connection.remote_address());
                    remote.map_or(1, |remote| sockets.max_segments(path.socket, remote))
                }
                Wire::Virtual(_) => BATCH,
            };
            let batch = segments.min(BATCH).min(MAX_BATCH_BYTES / size).max(1);
            let mut buffer = mem::take(&mut self.buffer);
            let mut full = false;
            loop {
                let now = self.clock.now();
                let Some(transmit) = self.engine.transmit(number, now, batch, &mut buffer) else { break };
                if !self.send_for(number, &transmit, &buffer) {
                    self.blocked = Some((number, transmit, buffer[..transmit.size].to_vec()));
                    full = true;
                    break;
                }
            }
            self.buffer = buffer;
            self.engine.settle(number);
            if self.engine.connection(number).is_none() {
                self.paths.remove(number);
            }
            if full {
                self.engine.touch(number);
                break;
            }
        }
    }

    /// Tries again what the socket had no room for; `false` while it still has none.
    fn retry(&mut self) -> bool {
        let Some((number, transmit, data)) = self.blocked.take() else { return true };
        if self.send_for(number, &transmit, &data) {
            return true;
        }
        self.blocked = Some((number, transmit, data));
        false
    }

    /// `false`: no room. A packet that the kernel refuses counts as lost, and the refusal is told: it is news of the
    /// network, never the end of a connection.
    fn send_for(&mut self, number: u64, transmit: &Transmit, data: &[u8]) -> bool {
        let result = self.send(Some(number), transmit, data);
        let path = self.paths.get_mut(number);
        match result {
            Ok(()) => path.refused = None,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(0);
                path.send_errors += 1;
                // A probe for a larger MTU may be refused; that is its answer.
                if errno != EMSGSIZE && path.refused.replace(errno) != Some(errno) {
                    let news = News { connection: number, kind: Kind::SendFailed, value: errno.unsigned_abs().into() };
                    self.control_news.push_back(news);
                }
            }
        }
        true
    }

    fn send(&mut self, number: Option<u64>, transmit: &Transmit, data: &[u8]) -> io::Result<()> {
        let path = number.map(|number| self.paths.get(number)).unwrap_or_default();
        // A server answers from the address that it was reached on, or a NAT would not know the answer.
        let pin = path.pin.or_else(|| transmit.source.map(|source| Pin { interface: 0, source }));
        let contents = &data[..transmit.size];
        let outgoing =
            Outgoing { contents, destination: transmit.destination, segment: transmit.segment, pin, ecn: transmit.ecn };
        match &mut self.wire {
            Wire::Sockets(sockets) => sockets.send(path.socket, &outgoing),
            Wire::Virtual(sockets) => sockets.send(path.socket, &outgoing),
        }
    }

    pub(crate) fn open_socket(&mut self, remote: SocketAddr, kind: Control, pin: Option<Pin>) -> io::Result<u64> {
        match &mut self.wire {
            Wire::Sockets(sockets) => sockets.add(match kind {
                Control::Connected => Socket::connected(remote, pin)?,
                Control::Pinned | Control::Unconnected => Socket::unconnected(any_address(remote))?,
            }),
            Wire::Virtual(sockets) => Ok(sockets.add(pin.filter(|_| kind == Control::Connected).map(|pin| pin.source))),
        }
    }

    /// After a quiet time something is asked of the connection: whoever watches for silence should know.
    pub(crate) fn note_due(&mut self, number: u64) {
        let seconds = self.clock.seconds();
        let Some(connection) = self.engine.connection(number) else { return };
        let quiet = seconds - connection.last_heard() > QUIET;
        if quiet && !mem::replace(&mut self.told_due, true) {
            self.control_news.push_back(News { connection: number, kind: Kind::Due, value: 0 });
        } else if !quiet {
            self.told_due = false;
        }
    }

    pub(crate) fn sort_news(&mut self) {
        while let Some(news) = self.engine.news.pop_front() {
            match news.kind {
                Kind::Heard => self.control_news.push_back(news),
                Kind::Connected | Kind::Lost => {
                    self.control_news.push_back(news);
                    self.news.push_back(news);
                }
                _ => self.news.push_back(news),
            }
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        if self.closed || self.clock.is_held() {
            return None;
        }
        if self.blocked.is_some() {
            return Some(self.clock.now() + RETRY);
        }
        if self.engine.has_ready() {
            return Some(self.clock.now());
        }
        self.engine.next_timeout()
    }
}
