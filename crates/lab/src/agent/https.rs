//! One HTTPS request to the simulated Puppet. Network I/O on loopback.

use std::net::Ipv4Addr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// How agents introduce themselves; the journal knows them by it.
const USER_AGENT: &str = "Puppet/8.10.0 Ruby/3.2.5-p208 (x86_64-linux)";

/// Sends a request on a connection of its own: status and body.
pub(super) async fn call(
    port: u16,
    tls: Arc<ClientConfig>,
    method: Method,
    path: &str,
    body: String,
) -> anyhow::Result<(u16, Bytes)> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    let stream = TlsConnector::from(tls).connect(ServerName::try_from("localhost")?, stream).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "localhost")
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::CONTENT_TYPE, "text/plain")
        .body(Full::<Bytes>::from(body))?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        anyhow::Ok((status, response.into_body().collect().await?.to_bytes()))
    };
    tokio::select! {
        biased;
        answer = exchange => answer,
        // The connection is what moves the exchange along; it ends first only if it breaks.
        broken = connection => match broken {
            Err(error) => Err(error.into()),
            Ok(()) => Err(anyhow::anyhow!("the connection was closed without an answer")),
        },
    }
}
