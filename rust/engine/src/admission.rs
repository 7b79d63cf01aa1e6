//! Whom a server lets in.

use std::time::Duration;

/// Whether newcomers must prove their address before anything is kept for them (Retry, RFC 9000 §8.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Only while there are [`MANY_HANDSHAKES`].
    Auto,
    Always,
    Never,
}

#[derive(Clone, Copy, Debug)]
pub struct Admission {
    pub retry: Retry,
    /// Newcomers beyond so many connections are refused (CONNECTION_REFUSED).
    pub max_connections: u64,
}

impl Default for Admission {
    fn default() -> Self {
        Self { retry: Retry::Auto, max_connections: u64::MAX }
    }
}

/// Handshakes with addresses that may be forged, from which on newcomers have to prove theirs.
///
/// One costs some 105 KiB until it is over, Python's share included, and with a client that is not there, that takes
/// [`PATIENCE`]: so this is 27 MB that strangers can have for nothing, and CPU time for as many signatures. Nobody honest
/// is sent back for it below 2,500 newcomers a second (at a round trip of 100 ms), and who is loses one round trip.
pub const MANY_HANDSHAKES: u64 = 256;

/// How long a newcomer's handshake may take. The idle timeout is made for connections that stand: whoever proves an
/// address, and then sends a PING now and then, would never be over. Chromium waits as long for a server.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What becomes of a newcomer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accept,
    Refuse,
    Retry,
}

impl Admission {
    /// `standing`: connections there are; `forgeable`: those of them that are in their handshake, and whose address may
    /// be forged; `may_retry`: this one's may be, and it was not sent back before.
    pub(crate) fn judge(&self, standing: u64, forgeable: u64, may_retry: bool) -> Verdict {
        let many = forgeable >= MANY_HANDSHAKES;
        if standing >= self.max_connections {
            Verdict::Refuse
        } else if may_retry && (self.retry == Retry::Always || self.retry == Retry::Auto && many) {
            Verdict::Retry
        } else {
            Verdict::Accept
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(retry: Retry, standing: u64, forgeable: u64, may_retry: bool) -> Verdict {
        Admission { retry, max_connections: 1000 }.judge(standing, forgeable, may_retry)
    }

    #[test]
    fn nobody_is_let_in_beyond_the_limit() {
        assert_eq!(judge(Retry::Never, 999, 0, true), Verdict::Accept);
        assert_eq!(judge(Retry::Never, 1000, 0, true), Verdict::Refuse);
        assert_eq!(judge(Retry::Always, 1000, 0, true), Verdict::Refuse);
    }

    #[test]
    fn addresses_are_to_be_proven_always_never_or_in_a_crowd() {
        assert_eq!(judge(Retry::Always, 0, 0, true), Verdict::Retry);
        assert_eq!(judge(Retry::Never, 999, 999, true), Verdict::Accept);
        assert_eq!(judge(Retry::Auto, 999, MANY_HANDSHAKES - 1, true), Verdict::Accept);
        assert_eq!(judge(Retry::Auto, 999, MANY_HANDSHAKES, true), Verdict::Retry);
    }

    #[test]
    fn who_has_proven_it_is_not_sent_back() {
        assert_eq!(judge(Retry::Always, 0, 0, false), Verdict::Accept);
        assert_eq!(judge(Retry::Auto, 999, MANY_HANDSHAKES, false), Verdict::Accept);
    }
}
