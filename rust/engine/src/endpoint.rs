//! Many connections behind one table of connection IDs; what is due next, and for whom.

use std::{
    collections::{BTreeSet, HashSet, VecDeque},
    fmt, mem,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use bytes::BytesMut;
use quinn_proto::{ConnectionHandle, DatagramEvent, EcnCodepoint, Incoming};
use rustc_hash::FxHashMap;

use crate::{
    admission::{Admission, PATIENCE, Verdict},
    config::{ClientConfig, ServerConfig, endpoint_config, server_name},
    connection::Connection,
    former_ids::{FormerIds, short_id},
    news::{Kind, News},
    qlog::{Came, Ends, Log},
    tally::{Dropped, Standing, Tally},
};

/// Our connection IDs, on the client's side: long enough to be routed by, random throughout.
const CLIENT_ID_LENGTH: usize = 8;

/// A client renews the connection IDs that it issued this often, while something happens. Servers take one for each new
/// path, and some never give it back (quic-go 0.59, its issue 5814): after a few moves they have none left, and do not
/// answer on a new path any more. More often would be better for them, but the engine sends a NEW_CONNECTION_ID that was
/// lost again as it was, with a Retire Prior To that may have overtaken it, which ends the connection (RFC 9000 §19.15):
/// so this is longer than a path may well be silent.
const CLIENT_ID_LIFETIME: Duration = Duration::from_secs(30);

/// Bytes for datagrams that came in, allocated at once.
const ARRIVALS: usize = 12_000;
/// Smaller datagrams are none of a bulk transfer's, and have their own.
const BULK: usize = 1_000;

/// A datagram that came in. `at` is when, in the caller's seconds.
#[derive(Clone, Copy)]
pub struct Datagram<'a> {
    pub data: &'a [u8],
    pub source: SocketAddr,
    pub local: Option<IpAddr>,
    pub ecn: u8,
    pub at: f64,
}

/// What a datagram was.
#[derive(Clone, Copy, Debug, Default)]
pub struct Received {
    /// The connection that it was for.
    pub connection: Option<u64>,
    /// It began this connection.
    pub is_new: bool,
    /// An answer that belongs to no connection (version negotiation, Retry, stateless reset, refusal).
    pub answer: Option<Transmit>,
}

/// Datagrams to send: `size` bytes of the buffer, cut every `segment` bytes.
#[derive(Clone, Copy, Debug)]
pub struct Transmit {
    pub destination: SocketAddr,
    pub source: Option<IpAddr>,
    pub size: usize,
    pub segment: Option<usize>,
    pub ecn: u8,
}

#[derive(Debug)]
pub struct ConnectError(pub String);

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

pub struct Endpoint {
    proto: quinn_proto::Endpoint,
    /// `None`: a client. It answers nothing outside of its connection. Late packets for connection IDs that it has
    /// retired would bring stateless resets (RFC 9000 §10.3), sent over whatever path is in use by then: a link between
    /// the two.
    server: Option<ServerConfig>,
    // By numbers that nobody else chooses, looked up for each datagram: no keyed hash is needed.
    connections: FxHashMap<u64, Connection>,
    numbers: FxHashMap<ConnectionHandle, u64>,
    /// Nobody asks for these any more; they still answer late packets of the peer (RFC 9000 §10.2).
    forgotten: HashSet<u64>,
    next_number: u64,
    ready: VecDeque<u64>,
    timers: BTreeSet<(Instant, u64)>,
    /// Of a server: whom to let in, and what came of it.
    admission: Admission,
    id_length: usize,
    /// Of a server: connection IDs for which late packets may come.
    former: FormerIds,
    tally: Tally,
    /// Newcomers, and when their handshake must be complete.
    newcomers: VecDeque<(Instant, u64)>,
    /// Connections that we closed and whose peers may not know.
    unanswered: HashSet<u64>,
    /// Room that several datagrams share, each with a piece of its own.
    arrivals: BytesMut,
    /// What happened since it was last taken.
    pub news: VecDeque<News>,
}

impl Endpoint {
    /// `seed`: what the dice are thrown by that decide how packets look, though not which IDs and keys they hold; `None`:
    /// by chance.
    pub fn client(seed: Option<u64>) -> Self {
        let endpoint = endpoint_config(CLIENT_ID_LENGTH, Some(CLIENT_ID_LIFETIME), None);
        Self::new(quinn_proto::Endpoint::new(endpoint, None, true, seed.map(widen)), None)
    }

    /// `seed`: as of `client`.
    pub fn server(config: &ServerConfig, admission: Admission, seed: Option<u64>) -> Self {
        let endpoint = quinn_proto::Endpoint::new(config.endpoint(), Some(config.inner.clone()), true, seed.map(widen));
        let mut server = Self::new(endpoint, Some(config.clone()));
        (server.admission, server.id_length) = (admission, config.id_length);
        server
    }

    fn new(proto: quinn_proto::Endpoint, server: Option<ServerConfig>) -> Self {
        Self {
            proto,
            server,
            connections: FxHashMap::default(),
            numbers: FxHashMap::default(),
            forgotten: HashSet::new(),
            next_number: 0,
            ready: VecDeque::new(),
            timers: BTreeSet::new(),
            admission: Admission::default(),
            id_length: CLIENT_ID_LENGTH,
            former: FormerIds::default(),
            tally: Tally::default(),
            newcomers: VecDeque::new(),
            unanswered: HashSet::new(),
            arrivals: BytesMut::new(),
            news: VecDeque::new(),
        }
    }

    pub fn connect(
        &mut self,
        now: Instant,
        config: &ClientConfig,
        remote: SocketAddr,
        name: &str,
    ) -> Result<u64, ConnectError> {
        let (name, window) = (server_name(name), config.window);
        let (config, log) = config.for_connection(now).map_err(|error| ConnectError(error.to_string()))?;
        let (handle, connection) =
            self.proto.connect(now, config, remote, &name).map_err(|error| ConnectError(error.to_string()))?;
        Ok(self.adopt(handle, connection, window, log))
    }

    /// The clock that `now` is read from has stood still for so long.
    pub fn stood_still(&self, duration: Duration) {
        for log in self.connections.values().filter_map(|connection| connection.log.as_ref()) {
            log.stood_still(duration);
        }
    }

    fn adopt(
        &mut self,
        handle: ConnectionHandle,
        connection: quinn_proto::Connection,
        window: u64,
        log: Option<Log>,
    ) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        self.connections.insert(number, Connection::new(number, handle, connection, window, log));
        self.numbers.insert(handle, number);
        self.touch(number);
        number
    }

    /// A copy for the engine, which keeps what the application has not read. To ask the allocator for each large one takes
    /// longer than to copy it. But few share their memory: one unread byte keeps all of it.
    fn keep(&mut self, data: &[u8]) -> BytesMut {
        if data.len() < BULK {
            return BytesMut::from(data);
        }
        if self.arrivals.capacity() < data.len() {
            self.arrivals = BytesMut::with_capacity(ARRIVALS.max(data.len()));
        }
        self.arrivals.extend_from_slice(data);
        self.arrivals.split()
    }

    /// Takes in one datagram. An answer that belongs to no connection is written to `response`. `active` says whether
    /// this is the path that the connection uses.
    pub fn receive(
        &mut self,
        now: Instant,
        datagram: Datagram<'_>,
        active: impl Fn(u64) -> bool,
        response: &mut Vec<u8>,
    ) -> Received {
        let Datagram { data, source, local, ecn, at } = datagram;
        let ecn = EcnCodepoint::from_bits(ecn);
        response.clear();
        let kept = self.keep(data);
        match self.proto.handle(now, source, local, ecn, kept, response) {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                let Some(&number) = self.numbers.get(&handle) else { return Received::default() };
                let Some(connection) = self.connections.get_mut(&number) else { return Received::default() };
                // Whether it was authentic shows in the frames counted. That costs a copy, so not for every datagram:
                // a few milliseconds are precise enough, except while somebody waits for the first one.
                const PRECISION: f64 = 0.004;
                let look = connection.is_listening() || at - connection.last_heard() > PRECISION;
                let before = look.then(|| connection.progress());
                // No client moves before the handshake is confirmed (RFC 9000 §9).
                if self.server.is_some() && connection.proto.is_handshaking() && source != connection.remote_address() {
                    return Received::default();
                }
                // A renewal that waits was due before this came, which may bring back what it was to replace: both
                // together would be one connection ID more than the peer takes (RFC 9000 §5.1.1).
                for renewal in connection.take_withheld() {
                    if let Some(event) = self.proto.handle_event(handle, renewal) {
                        connection.proto.handle_event(event);
                    }
                }
                if let Some(log) = &connection.log {
                    log.hold();
                }
                connection.proto.handle_event(event);
                connection.stirred(now);
                if let Some(log) = &connection.log {
                    let addressed = short_id(data, self.id_length);
                    let addressed = addressed.as_deref();
                    let came = Came { length: data.len(), source, local, active: active(number), addressed };
                    log.received(&came, connection.proto.remote_address(), now);
                }
                if self.server.is_some() {
                    if let Some(before) = short_id(data, self.id_length).and_then(|id| connection.addressed_as(id)) {
                        self.former.remember(before, now);
                    }
                    if !connection.peer.is_settled_at(connection.proto.remote_address()) {
                        self.tally.moves += u64::from(connection.follow_peer(source, at, now, &mut self.news));
                    }
                    connection.account_for(source, data);
                    connection.note_early_streams();
                }
                if let Some(before) = before.filter(|_| active(number)) {
                    connection.came(before, at, now, &mut self.news);
                }
                if !mem::replace(&mut connection.queued, true) {
                    self.ready.push_back(number);
                }
                Received { connection: Some(number), ..Received::default() }
            }
            Some(DatagramEvent::NewConnection(incoming)) => self.admit(incoming, data.len(), now, response),
            Some(DatagramEvent::Response(_)) if self.is_late(data, now) => {
                self.tally.drop(Dropped::UnknownConnection);
                Received::default()
            }
            Some(DatagramEvent::Response(transmit)) if self.server.is_some() => {
                self.tally.answered(response);
                Received { answer: Some(transmit.into()), ..Received::default() }
            }
            Some(DatagramEvent::Response(_)) => Received::default(),
            None => {
                self.tally.drop(Dropped::guess(data, self.id_length));
                Received::default()
            }
        }
    }

    /// Whether a datagram has a connection ID that was in use a moment ago: it deserves no answer, such as a stateless
    /// reset would be.
    fn is_late(&mut self, data: &[u8], now: Instant) -> bool {
        short_id(data, self.id_length).is_some_and(|id| self.former.has(id, now))
    }

    fn admit(&mut self, incoming: Incoming, length: usize, now: Instant, response: &mut Vec<u8>) -> Received {
        let forgeable = !incoming.remote_address_validated();
        let may_retry = forgeable && incoming.may_retry();
        let answer = match self.admission.judge(self.tally.standing, self.tally.forgeable, may_retry) {
            Verdict::Accept => return self.accept(incoming, length, forgeable, now, response),
            Verdict::Refuse => {
                self.tally.refused += 1;
                Some(self.proto.refuse(incoming, response))
            }
            Verdict::Retry => {
                self.tally.retried += 1;
                self.proto.retry(incoming, response).ok()
            }
        };
        Received { answer: answer.map(Transmit::from), ..Received::default() }
    }

    /// `forgeable`: nobody has proven to be at the newcomer's address, from where `length` bytes came.
    fn accept(
        &mut self,
        incoming: Incoming,
        length: usize,
        forgeable: bool,
        now: Instant,
        response: &mut Vec<u8>,
    ) -> Received {
        let source = incoming.remote_address();
        let own = self.server.as_ref().and_then(|server| server.for_connection(incoming.orig_dst_cid(), now));
        let (config, log) = own.unzip();
        if let Some(log) = &log {
            log.hold();
        }
        match self.proto.accept(incoming, now, response, config) {
            Ok((handle, connection)) => {
                let local = connection.local_ip().map(|ip| SocketAddr::new(ip, 0));
                if let Some(log) = &log {
                    log.found_at(Ends { local, remote: source }, now);
                    log.received(&Came { length, source, local: None, active: true, addressed: None }, source, now);
                }
                let window = self.server.as_ref().map_or(0, ServerConfig::window);
                let number = self.adopt(handle, connection, window, log);
                let standing = Standing::Handshaking { forgeable };
                self.tally.entered(standing);
                self.newcomers.push_back((now + PATIENCE, number));
                if let Some(connection) = self.connections.get_mut(&number) {
                    connection.note_early_streams();
                    connection.standing = standing;
                    if forgeable {
                        connection.allowance.knocked(source, length);
                    }
                }
                self.news.push_back(News { connection: number, kind: Kind::Incoming, value: 0 });
                Received { connection: Some(number), is_new: true, answer: None }
            }
            Err(error) => {
                match error.response {
                    Some(_) => self.tally.handshakes_failed += 1,
                    None => self.tally.drop(Dropped::Malformed),
                }
                Received { answer: error.response.map(Transmit::from), ..Received::default() }
            }
        }
    }

    /// From now on every newcomer is refused.
    pub fn refuse_newcomers(&mut self) {
        self.admission.max_connections = 0;
    }

    /// What a server has counted.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Connections that we closed and whose peers may not know of it yet; they still answer late packets (RFC 9000
    /// §10.2).
    pub fn unanswered(&self) -> usize {
        self.unanswered.len()
    }

    /// Runs every timer that is due.
    pub fn expire(&mut self, now: Instant) {
        while let Some(&(when, number)) = self.timers.first() {
            if when > now {
                break;
            }
            self.timers.pop_first();
            if let Some(connection) = self.connections.get_mut(&number) {
                connection.armed = None;
                connection.expire(now, &mut self.news);
                if self.server.is_some() {
                    self.tally.moves += u64::from(connection.follow_return(now));
                }
                self.touch(number);
            }
        }
        while let Some(&(_, number)) = self.newcomers.front().filter(|(when, _)| *when <= now) {
            self.newcomers.pop_front();
            if let Some(connection) = self.connections.get_mut(&number)
                && connection.give_up_handshake(now, &mut self.news)
            {
                self.touch(number);
            }
        }
    }

    /// The next connection that may have something to send.
    pub fn next_ready(&mut self) -> Option<u64> {
        let number = self.ready.pop_front()?;
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.queued = false;
        }
        Some(number)
    }

    /// Up to `max` datagrams of one connection, written to `buffer`.
    pub fn transmit(&mut self, number: u64, now: Instant, max: usize, buffer: &mut Vec<u8>) -> Option<Transmit> {
        let connection = self.connections.get_mut(&number)?;
        if let Some(log) = &connection.log {
            log.hold();
        }
        let transmit = connection.transmit(now, max, buffer);
        let destination = transmit.as_ref().map(|transmit| transmit.destination);
        // The previous path is challenged with the connection ID that was in use there (RFC 9000 §9.3.3).
        if destination == Some(connection.proto.remote_address()) {
            connection.ids.sent(buffer);
        }
        if let Some(log) = &connection.log {
            log.sent(destination, connection.ids.in_use(), now);
        }
        transmit.map(Transmit::from)
    }

    /// The size that datagrams of this connection have now.
    pub fn mtu(&self, number: u64) -> usize {
        self.connections.get(&number).map_or(1200, |connection| connection.proto.current_mtu().into())
    }

    /// Collects what a connection has to say, and when it wants to be called again.
    pub fn settle(&mut self, number: u64) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let mut drained = false;
        let mut events = connection.endpoint_events().into_iter();
        while let Some(event) = events.next().or_else(|| connection.proto.poll_endpoint_events()) {
            if event.is_drained() {
                drained = true;
                self.numbers.remove(&connection.handle);
            }
            if let Some(event) = self.proto.handle_event(connection.handle, event) {
                connection.proto.handle_event(event);
                if !connection.queued {
                    connection.queued = true;
                    self.ready.push_back(number);
                }
            }
        }
        connection.report(&mut self.news);
        if connection.follow_window() && !connection.queued {
            connection.queued = true;
            self.ready.push_back(number);
        }
        if self.server.is_some() {
            let standing = connection.standing();
            self.tally.advanced(mem::replace(&mut connection.standing, standing), standing);
            if connection.awaits_answer() {
                self.unanswered.insert(number);
            } else {
                self.unanswered.remove(&number);
            }
        }
        if drained && self.forgotten.remove(&number) {
            self.remove(number);
            return;
        }
        let when = connection.deadline();
        if when != connection.armed {
            if let Some(old) = connection.armed.take() {
                self.timers.remove(&(old, number));
            }
            if let Some(when) = when {
                self.timers.insert((when, number));
            }
            connection.armed = when;
        }
    }

    /// Something was asked of this connection: it may have to send.
    pub fn touch(&mut self, number: u64) {
        if let Some(connection) = self.connections.get_mut(&number)
            && !connection.queued
        {
            connection.queued = true;
            self.ready.push_back(number);
        }
    }

    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    pub fn next_timeout(&self) -> Option<Instant> {
        let timer = self.timers.first().map(|&(when, _)| when);
        let newcomer = self.newcomers.front().map(|&(when, _)| when);
        timer.into_iter().chain(newcomer).min()
    }

    pub fn connection(&mut self, number: u64) -> Option<&mut Connection> {
        self.connections.get_mut(&number)
    }

    /// Ends every connection that still stands.
    pub fn close_all(&mut self, now: Instant) {
        let numbers: Vec<u64> = self.connections.keys().copied().collect();
        for number in numbers {
            if let Some(connection) = self.connections.get_mut(&number)
                && connection.ended().is_none()
            {
                connection.close(now, 0, b"");
                self.touch(number);
            }
        }
    }

    /// Nobody will ask for this connection, which has ended, again: drops it as soon as the protocol lets it go.
    pub fn forget(&mut self, number: u64) {
        let Some(connection) = self.connections.get(&number) else { return };
        // The engine's endpoint keeps its part until it is told, which may come after the connection has drained.
        if self.numbers.get(&connection.handle) == Some(&number) {
            self.forgotten.insert(number);
        } else {
            self.remove(number);
        }
    }

    fn remove(&mut self, number: u64) {
        if let Some(connection) = self.connections.remove(&number)
            && let Some(when) = connection.armed
        {
            self.timers.remove(&(when, number));
        }
    }
}

impl From<quinn_proto::Transmit> for Transmit {
    fn from(transmit: quinn_proto::Transmit) -> Self {
        Self {
            destination: transmit.destination,
            source: transmit.src_ip,
            size: transmit.size,
            segment: transmit.segment_size,
            ecn: transmit.ecn.map_or(0, |codepoint| codepoint as u8),
        }
    }
}
fn widen(seed: u64) -> [u8; 32] {
    let mut wide = [0; 32];
    wide[..8].copy_from_slice(&seed.to_le_bytes());
    wide
}
