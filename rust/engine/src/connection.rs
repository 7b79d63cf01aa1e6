//! One connection: its streams, its path, and what became of it.

mod ended;
mod facts;
mod handshake;
mod moving;
mod padding;
mod pieces;
mod room;
mod streams;
mod terms;
mod window;

use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use bytes::Bytes;
use quinn_proto::{
    ConnectionHandle, ConnectionId, ConnectionStats, EndpointEvent, Event, StreamEvent, StreamId, VarInt,
};

pub use self::{
    ended::Ended,
    facts::Facts,
    streams::{Read, StreamFailure},
};
use self::{
    padding::Padding,
    pieces::{MANY, Pieces},
    room::Room,
    streams::Halves,
    terms::PeerTerms,
    window::Window,
};
pub(crate) use self::{streams::direction_of, window::FIRST};
use crate::{
    allowance::{Allowance, Verdict},
    early::EarlyStreams,
    ids::SpareIds,
    news::{Kind, News},
    peer_path::{Move, PeerPath},
    qlog::Log,
    slow_start::Unbounded,
    tally::Standing,
};

/// Counts since the connection began; path values are of the active path.
#[derive(Clone, Copy, Debug)]
pub struct Statistics {
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub datagrams_sent: u64,
    pub datagrams_received: u64,
    pub packets_sent: u64,
    pub packets_lost: u64,
    pub rtt: Duration,
    pub min_rtt: Duration,
    pub congestion_window: u64,
    pub congestion_events: u64,
    pub mtu: u16,
}

pub struct Connection {
    pub(crate) handle: ConnectionHandle,
    pub(crate) proto: quinn_proto::Connection,
    pub(crate) armed: Option<Instant>,
    pub(crate) queued: bool,
    pub(crate) ids: SpareIds,
    /// Of a server: the connection ID that the client used last.
    addressed: Option<ConnectionId>,
    /// Of a server: what the client's address may be sent.
    pub(crate) allowance: Allowance,
    /// Of a client: a timer has run since the engine's events were last collected.
    expired: bool,
    /// Renewals of connection IDs that wait until something happens again.
    withheld: Vec<EndpointEvent>,
    /// `stirrings` when connection IDs were last renewed.
    renewed_at: u64,
    moves: u64,
    number: u64,
    streams: HashMap<u64, Halves>,
    /// How streams ended whose last bytes were just handed out.
    tails: HashMap<u64, Result<Read, StreamFailure>>,
    /// Streams that are not read in order from the engine.
    pieces: HashMap<u64, Pieces>,
    room: Room,
    window: Window,
    /// Frames that came of streams that are not accepted yet.
    unaccepted: HashMap<u64, u32>,
    terms: PeerTerms,
    heard: f64,
    /// Since when it was heard without a pause.
    flowing: f64,
    reached: f64,
    listening: bool,
    padding: Option<Padding>,
    /// The first datagram over this path is padded, and nothing has come back yet.
    padded: bool,
    /// It has left: what is under way on the path before leaves room for nothing but a search, if it is an upload.
    knocked: bool,
    /// Whoever asked for the facts was told that nothing is due, and has not been told otherwise.
    seen_idle: bool,
    best_rtt: Duration,
    ended: Option<Ended>,
    established: bool,
    pub(crate) peer: PeerPath,
    /// A move that is not told yet.
    pending_move: Option<Move>,
    /// As it was counted last, on a server.
    pub(crate) standing: Standing,
    /// Of a client that sends early: what it sent, until the server has taken it.
    early: Option<EarlyStreams>,
    /// What was read has made room that the peer should know of.
    owes: bool,
    /// May be written to again, now that what was sent early has gone again.
    writable: Vec<u64>,
    /// Of a server: streams that came before the handshake was complete and are not accepted yet, …
    early_opened: [VecDeque<StreamId>; 2],
    /// … and how many came so.
    early_count: [u64; 2],
    confirmed: bool,
    /// When the handshake must be complete, and what to say if not.
    bound: Option<(Instant, String)>,
    pub(crate) log: Option<Log>,
}

impl Connection {
    /// `window`: what the peer may send before it is read, on all streams.
    pub(crate) fn new(
        number: u64,
        handle: ConnectionHandle,
        proto: quinn_proto::Connection,
        window: u64,
        log: Option<Log>,
    ) -> Self {
        let peer = PeerPath::new(proto.remote_address());
        let early = (proto.side().is_client() && proto.has_0rtt()).then(EarlyStreams::default);
        let window = Window::new(window, proto.side().is_client());
        Self {
            handle,
            proto,
            armed: None,
            queued: false,
            ids: SpareIds::default(),
            addressed: None,
            allowance: Allowance::default(),
            expired: false,
            withheld: Vec::new(),
            renewed_at: 0,
            moves: 0,
            number,
            streams: HashMap::new(),
            tails: HashMap::new(),
            pieces: HashMap::new(),
            room: Room::default(),
            window,
            unaccepted: HashMap::new(),
            terms: PeerTerms::default(),
            heard: f64::NEG_INFINITY,
            flowing: f64::INFINITY,
            reached: f64::NEG_INFINITY,
            listening: true,
            padding: None,
            padded: false,
            knocked: false,
            seen_idle: false,
            best_rtt: Duration::MAX,
            ended: None,
            established: false,
            peer,
            pending_move: None,
            standing: Standing::Handshaking { forgeable: false },
            early,
            owes: false,
            writable: Vec::new(),
            early_opened: Default::default(),
            early_count: [0; 2],
            confirmed: false,
            bound: None,
            log,
        }
    }

    /// A server took in a datagram: who is to be sent how much?
    pub(crate) fn account_for(&mut self, source: SocketAddr, data: &[u8]) {
        let remote = self.proto.remote_address();
        if self.allowance.is_open() || source != remote {
            self.allowance.received(source, remote, data.len());
            if is_handshake_packet(data) || !self.proto.is_handshaking() {
                self.allowance.shook_hands();
            }
        }
    }

    /// Up to `max` datagrams, as far as their destination may be sent them (RFC 9000 §8.1). The engine takes those that
    /// are withheld for lost.
    pub(crate) fn transmit(&mut self, now: Instant, max: usize, buffer: &mut Vec<u8>) -> Option<quinn_proto::Transmit> {
        self.settle_early();
        let _closing = self.proto.is_closed().then(|| Unbounded::new(self.proto.congestion_state()));
        loop {
            buffer.clear();
            let size = self.proto.current_mtu().into();
            let max = self.allowance.datagrams(max, size, now, || self.proto.stats());
            if max == 0 {
                return None;
            }
            let remote = self.proto.remote_address();
            let before = (self.allowance.is_open() || self.padded).then(|| self.proto.stats());
            let transmit = self.proto.poll_transmit(now, max, buffer)?;
            if self.padded && before.is_some_and(|before| self.is_search(&before)) {
                if self.knocked {
                    continue;
                }
                self.padded = false;
            }
            self.knocked = true;
            let verdict = match before {
                _ if transmit.destination != remote => self.allowance.judge_other(transmit.destination, transmit.size),
                Some(before) => self.allowance.judge(transmit.size, now, &before, &self.proto.stats()),
                None => Verdict::Send,
            };
            if verdict == Verdict::Send {
                return Some(transmit);
            }
        }
    }

    /// Whether the packet made last searches for a larger MTU.
    fn is_search(&self, before: &ConnectionStats) -> bool {
        self.proto.stats().path.sent_plpmtud_probes > before.path.sent_plpmtud_probes
    }

    pub fn close(&mut self, now: Instant, code: u64, reason: &[u8]) {
        if self.ended.is_none() {
            self.proto.close(now, varint(code), Bytes::copy_from_slice(reason));
            self.ended = Some(Ended {
                kind: "local",
                code,
                reason: String::from_utf8_lossy(reason).into_owned(),
                by_peer: false,
            });
            self.end_log();
        }
    }

    /// When to be called at the latest.
    pub(crate) fn deadline(&mut self) -> Option<Instant> {
        let bound = self.bound.as_ref().filter(|_| self.proto.is_handshaking()).map(|&(until, _)| until);
        self.proto.poll_timeout().into_iter().chain(bound).chain(self.room.deadline()).min()
    }

    /// The deadline has come.
    pub(crate) fn expire(&mut self, now: Instant, news: &mut VecDeque<News>) {
        self.proto.handle_timeout(now);
        self.stirred(now);
        self.expired = self.proto.side().is_client();
        if self.proto.is_handshaking()
            && let Some((_, reason)) = self.bound.take_if(|(until, _)| *until <= now)
            && self.ended.is_none()
        {
            self.ended = Some(Ended { kind: "late", code: 0, reason, by_peer: false });
            self.end_log();
            self.proto.close(now, VarInt::from_u32(0), Bytes::new());
            news.push_back(News { connection: self.number, kind: Kind::Lost, value: 0 });
        }
    }

    fn end_log(&self) {
        if let Some(log) = &self.log {
            log.end();
        }
    }

    pub fn ended(&self) -> Option<&Ended> {
        self.ended.as_ref()
    }

    pub fn is_connected(&self) -> bool {
        !self.proto.is_handshaking() && self.ended.is_none()
    }

    pub fn remote_address(&self) -> SocketAddr {
        self.proto.remote_address()
    }

    /// The address of ours that a client reached us on.
    pub fn local_ip(&self) -> Option<IpAddr> {
        self.proto.local_ip()
    }

    pub fn statistics(&self) -> Statistics {
        let all = self.proto.stats();
        Statistics {
            bytes_sent: all.udp_tx.bytes,
            bytes_received: all.udp_rx.bytes,
            datagrams_sent: all.udp_tx.datagrams,
            datagrams_received: all.udp_rx.datagrams,
            packets_sent: all.path.sent_packets,
            packets_lost: all.path.lost_packets,
            rtt: all.path.rtt,
            min_rtt: self.proto.min_rtt(),
            congestion_window: all.path.cwnd,
            congestion_events: all.path.congestion_events,
            mtu: all.path.current_mtu,
        }
    }

    /// What the engine asks of its endpoint.
    ///
    /// A client's timer for renewing connection IDs would go on for ever and keep an idle connection awake, and alive (RFC
    /// 9000 §10.1). So what that timer asks for waits until the application has sent or received something, we moved, or
    /// the peer was heard (`take_withheld`).
    pub(crate) fn endpoint_events(&mut self) -> Vec<EndpointEvent> {
        let expired = std::mem::take(&mut self.expired);
        if !expired && self.withheld.is_empty() {
            return Vec::new();
        }
        let mut events = std::mem::take(&mut self.withheld);
        while let Some(event) = self.proto.poll_endpoint_events() {
            events.push(event);
        }
        let stirrings = self.stirrings();
        let idle = stirrings == std::mem::replace(&mut self.renewed_at, stirrings);
        if idle && self.ended.is_none() && !events.iter().any(EndpointEvent::is_drained) {
            self.withheld = events;
            return Vec::new();
        }
        events
    }

    pub(crate) fn take_withheld(&mut self) -> Vec<EndpointEvent> {
        std::mem::take(&mut self.withheld)
    }

    /// Counts what makes new connection IDs worth having.
    fn stirrings(&self) -> u64 {
        let all = self.proto.stats();
        let of = |frames: &quinn_proto::FrameStats| frames.stream + frames.datagram;
        // A PING that we send asks after a path on which the server may be unable to answer for want of them.
        of(&all.frame_rx) + of(&all.frame_tx) + all.frame_tx.ping + self.moves
    }

    /// Turns what the engine has to say into news.
    pub(crate) fn report(&mut self, news: &mut VecDeque<News>) {
        self.tell_move(news);
        while let Some(event) = self.proto.poll() {
            let (kind, value) = match event {
                Event::HandshakeDataReady => continue,
                Event::Connected => {
                    self.learn_terms();
                    self.established = true;
                    self.peer.handshake_complete();
                    (Kind::Connected, 0)
                }
                Event::ConnectionLost { reason } => {
                    self.ended.get_or_insert_with(|| Ended::from(reason));
                    self.end_log();
                    (Kind::Lost, 0)
                }
                Event::DatagramReceived => (Kind::Datagram, 0),
                Event::DatagramsUnblocked => (Kind::DatagramRoom, 0),
                Event::Stream(event) => match event {
                    StreamEvent::Opened { dir } => (Kind::Opened, dir as u64),
                    StreamEvent::Available { dir } => (Kind::Available, dir as u64),
                    // First what was written early and refused.
                    StreamEvent::Writable { id } if self.early.as_ref().is_some_and(|it| it.holds(id.into())) => {
                        continue;
                    }
                    StreamEvent::Writable { id } => {
                        self.await_room(id.into());
                        continue;
                    }
                    StreamEvent::Finished { id } => {
                        self.sent_all(id.into());
                        (Kind::Finished, id.into())
                    }
                    StreamEvent::Stopped { id, .. } => {
                        self.sent_all(id.into());
                        (Kind::Stopped, id.into())
                    }
                    StreamEvent::Readable { id } => {
                        // The engine says so for each frame; once until the next read is enough.
                        if let Some(halves) = self.streams.get_mut(&id.into()) {
                            let told = std::mem::replace(&mut halves.told_readable, true);
                            halves.unread = halves.unread.saturating_add(1);
                            if told && halves.receiving {
                                halves.neglected = halves.neglected.saturating_add(1);
                                self.window.neglected += 1;
                            }
                            if halves.receiving && halves.dry && halves.unread >= MANY {
                                self.take_out(id);
                            }
                            if told {
                                continue;
                            }
                        } else if id.initiator() != self.proto.side() {
                            *self.unaccepted.entry(id.into()).or_default() += 1;
                            self.window.neglected += 1;
                        }
                        (Kind::Readable, id.into())
                    }
                },
            };
            news.push_back(News { connection: self.number, kind, value });
        }
        self.tell_room(news);
        for value in self.writable.drain(..) {
            news.push_back(News { connection: self.number, kind: Kind::Writable, value });
        }
        if self.proto.side().is_client() && !self.confirmed && self.proto.stats().frame_rx.handshake_done > 0 {
            self.confirmed = true;
            news.push_back(News { connection: self.number, kind: Kind::Confirmed, value: 0 });
        }
    }

    /// How far it has come, as a server counts.
    pub(crate) fn standing(&self) -> Standing {
        match (&self.ended, self.established) {
            (Some(_), _) => Standing::Ended,
            (None, true) => Standing::Established,
            (None, false) => self.standing,
        }
    }

    /// We have closed it, and the peer may not know yet: no CONNECTION_CLOSE came back (RFC 9000 §10.2).
    pub(crate) fn awaits_answer(&self) -> bool {
        let ours = self.ended.as_ref().is_some_and(|ended| !ended.by_peer);
        ours && self.established && !self.proto.is_drained() && self.proto.stats().frame_rx.connection_close == 0
    }
}

/// Whether a datagram begins with a Handshake packet (RFC 9000 §17.2.4); its type is not protected.
fn is_handshake_packet(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|first| first & 0xb0 == 0xa0)
}

pub(crate) fn varint(value: u64) -> VarInt {
    VarInt::from_u64(value).unwrap_or(VarInt::MAX)
}
