//! Sockets, engine and timers, joined in one function: [`Pump::pump`].
//!
//! Whoever is awake calls it: an event loop, a blocking caller, or the [`guard`] thread when neither does. It knows
//! nothing of Python, and decides nothing about paths: it sends where it was told to.

mod clock;
mod guard;
mod paths;
mod pump;
mod state;
mod traffic;
mod waiting;
mod wire;

pub use clock::Clock;
pub use pump::{Control, Listening, Pump, PumpError, ServerStatistics, Time};
pub use traffic::Traffic;
pub use wire::VirtualDatagram;
