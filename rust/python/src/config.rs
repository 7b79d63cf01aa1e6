//! Configurations: plain values and PEM in, something to dial or listen with out.

use pyo3::prelude::*;
use whimbrel_engine as engine;

use crate::{convert::seconds, error::Error, workers::Worker};

/// What connections remember for the next ones.
#[pyclass(frozen, module = "whimbrel._core")]
pub(crate) struct SessionStore(engine::SessionStore);

#[pymethods]
impl SessionStore {
    #[new]
    fn new() -> Self {
        Self(engine::SessionStore::default())
    }

    fn clear(&self, py: Python<'_>) {
        py.detach(|| self.0.clear());
    }

    fn __len__(&self, py: Python<'_>) -> usize {
        py.detach(|| self.0.len())
    }
}

#[pyfunction]
pub(crate) fn check_identity(certificate: &[u8], key: &[u8]) -> PyResult<()> {
    Ok(engine::check_identity(certificate, key).map_err(Error::from)?)
}

#[pyfunction]
pub(crate) fn check_roots(pem: &[u8]) -> PyResult<()> {
    Ok(engine::check_roots(pem).map_err(Error::from)?)
}

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
    #[pyo3(signature = (*, alpn, roots, transport, certificate=None, key=None, sessions=None, early_data=false,
        keylog=true))]
    #[expect(clippy::too_many_arguments, reason = "keyword-only in Python")]
    fn new(
        alpn: Vec<Vec<u8>>,
        roots: Option<&[u8]>,
        transport: &TransportConfig,
        certificate: Option<&[u8]>,
        key: Option<&[u8]>,
        sessions: Option<(PyRef<'_, SessionStore>, String)>,
        early_data: bool,
        keylog: bool,
    ) -> PyResult<Self> {
        let resumption =
            sessions.as_ref().map(|(store, server)| engine::Resumption { store: &store.0, server, early_data });
        let config = engine::ClientConfig::new(alpn, roots, certificate.zip(key), &transport.0, resumption, keylog);
        Ok(Self(config.map_err(Error::from)?))
    }
}

#[pyclass(frozen, module = "whimbrel._core")]
pub(crate) struct ServerConfig(pub(crate) engine::ServerConfig);

#[pymethods]
impl ServerConfig {
    #[new]
    #[pyo3(signature = (*, alpn, certificate, key, transport, client_roots=None, migration=true, id_length=8,
        early_data=false, keylog=true, reset_key=None, worker=None))]
    #[expect(clippy::too_many_arguments, reason = "keyword-only in Python")]
    fn new(
        alpn: Vec<Vec<u8>>,
        certificate: &[u8],
        key: &[u8],
        transport: &TransportConfig,
        client_roots: Option<&[u8]>,
        migration: bool,
        id_length: usize,
        early_data: bool,
        keylog: bool,
        reset_key: Option<Vec<u8>>,
        worker: Option<&Worker>,
    ) -> PyResult<Self> {
        let worker = worker.map(|worker| worker.0.clone());
        let options = engine::ServerOptions { migration, id_length, early_data, keylog, reset_key, worker };
        let config = engine::ServerConfig::new(alpn, certificate, key, client_roots, &transport.0, options);
        Ok(Self(config.map_err(Error::from)?))
    }
}
