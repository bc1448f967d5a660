use super::http::Connection;
use super::server::{TestServer, patch, patch_head, wait_until};

/// A running PATCH of ten bytes, of which five have arrived.
fn half_sent(server: &TestServer, upload: &str) -> Connection {
    let mut running = server.connect();
    running.send(patch_head(upload, 0, 10));
    running.send("hello");
    wait_until("the bytes have arrived", || server.offset(upload) == 5);
    running
}

#[test]
fn a_running_upload_ends_in_the_drain_time_and_nobody_new_is_let_in() {
    let mut server = TestServer::start(&[]);
    let upload = server.create(10);
    let mut idle = server.connect();
    idle.send("OPTIONS /files/ HTTP/1.1\r\nHost: x\r\n\r\n");
    idle.response().expect(204, &[]);
    let mut running = half_sent(&server, &upload);
    server.stop();
    assert!(idle.is_closed());
    wait_until("the listener is closed", || {
        std::net::TcpStream::connect(server.address).is_err()
    });
    running.send("world");
    running
        .response()
        .expect(204, &[("Upload-Offset", "10"), ("Connection", "close")]);
    server.join();
    assert_eq!(server.completed(&upload), b"helloworld");
}

#[test]
fn a_client_that_has_sent_nothing_yet_holds_up_no_stop() {
    let mut server = TestServer::start(&[]);
    let mut silent = server.connect();
    // Accepted one after the other: the silent one is in by now.
    server.create(1);
    server.stop();
    assert!(silent.is_closed());
    server.join();
}

#[test]
fn a_client_that_has_sent_half_a_head_holds_up_no_stop() {
    let flags = ["--drain-timeout", "1h", "--header-timeout", "1h"];
    let mut server = TestServer::start(&flags);
    // Of HTTP/2 SETTINGS without a setting, and then the first of HEADERS, without an end.
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let headers = [0, 0, 1, 1, 0, 0, 0, 0, 1, 0x88];
    let http2 = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &settings[..]].concat();
    let halves = [
        b"PATCH /files/ HTTP/1.1\r\nHost:".to_vec(),
        http2.clone(),
        [http2, headers.to_vec()].concat(),
    ];
    let mut clients = halves.map(|half| {
        let mut client = server.connect();
        client.send(half);
        client
    });
    server.create(1);
    server.stop();
    for client in &mut clients {
        client.read_to_end();
    }
    server.join();
}

#[test]
fn a_head_that_arrives_while_the_server_stops_is_answered() {
    let mut server = TestServer::start(&["--drain-timeout", "1h"]);
    let mut client = server.connect();
    client.send("OPTIONS /files/ HTTP/1.1\r\n");
    server.create(1);
    server.stop();
    wait_until("the listener is closed", || {
        std::net::TcpStream::connect(server.address).is_err()
    });
    client.send("Host: x\r\n\r\n");
    client.response().expect(204, &[("Connection", "close")]);
    server.join();
}

#[test]
fn after_the_drain_time_bytes_are_kept_and_the_client_is_told_to_come_back() {
    let mut server = TestServer::start(&["--drain-timeout", "200ms"]);
    let upload = server.create(10);
    let mut running = half_sent(&server, &upload);
    server.stop();
    running
        .response()
        .expect(503, &[("Retry-After", "1"), ("Connection", "close")]);
    drop(running);
    server.join();
    let server = server.beside(&[]);
    assert_eq!(server.offset(&upload), 5);
    server.ask(patch(&upload, 5, b"world")).expect(204, &[]);
    assert_eq!(server.completed(&upload), b"helloworld");
}

#[test]
fn asked_twice_the_server_ends_at_once() {
    let mut server = TestServer::start(&["--drain-timeout", "1h"]);
    let upload = server.create(10);
    let _running = half_sent(&server, &upload);
    server.stop();
    server.stop();
    server.join();
    assert_eq!(server.beside(&[]).offset(&upload), 5);
}
