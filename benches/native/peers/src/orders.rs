//! A server says where it is, and for each line that comes what it has used; it goes when its standard input ends.

use std::{
    fs, io, process,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike,
};

use crate::Failure;

/// How many connections stand, or stood.
#[derive(Clone, Default)]
pub struct Accepted(Arc<AtomicU64>);

impl Accepted {
    pub fn one_more(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Tells the port, and obeys from now on, on a thread of its own.
pub fn obey(port: u16, accepted: Accepted) {
    println!("{{\"port\": {port}}}");
    thread::spawn(move || {
        for _ in io::stdin().lines().map_while(Result::ok) {
            match usage(&accepted) {
                Ok(line) => println!("{line}"),
                Err(error) => eprintln!("cannot say what was used: {error}"),
            }
        }
        process::exit(0);
    });
}

fn usage(accepted: &Accepted) -> Result<String, Failure> {
    let used = getrusage(UsageWho::RUSAGE_SELF)?;
    let seconds = |time: nix::sys::time::TimeVal| time.num_microseconds() as f64 / 1e6;
    let status = fs::read_to_string("/proc/self/status")?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    let kib: u64 = resident.trim_end_matches("kB").trim().parse()?;
    Ok(format!(
        "{{\"accepted\": {}, \"memory\": {}, \"user\": {}, \"system\": {}}}",
        accepted.0.load(Ordering::Relaxed),
        kib << 10,
        seconds(used.user_time()),
        seconds(used.system_time()),
    ))
}
