//! What the pump sends to and receives from: sockets, or a list in memory for virtual time.

use std::{
    collections::HashMap,
    io, mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    os::fd::{AsRawFd, RawFd},
    time::Duration,
};

use rustc_hash::FxHashMap;
use whimbrel_udp::{BATCH, Epoll, Outgoing, Pin, ReceiveBuffers, Received, Socket, descriptor_limit};

/// Sockets that a client left behind still hear late packets; more than these are closed.
const KEPT: usize = 3;
/// So many sockets are simply tried; of more, epoll says which have something.
const FEW: usize = 2;

const EMFILE: i32 = 24;
const ENETUNREACH: i32 = 101;
const ECONNREFUSED: i32 = 111;
const EHOSTUNREACH: i32 = 113;

/// A datagram on its way in a simulated network. Of its `pin`, interface 0 means that the kernel chooses one.
#[derive(Clone, Debug)]
pub struct VirtualDatagram {
    pub data: Vec<u8>,
    pub pin: Option<Pin>,
    pub destination: SocketAddr,
    pub socket: u64,
}

pub(crate) enum Wire {
    Sockets(Sockets),
    Virtual(VirtualSockets),
}

/// A list in memory where sockets would be.
#[derive(Default)]
pub(crate) struct VirtualSockets {
    /// Of a server: what it was told to listen on.
    pub names: Vec<SocketAddr>,
    pub sent: Vec<VirtualDatagram>,
    /// What each is bound to, by its number: connected ones are.
    bound: Vec<Option<IpAddr>>,
    /// The addresses that there are to send from; before they are named, any.
    addresses: Option<Vec<Pin>>,
}

impl VirtualSockets {
    pub fn named(names: Vec<SocketAddr>) -> Self {
        Self { names, ..Self::default() }
    }

    pub fn add(&mut self, bound: Option<IpAddr>) -> u64 {
        self.bound.push(bound);
        self.bound.len() as u64 - 1
    }

    pub fn set_addresses(&mut self, addresses: Vec<Pin>) {
        self.addresses = Some(addresses);
    }

    pub fn bound(&self, socket: u64) -> Option<IpAddr> {
        self.bound.get(usize::try_from(socket).ok()?).copied().flatten()
    }

    /// Sends, or refuses as a kernel does that does not have the address (any longer).
    pub fn send(&mut self, socket: Option<u64>, outgoing: &Outgoing<'_>) -> io::Result<()> {
        let socket = socket.unwrap_or(0);
        let pin = outgoing.pin.or_else(|| self.bound(socket).map(|source| Pin { interface: 0, source }));
        if self.addresses.as_ref().is_some_and(|all| !all.iter().any(|&address| serves(address, pin))) {
            return Err(io::Error::from_raw_os_error(ENETUNREACH));
        }
        let segment = outgoing.segment.unwrap_or(outgoing.contents.len()).max(1);
        let datagrams = outgoing.contents.chunks(segment).map(|data| VirtualDatagram {
            data: data.to_vec(),
            pin,
            destination: outgoing.destination,
            socket,
        });
        self.sent.extend(datagrams);
        Ok(())
    }
}

fn serves(address: Pin, wanted: Option<Pin>) -> bool {
    wanted.is_none_or(|pin| address.source == pin.source && (pin.interface == 0 || address.interface == pin.interface))
}

pub(crate) fn virtual_port(socket: u64) -> u16 {
    40_000 + (socket % 20_000) as u16
}

/// Open sockets, each with a number of its own, rising, that epoll reports.
pub(crate) struct Sockets {
    pub epoll: Epoll,
    open: FxHashMap<u64, Entry>,
    /// Those of one client each, by their two addresses. Several connections of one client share one.
    accepted: HashMap<(SocketAddr, SocketAddr), u64>,
    next: u64,
    ready: Vec<u64>,
    buffers: Option<Box<ReceiveBuffers>>,
}

struct Entry {
    socket: Socket,
    /// Of a server's socket for one client.
    accepted: Option<Accepted>,
}

struct Accepted {
    /// The socket that newcomers to the same address come by.
    home: u64,
    local: SocketAddr,
    peer: SocketAddr,
    users: usize,
}

impl Sockets {
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: Epoll::new()?,
            open: FxHashMap::default(),
            accepted: HashMap::new(),
            next: 0,
            ready: Vec::new(),
            buffers: Some(Box::new(ReceiveBuffers::new())),
        })
    }

    pub fn add(&mut self, socket: Socket) -> io::Result<u64> {
        self.insert(Entry { socket, accepted: None })
    }

    fn insert(&mut self, entry: Entry) -> io::Result<u64> {
        let number = self.next;
        self.epoll.add(entry.socket.as_raw_fd(), number)?;
        self.next += 1;
        self.open.insert(number, entry);
        Ok(number)
    }

    /// A socket for what goes to and comes from one client of the server's socket `home`, who reached us on `local`.
    ///
    /// An error says that there is none to be had: EMFILE also when the application would be left with too few
    /// descriptors. Give it back by `release`.
    pub fn accept(&mut self, home: u64, local: IpAddr, peer: SocketAddr) -> io::Result<u64> {
        let port = self.open.get(&home).ok_or(io::ErrorKind::NotConnected)?.socket.local_addr()?.port();
        let local = like(peer, local, port);
        if let Some(&number) = self.accepted.get(&(local, peer))
            && let Some(Entry { accepted: Some(accepted), .. }) = self.open.get_mut(&number)
        {
            accepted.users += 1;
            return Ok(number);
        }
        let socket = Socket::accepted(local, peer)?;
        // The kernel gives the lowest number that is free.
        if u64::try_from(socket.as_raw_fd()).is_ok_and(|number| number >= ceiling(descriptor_limit())) {
            return Err(io::Error::from_raw_os_error(EMFILE));
        }
        let number = self.insert(Entry { socket, accepted: Some(Accepted { home, local, peer, users: 1 }) })?;
        self.accepted.insert((local, peer), number);
        Ok(number)
    }

    /// Gives back what `accept` gave. With its last user the socket is closed.
    pub fn release(&mut self, number: u64) {
        let Some(Entry { accepted: Some(accepted), .. }) = self.open.get_mut(&number) else { return };
        accepted.users -= 1;
        if accepted.users == 0 {
            let addresses = (accepted.local, accepted.peer);
            self.accepted.remove(&addresses);
            self.close(number);
        }
    }

    /// How many `accept` has made and `release` not closed.
    pub fn accepted(&self) -> usize {
        self.accepted.len()
    }

    /// Closes what a client no longer needs.
    pub fn retire(&mut self) {
        while self.open.len() > KEPT + 1
            && let Some(&oldest) = self.open.keys().min()
        {
            self.close(oldest);
        }
    }

    fn close(&mut self, number: u64) {
        if let Some(entry) = self.open.remove(&number) {
            let _ = self.epoll.remove(entry.socket.as_raw_fd());
        }
    }

    pub fn addresses(&self) -> Vec<SocketAddr> {
        let mut numbers: Vec<_> = self.open.iter().filter(|(_, entry)| entry.accepted.is_none()).collect();
        numbers.sort_by_key(|(number, _)| **number);
        numbers.into_iter().filter_map(|(_, entry)| entry.socket.local_addr().ok()).collect()
    }

    pub fn descriptors(&self) -> Vec<RawFd> {
        self.open.values().map(|entry| entry.socket.as_raw_fd()).chain([self.epoll.as_raw_fd()]).collect()
    }

    /// The one that newcomers come by, if this one is for one client only.
    pub fn home(&self, number: u64) -> u64 {
        match self.open.get(&number) {
            Some(Entry { accepted: Some(accepted), .. }) => accepted.home,
            _ => number,
        }
    }

    /// What to send by: a socket of one client cannot reach another address, where that client may be by now, or have
    /// been before.
    pub fn reaching(&self, number: u64, destination: SocketAddr) -> u64 {
        match self.open.get(&number) {
            Some(Entry { accepted: Some(accepted), .. }) if accepted.peer != destination => accepted.home,
            _ => number,
        }
    }

    pub fn local_addr(&self, number: u64) -> Option<SocketAddr> {
        self.open.get(&number)?.socket.local_addr().ok()
    }

    pub fn max_segments(&self, number: u64) -> usize {
        self.open.get(&number).map_or(1, |entry| entry.socket.max_segments())
    }

    pub fn send(&self, number: u64, outgoing: &Outgoing<'_>) -> io::Result<()> {
        let entry = self.open.get(&number).ok_or(io::ErrorKind::NotConnected)?;
        match entry.socket.send(outgoing) {
            // What the network said about an earlier datagram: this one has not been tried.
            Err(error) if entry.accepted.is_some() && is_answer(&error) => entry.socket.send(outgoing),
            result => result,
        }
    }

    /// Reads one batch of every socket that has any, into `take`; returns whether one was full, so that there may be more.
    pub fn receive(&mut self, mut take: impl FnMut(u64, Received<'_>)) -> bool {
        let Some(mut buffers) = self.buffers.take() else { return false };
        let mut ready = mem::take(&mut self.ready);
        if self.open.len() <= FEW {
            ready.clear();
            ready.extend(self.open.keys());
        } else if self.epoll.wait(Some(Duration::ZERO), &mut ready).is_err() {
            ready.clear();
        }
        let mut full = false;
        for &number in &ready {
            let Some(entry) = self.open.get(&number) else { continue };
            // An error here is news of an earlier packet (ICMP): by taking it, the socket is quiet again.
            let Ok(count) = entry.socket.receive(&mut buffers) else { continue };
            full |= count == BATCH;
            for index in 0..count {
                take(number, buffers.get(index));
            }
        }
        (self.buffers, self.ready) = (Some(buffers), ready);
        full
    }
}

/// Numbers of descriptors from which on the rest is the application's: an eighth of what the process may have.
fn ceiling(limit: u64) -> u64 {
    const MOST: u64 = 1024;
    limit - (limit / 8).min(MOST)
}

/// An ICMP message about a datagram that left before. On a server it ends nothing: the client may have moved, and come
/// back from elsewhere.
fn is_answer(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(ECONNREFUSED | EHOSTUNREACH | ENETUNREACH))
}

/// An address of ours as a peer at `peer` reaches it: a link-local one means nothing without its interface (RFC 4007 §6).
fn like(peer: SocketAddr, local: IpAddr, port: u16) -> SocketAddr {
    match (local, peer) {
        (IpAddr::V6(ip), SocketAddr::V6(peer)) if ip.is_unicast_link_local() => {
            SocketAddrV6::new(ip, port, 0, peer.scope_id()).into()
        }
        _ => SocketAddr::new(local, port),
    }
}

/// The unspecified address of the same family, any port.
pub(crate) fn any_address(like: SocketAddr) -> SocketAddr {
    let ip = if like.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    SocketAddr::new(ip, 0)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    fn server() -> (Sockets, u64) {
        let mut sockets = Sockets::new().unwrap();
        let socket = Socket::wildcard("127.0.0.1:0".parse().unwrap()).unwrap();
        socket.share_port().unwrap();
        let home = sockets.add(socket).unwrap();
        (sockets, home)
    }

    fn client() -> (UdpSocket, SocketAddr) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        (socket, address)
    }

    const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[test]
    fn connections_of_one_client_share_a_socket_until_the_last_has_gone() {
        let (mut sockets, home) = server();
        let (_client, peer) = client();
        let own = sockets.accept(home, LOCAL, peer).unwrap();
        assert_eq!(sockets.accept(home, LOCAL, peer).unwrap(), own);
        assert_eq!((sockets.accepted(), sockets.descriptors().len()), (1, 3));
        sockets.release(own);
        assert_eq!(sockets.accepted(), 1);
        sockets.release(own);
        assert_eq!((sockets.accepted(), sockets.descriptors().len()), (0, 2));
        assert_eq!(sockets.addresses().len(), 1);
    }

    #[test]
    fn what_goes_elsewhere_goes_by_the_socket_for_newcomers() {
        let (mut sockets, home) = server();
        let ((_here, peer), (_there, moved)) = (client(), client());
        let own = sockets.accept(home, LOCAL, peer).unwrap();
        assert_eq!(sockets.reaching(own, peer), own);
        assert_eq!(sockets.reaching(own, moved), home);
        assert_eq!(sockets.reaching(home, moved), home);
        assert_eq!((sockets.home(own), sockets.home(home)), (home, home));
    }

    #[test]
    fn only_sockets_that_have_something_are_read() {
        let (mut sockets, home) = server();
        let clients: Vec<_> = (0..5).map(|_| client()).collect();
        let own: Vec<_> = clients.iter().map(|(_, peer)| sockets.accept(home, LOCAL, *peer).unwrap()).collect();
        let address = sockets.local_addr(home).unwrap();
        clients[3].0.send_to(b"hello", address).unwrap();
        let mut came = Vec::new();
        assert!(!sockets.receive(|number, received| came.push((number, received.data.to_vec()))));
        assert_eq!(came, [(own[3], b"hello".to_vec())]);
        assert!(!sockets.receive(|_, _| unreachable!()));
    }

    #[test]
    fn a_client_whose_port_is_closed_is_sent_to_all_the_same() {
        let (mut sockets, home) = server();
        let (gone, peer) = client();
        let own = sockets.accept(home, LOCAL, peer).unwrap();
        drop(gone);
        let outgoing = Outgoing { contents: b"late", destination: peer, segment: None, pin: None, ecn: 0 };
        for _ in 0..5 {
            sockets.send(own, &outgoing).unwrap();
        }
        assert!(!sockets.receive(|_, _| unreachable!()));
    }

    #[test]
    fn an_eighth_of_the_descriptors_is_the_applications() {
        assert_eq!(ceiling(64), 56);
        assert_eq!(ceiling(1024), 896);
        assert_eq!(ceiling(1 << 20), (1 << 20) - 1024);
    }
}
