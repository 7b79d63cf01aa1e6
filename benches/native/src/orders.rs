//! Orders come as lines on standard input; each is answered with one line of JSON on standard output.

use std::{
    io::{self, BufRead, Write},
    os::fd::AsRawFd,
    sync::{
        Arc,
        mpsc::{self, Receiver, TryRecvError},
    },
    thread,
};

use whimbrel_udp::{Epoll, EventFd};

/// What an order's line said; `End`: there will be no more.
#[derive(Debug)]
pub enum Order {
    Words(Vec<String>),
    End,
}

/// The lines that came, and a flag that wakes whoever waits in `epoll`.
pub struct Orders {
    lines: Receiver<String>,
    flag: Arc<EventFd>,
}

impl Orders {
    /// Starts to read. The epoll reports `token` when there is something to `take`.
    pub fn new(epoll: &Epoll, token: u64) -> io::Result<Self> {
        let flag = Arc::new(EventFd::new()?);
        epoll.add(flag.as_raw_fd(), token)?;
        let (sender, lines) = mpsc::channel();
        let signal = flag.clone();
        thread::spawn(move || {
            for line in io::stdin().lock().lines() {
                let Ok(line) = line else { break };
                if sender.send(line).is_err() {
                    break;
                }
                signal.signal();
            }
            drop(sender);
            signal.signal();
        });
        Ok(Self { lines, flag })
    }

    pub fn take(&self) -> Option<Order> {
        match self.lines.try_recv() {
            Ok(line) => Some(Order::Words(line.split_whitespace().map(str::to_owned).collect())),
            Err(TryRecvError::Empty) => {
                self.flag.clear();
                // One may have come between the look and the clearing.
                self.lines.try_recv().ok().map(|line| {
                    self.flag.signal();
                    Order::Words(line.split_whitespace().map(str::to_owned).collect())
                })
            }
            Err(TryRecvError::Disconnected) => Some(Order::End),
        }
    }
}

/// Says one line, at once.
pub fn answer(line: &str) -> Result<(), String> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(|error| format!("cannot answer: {error}"))
}
