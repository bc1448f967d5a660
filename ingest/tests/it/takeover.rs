use std::sync::atomic::{AtomicBool, Ordering};

use super::server::{TestServer, head, patch, patch_head};

#[test]
fn head_knows_every_byte_of_a_silent_connection_and_the_next_patch_goes_on() {
    let server = TestServer::start(&[]);
    let upload = server.create(11);
    let mut silent = server.connect();
    silent.send(patch_head(&upload, 0, 11));
    silent.send("hello");
    super::server::wait_until("HEAD knows", || server.offset(&upload) == 5);
    server
        .ask(patch(&upload, 0, b"x"))
        .expect(409, &[("Upload-Offset", "5")]);
    server
        .ask(patch(&upload, 5, b" world"))
        .expect(204, &[("Upload-Offset", "11")]);
    assert_eq!(server.completed(&upload), b"hello world");
    silent
        .response()
        .expect(423, &[("Retry-After", "1"), ("Connection", "close")]);
}

#[test]
fn a_receiving_connection_is_not_robbed() {
    let server = TestServer::start(&[]);
    // A sender that was not scheduled for as long as silence takes has been silent: once more.
    let judged = (0..50).any(|_| {
        let longest_gap = try_to_rob(&server);
        longest_gap < std::time::Duration::from_millis(100)
    });
    assert!(judged, "this machine never let the sender run");
}

/// Appends at the offset of an upload that another connection sends, byte by byte; returns the
/// longest time between two of them. Judges only if that was short.
fn try_to_rob(server: &TestServer) -> std::time::Duration {
    let upload = server.create(2_000);
    let mut first = server.connect();
    first.send(patch_head(&upload, 0, 1_000));
    let mut second = server.connect();
    let asked = AtomicBool::new(false);
    let (longest_gap, refused) = std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let mut longest_gap = std::time::Duration::ZERO;
            let mut sent_at = std::time::Instant::now();
            for _ in 0..1_000 {
                if first.try_send("a").is_err() {
                    break;
                }
                longest_gap = longest_gap.max(sent_at.elapsed());
                sent_at = std::time::Instant::now();
                if !asked.load(Ordering::Relaxed) {
                    std::thread::sleep(std::time::Duration::from_millis(3));
                }
            }
            longest_gap
        });
        super::server::wait_until("bytes arrive", || server.offset(&upload) > 0);
        // Whatever offset HEAD told, the holder has moved on or still receives.
        let offset = usize::try_from(server.offset(&upload)).unwrap();
        second.send(patch(&upload, offset, b"bbb"));
        let refused = second.response();
        asked.store(true, Ordering::Relaxed);
        (sender.join().unwrap(), refused)
    });
    if longest_gap < std::time::Duration::from_millis(100) {
        assert!(matches!(refused.status, 409 | 423), "{refused:?}");
        first.response().expect(204, &[("Upload-Offset", "1000")]);
    }
    longest_gap
}

#[test]
fn of_two_patches_at_one_offset_one_wins_and_bytes_are_never_mixed() {
    let one = TestServer::start(&[]);
    let other = one.beside(&[]);
    for round in 0..10 {
        let upload = one.create(300_000);
        // In one process and in two.
        let servers = if round % 2 == 0 {
            [&one, &one]
        } else {
            [&one, &other]
        };
        let bodies = [vec![b'a'; 300_000], vec![b'b'; 300_000]];
        let mut statuses: Vec<u16> = std::thread::scope(|scope| {
            let asked = servers.iter().zip(&bodies);
            let asked: Vec<_> = asked
                .map(|(server, body)| {
                    let upload = &upload;
                    scope.spawn(move || server.ask(patch(upload, 0, body)).status)
                })
                .collect();
            asked
                .into_iter()
                .map(|answer| answer.join().unwrap())
                .collect()
        });
        statuses.sort_unstable();
        assert_eq!(statuses[0], 204, "{statuses:?}");
        assert!(matches!(statuses[1], 409 | 423), "{statuses:?}");
        let kept = one.completed(&upload);
        assert!(bodies.contains(&kept), "bytes of both, or not all");
    }
}

#[test]
fn an_upload_goes_on_in_another_process_while_its_first_connection_is_silent() {
    let one = TestServer::start(&[]);
    let other = one.beside(&[]);
    let upload = one.create(11);
    let mut silent = one.connect();
    silent.send(patch_head(&upload, 0, 11));
    silent.send("hello");
    super::server::wait_until("the silent holder has published", || {
        other.offset(&upload) == 5
    });
    super::server::wait_until("the silent holder lets go", || {
        other.ask(patch(&upload, 5, b" wor")).status == 204
    });
    // What comes late from the first must not be written over it.
    silent.send("?late!");
    silent.response().expect(423, &[]);
    one.ask(head(&upload))
        .expect(200, &[("Upload-Offset", "9")]);
    one.ask(patch(&upload, 9, b"ld")).expect(204, &[]);
    assert_eq!(one.completed(&upload), b"hello world");
}

#[test]
fn a_holder_that_was_silent_goes_on_if_nobody_came() {
    let server = TestServer::start(&[]);
    let upload = server.create(11);
    let mut slow = server.connect();
    slow.send(patch_head(&upload, 0, 11));
    slow.send("hello");
    let data = server
        .path("uploads")
        .join(upload.rsplit('/').next().unwrap());
    super::server::wait_until("the lock is given up", || {
        std::fs::File::open(&data).unwrap().try_lock().is_ok()
    });
    slow.send(" world");
    slow.response().expect(204, &[("Upload-Offset", "11")]);
    assert_eq!(server.completed(&upload), b"hello world");
}

#[test]
fn a_checksummed_body_that_fell_silent_is_left_to_who_goes_on_in_another_process() {
    let one = TestServer::start(&[]);
    let other = one.beside(&[]);
    let upload = one.create(10);
    let mut silent = one.connect();
    silent.send(checksummed(&upload, "0123456789"));
    silent.send("01234");
    // It arrived, though it does not count.
    wait_until_in_file(&one, &upload, b"01234");
    super::server::wait_until("the other has it", || {
        other.ask(patch(&upload, 0, b"abcdefghij")).status == 204
    });
    assert_eq!(one.completed(&upload), b"abcdefghij");
    silent.send("56789");
    silent.response().expect(423, &[]);
}

#[test]
fn a_checksummed_body_that_fell_silent_is_verified_by_what_lies_in_the_file() {
    let server = TestServer::start(&[]);
    for (meanwhile, status, offset) in [("01234", 204, 10), ("0X234", 460, 0)] {
        let upload = server.create(20);
        let mut silent = server.connect();
        silent.send(checksummed(&upload, "0123456789"));
        silent.send("01234");
        wait_until_in_file(&server, &upload, b"01234");
        // As another process does that dies before it has published anything.
        let data = std::fs::File::options()
            .write(true)
            .open(
                server
                    .path("uploads")
                    .join(upload.rsplit('/').next().unwrap()),
            )
            .unwrap();
        super::server::wait_until("the lock is free", || data.try_lock().is_ok());
        std::os::unix::fs::FileExt::write_all_at(&data, meanwhile.as_bytes(), 0).unwrap();
        data.unlock().unwrap();
        silent.send("56789");
        silent.response().expect(status, &[]);
        assert_eq!(server.offset(&upload), offset);
    }
}

/// The head of a PATCH at 0 with the checksum of all that it is to bring.
fn checksummed(upload: &str, body: &str) -> String {
    // sha1 of 0123456789.
    let checksum = "Upload-Checksum: sha1 h6zsF82dzSCnFsws9nQXtxyKcBY=\r\n\r\n";
    patch_head(upload, 0, body.len()).replace("\r\n\r\n", &format!("\r\n{checksum}"))
}

fn wait_until_in_file(server: &TestServer, upload: &str, bytes: &[u8]) {
    let path = server
        .path("uploads")
        .join(upload.rsplit('/').next().unwrap());
    super::server::wait_until("the bytes are written", || {
        std::fs::read(&path).is_ok_and(|data| data == bytes)
    });
}
