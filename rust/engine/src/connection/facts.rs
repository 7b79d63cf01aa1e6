//! What is known of the active path, for whoever decides whether to move.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use quinn_proto::Side;

use super::{Connection, terms::PeerTerms};
use crate::news::{Kind, News};

/// Seconds without a packet after which a flow of packets begins anew.
const PAUSE: f64 = 0.02;

/// What a decision to move needs to know of the active path.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// When the last authenticated packet came over it that was more than a probe, in the caller's seconds.
    pub heard: f64,
    /// The same, probes included: of a peer that has yet to find out whether we are there.
    pub reached: f64,
    /// Since when packets have come over it without a pause; a time to come if they do not, or nobody looks for it.
    pub flowing: f64,
    pub due: bool,
    pub rtt: Duration,
    pub pto: Duration,
    pub best_rtt: Duration,
    pub spare_ids: u64,
    pub peer_forbids: bool,
    pub confirmed: bool,
    /// On all paths so far, and of these, how many are taken for lost (RFC 9002 §6).
    pub packets_sent: u64,
    pub packets_lost: u64,
}

/// Frames received by now, which says that an authenticated packet came: those of probing packets (RFC 9000 §9.1), and
/// the others.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    probing: u64,
    other: u64,
}

impl Connection {
    /// `close`: whether to tell a flow of packets.
    pub fn facts(&mut self, close: bool) -> Facts {
        self.note_rtt();
        self.learn_terms();
        let statistics = self.proto.stats();
        self.ids.issued(statistics.frame_rx.new_connection_id);
        let rtt = statistics.path.rtt;
        let due = self.is_due();
        self.seen_idle |= !due;
        Facts {
            heard: self.heard,
            reached: self.reached,
            flowing: if close { self.flowing } else { f64::INFINITY },
            due,
            rtt,
            // RFC 9002 §6.2.1, with the variation unknown from outside taken as a quarter of the RTT, and the peer's
            // acknowledgement delay as the default (25 ms).
            pto: rtt + rtt.max(Duration::from_millis(10)) + Duration::from_millis(25),
            best_rtt: self.best_rtt.min(rtt),
            spare_ids: self.ids.spare(),
            peer_forbids: self.terms.known && (self.terms.disable_active_migration || self.terms.id_length == 0),
            // RFC 9001 §4.1.2: a client knows by HANDSHAKE_DONE; a server as soon as its handshake is complete.
            confirmed: match self.proto.side() {
                Side::Client => statistics.frame_rx.handshake_done > 0,
                Side::Server => !self.proto.is_handshaking(),
            },
            packets_sent: statistics.path.sent_packets,
            packets_lost: statistics.path.lost_packets,
        }
    }

    /// Whether something is due, and whoever asked for the facts last saw that nothing was: to be told once.
    pub fn newly_due(&mut self) -> bool {
        let newly = self.seen_idle && self.is_due();
        self.seen_idle &= !newly;
        newly
    }

    /// Ask for an answer (PING), and for news of the first packet that comes.
    pub fn ping(&mut self) {
        self.listening = true;
        self.proto.ping();
    }

    pub(crate) fn progress(&self) -> Progress {
        let frames = self.proto.stats().frame_rx;
        let windows = frames.max_data + frames.max_stream_data + frames.max_streams_bidi + frames.max_streams_uni;
        let data = frames.stream + frames.datagram + frames.crypto;
        Progress {
            probing: frames.path_challenge + frames.path_response + frames.new_connection_id,
            other: frames.acks + frames.ping + frames.retire_connection_id + windows + data,
        }
    }

    /// An authenticated packet came over the active path at `at` (the caller's seconds): a probe, or another.
    pub(crate) fn came(&mut self, since: Progress, at: f64, now: Instant, news: &mut VecDeque<News>) {
        let progress = self.progress();
        if progress != since {
            self.reached = at;
            self.padded = false;
        }
        if progress.other != since.other {
            self.heard(at, now, news);
        }
    }

    fn heard(&mut self, at: f64, now: Instant, news: &mut VecDeque<News>) {
        if let Some(log) = self.log.as_ref().filter(|_| self.proto.side().is_client()) {
            log.proven(now);
        }
        if at - self.heard > PAUSE {
            self.flowing = at;
        }
        self.heard = at;
        if std::mem::take(&mut self.listening) {
            news.push_back(News { connection: self.number, kind: Kind::Heard, value: 0 });
        }
    }

    /// When the last authenticated packet came over the active path that was more than a probe, in the caller's seconds.
    pub fn last_heard(&self) -> f64 {
        self.heard
    }

    pub(crate) fn is_listening(&self) -> bool {
        self.listening
    }

    fn is_due(&self) -> bool {
        self.streams.values().any(|stream| !stream.background && (stream.receiving || stream.sending))
    }

    pub(super) fn note_rtt(&mut self) {
        self.best_rtt = self.best_rtt.min(self.proto.min_rtt());
    }

    pub(super) fn learn_terms(&mut self) {
        if self.terms.known || self.proto.is_handshaking() {
            return;
        }
        let Some(encoded) = self.peer_parameters() else { return };
        self.terms = PeerTerms::read(&encoded);
        self.ids.set_length(self.terms.id_length);
    }
}
