use super::server::{BYTES, TUS, TestServer, head, patch, patch_head, wait_until};

/// A body of `n` bytes in which every position can be told from its neighbours.
fn body(n: usize) -> Vec<u8> {
    (0..n).map(|at| (at % 251) as u8).collect()
}

/// Sends the first `sent` of `length` bytes and goes away in one of three ways.
fn cut(server: &TestServer, upload: &str, body: &[u8], sent: usize, how: &str) {
    let mut connection = server.connect();
    connection.send(patch_head(upload, 0, body.len()));
    connection.send(&body[..sent]);
    match how {
        "close" => drop(connection),
        "half close" => {
            connection.finish_sending();
            assert_eq!(connection.response().status, 400);
        }
        _ => {
            // A reset may overtake bytes that nobody has read yet.
            wait_until("the bytes have arrived", || {
                server.offset(upload) == sent as u64
            });
            connection.reset();
        }
    }
}

#[test]
fn a_cut_connection_keeps_every_byte_that_arrived() {
    for durability in ["every-patch", "none"] {
        let server = TestServer::start(&["--durability", durability]);
        for how in ["close", "half close", "reset"] {
            for sent in [0, 1, 65_535, 1_500_000] {
                let body = body(2_000_000);
                let upload = server.create(body.len());
                cut(&server, &upload, &body, sent, how);
                wait_until(&format!("{sent} bytes are kept after {how}"), || {
                    server.offset(&upload) == sent as u64
                });
                server
                    .ask(patch(&upload, sent, &body[sent..]))
                    .expect(204, &[]);
                assert!(server.completed(&upload) == body, "{how} after {sent}");
            }
        }
    }
}

#[test]
fn a_client_that_sends_its_last_byte_and_leaves_has_uploaded() {
    let server = TestServer::start(&[]);
    let body = body(10_000);
    for _ in 0..20 {
        let upload = server.create(body.len());
        let mut connection = server.connect();
        connection.send(patch(&upload, 0, &body));
        drop(connection);
        wait_until("the upload is complete", || {
            server.offset(&upload) == 10_000
        });
        assert!(server.completed(&upload) == body);
    }
}

#[test]
fn a_chunked_body_needs_no_length() {
    let server = TestServer::start(&[]);
    let upload = server.create(10);
    let start = format!(
        "PATCH {upload} HTTP/1.1\r\nHost: x\r\n{TUS}{BYTES}Upload-Offset: 0\r\n\
         Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
    );
    let mut connection = server.connect();
    connection.send(format!("{start}0\r\n\r\n"));
    connection.response().expect(204, &[("Upload-Offset", "5")]);
    // What fits is kept, what does not is refused.
    let mut connection = server.connect();
    connection.send(
        start
            .replace("Offset: 0", "Offset: 5")
            .replace("5\r\nhello", "7\r\n worldX"),
    );
    connection
        .response()
        .expect(413, &[("Connection", "close")]);
    assert_eq!(server.completed(&upload), b"hello worl");
}

#[test]
fn a_stalled_body_is_given_up_without_a_final_answer_and_kept() {
    let server = TestServer::start(&["--stall-timeout", "300ms"]);
    let upload = server.create(10);
    let mut connection = server.connect();
    connection.send(patch_head(&upload, 0, 10));
    connection.send("hello");
    assert!(connection.is_closed());
    assert_eq!(server.offset(&upload), 5);
}

#[test]
fn a_hand_over_that_was_interrupted_is_finished_at_the_next_start() {
    let server = TestServer::start(&[]);
    let upload = server.create(5);
    server.ask(patch(&upload, 0, b"hello")).expect(204, &[]);
    let id = upload.rsplit('/').next().unwrap();
    // As it is between the two renames.
    let (data, back) = (
        server.path("completed").join(id),
        server.path("uploads").join(id),
    );
    #[expect(clippy::disallowed_methods, reason = "the crash that is played here")]
    std::fs::rename(&data, &back).unwrap();
    let _next = server.beside(&[]);
    wait_until("it is handed over", || data.is_file());
}

#[test]
fn an_upload_that_lost_its_data_is_not_there_and_one_whose_data_went_ahead_is() {
    let server = TestServer::start(&["--durability", "none"]);
    let (lost, ahead) = (server.create(10), server.create(10));
    let data = |dir: &str, upload: &str| server.path(dir).join(upload.rsplit('/').next().unwrap());
    // What a power cut can leave: a record, and not the data, or the data in another directory.
    std::fs::remove_file(data("uploads", &lost)).unwrap();
    #[expect(clippy::disallowed_methods, reason = "the crash that is played here")]
    std::fs::rename(data("uploads", &ahead), data("completed", &ahead)).unwrap();
    server.ask(head(&ahead)).expect(200, &[]);
    let ask =
        |method: &str| server.ask(format!("{method} {lost} HTTP/1.1\r\nHost: x\r\n{TUS}\r\n"));
    for method in ["HEAD", "GET", "DELETE"] {
        ask(method).expect(404, &[]);
    }
    server.ask(patch(&lost, 0, b"hello")).expect(404, &[]);
}
