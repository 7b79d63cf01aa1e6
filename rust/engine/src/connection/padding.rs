//! What makes a client's first datagram over a new path long enough.
//!
//! Until it has validated an address a server may send it three times what came from there (RFC 9000 §8.1). After a bare
//! PING that is less than the 1200 bytes of a full PATH_CHALLENGE, so the server has to ask a second time (§8.2.1). With
//! a search for a larger MTU beside the PING it is too much: ngtcp2 fills it with data, paced by an RTT of a third of a
//! second, its first guess, and waits for that to pass before it repeats what was lost. It sends two challenges at once,
//! and the engine answers the later one. So the best is one datagram that allows just two of them, and a search that
//! begins when something has come over the new path.
//!
//! The engine cannot pad a packet. The application gives bytes that mean nothing on one of its streams, as HTTP/3 has
//! them for this purpose (RFC 9114 §7.2.8).

use bytes::Bytes;

use super::Connection;

pub(super) struct Padding {
    pub(super) stream: u64,
    frame: Bytes,
    /// What the windows had no room for: it goes before all else on that stream.
    rest: Bytes,
    /// The application's own last write was cut short: nothing may come in between.
    pub(super) torn: bool,
}

impl Connection {
    /// At each move `frame` is written to this stream of ours, as a whole and between two writes.
    pub fn pad_moves(&mut self, stream: u64, frame: Bytes) {
        self.padding = Some(Padding { stream, frame, rest: Bytes::new(), torn: false });
    }

    /// Whether the next datagram is padded.
    pub(super) fn pad(&mut self) -> bool {
        if self.early.is_some() || self.proto.is_handshaking() {
            return false;
        }
        if self.finish_padding() != Some(true) {
            return false;
        }
        let Some(padding) = self.padding.as_mut().filter(|padding| !padding.torn) else { return false };
        padding.rest = padding.frame.clone();
        self.finish_padding() == Some(true)
    }

    /// Writes what is left of a frame. `false`: there is no room for all of it; `None`: the stream is no more.
    pub(super) fn finish_padding(&mut self) -> Option<bool> {
        let padding = self.padding.as_mut()?;
        if padding.rest.is_empty() {
            return Some(true);
        }
        let stream = super::streams::stream_id(padding.stream).ok()?;
        match self.proto.send_stream(stream).write_chunks(&mut [padding.rest.clone()]) {
            Ok(written) => drop(padding.rest.split_to(written.bytes)),
            Err(quinn_proto::WriteError::Blocked) if padding.rest.len() == padding.frame.len() => {
                // Nothing of it has gone.
                padding.rest = Bytes::new();
                return Some(false);
            }
            Err(quinn_proto::WriteError::Blocked) => {}
            Err(_) => {
                self.padding = None;
                return None;
            }
        }
        Some(padding.rest.is_empty())
    }
}
