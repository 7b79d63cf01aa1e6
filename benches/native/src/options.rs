//! `--name value` pairs, and the engine's settings made of them.

use std::{collections::HashMap, env, fmt::Display, fs, str::FromStr, sync::Arc, time::Duration};

use quinn_proto::{
    ClientConfig, EndpointConfig, IdleTimeout, RandomConnectionIdGenerator, ServerConfig, TransportConfig, VarInt,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use rustls::{
    RootCertStore,
    client::Resumption,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    version::TLS13,
};

/// What `whimbrel` has by default.
const ID_LENGTH: usize = 8;

pub struct Options(HashMap<String, String>);

impl Options {
    /// Reads the command line.
    pub fn new() -> Result<Self, String> {
        let mut words = env::args().skip(1);
        let mut options = HashMap::new();
        while let Some(word) = words.next() {
            let name = word.strip_prefix("--").ok_or_else(|| format!("{word:?} is no option"))?;
            let value = words.next().ok_or_else(|| format!("--{name} needs a value"))?;
            options.insert(name.to_owned(), value);
        }
        Ok(Self(options))
    }

    pub fn get<T: FromStr<Err: Display>>(&self, name: &str) -> Result<T, String> {
        let text = self.0.get(name).ok_or_else(|| format!("--{name} is missing"))?;
        text.parse().map_err(|error| format!("--{name} {text}: {error}"))
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// What is in a file.
    pub fn read(&self, name: &str) -> Result<Vec<u8>, String> {
        let path: String = self.get(name)?;
        fs::read(&path).map_err(|error| format!("{path}: {error}"))
    }

    /// Transport parameters, under the names of `whimbrel.Limits`.
    fn transport(&self) -> Result<Arc<TransportConfig>, String> {
        let var = |name| Ok::<_, String>(VarInt::from_u64(self.get(name)?).unwrap_or(VarInt::MAX));
        let mut config = TransportConfig::default();
        let idle = Duration::from_secs_f64(self.get("idle-timeout")?);
        config
            .max_idle_timeout(Some(IdleTimeout::try_from(idle).map_err(|error| error.to_string())?))
            .stream_receive_window(var("stream-window")?)
            .receive_window(var("connection-window")?)
            .max_concurrent_bidi_streams(var("max-streams")?)
            .max_concurrent_uni_streams(var("max-streams")?)
            .send_window(self.get("send-buffer")?)
            .initial_rtt(Duration::from_secs_f64(self.get("initial-rtt")?));
        Ok(Arc::new(config))
    }

    /// Verifies certificates, and never resumes: each handshake is a full one.
    pub fn client(&self) -> Result<ClientConfig, String> {
        let mut roots = RootCertStore::empty();
        for certificate in chain(&self.read("cafile")?)? {
            roots.add(certificate).map_err(|error| error.to_string())?;
        }
        let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![self.get::<String>("alpn")?.into_bytes()];
        tls.resumption = Resumption::disabled();
        let crypto = QuicClientConfig::try_from(tls).map_err(|error| error.to_string())?;
        let mut config = ClientConfig::new(Arc::new(crypto));
        config.transport_config(self.transport()?);
        Ok(config)
    }

    pub fn server(&self) -> Result<ServerConfig, String> {
        let key = PrivateKeyDer::from_pem_slice(&self.read("key")?).map_err(|error| error.to_string())?;
        let mut tls = rustls::ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| error.to_string())?
            .with_no_client_auth()
            .with_single_cert(chain(&self.read("certificate")?)?, key)
            .map_err(|error| error.to_string())?;
        tls.alpn_protocols = vec![self.get::<String>("alpn")?.into_bytes()];
        let crypto = QuicServerConfig::try_from(tls).map_err(|error| error.to_string())?;
        let mut config = ServerConfig::with_crypto(Arc::new(crypto));
        config.transport_config(self.transport()?);
        Ok(config)
    }

    pub fn endpoint(&self) -> Arc<EndpointConfig> {
        let mut config = EndpointConfig::default();
        config.cid_generator(|| Box::new(RandomConnectionIdGenerator::new(ID_LENGTH)));
        Arc::new(config)
    }
}

fn chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|error| error.to_string())
}
