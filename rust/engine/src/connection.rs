//! One connection: its streams, its path, and what became of it.

use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use bytes::Bytes;
use quinn_proto::{
    ConnectionError, ConnectionHandle, ConnectionId, Dir, EndpointEvent, Event, ReadError, Side, StreamEvent, StreamId,
    VarInt, WriteError,
};

use crate::{
    allowance::{Allowance, Verdict},
    early::EarlyStreams,
    ids::SpareIds,
    news::{Kind, News},
    peer_path::{Move, PeerPath},
    qlog::{Ends, Log},
    tally::Standing,
    tls::Handshake,
};

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// application, transport, idle, reset, version, local, refused, or late.
    pub kind: &'static str,
    pub code: u64,
    pub reason: String,
    pub by_peer: bool,
}

/// What a read brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    Bytes(usize),
    End,
    Blocked,
}

#[derive(Debug, PartialEq, Eq)]
pub enum StreamFailure {
    /// RESET_STREAM came, with this code.
    Reset(u64),
    /// STOP_SENDING came, with this code.
    Stopped(u64),
    /// It was finished, reset or stopped before, or never was.
    Closed,
}

/// What a decision to move needs to know of the active path.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// When the last authenticated packet came over it, in the caller's seconds.
    pub heard: f64,
    pub due: bool,
    pub rtt: Duration,
    pub pto: Duration,
    pub best_rtt: Duration,
    pub spare_ids: u64,
    pub peer_forbids: bool,
    pub confirmed: bool,
}

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

/// The halves of a stream that are still in use, and what the application was told of it.
#[derive(Clone, Copy, Default)]
struct Halves {
    receiving: bool,
    sending: bool,
    background: bool,
    told_readable: bool,
}

/// What the peer said about moving, read from its transport parameters once (RFC 9000 §18.2).
#[derive(Clone, Copy, Default)]
struct PeerTerms {
    known: bool,
    disable_active_migration: bool,
    id_length: usize,
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
    terms: PeerTerms,
    heard: f64,
    listening: bool,
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
    pub(crate) fn new(number: u64, handle: ConnectionHandle, proto: quinn_proto::Connection, log: Option<Log>) -> Self {
        let peer = PeerPath::new(proto.remote_address());
        let early = (proto.side().is_client() && proto.has_0rtt()).then(EarlyStreams::default);
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
            terms: PeerTerms::default(),
            heard: f64::NEG_INFINITY,
            listening: true,
            seen_idle: false,
            best_rtt: Duration::MAX,
            ended: None,
            established: false,
            peer,
            pending_move: None,
            standing: Standing::Handshaking { forgeable: false },
            early,
            writable: Vec::new(),
            early_opened: Default::default(),
            early_count: [0; 2],
            confirmed: false,
            bound: None,
            log,
        }
    }

    // ── moving ──────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Packets leave from another local address from now on: the next of the peer's connection IDs, a PING, and
    /// congestion control, RTT and MTU afresh (RFC 9000 §9.4, §9.5). `false`: no connection ID was left to change to.
    /// `local` is the new address of ours, as far as it is known.
    pub fn path_moved(&mut self, local: Option<SocketAddr>, now: Instant) -> bool {
        self.note_rtt();
        self.moves += 1;
        let fresh = self.take_id();
        self.proto.local_address_changed();
        self.proto.path_changed(now);
        if let Some(log) = &self.log {
            log.moved_to(Ends { local, remote: self.proto.remote_address() }, now);
        }
        self.heard = f64::NEG_INFINITY;
        self.listening = true;
        fresh
    }

    /// Of the log: what is known of the path that it has begun on.
    pub fn begins_from(&self, local: Option<SocketAddr>, now: Instant) {
        if let Some(log) = &self.log {
            log.found_at(Ends { local, remote: self.proto.remote_address() }, now);
        }
    }

    /// Of the log: packets leave from this address of ours, which the kernel has chosen.
    pub fn leaves_from(&self, ip: IpAddr, now: Instant) {
        if let Some(log) = &self.log {
            log.leaves_from(ip, now);
        }
    }

    /// Of the log: how far a path from this address of ours has been probed.
    pub fn probing(&self, state: &str, local: IpAddr, now: Instant) {
        if let Some(log) = &self.log {
            log.probing(state, local, now);
        }
    }

    /// Ask for an answer (PING), and for news of the first packet that comes.
    pub fn ping(&mut self) {
        self.listening = true;
        self.proto.ping();
    }

    /// A server was sent a datagram with this connection ID. Returns the one before, if that was another.
    pub(crate) fn addressed_as(&mut self, id: ConnectionId) -> Option<ConnectionId> {
        self.addressed.replace(id).filter(|before| *before != id)
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
        loop {
            buffer.clear();
            let size = self.proto.current_mtu().into();
            let max = self.allowance.datagrams(max, size, now, || self.proto.stats());
            if max == 0 {
                return None;
            }
            let remote = self.proto.remote_address();
            let before = self.allowance.is_open().then(|| self.proto.stats());
            let transmit = self.proto.poll_transmit(now, max, buffer)?;
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

    /// The peer's address may have changed with a datagram that came at `at` (the caller's seconds). The engine has taken
    /// the next of its connection IDs then, if there was one (RFC 9000 §9.5). Whether it has.
    pub(crate) fn follow_peer(&mut self, source: SocketAddr, at: f64, now: Instant, news: &mut VecDeque<News>) -> bool {
        let remote = self.proto.remote_address();
        let (before, responses) = (self.peer.remote(), self.proto.stats().frame_rx.path_response);
        if self.peer.moved_to(remote, responses) {
            self.allowance.moved(before, remote, responses);
            let silence = if self.heard.is_finite() { at - self.heard } else { 0.0 };
            let linkable = !self.take_id();
            self.pending_move = Some(Move { returned: false, linkable, silence });
            return true;
        }
        if self.peer.heard_from(source, responses) {
            if let Some(log) = &self.log {
                log.proven(now);
            }
            news.push_back(News { connection: self.number, kind: Kind::Proven, value: 0 });
        }
        false
    }

    /// The engine returns to the previous address when the new one is not proven in time (§9.3.2). Whether it did.
    pub(crate) fn follow_return(&mut self, now: Instant) -> bool {
        if !self.peer.returned_to(self.proto.remote_address()) {
            return false;
        }
        self.allowance.returned();
        if let Some(log) = &self.log {
            log.returned(self.proto.remote_address(), now);
        }
        let linkable = !self.take_id();
        // It goes on with the connection ID that was seen on the other path; and it runs no probe timeout for what it
        // sent into the void, which an acknowledgement of the PING that this brings makes good.
        self.proto.local_address_changed();
        self.pending_move = Some(Move { returned: true, linkable, silence: 0.0 });
        true
    }

    /// After packets had their chance to leave, which shows whether there was a connection ID to change to.
    fn tell_move(&mut self, news: &mut VecDeque<News>) {
        let Some(mut moved) = self.pending_move.take() else { return };
        moved.linkable = self.ids.kept().unwrap_or(moved.linkable);
        news.push_back(News { connection: self.number, kind: Kind::Moved, value: moved.encode() });
        if moved.returned {
            news.push_back(News { connection: self.number, kind: Kind::Proven, value: 0 });
        }
    }

    /// Notes that the engine changes to the next of the peer's connection IDs. `false`: there is none.
    fn take_id(&mut self) -> bool {
        self.learn_terms();
        // Some may have come since anybody asked.
        self.ids.issued(self.proto.stats().frame_rx.new_connection_id);
        self.ids.taken()
    }

    /// Whether the peer is known to receive what is sent to its address: a client's always is, by its own choice.
    pub fn is_validated(&self) -> bool {
        match self.proto.side() {
            Side::Client => self.is_connected(),
            Side::Server => self.peer.is_proven(),
        }
    }

    /// Counts authenticated packets: compare before and after a datagram.
    pub(crate) fn progress(&self) -> u64 {
        let frames = self.proto.stats().frame_rx;
        let rare = frames.crypto + frames.path_challenge + frames.path_response + frames.new_connection_id;
        let windows = frames.max_data + frames.max_stream_data + frames.max_streams_bidi + frames.max_streams_uni;
        frames.acks + frames.stream + frames.datagram + frames.ping + frames.retire_connection_id + rare + windows
    }

    /// An authenticated packet came over the active path at `at` (the caller's seconds).
    pub(crate) fn heard(&mut self, at: f64, now: Instant, news: &mut VecDeque<News>) {
        if let Some(log) = self.log.as_ref().filter(|_| self.proto.side().is_client()) {
            log.proven(now);
        }
        self.heard = at;
        if std::mem::take(&mut self.listening) {
            news.push_back(News { connection: self.number, kind: Kind::Heard, value: 0 });
        }
    }

    /// When the last authenticated packet came over the active path, in the caller's seconds.
    pub fn last_heard(&self) -> f64 {
        self.heard
    }

    pub(crate) fn is_listening(&self) -> bool {
        self.listening
    }

    pub fn facts(&mut self) -> Facts {
        self.note_rtt();
        self.learn_terms();
        let statistics = self.proto.stats();
        self.ids.issued(statistics.frame_rx.new_connection_id);
        let rtt = statistics.path.rtt;
        let due = self.is_due();
        self.seen_idle |= !due;
        Facts {
            heard: self.heard,
            due,
            rtt,
            // RFC 9002 §6.2.1, with the variation unknown from outside taken as a quarter of the RTT, and the peer's
            // acknowledgement delay as the default (25 ms).
            pto: rtt + rtt.max(Duration::from_millis(10)) + Duration::from_millis(25),
            best_rtt: self.best_rtt.min(rtt),
            spare_ids: self.ids.spare(),
            peer_forbids: self.terms.known && (self.terms.disable_active_migration || self.terms.id_length == 0),
            // RFC 9001 §4.1.2: a client knows by HANDSHAKE_DONE; a server as soon as its handshake is complete.
            confirmed: match self.proto.side() {
                Side::Client => statistics.frame_rx.handshake_done > 0,
                Side::Server => !self.proto.is_handshaking(),
            },
        }
    }

    /// Whether something is due, and whoever asked for the facts last saw that nothing was: to be told once.
    pub fn newly_due(&mut self) -> bool {
        let newly = self.seen_idle && self.is_due();
        self.seen_idle &= !newly;
        newly
    }

    fn is_due(&self) -> bool {
        self.streams.values().any(|stream| !stream.background && (stream.receiving || stream.sending))
    }

    fn note_rtt(&mut self) {
        self.best_rtt = self.best_rtt.min(self.proto.min_rtt());
    }

    fn learn_terms(&mut self) {
        if self.terms.known || self.proto.is_handshaking() {
            return;
        }
        let Some(encoded) = self.peer_parameters() else { return };
        self.terms = PeerTerms::read(&encoded);
        self.ids.set_length(self.terms.id_length);
    }

    // ── streams ─────────────────────────────────────────────────────────────────────────────────────────────────────

    pub fn open(&mut self, unidirectional: bool) -> Option<u64> {
        self.settle_early();
        let direction = direction(unidirectional);
        if self.early.as_ref().is_some_and(|early| early.precedes(direction)) {
            return None;
        }
        let id = self.proto.streams().open(direction)?;
        if let Some(early) = &mut self.early {
            early.opened(id.into());
        }
        let halves = Halves { receiving: !unidirectional, sending: true, ..Halves::default() };
        self.streams.insert(id.into(), halves);
        Some(id.into())
    }

    pub fn accept(&mut self, unidirectional: bool) -> Option<u64> {
        let direction = direction(unidirectional);
        let early = self.early_opened[direction as usize].pop_front();
        let id = early.or_else(|| self.proto.streams().accept(direction))?;
        let halves = Halves { receiving: true, sending: !unidirectional, ..Halves::default() };
        self.streams.insert(id.into(), halves);
        Some(id.into())
    }

    /// Hands out up to `limit` bytes of a stream, in the chunks that they came in.
    pub fn read(&mut self, id: u64, limit: usize, mut take: impl FnMut(Bytes)) -> Result<Read, StreamFailure> {
        let stream = self.receiving(id)?;
        self.settle_early();
        if self.early.as_ref().is_some_and(|early| early.is_closed(id)) {
            return Ok(Read::Blocked);
        }
        if let Some(tail) = self.tails.remove(&id) {
            return tail;
        }
        if let Some(halves) = self.streams.get_mut(&id) {
            halves.told_readable = false;
        }
        let mut source = self.proto.recv_stream(stream);
        let mut chunks = source.read(true).map_err(|_| StreamFailure::Closed)?;
        let mut taken = 0;
        let result = loop {
            match chunks.next(limit - taken) {
                Ok(Some(chunk)) => {
                    taken += chunk.bytes.len();
                    take(chunk.bytes);
                    if taken == limit {
                        break Ok(Read::Bytes(taken));
                    }
                }
                Ok(None) => break Ok(Read::End),
                Err(ReadError::Blocked) => break Ok(Read::Blocked),
                Err(ReadError::Reset(code)) => break Err(StreamFailure::Reset(code.into_inner())),
            }
        };
        let _ = chunks.finalize();
        let ended = matches!(result, Ok(Read::End) | Err(_));
        if ended {
            self.received_all(id);
        }
        if taken == 0 {
            return result;
        }
        if ended {
            // The engine tells the end once, and what came before it is handed out first.
            self.tails.insert(id, result);
        }
        Ok(Read::Bytes(taken))
    }

    /// Takes as much as the windows allow; 0 means blocked, and `Writable` follows.
    pub fn write(&mut self, id: u64, data: &[u8]) -> Result<usize, StreamFailure> {
        let stream = self.sending(id)?;
        self.settle_early();
        let early = self.early.as_mut().and_then(|early| early.write(id, data, &mut self.proto));
        match early.unwrap_or_else(|| self.proto.send_stream(stream).write(data)) {
            Ok(taken) => Ok(taken),
            Err(WriteError::Blocked) => Ok(0),
            Err(WriteError::Stopped(code)) => Err(StreamFailure::Stopped(code.into_inner())),
            Err(WriteError::ClosedStream) => Err(StreamFailure::Closed),
        }
    }

    pub fn finish(&mut self, id: u64) -> Result<(), StreamFailure> {
        let stream = self.sending(id)?;
        self.settle_early();
        if self.early.as_mut().is_some_and(|early| early.finish(id)) {
            return Ok(());
        }
        self.proto.send_stream(stream).finish().map_err(|error| match error {
            quinn_proto::FinishError::Stopped(code) => StreamFailure::Stopped(code.into_inner()),
            quinn_proto::FinishError::ClosedStream => StreamFailure::Closed,
        })
    }

    pub fn reset(&mut self, id: u64, code: u64) -> Result<(), StreamFailure> {
        let stream = self.sending(id)?;
        self.sent_all(id);
        self.settle_early();
        if self.early.as_mut().is_some_and(|early| early.reset(id, code)) {
            return Ok(());
        }
        self.proto.send_stream(stream).reset(varint(code)).map_err(|_| StreamFailure::Closed)
    }

    pub fn stop(&mut self, id: u64, code: u64) -> Result<(), StreamFailure> {
        let stream = self.receiving(id)?;
        if self.tails.remove(&id).is_some() {
            return Ok(());
        }
        self.received_all(id);
        self.settle_early();
        if self.early.as_mut().is_some_and(|early| early.stop(id, code)) {
            return Ok(());
        }
        self.proto.recv_stream(stream).stop(varint(code)).map_err(|_| StreamFailure::Closed)
    }

    /// Nothing is expected of this stream: while only such are open, silence means nothing.
    pub fn background(&mut self, id: u64) {
        if let Some(halves) = self.streams.get_mut(&id) {
            halves.background = true;
        }
    }

    /// Whether the peer opened a stream before the handshake was complete: then somebody who recorded it may have.
    pub fn is_early_stream(&self, id: u64) -> bool {
        (id & 1 == 1) == self.proto.side().is_client() && id >> 2 < self.early_count[direction_of(id) as usize]
    }

    /// As soon as the server has answered: what was sent early and refused is sent again.
    pub(crate) fn settle_early(&mut self) {
        if self.proto.is_handshaking() {
            return;
        }
        if let Some(early) = &mut self.early
            && early.settle(&mut self.proto, &mut self.writable)
        {
            self.early = None;
        }
    }

    /// A datagram was taken in: notes which streams of the peer's came early.
    pub(crate) fn note_early_streams(&mut self) {
        if !self.proto.has_0rtt() || !self.proto.is_handshaking() {
            return;
        }
        for direction in [Dir::Bi, Dir::Uni] {
            while let Some(id) = self.proto.streams().accept(direction) {
                self.early_opened[direction as usize].push_back(id);
                self.early_count[direction as usize] = id.index() + 1;
            }
        }
    }

    // The engine panics on the half of a unidirectional stream that is not ours, so it is never asked.
    fn receiving(&self, id: u64) -> Result<StreamId, StreamFailure> {
        let stream = stream_id(id)?;
        let ours = stream.dir() == Dir::Bi || stream.initiator() != self.proto.side();
        if ours { Ok(stream) } else { Err(StreamFailure::Closed) }
    }

    fn sending(&self, id: u64) -> Result<StreamId, StreamFailure> {
        let stream = stream_id(id)?;
        let ours = stream.dir() == Dir::Bi || stream.initiator() == self.proto.side();
        if ours { Ok(stream) } else { Err(StreamFailure::Closed) }
    }

    fn received_all(&mut self, id: u64) {
        if let Some(halves) = self.streams.get_mut(&id) {
            halves.receiving = false;
            if !halves.sending {
                self.streams.remove(&id);
            }
        }
    }

    fn sent_all(&mut self, id: u64) {
        if let Some(halves) = self.streams.get_mut(&id) {
            halves.sending = false;
            if !halves.receiving {
                self.streams.remove(&id);
            }
        }
    }

    // ── datagrams (RFC 9221) ────────────────────────────────────────────────────────────────────────────────────────

    /// Bytes that fit in one datagram; 0 when the peer takes none.
    pub fn max_datagram_size(&mut self) -> usize {
        self.proto.datagrams().max_size().unwrap_or(0)
    }

    /// Queues a datagram, dropping the oldest unsent ones when there is no room. `false`: too large, or not taken.
    pub fn send_datagram(&mut self, data: &[u8]) -> bool {
        self.proto.datagrams().send(Bytes::copy_from_slice(data), true).is_ok()
    }

    pub fn receive_datagram(&mut self) -> Option<Bytes> {
        self.proto.datagrams().recv()
    }

    // ── as a whole ──────────────────────────────────────────────────────────────────────────────────────────────────

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

    /// Gives up where the handshake is not complete by then: for callers who do not wait for it.
    pub fn bound_handshake(&mut self, until: Instant, reason: String) {
        if self.proto.is_handshaking() {
            self.bound = Some((until, reason));
        }
    }

    /// When to be called at the latest.
    pub(crate) fn deadline(&mut self) -> Option<Instant> {
        let bound = self.bound.as_ref().filter(|_| self.proto.is_handshaking()).map(|&(until, _)| until);
        self.proto.poll_timeout().into_iter().chain(bound).min()
    }

    /// The deadline has come.
    pub(crate) fn expire(&mut self, now: Instant, news: &mut VecDeque<News>) {
        self.proto.handle_timeout(now);
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

    /// Its time for the handshake is over. Whether that was not complete.
    pub(crate) fn give_up_handshake(&mut self, now: Instant, news: &mut VecDeque<News>) -> bool {
        if self.established || self.ended.is_some() {
            return false;
        }
        self.close(now, 0, b"");
        self.ended = Some(Ended { kind: "idle", code: 0, reason: String::new(), by_peer: false });
        news.push_back(News { connection: self.number, kind: Kind::Lost, value: 0 });
        true
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

    fn handshake(&self) -> Handshake {
        let data = self.proto.crypto_session().handshake_data().and_then(|data| data.downcast().ok());
        data.map(|data| *data).unwrap_or_default()
    }

    /// Before the handshake is complete, that of the session which is being resumed.
    pub fn alpn(&self) -> Option<Vec<u8>> {
        self.handshake().alpn
    }

    /// The certificate that the peer proved to hold, DER; in a resumed session, when that began.
    pub fn peer_certificate(&self) -> Option<Vec<u8>> {
        let chain = self.proto.crypto_session().peer_identity()?.downcast::<Vec<Vec<u8>>>().ok()?;
        chain.into_iter().next()
    }

    /// Whether the two ends went on with an earlier TLS session.
    pub fn is_resumed(&self) -> bool {
        self.handshake().resumed
    }

    /// Whether data may go and come already, though the handshake is not complete.
    pub fn is_early(&self) -> bool {
        self.proto.has_0rtt() && self.proto.is_handshaking() && self.ended.is_none()
    }

    /// Whether the server took what was sent early. `None`: nothing was, or it has not answered.
    pub fn early_data_accepted(&self) -> Option<bool> {
        if !self.proto.has_0rtt() || self.proto.is_handshaking() {
            return None;
        }
        Some(self.proto.side().is_server() || self.proto.accepted_0rtt())
    }

    /// Whether the server has still to say what it thinks of our certificate. In TLS 1.3 a client's handshake is
    /// complete before (RFC 8446 §4.4.2.4); that the server's is as well, HANDSHAKE_DONE says (RFC 9001 §4.1.2).
    pub fn awaits_verdict(&self) -> bool {
        self.proto.side().is_client() && !self.confirmed && self.handshake().certificate_requested
    }

    /// The peer's transport parameters as they are encoded (RFC 9000 §18), without those that the engine does not know.
    pub fn peer_parameters(&self) -> Option<Vec<u8>> {
        let parameters = self.proto.crypto_session().transport_parameters().ok()??;
        let mut encoded = Vec::new();
        parameters.write(&mut encoded);
        Some(encoded)
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
    /// 9000 §10.1). So what that timer asks for waits until the application has sent or received something, or we moved.
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
                    StreamEvent::Writable { id } => (Kind::Writable, id.into()),
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
                        let told = self.streams.get_mut(&id.into()).map(|halves| &mut halves.told_readable);
                        if told.is_some_and(|told| std::mem::replace(told, true)) {
                            continue;
                        }
                        (Kind::Readable, id.into())
                    }
                },
            };
            news.push_back(News { connection: self.number, kind, value });
        }
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

impl PeerTerms {
    fn read(mut encoded: &[u8]) -> Self {
        const DISABLE_ACTIVE_MIGRATION: u64 = 0x0c;
        const INITIAL_SOURCE_CONNECTION_ID: u64 = 0x0f;
        let mut terms = Self { known: true, ..Self::default() };
        while let (Some(id), Some(length)) = (take_varint(&mut encoded), take_varint(&mut encoded)) {
            match id {
                DISABLE_ACTIVE_MIGRATION => terms.disable_active_migration = true,
                INITIAL_SOURCE_CONNECTION_ID => terms.id_length = length as usize,
                _ => {}
            }
            encoded = encoded.get(length as usize..).unwrap_or_default();
        }
        terms
    }
}

/// Whether a datagram begins with a Handshake packet (RFC 9000 §17.2.4); its type is not protected.
fn is_handshake_packet(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|first| first & 0xb0 == 0xa0)
}

/// A variable-length integer (RFC 9000 §16).
fn take_varint(from: &mut &[u8]) -> Option<u64> {
    let first = *from.first()?;
    let length = 1 << (first >> 6);
    let bytes = from.get(..length)?;
    *from = &from[length..];
    Some(bytes[1..].iter().fold(u64::from(first & 0x3f), |value, &byte| value << 8 | u64::from(byte)))
}

impl From<ConnectionError> for Ended {
    fn from(error: ConnectionError) -> Self {
        let (kind, code, reason, by_peer) = match error {
            ConnectionError::VersionMismatch => ("version", 0, String::new(), true),
            ConnectionError::TransportError(error) => ("transport", u64::from(error.code), error.reason.clone(), false),
            ConnectionError::ConnectionClosed(close) => {
                ("transport", u64::from(close.error_code), String::from_utf8_lossy(&close.reason).into_owned(), true)
            }
            ConnectionError::ApplicationClosed(close) => (
                "application",
                close.error_code.into_inner(),
                String::from_utf8_lossy(&close.reason).into_owned(),
                true,
            ),
            ConnectionError::Reset => ("reset", 0, String::new(), true),
            ConnectionError::TimedOut => ("idle", 0, String::new(), false),
            ConnectionError::LocallyClosed => ("local", 0, String::new(), false),
            ConnectionError::CidsExhausted => ("refused", 0, "no connection IDs left".into(), false),
        };
        Self { kind, code, reason, by_peer }
    }
}

fn direction(unidirectional: bool) -> Dir {
    if unidirectional { Dir::Uni } else { Dir::Bi }
}

/// RFC 9000 §2.1.
pub(crate) fn direction_of(id: u64) -> Dir {
    direction(id & 2 != 0)
}

pub(crate) fn varint(value: u64) -> VarInt {
    VarInt::from_u64(value).unwrap_or(VarInt::MAX)
}

fn stream_id(id: u64) -> Result<StreamId, StreamFailure> {
    VarInt::from_u64(id).map(StreamId::from).map_err(|_| StreamFailure::Closed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_terms_of_a_peer_that_forbids_migration() {
        let terms = PeerTerms::read(&[0x0c, 0, 0x0f, 4, 1, 2, 3, 4]);
        assert!(terms.disable_active_migration);
        assert_eq!(terms.id_length, 4);
    }

    #[test]
    fn a_truncated_list_of_parameters_ends_quietly() {
        let terms = PeerTerms::read(&[0x0f, 0x40]);
        assert!(!terms.disable_active_migration);
    }
}
