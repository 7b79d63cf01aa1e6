//! Many clients in one process, on one socket, each with an address of its own in 127.0.0.0/8.
//!
//! To the server they are as many clients as there are connections; here they cost a connection's memory each, and one
//! descriptor in all. Orders, one a line; N is a count, W how many are under way at once:
//!
//! - `connect N W`: full handshakes, one connection each
//! - `exchange N W UP DOWN`: each on a new stream of the next connection: UP bytes there, DOWN bytes back
//! - `move N W`: the next connections move to an address that nobody had before, and exchange a byte over it
//!
//! Each is answered with one line of JSON: how long all took and each one did, and what the socket carried meanwhile.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::ExitCode,
    time::{Duration, Instant},
};

use quinn_proto::{
    ClientConfig, ConnectionHandle, Dir, Endpoint, Event, FinishError, ReadError, StreamEvent, StreamId, WriteError,
};
use whimbrel_bench::{
    host::{Host, now},
    options::Options,
    orders::{Order, Orders, answer},
};
use whimbrel_udp::Socket;

const ORDERS: u64 = 1;
const PIECE: usize = 1 << 16;
static CONTENT: [u8; PIECE] = [0; PIECE];
/// Seconds without any progress after which an order has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// One exchange under way.
struct Exchange {
    began: Instant,
    /// What is sent ahead: how many bytes are wanted.
    head: Vec<u8>,
    unsent: usize,
    finished: bool,
    wanted: usize,
}

struct Crowd {
    host: Host,
    config: ClientConfig,
    server: SocketAddr,
    handles: Vec<ConnectionHandle>,
    /// The connection whose turn it is.
    next: usize,
    /// How many addresses were handed out.
    addresses: u32,
    exchanges: HashMap<(ConnectionHandle, StreamId), Exchange>,
    dialled: HashMap<ConnectionHandle, Instant>,
    /// How long each took that ended.
    times: Vec<Duration>,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("crowd: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let options = Options::new()?;
    let failed = |error: std::io::Error| error.to_string();
    let socket = Socket::unconnected((Ipv4Addr::UNSPECIFIED, 0).into()).map_err(failed)?;
    let host = Host::new(socket, Endpoint::new(options.endpoint(), None, true, None)).map_err(failed)?;
    let orders = Orders::new(&host.epoll, ORDERS).map_err(failed)?;
    let mut crowd = Crowd {
        host,
        config: options.client()?,
        server: options.get("server")?,
        handles: Vec::new(),
        next: 0,
        addresses: 0,
        exchanges: HashMap::new(),
        dialled: HashMap::new(),
        times: Vec::new(),
    };
    loop {
        crowd.turn()?;
        match orders.take() {
            Some(Order::Words(words)) => answer(&crowd.obey(&words)?)?,
            Some(Order::End) => return crowd.leave(),
            None => crowd.host.wait().map_err(failed)?,
        }
    }
}

impl Crowd {
    fn obey(&mut self, words: &[String]) -> Result<String, String> {
        let (name, numbers) = words.split_first().ok_or("an order is empty")?;
        let numbers = numbers.iter().map(|word| word.parse()).collect::<Result<Vec<usize>, _>>();
        let numbers = numbers.map_err(|error| format!("{words:?}: {error}"))?;
        match (name.as_str(), numbers.as_slice()) {
            ("connect", &[count, width]) => self.all(count, width, Self::dial),
            ("exchange", &[count, width, up, down]) => {
                self.all(count, width, |crowd| crowd.exchange_with_next(up, down))
            }
            ("move", &[count, width]) => self.all(count, width, |crowd| {
                let source = crowd.new_address();
                let handle = crowd.upcoming()?;
                crowd.host.relocate(handle, source);
                crowd.exchange_with_next(1, 1)
            }),
            _ => Err(format!("{words:?} is no order")),
        }
    }

    /// Begins `count` of something, `width` at once, and waits until all have ended.
    fn all(
        &mut self,
        count: usize,
        width: usize,
        begin: impl Fn(&mut Self) -> Result<(), String>,
    ) -> Result<String, String> {
        let before = (self.host.datagrams_sent, self.host.datagrams_received);
        let began = now();
        let mut progress = (0, began);
        let mut begun = 0;
        self.times.clear();
        while self.times.len() < count {
            while begun < count && begun - self.times.len() < width {
                begin(self)?;
                begun += 1;
            }
            self.turn()?;
            if self.times.len() + self.host.datagrams_received as usize != progress.0 {
                progress = (self.times.len() + self.host.datagrams_received as usize, now());
            } else if progress.1.elapsed() > PATIENCE {
                return Err(format!("{} of {count} ended, and nothing comes any more", self.times.len()));
            }
            if self.times.len() < count && (begun == count || begun - self.times.len() >= width) {
                self.host.wait().map_err(|error| error.to_string())?;
            }
        }
        let seconds = began.elapsed().as_secs_f64();
        self.times.sort();
        let centile = |part: usize| self.times[(count * part / 100).min(count - 1)].as_secs_f64() * 1e6;
        Ok(format!(
            "{{\"count\": {count}, \"seconds\": {seconds}, \"p50_us\": {}, \"p99_us\": {}, \"max_us\": {}, \
             \"datagrams_sent\": {}, \"datagrams_received\": {}}}",
            centile(50),
            centile(99),
            centile(100),
            self.host.datagrams_sent - before.0,
            self.host.datagrams_received - before.1,
        ))
    }

    fn turn(&mut self) -> Result<(), String> {
        self.host.turn();
        while let Some((handle, event)) = self.host.events.pop_front() {
            match event {
                Event::Connected => {
                    let began = self.dialled.remove(&handle).ok_or("connected without a dial")?;
                    self.times.push(began.elapsed());
                }
                Event::ConnectionLost { reason } => return Err(format!("a connection was lost: {reason}")),
                Event::Stream(StreamEvent::Readable { id }) => self.read(handle, id)?,
                Event::Stream(StreamEvent::Writable { id }) => self.write(handle, id)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn dial(&mut self) -> Result<(), String> {
        let source = self.new_address();
        let name = self.server.ip().to_string();
        let (handle, connection) = self
            .host
            .endpoint
            .connect(now(), self.config.clone(), self.server, &name)
            .map_err(|error| error.to_string())?;
        self.dialled.insert(handle, now());
        self.handles.push(handle);
        self.host.adopt(handle, connection, Some(source));
        Ok(())
    }

    /// 127.1.0.0, 127.1.0.1, ...: every address of 127.0.0.0/8 is this machine's.
    fn new_address(&mut self) -> IpAddr {
        self.addresses += 1;
        Ipv4Addr::from_bits(Ipv4Addr::new(127, 1, 0, 0).to_bits() + self.addresses).into()
    }

    fn upcoming(&self) -> Result<ConnectionHandle, String> {
        self.handles.get(self.next).copied().ok_or_else(|| "there are no connections yet".into())
    }

    fn exchange_with_next(&mut self, up: usize, down: usize) -> Result<(), String> {
        let handle = self.upcoming()?;
        // A step that leaves nobody out for any count, and meets neighbours far apart.
        self.next = (self.next + stride(self.handles.len())) % self.handles.len();
        let connection = self.host.connection(handle).ok_or("a connection has gone")?;
        let stream = connection.streams().open(Dir::Bi).ok_or("the server lets us open no more streams")?;
        let head = (down as u64).to_be_bytes().to_vec();
        let exchange = Exchange { began: now(), head, unsent: up, finished: false, wanted: down };
        self.exchanges.insert((handle, stream), exchange);
        self.write(handle, stream)
    }

    fn write(&mut self, handle: ConnectionHandle, id: StreamId) -> Result<(), String> {
        let Some(exchange) = self.exchanges.get_mut(&(handle, id)) else { return Ok(()) };
        let Some(connection) = self.host.connection(handle) else { return Ok(()) };
        let mut stream = connection.send_stream(id);
        while !exchange.finished {
            if exchange.head.is_empty() && exchange.unsent == 0 {
                exchange.finished = true;
                return stream.finish().map_err(|error: FinishError| error.to_string());
            }
            let piece = if exchange.head.is_empty() { &CONTENT[..exchange.unsent.min(PIECE)] } else { &exchange.head };
            match stream.write(piece) {
                Ok(count) if exchange.head.is_empty() => exchange.unsent -= count,
                Ok(count) => drop(exchange.head.drain(..count)),
                Err(WriteError::Blocked) => return Ok(()),
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(())
    }

    fn read(&mut self, handle: ConnectionHandle, id: StreamId) -> Result<(), String> {
        let Some(exchange) = self.exchanges.get_mut(&(handle, id)) else { return Ok(()) };
        let Some(connection) = self.host.connection(handle) else { return Ok(()) };
        let mut stream = connection.recv_stream(id);
        let mut chunks = stream.read(true).map_err(|error| error.to_string())?;
        let ended = loop {
            match chunks.next(usize::MAX) {
                Ok(Some(chunk)) => {
                    exchange.wanted = exchange.wanted.checked_sub(chunk.bytes.len()).ok_or("more than was wanted")?;
                }
                Ok(None) => break true,
                Err(ReadError::Blocked) => break false,
                Err(error) => return Err(error.to_string()),
            }
        };
        let _ = chunks.finalize();
        if ended {
            if exchange.wanted > 0 {
                return Err(format!("{} bytes are missing", exchange.wanted));
            }
            self.times.push(exchange.began.elapsed());
            self.exchanges.remove(&(handle, id));
        }
        Ok(())
    }

    /// Tells the server that all go.
    fn leave(&mut self) -> Result<(), String> {
        for handle in self.handles.drain(..) {
            if let Some(connection) = self.host.connection(handle) {
                connection.close(now(), 0_u32.into(), Vec::new().into());
            }
        }
        self.host.turn();
        Ok(())
    }
}

/// A number without a divisor in common with `count`, so that steps of it reach everybody before anybody twice.
fn stride(count: usize) -> usize {
    let common = |mut a: usize, mut b: usize| {
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    (count * 5 / 8 + 1..).find(|&step| common(step, count) == 1).unwrap_or(1)
}
