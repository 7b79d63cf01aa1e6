//! `Endpoint`: the sockets of one client connection, or of a server.

use std::{collections::BTreeMap, os::fd::RawFd, sync::Arc};

use pyo3::{exceptions::PyValueError, prelude::*, types::PyBytes};
use whimbrel_engine::{Admission, Dropped, Retry};
use whimbrel_pump::{Control, Listening, Pump, Time};

use crate::{
    config::{ClientConfig, ServerConfig},
    connection::Connection,
    convert::{Address, address, from_address, news, pin, seconds},
    error::Error,
};

#[pyclass(frozen, module = "whimbrel._core")]
pub(crate) struct Endpoint(Arc<Pump>);

type Sent = (Py<PyBytes>, Option<String>, u16, u32, Address);

#[pymethods]
impl Endpoint {
    #[staticmethod]
    #[pyo3(signature = (config, *, simulated=false, seed=None))]
    fn client(py: Python<'_>, config: &ClientConfig, simulated: bool, seed: Option<u64>) -> PyResult<Self> {
        let time = time(py, simulated, seed)?;
        Ok(Self(Pump::client(config.0.clone(), time).map_err(Error::from)?))
    }

    #[staticmethod]
    #[pyo3(signature = (
        config, addresses, *, connected=false, adopted=None, retry="auto", max_connections=None, simulated=false,
        seed=None
    ))]
    #[expect(clippy::too_many_arguments, reason = "they have names in Python")]
    fn server(
        py: Python<'_>,
        config: &ServerConfig,
        addresses: Vec<Address>,
        connected: bool,
        adopted: Option<Vec<RawFd>>,
        retry: &str,
        max_connections: Option<u64>,
        simulated: bool,
        seed: Option<u64>,
    ) -> PyResult<Self> {
        let time = time(py, simulated, seed)?;
        let addresses = addresses.iter().map(address).collect::<PyResult<Vec<_>>>()?;
        let retry = match retry {
            "auto" => Retry::Auto,
            "always" => Retry::Always,
            "never" => Retry::Never,
            other => return Err(PyValueError::new_err(format!("{other:?} is no way to use Retry"))),
        };
        let admission = Admission { retry, max_connections: max_connections.unwrap_or(u64::MAX) };
        let listening = Listening { addresses, connected, adopted: adopted.unwrap_or_default(), admission };
        Ok(Self(Pump::server(&config.0, &listening, time).map_err(Error::from)?))
    }

    #[pyo3(signature = (remote, server_name, sockets, pin_to))]
    fn connect(
        &self,
        py: Python<'_>,
        remote: Address,
        server_name: &str,
        sockets: &str,
        pin_to: Option<(u32, String)>,
    ) -> PyResult<Connection> {
        let kind = match sockets {
            "pinned" => Control::Pinned,
            "unconnected" => Control::Unconnected,
            "connected" => Control::Connected,
            other => return Err(PyValueError::new_err(format!("{other:?} is no way to hold a socket"))),
        };
        let remote = address(&remote)?;
        let pin_to = pin_to.map(pin).transpose()?;
        let number = py.detach(|| self.0.connect(remote, server_name, kind, pin_to)).map_err(Error::from)?;
        Ok(Connection::new(self.0.clone(), number))
    }

    fn connection(&self, number: u64) -> Connection {
        Connection::new(self.0.clone(), number)
    }

    fn addresses(&self) -> Vec<Address> {
        self.0.addresses().into_iter().map(from_address).collect()
    }

    fn fileno(&self) -> RawFd {
        self.0.readable_fd()
    }

    fn wake_fileno(&self) -> RawFd {
        self.0.wake_fd()
    }

    fn control_fileno(&self) -> RawFd {
        self.0.control_fd()
    }

    fn descriptors(&self, py: Python<'_>) -> Vec<RawFd> {
        py.detach(|| self.0.descriptors())
    }

    fn pump(&self, py: Python<'_>) -> Option<f64> {
        py.detach(|| self.0.pump()).map(|wait| wait.as_secs_f64())
    }

    fn flush(&self, py: Python<'_>) {
        py.detach(|| self.0.flush());
    }

    #[pyo3(signature = (timeout))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<()> {
        // A time in the past, such as what is left of one that is over, is a look without waiting.
        let limit = timeout.map(|timeout| seconds(timeout.max(0.0))).transpose()?;
        Ok(py.detach(|| self.0.wait(limit)).map_err(Error::from)?)
    }

    fn news(&self, py: Python<'_>) -> Vec<(u64, u8, u64)> {
        news(py.detach(|| self.0.take_news()))
    }

    fn control_news(&self, py: Python<'_>) -> Vec<(u64, u8, u64)> {
        news(py.detach(|| self.0.take_control_news()))
    }

    fn hold(&self, py: Python<'_>, held: bool) {
        py.detach(|| self.0.hold(held));
    }

    fn forget(&self, py: Python<'_>, number: u64) {
        py.detach(|| self.0.forget(number));
    }

    fn refuse_newcomers(&self, py: Python<'_>) {
        py.detach(|| self.0.refuse_newcomers());
    }

    fn unanswered(&self, py: Python<'_>) -> usize {
        py.detach(|| self.0.unanswered())
    }

    fn server_stats(&self, py: Python<'_>) -> ServerStats {
        let all = py.detach(|| self.0.server_statistics());
        let dropped = Dropped::ALL.map(|reason| (reason.name(), all.tally.dropped[reason as usize]));
        ServerStats {
            accepted: all.tally.accepted,
            refused: all.tally.refused,
            retried: all.tally.retried,
            handshakes_failed: all.tally.handshakes_failed,
            moves: all.tally.moves,
            version_negotiations: all.tally.version_negotiations,
            stateless_resets: all.tally.stateless_resets,
            dropped: dropped.into(),
            datagrams_received: all.traffic.datagrams_received,
            bytes_received: all.traffic.bytes_received,
            datagrams_sent: all.traffic.datagrams_sent,
            bytes_sent: all.traffic.bytes_sent,
            connected_sockets: all.connected_sockets,
        }
    }

    fn close(&self, py: Python<'_>) {
        py.detach(|| self.0.close());
    }

    fn set_time(&self, now: f64) {
        self.0.set_time(now);
    }

    fn set_addresses(&self, addresses: Vec<(u32, String)>) -> PyResult<()> {
        self.0.set_addresses(addresses.into_iter().map(pin).collect::<PyResult<_>>()?);
        Ok(())
    }

    fn deliver(&self, data: &[u8], source: Address, destination: Address, interface: u32) -> PyResult<()> {
        self.0.deliver(data, address(&source)?, address(&destination)?, interface);
        Ok(())
    }

    fn take(&self, py: Python<'_>) -> Vec<Sent> {
        let sent = self.0.take_sent().into_iter();
        sent.map(|(datagram, port)| {
            let data = PyBytes::new(py, &datagram.data).unbind();
            let source = datagram.pin.map(|pin| pin.source.to_string());
            let interface = datagram.pin.map_or(0, |pin| pin.interface);
            (data, source, port, interface, from_address(datagram.destination))
        })
        .collect()
    }
}

#[pyclass(frozen, get_all, module = "whimbrel._core")]
pub(crate) struct ServerStats {
    accepted: u64,
    refused: u64,
    retried: u64,
    handshakes_failed: u64,
    moves: u64,
    version_negotiations: u64,
    stateless_resets: u64,
    dropped: BTreeMap<&'static str, u64>,
    datagrams_received: u64,
    bytes_received: u64,
    datagrams_sent: u64,
    bytes_sent: u64,
    connected_sockets: usize,
}

/// The time of Python's monotonic clock, so that both sides speak of the same; or a virtual one.
fn time(py: Python<'_>, simulated: bool, seed: Option<u64>) -> PyResult<Time> {
    if simulated {
        return Ok(Time::Virtual(seed));
    }
    py.import("time")?.call_method0("monotonic")?.extract().map(Time::Real)
}
