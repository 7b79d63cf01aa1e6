//! Every exception that leaves the native module is made here. The classes are written in Python.

use pyo3::{
    PyErr,
    exceptions::{PyOSError, PyRuntimeError, PyValueError},
    import_exception,
};
use whimbrel_engine::{ConfigError, StreamFailure};
use whimbrel_pump::PumpError;

import_exception!(whimbrel._errors, StreamReset);
import_exception!(whimbrel._errors, StreamStopped);

pub(crate) struct Error(PyErr);

impl From<Error> for PyErr {
    fn from(error: Error) -> Self {
        error.0
    }
}

impl From<StreamFailure> for Error {
    fn from(failure: StreamFailure) -> Self {
        Self(match failure {
            StreamFailure::Reset(code) => StreamReset::new_err(code),
            StreamFailure::Stopped(code) => StreamStopped::new_err(code),
            StreamFailure::Closed => PyRuntimeError::new_err("this half of the stream is not open"),
        })
    }
}

impl From<PumpError> for Error {
    fn from(error: PumpError) -> Self {
        Self(match error {
            PumpError::Io(error) => return error.into(),
            PumpError::Invalid(text) => PyValueError::new_err(text),
        })
    }
}

impl From<ConfigError> for Error {
    fn from(error: ConfigError) -> Self {
        Self(PyValueError::new_err(error.0))
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self(match error.raw_os_error() {
            // With both arguments Python picks the subclass, and sets `errno`.
            Some(errno) => {
                let text = error.to_string();
                let text = text.strip_suffix(&format!(" (os error {errno})")).unwrap_or(&text);
                PyOSError::new_err((errno, text.to_owned()))
            }
            None => PyOSError::new_err(error.to_string()),
        })
    }
}

pub(crate) fn gone() -> PyErr {
    PyRuntimeError::new_err("the connection is gone")
}
