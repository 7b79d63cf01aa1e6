//! Waiting until there is something to pump, for callers who have no event loop.

use std::{
    io,
    os::fd::{AsRawFd, RawFd},
    time::Duration,
};

use whimbrel_udp::{Epoll, EventFd};

/// Shared by the pump and whoever waits: who waits keeps it, and its descriptors, until the wait is over.
pub(crate) struct Waiting {
    epoll: Epoll,
    closed: EventFd,
}

impl Waiting {
    /// For anything readable among the sockets, and for news left by another thread.
    pub fn new(readable: RawFd, wake: &EventFd) -> io::Result<Self> {
        let (epoll, closed) = (Epoll::new()?, EventFd::new()?);
        for descriptor in [readable, wake.as_raw_fd(), closed.as_raw_fd()] {
            epoll.add(descriptor, 0)?;
        }
        Ok(Self { epoll, closed })
    }

    /// Returns when something is there, when it was closed, at a signal, or after `limit`.
    pub fn wait(&self, limit: Option<Duration>) -> io::Result<()> {
        self.epoll.wait(limit, &mut Vec::new())
    }

    /// Everybody who waits returns: what they wait for is about to be closed, of which an epoll tells nobody.
    pub fn close(&self) {
        self.closed.signal();
    }

    pub fn descriptors(&self) -> [RawFd; 2] {
        [self.epoll.as_raw_fd(), self.closed.as_raw_fd()]
    }
}
