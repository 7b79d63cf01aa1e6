//! Socket addresses as the kernel reads and writes them.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// Bytes of a `sockaddr_in`.
const V4_LENGTH: usize = 16;
/// Bytes of a `sockaddr_in6`, the larger of the two.
const V6_LENGTH: usize = 28;

/// Room for a `sockaddr_in` or a `sockaddr_in6`.
///
/// The layout is the kernel's and never changes, so bytes at fixed offsets do, and need no `unsafe`:
///
/// ```text
///         0        2      4          8         24      28
///   IPv4  family   port   address    (zero)
///   IPv6  family   port   flowinfo   address   scope
/// ```
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(crate) struct Address {
    bytes: [u8; V6_LENGTH],
}

impl Address {
    /// The most that the kernel may write.
    pub(crate) const CAPACITY: usize = V6_LENGTH;

    pub(crate) const EMPTY: Self = Self { bytes: [0; V6_LENGTH] };

    /// How many bytes to tell the kernel.
    pub(crate) fn length(&self) -> usize {
        if self.family() == libc::AF_INET { V4_LENGTH } else { V6_LENGTH }
    }

    pub(crate) fn as_ptr(&self) -> *const u8 {
        self.bytes.as_ptr()
    }

    pub(crate) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.bytes.as_mut_ptr()
    }

    /// The address that the kernel wrote; `None` for a family that is not IP.
    pub(crate) fn decode(&self) -> Option<SocketAddr> {
        let port = u16::from_be_bytes(self.at(2));
        match self.family() {
            libc::AF_INET => Some(SocketAddrV4::new(Ipv4Addr::from(self.at::<4>(4)), port).into()),
            libc::AF_INET6 => {
                let scope = u32::from_ne_bytes(self.at(24));
                // The flow label is left out: it says nothing about who sent this, and addresses get compared.
                Some(SocketAddrV6::new(Ipv6Addr::from(self.at::<16>(8)), port, 0, scope).into())
            }
            _ => None,
        }
    }

    fn family(&self) -> i32 {
        i32::from(u16::from_ne_bytes(self.at(0)))
    }

    fn at<const N: usize>(&self, offset: usize) -> [u8; N] {
        std::array::from_fn(|index| self.bytes[offset + index])
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        let mut bytes = [0; V6_LENGTH];
        bytes[2..4].copy_from_slice(&address.port().to_be_bytes());
        let family = match address {
            SocketAddr::V4(v4) => {
                bytes[4..8].copy_from_slice(&v4.ip().octets());
                libc::AF_INET
            }
            SocketAddr::V6(v6) => {
                bytes[8..24].copy_from_slice(&v6.ip().octets());
                bytes[24..28].copy_from_slice(&v6.scope_id().to_ne_bytes());
                libc::AF_INET6
            }
        };
        bytes[0..2].copy_from_slice(&(family as u16).to_ne_bytes());
        Self { bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_is_that_of_the_c_library() {
        assert_eq!(V4_LENGTH, size_of::<libc::sockaddr_in>());
        assert_eq!(V6_LENGTH, size_of::<libc::sockaddr_in6>());
        assert_eq!(std::mem::offset_of!(libc::sockaddr_in, sin_port), 2);
        assert_eq!(std::mem::offset_of!(libc::sockaddr_in, sin_addr), 4);
        assert_eq!(std::mem::offset_of!(libc::sockaddr_in6, sin6_port), 2);
        assert_eq!(std::mem::offset_of!(libc::sockaddr_in6, sin6_addr), 8);
        assert_eq!(std::mem::offset_of!(libc::sockaddr_in6, sin6_scope_id), 24);
    }

    #[test]
    fn addresses_survive_the_round_trip() {
        let scoped = SocketAddrV6::new("fe80::1".parse().unwrap(), 443, 0, 7);
        for address in ["192.0.2.7:4433".parse().unwrap(), "[2001:db8::7]:1".parse().unwrap(), scoped.into()] {
            assert_eq!(Address::from(address).decode(), Some(address));
        }
        assert_eq!(Address::EMPTY.decode(), None);
    }
}
