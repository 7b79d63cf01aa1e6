//! How much a server may have under way to a client: about twice what its path holds.
//!
//! A sender's slow start fills the queue before the slowest link until packets are lost, and each of those is repaired
//! after one round trip, most of which is the queue by then. On the first network that is a slow first second; after
//! a move it is a gap that takes longer than the move. The sender's congestion control is its own affair, but what it
//! may have under way is the receiver's (RFC 9000 §4.1): with a window of twice what comes in a round trip without a
//! queue, slow start is not held back, and the queue stays as short as the path.
//!
//! What came and was not read does not count, so that one stream that nobody reads does not stop another: what the peer
//! can make us keep is bounded by `Limits`, as before.

use std::time::{Duration, Instant};

use quinn_proto::VarInt;

use super::Connection;

/// Where a path begins: 200 Mbit/s at 20 ms.
pub(crate) const FIRST: u64 = 512 << 10;
/// What comes is counted for a round trip, but for at least so long: shorter, it tells of our own pauses.
const SHORTEST: Duration = Duration::from_millis(5);
/// For so long the shortest round trip counts. The smoothed one, which knows how much a radio's vary, has the peer's delay
/// of its first acknowledgement in it at first, and a window that is three times too large for slow start.
const YOUTH: Duration = Duration::from_secs(1);
/// What a frame of a stream brings at most, nearly.
const FRAME: u64 = 1452;
/// The engine's window follows by steps of this part of it: each is a frame to the peer.
const STEP: u64 = 8;
/// What its reader neglects counts from this part of the window on: less is on its way to him.
const PATIENCE: u64 = 2;

/// Of one connection.
pub(super) struct Window {
    /// What may lie here unread, with what is under way: `Limits.connection_window`.
    limit: u64,
    /// What may be under way.
    flight: u64,
    /// It follows what comes, on a client; otherwise it is always `limit`.
    follows: bool,
    /// Since when what comes is counted, and how much had come then.
    count: Option<(Instant, u64)>,
    /// When the path's first bytes came.
    since: Option<Instant>,
    /// The least of its smoothed round-trip times after its youth: that of a queue that was empty.
    round: Duration,
    /// What the engine was told, …
    granted: u64,
    /// … and whether the peer has yet to be.
    owed: bool,
    /// Frames that lie unread though their readers were told, of all streams, nearly.
    pub(super) neglected: u64,
}

impl Window {
    pub(super) fn new(limit: u64, follows: bool) -> Self {
        let flight = if follows { FIRST.min(limit) } else { limit };
        Self {
            limit,
            flight,
            follows,
            count: None,
            since: None,
            round: Duration::MAX,
            granted: flight,
            owed: false,
            neglected: 0,
        }
    }

    /// Another path has begun.
    fn begin(&mut self) {
        if self.follows {
            self.flight = FIRST.min(self.limit);
            (self.count, self.since) = (None, None);
            self.round = Duration::MAX;
        }
    }

    /// So many bytes have come until now. It grows by what comes in a round trip; what comes less says little: the
    /// peer may have nothing more to send.
    fn follow(&mut self, now: Instant, received: u64, min_rtt: Duration, smoothed_rtt: Duration) {
        let young = now < *self.since.get_or_insert(now) + YOUTH;
        let Some((since, before)) = self.count else {
            self.count = Some((now, received));
            return;
        };
        let span = now.saturating_duration_since(since);
        let least = if young { min_rtt } else { self.round.min(smoothed_rtt) };
        let round = least.max(SHORTEST);
        if span < round {
            return;
        }
        if !young {
            self.round = round;
        }
        self.count = Some((now, received));
        let came = (received - before) as f64 * round.as_secs_f64() / span.as_secs_f64();
        let wanted = ((2.0 * came) as u64).min(self.limit);
        if wanted >= self.flight + self.flight / STEP {
            self.flight = wanted;
        }
    }

    /// What the engine is to be told, where that is another window than before. `held`: bytes that were taken out of it,
    /// and wait here.
    fn renew(&mut self, held: u64) -> Option<u64> {
        let unread = (self.neglected * FRAME).saturating_sub(self.flight / PATIENCE);
        let window = (self.flight + unread).min(self.limit.saturating_sub(held)).max(1);
        let settled = held == 0 && unread == 0 && self.granted < window;
        if window.abs_diff(self.granted) < self.granted / STEP && !settled {
            return None;
        }
        (window != std::mem::replace(&mut self.granted, window)).then_some(window)
    }
}

impl Connection {
    /// What the peer sends from now on comes over another path.
    pub(super) fn begin_window(&mut self) {
        self.window.begin();
        self.adapt_window();
    }

    /// Something came. Whether the peer is to be told of another window.
    pub(crate) fn follow_window(&mut self) -> bool {
        if self.window.follows
            && let Some(now) = self.room.stirred()
        {
            self.window.follow(now, self.proto.stats().udp_rx.bytes, self.proto.min_rtt(), self.proto.rtt());
            self.adapt_window();
        }
        std::mem::take(&mut self.window.owed)
    }

    /// What waits here, or to be read, has become more or less.
    pub(super) fn adapt_window(&mut self) {
        let held = self.pieces.values().map(|pieces| pieces.held()).sum();
        if let Some(window) = self.window.renew(held) {
            self.proto.set_receive_window(VarInt::from_u64(window).unwrap_or(VarInt::MAX));
            self.window.owed = true;
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any moment will do to begin with")]
mod tests {
    use super::*;

    const LIMIT: u64 = 16 << 20;
    const RTT: Duration = Duration::from_millis(40);

    /// So many bytes come in each round trip, in ten parts.
    fn arrive(window: &mut Window, now: &mut Instant, received: &mut u64, each: u64, rounds: u32) {
        for _ in 0..10 * rounds {
            window.follow(*now, *received, RTT, RTT);
            *now += RTT / 10;
            *received += each / 10;
        }
    }

    #[test]
    fn it_grows_to_twice_what_comes_in_a_round_trip() {
        let (mut window, mut now, mut received) = (Window::new(LIMIT, true), Instant::now(), 0);
        assert_eq!((window.flight, window.renew(0)), (FIRST, None));
        arrive(&mut window, &mut now, &mut received, FIRST / 2, 4);
        assert_eq!(window.renew(0), None);
        arrive(&mut window, &mut now, &mut received, 2_000_000, 4);
        assert!((3_900_000..=4_000_000).contains(&window.renew(0).unwrap()), "{}", window.flight);
        arrive(&mut window, &mut now, &mut received, 20_000_000, 4);
        assert_eq!(window.renew(0), Some(LIMIT));
    }

    #[test]
    fn a_pause_does_not_shrink_it_and_a_burst_after_one_does_not_count_for_a_round_trip() {
        let (mut window, mut now, mut received) = (Window::new(LIMIT, true), Instant::now(), 0);
        arrive(&mut window, &mut now, &mut received, 2_000_000, 4);
        let grown = window.flight;
        now += 20 * RTT;
        received += 2_000_000;
        arrive(&mut window, &mut now, &mut received, 100_000, 4);
        assert_eq!(window.flight, grown);
    }

    #[test]
    fn the_round_trip_is_that_of_an_empty_queue() {
        let (mut window, mut now, mut received) = (Window::new(LIMIT, true), Instant::now(), 0);
        arrive(&mut window, &mut now, &mut received, 2_000_000, 4);
        let grown = window.flight;
        for _ in 0..100 {
            now += RTT / 10;
            received += 200_000;
            window.follow(now, received, RTT, 3 * RTT);
        }
        assert_eq!(window.flight, grown);
    }

    #[test]
    fn a_first_acknowledgement_that_was_delayed_makes_no_room_for_a_slow_start() {
        let (mut window, mut now, mut received) = (Window::new(LIMIT, true), Instant::now(), 0);
        for _ in 0..50 {
            window.follow(now, received, RTT, 4 * RTT);
            now += RTT / 10;
            received += FIRST / 20;
        }
        assert_eq!(window.renew(0), None);
    }

    #[test]
    fn another_path_begins_as_the_first_did() {
        let (mut window, mut now, mut received) = (Window::new(LIMIT, true), Instant::now(), 0);
        arrive(&mut window, &mut now, &mut received, 2_000_000, 4);
        window.renew(0);
        window.begin();
        assert_eq!(window.renew(0), Some(FIRST));
    }

    #[test]
    fn what_is_neglected_stops_nothing_else_within_the_limit() {
        let mut window = Window::new(LIMIT, true);
        window.neglected = FIRST / 4 / FRAME;
        assert_eq!(window.renew(0), None);
        window.neglected = 4 * FIRST / FRAME;
        let more = window.renew(0).unwrap();
        assert!(more > 4 * FIRST);
        window.neglected = LIMIT / FRAME;
        assert_eq!(window.renew(0), Some(LIMIT));
        window.neglected = 0;
        assert_eq!(window.renew(0), Some(FIRST));
    }

    #[test]
    fn what_waits_outside_of_the_engine_counts_against_the_limit() {
        let mut window = Window::new(LIMIT, true);
        assert_eq!(window.renew(LIMIT - FIRST / 2), Some(FIRST / 2));
        assert_eq!(window.renew(2 * LIMIT), Some(1));
        assert_eq!(window.renew(0), Some(FIRST));
    }

    #[test]
    fn of_a_server_or_with_a_small_limit_it_stays_as_it_is() {
        for (limit, follows) in [(LIMIT, false), (FIRST / 2, true)] {
            let (mut window, mut now, mut received) = (Window::new(limit, follows), Instant::now(), 0);
            if follows {
                arrive(&mut window, &mut now, &mut received, 2_000_000, 4);
            }
            window.begin();
            window.neglected = limit;
            assert_eq!((window.flight, window.renew(0)), (limit, None));
        }
    }
}
