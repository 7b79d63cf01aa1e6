//! What the pump sends to and receives from: sockets, or a list in memory for virtual time.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd, RawFd},
};

use whimbrel_udp::{Epoll, Outgoing, Pin, ReceiveBuffers, Received, Socket};

/// Sockets that a client left behind still hear late packets; more than these are closed.
const KEPT: usize = 3;
const ENETUNREACH: i32 = 101;

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
    pub sent: Vec<VirtualDatagram>,
    /// What each is bound to, by its number: connected ones are.
    bound: Vec<Option<IpAddr>>,
    /// The addresses that there are to send from; before they are named, any.
    addresses: Option<Vec<Pin>>,
}

impl VirtualSockets {
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

/// Open sockets, newest last, each with a number of its own that epoll reports.
pub(crate) struct Sockets {
    pub epoll: Epoll,
    list: Vec<(u64, Socket)>,
    next: u64,
    buffers: Option<Box<ReceiveBuffers>>,
}

impl Sockets {
    pub fn new() -> io::Result<Self> {
        Ok(Self { epoll: Epoll::new()?, list: Vec::new(), next: 0, buffers: Some(Box::new(ReceiveBuffers::new())) })
    }

    pub fn add(&mut self, socket: Socket) -> io::Result<u64> {
        let number = self.next;
        self.epoll.add(socket.as_raw_fd(), number)?;
        self.next += 1;
        self.list.push((number, socket));
        Ok(number)
    }

    /// Closes what a client no longer needs.
    pub fn retire(&mut self) {
        while self.list.len() > KEPT + 1 {
            let (_, old) = self.list.remove(0);
            let _ = self.epoll.remove(old.as_raw_fd());
        }
    }

    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.list.iter().filter_map(|(_, socket)| socket.local_addr().ok()).collect()
    }

    pub fn descriptors(&self) -> Vec<RawFd> {
        self.list.iter().map(|(_, socket)| socket.as_raw_fd()).chain([self.epoll.as_raw_fd()]).collect()
    }

    fn find(&self, number: Option<u64>, destination: SocketAddr) -> Option<&Socket> {
        match number {
            Some(number) => self.list.iter().rev().find(|(other, _)| *other == number).map(|(_, socket)| socket),
            None => self
                .list
                .iter()
                .find(|(_, socket)| socket.local_addr().is_ok_and(|local| local.is_ipv4() == destination.is_ipv4()))
                .map(|(_, socket)| socket),
        }
    }

    pub fn local_addr(&self, number: Option<u64>, remote: SocketAddr) -> Option<SocketAddr> {
        self.find(number, remote)?.local_addr().ok()
    }

    pub fn max_segments(&self, number: Option<u64>, destination: SocketAddr) -> usize {
        self.find(number, destination).map_or(1, Socket::max_segments)
    }

    pub fn send(&self, number: Option<u64>, outgoing: &Outgoing<'_>) -> io::Result<()> {
        match self.find(number, outgoing.destination) {
            Some(socket) => socket.send(outgoing),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Reads one batch of every socket that has any, into `take`; `true` when there may be more.
    pub fn receive(&mut self, mut take: impl FnMut(u64, Received<'_>)) -> bool {
        let Some(mut buffers) = self.buffers.take() else { return false };
        let mut more = false;
        for (number, socket) in &self.list {
            // An error here is news of an earlier packet (ICMP), and shows again when sending.
            let Ok(count) = socket.receive(&mut buffers) else { continue };
            more |= count > 0;
            for index in 0..count {
                take(*number, buffers.get(index));
            }
        }
        self.buffers = Some(buffers);
        more
    }
}

/// The unspecified address of the same family, any port.
pub(crate) fn any_address(like: SocketAddr) -> SocketAddr {
    let ip = if like.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    SocketAddr::new(ip, 0)
}
