//! How the packets of a connection leave: by which socket, interface and source address.

use std::time::Instant;

use rustc_hash::FxHashMap;
use whimbrel_udp::Pin;

/// The path that a connection uses now.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ActivePath {
    /// The socket to send by; `None` only in virtual time, on a server.
    pub socket: Option<u64>,
    /// On a server: the socket that the client came by, and comes by again when it has moved. `socket` is another where
    /// the connection has one of its own.
    pub home: Option<u64>,
    /// Interface and source address named in each packet; `None`: the kernel chooses.
    pub pin: Option<Pin>,
    /// Socket and pin before the last move.
    pub previous: Option<(u64, Option<Pin>)>,
    /// Nothing is sent before this, on the engine's clock.
    pub rests_until: Option<Instant>,
    pub moves: u64,
    pub send_errors: u64,
    /// The refusal that was reported last, until a packet gets out again.
    pub refused: Option<i32>,
}

impl ActivePath {
    /// The socket that a server has opened for this connection.
    pub fn own_socket(&self) -> Option<u64> {
        self.home.and(self.socket).filter(|_| self.socket != self.home)
    }
}

/// The paths of all connections, by number.
#[derive(Debug, Default)]
pub(crate) struct Paths(FxHashMap<u64, ActivePath>);

impl Paths {
    pub fn insert(&mut self, connection: u64, path: ActivePath) {
        self.0.insert(connection, path);
    }

    pub fn get(&self, connection: u64) -> ActivePath {
        self.0.get(&connection).copied().unwrap_or_default()
    }

    pub fn get_mut(&mut self, connection: u64) -> Option<&mut ActivePath> {
        self.0.get_mut(&connection)
    }

    pub fn replace_socket(&mut self, connection: u64, socket: Option<u64>) {
        if let Some(path) = self.0.get_mut(&connection) {
            path.socket = socket;
        }
    }

    pub fn remove(&mut self, connection: u64) -> Option<ActivePath> {
        self.0.remove(&connection)
    }

    /// Whether a datagram that came by this socket, to this address, came over the path in use.
    pub fn is_active(&self, connection: u64, socket: u64, local: Option<std::net::IpAddr>, interface: u32) -> bool {
        let Some(path) = self.0.get(&connection) else { return true };
        // A client sends by another socket of ours without knowing, and before we do.
        if path.home.is_some() {
            return true;
        }
        if path.socket.is_some_and(|active| active != socket) {
            return false;
        }
        match (path.pin, local) {
            (Some(pin), Some(local)) => pin.source == local && (interface == 0 || pin.interface == interface),
            _ => true,
        }
    }
}
