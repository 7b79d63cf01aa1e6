//! Several processes on one port: their sockets, and who gets what.

use std::os::fd::{IntoRawFd, RawFd};

use pyo3::{exceptions::PyValueError, prelude::*};
use whimbrel_engine as engine;
use whimbrel_udp::Socket;

use crate::{
    convert::{Address, address, from_address},
    error::Error,
};

/// One of the processes, by what they have in common and the slot that it has alone.
#[pyclass(frozen, module = "whimbrel._core")]
pub(crate) struct Worker(pub(crate) engine::Worker);

#[pymethods]
impl Worker {
    #[new]
    fn new(secret: &[u8], slots: u32, slot: u32) -> PyResult<Self> {
        if slot >= slots {
            return Err(PyValueError::new_err(format!("there is no slot {slot} among {slots}")));
        }
        Ok(Self(engine::Worker::new(secret, slots, slot)))
    }
}

/// Opens sockets on one address, and says which one it is; who calls owns the descriptors.
#[pyfunction]
pub(crate) fn listen_together(at: Address, count: usize) -> PyResult<(Address, Vec<RawFd>)> {
    let (bound, group) = Socket::group(address(&at)?, count).map_err(Error::from)?;
    Ok((from_address(bound), group.into_iter().map(IntoRawFd::into_raw_fd).collect()))
}

/// Has the kernel hand datagrams to the sockets of a group, of which one is given: for each slot one of them, by its
/// place, and those that take newcomers.
#[pyfunction]
pub(crate) fn steer(socket: RawFd, worker: &Worker, sockets: Vec<u32>, newcomers: Vec<u32>) -> PyResult<()> {
    let program = worker.0.steering().program(&sockets, &newcomers);
    let program = program.ok_or_else(|| PyValueError::new_err("too many workers, or none for newcomers"))?;
    Ok(whimbrel_udp::steer(socket, &program).map_err(Error::from)?)
}
