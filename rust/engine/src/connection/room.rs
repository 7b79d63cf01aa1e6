//! Who is told that there is room to write again.
//!
//! As soon as the connection's window or buffer has any room, the engine tells every stream that was refused some. The
//! first few take it, all others are refused again: with thousands of streams, each acknowledgement would wake thousands
//! of writers for nothing. So some are told at a time, in the order in which they were refused, and the next when one of
//! those has written, or when something has come that may have made room. How many at a time follows from what becomes
//! of them: one more for each that wrote, half as many when one is refused again.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::Connection;
use crate::news::{Kind, News};

/// Writers that are told at a time.
const LEAST: u32 = 2;
const MOST: u32 = 64;
/// When nothing comes and none of them has written, others are told all the same.
const PATIENCE: Duration = Duration::from_millis(5);

pub(super) struct Room {
    /// Streams that are to be told.
    waiting: VecDeque<u64>,
    /// How many at a time.
    width: u32,
    /// How many were told, and have not written.
    told: u32,
    /// When something came last.
    stirred: Option<Instant>,
}

impl Default for Room {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), width: MOST, told: 0, stirred: None }
    }
}

impl Room {
    /// When something came last.
    pub(super) fn stirred(&self) -> Option<Instant> {
        self.stirred
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.stirred.filter(|_| !self.waiting.is_empty()).map(|stirred| stirred + PATIENCE)
    }
}

impl Connection {
    /// There may be more room than before.
    pub(crate) fn stirred(&mut self, now: Instant) {
        self.room.stirred = Some(now);
        self.room.told = 0;
    }

    pub(super) fn await_room(&mut self, id: u64) {
        if let Some(halves) = self.streams.get_mut(&id)
            && !std::mem::replace(&mut halves.awaits_room, true)
        {
            self.room.waiting.push_back(id);
        }
    }

    pub(super) fn tell_room(&mut self, news: &mut VecDeque<News>) {
        while self.room.told < self.room.width
            && let Some(id) = self.room.waiting.pop_front()
        {
            let Some(halves) = self.streams.get_mut(&id) else { continue };
            halves.awaits_room = false;
            halves.told_room = true;
            self.room.told += 1;
            news.push_back(News { connection: self.number, kind: Kind::Writable, value: id });
        }
    }

    /// A stream was written to, or there was no room for it.
    pub(super) fn tried_room(&mut self, id: u64, refused: bool) {
        let Some(halves) = self.streams.get_mut(&id) else { return };
        if !std::mem::take(&mut halves.told_room) {
            return;
        }
        if refused {
            self.room.width = (self.room.width / 2).max(LEAST);
        } else {
            self.room.width = (self.room.width + 1).min(MOST);
            self.room.told = self.room.told.saturating_sub(1);
        }
    }
}
