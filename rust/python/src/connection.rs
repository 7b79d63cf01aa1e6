//! `Connection`: what an application and the policy ask of one connection.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use pyo3::{
    buffer::PyBuffer,
    exceptions::{PyBufferError, PyValueError},
    prelude::*,
    pybacked::PyBackedBytes,
    types::{PyBytes, PyMemoryView},
};
use whimbrel_engine::{self as engine, Read};
use whimbrel_pump::Pump;
use whimbrel_udp::interface_name;

use crate::{
    convert::{Address, from_address, pin, seconds},
    error::{Error, gone},
};

/// From so many bytes on, what a `bytes` object holds is sent from where it is: to keep the object costs more than to
/// copy less than this.
const SHARED: usize = 16 << 10;
/// Larger objects are copied. One whose beginning the peer has is kept until it has the end, and only what is under way
/// counts for the send buffer: so that is to be little.
const MOST_SHARED: usize = 4 << 20;

#[pyclass(frozen, module = "whimbrel._core")]
pub(crate) struct Connection {
    pump: Arc<Pump>,
    #[pyo3(get)]
    number: u64,
}

impl Connection {
    pub(crate) fn new(pump: Arc<Pump>, number: u64) -> Self {
        Self { pump, number }
    }

    /// Asks something that may make packets, and sends them, without holding Python's lock.
    fn act<T: Send>(&self, py: Python<'_>, act: impl FnOnce(&mut engine::Connection) -> T + Send) -> PyResult<T> {
        py.detach(|| self.pump.act(self.number, |connection, _| act(connection))).ok_or_else(gone)
    }

    /// `act` for what seldom makes packets.
    fn ask<T: Send>(&self, py: Python<'_>, ask: impl FnOnce(&mut engine::Connection) -> T + Send) -> PyResult<T> {
        py.detach(|| self.pump.ask(self.number, ask)).ok_or_else(gone)
    }

    /// `act`; with `later`, what is to be sent waits for the next flush.
    fn act_when<T: Send>(
        &self,
        py: Python<'_>,
        later: bool,
        act: impl FnOnce(&mut engine::Connection) -> T + Send,
    ) -> PyResult<T> {
        if later {
            return py.detach(|| self.pump.act_later(self.number, act)).ok_or_else(gone);
        }
        self.act(py, act)
    }

    fn look<T: Send>(&self, py: Python<'_>, look: impl FnOnce(&mut engine::Connection) -> T + Send) -> PyResult<T> {
        py.detach(|| self.pump.look(self.number, look)).ok_or_else(gone)
    }
}

#[pymethods]
impl Connection {
    fn open_stream(&self, py: Python<'_>, unidirectional: bool) -> PyResult<Option<u64>> {
        self.ask(py, |connection| connection.open(unidirectional))
    }

    fn accept_stream(&self, py: Python<'_>, unidirectional: bool) -> PyResult<Option<u64>> {
        self.ask(py, |connection| connection.accept(unidirectional))
    }

    fn read<'py>(&self, py: Python<'py>, stream: u64, limit: usize) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let mut chunks = Vec::new();
        let result = self.ask(py, |connection| connection.read(stream, limit, |chunk| chunks.push(chunk)))?;
        match result.map_err(Error::from)? {
            Read::Blocked => Ok(None),
            Read::End => Ok(Some(PyBytes::new(py, b""))),
            Read::Bytes(total) => PyBytes::new_with(py, total, |mut to| {
                for chunk in &chunks {
                    let (here, rest) = to.split_at_mut(chunk.len());
                    here.copy_from_slice(chunk);
                    to = rest;
                }
                Ok(())
            })
            .map(Some),
        }
    }

    fn read_into(&self, py: Python<'_>, stream: u64, buffer: PyBuffer<u8>) -> PyResult<Option<usize>> {
        let cells = buffer
            .as_mut_slice(py)
            .ok_or_else(|| PyBufferError::new_err("the buffer must be writable, contiguous and of bytes"))?;
        let limit = cells.len();
        let mut chunks = Vec::new();
        let result = self.ask(py, |connection| connection.read(stream, limit, |chunk| chunks.push(chunk)))?;
        match result.map_err(Error::from)? {
            Read::Blocked => Ok(None),
            Read::End => Ok(Some(0)),
            Read::Bytes(total) => {
                let mut start = 0;
                for chunk in &chunks {
                    let (here, end) = (start, start + chunk.len());
                    cells[here..end].iter().zip(chunk.iter()).for_each(|(cell, byte)| cell.set(*byte));
                    start = end;
                }
                Ok(Some(total))
            }
        }
    }

    #[pyo3(signature = (stream, data, later=false))]
    fn write(&self, py: Python<'_>, stream: u64, data: &Bound<'_, PyAny>, later: bool) -> PyResult<usize> {
        let taken = match shared(data)? {
            Some(data) => self.act_when(py, later, |connection| connection.write_shared(stream, data)),
            None => match contiguous(data)? {
                Cow::Borrowed(data) => self.act_when(py, later, |connection| connection.write(stream, data)),
                Cow::Owned(data) => self.act_when(py, later, |connection| connection.write_shared(stream, data.into())),
            },
        };
        Ok(taken?.map_err(Error::from)?)
    }

    #[pyo3(signature = (stream, later=false))]
    fn finish(&self, py: Python<'_>, stream: u64, later: bool) -> PyResult<()> {
        Ok(self.act_when(py, later, |connection| connection.finish(stream))?.map_err(Error::from)?)
    }

    fn reset(&self, py: Python<'_>, stream: u64, code: u64) -> PyResult<()> {
        Ok(self.act(py, |connection| connection.reset(stream, code))?.map_err(Error::from)?)
    }

    fn stop(&self, py: Python<'_>, stream: u64, code: u64) -> PyResult<()> {
        Ok(self.act(py, |connection| connection.stop(stream, code))?.map_err(Error::from)?)
    }

    fn pad_moves(&self, py: Python<'_>, stream: u64, frame: Vec<u8>) -> PyResult<()> {
        self.look(py, |connection| connection.pad_moves(stream, frame.into()))
    }

    fn background(&self, py: Python<'_>, stream: u64) -> PyResult<()> {
        self.look(py, |connection| connection.background(stream))
    }

    fn max_datagram_size(&self, py: Python<'_>) -> PyResult<usize> {
        self.look(py, engine::Connection::max_datagram_size)
    }

    fn send_datagram(&self, py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let data = contiguous(data)?;
        match self.act(py, |connection| connection.send_datagram(&data))? {
            true => Ok(()),
            false => Err(PyValueError::new_err("the datagram is larger than the peer or the path takes")),
        }
    }

    fn receive_datagram<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let datagram = self.look(py, engine::Connection::receive_datagram)?;
        Ok(datagram.map(|data| PyBytes::new(py, &data)))
    }

    fn alpn<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        Ok(self.look(py, |connection| connection.alpn())?.map(|name| PyBytes::new(py, &name)))
    }

    fn peer_certificate<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        Ok(self.look(py, |connection| connection.peer_certificate())?.map(|der| PyBytes::new(py, &der)))
    }

    fn peer_parameters<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        Ok(self.look(py, |connection| connection.peer_parameters())?.map(|encoded| PyBytes::new(py, &encoded)))
    }

    fn is_resumed(&self, py: Python<'_>) -> PyResult<bool> {
        self.look(py, |connection| connection.is_resumed())
    }

    fn is_early(&self, py: Python<'_>) -> bool {
        self.look(py, |connection| connection.is_early()).unwrap_or(false)
    }

    fn early_data_accepted(&self, py: Python<'_>) -> PyResult<Option<bool>> {
        self.look(py, |connection| connection.early_data_accepted())
    }

    fn is_early_stream(&self, py: Python<'_>, stream: u64) -> PyResult<bool> {
        self.look(py, |connection| connection.is_early_stream(stream))
    }

    fn awaits_verdict(&self, py: Python<'_>) -> bool {
        self.look(py, |connection| connection.awaits_verdict()).unwrap_or(false)
    }

    fn remote_address(&self, py: Python<'_>) -> PyResult<Address> {
        self.look(py, |connection| connection.remote_address()).map(from_address)
    }

    fn local_address(&self, py: Python<'_>) -> PyResult<Address> {
        py.detach(|| self.pump.path(self.number)).2.map(from_address).ok_or_else(gone)
    }

    /// The interface that packets are pinned to.
    fn interface(&self, py: Python<'_>) -> Option<String> {
        let pin = py.detach(|| self.pump.path(self.number)).3?;
        interface_name(pin.interface)
    }

    fn is_connected(&self, py: Python<'_>) -> bool {
        self.look(py, |connection| connection.is_connected()).unwrap_or(false)
    }

    fn is_validated(&self, py: Python<'_>) -> bool {
        self.look(py, |connection| connection.is_validated()).unwrap_or(false)
    }

    fn lost(&self, py: Python<'_>) -> PyResult<Option<(&'static str, u64, String, bool)>> {
        let ended = self.look(py, |connection| connection.ended().cloned())?;
        Ok(ended.map(|ended| (ended.kind, ended.code, ended.reason, ended.by_peer)))
    }

    fn close(&self, py: Python<'_>, code: u64, reason: &[u8]) -> PyResult<()> {
        py.detach(|| {
            // What was written a moment ago leaves before the end does.
            self.pump.flush();
            self.pump.act(self.number, |connection, now| connection.close(now, code, reason))
        })
        .ok_or_else(gone)
    }

    fn bound_handshake(&self, py: Python<'_>, within: f64, reason: String) -> PyResult<()> {
        let within = seconds(within)?;
        py.detach(|| self.pump.act(self.number, |connection, now| connection.bound_handshake(now + within, reason)))
            .ok_or_else(gone)
    }

    fn ping(&self, py: Python<'_>) -> PyResult<()> {
        self.act(py, engine::Connection::ping)
    }

    fn rest(&self, py: Python<'_>, length: f64) -> PyResult<()> {
        let length = seconds(length)?;
        py.detach(|| self.pump.rest(self.number, length));
        Ok(())
    }

    fn pin(&self, py: Python<'_>, interface: u32, source: String, fresh_socket: bool) -> PyResult<bool> {
        let to = pin((interface, source))?;
        Ok(py.detach(|| self.pump.pin(self.number, to, fresh_socket)).map_err(Error::from)?)
    }

    fn use_connected_socket(&self, py: Python<'_>, interface: u32, source: String) -> PyResult<bool> {
        let to = pin((interface, source))?;
        Ok(py.detach(|| self.pump.use_connected_socket(self.number, to)).map_err(Error::from)?)
    }

    /// Of the qlog: packets leave from this address, which the kernel has chosen.
    fn leaves_from(&self, py: Python<'_>, source: String) -> PyResult<()> {
        let ip = pin((0, source))?.source;
        py.detach(|| self.pump.note(self.number, |connection, now| connection.leaves_from(ip, now)));
        Ok(())
    }

    /// Of the qlog: how far the path from this address has been probed.
    fn probing(&self, py: Python<'_>, state: String, source: String) -> PyResult<()> {
        let ip = pin((0, source))?.source;
        py.detach(|| self.pump.note(self.number, |connection, now| connection.probing(&state, ip, now)));
        Ok(())
    }

    #[pyo3(signature = (close=true))]
    fn facts(&self, py: Python<'_>, close: bool) -> PyResult<Facts> {
        self.look(py, |connection| connection.facts(close)).map(Facts::from)
    }

    fn stats(&self, py: Python<'_>) -> PyResult<Stats> {
        let (moves, send_errors, _, _) = py.detach(|| self.pump.path(self.number));
        let all = self.look(py, |connection| connection.statistics())?;
        Ok(Stats {
            bytes_sent: all.bytes_sent,
            bytes_received: all.bytes_received,
            datagrams_sent: all.datagrams_sent,
            datagrams_received: all.datagrams_received,
            packets_sent: all.packets_sent,
            packets_lost: all.packets_lost,
            rtt: all.rtt.as_secs_f64(),
            min_rtt: all.min_rtt.as_secs_f64(),
            congestion_window: all.congestion_window,
            congestion_events: all.congestion_events,
            mtu: all.mtu,
            moves,
            send_errors,
        })
    }
}

/// What a `bytes` object holds, or the part of it that a memoryview shows: nobody can change it, so it needs no copy.
/// `None`: it is something else, or not worth it.
fn shared(data: &Bound<'_, PyAny>) -> PyResult<Option<Bytes>> {
    let is_worth_it = |length, whole| length >= SHARED && whole <= MOST_SHARED;
    // Of no class of somebody's own: its finalizer may run in the middle of the engine, and must not ask us anything.
    if let Ok(bytes) = data.cast_exact::<PyBytes>() {
        let length = bytes.as_bytes().len();
        return Ok(is_worth_it(length, length).then(|| keep(bytes)));
    }
    let Ok(view) = data.cast::<PyMemoryView>() else { return Ok(None) };
    let base = view.getattr("obj")?;
    let Ok(bytes) = base.cast_exact::<PyBytes>() else { return Ok(None) };
    let buffer = PyBuffer::<u8>::get(view)?;
    let (length, whole) = (buffer.len_bytes(), bytes.as_bytes());
    let start = (buffer.buf_ptr() as usize).wrapping_sub(whole.as_ptr() as usize);
    let is_part = buffer.is_c_contiguous() && start.checked_add(length).is_some_and(|end| end <= whole.len());
    Ok((is_part && is_worth_it(length, whole.len())).then(|| keep(bytes).slice(start..start + length)))
}

fn keep(bytes: &Bound<'_, PyBytes>) -> Bytes {
    Bytes::from_owner(PyBackedBytes::from(bytes.clone()))
}

/// Bytes to send: of a `bytes` object as they are, of anything else with a buffer as a copy.
fn contiguous<'a>(data: &'a Bound<'_, PyAny>) -> PyResult<Cow<'a, [u8]>> {
    match data.cast::<PyBytes>() {
        Ok(bytes) => Ok(bytes.as_bytes().into()),
        Err(_) => Ok(PyBuffer::<u8>::get(data)?.to_vec(data.py())?.into()),
    }
}

#[pyclass(frozen, get_all, module = "whimbrel._core")]
pub(crate) struct Facts {
    heard: f64,
    reached: f64,
    flowing: f64,
    due: bool,
    rtt: f64,
    pto: f64,
    best_rtt: f64,
    spare_ids: u64,
    peer_forbids: bool,
    confirmed: bool,
    packets_sent: u64,
    packets_lost: u64,
}

impl From<engine::Facts> for Facts {
    fn from(facts: engine::Facts) -> Self {
        Self {
            heard: facts.heard,
            reached: facts.reached,
            flowing: facts.flowing,
            due: facts.due,
            rtt: facts.rtt.as_secs_f64(),
            pto: facts.pto.as_secs_f64(),
            best_rtt: facts.best_rtt.as_secs_f64(),
            spare_ids: facts.spare_ids,
            peer_forbids: facts.peer_forbids,
            confirmed: facts.confirmed,
            packets_sent: facts.packets_sent,
            packets_lost: facts.packets_lost,
        }
    }
}

#[pyclass(frozen, get_all, module = "whimbrel._core")]
pub(crate) struct Stats {
    bytes_sent: u64,
    bytes_received: u64,
    datagrams_sent: u64,
    datagrams_received: u64,
    packets_sent: u64,
    packets_lost: u64,
    rtt: f64,
    min_rtt: f64,
    congestion_window: u64,
    congestion_events: u64,
    mtu: u16,
    moves: u64,
    send_errors: u64,
}
