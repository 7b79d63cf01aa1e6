//! The QUIC engine behind a face of our own: datagrams in, datagrams out, time as an argument.
//!
//! The only crate that names `quinn-proto`, so that another engine could take its place. It opens nothing, waits for
//! nothing and reads no clock. What moves a connection is here as one call (`Connection::path_moved`); whether and when
//! is decided elsewhere.

mod admission;
mod allowance;
mod config;
mod connection;
mod early;
mod endpoint;
mod former_ids;
mod ids;
mod news;
mod peer_path;
mod qlog;
mod sessions;
mod slow_start;
mod steering;
mod tally;
mod tls;
mod workers;

pub use admission::{Admission, MANY_HANDSHAKES, Retry};
pub use config::{
    ClientConfig, ConfigError, Resumption, ServerConfig, ServerOptions, Transport, check_identity, check_roots,
};
pub use connection::{Connection, Ended, Facts, Read, Statistics, StreamFailure};
pub use endpoint::{ConnectError, Datagram, Endpoint, Received, Transmit};
pub use news::{Kind, News};
pub use sessions::SessionStore;
pub use steering::{Instruction, Steering};
pub use tally::{Dropped, Tally};
pub use workers::Worker;
