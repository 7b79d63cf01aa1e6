//! Room for what arrives, allocated once.

use std::net::{IpAddr, SocketAddr};

use crate::address::Address;
use crate::control::Control;

/// Messages taken by one system call. Each may hold 64 KiB of joined datagrams.
pub const BATCH: usize = 16;

/// The largest UDP payload there is, joined by GRO or not, fits in.
pub(crate) const MESSAGE: usize = 65_536;

/// One message from a socket: a datagram, or several of one size that the kernel joined (GRO).
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// The payload; never empty.
    pub data: &'a [u8],
    /// Bytes of each datagram in `data`, the last of which may be shorter; `data.len()` when there is one.
    pub segment: usize,
    /// Who sent it.
    pub source: SocketAddr,
    /// The address of ours that it was sent to.
    pub local: Option<IpAddr>,
    /// Index of the interface that it came in by; 0 when not known.
    pub interface: u32,
    /// The ECN mark that it arrived with (RFC 3168 §5).
    pub ecn: u8,
}

/// Holds what one call of [`Socket::receive`](crate::Socket::receive) took in, until the next.
pub struct ReceiveBuffers {
    pub(crate) data: Box<[u8]>,
    pub(crate) sources: [Address; BATCH],
    pub(crate) controls: [Control; BATCH],
    messages: Vec<Message>,
}

/// Where a message lies and what is known of it.
#[derive(Clone, Copy)]
struct Message {
    slot: usize,
    length: usize,
    segment: usize,
    source: SocketAddr,
    local: Option<IpAddr>,
    interface: u32,
    ecn: u8,
}

impl ReceiveBuffers {
    /// Allocates 1 MiB. The kernel gives memory only to the part that gets used.
    pub fn new() -> Self {
        Self {
            data: vec![0; BATCH * MESSAGE].into_boxed_slice(),
            sources: [Address::EMPTY; BATCH],
            controls: [Control::EMPTY; BATCH],
            messages: Vec::with_capacity(BATCH),
        }
    }

    /// How many messages the last call took in.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// One message.
    ///
    /// # Panics
    ///
    /// When `index` is not below [`len`](Self::len).
    pub fn get(&self, index: usize) -> Received<'_> {
        self.view(&self.messages[index])
    }

    /// The messages, in the order of arrival.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Received<'_>> {
        self.messages.iter().map(|message| self.view(message))
    }

    pub(crate) fn clear(&mut self) {
        self.messages.clear();
    }

    /// Takes note of the message that the kernel left in a slot.
    pub(crate) fn note(&mut self, slot: usize, length: usize, flags: libc::c_int) {
        let Some(source) = self.sources[slot].decode() else { return };
        // Cut control messages may have hidden that the payload is several datagrams, or where it came to.
        if flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
            log::warn!("dropped a message from {source}: cut short, flags {flags:#x}");
            return;
        }
        // Anyone can send an empty datagram. It says nothing, and whoever divides by its size would fall over it.
        if length == 0 {
            return;
        }
        let facts = self.controls[slot].facts();
        let segment = if facts.segment == 0 { length } else { facts.segment.min(length) };
        let (local, interface, ecn) = (facts.local, facts.interface, facts.ecn);
        self.messages.push(Message { slot, length, segment, source, local, interface, ecn });
    }

    fn view(&self, message: &Message) -> Received<'_> {
        let start = message.slot * MESSAGE;
        Received {
            data: &self.data[start..start + message.length],
            segment: message.segment,
            source: message.source,
            local: message.local,
            interface: message.interface,
            ecn: message.ecn,
        }
    }
}

impl Default for ReceiveBuffers {
    fn default() -> Self {
        Self::new()
    }
}
