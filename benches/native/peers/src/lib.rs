//! What the programs share: the command line, the work of a client, the orders of a server.
//!
//!     NAME server FOLDER OPTIONS
//!     NAME client FOLDER PORT WORK COUNT OPTIONS
//!
//! FOLDER has the certificates, OPTIONS are in JSON. The exchange is that of the programs in Python: a client opens a
//! stream, says in 8 bytes how many it wants, sends as many as it likes and finishes; the server answers with as many as
//! were wanted. One thread each: quinn's own program for measuring has it so, and two are no faster here.

use std::{env, error::Error, net::SocketAddr, path::PathBuf, process::ExitCode};

use serde::Deserialize;

pub mod orders;
pub mod work;

pub type Failure = Box<dyn Error + Send + Sync>;

pub const ALPN: &str = "bench";
pub const HOST: &str = "127.0.0.1";
pub const HEAD: usize = 8;
pub static CONTENT: [u8; 1 << 18] = [0; 1 << 18];
/// As quinn's own program for measuring has it.
pub const SOCKET_BUFFER: usize = 2 << 20;
/// What a request has in its first write, with the head: one that is small needs no second.
pub const FIRST: u64 = 1 << 14;

#[derive(Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// The largest UDP payload that path MTU discovery may come to.
    pub datagram: u16,
}

pub enum Task {
    Server { options: Options, folder: PathBuf },
    Client { options: Options, folder: PathBuf, server: SocketAddr, work: String, count: u64 },
}

/// How a client's handshakes are.
#[derive(Clone, Copy, PartialEq)]
pub enum Handshake {
    Full,
    Resumed,
    /// Resumed, and the request goes with the first packet.
    Early,
}

impl Handshake {
    pub fn of(work: &str) -> Self {
        match work {
            "resumed" => Self::Resumed,
            "early" => Self::Early,
            _ => Self::Full,
        }
    }
}

/// Does what the command line says.
pub fn run<F: Future<Output = Result<(), Failure>>>(name: &str, program: impl FnOnce(Task) -> F) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.map_err(Failure::from).and_then(|runtime| runtime.block_on(program(task()?)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn task() -> Result<Task, Failure> {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["server", folder, options] => {
            Ok(Task::Server { options: serde_json::from_str(options)?, folder: folder.into() })
        }
        ["client", folder, port, work, count, options] => Ok(Task::Client {
            options: serde_json::from_str(options)?,
            folder: folder.into(),
            server: format!("{HOST}:{port}").parse()?,
            work: work.into(),
            count: count.parse()?,
        }),
        _ => Err("usage: server FOLDER OPTIONS | client FOLDER PORT WORK COUNT OPTIONS".into()),
    }
}
