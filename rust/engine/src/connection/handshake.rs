//! What the two ends agreed on in the handshake, and how long it may take.

use std::{collections::VecDeque, time::Instant};

use super::{Connection, Ended};
use crate::{
    news::{Kind, News},
    tls::Handshake,
};

impl Connection {
    /// Gives up where the handshake is not complete by then: for callers who do not wait for it.
    pub fn bound_handshake(&mut self, until: Instant, reason: String) {
        if self.proto.is_handshaking() {
            self.bound = Some((until, reason));
        }
    }

    /// Its time for the handshake is over. Whether that was not complete.
    pub(crate) fn give_up_handshake(&mut self, now: Instant, news: &mut VecDeque<News>) -> bool {
        if self.established || self.ended.is_some() {
            return false;
        }
        self.close(now, 0, b"");
        self.ended = Some(Ended { kind: "idle", code: 0, reason: String::new(), by_peer: false });
        news.push_back(News { connection: self.number, kind: Kind::Lost, value: 0 });
        true
    }

    /// Before the handshake is complete, that of the session which is being resumed.
    pub fn alpn(&self) -> Option<Vec<u8>> {
        self.handshake().alpn
    }

    /// The certificate that the peer proved to hold, DER; in a resumed session, when that began.
    pub fn peer_certificate(&self) -> Option<Vec<u8>> {
        let chain = self.proto.crypto_session().peer_identity()?.downcast::<Vec<Vec<u8>>>().ok()?;
        chain.into_iter().next()
    }

    /// Whether the two ends went on with an earlier TLS session.
    pub fn is_resumed(&self) -> bool {
        self.handshake().resumed
    }

    /// Whether data may go and come already, though the handshake is not complete.
    pub fn is_early(&self) -> bool {
        self.proto.has_0rtt() && self.proto.is_handshaking() && self.ended.is_none()
    }

    /// Whether the server took what was sent early. `None`: nothing was, or it has not answered.
    pub fn early_data_accepted(&self) -> Option<bool> {
        if !self.proto.has_0rtt() || self.proto.is_handshaking() {
            return None;
        }
        Some(self.proto.side().is_server() || self.proto.accepted_0rtt())
    }

    /// Whether the server has still to say what it thinks of our certificate. In TLS 1.3 a client's handshake is
    /// complete before (RFC 8446 §4.4.2.4); that the server's is as well, HANDSHAKE_DONE says (RFC 9001 §4.1.2).
    pub fn awaits_verdict(&self) -> bool {
        self.proto.side().is_client() && !self.confirmed && self.handshake().certificate_requested
    }

    /// The peer's transport parameters as they are encoded (RFC 9000 §18), without those that the engine does not know.
    pub fn peer_parameters(&self) -> Option<Vec<u8>> {
        let parameters = self.proto.crypto_session().transport_parameters().ok()??;
        let mut encoded = Vec::new();
        parameters.write(&mut encoded);
        Some(encoded)
    }

    fn handshake(&self) -> Handshake {
        let data = self.proto.crypto_session().handshake_data().and_then(|data| data.downcast().ok());
        data.map(|data| *data).unwrap_or_default()
    }
}
