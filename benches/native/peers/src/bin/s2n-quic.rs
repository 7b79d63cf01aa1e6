//! s2n-quic, with the TLS of its own project, as its documentation has it.

use std::{net::SocketAddr, path::Path, process::ExitCode, sync::Arc};

use bytes::Bytes;
use s2n_quic::{
    Client, Connection, Server,
    application::Error as Code,
    client::Connect,
    connection::Handle,
    provider::{
        io,
        tls::default::{Client as ClientTls, Server as ServerTls},
    },
    stream::{BidirectionalStream, SendStream},
};
use whimbrel_bench_peers::{
    ALPN, CONTENT, FIRST, Failure, HEAD, HOST, Handshake, Options, SOCKET_BUFFER, Task,
    orders::{Accepted, obey},
    work::{self, Library},
};

/// It counts the headers of IPv4 and UDP in.
const HEADERS: u16 = 28;

fn main() -> ExitCode {
    whimbrel_bench_peers::run("s2n-quic", program)
}

async fn program(task: Task) -> Result<(), Failure> {
    match task {
        Task::Server { options, folder } => serve(options, &folder).await,
        Task::Client { work, .. } if Handshake::of(&work) != Handshake::Full => {
            Err("s2n-quic's clients resume nothing".into())
        }
        Task::Client { options, folder, server, work, count } => {
            let tls = ClientTls::builder()
                .with_certificate(folder.join("ca.pem").as_path())?
                .with_application_protocols([ALPN].iter())?
                .build()?;
            let client = Client::builder().with_tls(tls)?.with_io(sockets(options)?)?.start()?;
            work::run(Dialler { client, server }, &work, count).await
        }
    }
}

fn sockets(options: Options) -> Result<io::tokio::Provider, Failure> {
    let builder = io::tokio::Builder::default().with_receive_address(SocketAddr::new(HOST.parse()?, 0))?;
    let builder = builder.with_recv_buffer_size(SOCKET_BUFFER)?.with_send_buffer_size(SOCKET_BUFFER)?;
    Ok(builder.with_max_mtu(options.datagram + HEADERS)?.build()?)
}

async fn serve(options: Options, folder: &Path) -> Result<(), Failure> {
    let tls = ServerTls::builder()
        .with_certificate(folder.join("server.pem").as_path(), folder.join("server.key").as_path())?
        .with_application_protocols([ALPN].iter())?
        .build()?;
    let mut server = Server::builder().with_tls(tls)?.with_io(sockets(options)?)?.start()?;
    let accepted = Accepted::default();
    obey(server.local_addr()?.port(), accepted.clone());
    while let Some(mut connection) = server.accept().await {
        accepted.one_more();
        tokio::spawn(async move {
            while let Ok(Some(stream)) = connection.accept_bidirectional_stream().await {
                // A client that goes away is no news.
                tokio::spawn(answer(stream));
            }
        });
    }
    Ok(())
}

async fn answer(stream: BidirectionalStream) -> Result<(), Failure> {
    let (mut receiving, mut sending) = stream.split();
    let mut head = Vec::with_capacity(HEAD);
    while let Some(piece) = receiving.receive().await? {
        head.extend_from_slice(&piece[..piece.len().min(HEAD - head.len())]);
    }
    let wanted = head.try_into().map_err(|_| "a request was too short")?;
    send(&mut sending, u64::from_be_bytes(wanted)).await
}

async fn send(stream: &mut SendStream, mut count: u64) -> Result<(), Failure> {
    while count > 0 {
        let piece = count.min(CONTENT.len() as u64);
        stream.send(Bytes::from_static(&CONTENT[..piece as usize])).await?;
        count -= piece;
    }
    Ok(stream.finish()?)
}

struct Dialler {
    client: Client,
    server: SocketAddr,
}

#[derive(Clone)]
struct Dialled {
    handle: Handle,
    /// With the last of these the connection would end.
    _whole: Arc<Connection>,
}

impl Library for Dialler {
    type Connection = Dialled;

    async fn connect(&self) -> Result<Dialled, Failure> {
        let connection = self.client.connect(Connect::new(self.server).with_server_name(HOST)).await?;
        Ok(Dialled { handle: connection.handle(), _whole: Arc::new(connection) })
    }

    async fn exchange(mut connection: Dialled, up: u64, down: u64) -> Result<(), Failure> {
        let (mut receiving, mut sending) = connection.handle.open_bidirectional_stream().await?.split();
        let first = up.min(FIRST) as usize;
        let mut request = Vec::with_capacity(HEAD + first);
        request.extend(down.to_be_bytes());
        request.resize(HEAD + first, 0);
        sending.send(request.into()).await?;
        send(&mut sending, up - first as u64).await?;
        let mut got = 0;
        while let Some(piece) = receiving.receive().await? {
            got += piece.len() as u64;
        }
        if got == down { Ok(()) } else { Err(format!("{got} bytes came, not {down}").into()) }
    }

    async fn verify(&self, connection: Dialled) -> Result<(), Failure> {
        Self::close(connection);
        Ok(())
    }

    fn close(connection: Dialled) {
        connection.handle.close(Code::UNKNOWN);
    }
}
