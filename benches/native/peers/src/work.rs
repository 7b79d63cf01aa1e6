//! What a client does, and the figures that it tells in a line of JSON: the same as programs/_work.py.

use std::{
    io,
    time::{Duration, Instant},
};

use nix::time::{ClockId, clock_gettime};

use crate::Failure;

const WARM_UP: usize = 50;
/// Exchanges under way at once.
const STREAMS: u64 = 100;
/// Bytes each way of one of them.
const SMALL: u64 = 1024;

/// A library, as a client of one server.
pub trait Library: 'static {
    type Connection: Clone + Send + 'static;

    fn connect(&self) -> impl Future<Output = Result<Self::Connection, Failure>>;

    /// Sends so many bytes, and gets so many back.
    fn exchange(
        connection: Self::Connection,
        up: u64,
        down: u64,
    ) -> impl Future<Output = Result<(), Failure>> + Send + 'static;

    /// Ends a connection whose handshake was as it was to be, or says how it was not.
    fn verify(&self, connection: Self::Connection) -> impl Future<Output = Result<(), Failure>>;

    fn close(connection: Self::Connection);
}

/// Seconds, and processor seconds of this process with all its threads.
struct Watch {
    began: Instant,
    used: Duration,
}

impl Watch {
    fn new() -> Result<Self, Failure> {
        Ok(Self { began: Instant::now(), used: used()? })
    }

    fn tell(&self, more: &str) -> Result<(), Failure> {
        let (seconds, cpu) = (self.began.elapsed().as_secs_f64(), (used()? - self.used).as_secs_f64());
        println!("{{\"seconds\": {seconds}, \"cpu\": {cpu}{more}}}");
        Ok(())
    }
}

fn used() -> Result<Duration, Failure> {
    Ok(Duration::from(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?))
}

pub async fn run<L: Library>(library: L, work: &str, count: u64) -> Result<(), Failure> {
    match work {
        "handshakes" => {
            let watch = Watch::new()?;
            for _ in 0..count {
                L::close(library.connect().await?);
            }
            watch.tell("")
        }
        "first" | "resumed" | "early" => {
            // The first has nothing to resume yet.
            until_answered(&library).await?;
            let mut seconds = 0.0;
            for _ in 0..count {
                let (connection, each) = until_answered(&library).await?;
                library.verify(connection).await?;
                seconds += each;
            }
            println!("{{\"seconds\": {seconds}}}");
            Ok(())
        }
        "idle" => {
            let mut all = Vec::new();
            for _ in 0..count {
                all.push(library.connect().await?);
            }
            println!("{{\"connections\": {count}}}");
            io::read_to_string(io::stdin())?;
            Ok(())
        }
        _ => {
            let (connection, _) = until_answered(&library).await?;
            on_one::<L>(&connection, work, count).await?;
            L::close(connection);
            Ok(())
        }
    }
}

/// A connection, and how many seconds it took until a byte came back over it.
async fn until_answered<L: Library>(library: &L) -> Result<(L::Connection, f64), Failure> {
    let began = Instant::now();
    let connection = library.connect().await?;
    L::exchange(connection.clone(), 1, 1).await?;
    let seconds = began.elapsed().as_secs_f64();
    // What the next one resumes with comes after the handshake, which an early answer does not wait for.
    L::exchange(connection.clone(), 1, 1).await?;
    Ok((connection, seconds))
}

async fn on_one<L: Library>(connection: &L::Connection, work: &str, count: u64) -> Result<(), Failure> {
    let watch = Watch::new()?;
    match work {
        "download" => L::exchange(connection.clone(), 0, count).await?,
        "upload" => L::exchange(connection.clone(), count, 1).await?,
        "ping" => return ping::<L>(connection, count).await,
        "streams" => {
            let each = |number| count / STREAMS + u64::from(number < count % STREAMS);
            let tasks: Vec<_> =
                (0..STREAMS).map(|number| tokio::spawn(one_by_one::<L>(connection.clone(), each(number)))).collect();
            for task in tasks {
                task.await??;
            }
        }
        _ => return Err(format!("what is {work:?}?").into()),
    }
    watch.tell("")
}

async fn one_by_one<L: Library>(connection: L::Connection, count: u64) -> Result<(), Failure> {
    for _ in 0..count {
        L::exchange(connection.clone(), SMALL, SMALL).await?;
    }
    Ok(())
}

async fn ping<L: Library>(connection: &L::Connection, count: u64) -> Result<(), Failure> {
    for _ in 0..WARM_UP {
        L::exchange(connection.clone(), 1, 1).await?;
    }
    let watch = Watch::new()?;
    let mut times = Vec::new();
    for _ in 0..count {
        let began = Instant::now();
        L::exchange(connection.clone(), 1, 1).await?;
        times.push(began.elapsed());
    }
    times.sort();
    let centile = |part: usize| times[times.len() * part / 100].as_secs_f64();
    watch.tell(&format!(", \"p50\": {}, \"p99\": {}", centile(50), centile(99)))
}
