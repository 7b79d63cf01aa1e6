//! A thread that pumps when nobody else does.
//!
//! The owner of a connection may compute, sleep or sit in a debugger; packets must be acknowledged all the same, and a
//! connection must not die of it. One thread for the process waits on the same sockets and timers as the owners. When
//! something is due it gives them a few milliseconds, and pumps what is still waiting then. It never needs Python's
//! lock. It exists only while there is something to guard, and a moment longer: who dials again and again pays for it
//! once.

use std::{
    collections::HashMap,
    io,
    os::fd::AsRawFd,
    process,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use whimbrel_udp::{Epoll, EventFd};

use crate::pump::Pump;

/// What an owner gets to see to it himself.
const GRACE: Duration = Duration::from_millis(5);
/// How long the thread outlasts the last that it guards.
const LINGER: Duration = Duration::from_millis(100);
const WAKE: u64 = u64::MAX;

/// The guard of one process. A fork copies it, but not its thread, and perhaps in the middle of a change: so a child
/// never touches its parent's, and has the next in the list.
struct Slot {
    process: u32,
    guard: Mutex<Option<Arc<Guard>>>,
    next: OnceLock<Box<Slot>>,
}

fn slot() -> &'static Mutex<Option<Arc<Guard>>> {
    static FIRST: OnceLock<Slot> = OnceLock::new();
    let process = process::id();
    let new = || Slot { process, guard: Mutex::new(None), next: OnceLock::new() };
    let mut slot = FIRST.get_or_init(new);
    while slot.process != process {
        slot = slot.next.get_or_init(|| Box::new(new()));
    }
    &slot.guard
}

/// Until when the thread means to sleep; 0: it does not.
static SLEEPING_UNTIL: AtomicU64 = AtomicU64::new(0);

struct Guard {
    epoll: Epoll,
    wake: EventFd,
    members: Mutex<Members>,
}

#[derive(Default)]
struct Members {
    next: u64,
    pumps: HashMap<u64, (usize, Weak<Pump>)>,
    ended: bool,
}

/// Nanoseconds on the guard's clock, `wait` from now.
pub(crate) fn in_time(wait: Duration) -> u64 {
    now().saturating_add(wait.as_nanos().try_into().unwrap_or(u64::MAX))
}

/// Somebody set a timer: the thread must not sleep past it.
pub(crate) fn expect(deadline: u64) {
    if deadline == u64::MAX {
        return;
    }
    let limit = deadline.saturating_add(nanos(GRACE));
    if limit < SLEEPING_UNTIL.load(Ordering::Relaxed) {
        SLEEPING_UNTIL.store(limit, Ordering::Relaxed);
        if let Some(guard) = &*lock(slot()) {
            guard.wake.signal();
        }
    }
}

pub(crate) fn add(pump: &Arc<Pump>) -> io::Result<()> {
    let mut current = lock(slot());
    if let Some(guard) = &*current
        && guard.enrol(pump)?
    {
        return Ok(());
    }
    let guard = Arc::new(Guard { epoll: Epoll::new()?, wake: EventFd::new()?, members: Mutex::default() });
    guard.epoll.add(guard.wake.as_raw_fd(), WAKE)?;
    guard.enrol(pump)?;
    *current = Some(guard.clone());
    thread::Builder::new().name("whimbrel-guard".into()).spawn(move || guard.run())?;
    Ok(())
}

pub(crate) fn remove(pump: &Pump) {
    let Some(guard) = lock(slot()).clone() else { return };
    let mut members = lock(&guard.members);
    let address = std::ptr::from_ref(pump) as usize;
    let number = members.pumps.iter().find(|(_, (other, _))| *other == address).map(|(number, _)| *number);
    if let Some(number) = number {
        members.pumps.remove(&number);
        let _ = guard.epoll.remove(pump.readable_fd());
        // One that will look soon, or is about to, sees by itself that there is nothing left.
        let sleeping_until = SLEEPING_UNTIL.load(Ordering::Relaxed);
        if members.pumps.is_empty() && (sleeping_until == 0 || sleeping_until > in_time(LINGER)) {
            guard.wake.signal();
        }
    }
}

impl Guard {
    /// `false`: this guard's thread is about to end.
    fn enrol(&self, pump: &Arc<Pump>) -> io::Result<bool> {
        let mut members = lock(&self.members);
        if members.ended {
            return Ok(false);
        }
        let number = members.next;
        members.next += 1;
        self.epoll.add(pump.readable_fd(), number)?;
        members.pumps.insert(number, (Arc::as_ptr(pump) as usize, Arc::downgrade(pump)));
        Ok(true)
    }

    fn run(&self) {
        let mut ready = Vec::new();
        let mut idle_since = None;
        loop {
            let members = self.members();
            let wait = if members.is_empty() {
                let end = idle_since.get_or_insert_with(now).saturating_add(nanos(LINGER));
                if now() >= end && self.end() {
                    return;
                }
                sleep_until(end)
            } else {
                idle_since = None;
                sleep_time(members)
            };
            if self.epoll.wait(wait, &mut ready).is_err() {
                return;
            }
            SLEEPING_UNTIL.store(0, Ordering::Relaxed);
            if ready.contains(&WAKE) {
                self.wake.clear();
                ready.retain(|&number| number != WAKE);
            }
            let waiting = self.waiting(&ready);
            if waiting.is_empty() {
                continue;
            }
            thread::sleep(GRACE);
            for (pump, turns) in waiting {
                if pump.turns() == turns {
                    pump.pump_for_owner();
                }
            }
        }
    }

    /// `false`: there is somebody to guard after all.
    fn end(&self) -> bool {
        let mut current = lock(slot());
        let mut members = lock(&self.members);
        members.ended = members.pumps.is_empty();
        // The thread's own reference is the last then, and the descriptors are closed when it ends.
        if members.ended && current.as_ref().is_some_and(|other| std::ptr::eq(&raw const **other, self)) {
            *current = None;
        }
        members.ended
    }

    /// Those with a datagram to read or a timer overdue, and how often each had been pumped until now.
    fn waiting(&self, ready: &[u64]) -> Vec<(Arc<Pump>, u64)> {
        let late = now().saturating_sub(nanos(GRACE));
        let members = self.members().into_iter();
        let waiting = members.filter(|(number, pump)| pump.deadline() <= late || ready.contains(number));
        waiting.map(|(_, pump)| (pump.turns(), pump)).map(|(turns, pump)| (pump, turns)).collect()
    }

    /// Whom to guard. The lock is released before any of them can be dropped here, since dropping the last reference to a
    /// pump takes it again.
    fn members(&self) -> Vec<(u64, Arc<Pump>)> {
        let members = lock(&self.members);
        members.pumps.iter().filter_map(|(number, (_, pump))| Some((*number, pump.upgrade()?))).collect()
    }
}

/// How long until a timer is overdue.
fn sleep_time(members: Vec<(u64, Arc<Pump>)>) -> Option<Duration> {
    let first = members.iter().map(|(_, pump)| pump.deadline()).min().unwrap_or(u64::MAX);
    if first == u64::MAX {
        SLEEPING_UNTIL.store(u64::MAX, Ordering::Relaxed);
        return None;
    }
    sleep_until(first.saturating_add(nanos(GRACE)))
}

fn sleep_until(until: u64) -> Option<Duration> {
    SLEEPING_UNTIL.store(until, Ordering::Relaxed);
    Some(Duration::from_nanos(until.saturating_sub(now())))
}

fn nanos(duration: Duration) -> u64 {
    duration.as_nanos() as u64
}

#[expect(clippy::disallowed_methods, reason = "the guard's own clock")]
fn now() -> u64 {
    static BASE: OnceLock<Instant> = OnceLock::new();
    nanos(BASE.get_or_init(Instant::now).elapsed())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
