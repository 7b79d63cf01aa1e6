//! Streams of which many pieces wait for what is missing before them.
//!
//! Where a path's queue overflows, a sender in slow start loses every other packet, and each leaves a gap. The engine
//! ends a connection when more than 1024 pieces of one stream lie apart: that bounds what a hostile peer can make it
//! keep. Three megabytes in flight are enough for that, as a long fat path has them. So before there are as many, they
//! are taken out of the engine as they are, and put in order here.
//!
//! What is taken out counts as read there, and the peer is given as much room again. So the connection's window is made
//! smaller by what waits here, and what a peer can make us hold stays what it was.

use std::collections::BTreeMap;

use bytes::Bytes;
use quinn_proto::{ReadError, StreamId};

use super::{
    Connection,
    streams::{Read, StreamFailure},
};

/// Pieces that the application could not read, from which on they are taken out of the engine.
pub(super) const MANY: u32 = 1024;
/// What a small piece may keep in memory: the packet that it came in. Of a hostile peer's, that and its neighbours
/// (`Endpoint::keep`): eight times as much.
const PACKET: usize = 1500;

/// What came of a stream after something that did not.
#[derive(Default)]
pub(super) struct Pieces {
    /// The offset up to which the application has read.
    next: u64,
    waiting: BTreeMap<u64, Bytes>,
    /// Bytes of memory that they keep, nearly.
    held: u64,
    /// How the stream ends after all of them.
    end: Option<Result<Read, StreamFailure>>,
}

impl Pieces {
    fn add(&mut self, offset: u64, bytes: Bytes) {
        self.held += weight(&bytes);
        self.waiting.insert(offset, bytes);
    }

    /// Hands out what follows on what was read, up to `limit` bytes; returns how many there were.
    fn take(&mut self, limit: usize, take: &mut impl FnMut(Bytes)) -> usize {
        let mut taken = 0;
        while taken < limit
            && let Some(entry) = self.waiting.first_entry()
            && *entry.key() == self.next
        {
            let mut bytes = entry.remove();
            self.held -= weight(&bytes);
            if bytes.len() > limit - taken {
                let rest = bytes.split_off(limit - taken);
                self.add(self.next + bytes.len() as u64, rest);
            }
            taken += bytes.len();
            self.next += bytes.len() as u64;
            take(bytes);
        }
        taken
    }

    /// A piece that came. What follows on what was read and handed out is handed out as well.
    fn take_or_add(&mut self, offset: u64, mut bytes: Bytes, limit: usize, take: &mut impl FnMut(Bytes)) -> usize {
        if limit == 0 || offset != self.next {
            self.add(offset, bytes);
            return 0;
        }
        if bytes.len() > limit {
            let rest = bytes.split_off(limit);
            self.add(offset + limit as u64, rest);
        }
        let taken = bytes.len();
        self.next += taken as u64;
        take(bytes);
        taken
    }

    /// Bytes of memory that it keeps, nearly.
    pub(super) fn held(&self) -> u64 {
        self.held
    }

    fn clear(&mut self) {
        self.waiting.clear();
        self.held = 0;
    }
}

fn weight(bytes: &Bytes) -> u64 {
    bytes.len().max(PACKET) as u64
}

impl Connection {
    /// Takes all that has come of a stream out of the engine, in whatever order. From now on it is read here.
    pub(super) fn take_out(&mut self, stream: StreamId) {
        self.read_out(stream, 0, &mut |_| ());
    }

    /// The same, and hands out up to `limit` bytes that follow on what was read; returns how many there were.
    fn read_out(&mut self, stream: StreamId, limit: usize, take: &mut impl FnMut(Bytes)) -> usize {
        let id = stream.into();
        let Some(halves) = self.streams.get_mut(&id) else { return 0 };
        halves.unread = 0;
        self.window.neglected -= u64::from(std::mem::take(&mut halves.neglected));
        let read = halves.read;
        let pieces = self.pieces.entry(id).or_insert_with(|| Pieces { next: read, ..Pieces::default() });
        let mut taken = pieces.take(limit, take);
        if pieces.end.is_some() {
            return taken;
        }
        let mut source = self.proto.recv_stream(stream);
        let Ok(mut chunks) = source.read(false) else {
            pieces.end = Some(Err(StreamFailure::Closed));
            return taken;
        };
        pieces.end = loop {
            match chunks.next(usize::MAX) {
                Ok(Some(chunk)) => taken += pieces.take_or_add(chunk.offset, chunk.bytes, limit - taken, take),
                Ok(None) => break Some(Ok(Read::End)),
                Err(ReadError::Blocked) => break None,
                Err(ReadError::Reset(code)) => {
                    pieces.clear();
                    break Some(Err(StreamFailure::Reset(code.into_inner())));
                }
            }
        };
        let _ = chunks.finalize();
        // What came last may have filled the gap before what waits.
        taken += pieces.take(limit - taken, take);
        self.adapt_window();
        taken
    }

    /// `read`, of a stream whose pieces are put in order here.
    pub(super) fn read_pieces(
        &mut self,
        stream: StreamId,
        limit: usize,
        mut take: impl FnMut(Bytes),
    ) -> Result<Read, StreamFailure> {
        self.owes = true;
        let taken = self.read_out(stream, limit, &mut take);
        if taken > 0 {
            return Ok(Read::Bytes(taken));
        }
        let id = stream.into();
        let Some(pieces) = self.pieces.get_mut(&id) else { return Err(StreamFailure::Closed) };
        let Some(end) = pieces.end.take() else { return Ok(Read::Blocked) };
        self.pieces.remove(&id);
        self.received_all(id);
        end
    }

    /// Nobody wants a stream's pieces any more. `true`: it had ended.
    pub(super) fn drop_pieces(&mut self, id: u64) -> bool {
        let dropped = self.pieces.remove(&id);
        self.adapt_window();
        dropped.is_some_and(|pieces| pieces.end.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(pieces: &mut Pieces, limit: usize) -> Vec<u8> {
        let mut all = Vec::new();
        pieces.take(limit, &mut |bytes| all.extend_from_slice(&bytes));
        all
    }

    #[test]
    fn what_lies_behind_a_gap_waits_for_it() {
        let mut pieces = Pieces { next: 2, ..Pieces::default() };
        pieces.add(4, Bytes::from_static(b"ef"));
        pieces.add(8, Bytes::from_static(b"i"));
        assert_eq!(taken(&mut pieces, 100), b"");
        pieces.add(2, Bytes::from_static(b"cd"));
        assert_eq!(taken(&mut pieces, 100), b"cdef");
        pieces.add(6, Bytes::from_static(b"gh"));
        assert_eq!(taken(&mut pieces, 100), b"ghi");
        assert_eq!((pieces.next, pieces.held), (9, 0));
    }

    #[test]
    fn no_more_is_handed_out_than_was_asked_for() {
        let mut pieces = Pieces::default();
        pieces.add(0, Bytes::from_static(b"abcde"));
        assert_eq!(taken(&mut pieces, 2), b"ab");
        assert_eq!(taken(&mut pieces, 2), b"cd");
        assert_eq!(taken(&mut pieces, 2), b"e");
        assert_eq!(pieces.held, 0);
    }

    #[test]
    fn what_follows_on_what_was_read_does_not_wait() {
        let (mut pieces, mut all) = (Pieces::default(), Vec::new());
        let mut hand_out = |bytes: Bytes| all.extend_from_slice(&bytes);
        assert_eq!(pieces.take_or_add(0, Bytes::from_static(b"abc"), 9, &mut hand_out), 3);
        assert_eq!(pieces.take_or_add(5, Bytes::from_static(b"fg"), 6, &mut hand_out), 0);
        assert_eq!(pieces.take_or_add(3, Bytes::from_static(b"de"), 1, &mut hand_out), 1);
        assert_eq!(all, b"abcd");
        assert_eq!(taken(&mut pieces, 9), b"efg");
    }

    #[test]
    fn a_small_piece_weighs_as_much_as_the_packet_that_it_keeps() {
        let mut pieces = Pieces::default();
        pieces.add(1, Bytes::from_static(b"b"));
        assert_eq!(pieces.held, PACKET as u64);
    }
}
