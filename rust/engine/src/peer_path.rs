//! Where a server's client is, and whether that is proven.
//!
//! The engine follows a client that moved by itself (RFC 9000 §9.3): it challenges the new address and the previous one,
//! sends no more than three times what came until the new one is proven, and returns when it is not in time (§9.3.2). It
//! tells none of that. So it is found out from outside: the address by looking after each datagram, the proof by
//! PATH_RESPONSE frames in datagrams from that very address.
//!
//! What cannot be seen is whether such a frame gave back the right bytes. A client that lies about its address can so
//! have us call a path proven that is not; the engine does not believe it, keeps to its limits, and returns.

use std::net::SocketAddr;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proof {
    /// The handshake is not complete, which would be one (§8.1).
    Handshake,
    /// Challenged after a move, when so many PATH_RESPONSE frames had come.
    Challenged {
        responses: u64,
    },
    Given,
}

#[derive(Debug)]
pub(crate) struct PeerPath {
    remote: SocketAddr,
    proof: Proof,
}

/// A move of the peer's, or our return from it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Move {
    /// Its new address was not proven in time, and the engine took the one before again.
    pub returned: bool,
    /// There was no connection ID left to change to.
    pub linkable: bool,
    /// Seconds from the last packet over the old path to the first over the new one.
    pub silence: f64,
}

impl Move {
    const RETURNED: u64 = 1;
    const LINKABLE: u64 = 2;
    const FLAGS: u32 = 2;

    /// As the value of a piece of news: flags, and microseconds above them.
    pub(crate) fn encode(self) -> u64 {
        let flags = u64::from(self.returned) * Self::RETURNED + u64::from(self.linkable) * Self::LINKABLE;
        // A float that is too large, or no number, saturates.
        ((self.silence * 1e6) as u64 & u64::MAX >> Self::FLAGS) << Self::FLAGS | flags
    }
}

impl PeerPath {
    pub(crate) fn new(remote: SocketAddr) -> Self {
        Self { remote, proof: Proof::Handshake }
    }

    pub(crate) fn remote(&self) -> SocketAddr {
        self.remote
    }

    pub(crate) fn is_proven(&self) -> bool {
        self.proof == Proof::Given
    }

    /// Whether nothing is to be found out: the engine sends to `remote`, as is known, and no proof is waited for.
    pub(crate) fn is_settled_at(&self, remote: SocketAddr) -> bool {
        remote == self.remote && !matches!(self.proof, Proof::Challenged { .. })
    }

    pub(crate) fn handshake_complete(&mut self) {
        if self.proof == Proof::Handshake {
            self.proof = Proof::Given;
        }
    }

    /// The engine sends to `remote` now; `responses`: PATH_RESPONSE frames so far. Whether it moved.
    pub(crate) fn moved_to(&mut self, remote: SocketAddr, responses: u64) -> bool {
        if remote == self.remote {
            return false;
        }
        self.remote = remote;
        self.proof = Proof::Challenged { responses };
        true
    }

    /// The engine went back to `remote`, which was proven before. Whether it did.
    pub(crate) fn returned_to(&mut self, remote: SocketAddr) -> bool {
        if remote == self.remote {
            return false;
        }
        self.remote = remote;
        self.proof = Proof::Given;
        true
    }

    /// A datagram came from `source`, after which so many PATH_RESPONSE frames have come. Whether that is the proof.
    pub(crate) fn heard_from(&mut self, source: SocketAddr, responses: u64) -> bool {
        let Proof::Challenged { responses: before } = self.proof else { return false };
        if responses == before {
            return false;
        }
        if source == self.remote {
            self.proof = Proof::Given;
            return true;
        }
        // The answer of the previous address to its own challenge (§9.3.3).
        self.proof = Proof::Challenged { responses };
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> SocketAddr {
        ([192, 0, 2, 1], port).into()
    }

    #[test]
    fn an_address_is_proven_by_the_handshake_and_after_a_move_by_an_answer_from_there() {
        let mut path = PeerPath::new(at(1));
        assert!(!path.is_proven());
        path.handshake_complete();
        assert!(path.is_proven());
        assert!(!path.moved_to(at(1), 0));
        assert!(path.moved_to(at(2), 0));
        assert!(!path.is_proven());
        assert!(!path.heard_from(at(2), 0));
        assert!(!path.heard_from(at(1), 1));
        assert!(!path.heard_from(at(2), 1));
        assert!(path.heard_from(at(2), 2));
        assert!(path.is_proven());
    }

    #[test]
    fn an_address_that_was_proven_still_is_after_the_return() {
        let mut path = PeerPath::new(at(1));
        path.handshake_complete();
        path.moved_to(at(2), 0);
        assert!(path.returned_to(at(1)));
        assert!(path.is_proven());
        assert!(!path.returned_to(at(1)));
    }

    #[test]
    fn the_end_of_the_handshake_proves_nothing_about_an_address_moved_to_before() {
        let mut path = PeerPath::new(at(1));
        path.moved_to(at(2), 0);
        path.handshake_complete();
        assert!(!path.is_proven());
    }

    #[test]
    fn a_move_fits_into_a_number() {
        let moved = Move { returned: true, linkable: true, silence: 0.25 };
        assert_eq!(moved.encode(), 250_000 << 2 | 3);
        assert_eq!(Move { returned: false, linkable: false, silence: f64::INFINITY }.encode() & 3, 0);
        assert_eq!(Move { returned: false, linkable: true, silence: -1.0 }.encode(), 2);
    }
}
