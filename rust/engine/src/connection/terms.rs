//! The transport parameters of the peer that concern moving.

/// What the peer said about moving, read from its transport parameters once (RFC 9000 §18.2).
#[derive(Clone, Copy, Default)]
pub(super) struct PeerTerms {
    pub(super) known: bool,
    pub(super) disable_active_migration: bool,
    pub(super) id_length: usize,
}

impl PeerTerms {
    pub(super) fn read(mut encoded: &[u8]) -> Self {
        const DISABLE_ACTIVE_MIGRATION: u64 = 0x0c;
        const INITIAL_SOURCE_CONNECTION_ID: u64 = 0x0f;
        let mut terms = Self { known: true, ..Self::default() };
        while let (Some(id), Some(length)) = (take_varint(&mut encoded), take_varint(&mut encoded)) {
            match id {
                DISABLE_ACTIVE_MIGRATION => terms.disable_active_migration = true,
                INITIAL_SOURCE_CONNECTION_ID => terms.id_length = length as usize,
                _ => {}
            }
            encoded = encoded.get(length as usize..).unwrap_or_default();
        }
        terms
    }
}

/// A variable-length integer (RFC 9000 §16).
fn take_varint(from: &mut &[u8]) -> Option<u64> {
    let first = *from.first()?;
    let length = 1 << (first >> 6);
    let bytes = from.get(..length)?;
    *from = &from[length..];
    Some(bytes[1..].iter().fold(u64::from(first & 0x3f), |value, &byte| value << 8 | u64::from(byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_terms_of_a_peer_that_forbids_migration() {
        let terms = PeerTerms::read(&[0x0c, 0, 0x0f, 4, 1, 2, 3, 4]);
        assert!(terms.disable_active_migration);
        assert_eq!(terms.id_length, 4);
    }

    #[test]
    fn a_truncated_list_of_parameters_ends_quietly() {
        let terms = PeerTerms::read(&[0x0f, 0x40]);
        assert!(!terms.disable_active_migration);
    }
}
