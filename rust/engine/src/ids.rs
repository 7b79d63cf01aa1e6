//! How many of the peer's connection IDs are left for moving to another path without being recognised.
//!
//! The engine does not tell, and with none left it silently keeps the old one (RFC 9000 §9.5 forbids that on a new
//! path). So they are counted from outside: what came in NEW_CONNECTION_ID frames, minus what the packets that leave
//! show to have been taken into use.

/// The engine holds five of the peer's connection IDs at most, one of them in use.
const MOST_SPARE: u64 = 4;
const MAX_LEN: usize = 20;

#[derive(Debug, Default)]
pub(crate) struct SpareIds {
    spare: u64,
    received: u64,
    length: Option<usize>,
    in_use: [u8; MAX_LEN],
    known: bool,
    /// The one that was in use before the engine took another; until a packet shows which.
    left: Option<[u8; MAX_LEN]>,
    kept: Option<bool>,
}

impl SpareIds {
    /// The peer's connection IDs are this long.
    pub(crate) fn set_length(&mut self, length: usize) {
        self.length = Some(length.min(MAX_LEN));
    }

    /// So many NEW_CONNECTION_ID frames have come in all. A frame sent twice counts twice; the bound repairs that.
    pub(crate) fn issued(&mut self, received: u64) {
        self.spare = (self.spare + received.saturating_sub(self.received)).min(MOST_SPARE);
        self.received = received;
    }

    pub(crate) fn spare(&self) -> u64 {
        self.spare
    }

    /// The one that packets carry, as far as one has shown it.
    pub(crate) fn in_use(&self) -> Option<&[u8]> {
        self.length.filter(|_| self.known).map(|length| &self.in_use[..length])
    }

    /// The engine took the next one, or, with none left, did not.
    pub(crate) fn taken(&mut self) -> bool {
        let fresh = self.spare > 0 && self.length != Some(0);
        self.spare = self.spare.saturating_sub(1);
        // What leaves next carries the new one; not to be counted as retired by the peer's wish.
        if self.known {
            self.left = Some(self.in_use);
        }
        (self.known, self.kept) = (false, None);
        fresh
    }

    /// Whether the engine kept the ID that it had when another was to be taken, as far as a packet has shown it.
    pub(crate) fn kept(&self) -> Option<bool> {
        self.kept
    }

    /// A datagram left. Its destination connection ID changes without a move when the peer retires one (§5.1.2).
    pub(crate) fn sent(&mut self, datagram: &[u8]) {
        let Some(length) = self.length.filter(|&length| length > 0) else { return };
        let is_short_header = datagram.first().is_some_and(|first| first & 0x80 == 0);
        let Some(id) = datagram.get(1..=length).filter(|_| is_short_header) else { return };
        if self.known && id != &self.in_use[..length] {
            self.spare = self.spare.saturating_sub(1);
        }
        if let Some(left) = self.left.take() {
            let kept = id == &left[..length];
            self.kept = Some(kept);
            if kept {
                // Frames that came twice were counted as two.
                self.spare = 0;
            }
        }
        self.in_use[..length].copy_from_slice(id);
        self.known = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_came_minus_what_was_taken() {
        let mut ids = SpareIds::default();
        ids.set_length(2);
        ids.issued(3);
        assert!(ids.taken());
        assert_eq!(ids.spare(), 2);
        ids.issued(4);
        assert_eq!(ids.spare(), 3);
    }

    #[test]
    fn never_more_than_the_engine_keeps() {
        let mut ids = SpareIds::default();
        ids.issued(100);
        assert_eq!(ids.spare(), MOST_SPARE);
    }

    #[test]
    fn a_packet_shows_that_there_was_none_to_change_to() {
        let mut ids = SpareIds::default();
        ids.set_length(2);
        ids.issued(2);
        ids.sent(&[0x40, 1, 1, 9]);
        assert!(ids.taken());
        assert_eq!(ids.kept(), None);
        ids.sent(&[0x40, 2, 2, 9]);
        assert_eq!((ids.kept(), ids.spare()), (Some(false), 1));
        assert!(ids.taken());
        ids.issued(4);
        ids.sent(&[0x40, 2, 2, 9]);
        assert_eq!((ids.kept(), ids.spare()), (Some(true), 0));
    }

    #[test]
    fn an_id_that_the_peer_retired_is_gone() {
        let mut ids = SpareIds::default();
        ids.set_length(2);
        ids.issued(2);
        ids.sent(&[0x40, 1, 1, 9]);
        ids.sent(&[0x40, 2, 2, 9]);
        assert_eq!(ids.spare(), 1);
        assert!(ids.taken());
        ids.sent(&[0x40, 3, 3, 9]);
        assert!(!ids.taken());
    }
}
