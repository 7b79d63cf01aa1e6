//! Waiting: for sockets and a time (epoll), and for another thread (eventfd).

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Events taken by one wait. What does not fit is reported by the next, since the epoll is level triggered.
const EVENTS: usize = 64;

/// Set once the kernel, or a sandbox around us, turned out not to know `epoll_pwait2` (Linux 5.11).
static MILLISECONDS_ONLY: AtomicBool = AtomicBool::new(false);

/// Waits for several descriptors at once, level triggered.
///
/// Its own descriptor is readable when one of them is, so that it can be waited for by another loop (asyncio's).
#[derive(Debug)]
pub struct Epoll {
    fd: OwnedFd,
}

impl Epoll {
    /// Opens an epoll that watches nothing yet.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// Watches a descriptor for input and errors; `token` is what [`wait`](Self::wait) will say.
    pub fn add(&self, fd: RawFd, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, libc::EPOLLIN, token)
    }

    /// Stops watching a descriptor. Must come before it is closed when a duplicate of it stays open.
    pub fn remove(&self, fd: RawFd) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd, 0, 0)
    }

    /// Waits until a descriptor is ready or the time is over (`None`: no limit); leaves the tokens in `ready`.
    ///
    /// A signal ends the wait early, with no tokens: the caller looks at its clock anyway, and an interpreter above
    /// may want to run a handler.
    pub fn wait(&self, timeout: Option<Duration>, ready: &mut Vec<u64>) -> io::Result<()> {
        ready.clear();
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS];
        let count = match self.wait_raw(timeout, &mut events) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        ready.extend(events[..count].iter().map(|event| event.u64));
        Ok(())
    }

    fn wait_raw(&self, timeout: Option<Duration>, events: &mut [libc::epoll_event]) -> io::Result<usize> {
        if !MILLISECONDS_ONLY.load(Ordering::Relaxed) {
            match self.wait_nanoseconds(timeout, events) {
                // Old seccomp profiles answer EPERM to a call that they do not know.
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {
                    MILLISECONDS_ONLY.store(true, Ordering::Relaxed);
                }
                result => return result,
            }
        }
        self.wait_milliseconds(timeout, events)
    }

    /// Pacing needs better than the milliseconds of `epoll_wait`. By number, because C libraries older than the kernel
    /// have no name for it.
    fn wait_nanoseconds(&self, timeout: Option<Duration>, events: &mut [libc::epoll_event]) -> io::Result<usize> {
        /// `struct __kernel_timespec`: 64 bits everywhere, unlike the C library's.
        #[repr(C)]
        struct Timespec {
            seconds: i64,
            nanoseconds: i64,
        }
        let timeout = timeout.map(|timeout| Timespec {
            seconds: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            nanoseconds: i64::from(timeout.subsec_nanos()),
        });
        let timeout = timeout.as_ref().map_or(ptr::null(), ptr::from_ref);
        // SAFETY: the kernel writes at most as many events as the slice has, and reads one timespec or none; no mask.
        let count = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.fd.as_raw_fd(),
                events.as_mut_ptr(),
                events.len() as libc::c_int,
                timeout,
                ptr::null::<libc::sigset_t>(),
                0_usize,
            )
        };
        usize::try_from(count).map_err(|_| io::Error::last_os_error())
    }

    fn wait_milliseconds(&self, timeout: Option<Duration>, events: &mut [libc::epoll_event]) -> io::Result<usize> {
        // Rounded up: a timer looked at too early would be waited for again, with nothing left to wait.
        let timeout = timeout.map_or(-1, |timeout| {
            libc::c_int::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(libc::c_int::MAX)
        });
        let capacity = events.len() as libc::c_int;
        // SAFETY: the kernel writes at most as many events as the slice has.
        let count = unsafe { libc::epoll_wait(self.fd.as_raw_fd(), events.as_mut_ptr(), capacity, timeout) };
        usize::try_from(count).map_err(|_| io::Error::last_os_error())
    }

    fn control(&self, operation: libc::c_int, fd: RawFd, events: libc::c_int, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: events as u32, u64: token };
        // SAFETY: the event outlives the call. A descriptor that is not open is an error, EBADF.
        check(unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), operation, fd, &mut event) })?;
        Ok(())
    }
}

impl AsFd for Epoll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Epoll {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// A flag between threads that can be waited for: readable from [`signal`](Self::signal) to [`clear`](Self::clear).
#[derive(Debug)]
pub struct EventFd {
    file: File,
}

impl EventFd {
    /// Opens a flag that is not set.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers.
        let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
        Ok(Self { file: File::from(unsafe { OwnedFd::from_raw_fd(fd) }) })
    }

    /// Sets the flag.
    pub fn signal(&self) {
        // It can fail in one way: the counter is full, so the flag is set.
        let _ = (&self.file).write(&1_u64.to_ne_bytes());
    }

    /// Clears the flag, however often it was set.
    pub fn clear(&self) {
        // It can fail in one way: the flag was not set.
        let _ = (&self.file).read(&mut [0; 8]);
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for EventFd {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    const NOW: Option<Duration> = Some(Duration::ZERO);

    #[test]
    fn a_flag_wakes_until_it_is_cleared() {
        let (epoll, flag) = (Epoll::new().unwrap(), EventFd::new().unwrap());
        epoll.add(flag.as_raw_fd(), 7).unwrap();
        let mut ready = vec![99];
        epoll.wait(NOW, &mut ready).unwrap();
        assert_eq!(ready, []);
        flag.signal();
        flag.signal();
        for _ in 0..2 {
            epoll.wait(None, &mut ready).unwrap();
            assert_eq!(ready, [7]);
        }
        flag.clear();
        flag.clear();
        epoll.wait(NOW, &mut ready).unwrap();
        assert_eq!(ready, []);
    }

    #[test]
    fn an_epoll_can_be_watched_by_another() {
        let (outer, inner, flag) = (Epoll::new().unwrap(), Epoll::new().unwrap(), EventFd::new().unwrap());
        outer.add(inner.as_raw_fd(), u64::MAX).unwrap();
        inner.add(flag.as_raw_fd(), 1).unwrap();
        flag.signal();
        let mut ready = Vec::new();
        outer.wait(None, &mut ready).unwrap();
        assert_eq!(ready, [u64::MAX]);
    }

    #[test]
    fn what_was_removed_is_silent_and_cannot_be_removed_again() {
        let (epoll, flag) = (Epoll::new().unwrap(), EventFd::new().unwrap());
        epoll.add(flag.as_raw_fd(), 1).unwrap();
        flag.signal();
        epoll.remove(flag.as_raw_fd()).unwrap();
        let mut ready = Vec::new();
        epoll.wait(NOW, &mut ready).unwrap();
        assert_eq!(ready, []);
        assert_eq!(epoll.remove(flag.as_raw_fd()).unwrap_err().raw_os_error(), Some(libc::ENOENT));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the kernel's time-out is compared with a clock")]
    fn both_kinds_of_wait_end_in_time_and_never_early() {
        let epoll = Epoll::new().unwrap();
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 1];
        let timeout = Duration::from_micros(1200);
        let started = Instant::now();
        assert_eq!(epoll.wait_milliseconds(Some(timeout), &mut events).unwrap(), 0);
        assert!(started.elapsed() >= timeout);
        let started = Instant::now();
        epoll.wait(Some(timeout), &mut Vec::new()).unwrap();
        assert!(started.elapsed() >= timeout);
    }
}
