//! Connections of the bare engine behind one socket: receive, expire, send.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd,
    time::Instant,
};

use bytes::BytesMut;
use quinn_proto::{Connection, ConnectionHandle, DatagramEvent, EcnCodepoint, Endpoint, Event, Transmit};
use whimbrel_udp::{Epoll, Outgoing, Pin, ReceiveBuffers, Socket};

/// The token of the socket; others are for who adds them.
pub const SOCKET: u64 = 0;
/// Datagrams in one send.
const BATCH: usize = 40;
/// Batches read before what they brought is answered.
const ROUNDS: usize = 8;

/// A connection, and what belongs to it here.
struct Member {
    connection: Connection,
    /// The address that its packets come from; `None`: the one that it was reached on.
    source: Option<IpAddr>,
    armed: Option<Instant>,
    queued: bool,
}

pub struct Host {
    pub epoll: Epoll,
    pub socket: Socket,
    pub endpoint: Endpoint,
    /// What connections had to say since it was last taken.
    pub events: VecDeque<(ConnectionHandle, Event)>,
    pub datagrams_received: u64,
    pub datagrams_sent: u64,
    // Boxed, so that the table's spare places are small.
    members: HashMap<ConnectionHandle, Box<Member>>,
    ready: VecDeque<ConnectionHandle>,
    timers: BTreeSet<(Instant, usize)>,
    buffers: Option<Box<ReceiveBuffers>>,
    output: Vec<u8>,
}

impl Host {
    pub fn new(socket: Socket, endpoint: Endpoint) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        epoll.add(socket.as_raw_fd(), SOCKET)?;
        Ok(Self {
            epoll,
            socket,
            endpoint,
            events: VecDeque::new(),
            datagrams_received: 0,
            datagrams_sent: 0,
            members: HashMap::new(),
            ready: VecDeque::new(),
            timers: BTreeSet::new(),
            buffers: Some(Box::new(ReceiveBuffers::new())),
            output: Vec::with_capacity(1 << 16),
        })
    }

    pub fn adopt(&mut self, handle: ConnectionHandle, connection: Connection, source: Option<IpAddr>) {
        self.members.insert(handle, Box::new(Member { connection, source, armed: None, queued: false }));
        self.touch(handle);
    }

    pub fn len(&self) -> usize {
        self.members.len()
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// A connection, to ask something of it: it may have to send afterwards.
    pub fn connection(&mut self, handle: ConnectionHandle) -> Option<&mut Connection> {
        self.touch(handle);
        self.members.get_mut(&handle).map(|member| &mut member.connection)
    }

    /// From now on its packets come from this address: the connection moves (RFC 9000 §9).
    pub fn relocate(&mut self, handle: ConnectionHandle, source: IpAddr) {
        if let Some(member) = self.members.get_mut(&handle) {
            member.source = Some(source);
            member.connection.local_address_changed();
            member.connection.path_changed(now());
        }
        self.touch(handle);
    }

    /// Does everything that is due.
    pub fn turn(&mut self) {
        for _ in 0..ROUNDS {
            if !self.receive() {
                break;
            }
        }
        self.expire();
        while let Some(handle) = self.ready.pop_front() {
            self.serve(handle);
        }
    }

    /// Waits for a datagram, a timer, or something else that the epoll watches.
    pub fn wait(&self) -> io::Result<()> {
        let timeout = self.timers.first().map(|(when, _)| when.saturating_duration_since(now()));
        self.epoll.wait(timeout, &mut Vec::new())
    }

    fn touch(&mut self, handle: ConnectionHandle) {
        if let Some(member) = self.members.get_mut(&handle)
            && !member.queued
        {
            member.queued = true;
            self.ready.push_back(handle);
        }
    }

    fn receive(&mut self) -> bool {
        let Some(mut buffers) = self.buffers.take() else { return false };
        // An error here is news of an earlier packet (ICMP).
        let count = self.socket.receive(&mut buffers).unwrap_or(0);
        for index in 0..count {
            let message = buffers.get(index);
            for data in message.data.chunks(message.segment) {
                self.datagrams_received += 1;
                self.receive_one(data, message.source, message.local, message.ecn);
            }
        }
        self.buffers = Some(buffers);
        count > 0
    }

    fn receive_one(&mut self, data: &[u8], source: SocketAddr, local: Option<IpAddr>, ecn: u8) {
        let now = now();
        let mut response = Vec::new();
        let ecn = EcnCodepoint::from_bits(ecn);
        match self.endpoint.handle(now, source, local, ecn, BytesMut::from(data), &mut response) {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                if let Some(connection) = self.connection(handle) {
                    connection.handle_event(event);
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) => {
                match self.endpoint.accept(incoming, now, &mut response, None) {
                    Ok((handle, connection)) => self.adopt(handle, connection, None),
                    Err(error) => drop(error.response.map(|transmit| self.send(&transmit, &response, None))),
                }
            }
            Some(DatagramEvent::Response(transmit)) => self.send(&transmit, &response, None),
            None => {}
        }
    }

    fn expire(&mut self) {
        let now = now();
        while let Some(&(when, number)) = self.timers.first() {
            if when > now {
                break;
            }
            self.timers.pop_first();
            let handle = ConnectionHandle(number);
            if let Some(member) = self.members.get_mut(&handle) {
                member.armed = None;
                member.connection.handle_timeout(now);
            }
            self.touch(handle);
        }
    }

    /// Sends what one connection has to send, and collects what it has to say.
    fn serve(&mut self, handle: ConnectionHandle) {
        let Some(mut member) = self.members.remove(&handle) else { return };
        member.queued = false;
        let mut output = std::mem::take(&mut self.output);
        loop {
            output.clear();
            let Some(transmit) = member.connection.poll_transmit(now(), BATCH, &mut output) else { break };
            self.send(&transmit, &output, member.source);
        }
        self.output = output;
        let mut drained = false;
        while let Some(event) = member.connection.poll_endpoint_events() {
            drained |= event.is_drained();
            if let Some(event) = self.endpoint.handle_event(handle, event) {
                member.connection.handle_event(event);
                if !member.queued {
                    member.queued = true;
                    self.ready.push_back(handle);
                }
            }
        }
        while let Some(event) = member.connection.poll() {
            self.events.push_back((handle, event));
        }
        let when = if drained { None } else { member.connection.poll_timeout() };
        if when != member.armed {
            if let Some(old) = member.armed {
                self.timers.remove(&(old, handle.0));
            }
            if let Some(when) = when {
                self.timers.insert((when, handle.0));
            }
            member.armed = when;
        }
        if !drained {
            self.members.insert(handle, member);
        }
    }

    fn send(&mut self, transmit: &Transmit, data: &[u8], source: Option<IpAddr>) {
        let contents = &data[..transmit.size];
        let segment = transmit.segment_size;
        let pin = source.or(transmit.src_ip).map(|source| Pin { interface: 0, source });
        let ecn = transmit.ecn.map_or(0, |codepoint| codepoint as u8);
        self.datagrams_sent += segment.map_or(1, |segment| contents.len().div_ceil(segment)) as u64;
        // What cannot be sent counts as lost.
        let _ = self.socket.send(&Outgoing { contents, destination: transmit.destination, segment, pin, ecn });
    }
}

#[expect(clippy::disallowed_methods, reason = "programs of the benchmarks run on the real clock")]
pub fn now() -> Instant {
    Instant::now()
}
