//! A server and a client over HTTP/3 that are quinn (and h3) and nothing else. The client is moved by hand, with
//! `Endpoint::rebind`.
//!
//!     quinn server ADDRESS:PORT CERTIFICATE KEY FOLDER
//!     quinn client URL AUTHORITY OUTPUT SOURCE      then an address to move to on each line of standard input
//!
//! OUTPUT may be a pipe. What is done is told line by line: listening, connected, moved ADDRESS.

use std::{
    error::Error,
    net::{IpAddr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use bytes::{Buf, Bytes};
use http::{Request, Response, StatusCode, Uri};
use quinn::{
    ClientConfig, Endpoint, EndpointConfig, Incoming, ServerConfig, TokioRuntime,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncWriteExt},
    runtime::Handle,
};

type Failure = Box<dyn Error + Send + Sync>;
type RequestStream = h3::server::RequestStream<h3_quinn::BidiStream<Bytes>, Bytes>;

const PIECE: usize = 1 << 16;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["server", address, certificate, key, folder] => serve(address, certificate, key, folder).await,
        ["client", from, authority, output, source] => download(from, authority, output, source).await,
        _ => Err("usage: quinn server ADDRESS:PORT CERTIFICATE KEY FOLDER | client URL AUTHORITY OUTPUT SOURCE".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("quinn: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(address: &str, certificate: &str, key: &str, folder: &str) -> Result<(), Failure> {
    let chain = CertificateDer::pem_file_iter(certificate)?.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file(key)?;
    let mut tls = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    let endpoint = Endpoint::server(config, address.parse()?)?;
    println!("listening");
    while let Some(incoming) = endpoint.accept().await {
        let folder = PathBuf::from(folder);
        tokio::spawn(async move {
            // A client that goes away is no news.
            let _ = answer_all(incoming, &folder).await;
        });
    }
    Ok(())
}

async fn answer_all(incoming: Incoming, folder: &Path) -> Result<(), Failure> {
    let mut connection = h3::server::Connection::new(h3_quinn::Connection::new(incoming.await?)).await?;
    while let Some(resolver) = connection.accept().await? {
        let (request, stream) = resolver.resolve_request().await?;
        answer(&request, stream, folder).await?;
    }
    Ok(())
}

async fn answer(request: &Request<()>, mut stream: RequestStream, folder: &Path) -> Result<(), Failure> {
    let name = Path::new(request.uri().path()).file_name().unwrap_or_default();
    let Ok(mut file) = File::open(folder.join(name)).await else {
        stream.send_response(Response::builder().status(StatusCode::NOT_FOUND).body(())?).await?;
        return Ok(stream.finish().await?);
    };
    let length = file.metadata().await?.len();
    stream.send_response(Response::builder().header("content-length", length).body(())?).await?;
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece).await? {
            0 => return Ok(stream.finish().await?),
            size => stream.send_data(Bytes::copy_from_slice(&piece[..size])).await?,
        }
    }
}

async fn download(from: &str, authority: &str, output: &str, source: &str) -> Result<(), Failure> {
    let from: Uri = from.parse()?;
    let peer: SocketAddr = from.authority().ok_or("no host in the URL")?.as_str().parse()?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(authority)? {
        roots.add(certificate?)?;
    }
    let mut tls = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    let endpoint = Endpoint::new(EndpointConfig::default(), None, bound(source)?, Arc::new(TokioRuntime))?;
    let connection = endpoint.connect_with(config, peer, &peer.ip().to_string())?.await?;
    println!("connected");
    let (mut driver, mut sender) = h3::client::new(h3_quinn::Connection::new(connection)).await?;
    tokio::spawn(async move { driver.wait_idle().await });
    let (mover, runtime) = (endpoint.clone(), Handle::current());
    std::thread::spawn(move || {
        let _guard = runtime.enter();
        obey(&mover);
    });
    let mut stream = sender.send_request(Request::get(from).body(())?).await?;
    stream.finish().await?;
    let response = stream.recv_response().await?;
    if response.status() != StatusCode::OK {
        return Err(response.status().to_string().into());
    }
    let mut file = File::create(output).await?;
    while let Some(mut piece) = stream.recv_data().await? {
        while piece.has_remaining() {
            let size = file.write(piece.chunk()).await?;
            piece.advance(size);
        }
    }
    file.flush().await?;
    endpoint.close(0u32.into(), b"");
    endpoint.wait_idle().await;
    Ok(())
}

/// Moves to the address on each line. A move that fails is told; the transfer says what that meant.
///
/// Runs on a thread of its own, for which nobody waits: tokio's standard input would keep the program from ending.
fn obey(endpoint: &Endpoint) {
    for source in std::io::stdin().lines().map_while(Result::ok) {
        match bound(&source).and_then(|socket| endpoint.rebind(socket)) {
            Ok(()) => println!("moved {source}"),
            Err(error) => eprintln!("quinn: cannot move: {error}"),
        }
    }
}

fn bound(source: &str) -> std::io::Result<UdpSocket> {
    let address: IpAddr = source.parse().map_err(std::io::Error::other)?;
    UdpSocket::bind(SocketAddr::new(address, 0))
}
