//! The calls that owners, applications and deciders make; each ends with what is due having been done.

use std::{
    collections::{HashMap, VecDeque},
    fmt, io, mem,
    net::SocketAddr,
    os::fd::{AsRawFd, RawFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use whimbrel_engine::{Admission, ClientConfig, Connection, Endpoint, News, ServerConfig, Tally};
use whimbrel_udp::{EventFd, Pin, Socket};

use crate::{
    clock::Clock,
    guard,
    paths::{ActivePath, Paths},
    state::State,
    traffic::Traffic,
    waiting::Waiting,
    wire::{Sockets, VirtualDatagram, VirtualSockets, Wire, virtual_port},
};

/// A timer this close is worth waking the event loop for; the guard thread sees to later ones.
const SOON: Duration = Duration::from_millis(5);

#[derive(Debug)]
pub enum PumpError {
    Io(io::Error),
    Invalid(String),
}

impl fmt::Display for PumpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Invalid(text) => f.write_str(text),
        }
    }
}

impl From<io::Error> for PumpError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// How a client holds its socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    Pinned,
    Unconnected,
    Connected,
}

/// Where a server listens, and whom it lets in.
#[derive(Clone, Debug)]
pub struct Listening {
    pub addresses: Vec<SocketAddr>,
    /// Each client that has proven its address gets a socket of its own, connected to it.
    pub connected: bool,
    /// Sockets that are open already, as `Socket::group` gives them, in place of those that the addresses would need.
    pub adopted: Vec<RawFd>,
    pub admission: Admission,
}

/// What a server has counted.
#[derive(Clone, Copy, Debug)]
pub struct ServerStatistics {
    pub tally: Tally,
    pub traffic: Traffic,
    pub connected_sockets: usize,
}

/// Whose time it is.
#[derive(Clone, Copy, Debug)]
pub enum Time {
    /// The machine's; the caller's monotonic clock shows so many seconds now.
    Real(f64),
    /// Moved by hand, and there are no sockets. The seed is that of the engine.
    Virtual(Option<u64>),
}

impl Time {
    fn seed(self) -> Option<u64> {
        match self {
            Self::Real(_) => None,
            Self::Virtual(seed) => seed,
        }
    }
}

/// The sockets of one client connection, or of a server, with the engine behind them.
pub struct Pump {
    state: Mutex<State>,
    readable: RawFd,
    woken: AtomicBool,
    /// How often somebody pumped: by this the guard sees that it is not needed.
    turns: AtomicU64,
    /// When to pump at the latest, in nanoseconds of the guard's clock.
    deadline: AtomicU64,
}

impl Pump {
    /// For one connection to a server.
    pub fn client(config: ClientConfig, time: Time) -> io::Result<Arc<Self>> {
        let wire = match time {
            Time::Real(_) => Wire::Sockets(Sockets::new()?),
            Time::Virtual(_) => Wire::Virtual(VirtualSockets::default()),
        };
        Self::new(Endpoint::client(time.seed()), wire, Some(config), time)
    }

    pub fn server(config: &ServerConfig, listening: &Listening, time: Time) -> io::Result<Arc<Self>> {
        let wire = match time {
            Time::Real(_) => {
                let mut sockets = Sockets::new()?;
                for &descriptor in &listening.adopted {
                    sockets.add(Socket::adopted(descriptor)?)?;
                }
                let addresses = if listening.adopted.is_empty() { &listening.addresses[..] } else { &[] };
                for &address in addresses {
                    let socket = Socket::wildcard(address)?;
                    if listening.connected {
                        socket.share_port()?;
                    }
                    sockets.add(socket)?;
                }
                Wire::Sockets(sockets)
            }
            Time::Virtual(_) => Wire::Virtual(VirtualSockets::named(listening.addresses.clone())),
        };
        let engine = Endpoint::server(config, listening.admission, time.seed());
        let pump = Self::new(engine, wire, None, time)?;
        pump.lock().connects = listening.connected;
        Ok(pump)
    }

    fn new(engine: Endpoint, wire: Wire, client: Option<ClientConfig>, time: Time) -> io::Result<Arc<Self>> {
        let clock = match time {
            Time::Real(seconds) => Clock::real(seconds),
            Time::Virtual(_) => Clock::simulated(),
        };
        let readable = match &wire {
            Wire::Sockets(sockets) => sockets.epoll.as_raw_fd(),
            Wire::Virtual(_) => -1,
        };
        let pump = Arc::new(Self {
            state: Mutex::new(State {
                engine,
                clock,
                wire,
                paths: Paths::default(),
                client,
                buffer: Vec::with_capacity(1 << 16),
                response: Vec::new(),
                blocked: HashMap::new(),
                connects: false,
                late: VecDeque::new(),
                resting: Vec::new(),
                traffic: Traffic::default(),
                news: VecDeque::new(),
                control_news: VecDeque::new(),
                wake: Some(EventFd::new()?),
                control: Some(EventFd::new()?),
                waiting: None,
                told_due: false,
                owner_deadline: None,
                closed: false,
            }),
            readable,
            woken: AtomicBool::new(false),
            turns: AtomicU64::new(0),
            deadline: AtomicU64::new(u64::MAX),
        });
        if matches!(time, Time::Real(_)) {
            guard::add(&pump)?;
        }
        Ok(pump)
    }

    // ── moving packets ──────────────────────────────────────────────────────────────────────────────────────────────

    /// Does everything that is due. Returns how long nothing will be, unless something comes.
    pub fn pump(&self) -> Option<Duration> {
        self.turns.fetch_add(1, Ordering::Relaxed);
        let mut state = self.lock();
        if self.woken.swap(false, Ordering::AcqRel)
            && let Some(wake) = &state.wake
        {
            wake.clear();
        }
        state.turn();
        let next = state.next_deadline();
        state.owner_deadline = next;
        self.publish(&state);
        next.and_then(|when| state.clock.until(when))
    }

    /// Returns when there is something to pump or to take from the news, when a timer is due, when the sockets were
    /// closed, at a signal, or after `limit`.
    pub fn wait(&self, limit: Option<Duration>) -> Result<(), PumpError> {
        let (waiting, timer) = {
            let mut state = self.lock();
            if state.closed || !state.news.is_empty() {
                return Ok(());
            }
            let Some(wake) = state.wake.as_ref().filter(|_| self.readable >= 0) else {
                return Err(PumpError::Invalid("in virtual time there is nothing to wait for".into()));
            };
            let waiting = match &state.waiting {
                Some(waiting) => waiting.clone(),
                None => Arc::new(Waiting::new(self.readable, wake)?),
            };
            state.waiting = Some(waiting.clone());
            let next = state.next_deadline();
            state.owner_deadline = next;
            (waiting, next.and_then(|when| state.clock.until(when)))
        };
        // Not under the lock: others may call, and the guard pumps if we do not.
        Ok(waiting.wait(limit.into_iter().chain(timer).min())?)
    }

    /// `pump`, by the guard: news is left for the owner, who is told.
    pub(crate) fn pump_for_owner(&self) {
        let mut state = self.lock();
        state.turn();
        self.leave(state);
    }

    pub(crate) fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    pub(crate) fn deadline(&self) -> u64 {
        self.deadline.load(Ordering::Relaxed)
    }

    pub fn take_news(&self) -> VecDeque<News> {
        mem::take(&mut self.lock().news)
    }

    pub fn take_control_news(&self) -> VecDeque<News> {
        let mut state = self.lock();
        if let Some(control) = &state.control {
            control.clear();
        }
        mem::take(&mut state.control_news)
    }

    pub fn readable_fd(&self) -> RawFd {
        self.readable
    }

    pub fn wake_fd(&self) -> RawFd {
        self.lock().wake.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }

    pub fn control_fd(&self) -> RawFd {
        self.lock().control.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }

    // ── connections ─────────────────────────────────────────────────────────────────────────────────────────────────

    pub fn connect(
        &self,
        remote: SocketAddr,
        name: &str,
        sockets: Control,
        pin: Option<Pin>,
    ) -> Result<u64, PumpError> {
        let mut state = self.lock();
        let config = state.client.clone().ok_or_else(|| PumpError::Invalid("a server does not dial".into()))?;
        let socket = state.open_socket(remote, sockets, pin)?;
        let now = state.clock.now();
        let number = state.engine.connect(now, &config, remote, name).map_err(|error| PumpError::Invalid(error.0))?;
        // In the other modes the kernel chooses, packet by packet or once for the socket.
        let pin = pin.filter(|_| sockets == Control::Pinned);
        state.paths.insert(number, ActivePath { socket: Some(socket), pin, ..ActivePath::default() });
        let local = state.local_address(number);
        state.engine.connection(number).into_iter().for_each(|connection| connection.begins_from(local, now));
        state.flush();
        self.leave(state);
        Ok(number)
    }

    /// Calls `act` on a connection, then sends what came of it, on this thread. `None`: there is no such connection.
    pub fn act<T>(&self, number: u64, act: impl FnOnce(&mut Connection, Instant) -> T) -> Option<T> {
        let mut state = self.lock();
        let now = state.clock.now();
        let result = act(state.engine.connection(number)?, now);
        state.note_due(number);
        state.engine.touch(number);
        state.flush();
        self.leave(state);
        Some(result)
    }

    /// The same for opening, accepting and reading, of which seldom anything comes: sends only if it did. What was to
    /// leave later still does: who writes to a hundred streams, and looks at each, fills few packets.
    pub fn ask<T>(&self, number: u64, ask: impl FnOnce(&mut Connection) -> T) -> Option<T> {
        let mut state = self.lock();
        let connection = state.engine.connection(number)?;
        let result = ask(connection);
        let owes = connection.take_owed();
        state.note_due(number);
        if owes {
            state.engine.touch(number);
            state.flush();
            self.leave(state);
        }
        Some(result)
    }

    /// The same as `act`, but what came of it leaves with the next `flush` or turn: small writes that follow each other
    /// share packets then. Should neither come, because the owner computes or sleeps, the guard sees to it.
    pub fn act_later<T>(&self, number: u64, act: impl FnOnce(&mut Connection) -> T) -> Option<T> {
        let mut state = self.lock();
        let result = act(state.engine.connection(number)?);
        state.note_due(number);
        state.engine.touch(number);
        self.publish(&state);
        Some(result)
    }

    /// Sends what waits to be sent.
    pub fn flush(&self) {
        let mut state = self.lock();
        state.flush();
        self.leave(state);
    }

    /// Looks at a connection; nothing is sent.
    pub fn look<T>(&self, number: u64, look: impl FnOnce(&mut Connection) -> T) -> Option<T> {
        self.lock().engine.connection(number).map(look)
    }

    /// Has something written into a connection's log, if it has one.
    pub fn note(&self, number: u64, note: impl FnOnce(&Connection, Instant)) {
        let mut state = self.lock();
        let now = state.clock.now();
        if let Some(connection) = state.engine.connection(number) {
            note(connection, now);
        }
    }

    /// Send nothing for so long; a move that follows takes it along. Zero ends such a rest.
    pub fn rest(&self, number: u64, length: Duration) {
        let mut state = self.lock();
        let mut path = state.paths.get(number);
        path.rests_until = (!length.is_zero()).then(|| state.clock.now() + length);
        state.paths.insert(number, path);
        state.engine.touch(number);
    }

    /// From now on packets leave by this interface and source address: the connection moves (RFC 9000 §9). With
    /// `fresh_socket` from a new local port; otherwise, if that was the path before this one, from the port it had.
    /// `false`: the peer had left no connection ID to change to.
    pub fn pin(&self, number: u64, pin: Pin, fresh_socket: bool) -> Result<bool, PumpError> {
        self.relocate(number, Some(pin), fresh_socket.then_some(Control::Pinned), Some(pin))
    }

    /// From now on packets leave by a new socket, connected to the peer from this address.
    pub fn use_connected_socket(&self, number: u64, pin: Pin) -> Result<bool, PumpError> {
        self.relocate(number, None, Some(Control::Connected), Some(pin))
    }

    fn relocate(
        &self,
        number: u64,
        pin: Option<Pin>,
        socket: Option<Control>,
        bind: Option<Pin>,
    ) -> Result<bool, PumpError> {
        let mut state = self.lock();
        let gone = || PumpError::Invalid("there is no such connection".into());
        let remote = state.engine.connection(number).ok_or_else(gone)?.remote_address();
        let mut path = state.paths.get(number);
        let left = path.socket.map(|socket| (socket, path.pin));
        if let Some(kind) = socket {
            path.socket = Some(state.open_socket(remote, kind, bind)?);
            if let Wire::Sockets(sockets) = &mut state.wire {
                sockets.retire();
            }
        } else if let Some((before, _)) = path.previous.filter(|(_, before)| *before == pin) {
            path.socket = Some(before);
        }
        path.previous = left;
        path.pin = pin;
        path.refused = None;
        path.moves += 1;
        state.paths.insert(number, path);
        // It carries the connection ID of the old path, and must not be seen on the new one (§9.5).
        state.blocked.retain(|_, blocked| blocked.number != number);
        let now = state.clock.now();
        let local = state.local_address(number);
        let fresh = state.engine.connection(number).ok_or_else(gone)?.path_moved(local, now);
        state.engine.touch(number);
        state.flush();
        self.leave(state);
        Ok(fresh)
    }

    /// The engine's clock stands still, and nothing is sent, while there is no network.
    pub fn hold(&self, held: bool) {
        let mut state = self.lock();
        let stood_still = state.clock.hold(held);
        state.engine.stood_still(stood_still);
        state.turn();
        self.leave(state);
    }

    pub fn is_held(&self) -> bool {
        self.lock().clock.is_held()
    }

    pub fn forget(&self, number: u64) {
        let mut state = self.lock();
        state.engine.forget(number);
        state.follow_end(number);
    }

    /// Moves, refused packets, and the address that packets leave from as far as it is known.
    pub fn path(&self, number: u64) -> (u64, u64, Option<SocketAddr>, Option<Pin>) {
        let mut state = self.lock();
        let path = state.paths.get(number);
        let local = state.local_address(number);
        (path.moves, path.send_errors, local, path.pin)
    }

    pub fn addresses(&self) -> Vec<SocketAddr> {
        match &self.lock().wire {
            Wire::Sockets(sockets) => sockets.addresses(),
            Wire::Virtual(sockets) => sockets.names.clone(),
        }
    }

    /// Every descriptor that is open here now: what the child of a fork must not keep.
    pub fn descriptors(&self) -> Vec<RawFd> {
        let state = self.lock();
        let flags = [&state.wake, &state.control].into_iter().flatten().map(AsRawFd::as_raw_fd);
        let events = flags.chain(state.waiting.iter().flat_map(|waiting| waiting.descriptors()));
        match &state.wire {
            Wire::Sockets(sockets) => sockets.descriptors().into_iter().chain(events).collect(),
            Wire::Virtual(_) => events.collect(),
        }
    }

    /// Ends the connections that still stand, sends what is still to be sent and closes the sockets.
    pub fn close(&self) {
        guard::remove(self);
        let mut state = self.lock();
        if state.closed {
            return;
        }
        // Of newcomers that nobody has been told of yet, nobody else takes leave.
        let now = state.clock.now();
        state.engine.close_all(now);
        state.flush();
        state.closed = true;
        // Whoever still holds this object must not hold descriptors by it.
        if matches!(state.wire, Wire::Sockets(_)) {
            state.wire = Wire::Virtual(VirtualSockets::default());
        }
        if let Some(waiting) = state.waiting.take() {
            waiting.close();
        }
        state.wake = None;
        state.control = None;
        self.deadline.store(u64::MAX, Ordering::Relaxed);
    }

    // ── of a server ─────────────────────────────────────────────────────────────────────────────────────────────────

    /// From now on every newcomer is refused.
    pub fn refuse_newcomers(&self) {
        self.lock().engine.refuse_newcomers();
    }

    /// Connections that were closed here and whose peers may not know of it yet.
    pub fn unanswered(&self) -> usize {
        self.lock().engine.unanswered()
    }

    pub fn server_statistics(&self) -> ServerStatistics {
        let state = self.lock();
        let connected_sockets = match &state.wire {
            Wire::Sockets(sockets) => sockets.accepted(),
            Wire::Virtual(_) => 0,
        };
        ServerStatistics { tally: *state.engine.tally(), traffic: state.traffic, connected_sockets }
    }

    // ── virtual time ────────────────────────────────────────────────────────────────────────────────────────────────

    pub fn set_time(&self, seconds: f64) {
        self.lock().clock.set(seconds);
    }

    pub fn seconds(&self) -> f64 {
        self.lock().clock.seconds()
    }

    /// The addresses that a simulated machine has: a packet from elsewhere is refused. Before the first call, any.
    pub fn set_addresses(&self, addresses: Vec<Pin>) {
        if let Wire::Virtual(sockets) = &mut self.lock().wire {
            sockets.set_addresses(addresses);
        }
    }

    /// A datagram arrives in a simulated network.
    pub fn deliver(&self, data: &[u8], source: SocketAddr, local: SocketAddr, interface: u32) {
        let mut state = self.lock();
        let socket = u64::from(local.port().saturating_sub(virtual_port(0)));
        state.receive_one(socket, data, source, Some(local.ip()), interface, 0);
        state.flush();
        self.leave(state);
    }

    /// What was sent since the last call, datagram by datagram, with the local port that it left from.
    pub fn take_sent(&self) -> Vec<(VirtualDatagram, u16)> {
        match &mut self.lock().wire {
            Wire::Virtual(sockets) => mem::take(&mut sockets.sent)
                .into_iter()
                .map(|datagram| {
                    let port = virtual_port(datagram.socket);
                    (datagram, port)
                })
                .collect(),
            Wire::Sockets(_) => Vec::new(),
        }
    }

    // ── inside ──────────────────────────────────────────────────────────────────────────────────────────────────────

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic in another thread leaves a connection that may be wrong, never memory that is.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends a call by somebody who does not look for news afterwards.
    fn leave(&self, mut state: MutexGuard<'_, State>) {
        state.sort_news();
        let soon = state.next_deadline().is_some_and(|when| {
            let earlier = state.owner_deadline.is_none_or(|known| when < known);
            // Whoever rests does so while a move waits for it.
            earlier && (!state.resting.is_empty() || state.clock.until(when).is_some_and(|wait| wait < SOON))
        });
        if (soon || !state.news.is_empty())
            && !self.woken.swap(true, Ordering::AcqRel)
            && let Some(wake) = &state.wake
        {
            wake.signal();
        }
        self.publish(&state);
    }

    fn publish(&self, state: &MutexGuard<'_, State>) {
        if state.clock.is_simulated() {
            return;
        }
        let wait = state.next_deadline().and_then(|when| state.clock.until(when));
        let deadline = wait.map_or(u64::MAX, guard::in_time);
        self.deadline.store(deadline, Ordering::Relaxed);
        guard::expect(deadline);
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        guard::remove(self);
    }
}
