//! Congestion control of one path: CUBIC, kept from two mistakes of the engine around it.
//!
//! A queue is left before it overflows. The engine doubles its window until packets are lost, and then all that did not
//! fit into the path's queue is lost at once: the receiver waits for it for longer than the whole move to another
//! network took. A queue that fills shows in the round-trip time before that. This is HyStart++ (RFC 9406), but for
//! three things. The delay is that of the last eight packets at any time, not of a round's first eight: the window
//! grows by a half or more in what is left of a round. The window rests for a round while it is seen whether the delay
//! stays, where RFC 9406 §4.2 lets it grow slowly for five. And slow start ends with what the path holds without its
//! queue, or the queue would stand until the next loss, and every loss would cost a round trip and the queue.
//!
//! And what went another way before is left out. RFC 9000 §9.4 says that packets sent on the old path are none of the
//! new path's; the engine counts their loss, and a move away from a network that just died loses all that was under
//! way there. On a client's side it also holds them against the new path's window, which is the initial one and would
//! stay closed until they are acknowledged or lost.
//!
//! And nobody waits to say goodbye. A packet that only closes is not under congestion control (RFC 9002 §2: it asks for
//! no acknowledgement); the engine holds it back all the same while streams have more to send, and since a closed
//! connection heeds no acknowledgement, that is for ever.

use std::{
    any::Any,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
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
const N_RTT_SAMPLE: usize = 8;
/// What CUBIC leaves of its window after congestion (RFC 9438 §4.6).
const BETA_CUBIC: f64 = 0.7;

/// What the next paths get.
#[derive(Debug, Default)]
pub(crate) struct SlowStartConfig(Arc<CubicConfig>);

impl ControllerFactory for SlowStartConfig {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let cubic = Cubic::new(self.0.clone(), now, current_mtu);
        Box::new(SlowStart {
            initial_window: cubic.initial_window(),
            cubic,
            mtu: current_mtu,
            began: now,
            phase: Phase::Doubling,
            recent: Recent::default(),
            base: Duration::MAX,
            last_sent: 0,
            in_flight: InFlight::default(),
            closing: Arc::default(),
        })
    }
}

#[derive(Clone, Debug)]
struct SlowStart {
    cubic: Cubic,
    initial_window: u64,
    mtu: u16,
    /// What was sent before went another way.
    began: Instant,
    phase: Phase,
    recent: Recent,
    /// The shortest round trip of this path: one without a queue.
    base: Duration,
    last_sent: u64,
    in_flight: InFlight,
    /// Shared with the copies that the engine gives: it lends its own to nobody who could write.
    closing: Arc<AtomicBool>,
}

/// As long as it lives the window is without bounds: for a closed connection, which has nothing to send but its goodbye.
pub(crate) struct Unbounded(Arc<AtomicBool>);

impl Unbounded {
    pub(crate) fn new(controller: &dyn Controller) -> Option<Self> {
        let controller = controller.clone_box().into_any().downcast::<SlowStart>().ok()?;
        controller.closing.store(true, Ordering::Relaxed);
        Some(Self(controller.closing))
    }
}

impl Drop for Unbounded {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// What is under way, as far as a path's beginning needs to know it.
#[derive(Clone, Copy, Debug, Default)]
struct InFlight {
    /// Bytes sent over this path.
    here: u64,
    /// Bytes sent over the path before.
    before: u64,
    /// All of those are acknowledged or lost.
    settled: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The window doubles each round trip.
    Doubling,
    /// The round-trip time grew. Does it stay so, while the window does not grow, until this packet is acknowledged?
    Resting { until: u64 },
    /// CUBIC's business from now on.
    Over,
}

/// The round trips of the packets acknowledged last.
#[derive(Clone, Copy, Debug, Default)]
struct Recent {
    samples: [Duration; N_RTT_SAMPLE],
    count: usize,
}

impl Recent {
    fn add(&mut self, rtt: Duration) {
        self.samples[self.count % N_RTT_SAMPLE] = rtt;
        self.count += 1;
    }

    /// The shortest of them: a single packet's delay says nothing.
    fn shortest(&self) -> Option<Duration> {
        if self.count < N_RTT_SAMPLE { None } else { self.samples.iter().min().copied() }
    }
}

impl SlowStart {
    /// A packet was acknowledged; returns whether the window may grow by it.
    fn observe(&mut self, now: Instant, sent: Instant, app_limited: bool) -> bool {
        if sent < self.began {
            return false;
        }
        // Where there is little to send, an acknowledgement waits for its delay, not in a queue.
        if self.phase != Phase::Over && !app_limited {
            self.sample(now.saturating_duration_since(sent));
        }
        !matches!(self.phase, Phase::Resting { .. })
    }

    fn sample(&mut self, rtt: Duration) {
        self.recent.add(rtt);
        self.base = self.base.min(rtt);
        let Some(current) = self.recent.shortest() else { return };
        let threshold = (self.base / MIN_RTT_DIVISOR).clamp(MIN_RTT_THRESH, MAX_RTT_THRESH);
        match self.phase {
            Phase::Doubling if current >= self.base + threshold => {
                self.phase = Phase::Resting { until: self.last_sent };
            }
            // It went away by itself. Packets that left together differ by less than the other half.
            Phase::Resting { .. } if current < self.base + threshold / 2 => self.phase = Phase::Doubling,
            _ => {}
        }
    }

    /// Goes on with what the path holds without its queue, and no more than that.
    fn leave(&mut self, now: Instant, most: u64) {
        self.phase = Phase::Over;
        let rtt = self.recent.shortest().unwrap_or(self.base).max(self.base);
        let share = if rtt.is_zero() { 1.0 } else { self.base.as_secs_f64() / rtt.as_secs_f64() };
        let window = ((self.cubic.window() as f64 * share) as u64).min(most).max(self.initial_window);
        // CUBIC leaves slow start after congestion only, so it begins again with what that makes the right window.
        let mut config = CubicConfig::default();
        config.initial_window((window as f64 / BETA_CUBIC) as u64);
        self.cubic = Cubic::new(Arc::new(config), now, self.mtu);
        self.cubic.on_congestion_event(now, now, false, 0);
    }
}

impl Controller for SlowStart {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.last_sent = last_packet_number;
        self.in_flight.here += bytes;
        self.cubic.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        if sent >= self.began {
            self.in_flight.here = self.in_flight.here.saturating_sub(bytes);
        }
        if self.observe(now, sent, app_limited) {
            self.cubic.on_ack(now, sent, bytes, app_limited, rtt);
        }
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest: Option<u64>) {
        if matches!(self.phase, Phase::Resting { until } if largest.is_some_and(|largest| largest >= until)) {
            self.leave(now, u64::MAX);
        }
        if !self.in_flight.settled {
            self.in_flight.before = in_flight.saturating_sub(self.in_flight.here);
            self.in_flight.settled = self.in_flight.before == 0;
        }
        self.cubic.on_end_acks(now, in_flight, app_limited, largest);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, is_persistent_congestion: bool, lost_bytes: u64) {
        if sent < self.began {
            return;
        }
        self.in_flight.here = self.in_flight.here.saturating_sub(lost_bytes);
        if self.phase == Phase::Over || is_persistent_congestion {
            self.phase = Phase::Over;
            self.cubic.on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
        } else {
            self.leave(now, (self.cubic.window() as f64 * BETA_CUBIC) as u64);
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = new_mtu;
        self.cubic.on_mtu_update(new_mtu);
    }

    /// The engine holds it against all that is in flight, also what a client sent over the path before.
    fn window(&self) -> u64 {
        if self.closing.load(Ordering::Relaxed) {
            return u64::MAX;
        }
        self.cubic.window() + self.in_flight.before
    }

    fn metrics(&self) -> ControllerMetrics {
        self.cubic.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.initial_window
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
            // The first acknowledgement lets the next packet go.
            self.controller.on_sent(self.now, PACKET, self.sent + 1);
            for _ in 0..window / PACKET {
                self.controller.observe(self.now, begin, false);
            }
            self.controller.on_end_acks(self.now, 0, false, Some(self.sent));
        }
    }

    #[test]
    fn a_goodbye_waits_for_no_window() {
        let journey = Journey::new();
        let window = journey.controller.window();
        let unbounded = Unbounded::new(&journey.controller).unwrap();
        assert_eq!(journey.controller.window(), u64::MAX);
        drop(unbounded);
        assert_eq!(journey.controller.window(), window);
    }

    #[test]
    fn a_steady_round_trip_is_no_reason_to_leave() {
        let mut journey = Journey::new();
        for milliseconds in [40, 41, 40, 43, 40, 42, 41] {
            journey.round(milliseconds);
        }
        assert_eq!(journey.controller.phase, Phase::Doubling);
        assert!(journey.controller.observe(journey.now, journey.now, false));
    }

    #[test]
    fn a_queue_that_stays_ends_it_with_what_the_path_holds_without() {
        let mut journey = Journey::new();
        let mut config = CubicConfig::default();
        config.initial_window(100 * PACKET);
        journey.controller.cubic = Cubic::new(Arc::new(config), journey.now, PACKET as u16);
        journey.round(40);
        journey.round(50);
        assert!(!journey.controller.observe(journey.now, journey.now, true), "it rests");
        journey.round(50);
        assert_eq!(journey.controller.phase, Phase::Over);
        let window = journey.controller.window();
        assert!(window.abs_diff(80 * PACKET) < 10, "{window}");
    }

    #[test]
    fn a_queue_that_overflows_is_taken_out_of_the_window_as_well() {
        let mut journey = Journey::new();
        let mut config = CubicConfig::default();
        config.initial_window(100 * PACKET);
        journey.controller.cubic = Cubic::new(Arc::new(config), journey.now, PACKET as u16);
        journey.round(40);
        journey.round(80);
        journey.controller.on_congestion_event(journey.now, journey.now, false, PACKET);
        let window = journey.controller.window();
        assert!(window.abs_diff(50 * PACKET) < 10, "{window}");
    }

    #[test]
    fn a_delay_that_goes_away_was_no_queue() {
        let mut journey = Journey::new();
        (0..3).for_each(|_| journey.round(40));
        journey.round(50);
        assert!(matches!(journey.controller.phase, Phase::Resting { .. }));
        journey.round(40);
        assert_eq!(journey.controller.phase, Phase::Doubling);
    }

    #[test]
    fn what_was_sent_another_way_before_does_not_count() {
        let mut journey = Journey::new();
        let (window, before) = (journey.controller.window(), journey.now - Duration::from_millis(5));
        assert!(!journey.controller.observe(journey.now, before, false));
        journey.controller.on_congestion_event(journey.now, before, true, 20 * PACKET);
        assert_eq!(journey.controller.window(), window);
        assert_eq!((journey.controller.phase, journey.controller.recent.count), (Phase::Doubling, 0));
    }

    #[test]
    fn an_acknowledgement_that_waits_for_more_is_no_queue() {
        let mut journey = Journey::new();
        journey.round(40);
        let begin = journey.now;
        journey.now += Duration::from_millis(65);
        for _ in 0..20 {
            assert!(journey.controller.observe(journey.now, begin, true));
        }
        assert_eq!(journey.controller.phase, Phase::Doubling);
    }

    #[test]
    fn what_is_under_way_on_the_path_before_leaves_the_window_open() {
        let mut journey = Journey::new();
        let (window, before) = (journey.controller.window(), 50 * PACKET);
        journey.controller.on_sent(journey.now, 2 * PACKET, 1);
        journey.controller.on_end_acks(journey.now, before + 2 * PACKET, false, None);
        assert_eq!(journey.controller.window(), window + before);
        journey.controller.on_end_acks(journey.now, 2 * PACKET, false, None);
        assert_eq!(journey.controller.window(), window);
        journey.controller.on_end_acks(journey.now, 20 * PACKET, false, None);
        assert_eq!(journey.controller.window(), window, "once is enough");
    }

    #[test]
    fn congestion_ends_it() {
        let mut journey = Journey::new();
        journey.round(40);
        journey.controller.on_congestion_event(journey.now, journey.now, false, PACKET);
        assert_eq!(journey.controller.phase, Phase::Over);
    }
}
