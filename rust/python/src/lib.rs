//! The Python face of the data plane: `whimbrel._core`. So thin that nothing in it can be wrong.

mod config;
mod connection;
mod convert;
mod endpoint;
mod error;
mod workers;

use pyo3::prelude::*;

#[pymodule(gil_used = false)]
mod _core {
    use pyo3::prelude::*;
    use whimbrel_engine::Kind;

    #[pymodule_export]
    use crate::{
        config::{ClientConfig, ServerConfig, SessionStore, TransportConfig, check_identity, check_roots},
        connection::{Connection, Facts, Stats},
        endpoint::{Endpoint, ServerStats},
        workers::{Worker, listen_together, steer},
    };

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        for (name, kind) in [
            ("CONNECTED", Kind::Connected),
            ("LOST", Kind::Lost),
            ("READABLE", Kind::Readable),
            ("WRITABLE", Kind::Writable),
            ("FINISHED", Kind::Finished),
            ("STOPPED", Kind::Stopped),
            ("OPENED", Kind::Opened),
            ("AVAILABLE", Kind::Available),
            ("DATAGRAM", Kind::Datagram),
            ("DATAGRAM_ROOM", Kind::DatagramRoom),
            ("INCOMING", Kind::Incoming),
            ("MOVED", Kind::Moved),
            ("SEND_FAILED", Kind::SendFailed),
            ("HEARD", Kind::Heard),
            ("DUE", Kind::Due),
            ("CROWDED", Kind::Crowded),
            ("CONFIRMED", Kind::Confirmed),
        ] {
            module.add(name, kind as u8)?;
        }
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
