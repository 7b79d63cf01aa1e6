//! The engine's time: the machine's, minus the outages.
//!
//! While there is no network the engine's clock stands still, so that neither its back-off nor our idle timeout grows
//! for want of an answer that cannot come. The peer's clock goes on, and its idle timeout bounds the outage (RFC 9000
//! §10.1).

use std::time::{Duration, Instant};

#[derive(Debug)]
pub struct Clock {
    base: Instant,
    skipped: Duration,
    held_at: Option<Instant>,
    /// Seconds on the caller's clock at `base`; for a virtual clock, advanced by hand.
    base_seconds: f64,
    virtual_now: Option<Instant>,
}

impl Clock {
    /// The machine's clock. `seconds` is what the caller's monotonic clock shows now.
    #[expect(clippy::disallowed_methods, reason = "this is where time comes from")]
    pub fn real(seconds: f64) -> Self {
        let base = Instant::now();
        Self { base, skipped: Duration::ZERO, held_at: None, base_seconds: seconds, virtual_now: None }
    }

    /// A clock that only `set` moves.
    pub fn simulated() -> Self {
        let mut clock = Self::real(0.0);
        clock.virtual_now = Some(clock.base);
        clock
    }

    pub fn set(&mut self, seconds: f64) {
        if let Some(now) = &mut self.virtual_now {
            *now = self.base + Duration::from_secs_f64(seconds.max(0.0));
        }
    }

    pub fn is_simulated(&self) -> bool {
        self.virtual_now.is_some()
    }

    #[expect(clippy::disallowed_methods, reason = "this is where time comes from")]
    fn wall(&self) -> Instant {
        self.virtual_now.unwrap_or_else(Instant::now)
    }

    /// Now, on the engine's clock.
    pub fn now(&self) -> Instant {
        self.held_at.unwrap_or_else(|| self.wall()) - self.skipped
    }

    /// Now, on the caller's clock, seconds.
    pub fn seconds(&self) -> f64 {
        self.base_seconds + self.wall().duration_since(self.base).as_secs_f64()
    }

    /// How long until the engine's clock shows `when`; for ever, while it stands still.
    pub fn until(&self, when: Instant) -> Option<Duration> {
        if self.is_held() { None } else { Some(when.saturating_duration_since(self.now())) }
    }

    /// Stops it, or lets it go on; returns for how long it has stood still then.
    pub fn hold(&mut self, held: bool) -> Duration {
        match (held, self.held_at) {
            (true, None) => self.held_at = Some(self.wall()),
            (false, Some(since)) => {
                let stood_still = self.wall().duration_since(since);
                self.skipped += stood_still;
                self.held_at = None;
                return stood_still;
            }
            _ => {}
        }
        Duration::ZERO
    }

    pub fn is_held(&self) -> bool {
        self.held_at.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_does_not_count() {
        let mut clock = Clock::simulated();
        let start = clock.now();
        clock.set(1.0);
        clock.hold(true);
        clock.set(21.0);
        assert_eq!(clock.now() - start, Duration::from_secs(1));
        clock.hold(false);
        clock.set(22.0);
        assert_eq!(clock.now() - start, Duration::from_secs(2));
        assert_eq!(clock.seconds(), 22.0);
    }
}
