//! TLS sessions as the engine wants them, with what it does not tell: whether the session was resumed, and whether the
//! server asked for a certificate. Both stand in the handshake messages that pass through here (RFC 8446 §4).

use std::{any::Any, sync::Arc};

use quinn_proto::{
    ConnectError, ConnectionId, Side, TransportError,
    crypto::{
        self, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, Session, UnsupportedVersion,
        rustls::{HandshakeData, QuicClientConfig, QuicServerConfig},
    },
    transport_parameters::TransportParameters,
};
use rustls::{client::Resumption, pki_types::CertificateDer};

use crate::sessions::{Server, Settled, Visit};

/// What the handshake has shown so far: the engine's `handshake_data`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Handshake {
    pub alpn: Option<Vec<u8>>,
    pub resumed: bool,
    pub certificate_requested: bool,
}

/// Starts sessions of a client.
pub(crate) struct ClientTls {
    pub tls: rustls::ClientConfig,
    /// Where tickets come from and go to.
    pub server: Option<Arc<Server>>,
}

/// Tells servers that our acknowledgements may take `MAX_ACK_DELAY`, so that they wait that much longer before they send
/// again what was not acknowledged at all (RFC 9002 §6.2.1). The engine has no setting for it.
///
/// After a hard cut a server validates the new path for one and a half round trips. If its probe timeout falls into that
/// time, it sends the oldest missing bytes into the dead path once more, and afterwards, behind everything else that was
/// lost: the application waits for just these (quic-go 0.59: 160 ms in place of 80).
///
/// Milliseconds. We acknowledge within 25, as before; the rest is what a handover takes.
const MAX_ACK_DELAY: u8 = 100;

impl crypto::ClientConfig for ClientTls {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        server_name: &str,
        parameters: &TransportParameters,
    ) -> Result<Box<dyn Session>, ConnectError> {
        let mut encoded = Vec::new();
        parameters.write(&mut encoded);
        // RFC 9000 §18.2: max_ack_delay is 0x0b; a value from 64 takes two bytes (§16). The engine leaves the default out.
        encoded.extend([0x0b, 2, 0x40, MAX_ACK_DELAY]);
        let parameters = TransportParameters::read(Side::Server, &mut &encoded[..]);
        let parameters = parameters.map_err(|_| ConnectError::UnsupportedVersion)?;
        let visit = self.server.clone().map(Visit::new).map(Arc::new);
        let mut tls = self.tls.clone();
        tls.resumption = match &visit {
            Some(visit) => Resumption::store(visit.clone()),
            None => Resumption::disabled(),
        };
        let config = QuicClientConfig::try_from(tls).map_err(|_| ConnectError::UnsupportedVersion)?;
        let inner = Arc::new(config).start_session(version, server_name, &parameters)?;
        Ok(Box::new(TlsSession { inner, side: Side::Client, visit, messages: Messages::default(), complete: false }))
    }
}

/// Starts sessions of a server.
pub(crate) struct ServerTls(pub Arc<QuicServerConfig>);

impl crypto::ServerConfig for ServerTls {
    fn initial_keys(&self, version: u32, id: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        self.0.initial_keys(version, id)
    }

    fn retry_tag(&self, version: u32, original_id: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        self.0.retry_tag(version, original_id, packet)
    }

    fn start_session(self: Arc<Self>, version: u32, parameters: &TransportParameters) -> Box<dyn Session> {
        let inner = self.0.clone().start_session(version, parameters);
        let messages = Messages::default();
        Box::new(TlsSession { inner, side: Side::Server, visit: None, messages, complete: false })
    }
}

struct TlsSession {
    inner: Box<dyn Session>,
    side: Side,
    visit: Option<Arc<Visit>>,
    /// What the server says, whichever side we are.
    messages: Messages,
    complete: bool,
}

impl TlsSession {
    fn settled(&self) -> Settled {
        let data = self.inner.handshake_data().and_then(|data| data.downcast::<HandshakeData>().ok());
        let chain = self.inner.peer_identity().and_then(|chain| chain.downcast::<Vec<CertificateDer<'static>>>().ok());
        match data {
            Some(data) => Settled {
                alpn: data.protocol,
                certificates: chain.map(|chain| chain.iter().map(|der| der.to_vec()).collect()).unwrap_or_default(),
            },
            // Early data go by what was settled when their ticket was made.
            None => self.visit.as_ref().map(|visit| visit.settled()).unwrap_or_default(),
        }
    }
}

impl Session for TlsSession {
    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        Some(Box::new(Handshake {
            alpn: self.settled().alpn,
            resumed: self.messages.resumed,
            certificate_requested: self.messages.certificate_requested,
        }))
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        Some(Box::new(self.settled().certificates))
    }

    fn read_handshake(&mut self, data: &[u8]) -> Result<bool, TransportError> {
        if self.side.is_client() && !self.complete {
            self.messages.read(data);
        }
        let ready = self.inner.read_handshake(data)?;
        if !self.complete && !self.inner.is_handshaking() {
            // Tickets come afterwards.
            self.complete = true;
            if let Some(visit) = &self.visit {
                visit.settle(self.settled());
            }
        }
        Ok(ready)
    }

    fn write_handshake(&mut self, data: &mut Vec<u8>) -> Option<Keys> {
        let before = data.len();
        let keys = self.inner.write_handshake(data);
        if self.side.is_server() && !self.complete {
            self.messages.read(&data[before..]);
        }
        keys
    }

    fn initial_keys(&self, id: &ConnectionId, side: Side) -> Keys {
        self.inner.initial_keys(id, side)
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        self.inner.early_crypto()
    }

    fn early_data_accepted(&self) -> Option<bool> {
        self.inner.early_data_accepted()
    }

    fn is_handshaking(&self) -> bool {
        self.inner.is_handshaking()
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        self.inner.transport_parameters()
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        self.inner.next_1rtt_keys()
    }

    fn is_valid_retry(&self, original_id: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        self.inner.is_valid_retry(original_id, header, payload)
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        self.inner.export_keying_material(output, label, context)
    }
}

/// Reads a server's handshake messages as they pass (RFC 8446 §4): each is a type, three bytes of length, and a body.
#[derive(Default)]
struct Messages {
    pending: Vec<u8>,
    /// Bytes of a body that is of no interest.
    skip: usize,
    resumed: bool,
    certificate_requested: bool,
}

impl Messages {
    fn read(&mut self, mut data: &[u8]) {
        const SERVER_HELLO: u8 = 2;
        const CERTIFICATE_REQUEST: u8 = 13;
        while !data.is_empty() {
            let skipped = self.skip.min(data.len());
            self.skip -= skipped;
            data = &data[skipped..];
            let length = match self.pending.get(1..4) {
                Some(length) => length.iter().fold(0, |value, &byte| value << 8 | usize::from(byte)),
                None => {
                    let header = (4 - self.pending.len()).min(data.len());
                    self.pending.extend_from_slice(&data[..header]);
                    data = &data[header..];
                    continue;
                }
            };
            let kind = self.pending[0];
            if kind != SERVER_HELLO {
                self.certificate_requested |= kind == CERTIFICATE_REQUEST;
                self.pending.clear();
                self.skip = length;
                continue;
            }
            let body = (4 + length - self.pending.len()).min(data.len());
            self.pending.extend_from_slice(&data[..body]);
            data = &data[body..];
            if self.pending.len() == 4 + length {
                // A HelloRetryRequest has the same form; the ServerHello that follows it decides.
                self.resumed = has_pre_shared_key(&self.pending[4..]).unwrap_or(false);
                self.pending.clear();
            }
        }
    }
}

/// Whether a ServerHello chose a session to resume: the `pre_shared_key` extension is there (RFC 8446 §4.1.3, §4.2.11).
fn has_pre_shared_key(hello: &[u8]) -> Option<bool> {
    const VERSION_AND_RANDOM: usize = 2 + 32;
    const SUITE_AND_COMPRESSION: usize = 2 + 1;
    const PRE_SHARED_KEY: u16 = 41;
    let session_id = usize::from(*hello.get(VERSION_AND_RANDOM)?);
    let extensions = VERSION_AND_RANDOM + 1 + session_id + SUITE_AND_COMPRESSION + 2;
    let mut rest = hello.get(extensions..)?;
    while let [a, b, c, d, after @ ..] = rest {
        if u16::from_be_bytes([*a, *b]) == PRE_SHARED_KEY {
            return Some(true);
        }
        rest = after.get(usize::from(u16::from_be_bytes([*c, *d]))..)?;
    }
    Some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server_hello(extensions: &[u8]) -> Vec<u8> {
        let mut body = vec![3; 34];
        body.extend([0, 0x13, 0x01, 0]);
        body.extend((extensions.len() as u16).to_be_bytes());
        body.extend(extensions);
        let mut message = vec![2, 0, 0, body.len() as u8];
        message.extend(body);
        message
    }

    const VERSIONS: [u8; 6] = [0, 43, 0, 2, 3, 4];
    const CHOSEN: [u8; 6] = [0, 41, 0, 2, 0, 0];

    #[test]
    fn a_server_hello_that_chose_a_session_in_pieces() {
        let mut messages = Messages::default();
        for byte in server_hello(&[VERSIONS, CHOSEN].concat()) {
            messages.read(&[byte]);
        }
        assert!(messages.resumed);
        assert!(!messages.certificate_requested);
    }

    #[test]
    fn a_full_handshake_with_a_request_for_a_certificate() {
        let mut messages = Messages::default();
        let encrypted_extensions = [8, 0, 0, 2, 0, 0];
        let request = [13, 0, 0, 3, 0, 0, 0];
        messages.read(&[&server_hello(&VERSIONS)[..], &encrypted_extensions, &request].concat());
        assert!(!messages.resumed);
        assert!(messages.certificate_requested);
    }

    #[test]
    fn a_truncated_hello_says_nothing() {
        assert_eq!(has_pre_shared_key(&[0; 20]), None);
    }
}
