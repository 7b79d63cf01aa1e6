//! Control messages (cmsg): what travels beside a datagram between us and the kernel.
//!
//! The format is the kernel's, the same under every C library: a header of one `size_t` (length, header included) and
//! two `int`s (level, type), the value, then padding to a multiple of a `long`. Reading and writing it as bytes is
//! short and needs no `unsafe`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const WORD: usize = size_of::<usize>();
const HEADER: usize = WORD + 8;
/// Received at most: packet information (20 bytes), traffic class, GRO size, each with header and padding; with room
/// to spare, because a cut list (MSG_CTRUNC) would cost the datagram.
const CAPACITY: usize = 160;

/// Leave by this interface, from this source address.
///
/// The source alone would not do: the packet would leave by the interface that the routing table prefers, carrying the
/// wrong address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pin {
    /// Index of the interface.
    pub interface: u32,
    /// An address of that interface.
    pub source: IpAddr,
}

/// A list of control messages.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(crate) struct Control {
    bytes: [u8; CAPACITY],
    length: usize,
}

/// What the kernel said about a datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) local: Option<IpAddr>,
    pub(crate) interface: u32,
    pub(crate) ecn: u8,
    /// Bytes of each of the datagrams that the kernel joined (GRO); 0 when it did not.
    pub(crate) segment: usize,
}

impl Control {
    pub(crate) const CAPACITY: usize = CAPACITY;

    pub(crate) const EMPTY: Self = Self { bytes: [0; CAPACITY], length: 0 };

    pub(crate) fn length(&self) -> usize {
        self.length
    }

    pub(crate) fn as_ptr(&self) -> *const u8 {
        self.bytes.as_ptr()
    }

    pub(crate) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.bytes.as_mut_ptr()
    }

    /// Says how much of the list the kernel filled.
    pub(crate) fn filled(&mut self, length: usize) {
        self.length = length.min(CAPACITY);
    }

    /// Asks for the interface and the source address (IP_PKTINFO, IPV6_PKTINFO: RFC 3542 §6).
    pub(crate) fn push_pin(&mut self, pin: Pin) {
        match pin.source {
            IpAddr::V4(source) => {
                // struct in_pktinfo: interface, source; the last field is for receiving only.
                let mut value = [0; 12];
                value[0..4].copy_from_slice(&pin.interface.to_ne_bytes());
                value[4..8].copy_from_slice(&source.octets());
                self.push(libc::IPPROTO_IP, libc::IP_PKTINFO, value);
            }
            IpAddr::V6(source) => {
                let mut value = [0; 20];
                value[0..16].copy_from_slice(&source.octets());
                value[16..20].copy_from_slice(&pin.interface.to_ne_bytes());
                self.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, value);
            }
        }
    }

    /// Marks the datagram (RFC 3168 §5).
    pub(crate) fn push_ecn(&mut self, ecn: u8, v6: bool) {
        let value = i32::from(ecn & 0b11).to_ne_bytes();
        if v6 {
            self.push(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, value);
        } else {
            self.push(libc::IPPROTO_IP, libc::IP_TOS, value);
        }
    }

    /// Asks the kernel to cut the contents into datagrams of this size (GSO).
    pub(crate) fn push_segment(&mut self, segment: u16) {
        self.push(libc::SOL_UDP, libc::UDP_SEGMENT, segment.to_ne_bytes());
    }

    fn push<const N: usize>(&mut self, level: i32, kind: i32, value: [u8; N]) {
        let message = &mut self.bytes[self.length..];
        message[..WORD].copy_from_slice(&(HEADER + N).to_ne_bytes());
        message[WORD..WORD + 4].copy_from_slice(&level.to_ne_bytes());
        message[WORD + 4..HEADER].copy_from_slice(&kind.to_ne_bytes());
        message[HEADER..HEADER + N].copy_from_slice(&value);
        self.length += aligned(HEADER + N);
    }

    /// What the messages in the list say; unknown ones are passed over.
    pub(crate) fn facts(&self) -> Facts {
        let mut facts = Facts::default();
        let mut rest = &self.bytes[..self.length];
        while let Some(length) = read::<WORD>(rest, 0).map(usize::from_ne_bytes) {
            if length < HEADER || length > rest.len() {
                break; // Not a message: the list ended.
            }
            let level = read(rest, WORD).map_or(0, i32::from_ne_bytes);
            let kind = read(rest, WORD + 4).map_or(0, i32::from_ne_bytes);
            facts.learn(level, kind, &rest[HEADER..length]);
            rest = rest.get(aligned(length)..).unwrap_or_default();
        }
        facts
    }
}

impl Facts {
    fn learn(&mut self, level: i32, kind: i32, value: &[u8]) {
        match (level, kind) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                self.interface = read(value, 0).map_or(0, u32::from_ne_bytes);
                // The header's destination. The field before it is the kernel's proposal for answers, which differs
                // for broadcasts alone.
                self.local = read::<4>(value, 8).map(|octets| Ipv4Addr::from(octets).into());
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                self.local = read::<16>(value, 0).map(|octets| Ipv6Addr::from(octets).into());
                self.interface = read(value, 16).map_or(0, u32::from_ne_bytes);
            }
            (libc::IPPROTO_IP, libc::IP_TOS) | (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                self.ecn = traffic_class(value) & 0b11;
            }
            (libc::SOL_UDP, libc::UDP_GRO) => {
                let segment = read(value, 0).map_or(0, i32::from_ne_bytes);
                self.segment = usize::try_from(segment).unwrap_or(0);
            }
            _ => {}
        }
    }
}

/// IPv4 sends it as one byte, IPv6 as an `int`.
fn traffic_class(value: &[u8]) -> u8 {
    match read(value, 0) {
        Some(int) => i32::from_ne_bytes(int).to_le_bytes()[0],
        None => value.first().copied().unwrap_or(0),
    }
}

fn aligned(length: usize) -> usize {
    length.next_multiple_of(WORD)
}

fn read<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_is_that_of_the_c_library() {
        assert_eq!(size_of::<libc::in_pktinfo>(), 12);
        assert_eq!(std::mem::offset_of!(libc::in_pktinfo, ipi_spec_dst), 4);
        assert_eq!(std::mem::offset_of!(libc::in_pktinfo, ipi_addr), 8);
        assert_eq!(size_of::<libc::in6_pktinfo>(), 20);
        assert_eq!(std::mem::offset_of!(libc::in6_pktinfo, ipi6_ifindex), 16);
        assert_eq!(size_of::<libc::cmsghdr>(), HEADER);
        assert_eq!(std::mem::offset_of!(libc::cmsghdr, cmsg_level), WORD);
        assert_eq!(std::mem::offset_of!(Control, bytes), 0);
    }

    #[test]
    fn a_full_list_fits_and_is_padded() {
        let mut control = Control::EMPTY;
        control.push_pin(Pin { interface: 3, source: "2001:db8::1".parse().unwrap() });
        control.push_ecn(2, true);
        control.push_segment(1452);
        assert_eq!(control.length(), aligned(HEADER + 20) + aligned(HEADER + 4) + aligned(HEADER + 2));
        let facts = control.facts();
        assert_eq!((facts.interface, facts.ecn), (3, 2));
        assert_eq!(facts.local, Some("2001:db8::1".parse().unwrap()));
    }

    #[test]
    fn a_received_list_is_understood() {
        let mut control = Control::EMPTY;
        control.push(libc::SOL_SOCKET, libc::SO_TIMESTAMP, [9; 16]);
        control.push(libc::IPPROTO_IP, libc::IP_TOS, [0b1011]);
        control.push(libc::SOL_UDP, libc::UDP_GRO, 1200_i32.to_ne_bytes());
        control.push(libc::IPPROTO_IP, libc::IP_PKTINFO, [5, 0, 0, 0, 0, 0, 0, 0, 192, 0, 2, 1]);
        let local = Some("192.0.2.1".parse().unwrap());
        let interface = u32::from_ne_bytes([5, 0, 0, 0]);
        assert_eq!(control.facts(), Facts { local, interface, ecn: 3, segment: 1200 });
    }

    #[test]
    fn a_broken_list_ends_early_and_never_panics() {
        let mut control = Control::EMPTY;
        control.push(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, 1_i32.to_ne_bytes());
        for length in 0..CAPACITY {
            control.filled(length);
            control.facts();
        }
        for byte in 0..HEADER {
            let mut broken = control;
            broken.bytes[byte] = 0xff;
            broken.facts();
        }
        let mut short = Control::EMPTY;
        short.push(libc::IPPROTO_IP, libc::IP_PKTINFO, [1]);
        assert_eq!(short.facts(), Facts::default());
    }
}
