//! The engine as we set it up, on a socket of ours, and nothing around them: what the machine gives at most.
//!
//! Both sides of `programs/`, in one loop without Python, pump or threads. Of a server the order is `usage`; a client does
//! one piece of work (`--work download`, `upload`, `ping` or `requests`, `--count N`) and tells what it took. An exchange
//! is a stream: eight bytes that say how many are wanted back, the bytes there, the end; then the bytes back.

use std::{
    collections::HashMap,
    fs, io,
    net::SocketAddr,
    os::fd::AsRawFd,
    process::ExitCode,
    time::{Duration, Instant},
};

use bytes::Bytes;
use whimbrel_bench::{
    host::now,
    options::Options,
    orders::{Order, Orders, answer},
};
use whimbrel_engine::{
    Admission, ClientConfig, Datagram, Endpoint, Kind, News, Read, ServerConfig, ServerOptions, Transmit, Transport,
};
use whimbrel_udp::{Epoll, Outgoing, Pin, ReceiveBuffers, Socket};

const SOCKET: u64 = 0;
const ORDERS: u64 = 1;
/// As the pump has it: datagrams in one send, and batches read before what they brought is answered.
const BATCH: usize = 40;
const ROUNDS: usize = 8;
const PIECE: usize = 1 << 20;
const HEAD: usize = 8;
/// Exchanges before the clock starts.
const WARM_UP: usize = 50;
/// Seconds without any progress after which work has failed.
const PATIENCE: Duration = Duration::from_secs(20);

static CONTENT: [u8; PIECE] = [0; PIECE];

fn main() -> ExitCode {
    let options = Options::new();
    match options.and_then(|options| if options.has("bind") { serve(&options) } else { work(&options) }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bare: {error}");
            ExitCode::FAILURE
        }
    }
}

fn transport(options: &Options) -> Result<Transport, String> {
    Ok(Transport {
        idle_timeout: Duration::from_secs_f64(options.get("idle-timeout")?),
        keepalive: None,
        stream_window: options.get("stream-window")?,
        connection_window: options.get("connection-window")?,
        max_streams: options.get("max-streams")?,
        send_buffer: options.get("send-buffer")?,
        initial_rtt: Duration::from_secs_f64(options.get("initial-rtt")?),
        mtu: if options.has("mtu") { Some(options.get("mtu")?) } else { None },
        qlog: None,
    })
}

fn alpn(options: &Options) -> Result<Vec<Vec<u8>>, String> {
    Ok(vec![options.get::<String>("alpn")?.into_bytes()])
}

// ── both sides ──────────────────────────────────────────────────────────────────────────────────────────────────────

/// Endpoint and socket, joined.
struct Bare {
    engine: Endpoint,
    socket: Socket,
    epoll: Epoll,
    buffers: ReceiveBuffers,
    output: Vec<u8>,
    response: Vec<u8>,
    began: Instant,
}

impl Bare {
    fn new(engine: Endpoint, socket: Socket) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        epoll.add(socket.as_raw_fd(), SOCKET)?;
        let (output, response) = (Vec::with_capacity(1 << 16), Vec::new());
        Ok(Self { engine, socket, epoll, buffers: ReceiveBuffers::new(), output, response, began: now() })
    }

    /// Does everything that is due.
    fn turn(&mut self) {
        for _ in 0..ROUNDS {
            if !self.receive() {
                break;
            }
        }
        self.engine.expire(now());
        while let Some(number) = self.engine.next_ready() {
            while let Some(transmit) = self.engine.transmit(number, now(), BATCH, &mut self.output) {
                send(&self.socket, &transmit, &self.output);
            }
            self.engine.settle(number);
        }
    }

    fn receive(&mut self) -> bool {
        // An error here is news of an earlier packet (ICMP).
        let count = self.socket.receive(&mut self.buffers).unwrap_or(0);
        let now = now();
        let at = now.duration_since(self.began).as_secs_f64();
        for message in self.buffers.iter() {
            for data in message.data.chunks(message.segment) {
                let datagram = Datagram { data, source: message.source, local: message.local, ecn: message.ecn, at };
                let received = self.engine.receive(now, datagram, |_| true, &mut self.response);
                if let Some(transmit) = received.answer {
                    send(&self.socket, &transmit, &self.response);
                }
            }
        }
        count > 0
    }

    fn wait(&self) -> Result<(), String> {
        let timer = self.engine.next_timeout().map(|when| when.saturating_duration_since(now()));
        let limit = timer.unwrap_or(PATIENCE).min(PATIENCE);
        self.epoll.wait(Some(limit), &mut Vec::new()).map_err(|error| error.to_string())
    }
}

/// What cannot be sent counts as lost.
fn send(socket: &Socket, transmit: &Transmit, data: &[u8]) {
    let contents = &data[..transmit.size];
    let pin = transmit.source.map(|source| Pin { interface: 0, source });
    let Transmit { destination, segment, ecn, .. } = *transmit;
    let _ = socket.send(&Outgoing { contents, destination, segment, pin, ecn });
}

/// What one side still has to do on a stream.
#[derive(Default)]
struct Exchange {
    /// The first eight bytes: to send, or, on a server, as far as they came.
    head: Vec<u8>,
    unsent: usize,
    finished: bool,
    received: usize,
}

impl Exchange {
    /// Writes what the windows allow, and the end.
    fn write(&mut self, engine: &mut Endpoint, (number, stream): (u64, u64)) -> Result<(), String> {
        let Some(connection) = engine.connection(number) else { return Ok(()) };
        let failed = |error| format!("stream {stream}: {error:?}");
        while !self.finished {
            let piece = if self.head.is_empty() {
                Bytes::from_static(&CONTENT[..self.unsent.min(PIECE)])
            } else {
                Bytes::copy_from_slice(&self.head)
            };
            if piece.is_empty() {
                connection.finish(stream).map_err(failed)?;
                self.finished = true;
                break;
            }
            match connection.write_shared(stream, piece).map_err(failed)? {
                0 => break,
                count if self.head.is_empty() => self.unsent -= count,
                count => drop(self.head.drain(..count)),
            }
        }
        engine.touch(number);
        Ok(())
    }

    /// Reads what is there; `true`: the peer's end came. `keep` so many of the first bytes.
    fn read(&mut self, engine: &mut Endpoint, (number, stream): (u64, u64), keep: usize) -> Result<bool, String> {
        let Some(connection) = engine.connection(number) else { return Ok(false) };
        let ended = loop {
            let read = connection.read(stream, PIECE, |chunk| {
                let missing = keep.saturating_sub(self.received).min(chunk.len());
                self.head.extend_from_slice(&chunk[..missing]);
                self.received += chunk.len();
            });
            match read.map_err(|error| format!("stream {stream}: {error:?}"))? {
                Read::Bytes(_) => {}
                Read::End => break true,
                Read::Blocked => break false,
            }
        };
        engine.touch(number);
        Ok(ended)
    }
}

// ── a server ────────────────────────────────────────────────────────────────────────────────────────────────────────

fn serve(options: &Options) -> Result<(), String> {
    let failed = |error: io::Error| error.to_string();
    let (certificate, key) = (options.read("certificate")?, options.read("key")?);
    let rest = ServerOptions {
        migration: true,
        id_length: 8,
        keylog: false,
        reset_key: None,
        early_data: false,
        worker: None,
    };
    let config = ServerConfig::new(alpn(options)?, &certificate, &key, None, &transport(options)?, rest)
        .map_err(|error| error.to_string())?;
    let socket = Socket::wildcard(options.get::<SocketAddr>("bind")?).map_err(failed)?;
    let engine = Endpoint::server(&config, Admission::default(), None);
    let mut bare = Bare::new(engine, socket).map_err(failed)?;
    let orders = Orders::new(&bare.epoll, ORDERS).map_err(failed)?;
    answer(&format!("{{\"port\": {}}}", bare.socket.local_addr().map_err(failed)?.port()))?;
    let mut accepted = 0;
    let mut exchanges = HashMap::new();
    loop {
        bare.turn();
        while let Some(news) = bare.engine.news.pop_front() {
            accepted += u64::from(news.kind == Kind::Connected);
            attend(&mut bare.engine, &mut exchanges, news)?;
        }
        if bare.engine.has_ready() {
            continue;
        }
        match orders.take() {
            Some(Order::Words(_)) => answer(&usage(accepted)?)?,
            Some(Order::End) => return Ok(()),
            None => bare.wait()?,
        }
    }
}

fn attend(
    engine: &mut Endpoint,
    exchanges: &mut HashMap<(u64, u64), Exchange>,
    News { connection, kind, value }: News,
) -> Result<(), String> {
    let mut readable = Vec::new();
    match kind {
        Kind::Opened => {
            let streams = engine.connection(connection);
            readable.extend(streams.into_iter().flat_map(|it| std::iter::from_fn(|| it.accept(false))));
        }
        Kind::Readable => readable.push(value),
        Kind::Writable => {
            let place = (connection, value);
            if let Some(exchange) = exchanges.get_mut(&place) {
                exchange.write(engine, place)?;
                if exchange.finished {
                    exchanges.remove(&place);
                }
            }
        }
        _ => {}
    }
    for stream in readable {
        let place = (connection, stream);
        let exchange = exchanges.entry(place).or_default();
        if exchange.read(engine, place, HEAD)? {
            let head = exchange.head.as_slice().try_into().map_err(|_| "a request is cut short")?;
            exchange.unsent = u64::from_be_bytes(head) as usize;
            exchange.head.clear();
            exchange.write(engine, place)?;
            if exchange.finished {
                exchanges.remove(&place);
            }
        }
    }
    Ok(())
}

fn usage(accepted: u64) -> Result<String, String> {
    let (user, system) = processor_seconds()?;
    Ok(format!("{{\"accepted\": {accepted}, \"user\": {user}, \"system\": {system}}}"))
}

// ── a client ────────────────────────────────────────────────────────────────────────────────────────────────────────

/// What all threads of this process have used, to the kernel's tick of a hundredth of a second.
fn processor_seconds() -> Result<(f64, f64), String> {
    const TICK: f64 = 0.01;
    let stat = fs::read_to_string("/proc/self/stat").map_err(|error| error.to_string())?;
    let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11);
    let mut next = || fields.next().and_then(|field| field.parse::<f64>().ok()).ok_or("no processor times");
    Ok((next()? * TICK, next()? * TICK))
}

struct Client {
    bare: Bare,
    number: u64,
    exchanges: HashMap<(u64, u64), Exchange>,
}

fn work(options: &Options) -> Result<(), String> {
    let roots = options.read("cafile")?;
    let config = ClientConfig::new(alpn(options)?, Some(&roots), None, &transport(options)?, None, false)
        .map_err(|error| error.to_string())?;
    let server: SocketAddr = options.get("server")?;
    let count: usize = options.get("count")?;
    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = Socket::unconnected(any.parse().map_err(|_| "no address")?).map_err(|error| error.to_string())?;
    let mut bare = Bare::new(Endpoint::client(None), socket).map_err(|error| error.to_string())?;
    let number =
        bare.engine.connect(now(), &config, server, &server.ip().to_string()).map_err(|error| error.to_string())?;
    let mut client = Client { bare, number, exchanges: HashMap::new() };
    client.until(|client| client.bare.engine.connection(client.number).is_some_and(|it| it.is_connected()))?;
    client.exchange(1, 1)?;
    let (began, before) = (now(), processor_seconds()?);
    let mut times = Vec::new();
    match options.get::<String>("work")?.as_str() {
        "download" => client.exchange(0, count)?,
        "upload" => client.exchange(count, 1)?,
        "ping" => {
            for _ in 0..WARM_UP + count {
                let began = now();
                client.exchange(1, 1)?;
                times.push(began.elapsed());
            }
            times.drain(..WARM_UP);
        }
        "requests" => client.requests(count, options.get("width")?, options.get("size")?)?,
        other => return Err(format!("{other:?} is no work")),
    }
    let (seconds, after) = (began.elapsed().as_secs_f64(), processor_seconds()?);
    let cpu = after.0 + after.1 - before.0 - before.1;
    times.sort();
    let centile = |part: usize| times.get(times.len() * part / 100).map_or(0.0, Duration::as_secs_f64);
    answer(&format!("{{\"seconds\": {seconds}, \"cpu\": {cpu}, \"p50\": {}, \"p99\": {}}}", centile(50), centile(99)))?;
    let Client { mut bare, number, .. } = client;
    if let Some(connection) = bare.engine.connection(number) {
        connection.close(now(), 0, b"");
        bare.engine.touch(number);
    }
    bare.turn();
    Ok(())
}

impl Client {
    /// One stream, and nothing else meanwhile.
    fn exchange(&mut self, up: usize, down: usize) -> Result<(), String> {
        if !self.begin(up, down)? {
            return Err("the server lets us open no streams".into());
        }
        self.until(|client| client.exchanges.is_empty())
    }

    /// So many streams, `width` at once, each with a byte there and `size` back.
    fn requests(&mut self, count: usize, width: usize, size: usize) -> Result<(), String> {
        let mut begun = 0;
        while begun < count || !self.exchanges.is_empty() {
            while begun < count && self.exchanges.len() < width && self.begin(1, size)? {
                begun += 1;
            }
            let open = self.exchanges.len();
            self.until(|client| client.exchanges.len() < open)?;
        }
        Ok(())
    }

    /// `false`: as many streams are open as the server allows.
    fn begin(&mut self, up: usize, down: usize) -> Result<bool, String> {
        let connection = self.bare.engine.connection(self.number).ok_or("the connection has gone")?;
        let Some(stream) = connection.open(false) else { return Ok(false) };
        let place = (self.number, stream);
        let mut exchange = Exchange { head: (down as u64).to_be_bytes().to_vec(), unsent: up, ..Exchange::default() };
        exchange.write(&mut self.bare.engine, place)?;
        self.exchanges.insert(place, exchange);
        Ok(true)
    }

    fn until(&mut self, done: impl Fn(&mut Self) -> bool) -> Result<(), String> {
        let mut progress = now();
        loop {
            self.bare.turn();
            while let Some(News { connection, kind, value }) = self.bare.engine.news.pop_front() {
                progress = now();
                let place = (connection, value);
                match (kind, self.exchanges.get_mut(&place)) {
                    (Kind::Lost, _) => return Err("the connection was lost".into()),
                    (Kind::Readable, Some(exchange)) => {
                        let ended = exchange.read(&mut self.bare.engine, place, 0)?;
                        if ended {
                            self.exchanges.remove(&place);
                        }
                    }
                    (Kind::Writable, Some(exchange)) => exchange.write(&mut self.bare.engine, place)?,
                    _ => {}
                }
            }
            if done(self) {
                return Ok(());
            }
            if progress.elapsed() > PATIENCE {
                return Err("nothing comes any more".into());
            }
            if !self.bare.engine.has_ready() {
                self.bare.wait()?;
            }
        }
    }
}
