//! Changes of path: those that we make, and those that a server sees its client make.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use quinn_proto::{ConnectionId, Side};

use super::Connection;
use crate::{
    news::{Kind, News},
    peer_path::Move,
    qlog::Ends,
};

impl Connection {
    /// Packets leave from another local address from now on: the next of the peer's connection IDs, a PING, and
    /// congestion control, RTT and MTU afresh (RFC 9000 §9.4, §9.5). `false`: no connection ID was left to change to.
    /// `local` is the new address of ours, as far as it is known.
    pub fn path_moved(&mut self, local: Option<SocketAddr>, now: Instant) -> bool {
        self.note_rtt();
        self.moves += 1;
        let fresh = self.take_id();
        self.proto.local_address_changed();
        self.proto.path_changed(now);
        (self.padded, self.knocked) = (self.pad(), false);
        if let Some(log) = &self.log {
            log.moved_to(Ends { local, remote: self.proto.remote_address() }, now);
        }
        (self.heard, self.reached, self.flowing) = (f64::NEG_INFINITY, f64::NEG_INFINITY, f64::INFINITY);
        self.listening = true;
        self.begin_window();
        fresh
    }

    /// Of the log: what is known of the path that it has begun on.
    pub fn begins_from(&self, local: Option<SocketAddr>, now: Instant) {
        if let Some(log) = &self.log {
            log.found_at(Ends { local, remote: self.proto.remote_address() }, now);
        }
    }

    /// Of the log: packets leave from this address of ours, which the kernel has chosen.
    pub fn leaves_from(&self, ip: IpAddr, now: Instant) {
        if let Some(log) = &self.log {
            log.leaves_from(ip, now);
        }
    }

    /// Of the log: how far a path from this address of ours has been probed.
    pub fn probing(&self, state: &str, local: IpAddr, now: Instant) {
        if let Some(log) = &self.log {
            log.probing(state, local, now);
        }
    }

    /// A server was sent a datagram with this connection ID. Returns the one before, if that was another.
    pub(crate) fn addressed_as(&mut self, id: ConnectionId) -> Option<ConnectionId> {
        self.addressed.replace(id).filter(|before| *before != id)
    }

    /// The peer's address may have changed with a datagram that came at `at` (the caller's seconds). The engine has taken
    /// the next of its connection IDs then, if there was one (RFC 9000 §9.5). Whether it has.
    pub(crate) fn follow_peer(&mut self, source: SocketAddr, at: f64, now: Instant, news: &mut VecDeque<News>) -> bool {
        let remote = self.proto.remote_address();
        let (before, responses) = (self.peer.remote(), self.proto.stats().frame_rx.path_response);
        if self.peer.moved_to(remote, responses) {
            self.allowance.moved(before, remote, responses);
            let silence = if self.heard.is_finite() { at - self.heard } else { 0.0 };
            let linkable = !self.take_id();
            self.pending_move = Some(Move { returned: false, linkable, silence });
            return true;
        }
        if self.peer.heard_from(source, responses) {
            if let Some(log) = &self.log {
                log.proven(now);
            }
            news.push_back(News { connection: self.number, kind: Kind::Proven, value: 0 });
        }
        false
    }

    /// The engine returns to the previous address when the new one is not proven in time (§9.3.2). Whether it did.
    pub(crate) fn follow_return(&mut self, now: Instant) -> bool {
        if !self.peer.returned_to(self.proto.remote_address()) {
            return false;
        }
        self.allowance.returned();
        if let Some(log) = &self.log {
            log.returned(self.proto.remote_address(), now);
        }
        let linkable = !self.take_id();
        // It goes on with the connection ID that was seen on the other path; and it runs no probe timeout for what it
        // sent into the void, which an acknowledgement of the PING that this brings makes good.
        self.proto.local_address_changed();
        self.pending_move = Some(Move { returned: true, linkable, silence: 0.0 });
        true
    }

    /// Whether the peer is known to receive what is sent to its address: a client's always is, by its own choice.
    pub fn is_validated(&self) -> bool {
        match self.proto.side() {
            Side::Client => self.is_connected(),
            Side::Server => self.peer.is_proven(),
        }
    }

    /// After packets had their chance to leave, which shows whether there was a connection ID to change to.
    pub(super) fn tell_move(&mut self, news: &mut VecDeque<News>) {
        let Some(mut moved) = self.pending_move.take() else { return };
        moved.linkable = self.ids.kept().unwrap_or(moved.linkable);
        news.push_back(News { connection: self.number, kind: Kind::Moved, value: moved.encode() });
        if moved.returned {
            news.push_back(News { connection: self.number, kind: Kind::Proven, value: 0 });
        }
    }

    /// Notes that the engine changes to the next of the peer's connection IDs. `false`: there is none.
    fn take_id(&mut self) -> bool {
        self.learn_terms();
        // Some may have come since anybody asked.
        self.ids.issued(self.proto.stats().frame_rx.new_connection_id);
        self.ids.taken()
    }
}
