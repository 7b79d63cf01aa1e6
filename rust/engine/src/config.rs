//! Transport parameters and TLS, from plain values and PEM.

use std::{
    collections::VecDeque,
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use aws_lc_rs::hmac;
use quinn_proto::{
    ConnectionId, ConnectionIdGenerator, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, NoneTokenStore,
    RandomConnectionIdGenerator, Side, TokenStore, TransportConfig, VarInt, crypto::rustls::QuicServerConfig,
};
use rustls::{
    CipherSuite, RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ServerSessionMemoryCache, WebPkiClientVerifier},
    sign::CertifiedKey,
    version::TLS13,
};

use crate::{
    connection::FIRST,
    qlog::{Log, Place},
    sessions::SessionStore,
    slow_start::SlowStartConfig,
    steering::{ID_LENGTH, SlotIds},
    tls::{ClientTls, ServerTls},
    workers::Worker,
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

/// UDP payload that the search for the path MTU goes up to: what fits into 1500 bytes with IPv6 (RFC 8899).
pub(crate) const LARGEST_SEARCHED: u16 = 1452;
/// From falling back to 1200 bytes to the next search.
const MTU_RESPITE: Duration = Duration::from_secs(2);

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
    /// A folder for one file each connection, or a file.
    pub qlog: Option<String>,
}

impl Transport {
    fn build(&self) -> Result<TransportConfig, ConfigError> {
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
            .congestion_controller_factory(Arc::new(SlowStartConfig::default()))
            // A faster network overtakes what is under way on the one before it, by hundreds of packets: they are not
            // lost, and sending them again would take the new path's first round trips. Time tells (RFC 9002 §6.1.2);
            // with less patience than the usual eighth of a round trip, which few would wait out that count to three.
            .packet_threshold(u32::MAX)
            .time_threshold(17.0 / 16.0)
            .initial_rtt(self.initial_rtt);
        if let Some(mtu) = self.mtu {
            config.initial_mtu(mtu).mtu_discovery_config(None);
        } else {
            let mut search = MtuDiscoveryConfig::default();
            // What is lost of the path before looks to the engine as if the new one carried no large packets, and it
            // would not try them again for a minute.
            search.upper_bound(LARGEST_SEARCHED).black_hole_cooldown(MTU_RESPITE);
            config.mtu_discovery_config(Some(search));
        }
        Ok(config)
    }
}

/// The settings of all connections, and of each where it writes a log of its own.
#[derive(Clone, Debug)]
struct Transports {
    settings: Transport,
    shared: Arc<TransportConfig>,
    qlog: Option<Place>,
}

impl Transports {
    fn new(settings: &Transport) -> Result<Self, ConfigError> {
        let qlog = settings.qlog.as_deref().map(|path| Place::new(path, settings.initial_rtt));
        Ok(Self { settings: settings.clone(), shared: Arc::new(settings.build()?), qlog })
    }

    /// For one connection, whose client chose `id` as its first destination connection ID.
    fn logging(
        &self,
        side: Side,
        id: &ConnectionId,
        now: Instant,
    ) -> Result<Option<(Arc<TransportConfig>, Log)>, ConfigError> {
        let Some(place) = &self.qlog else { return Ok(None) };
        let (log, stream) = place.begin(side, id, now).map_err(fail("cannot write the qlog file"))?;
        let mut config = self.settings.build()?;
        config.qlog_stream(stream);
        Ok(Some((Arc::new(config), log)))
    }
}

fn provider() -> Arc<CryptoProvider> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    // First the one that every implementation has (RFC 8446 §9.1), as browsers ask for it: its AES takes ten rounds, not
    // fourteen, and processors that know SHA-256 do not know the other's SHA-384.
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
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

/// How many sets of CA certificates are remembered: a program trusts the system's, perhaps its own as well.
const ROOTS: usize = 4;

/// What CA certificates come to. To read them takes longer than a handshake where they are a system's, and a program dials
/// with the same ones again and again: so the last are remembered, by all that they consist of.
fn roots(pem: &[u8]) -> Result<Arc<RootCertStore>, ConfigError> {
    type Known = VecDeque<(Box<[u8]>, Arc<RootCertStore>)>;
    static KNOWN: Mutex<Known> = Mutex::new(VecDeque::new());
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, store)) = known().iter().find(|(other, _)| **other == *pem) {
        return Ok(store.clone());
    }
    let store = read_roots(pem)?;
    let mut known = known();
    known.truncate(ROOTS - 1);
    known.push_front((pem.into(), store.clone()));
    Ok(store)
}

fn read_roots(pem: &[u8]) -> Result<Arc<RootCertStore>, ConfigError> {
    let mut store = RootCertStore::empty();
    // A system's store holds certificates that no parser likes; they must not spoil the others.
    let (added, _ignored) = store.add_parsable_certificates(chain(pem)?);
    if added == 0 {
        return Err(ConfigError("none of the CA certificates can be used".into()));
    }
    Ok(Arc::new(store))
}

/// A certificate chain and its key, read and found to belong together.
fn certified_key(certificate: &[u8], key: &[u8]) -> Result<CertifiedKey, ConfigError> {
    let (chain, key) = (chain(certificate)?, private_key(key)?);
    CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => ConfigError("the private key is not that of the certificate".into()),
        error => ConfigError(format!("the private key cannot be used: {error}")),
    })
}

/// Whether a chain and a key can prove an identity together.
pub fn check_identity(certificate: &[u8], key: &[u8]) -> Result<(), ConfigError> {
    certified_key(certificate, key).map(drop)
}

/// Whether there is a certificate to trust.
pub fn check_roots(pem: &[u8]) -> Result<(), ConfigError> {
    roots(pem).map(drop)
}

/// What a client brings from earlier connections, and how it uses it.
#[derive(Clone, Copy, Debug)]
pub struct Resumption<'a> {
    pub store: &'a SessionStore,
    /// Name and port: what is remembered of one server must not go to another.
    pub server: &'a str,
    /// Send at once, before the server has answered (0-RTT, RFC 9001 §4.6).
    pub early_data: bool,
}

/// A client's half: whom to trust, who we are, what to speak.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    inner: quinn_proto::ClientConfig,
    transports: Transports,
    /// Bytes that a peer may send before they are read, on all streams.
    pub(crate) window: u64,
}

impl ClientConfig {
    /// `ca` is PEM; without it no certificate is verified.
    pub fn new(
        alpn: Vec<Vec<u8>>,
        ca: Option<&[u8]>,
        identity: Option<(&[u8], &[u8])>,
        transport: &Transport,
        resumption: Option<Resumption<'_>>,
        keylog: bool,
    ) -> Result<Self, ConfigError> {
        let window = transport.connection_window;
        let transports = Transports::new(&Transport { connection_window: window.min(FIRST), ..transport.clone() })?;
        let make = || client_tls(ca, identity);
        let server = match resumption {
            Some(Resumption { store, server, .. }) => Some(store.server(server, &alpn, ca, identity, make)?),
            None => None,
        };
        let mut tls = match &server {
            Some(server) => server.tls(),
            None => make()?,
        };
        tls.alpn_protocols = alpn;
        tls.enable_early_data = resumption.is_some_and(|resumption| resumption.early_data);
        if keylog {
            tls.key_log = Arc::new(rustls::KeyLogFile::new());
        }
        let tokens: Arc<dyn TokenStore> = match &server {
            Some(server) => server.clone(),
            None => Arc::new(NoneTokenStore),
        };
        let mut inner = quinn_proto::ClientConfig::new(Arc::new(ClientTls { tls, server }));
        inner.transport_config(transports.shared.clone()).token_store(tokens);
        Ok(Self { inner, transports, window })
    }

    /// For one connection, with the log that it writes.
    pub(crate) fn for_connection(&self, now: Instant) -> Result<(quinn_proto::ClientConfig, Option<Log>), ConfigError> {
        // RFC 9000 §7.2: unpredictable, and at least 8 bytes.
        let id = RandomConnectionIdGenerator::new(FIRST_ID_LENGTH).generate_cid();
        let mut config = self.inner.clone();
        config.initial_dst_cid_provider(Arc::new(move || id));
        let Some((transport, log)) = self.transports.logging(Side::Client, &id, now)? else {
            return Ok((config, None));
        };
        config.transport_config(transport);
        Ok((config, Some(log)))
    }
}

/// As the engine's own: the longest that there are.
const FIRST_ID_LENGTH: usize = 20;

fn client_tls(ca: Option<&[u8]>, identity: Option<(&[u8], &[u8])>) -> Result<rustls::ClientConfig, ConfigError> {
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
    Ok(match identity {
        Some((certificate, key)) => {
            let identity = rustls::sign::SingleCertAndKey::from(certified_key(certificate, key)?);
            builder.with_client_cert_resolver(Arc::new(identity))
        }
        None => builder.with_no_client_auth(),
    })
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
    /// Take what resuming clients send before the handshake is complete (0-RTT).
    pub early_data: bool,
    /// There are others on the same port. Then length and reset key are not this one's to choose.
    pub worker: Option<Worker>,
}

/// Tickets that a server which takes early data remembers: each is good for one use, which is what stops replays (RFC
/// 8446 §8.1), so that they cannot be kept by the clients alone. A client gets two with each connection.
const TICKETS: usize = 16_384;

#[derive(Clone, Debug)]
pub struct ServerConfig {
    pub(crate) inner: Arc<quinn_proto::ServerConfig>,
    pub(crate) id_length: usize,
    reset_key: Option<Vec<u8>>,
    worker: Option<Worker>,
    transports: Transports,
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
        let identity = rustls::sign::SingleCertAndKey::from(certified_key(certificate, key)?);
        let mut tls = builder.with_cert_resolver(Arc::new(identity));
        tls.alpn_protocols = alpn;
        if options.early_data {
            // RFC 9001 §4.6.1: no other value is allowed; the limit is flow control's.
            tls.max_early_data_size = u32::MAX;
            tls.session_storage = ServerSessionMemoryCache::new(TICKETS);
        } else if let Some(worker) = &options.worker {
            tls.ticketer = worker.tickets(client_ca);
        } else {
            tls.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().map_err(fail("session tickets"))?;
        }
        if options.keylog {
            tls.key_log = Arc::new(rustls::KeyLogFile::new());
        }
        let crypto = QuicServerConfig::try_from(tls).map_err(fail("TLS"))?;
        let transports = Transports::new(transport)?;
        let mut inner = quinn_proto::ServerConfig::with_crypto(Arc::new(ServerTls(Arc::new(crypto))));
        inner.transport_config(transports.shared.clone()).migration(options.migration);
        if let Some(worker) = &options.worker {
            inner.token_key(Arc::new(worker.token_key()));
        }
        let id_length = if options.worker.is_some() { ID_LENGTH } else { options.id_length };
        let (reset_key, worker) = (options.reset_key, options.worker);
        Ok(Self { inner: Arc::new(inner), id_length, reset_key, worker, transports })
    }

    /// Bytes that a peer may send before they are read, on all streams.
    pub(crate) fn window(&self) -> u64 {
        self.transports.settings.connection_window
    }

    /// What its endpoint goes by.
    pub(crate) fn endpoint(&self) -> Arc<EndpointConfig> {
        let Some(worker) = &self.worker else {
            return endpoint_config(self.id_length, None, self.reset_key.as_deref());
        };
        let mut config = EndpointConfig::default();
        let (steering, slot) = (worker.steering, worker.slot);
        config
            .reset_key(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &worker.reset_key())))
            .cid_generator(move || Box::new(SlotIds::new(steering, slot)))
            // Who takes a dead worker's place has many to tell at once. Resets do not answer each other for long: each
            // is shorter than what it answers (RFC 9000 §10.3.3).
            .min_reset_interval(Duration::from_millis(1));
        Arc::new(config)
    }

    /// For one connection, with the log that it writes. `None`: as for all.
    pub(crate) fn for_connection(
        &self,
        id: &ConnectionId,
        now: Instant,
    ) -> Option<(Arc<quinn_proto::ServerConfig>, Log)> {
        // A file that cannot be made costs the log, not the connection.
        let (transport, log) = self.transports.logging(Side::Server, id, now).ok()??;
        let mut config = (*self.inner).clone();
        config.transport_config(transport);
        Some((Arc::new(config), log))
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
