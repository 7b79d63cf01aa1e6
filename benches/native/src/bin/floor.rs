//! The engine alone as a server: what a connection costs before anybody has added anything.
//!
//! It lets clients in and keeps their connections. Orders: `usage`.

use std::{fs, net::SocketAddr, process::ExitCode, sync::Arc};

use quinn_proto::{Endpoint, Event};
use whimbrel_bench::{
    host::Host,
    options::Options,
    orders::{Order, Orders, answer},
};
use whimbrel_udp::Socket;

const ORDERS: u64 = 1;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("floor: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let options = Options::new()?;
    let failed = |error: std::io::Error| error.to_string();
    let socket = Socket::wildcard(options.get::<SocketAddr>("bind")?).map_err(failed)?;
    let endpoint = Endpoint::new(options.endpoint(), Some(Arc::new(options.server()?)), true, None);
    let mut host = Host::new(socket, endpoint).map_err(failed)?;
    let orders = Orders::new(&host.epoll, ORDERS).map_err(failed)?;
    answer(&format!("{{\"port\": {}}}", host.socket.local_addr().map_err(failed)?.port()))?;
    let mut connected = 0;
    loop {
        host.turn();
        for (_, event) in host.events.drain(..) {
            connected += u64::from(matches!(event, Event::Connected));
        }
        match orders.take() {
            Some(Order::Words(_)) => answer(&format!("{{\"accepted\": {connected}, \"memory\": {}}}", memory()?))?,
            Some(Order::End) => return Ok(()),
            None => host.wait().map_err(failed)?,
        }
    }
}

/// Resident bytes of this process.
fn memory() -> Result<u64, String> {
    let status = fs::read_to_string("/proc/self/status").map_err(|error| error.to_string())?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim_end_matches("kB").trim().parse::<u64>().map(|kib| kib << 10).map_err(|error| error.to_string())
}
