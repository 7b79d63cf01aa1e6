//! The streams of a connection, each half until it has ended, and its datagrams.

use bytes::Bytes;
use quinn_proto::{Dir, ReadError, StreamId, VarInt, WriteError};

use super::{Connection, varint};

/// What a read brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    Bytes(usize),
    End,
    Blocked,
}

#[derive(Debug, PartialEq, Eq)]
pub enum StreamFailure {
    /// RESET_STREAM came, with this code.
    Reset(u64),
    /// STOP_SENDING came, with this code.
    Stopped(u64),
    /// It was finished, reset or stopped before, or never was.
    Closed,
}

/// The halves of a stream that are still in use, and what the application was told of it.
#[derive(Clone, Copy, Default)]
pub(super) struct Halves {
    pub(super) receiving: bool,
    pub(super) sending: bool,
    pub(super) background: bool,
    pub(super) told_readable: bool,
    /// It is to be told that there is room to write.
    pub(super) awaits_room: bool,
    /// It was told so, and has not written.
    pub(super) told_room: bool,
    /// How far the application has read.
    pub(super) read: u64,
    /// Frames that came and were not read, nearly.
    pub(super) unread: u32,
    /// Those of them that came after the application was told.
    pub(super) neglected: u32,
    /// When it was read last, nothing was there to read.
    pub(super) dry: bool,
}

impl Connection {
    pub fn open(&mut self, unidirectional: bool) -> Option<u64> {
        self.settle_early();
        let direction = direction(unidirectional);
        if self.early.as_ref().is_some_and(|early| early.precedes(direction)) {
            return None;
        }
        let id = self.proto.streams().open(direction)?;
        if let Some(early) = &mut self.early {
            early.opened(id.into());
        }
        let halves = Halves { receiving: !unidirectional, sending: true, ..Halves::default() };
        self.streams.insert(id.into(), halves);
        Some(id.into())
    }

    pub fn accept(&mut self, unidirectional: bool) -> Option<u64> {
        let direction = direction(unidirectional);
        let early = self.early_opened[direction as usize].pop_front();
        let id = early.or_else(|| self.proto.streams().accept(direction))?;
        let unread = self.unaccepted.remove(&id.into()).unwrap_or(0);
        let halves =
            Halves { receiving: true, sending: !unidirectional, unread, neglected: unread, ..Halves::default() };
        self.streams.insert(id.into(), halves);
        Some(id.into())
    }

    /// Hands out up to `limit` bytes of a stream, in the chunks that they came in.
    pub fn read(&mut self, id: u64, limit: usize, mut take: impl FnMut(Bytes)) -> Result<Read, StreamFailure> {
        let stream = self.receiving(id)?;
        self.settle_early();
        if self.early.as_ref().is_some_and(|early| early.is_closed(id)) {
            return Ok(Read::Blocked);
        }
        if let Some(tail) = self.tails.remove(&id) {
            return tail;
        }
        if let Some(halves) = self.streams.get_mut(&id) {
            halves.told_readable = false;
        }
        if self.pieces.contains_key(&id) {
            return self.read_pieces(stream, limit, take);
        }
        let mut source = self.proto.recv_stream(stream);
        let mut chunks = source.read(true).map_err(|_| StreamFailure::Closed)?;
        let (mut taken, mut count) = (0, 0);
        let result = loop {
            match chunks.next(limit - taken) {
                Ok(Some(chunk)) => {
                    taken += chunk.bytes.len();
                    count += 1;
                    take(chunk.bytes);
                    if taken == limit {
                        break Ok(Read::Bytes(taken));
                    }
                }
                Ok(None) => break Ok(Read::End),
                Err(ReadError::Blocked) => break Ok(Read::Blocked),
                Err(ReadError::Reset(code)) => break Err(StreamFailure::Reset(code.into_inner())),
            }
        };
        self.owes |= chunks.finalize().should_transmit();
        if let Some(halves) = self.streams.get_mut(&id) {
            halves.read += taken as u64;
            halves.unread = halves.unread.saturating_sub(count);
            halves.dry = taken == 0;
            let left = if taken < limit { 0 } else { halves.neglected.min(halves.unread) };
            self.window.neglected -= u64::from(std::mem::replace(&mut halves.neglected, left) - left);
        }
        let ended = matches!(result, Ok(Read::End) | Err(_));
        if ended {
            self.received_all(id);
        }
        if taken == 0 {
            return result;
        }
        if ended {
            // The engine tells the end once, and what came before it is handed out first.
            self.tails.insert(id, result);
        }
        Ok(Read::Bytes(taken))
    }

    /// Whether what was opened, accepted or read since the last call gives reason to send something.
    pub fn take_owed(&mut self) -> bool {
        std::mem::take(&mut self.owes) || self.early.is_some()
    }

    /// Takes as much as the windows allow; 0 means blocked, and `Writable` follows.
    pub fn write(&mut self, id: u64, data: &[u8]) -> Result<usize, StreamFailure> {
        self.write_by(id, data, |proto, stream| proto.send_stream(stream).write(data))
    }

    /// The same without a copy: what is taken is kept as it is until the peer has it.
    pub fn write_shared(&mut self, id: u64, data: Bytes) -> Result<usize, StreamFailure> {
        self.write_by(id, &data, |proto, stream| {
            let written = proto.send_stream(stream).write_chunks(&mut [data.clone()])?;
            Ok(written.bytes)
        })
    }

    fn write_by(
        &mut self,
        id: u64,
        data: &[u8],
        write: impl FnOnce(&mut quinn_proto::Connection, StreamId) -> Result<usize, WriteError>,
    ) -> Result<usize, StreamFailure> {
        let stream = self.sending(id)?;
        self.settle_early();
        let padded = self.padding.as_ref().is_some_and(|padding| padding.stream == id);
        if padded && self.finish_padding() == Some(false) {
            self.tried_room(id, true);
            return Ok(0);
        }
        let early = self.early.as_mut().and_then(|early| early.write(id, data, &mut self.proto));
        let result = early.unwrap_or_else(|| write(&mut self.proto, stream));
        if let Some(padding) = self.padding.as_mut().filter(|_| padded) {
            padding.torn = result.as_ref().is_ok_and(|&taken| taken < data.len()) || (padding.torn && result.is_err());
        }
        match result {
            Ok(taken) => {
                self.tried_room(id, false);
                Ok(taken)
            }
            Err(WriteError::Blocked) => {
                self.tried_room(id, true);
                // The engine looks for room on the connection first, and tells a stopped stream of none that comes later.
                match self.proto.send_stream(stream).stopped() {
                    Ok(Some(code)) => Err(StreamFailure::Stopped(code.into_inner())),
                    _ => Ok(0),
                }
            }
            Err(WriteError::Stopped(code)) => Err(StreamFailure::Stopped(code.into_inner())),
            Err(WriteError::ClosedStream) => Err(StreamFailure::Closed),
        }
    }

    pub fn finish(&mut self, id: u64) -> Result<(), StreamFailure> {
        let stream = self.sending(id)?;
        self.settle_early();
        if self.early.as_mut().is_some_and(|early| early.finish(id)) {
            return Ok(());
        }
        self.proto.send_stream(stream).finish().map_err(|error| match error {
            quinn_proto::FinishError::Stopped(code) => StreamFailure::Stopped(code.into_inner()),
            quinn_proto::FinishError::ClosedStream => StreamFailure::Closed,
        })
    }

    pub fn reset(&mut self, id: u64, code: u64) -> Result<(), StreamFailure> {
        let stream = self.sending(id)?;
        self.sent_all(id);
        self.settle_early();
        if self.early.as_mut().is_some_and(|early| early.reset(id, code)) {
            return Ok(());
        }
        self.proto.send_stream(stream).reset(varint(code)).map_err(|_| StreamFailure::Closed)
    }

    pub fn stop(&mut self, id: u64, code: u64) -> Result<(), StreamFailure> {
        let stream = self.receiving(id)?;
        if self.tails.remove(&id).is_some() {
            return Ok(());
        }
        self.received_all(id);
        if self.drop_pieces(id) {
            return Ok(());
        }
        self.settle_early();
        if self.early.as_mut().is_some_and(|early| early.stop(id, code)) {
            return Ok(());
        }
        self.proto.recv_stream(stream).stop(varint(code)).map_err(|_| StreamFailure::Closed)
    }

    /// Nothing is expected of this stream: while only such are open, silence means nothing.
    pub fn background(&mut self, id: u64) {
        if let Some(halves) = self.streams.get_mut(&id) {
            halves.background = true;
        }
    }

    /// Whether the peer opened a stream before the handshake was complete: then somebody who recorded it may have.
    pub fn is_early_stream(&self, id: u64) -> bool {
        (id & 1 == 1) == self.proto.side().is_client() && id >> 2 < self.early_count[direction_of(id) as usize]
    }

    /// As soon as the server has answered: what was sent early and refused is sent again.
    pub(crate) fn settle_early(&mut self) {
        if self.proto.is_handshaking() {
            return;
        }
        if let Some(early) = &mut self.early
            && early.settle(&mut self.proto, &mut self.writable)
        {
            self.early = None;
        }
    }

    /// A datagram was taken in: notes which streams of the peer's came early.
    pub(crate) fn note_early_streams(&mut self) {
        if !self.proto.has_0rtt() || !self.proto.is_handshaking() {
            return;
        }
        for direction in [Dir::Bi, Dir::Uni] {
            while let Some(id) = self.proto.streams().accept(direction) {
                self.early_opened[direction as usize].push_back(id);
                self.early_count[direction as usize] = id.index() + 1;
            }
        }
    }

    // The engine panics on the half of a unidirectional stream that is not ours, so it is never asked.
    fn receiving(&self, id: u64) -> Result<StreamId, StreamFailure> {
        let stream = stream_id(id)?;
        let ours = stream.dir() == Dir::Bi || stream.initiator() != self.proto.side();
        if ours { Ok(stream) } else { Err(StreamFailure::Closed) }
    }

    fn sending(&self, id: u64) -> Result<StreamId, StreamFailure> {
        let stream = stream_id(id)?;
        let ours = stream.dir() == Dir::Bi || stream.initiator() == self.proto.side();
        if ours { Ok(stream) } else { Err(StreamFailure::Closed) }
    }

    pub(super) fn received_all(&mut self, id: u64) {
        if let Some(halves) = self.streams.get_mut(&id) {
            halves.receiving = false;
            self.window.neglected -= u64::from(std::mem::take(&mut halves.neglected));
            if !halves.sending {
                self.streams.remove(&id);
            }
        }
    }

    pub(super) fn sent_all(&mut self, id: u64) {
        if let Some(halves) = self.streams.get_mut(&id) {
            halves.sending = false;
            if !halves.receiving {
                self.streams.remove(&id);
            }
        }
    }

    // ── datagrams (RFC 9221) ────────────────────────────────────────────────────────────────────────────────────────

    /// Bytes that fit in one datagram; 0 when the peer takes none.
    pub fn max_datagram_size(&mut self) -> usize {
        self.proto.datagrams().max_size().unwrap_or(0)
    }

    /// Queues a datagram, dropping the oldest unsent ones when there is no room. `false`: too large, or not taken.
    pub fn send_datagram(&mut self, data: &[u8]) -> bool {
        self.proto.datagrams().send(Bytes::copy_from_slice(data), true).is_ok()
    }

    pub fn receive_datagram(&mut self) -> Option<Bytes> {
        self.proto.datagrams().recv()
    }
}

fn direction(unidirectional: bool) -> Dir {
    if unidirectional { Dir::Uni } else { Dir::Bi }
}

/// RFC 9000 §2.1.
pub(crate) fn direction_of(id: u64) -> Dir {
    direction(id & 2 != 0)
}

pub(super) fn stream_id(id: u64) -> Result<StreamId, StreamFailure> {
    VarInt::from_u64(id).map(StreamId::from).map_err(|_| StreamFailure::Closed)
}
