//! Connection IDs of ours that peers used a moment ago.
//!
//! Who moves takes a new one and retires the old one (RFC 9000 §9.5) over the new path. Where that is the faster one,
//! packets that were under way on the old path come when the engine has forgotten their connection ID, and would bring a
//! stateless reset. That is for endpoints that lost their state (§10.3); a peer that still knows the token, as ngtcp2
//! 0.12 does, ends a connection that is well.

use std::{
    collections::HashSet,
    mem,
    time::{Duration, Instant},
};

use quinn_proto::ConnectionId;

/// They are remembered that long at least, and twice as long at most: longer than any network holds a packet back.
const REMEMBERED: Duration = Duration::from_secs(10);
/// Half of what is remembered at most: clients could change them with every packet.
const MOST: usize = 4096;

#[derive(Debug, Default)]
pub(crate) struct FormerIds {
    recent: HashSet<ConnectionId>,
    older: HashSet<ConnectionId>,
    since: Option<Instant>,
}

impl FormerIds {
    pub(crate) fn remember(&mut self, id: ConnectionId, now: Instant) {
        self.forget_old(now);
        if self.recent.len() == MOST {
            self.age(now);
        }
        self.recent.insert(id);
    }

    /// Whether a datagram is addressed to one of them.
    pub(crate) fn has(&mut self, id: ConnectionId, now: Instant) -> bool {
        self.forget_old(now);
        self.recent.contains(&id) || self.older.contains(&id)
    }

    fn forget_old(&mut self, now: Instant) {
        let since = *self.since.get_or_insert(now);
        if now >= since + 2 * REMEMBERED {
            self.recent.clear();
        }
        if now >= since + REMEMBERED {
            self.age(now);
        }
    }

    fn age(&mut self, now: Instant) {
        self.older = mem::take(&mut self.recent);
        self.since = Some(now);
    }
}

/// The connection ID that a datagram is addressed to, if its first packet has a short header.
pub(crate) fn short_id(datagram: &[u8], length: usize) -> Option<ConnectionId> {
    let is_short = datagram.first().is_some_and(|first| first & 0x80 == 0);
    datagram.get(1..=length).filter(|_| is_short).map(ConnectionId::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "any moment will do")]
    fn now() -> Instant {
        Instant::now()
    }

    fn id(number: u32) -> ConnectionId {
        ConnectionId::new(&number.to_be_bytes())
    }

    #[test]
    fn remembers_for_a_while() {
        let begin = now();
        let mut ids = FormerIds::default();
        ids.remember(id(0), begin);
        ids.remember(id(1), begin + REMEMBERED / 2);
        assert!(ids.has(id(0), begin));
        assert!(ids.has(id(1), begin + REMEMBERED * 3 / 2));
        assert!(!ids.has(id(1), begin + REMEMBERED * 7 / 2));
        assert!(!ids.has(id(2), begin));
    }

    #[test]
    fn forgets_what_is_older_than_two_terms_at_once() {
        let begin = now();
        let mut ids = FormerIds::default();
        ids.remember(id(0), begin);
        assert!(!ids.has(id(0), begin + 2 * REMEMBERED));
    }

    #[test]
    fn remembers_no_more_than_so_many() {
        let now = now();
        let mut ids = FormerIds::default();
        for number in 0..3 * MOST as u32 {
            ids.remember(id(number), now);
        }
        assert!(ids.recent.len() + ids.older.len() <= 2 * MOST);
        assert!(ids.has(id(3 * MOST as u32 - 1), now));
    }

    #[test]
    fn only_short_headers_are_looked_at() {
        assert_eq!(short_id(&[0x40, 1, 2, 3], 2), Some(ConnectionId::new(&[1, 2])));
        assert_eq!(short_id(&[0xc0, 1, 2, 3], 2), None);
        assert_eq!(short_id(&[0x40, 1], 2), None);
        assert_eq!(short_id(&[], 0), None);
    }
}
