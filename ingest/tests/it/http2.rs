//! HTTP/2: what its streams add to connections.

use std::future::poll_fn;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, SendStream};
use http::Request;
use tokio::time::timeout;

use super::server::{PATIENCE, TestServer};

/// As much as a connection takes of bodies that nobody reads.
const WINDOW: usize = 4 << 20;
/// As much as is read of a body that was refused.
const LIMIT: usize = 64 << 20;

/// A client on a connection of its own.
async fn connect(server: &TestServer) -> SendRequest<Bytes> {
    let socket = tokio::net::TcpStream::connect(server.address);
    let (client, connection) = h2::client::handshake(socket.await.unwrap()).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Begins a PATCH at an offset that is wrong.
async fn begin(client: &mut SendRequest<Bytes>, url: &str) -> (ResponseFuture, SendStream<Bytes>) {
    let request = Request::patch(url)
        .header("Tus-Resumable", "1.0.0")
        .header("Content-Type", "application/offset+octet-stream")
        .header("Upload-Offset", "7");
    let mut ready = client.clone().ready().await.unwrap();
    ready
        .send_request(request.body(()).unwrap(), false)
        .unwrap()
}

/// Sends a body without an end for as long as its stream is open: how many bytes, and what ended it.
async fn send_on(mut body: SendStream<Bytes>) -> (usize, Reason) {
    let mut sent = 0;
    body.reserve_capacity(1 << 20);
    while let Some(Ok(capacity)) = poll_fn(|cx| body.poll_capacity(cx)).await {
        if body.send_data(vec![0; capacity].into(), false).is_err() {
            break;
        }
        sent += capacity;
        body.reserve_capacity(1 << 20);
    }
    (sent, poll_fn(|cx| body.poll_reset(cx)).await.unwrap())
}

#[tokio::test]
async fn a_refused_body_is_read_on_within_limits_and_beside_other_requests() {
    // Who is still listened to is not idle.
    let server = TestServer::start(&["--keep-alive-timeout", "1s"]);
    let url = format!("http://{}{}", server.address, server.create(10));
    let mut client = connect(&server).await;
    let (refused, mut silent) = begin(&mut client, &url).await;
    assert_eq!(refused.await.unwrap().status(), 409);
    let (refused, body) = begin(&mut client, &url).await;
    assert_eq!(refused.await.unwrap().status(), 409);
    let (sent, ended) = send_on(body).await;
    assert_eq!(ended, Reason::NO_ERROR);
    assert!(WINDOW < sent && sent < LIMIT + 2 * WINDOW, "{sent} bytes");
    let reset = timeout(PATIENCE, poll_fn(|cx| silent.poll_reset(cx)));
    assert_eq!(reset.await.unwrap().unwrap(), Reason::NO_ERROR);
}
