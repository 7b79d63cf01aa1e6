//! What a client sent before the server had answered (0-RTT), kept until the server has taken it.
//!
//! A server may refuse early data: it was started anew, has forgotten the ticket, or fears a replay. Then the engine
//! forgets every stream as if it had never been opened. The application said that what it sends may be repeated, so it
//! should not notice: the same streams are opened in the same order, and the same bytes are sent once more. They are
//! bounded by the send buffer, since nothing is acknowledged before the answer comes.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use quinn_proto::{Connection, Dir, StreamId, WriteError};

use crate::connection::{direction_of, varint};

/// One stream that was opened early.
#[derive(Default)]
struct Draft {
    data: VecDeque<Bytes>,
    finished: bool,
    /// Kept back even while the server may accept: the engine cannot forget a stream whose halves are gone.
    reset: Option<u64>,
    stop: Option<u64>,
    /// In the engine.
    open: bool,
    /// The application waits to write.
    blocked: bool,
}

/// The streams that were opened early, by their IDs, which are in the order of opening for each direction.
#[derive(Default)]
pub(crate) struct EarlyStreams {
    drafts: BTreeMap<u64, Draft>,
    rejected: bool,
}

impl EarlyStreams {
    pub fn opened(&mut self, id: u64) {
        self.drafts.insert(id, Draft { open: true, ..Draft::default() });
    }

    /// Whether a new stream must wait for those that were opened before it.
    pub fn precedes(&self, direction: Dir) -> bool {
        self.rejected && self.drafts.iter().any(|(&id, draft)| !draft.open && direction_of(id) == direction)
    }

    /// Writes, and remembers what was taken. `None`: not one of ours, so that the engine alone is concerned.
    pub fn write(&mut self, id: u64, data: &[u8], proto: &mut Connection) -> Option<Result<usize, WriteError>> {
        let draft = self.drafts.get_mut(&id)?;
        if self.rejected {
            // What was written first goes first.
            draft.blocked = true;
            return Some(Ok(0));
        }
        let result = proto.send_stream(stream(id)).write(data);
        if let Ok(taken) = result
            && taken > 0
        {
            draft.data.push_back(Bytes::copy_from_slice(&data[..taken]));
        }
        Some(result)
    }

    /// `true`: remembered, and the engine is not to be told now.
    pub fn finish(&mut self, id: u64) -> bool {
        let Some(draft) = self.drafts.get_mut(&id) else { return false };
        draft.finished = true;
        self.rejected
    }

    pub fn reset(&mut self, id: u64, code: u64) -> bool {
        let Some(draft) = self.drafts.get_mut(&id) else { return false };
        draft.reset = Some(code);
        true
    }

    pub fn stop(&mut self, id: u64, code: u64) -> bool {
        let Some(draft) = self.drafts.get_mut(&id) else { return false };
        draft.stop = Some(code);
        true
    }

    /// Whether the engine does not know a stream that the application does.
    pub fn is_closed(&self, id: u64) -> bool {
        self.drafts.get(&id).is_some_and(|draft| !draft.open)
    }

    pub fn holds(&self, id: u64) -> bool {
        self.rejected && self.drafts.contains_key(&id)
    }

    /// The handshake is complete. Returns whether nothing is left to be done here; streams that may be written to again
    /// are added to `writable`.
    pub fn settle(&mut self, proto: &mut Connection, writable: &mut Vec<u64>) -> bool {
        if proto.accepted_0rtt() {
            for (id, draft) in std::mem::take(&mut self.drafts) {
                draft.give_up(id, proto);
            }
            return true;
        }
        if !std::mem::replace(&mut self.rejected, true) {
            self.drafts.values_mut().for_each(|draft| draft.open = false);
        }
        self.open_again(proto);
        self.drafts.retain(|&id, draft| {
            let done = draft.open && draft.send_again(id, proto);
            if done && draft.blocked {
                writable.push(id);
            }
            !done
        });
        self.drafts.is_empty()
    }

    /// The limits may be lower than those that were remembered: then the rest waits until the server raises them.
    fn open_again(&mut self, proto: &mut Connection) {
        for direction in [Dir::Bi, Dir::Uni] {
            let closed = self.drafts.iter_mut().filter(|(id, draft)| !draft.open && direction_of(**id) == direction);
            for (&id, draft) in closed {
                match proto.streams().open(direction) {
                    Some(opened) => debug_assert_eq!(u64::from(opened), id, "streams are opened in order"),
                    None => break,
                }
                draft.open = true;
            }
        }
    }
}

impl Draft {
    /// Sends what the windows allow; `true` when all of it is the engine's.
    fn send_again(&mut self, id: u64, proto: &mut Connection) -> bool {
        if self.reset.is_none() {
            while let Some(first) = self.data.front_mut() {
                match proto.send_stream(stream(id)).write_chunks(std::slice::from_mut(first)) {
                    Ok(written) if written.chunks == 1 => drop(self.data.pop_front()),
                    Ok(_) => {}
                    Err(WriteError::Blocked) => return false,
                    // The application learns of it with its next write.
                    Err(WriteError::Stopped(_) | WriteError::ClosedStream) => break,
                }
            }
            if self.finished {
                let _ = proto.send_stream(stream(id)).finish();
            }
        }
        self.give_up(id, proto);
        true
    }

    fn give_up(&self, id: u64, proto: &mut Connection) {
        if let Some(code) = self.reset {
            let _ = proto.send_stream(stream(id)).reset(varint(code));
        }
        if let Some(code) = self.stop {
            let _ = proto.recv_stream(stream(id)).stop(varint(code));
        }
    }
}

fn stream(id: u64) -> StreamId {
    StreamId::from(varint(id))
}
