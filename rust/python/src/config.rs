//! Configurations: plain values and PEM in, something to dial or listen with out.

use pyo3::prelude::*;
use whimbrel_engine as engine;

use crate::{convert::seconds, error::Error};

#[pyclass(frozen, module = "whimbrel._core")]
pub(crate) struct TransportConfig(engine::Transport);

#[pymethods]
impl TransportConfig {
    #[new]
    #[pyo3(signature = (*, idle_timeout, stream_window, connection_window, max_streams, send_buffer, keepalive=None,
        initial_rtt=0.1, mtu=None, qlog=None))]
    #[expect(clippy::too_many_arguments, reason = "keyword-only in Python")]
    fn new(
        idle_timeout: f64,
        stream_window: u64,
        connection_window: u64,
        max_streams: u64,
        send_buffer: u64,
        keepalive: Option<f64>,
        initial_rtt: f64,
        mtu: Option<u16>,
        qlog: Option<String>,
    ) -> PyResult<Self> {
        Ok(Self(engine::Transport {
            idle_timeout: seconds(idle_timeout)?,
            keepalive: keepalive.map(seconds).transpose()?,
            stream_window,
            connection_window,
            max_streams,
            send_buffer,
            initial_rtt: seconds(initial_rtt)?,
            mtu,
            qlog,
        }))
    }
}

#[pyclass(frozen, module = "whimbrel._core")]
pub(crate) struct ClientConfig(pub(crate) engine::ClientConfig);

#[pymethods]
impl ClientConfig {
    #[new]
    #[pyo3(signature = (*, alpn, roots, transport, certificate=None, key=None, keylog=true))]
    fn new(
        alpn: Vec<Vec<u8>>,
        roots: Option<&[u8]>,
        transport: &TransportConfig,
        certificate: Option<&[u8]>,
        key: Option<&[u8]>,
        keylog: bool,
    ) -> PyResult<Self> {
        let config = engine::ClientConfig::new(alpn, roots, certificate.zip(key), &transport.0, keylog);
        Ok(Self(config.map_err(Error::from)?))
    }
}

#[pyclass(frozen, module = "whimbrel._core")]
pub(crate) struct ServerConfig(pub(crate) engine::ServerConfig);

#[pymethods]
impl ServerConfig {
    #[new]
    #[pyo3(signature = (*, alpn, certificate, key, transport, client_roots=None, migration=true, id_length=8,
        keylog=true, reset_key=None))]
    #[expect(clippy::too_many_arguments, reason = "keyword-only in Python")]
    fn new(
        alpn: Vec<Vec<u8>>,
        certificate: &[u8],
        key: &[u8],
        transport: &TransportConfig,
        client_roots: Option<&[u8]>,
        migration: bool,
        id_length: usize,
        keylog: bool,
        reset_key: Option<Vec<u8>>,
    ) -> PyResult<Self> {
        let options = engine::ServerOptions { migration, id_length, keylog, reset_key };
        let config = engine::ServerConfig::new(alpn, certificate, key, client_roots, &transport.0, options);
        Ok(Self(config.map_err(Error::from)?))
    }
}
