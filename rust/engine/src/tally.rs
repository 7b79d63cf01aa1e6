//! What a server counts, beside what each connection does.

/// Why a datagram was dropped, in the order of [`Tally::dropped`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Dropped {
    /// It is no QUIC packet, or an Initial that does not authenticate.
    Malformed,
    /// It is for no connection that is known.
    UnknownConnection,
    /// An Initial in a datagram of less than 1200 bytes (RFC 9000 §14.1).
    SmallInitial,
    /// Of another version, and too small to be answered (§5.2.2).
    UnknownVersion,
    /// A newcomer with a token of another address, or one that is too old (§8.1.3). It is told.
    InvalidToken,
}

impl Dropped {
    pub const ALL: [Self; 5] =
        [Self::Malformed, Self::UnknownConnection, Self::SmallInitial, Self::UnknownVersion, Self::InvalidToken];

    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::UnknownConnection => "unknown-connection",
            Self::SmallInitial => "small-initial",
            Self::UnknownVersion => "unknown-version",
            Self::InvalidToken => "invalid-token",
        }
    }

    /// Why the engine made nothing of this datagram; it does not say.
    pub(crate) fn guess(data: &[u8], id_length: usize) -> Self {
        const MIN_INITIAL: usize = 1200;
        const INITIAL: u8 = 0;
        let Some(&first) = data.first() else { return Self::Malformed };
        if first & 0x80 == 0 {
            return if data.len() > id_length { Self::UnknownConnection } else { Self::Malformed };
        }
        // RFC 8999 §5.1: first byte, version, then two connection IDs, each after its length.
        let Some(version) = data.get(1..5).and_then(|bytes| bytes.first_chunk().copied()) else {
            return Self::Malformed;
        };
        if skip_id(data, 5).and_then(|next| skip_id(data, next)).is_none() {
            return Self::Malformed;
        }
        match u32::from_be_bytes(version) {
            0 => Self::UnknownConnection,
            version if !is_known(version) => Self::UnknownVersion,
            _ if (first >> 4) & 3 != INITIAL => Self::UnknownConnection,
            _ if data.len() < MIN_INITIAL => Self::SmallInitial,
            _ => Self::Malformed,
        }
    }
}

fn skip_id(data: &[u8], at: usize) -> Option<usize> {
    let end = at + 1 + usize::from(*data.get(at)?);
    (end <= data.len()).then_some(end)
}

fn is_known(version: u32) -> bool {
    quinn_proto::DEFAULT_SUPPORTED_VERSIONS.contains(&version)
}

/// Counts since the server began, but for the first two.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Connections that there are now, those in their handshake included.
    pub standing: u64,
    /// Of these, in their handshake with an address that may be forged.
    pub forgeable: u64,
    /// Newcomers let in.
    pub accepted: u64,
    pub refused: u64,
    pub retried: u64,
    pub handshakes_failed: u64,
    /// How often a client was found at another address.
    pub moves: u64,
    pub version_negotiations: u64,
    pub stateless_resets: u64,
    pub dropped: [u64; Dropped::ALL.len()],
}

/// How far a connection has come, as far as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Handshaking { forgeable: bool },
    Established,
    Ended,
}

impl Tally {
    pub(crate) fn drop(&mut self, reason: Dropped) {
        self.dropped[reason as usize] += 1;
    }

    pub(crate) fn entered(&mut self, standing: Standing) {
        self.accepted += 1;
        self.standing += 1;
        self.forgeable += u64::from(standing == Standing::Handshaking { forgeable: true });
    }

    pub(crate) fn advanced(&mut self, from: Standing, to: Standing) {
        if from == to {
            return;
        }
        self.forgeable -= u64::from(from == Standing::Handshaking { forgeable: true });
        if to == Standing::Ended {
            self.standing -= 1;
            self.handshakes_failed += u64::from(from != Standing::Established);
        }
    }

    /// The engine answers by itself what belongs to no connection.
    pub(crate) fn answered(&mut self, answer: &[u8]) {
        let is_long = answer.first().is_some_and(|first| first & 0x80 != 0);
        if !is_long {
            self.stateless_resets += 1;
        } else if answer.get(1..5) == Some(&[0; 4]) {
            self.version_negotiations += 1;
        } else {
            // It closes before accepting for one reason that an honest client may give.
            self.drop(Dropped::InvalidToken);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long(kind: u8, version: u32, size: usize) -> Vec<u8> {
        let mut data = vec![0xc0 | kind << 4];
        data.extend(version.to_be_bytes());
        data.extend([2, 9, 9, 1, 7]);
        data.resize(size, 0);
        data
    }

    #[test]
    fn the_reason_is_found_in_the_header() {
        for (data, reason) in [
            (vec![], Dropped::Malformed),
            (vec![0x40, 1, 2], Dropped::Malformed),
            (vec![0x40; 30], Dropped::UnknownConnection),
            (vec![0xc0, 0, 0], Dropped::Malformed),
            (vec![0xc0, 0, 0, 0, 1, 200, 1], Dropped::Malformed),
            (long(0, 1, 100), Dropped::SmallInitial),
            (long(0, 1, 1200), Dropped::Malformed),
            (long(2, 1, 1200), Dropped::UnknownConnection),
            (long(0, 0x1a2a_3a4a, 100), Dropped::UnknownVersion),
            (long(0, 0, 100), Dropped::UnknownConnection),
        ] {
            assert_eq!(Dropped::guess(&data, 8), reason, "{data:x?}");
        }
    }

    #[test]
    fn a_connection_is_counted_once_in_each_place() {
        let mut tally = Tally::default();
        let begun = Standing::Handshaking { forgeable: true };
        tally.entered(begun);
        assert_eq!((tally.accepted, tally.standing, tally.forgeable), (1, 1, 1));
        tally.advanced(begun, Standing::Established);
        assert_eq!((tally.standing, tally.forgeable), (1, 0));
        tally.advanced(Standing::Established, Standing::Ended);
        tally.advanced(Standing::Ended, Standing::Ended);
        assert_eq!((tally.accepted, tally.standing, tally.handshakes_failed), (1, 0, 0));
    }

    #[test]
    fn a_handshake_that_fails_is_told_apart() {
        let mut tally = Tally::default();
        let begun = Standing::Handshaking { forgeable: false };
        tally.entered(begun);
        tally.advanced(begun, Standing::Ended);
        assert_eq!((tally.standing, tally.forgeable, tally.handshakes_failed), (0, 0, 1));
    }

    #[test]
    fn answers_are_told_apart() {
        let mut tally = Tally::default();
        tally.answered(&[0x41, 0, 0, 0, 0]);
        tally.answered(&[0xc1, 0, 0, 0, 0]);
        tally.answered(&[0xc1, 0, 0, 0, 1]);
        assert_eq!((tally.stateless_resets, tally.version_negotiations), (1, 1));
        assert_eq!(tally.dropped[Dropped::InvalidToken as usize], 1);
    }
}
