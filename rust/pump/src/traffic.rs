//! Datagrams and bytes, of all connections and of none.

/// UDP payload, since the sockets were opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Traffic {
    pub datagrams_received: u64,
    pub bytes_received: u64,
    pub datagrams_sent: u64,
    pub bytes_sent: u64,
}

impl Traffic {
    pub(crate) fn received(&mut self, bytes: usize) {
        self.datagrams_received += 1;
        self.bytes_received += bytes as u64;
    }

    /// So many bytes, cut into datagrams of `segment` bytes.
    pub(crate) fn sent(&mut self, bytes: usize, segment: Option<usize>) {
        self.datagrams_sent += bytes.div_ceil(segment.unwrap_or(bytes).max(1)) as u64;
        self.bytes_sent += bytes as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_datagrams() {
        let mut traffic = Traffic::default();
        traffic.sent(2500, Some(1200));
        traffic.sent(100, None);
        traffic.received(30);
        assert_eq!((traffic.datagrams_sent, traffic.bytes_sent), (4, 2600));
        assert_eq!((traffic.datagrams_received, traffic.bytes_received), (1, 30));
    }
}
