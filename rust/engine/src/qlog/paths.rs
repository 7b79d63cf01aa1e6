//! The paths of one connection, as its log names them, and which one a packet went over.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
};

/// Remembered at once: whoever copies packets to ever new addresses costs lines in the log, but no memory.
const MOST: usize = 16;

/// Both ends of a path, as far as they are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ends {
    pub local: Option<SocketAddr>,
    pub remote: SocketAddr,
}

/// Names a path in one log. That of the handshake has the empty name, which is what a record without one means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct PathId(u64);

impl PathId {
    pub fn name(self) -> String {
        if self.0 == 0 { String::new() } else { self.0.to_string() }
    }
}

#[derive(Debug, Default)]
pub(super) struct Paths {
    /// The newest last.
    known: VecDeque<(PathId, Ends)>,
    active: PathId,
    next: u64,
    /// The numbers of the first 1-RTT packets after each change of path, the newest last.
    first_sent: VecDeque<(u64, PathId)>,
}

impl Paths {
    pub fn active(&self) -> PathId {
        self.active
    }

    pub fn ends(&self, id: PathId) -> Option<Ends> {
        self.known.iter().find(|(known, _)| *known == id).map(|&(_, ends)| ends)
    }

    /// The name of the path with these ends, and whether it is new.
    pub fn with(&mut self, ends: Ends) -> (PathId, bool) {
        if let Some(&(id, _)) = self.known.iter().rev().find(|(_, known)| *known == ends) {
            return (id, false);
        }
        let id = PathId(self.next);
        self.next += 1;
        if self.known.len() == MOST {
            let oldest = self.known.iter().position(|(known, _)| *known != self.active);
            self.known.remove(oldest.unwrap_or(0));
        }
        self.known.push_back((id, ends));
        (id, true)
    }

    /// More is known of the active path's ends than before.
    pub fn refine(&mut self, ends: Ends) {
        if let Some((_, known)) = self.known.iter_mut().find(|(known, _)| *known == self.active) {
            *known = ends;
        }
    }

    pub fn activate(&mut self, id: PathId) {
        self.active = id;
    }

    /// The newest path to that address of the peer's.
    pub fn to(&self, remote: SocketAddr) -> Option<PathId> {
        let active = self.ends(self.active).is_some_and(|ends| ends.remote == remote).then_some(self.active);
        active.or_else(|| self.known.iter().rev().find(|(_, ends)| ends.remote == remote).map(|&(id, _)| id))
    }

    /// Of a client: a path that was left, on which something late has come to that address of ours.
    pub fn left(&self, local: Option<IpAddr>) -> PathId {
        let mut others = self.known.iter().rev().filter(|(id, _)| *id != self.active);
        let latest = others.clone().next();
        let same = others.find(|(_, ends)| ends.local.map(|address| address.ip()) == local);
        same.or(latest).map_or(self.active, |&(id, _)| id)
    }

    /// A 1-RTT packet left.
    pub fn sent(&mut self, number: u64, id: PathId) {
        if self.first_sent.back().is_none_or(|&(_, last)| last != id) {
            if self.first_sent.len() == MOST {
                self.first_sent.pop_front();
            }
            self.first_sent.push_back((number, id));
        }
    }

    /// Where a 1-RTT packet left.
    pub fn of_sent(&self, number: u64) -> PathId {
        self.first_sent.iter().rev().find(|(first, _)| *first <= number).map_or(self.active, |&(_, id)| id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(local: u8, remote: u16) -> Ends {
        let local = Some(([10, 0, 0, local], 4433).into());
        Ends { local, remote: ([192, 0, 2, 1], remote).into() }
    }

    #[test]
    fn the_first_path_has_the_empty_name_and_a_known_one_keeps_its_own() {
        let mut paths = Paths::default();
        let (first, _) = paths.with(ends(1, 1));
        let (second, new) = paths.with(ends(2, 1));
        assert_eq!((first.name().as_str(), second.name().as_str(), new), ("", "1", true));
        assert_eq!(paths.with(ends(1, 1)), (first, false));
    }

    #[test]
    fn a_packet_belongs_to_the_path_that_it_left_by() {
        let mut paths = Paths::default();
        let (first, second) = (paths.with(ends(1, 1)).0, paths.with(ends(2, 1)).0);
        for (number, id) in [(0, first), (1, first), (2, second), (3, first), (4, second)] {
            paths.sent(number, id);
        }
        assert_eq!([0, 1, 2, 3, 9].map(|number| paths.of_sent(number)), [first, first, second, first, second]);
    }

    #[test]
    fn what_comes_late_came_by_a_path_that_was_left() {
        let mut paths = Paths::default();
        let ids = [1, 2, 3].map(|local| paths.with(ends(local, 1)).0);
        paths.activate(ids[2]);
        assert_eq!(paths.left(Some([10, 0, 0, 1].into())), ids[0]);
        assert_eq!(paths.left(Some([10, 0, 0, 9].into())), ids[1]);
    }

    #[test]
    fn the_active_path_is_never_forgotten() {
        let mut paths = Paths::default();
        let first = paths.with(ends(1, 0)).0;
        for port in 1..100 {
            paths.with(ends(1, port));
        }
        assert_eq!(paths.to(([192, 0, 2, 1], 0).into()), Some(first));
        assert_eq!(paths.to(([192, 0, 2, 1], 1).into()), None);
        assert_eq!(paths.known.len(), MOST);
    }
}
