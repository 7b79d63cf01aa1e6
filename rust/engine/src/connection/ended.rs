//! Why a connection ended, in our words.

use quinn_proto::ConnectionError;

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// application, transport, idle, reset, version, local, refused, or late.
    pub kind: &'static str,
    pub code: u64,
    pub reason: String,
    pub by_peer: bool,
}

impl From<ConnectionError> for Ended {
    fn from(error: ConnectionError) -> Self {
        let (kind, code, reason, by_peer) = match error {
            ConnectionError::VersionMismatch => ("version", 0, String::new(), true),
            ConnectionError::TransportError(error) => ("transport", u64::from(error.code), error.reason.clone(), false),
            ConnectionError::ConnectionClosed(close) => {
                ("transport", u64::from(close.error_code), String::from_utf8_lossy(&close.reason).into_owned(), true)
            }
            ConnectionError::ApplicationClosed(close) => (
                "application",
                close.error_code.into_inner(),
                String::from_utf8_lossy(&close.reason).into_owned(),
                true,
            ),
            ConnectionError::Reset => ("reset", 0, String::new(), true),
            ConnectionError::TimedOut => ("idle", 0, String::new(), false),
            ConnectionError::LocallyClosed => ("local", 0, String::new(), false),
            ConnectionError::CidsExhausted => ("refused", 0, "no connection IDs left".into(), false),
        };
        Self { kind, code, reason, by_peer }
    }
}
