use super::server::{BYTES, TUS, TestServer, head, patch, patch_head};

#[test]
fn requests_on_one_connection_are_answered_in_order_also_when_pipelined() {
    let server = TestServer::start(&[]);
    let upload = server.create(10);
    let mut connection = server.connect();
    let both = [patch(&upload, 0, b"hello"), patch(&upload, 5, b"world")].concat();
    connection.send(both);
    connection.response().expect(204, &[("Upload-Offset", "5")]);
    connection
        .response()
        .expect(204, &[("Upload-Offset", "10")]);
    connection.send(head(&upload));
    connection
        .response()
        .expect(200, &[("Upload-Offset", "10")]);
}

#[test]
fn a_refusal_comes_before_100_continue_and_before_the_body() {
    let server = TestServer::start(&[]);
    let upload = server.create(100);
    let expecting = |offset: usize| {
        patch_head(&upload, offset, 100).replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n")
    };
    let mut connection = server.connect();
    connection.send(expecting(7));
    connection
        .response()
        .expect(409, &[("Connection", "close")]);
    assert!(connection.is_closed());
    let mut connection = server.connect();
    connection.send(expecting(0));
    connection.response().expect(100, &[]);
    connection.send([b'x'; 100]);
    connection
        .response()
        .expect(204, &[("Upload-Offset", "100")]);
}

#[test]
fn a_refusal_can_be_read_while_a_large_body_is_still_being_sent() {
    let server = TestServer::start(&[]);
    let upload = server.create(40_000_000);
    let mut connection = server.connect();
    connection.send(patch_head(&upload, 7, 40_000_000));
    // Nothing here may fail although nobody wants these bytes.
    for _ in 0..40 {
        connection.send(vec![b'x'; 1_000_000]);
    }
    connection
        .response()
        .expect(409, &[("Connection", "close"), ("Upload-Offset", "0")]);
    assert!(connection.is_closed());
}

#[test]
fn a_small_refused_body_costs_no_connection() {
    let server = TestServer::start(&[]);
    let upload = server.create(1_000);
    let mut connection = server.connect();
    connection.send(patch(&upload, 7, &[b'x'; 500]));
    let refused = connection.response().expect(409, &[]);
    assert_eq!(refused.header("connection"), None);
    connection.send(patch(&upload, 0, &[b'x'; 1_000]));
    connection.response().expect(204, &[]);
}

#[test]
fn who_sends_no_headers_is_closed() {
    let server = TestServer::start(&["--header-timeout", "1s"]);
    for start in ["", "P", "PRI * HT", "HEAD /files/ HTTP/1.1\r\nHost"] {
        let mut connection = server.connect();
        connection.send(start);
        assert!(connection.is_closed(), "{start:?}");
    }
    // Also on a connection that has been used.
    let mut connection = server.connect();
    connection.send("OPTIONS /files/ HTTP/1.1\r\nHost: x\r\n\r\n");
    connection.response().expect(204, &[]);
    connection.send("HEAD /fi");
    assert!(connection.is_closed());
}

#[test]
fn an_idle_connection_outlives_the_header_timeout_but_not_the_keep_alive_timeout() {
    let server = TestServer::start(&["--header-timeout", "1s", "--keep-alive-timeout", "3s"]);
    let mut connection = server.connect();
    let start = std::time::Instant::now();
    connection.send("OPTIONS /files/ HTTP/1.1\r\nHost: x\r\n\r\n");
    connection.response().expect(204, &[]);
    assert!(connection.is_closed());
    assert!(start.elapsed() > std::time::Duration::from_millis(1500));
}

#[test]
fn a_body_may_be_slower_than_the_header_timeout() {
    let server = TestServer::start(&["--header-timeout", "1s"]);
    let upload = server.create(5);
    let mut connection = server.connect();
    connection.send(patch_head(&upload, 0, 5));
    for half in ["hel", "lo"] {
        std::thread::sleep(std::time::Duration::from_millis(600));
        connection.send(half);
    }
    connection.response().expect(204, &[("Upload-Offset", "5")]);
}

#[test]
fn a_request_right_behind_a_large_body_is_answered() {
    let server = TestServer::start(&[]);
    let length = 9_000_001;
    let upload = server.create(length);
    let mut connection = server.connect();
    connection.send(patch_head(&upload, 0, length));
    let mut body = vec![b'x'; length];
    body.extend(b"OPTIONS /files/ HTTP/1.1\r\nHost: x\r\n\r\n");
    connection.send(body);
    let offset = length.to_string();
    connection
        .response()
        .expect(204, &[("Upload-Offset", &offset)]);
    connection.response().expect(204, &[]);
}

#[test]
fn more_connections_than_allowed_wait_for_their_turn() {
    let server = TestServer::start(&["--max-connections", "1"]);
    let mut first = server.connect();
    first.send("OPTIONS /files/ HTTP/1.1\r\nHost: x\r\n\r\n");
    first.response().expect(204, &[]);
    let mut second = server.connect();
    second.send("OPTIONS /files/ HTTP/1.1\r\nHost: x\r\n\r\n");
    drop(first);
    second.response().expect(204, &[]);
}

#[test]
fn a_target_without_a_path_is_answered_like_any_that_is_not_there() {
    let server = TestServer::start(&[]);
    let mut connection = server.connect();
    for target in ["CONNECT x:80", "OPTIONS *", "GET http://x"] {
        connection.send(format!("{target} HTTP/1.1\r\nHost: x\r\n\r\n"));
        let status = if target.starts_with("GET") { 200 } else { 404 };
        connection.response().expect(status, &[]);
    }
}

#[test]
fn a_request_that_does_not_name_one_host_is_refused_and_costs_no_connection() {
    let server = TestServer::start(&[]);
    let mut connection = server.connect();
    for (fields, status) in [
        ("HTTP/1.1\r\n", 400),
        ("HTTP/1.1\r\nHost: x\r\nHost: x\r\n", 400),
        ("HTTP/1.1\r\nHost: x/y\r\n", 400),
        ("HTTP/1.1\r\nHost:\r\n", 204),
        ("HTTP/1.0\r\n", 204),
    ] {
        connection.send(format!("OPTIONS /files/ {fields}\r\n"));
        let answer = connection.response().expect(status, &[]);
        let refusal = answer.body.lines().collect::<Vec<_>>();
        assert_eq!(refusal.len(), usize::from(status == 400), "{fields:?}");
    }
    assert!(connection.is_closed(), "as HTTP/1.0 wants it");
}

#[test]
fn garbage_and_oversized_headers_end_the_connection_and_nothing_else() {
    let server = TestServer::start(&[]);
    let mut connection = server.connect();
    connection.send("what is this\r\n\r\n");
    connection.response().expect(400, &[]);
    assert!(connection.is_closed());
    let mut connection = server.connect();
    let long = "x".repeat(70_000);
    let request = format!("POST /files/ HTTP/1.1\r\nHost: x\r\n{TUS}{BYTES}X: {long}\r\n\r\n");
    connection.send(request);
    connection.response().expect(431, &[]);
    server.create(1);
}

#[test]
fn http2_without_a_request_is_closed_like_http1() {
    let server = TestServer::start(&["--header-timeout", "200ms", "--keep-alive-timeout", "200ms"]);
    let mut connection = server.connect();
    connection.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    // SETTINGS without a setting.
    connection.send([0, 0, 0, 4, 0, 0, 0, 0, 0]);
    connection.read_to_end();
}
