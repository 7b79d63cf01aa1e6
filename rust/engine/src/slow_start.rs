//! Leaving slow start before the queue overflows: HyStart++ (RFC 9406) in front of the engine's CUBIC.
//!
//! The engine doubles its window until packets are lost, and then all that did not fit into the path's queue is lost at
//! once: the receiver waits for it for longer than the whole move to another network took. A queue that fills shows in
//! the round-trip time before that.
//!
//! One liberty is taken. The engine's CUBIC can be told to leave slow start in one way only, by a congestion event, and
//! so the window shrinks by three tenths then (RFC 9438 §4.6) where RFC 9406 §4.2 keeps it: what stands in the queue by
//! then drains.

use std::{
    any::Any,
    sync::Arc,
    time::{Duration, Instant},
};

use quinn_proto::{
    RttEstimator,
    congestion::{Controller, ControllerFactory, ControllerMetrics, Cubic, CubicConfig},
};

// RFC 9406 §4.3.
const MIN_RTT_THRESH: Duration = Duration::from_millis(4);
const MAX_RTT_THRESH: Duration = Duration::from_millis(16);
const MIN_RTT_DIVISOR: u32 = 8;
const N_RTT_SAMPLE: u32 = 8;
const CSS_GROWTH_DIVISOR: u64 = 4;
const CSS_ROUNDS: u32 = 5;

/// What the next paths get.
#[derive(Debug, Default)]
pub(crate) struct SlowStartConfig(Arc<CubicConfig>);

impl ControllerFactory for SlowStartConfig {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(SlowStart {
            cubic: Cubic::new(self.0.clone(), now, current_mtu),
            began: now,
            phase: Phase::Doubling,
            round: Round::default(),
            last_round_min: None,
            last_sent: 0,
        })
    }
}

#[derive(Clone, Debug)]
struct SlowStart {
    cubic: Cubic,
    /// What was sent before went another way.
    began: Instant,
    phase: Phase,
    round: Round,
    last_round_min: Option<Duration>,
    last_sent: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The window doubles each round trip.
    Doubling,
    /// The round-trip time grew, once. Was it a queue? The window grows slowly meanwhile.
    Conservative { baseline: Duration, rounds: u32 },
    /// There was congestion: CUBIC's business from now on.
    Over,
}

/// One round trip's worth of packets.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    /// It ends when this packet is acknowledged.
    end: u64,
    min: Option<Duration>,
    samples: u32,
}

impl SlowStart {
    /// A packet was acknowledged.
    fn observe(&mut self, now: Instant, sent: Instant) {
        if self.phase == Phase::Over || sent < self.began {
            return;
        }
        let rtt = now.saturating_duration_since(sent);
        self.round.samples += 1;
        self.round.min = Some(self.round.min.map_or(rtt, |min| min.min(rtt)));
        let Some(current) = self.round.min.filter(|_| self.round.samples >= N_RTT_SAMPLE) else { return };
        match (self.phase, self.last_round_min) {
            (Phase::Doubling, Some(last)) => {
                let threshold = (last / MIN_RTT_DIVISOR).clamp(MIN_RTT_THRESH, MAX_RTT_THRESH);
                if current >= last + threshold {
                    self.phase = Phase::Conservative { baseline: current, rounds: 0 };
                }
            }
            (Phase::Conservative { baseline, .. }, _) if current < baseline => self.phase = Phase::Doubling,
            _ => {}
        }
    }

    fn next_round(&mut self, now: Instant) {
        self.last_round_min = self.round.min.or(self.last_round_min);
        self.round = Round { end: self.last_sent, ..Round::default() };
        if let Phase::Conservative { baseline, rounds } = self.phase {
            self.phase = Phase::Conservative { baseline, rounds: rounds + 1 };
            if rounds + 1 >= CSS_ROUNDS {
                self.phase = Phase::Over;
                self.cubic.on_congestion_event(now, now, false, 0);
            }
        }
    }
}

impl Controller for SlowStart {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.last_sent = last_packet_number;
        self.cubic.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        self.observe(now, sent);
        let bytes = if matches!(self.phase, Phase::Conservative { .. }) { bytes / CSS_GROWTH_DIVISOR } else { bytes };
        self.cubic.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest: Option<u64>) {
        if self.phase != Phase::Over && largest.is_some_and(|largest| largest >= self.round.end) {
            self.next_round(now);
        }
        self.cubic.on_end_acks(now, in_flight, app_limited, largest);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, is_persistent_congestion: bool, lost_bytes: u64) {
        self.phase = Phase::Over;
        self.cubic.on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.cubic.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        self.cubic.window()
    }

    fn metrics(&self) -> ControllerMetrics {
        self.cubic.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.cubic.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKET: u64 = 1200;

    /// A path on which a round trip takes what its queue makes it take.
    struct Journey {
        controller: SlowStart,
        now: Instant,
        sent: u64,
    }

    impl Journey {
        #[expect(clippy::disallowed_methods, reason = "any moment will do")]
        fn new() -> Self {
            let now = Instant::now();
            let controller = Arc::new(SlowStartConfig::default()).build(now, PACKET as u16);
            let controller = *controller.into_any().downcast::<SlowStart>().unwrap();
            Self { controller, now, sent: 0 }
        }

        /// A window's packets go out, and are acknowledged after that time.
        fn round(&mut self, milliseconds: u64) {
            let begin = self.now;
            let window = self.controller.window();
            for _ in 0..window / PACKET {
                self.sent += 1;
                self.controller.on_sent(begin, PACKET, self.sent);
            }
            self.now += Duration::from_millis(milliseconds);
            for _ in 0..window / PACKET {
                self.controller.observe(self.now, begin);
            }
            self.controller.on_end_acks(self.now, 0, false, Some(self.sent));
        }
    }

    #[test]
    fn a_steady_round_trip_is_no_reason_to_leave() {
        let mut journey = Journey::new();
        for milliseconds in [40, 41, 40, 43, 40, 42, 41] {
            journey.round(milliseconds);
        }
        assert_eq!(journey.controller.phase, Phase::Doubling);
    }

    #[test]
    fn a_queue_that_stays_ends_it_before_anything_is_lost() {
        let mut journey = Journey::new();
        journey.round(40);
        journey.round(40);
        let before = journey.controller.window();
        for _ in 0..CSS_ROUNDS {
            assert_eq!(journey.controller.window(), before);
            journey.round(50);
        }
        assert_eq!(journey.controller.phase, Phase::Over);
        assert_eq!(journey.controller.window(), before * 7 / 10);
    }

    #[test]
    fn a_queue_that_goes_away_was_none_of_ours() {
        let mut journey = Journey::new();
        for milliseconds in [40, 40, 50, 50, 40] {
            journey.round(milliseconds);
        }
        assert_eq!(journey.controller.phase, Phase::Doubling);
    }

    #[test]
    fn what_was_sent_by_another_way_before_says_nothing_of_this_one() {
        let mut journey = Journey::new();
        let before = journey.now - Duration::from_millis(5);
        for _ in 0..20 {
            journey.controller.observe(journey.now, before);
        }
        assert_eq!(journey.controller.round.min, None);
    }

    #[test]
    fn congestion_ends_it() {
        let mut journey = Journey::new();
        journey.round(40);
        journey.controller.on_congestion_event(journey.now, journey.now, false, PACKET);
        assert_eq!(journey.controller.phase, Phase::Over);
    }
}
