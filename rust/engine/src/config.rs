//! Transport parameters and TLS, from plain values and PEM.

use std::{fmt, fs::File, net::IpAddr, sync::Arc, time::Duration};

use aws_lc_rs::hmac;
use quinn_proto::{
    ConnectError, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, QlogConfig, RandomConnectionIdGenerator, Side,
    TransportConfig, VarInt,
    crypto::{
        Session,
        rustls::{QuicClientConfig, QuicServerConfig},
    },
    transport_parameters::TransportParameters,
};
use rustls::{
    RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
    version::TLS13,
};

/// What a caller gave cannot be used; the text says which part and why.
#[derive(Debug)]
pub struct ConfigError(pub String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

fn fail<E: fmt::Display>(what: &str) -> impl FnOnce(E) -> ConfigError {
    move |error| ConfigError(format!("{what}: {error}"))
}

/// The transport parameters that both sides choose (RFC 9000 §18.2), and the sender's own bounds.
#[derive(Clone, Debug)]
pub struct Transport {
    pub idle_timeout: Duration,
    pub keepalive: Option<Duration>,
    pub stream_window: u64,
    pub connection_window: u64,
    pub max_streams: u64,
    pub send_buffer: u64,
    pub initial_rtt: Duration,
    /// A fixed UDP payload; otherwise the path MTU is discovered (RFC 8899).
    pub mtu: Option<u16>,
    pub qlog: Option<String>,
}

impl Transport {
    fn build(&self) -> Result<Arc<TransportConfig>, ConfigError> {
        let var = |value: u64| VarInt::from_u64(value).unwrap_or(VarInt::MAX);
        let mut config = TransportConfig::default();
        let idle = IdleTimeout::try_from(self.idle_timeout).map_err(fail("the idle timeout is too long"))?;
        config
            .max_idle_timeout(Some(idle))
            .keep_alive_interval(self.keepalive)
            .stream_receive_window(var(self.stream_window))
            .receive_window(var(self.connection_window))
            .max_concurrent_bidi_streams(var(self.max_streams))
            .max_concurrent_uni_streams(var(self.max_streams))
            .send_window(self.send_buffer)
            .initial_rtt(self.initial_rtt);
        if let Some(mtu) = self.mtu {
            config.initial_mtu(mtu).mtu_discovery_config(None);
        } else {
            config.mtu_discovery_config(Some(MtuDiscoveryConfig::default()));
        }
        if let Some(path) = &self.qlog {
            let file = File::create(path).map_err(fail(path))?;
            let mut qlog = QlogConfig::default();
            qlog.writer(Box::new(file)).title(Some("whimbrel".into()));
            config.qlog_stream(qlog.into_stream());
        }
        Ok(Arc::new(config))
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(fail("the certificate is not PEM"))?;
    if chain.is_empty() {
        return Err(ConfigError("there is no certificate in the PEM".into()));
    }
    Ok(chain)
}

fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, ConfigError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(fail("the private key cannot be read"))
}

fn roots(pem: &[u8]) -> Result<Arc<RootCertStore>, ConfigError> {
    let mut store = RootCertStore::empty();
    // A system's store holds certificates that no parser likes; they must not spoil the others.
    let (added, _ignored) = store.add_parsable_certificates(chain(pem)?);
    if added == 0 {
        return Err(ConfigError("none of the CA certificates can be used".into()));
    }
    Ok(Arc::new(store))
}

/// A client's half: whom to trust, who we are, what to speak.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    pub(crate) inner: quinn_proto::ClientConfig,
}

impl ClientConfig {
    /// `ca` is PEM; without it no certificate is verified.
    pub fn new(
        alpn: Vec<Vec<u8>>,
        ca: Option<&[u8]>,
        identity: Option<(&[u8], &[u8])>,
        transport: &Transport,
        keylog: bool,
    ) -> Result<Self, ConfigError> {
        let provider = provider();
        let verifier: Arc<dyn ServerCertVerifier> = match ca {
            Some(pem) => WebPkiServerVerifier::builder_with_provider(roots(pem)?, provider.clone())
                .build()
                .map_err(fail("the CA certificates cannot be used"))?,
            None => Arc::new(TrustAnyone(provider.clone())),
        };
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(fail("TLS 1.3"))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut tls = match identity {
            Some((certificate, key)) => builder
                .with_client_auth_cert(chain(certificate)?, private_key(key)?)
                .map_err(fail("the client certificate and its key"))?,
            None => builder.with_no_client_auth(),
        };
        tls.alpn_protocols = alpn;
        if keylog {
            tls.key_log = Arc::new(rustls::KeyLogFile::new());
        }
        let crypto = QuicClientConfig::try_from(tls).map_err(fail("TLS"))?;
        let mut inner = quinn_proto::ClientConfig::new(Arc::new(Unhurried(Arc::new(crypto))));
        inner.transport_config(transport.build()?);
        Ok(Self { inner })
    }
}

/// Tells servers that our acknowledgements may take `MAX_ACK_DELAY`, so that they wait that much longer before they send
/// again what was not acknowledged at all (RFC 9002 §6.2.1). The engine has no setting for it.
///
/// After a hard cut a server validates the new path for one and a half round trips. If its probe timeout falls into that
/// time, it sends the oldest missing bytes into the dead path once more, and afterwards, behind everything else that was
/// lost: the application waits for just these (quic-go 0.59: 160 ms in place of 80).
struct Unhurried(Arc<QuicClientConfig>);

/// Milliseconds. We acknowledge within 25, as before; the rest is what a handover takes.
const MAX_ACK_DELAY: u8 = 100;

impl quinn_proto::crypto::ClientConfig for Unhurried {
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
        self.0.clone().start_session(version, server_name, &parameters)
    }
}

/// What a server decides for all its connections.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// `false`: clients are told not to migrate (`disable_active_migration`, RFC 9000 §18.2).
    pub migration: bool,
    /// Bytes in each connection ID that we issue; with 0 a client cannot move either (§5.1).
    pub id_length: usize,
    pub keylog: bool,
    /// What stateless reset tokens are made of (RFC 9000 §10.3.2). A server that is started again with the same secret can
    /// tell clients of its former life that it knows them no more; without one, each start has its own.
    pub reset_key: Option<Vec<u8>>,
}

#[derive(Clone, Debug)]
pub struct ServerConfig {
    pub(crate) inner: Arc<quinn_proto::ServerConfig>,
    pub(crate) id_length: usize,
    pub(crate) reset_key: Option<Vec<u8>>,
}

impl ServerConfig {
    pub fn new(
        alpn: Vec<Vec<u8>>,
        certificate: &[u8],
        key: &[u8],
        client_ca: Option<&[u8]>,
        transport: &Transport,
        options: ServerOptions,
    ) -> Result<Self, ConfigError> {
        let provider = provider();
        let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(fail("TLS 1.3"))?;
        let builder = match client_ca {
            Some(pem) => builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(roots(pem)?, provider)
                    .build()
                    .map_err(fail("the client CA certificates cannot be used"))?,
            ),
            None => builder.with_no_client_auth(),
        };
        let mut tls = builder
            .with_single_cert(chain(certificate)?, private_key(key)?)
            .map_err(fail("the certificate and its key"))?;
        tls.alpn_protocols = alpn;
        if options.keylog {
            tls.key_log = Arc::new(rustls::KeyLogFile::new());
        }
        let crypto = QuicServerConfig::try_from(tls).map_err(fail("TLS"))?;
        let mut inner = quinn_proto::ServerConfig::with_crypto(Arc::new(crypto));
        inner.transport_config(transport.build()?).migration(options.migration);
        Ok(Self { inner: Arc::new(inner), id_length: options.id_length, reset_key: options.reset_key })
    }
}

/// `lifetime`: the peer is asked to give back connection IDs of this age (RFC 9000 §5.1.2), and gets new ones.
pub(crate) fn endpoint_config(
    id_length: usize,
    lifetime: Option<Duration>,
    reset_key: Option<&[u8]>,
) -> Arc<EndpointConfig> {
    let mut config = EndpointConfig::default();
    if let Some(secret) = reset_key {
        config.reset_key(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, secret)));
    }
    config.cid_generator(move || {
        let mut generator = RandomConnectionIdGenerator::new(id_length);
        if let Some(lifetime) = lifetime {
            generator.set_lifetime(lifetime);
        }
        Box::new(generator)
    });
    Arc::new(config)
}

/// The name to verify: a host name or an address.
pub(crate) fn server_name(name: &str) -> String {
    // An IPv6 address with a zone is no name in a certificate; the zone is ours alone.
    match name.split_once('%') {
        Some((address, _zone)) if address.parse::<IpAddr>().is_ok() => address.into(),
        _ => name.into(),
    }
}

/// Accepts every certificate: for callers who said so, and were warned.
#[derive(Debug)]
struct TrustAnyone(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustAnyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &rustls::pki_types::ServerName<'_>,
        _ocsp_response: &[u8],
        _now: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
