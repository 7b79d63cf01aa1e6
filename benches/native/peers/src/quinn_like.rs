//! The program around quinn, and around noq, which comes from it and has the same interface but for `super::next`.

use std::{
    net::{SocketAddr, UdpSocket},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use rustls::{
    NamedGroup, RootCertStore,
    client::{
        ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
    },
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    version::TLS13,
};
use whimbrel_bench_peers::{
    ALPN, CONTENT, FIRST, Failure, HEAD, HOST, Handshake, Options, SOCKET_BUFFER, Task,
    orders::{Accepted, obey},
    work::{self, Library},
};

use super::{
    library::{
        ClientConfig, Connection, Endpoint, EndpointConfig, Incoming, MtuDiscoveryConfig, RecvStream, SendStream,
        ServerConfig, TokioRuntime, TransportConfig,
        crypto::rustls::{QuicClientConfig, QuicServerConfig},
    },
    next,
};

pub async fn program(task: Task) -> Result<(), Failure> {
    match task {
        Task::Server { options, folder } => serve(options, &folder).await,
        Task::Client { options, folder, server, work, count } => {
            let client = Client::new(options, &folder, server, Handshake::of(&work))?;
            work::run(client, &work, count).await
        }
    }
}

async fn serve(options: Options, folder: &Path) -> Result<(), Failure> {
    let chain = CertificateDer::pem_file_iter(folder.join("server.pem"))?.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file(folder.join("server.key"))?;
    let mut tls = rustls::ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    tls.alpn_protocols = vec![ALPN.into()];
    tls.max_early_data_size = u32::MAX;
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    config.transport_config(Arc::new(transport(options)));
    let endpoint = endpoint(options, Some(config))?;
    let accepted = Accepted::default();
    obey(endpoint.local_addr()?.port(), accepted.clone());
    while let Some(incoming) = endpoint.accept().await {
        // A client that goes away is no news.
        tokio::spawn(attend(incoming, accepted.clone()));
    }
    Ok(())
}

async fn attend(incoming: Incoming, accepted: Accepted) -> Result<(), Failure> {
    // Early data are answered early: `into_0rtt` is always there for a server.
    let connection = match incoming.accept()?.into_0rtt() {
        Ok((connection, complete)) => {
            tokio::spawn(async move {
                complete.await;
                accepted.one_more();
            });
            connection
        }
        Err(_) => return Err("a server without early data".into()),
    };
    loop {
        let (sending, receiving) = connection.accept_bi().await?;
        tokio::spawn(answer(sending, receiving));
    }
}

async fn answer(mut sending: SendStream, mut receiving: RecvStream) -> Result<(), Failure> {
    let mut head = [0; HEAD];
    receiving.read_exact(&mut head).await?;
    while next(&mut receiving).await?.is_some() {}
    send(&mut sending, u64::from_be_bytes(head)).await
}

async fn send(stream: &mut SendStream, mut count: u64) -> Result<(), Failure> {
    while count > 0 {
        let piece = count.min(CONTENT.len() as u64);
        stream.write_chunk(Bytes::from_static(&CONTENT[..piece as usize])).await?;
        count -= piece;
    }
    Ok(stream.finish()?)
}

struct Client {
    endpoint: Endpoint,
    config: ClientConfig,
    server: SocketAddr,
    handshake: Handshake,
    tickets: Arc<Tickets>,
    /// Whether the last handshake resumed; with early data, whether the server took them.
    resumed: Arc<AtomicBool>,
}

impl Client {
    fn new(options: Options, folder: &Path, server: SocketAddr, handshake: Handshake) -> Result<Self, Failure> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(folder.join("ca.pem"))? {
            roots.add(certificate?)?;
        }
        let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![ALPN.into()];
        let tickets = Arc::new(Tickets { all: ClientSessionMemoryCache::new(256), used: AtomicBool::new(false) });
        tls.resumption = match handshake {
            Handshake::Full => Resumption::disabled(),
            _ => Resumption::store(tickets.clone()),
        };
        tls.enable_early_data = handshake == Handshake::Early;
        let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
        config.transport_config(Arc::new(transport(options)));
        Ok(Self { endpoint: endpoint(options, None)?, config, server, handshake, tickets, resumed: Arc::default() })
    }
}

impl Library for Client {
    type Connection = Connection;

    async fn connect(&self) -> Result<Connection, Failure> {
        self.resumed.store(false, Ordering::Relaxed);
        let connecting = self.endpoint.connect_with(self.config.clone(), self.server, HOST)?;
        if self.handshake != Handshake::Early {
            self.resumed.store(self.tickets.used.swap(false, Ordering::Relaxed), Ordering::Relaxed);
            return Ok(connecting.await?);
        }
        match connecting.into_0rtt() {
            Ok((connection, taken)) => {
                let resumed = self.resumed.clone();
                tokio::spawn(async move { resumed.store(taken.await, Ordering::Relaxed) });
                Ok(connection)
            }
            Err(connecting) => Ok(connecting.await?),
        }
    }

    async fn exchange(connection: Connection, up: u64, down: u64) -> Result<(), Failure> {
        let (mut sending, mut receiving) = connection.open_bi().await?;
        let first = up.min(FIRST) as usize;
        let mut request = Vec::with_capacity(HEAD + first);
        request.extend(down.to_be_bytes());
        request.resize(HEAD + first, 0);
        sending.write_all(&request).await?;
        send(&mut sending, up - first as u64).await?;
        let mut got = 0;
        while let Some(piece) = next(&mut receiving).await? {
            got += piece.len() as u64;
        }
        if got == down { Ok(()) } else { Err(format!("{got} bytes came, not {down}").into()) }
    }

    async fn verify(&self, connection: Connection) -> Result<(), Failure> {
        Self::close(connection);
        match self.handshake == Handshake::Full || self.resumed.load(Ordering::Relaxed) {
            true => Ok(()),
            false => Err("a handshake was a full one".into()),
        }
    }

    fn close(connection: Connection) {
        connection.close(0_u32.into(), b"");
    }
}

fn transport(options: Options) -> TransportConfig {
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(options.datagram);
    let mut config = TransportConfig::default();
    config.mtu_discovery_config(Some(discovery));
    config
}

fn endpoint(options: Options, server: Option<ServerConfig>) -> Result<Endpoint, Failure> {
    let mut config = EndpointConfig::default();
    config.max_udp_payload_size(options.datagram.max(1472))?;
    let socket = UdpSocket::bind((HOST, 0))?;
    let buffers = socket2::SockRef::from(&socket);
    buffers.set_recv_buffer_size(SOCKET_BUFFER)?;
    buffers.set_send_buffer_size(SOCKET_BUFFER)?;
    Ok(Endpoint::new(config, server, socket, Arc::new(TokioRuntime))?)
}

/// Tickets, and whether one was used.
#[derive(Debug)]
struct Tickets {
    all: ClientSessionMemoryCache,
    used: AtomicBool,
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, server: ServerName<'static>, group: NamedGroup) {
        self.all.set_kx_hint(server, group);
    }

    fn kx_hint(&self, server: &ServerName<'_>) -> Option<NamedGroup> {
        self.all.kx_hint(server)
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, server: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        self.all.insert_tls13_ticket(server, ticket);
    }

    fn take_tls13_ticket(&self, server: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        let ticket = self.all.take_tls13_ticket(server);
        self.used.store(ticket.is_some(), Ordering::Relaxed);
        ticket
    }
}
