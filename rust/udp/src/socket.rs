//! UDP sockets: three ways to open one, one way to send, one way to receive.

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::address::Address;
use crate::control::{Control, Pin};
use crate::receive::{BATCH, MESSAGE, ReceiveBuffers};

/// What we ask the kernel to queue each way, in bytes: some 50 ms at 600 Mbit/s. Unprivileged, net.core.rmem_max and
/// wmem_max cap it, at 208 KiB by default.
const QUEUE: libc::c_int = 4 << 20;

/// Datagrams that the kernel cuts out of one send: UDP_MAX_SEGMENTS up to Linux 6.8, and half of it since.
const MAX_SEGMENTS: usize = 64;

/// Since Linux 5.1; libc does not name it. Unprivileged, as SO_BINDTODEVICE, since 5.7, and untouched by a renaming.
const SO_BINDTOIFINDEX: libc::c_int = 62;

/// What to send: a datagram, or several of one size one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// The payload; at most 65,507 bytes and 64 segments.
    pub contents: &'a [u8],
    /// To whom. A connected socket knows, and ignores this.
    pub destination: SocketAddr,
    /// Bytes of each datagram in `contents`, the last of which may be shorter (GSO); `None` when there is one.
    pub segment: Option<usize>,
    /// Which way; by default the kernel's choice. A connected socket ignores it. On an IPv6 socket that is not bound to
    /// that interface (see [`Socket::on_interface`]), the interface is binding, and the kernel picks its own preference
    /// among the addresses there; on a wildcard one the source is binding, and the interface is a wish.
    pub pin: Option<Pin>,
    /// The ECN mark to set (RFC 3168 §5), 0 to 3.
    pub ecn: u8,
}

/// A UDP socket of one address family. It never blocks and never sends fragments.
///
/// Every error that the kernel reports about a datagram is about that datagram: the socket stays usable.
#[derive(Debug)]
pub struct Socket {
    inner: UdpSocket,
    v6: bool,
    role: Role,
    /// The interface that all goes by, if it is bound to one; else 0.
    interface: u32,
    /// Whether the kernel cuts what we send (GSO). Cleared for good by the first refusal.
    segmentation: AtomicBool,
}

/// One instruction of classic BPF: code, where to jump if true and if false, operand.
pub type Instruction = (u16, u8, u8, u32);

/// How a socket was opened, which decides what becomes of a [`Pin`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Unconnected,
    Wildcard,
    Connected,
}

impl Socket {
    /// Opens a socket that sends anywhere, each datagram by the way that the kernel chooses then, or that its
    /// [`Pin`] names. To pin IPv6, bind to the unspecified address.
    pub fn unconnected(bind: SocketAddr) -> io::Result<Self> {
        Self::bound(bind, Role::Unconnected)
    }

    /// Opens a socket for datagrams that are all pinned to one interface.
    ///
    /// An IPv6 one is bound to that interface, so that pins are obeyed in full: without, an address that the kernel no
    /// longer prefers, such as a privacy address of yesterday (RFC 8981 §3.4), would not stay in use for what began with
    /// it. Where that is refused, the interface alone is obeyed.
    pub fn on_interface(bind: SocketAddr, interface: u32) -> io::Result<Self> {
        let mut socket = Self::unconnected(bind)?;
        let index = libc::c_int::try_from(interface).unwrap_or(0);
        if bind.is_ipv6() && index > 0 {
            match socket.set(libc::SOL_SOCKET, SO_BINDTOIFINDEX, index) {
                Ok(()) => socket.interface = interface,
                Err(error) => log::debug!("not bound to interface {interface}: {error}"),
            }
        }
        Ok(socket)
    }

    /// Opens a socket for a server, on all addresses of a family or on one.
    ///
    /// A port in use is an error: two servers that share one by SO_REUSEADDR would steal each other's datagrams.
    pub fn wildcard(bind: SocketAddr) -> io::Result<Self> {
        Self::bound(bind, Role::Wildcard)
    }

    /// Opens a socket whose source address is fixed: that of `pin`, or the one that the kernel prefers now.
    ///
    /// It is not tied to the interface of `pin`, since it is there to behave as a connected socket does everywhere.
    pub fn connected(peer: SocketAddr, pin: Option<Pin>) -> io::Result<Self> {
        let socket = Self::open(peer.is_ipv6(), Role::Connected)?;
        if let Some(pin) = pin {
            socket.bind(source_of(pin))?;
        }
        socket.inner.connect(peer)?;
        Ok(socket)
    }

    /// Lets sockets of [`accepted`](Self::accepted) be bound to the port of this one, which must be a server's.
    ///
    /// By SO_REUSEPORT rather than SO_REUSEADDR, which would let any user's program bind the port as well, and take the
    /// newcomers: here the kernel compares user IDs. It is also the cheaper one. With 5000 connected sockets, binding
    /// and connecting another takes 8 us against 40, since the search for conflicts ends at the first socket of the
    /// group. What the group is feared for, that choosing a member passes over connected ones one by one, is not what
    /// counts: established 4-tuples are found by their hash (Linux 6.13 and later), 4.5 us for sending and the look-up,
    /// with 1000 sockets or 5000; and a newcomer's packet passes over them all in either way, because the kernel keeps
    /// them in one chain by local address and port: 35 us (Linux 6.18).
    ///
    /// Only after binding: so that the port was free, or [`wildcard`](Self::wildcard) failed.
    pub fn share_port(&self) -> io::Result<()> {
        self.set(libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)
    }

    /// Opens sockets for several processes that share an address and port, one for each, in an order that stays as long
    /// as none of them is closed, and says which port it is. [`steer`] says which of them gets what.
    ///
    /// As with [`wildcard`](Self::wildcard), a port in use is an error, even if others would share it.
    pub fn group(bind: SocketAddr, count: usize) -> io::Result<(SocketAddr, Vec<OwnedFd>)> {
        let first = Self::wildcard(bind)?;
        first.share_port()?;
        let address = first.local_addr()?;
        let mut group = vec![OwnedFd::from(first.inner)];
        for _ in 1..count {
            let next = Self::open(bind.is_ipv6(), Role::Wildcard)?;
            next.share_port()?;
            next.bind(address)?;
            group.push(next.inner.into());
        }
        Ok((address, group))
    }

    /// A socket of [`group`](Self::group) that another process opened, or had before; the descriptor remains the
    /// caller's.
    pub fn adopted(descriptor: RawFd) -> io::Result<Self> {
        if descriptor < 0 {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        // SAFETY: not -1; used for one call, which fails on a number that is no descriptor.
        let inner = UdpSocket::from(unsafe { BorrowedFd::borrow_raw(descriptor) }.try_clone_to_owned()?);
        let v6 = inner.local_addr()?.is_ipv6();
        let socket = Self { inner, v6, role: Role::Wildcard, interface: 0, segmentation: AtomicBool::new(false) };
        let cuts = socket.set(libc::SOL_UDP, libc::UDP_SEGMENT, 0).is_ok();
        socket.segmentation.store(cuts, Ordering::Relaxed);
        Ok(socket)
    }

    /// Opens a socket for one client of a server, on an address and port that the server listens on already.
    ///
    /// From binding to connecting it gets whatever comes to that address: whose datagram one is, its source does not
    /// say.
    pub fn accepted(local: SocketAddr, peer: SocketAddr) -> io::Result<Self> {
        let socket = Self::open(peer.is_ipv6(), Role::Connected)?;
        socket.share_port()?;
        socket.bind(local)?;
        socket.inner.connect(peer)?;
        Ok(socket)
    }

    /// The address that the socket is bound to; of a wildcard socket, the port is what is known.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    /// How many segments one [`send`](Self::send) should carry: 1 when the kernel does not cut them.
    pub fn max_segments(&self) -> usize {
        if self.segmentation.load(Ordering::Relaxed) { MAX_SEGMENTS } else { 1 }
    }

    /// Sends, whole or not at all; by segments only until it is known that the kernel does not cut them.
    ///
    /// In that one case an error may come after the first segments have left. Sending everything again is harmless:
    /// QUIC discards duplicates (RFC 9000 §12.3).
    ///
    /// An error says that this did not leave: WouldBlock and ENOBUFS, no room; EMSGSIZE, larger than the interface
    /// takes; ENETUNREACH, no way there; EINVAL or ENETUNREACH, the address to send from is not ours (any longer);
    /// EPERM, a filter; on a connected socket also the answer to something sent before, such as ECONNREFUSED.
    pub fn send(&self, outgoing: &Outgoing<'_>) -> io::Result<()> {
        let connected = self.role == Role::Connected;
        let name = if connected { None } else { Some(Address::from(outgoing.destination)) };
        let mut control = Control::EMPTY;
        if let Some(pin) = outgoing.pin.filter(|_| !connected) {
            if pin.source.is_ipv6() != self.v6 {
                // The kernel skips control messages of the other family: the datagram would go any way.
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "a pin of another address family"));
            }
            control.push_pin(self.enforceable(pin, outgoing.destination));
        }
        if outgoing.ecn != 0 {
            control.push_ecn(outgoing.ecn, self.v6);
        }
        match outgoing.segment {
            Some(segment) if outgoing.contents.len() > segment => {
                self.send_segments(outgoing.contents, segment, name.as_ref(), &control)
            }
            _ => self.send_message(outgoing.contents, name.as_ref(), &control),
        }
    }

    /// Takes in what has arrived, up to [`BATCH`] messages, in one system call; returns how many are in `buffers`.
    ///
    /// WouldBlock says that there was nothing; 0, that there was something but of no use: call again. Any other error
    /// is about a datagram sent before (ECONNREFUSED, EHOSTUNREACH, on connected sockets) and leaves the socket usable.
    pub fn receive(&self, buffers: &mut ReceiveBuffers) -> io::Result<usize> {
        buffers.clear();
        // SAFETY: for these plain C structures all zeroes is a value.
        let mut headers: [libc::mmsghdr; BATCH] = unsafe { mem::zeroed() };
        // SAFETY: as above.
        let mut vectors: [libc::iovec; BATCH] = unsafe { mem::zeroed() };
        let slots = buffers.data.chunks_exact_mut(MESSAGE).zip(&mut buffers.sources).zip(&mut buffers.controls);
        for ((header, vector), ((data, source), control)) in headers.iter_mut().zip(&mut vectors).zip(slots) {
            vector.iov_base = data.as_mut_ptr().cast();
            vector.iov_len = data.len();
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_name = source.as_mut_ptr().cast();
            header.msg_hdr.msg_namelen = Address::CAPACITY as libc::socklen_t;
            header.msg_hdr.msg_control = control.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = Control::CAPACITY as _;
        }
        let count = retry(|| {
            // SAFETY: each header points at memory of `vectors` and `buffers` that is as long as it says, is used for
            // nothing else, and outlives the call; there is no time-out to point at.
            let count = unsafe {
                libc::recvmmsg(self.as_raw_fd(), headers.as_mut_ptr(), BATCH as libc::c_uint, 0, ptr::null_mut())
            };
            count as isize
        })?;
        for (slot, header) in headers[..count].iter().enumerate() {
            buffers.controls[slot].filled(header.msg_hdr.msg_controllen as _); // Its type differs by C library.
            buffers.note(slot, header.msg_len as usize, header.msg_hdr.msg_flags);
        }
        Ok(buffers.len())
    }

    /// What to ask the kernel so that it keeps to the pin.
    ///
    /// IPv4 obeys interface and source together. IPv6 takes the interface for a mere wish once it is told a source:
    /// with two default routes the packet leaves by the preferred one, whatever the pin says (Linux 6.18; link-local
    /// destinations excepted). Without a source it obeys, and takes the address that it prefers on that interface, the
    /// same that it names when asked for a route. Of a socket that is bound to the interface it obeys both. A server has
    /// it the other way round: its answer must come from the address that was asked, by whichever interface.
    fn enforceable(&self, pin: Pin, destination: SocketAddr) -> Pin {
        match destination.ip() {
            IpAddr::V4(_) => pin,
            IpAddr::V6(to) if to.is_unicast_link_local() => pin,
            IpAddr::V6(_) if self.role != Role::Unconnected || pin.interface == self.interface => pin,
            IpAddr::V6(_) => Pin { source: Ipv6Addr::UNSPECIFIED.into(), ..pin },
        }
    }

    fn send_segments(
        &self,
        contents: &[u8],
        segment: usize,
        name: Option<&Address>,
        control: &Control,
    ) -> io::Result<()> {
        let size = u16::try_from(segment).ok().filter(|&size| size > 0);
        let Some(size) = size.filter(|_| contents.len().div_ceil(segment) <= MAX_SEGMENTS) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "more than 64 segments, or of no possible size"));
        };
        let mut refused = false;
        if self.segmentation.load(Ordering::Relaxed) {
            let mut cut = *control;
            cut.push_segment(size);
            match self.send_message(contents, name, &cut) {
                // EIO: the interface cannot, or the way goes through IPsec. EINVAL has many reasons, among them a
                // source address that is gone and, before Linux 6.14, a segment that is too large.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL | libc::EOPNOTSUPP)) => {
                    refused = true;
                }
                result => return result,
            }
        }
        for datagram in contents.chunks(segment) {
            self.send_message(datagram, name, control)?;
            // It was the cutting, then, and not the datagram.
            if mem::take(&mut refused) {
                self.segmentation.store(false, Ordering::Relaxed);
                log::debug!("the kernel does not cut datagrams here: sending them one by one");
            }
        }
        Ok(())
    }

    fn send_message(&self, contents: &[u8], name: Option<&Address>, control: &Control) -> io::Result<()> {
        let mut vector = libc::iovec { iov_base: contents.as_ptr().cast_mut().cast(), iov_len: contents.len() };
        // SAFETY: for this plain C structure all zeroes is a value.
        let mut header: libc::msghdr = unsafe { mem::zeroed() };
        header.msg_iov = &mut vector;
        header.msg_iovlen = 1;
        if let Some(name) = name {
            header.msg_name = name.as_ptr().cast_mut().cast();
            header.msg_namelen = name.length() as libc::socklen_t;
        }
        if control.length() > 0 {
            header.msg_control = control.as_ptr().cast_mut().cast();
            header.msg_controllen = control.length() as _;
        }
        // SAFETY: the header points at memory that is as long as it says and outlives the call; sendmsg only reads it.
        retry(|| unsafe { libc::sendmsg(self.as_raw_fd(), &header, 0) })?;
        Ok(())
    }

    fn bound(address: SocketAddr, role: Role) -> io::Result<Self> {
        let socket = Self::open(address.is_ipv6(), role)?;
        socket.bind(address)?;
        Ok(socket)
    }

    fn open(v6: bool, role: Role) -> io::Result<Self> {
        let family = if v6 { libc::AF_INET6 } else { libc::AF_INET };
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: no pointers.
        let fd = unsafe { libc::socket(family, kind, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
        let inner = UdpSocket::from(unsafe { OwnedFd::from_raw_fd(fd) });
        let socket = Self { inner, v6, role, interface: 0, segmentation: AtomicBool::new(false) };
        socket.configure()?;
        Ok(socket)
    }

    fn configure(&self) -> io::Result<()> {
        // Datagrams that are too large come back as EMSGSIZE, and what routers say about sizes is ignored: QUIC finds
        // out by itself, and anyone can forge an ICMP message (RFC 9000 §14.2.1).
        if self.v6 {
            let level = libc::IPPROTO_IPV6;
            self.set(level, libc::IPV6_V6ONLY, 1)?;
            self.set(level, libc::IPV6_RECVPKTINFO, 1)?;
            self.set(level, libc::IPV6_RECVTCLASS, 1)?;
            self.set(level, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)?;
        } else {
            let level = libc::IPPROTO_IP;
            self.set(level, libc::IP_PKTINFO, 1)?;
            self.set(level, libc::IP_RECVTOS, 1)?;
            self.set(level, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)?;
        }
        for (forced, capped) in [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)] {
            // The first needs CAP_NET_ADMIN; a queue of the default size is slower, not wrong.
            let enlarged =
                self.set(libc::SOL_SOCKET, forced, QUEUE).or_else(|_| self.set(libc::SOL_SOCKET, capped, QUEUE));
            enlarged.unwrap_or_else(|error| log::debug!("socket queue of the default size: {error}"));
        }
        if let Err(error) = self.set(libc::SOL_UDP, libc::UDP_GRO, 1) {
            log::debug!("the kernel does not join datagrams: {error}");
        }
        // 0 asks for nothing: it is the control message of each send that cuts. The answer tells if this kernel can.
        let cuts = self.set(libc::SOL_UDP, libc::UDP_SEGMENT, 0).is_ok();
        self.segmentation.store(cuts, Ordering::Relaxed);
        Ok(())
    }

    fn set(&self, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
        let length = size_of::<libc::c_int>() as libc::socklen_t;
        let value = ptr::from_ref(&value).cast();
        // SAFETY: the value is an int, as long as it says, and outlives the call.
        let result = unsafe { libc::setsockopt(self.as_raw_fd(), level, option, value, length) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn bind(&self, address: SocketAddr) -> io::Result<()> {
        let name = Address::from(address);
        let length = name.length() as libc::socklen_t;
        // SAFETY: the address has the layout and the length of its family, and outlives the call.
        let result = unsafe { libc::bind(self.as_raw_fd(), name.as_ptr().cast(), length) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.inner.as_raw_fd()
    }
}

/// Has a classic BPF program choose the socket of a [`group`](Socket::group), by its place in it, for each datagram.
///
/// The program sees the UDP payload. `socket` is any of the group; what was there before is replaced at once. Any user may
/// do this; the kernel refuses a program that could do harm.
pub fn steer(socket: RawFd, program: &[Instruction]) -> io::Result<()> {
    let mut filter: Vec<_> = program.iter().map(|&(code, jt, jf, k)| libc::sock_filter { code, jt, jf, k }).collect();
    let len = filter.len().try_into().map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let program = libc::sock_fprog { len, filter: filter.as_mut_ptr() };
    let length = size_of_val(&program) as libc::socklen_t;
    let value = ptr::from_ref(&program).cast();
    // SAFETY: the program is as long as it says; the kernel reads it, and copies what it keeps.
    let result = unsafe { libc::setsockopt(socket, libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_CBPF, value, length) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The address to bind to; a link-local one means nothing without its interface (RFC 4007 §6).
fn source_of(pin: Pin) -> SocketAddr {
    match pin.source {
        IpAddr::V6(source) if source.is_unicast_link_local() => SocketAddrV6::new(source, 0, 0, pin.interface).into(),
        source => SocketAddr::new(source, 0),
    }
}

/// Calls until no signal comes in between; a negative result is an error.
fn retry(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        if let Ok(result) = usize::try_from(call()) {
            return Ok(result);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
