//! Extension Concatenation, with unfinished parts.

use tests::client::{Upload, encode};
use tests::http::Response;
use tests::pipeline::{Ingest, Pipeline};
use tests::wait::wait_for;

use super::{extensions, post};

fn part(ingest: &Ingest, content: &[u8]) -> Upload {
    let upload = open_part(ingest, content.len());
    upload.patch(0, content).expect(204, []);
    upload
}

fn open_part(ingest: &Ingest, length: usize) -> Upload {
    let length = length.to_string();
    let headers = [("Upload-Concat", "partial"), ("Upload-Length", &*length)];
    ingest.tus().created(post(ingest, &headers, b""))
}

fn join(ingest: &Ingest, parts: &[&Upload], more: &[(&str, &str)]) -> (String, Response) {
    let urls: Vec<_> = parts.iter().map(|part| part.path()).collect();
    let list = format!("final;{}", urls.join(" "));
    let mut headers = vec![("Upload-Concat", &*list)];
    headers.extend_from_slice(more);
    let response = post(ingest, &headers, b"");
    (list, response)
}

/// Waits until a final upload is whole and returns its bytes.
fn assembled(pipeline: &Pipeline, whole: &Upload, length: u64) -> Vec<u8> {
    let offset = || whole.head().header("Upload-Offset").map(str::to_owned);
    wait_for("the concatenation", &Some(length.to_string()), offset);
    std::fs::read(pipeline.spool().path("completed", whole.id())).unwrap()
}

#[test]
fn concatenation_must_be_announced() {
    let pipeline = Pipeline::new();
    let on = extensions(&pipeline.ingest(&[]));
    assert!(on.contains(&"concatenation".to_owned()));
    let off = pipeline.ingest(&["--disable-extensions", "concatenation"]);
    assert!(
        !extensions(&off)
            .iter()
            .any(|name| name.starts_with("concat"))
    );
    let headers = [("Upload-Concat", "partial"), ("Upload-Length", "5")];
    post(&off, &headers, b"").expect(400, []);
}

#[test]
fn partial_uploads_should_not_be_processed_by_themselves() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let part = part(&ingest, b"hello");
    part.head().expect(200, [("Upload-Offset", "5")]);
    assert_eq!(pipeline.spool().names("completed"), Vec::<String>::new());
}

#[test]
fn the_final_upload_must_be_the_parts_in_the_listed_order_and_as_long_as_their_sum() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let (a, b) = (part(&ingest, b"hello"), part(&ingest, b" world"));
    let (_, created) = join(&ingest, &[&b, &a], &[]);
    let whole = ingest.tus().created(created);
    assert_eq!(assembled(&pipeline, &whole, 11), b" worldhello");
    whole
        .head()
        .expect(200, [("Upload-Length", "11"), ("Upload-Offset", "11")]);
}

#[test]
fn parts_may_be_named_by_absolute_or_relative_urls() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let (a, b) = (part(&ingest, b"hello"), part(&ingest, b" world"));
    let list = format!("final;http://127.0.0.1{} {}", a.path(), b.id());
    let whole = ingest
        .tus()
        .created(post(&ingest, &[("Upload-Concat", &list)], b""));
    assert_eq!(assembled(&pipeline, &whole, 11), b"hello world");
}

#[test]
fn upload_concat_must_be_partial_or_final_with_a_list() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let a = part(&ingest, b"hello");
    let before = pipeline.spool().listing();
    for bad in [
        "",
        "whole",
        "Partial",
        "final",
        "final;",
        "final; ",
        "partial;x",
        &format!("final:{}", a.path()),
        &format!("final;{},{}", a.path(), a.path()),
        "final;/files/0193a5f0-1c2d-7e3f-8a4b-5c6d7e8f9a0b",
        "final;http://elsewhere/files/0193a5f0-1c2d-7e3f-8a4b-5c6d7e8f9a0b",
    ] {
        for length in [&[][..], &[("Upload-Length", "5")]] {
            let mut headers = vec![("Upload-Concat", bad)];
            headers.extend_from_slice(length);
            let refused = post(&ingest, &headers, b"");
            assert_eq!(refused.status, 400, "{bad:?}");
        }
    }
    assert_eq!(pipeline.spool().listing(), before);
}

#[test]
fn the_upload_length_must_not_be_in_the_creation_of_a_final_upload() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let a = part(&ingest, b"hello");
    for more in [("Upload-Length", "5"), ("Upload-Defer-Length", "1")] {
        join(&ingest, &[&a], &[more]).1.expect(400, []);
    }
}

#[test]
fn an_upload_that_is_not_partial_cannot_be_concatenated() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let whole = ingest.tus().create(5, &[]);
    join(&ingest, &[&whole], &[]).1.expect(400, []);
    whole.patch(0, b"hello").expect(204, []);
    join(&ingest, &[&whole], &[]).1.expect(400, []);
}

#[test]
fn unfinished_parts_may_be_concatenated_only_where_that_is_announced() {
    let pipeline = Pipeline::new();
    let name = "concatenation-unfinished".to_owned();
    let off = pipeline.ingest(&["--disable-extensions", &name]);
    assert!(!extensions(&off).contains(&name));
    let unfinished = open_part(&off, 5);
    join(&off, &[&unfinished], &[]).1.expect(400, []);
    let on = pipeline.ingest(&[]);
    assert!(extensions(&on).contains(&name));
    let whole = on.tus().created(join(&on, &[&unfinished], &[]).1);
    unfinished.at(&on.tus()).patch(0, b"hello").expect(204, []);
    assert_eq!(assembled(&pipeline, &whole, 5), b"hello");
}

#[test]
fn metadata_of_the_parts_shall_not_become_that_of_the_final_upload() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let metadata = encode(&[("filename", "part")]);
    let headers = [
        ("Upload-Concat", "partial"),
        ("Upload-Length", "0"),
        ("Upload-Metadata", &*metadata),
    ];
    let a = ingest.tus().created(post(&ingest, &headers, b""));
    let bare = ingest.tus().created(join(&ingest, &[&a], &[]).1);
    assembled(&pipeline, &bare, 0);
    assert_eq!(bare.head().header("Upload-Metadata"), None);
    let own = encode(&[("filename", "whole")]);
    let named = join(&ingest, &[&a], &[("Upload-Metadata", &own)]).1;
    let named = ingest.tus().created(named);
    named.head().expect(200, [("Upload-Metadata", &*own)]);
}

#[test]
fn parts_may_be_used_multiple_times() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let a = part(&ingest, b"ab");
    let twice = ingest.tus().created(join(&ingest, &[&a, &a], &[]).1);
    assert_eq!(assembled(&pipeline, &twice, 4), b"abab");
    let again = ingest.tus().created(join(&ingest, &[&a], &[]).1);
    assert_eq!(assembled(&pipeline, &again, 2), b"ab");
}

#[test]
fn patch_against_a_final_upload_must_be_403_and_change_neither_it_nor_its_parts() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let (a, open) = (part(&ingest, b"hello"), open_part(&ingest, 6));
    let waiting = ingest.tus().created(join(&ingest, &[&a, &open], &[]).1);
    let done = ingest.tus().created(join(&ingest, &[&a], &[]).1);
    assembled(&pipeline, &done, 5);
    for whole in [&waiting, &done] {
        for (offset, body) in [(0, &b"x"[..]), (0, b""), (5, b""), (5, b"x")] {
            whole.patch(offset, body).expect(403, []);
        }
    }
    assert_eq!((a.offset(), open.offset()), (5, 0));
    open.patch(0, b" world").expect(204, []);
    assert_eq!(assembled(&pipeline, &waiting, 11), b"hello world");
    waiting.patch(11, b"").expect(403, []);
}

#[test]
fn head_of_a_final_upload_should_have_no_offset_before_the_concatenation_is_finished() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let (a, open) = (part(&ingest, b"hello"), open_part(&ingest, 6));
    let whole = ingest.tus().created(join(&ingest, &[&a, &open], &[]).1);
    // The length of the whole can be calculated: it is there.
    let told = whole.head().expect(200, [("Upload-Length", "11")]);
    assert_eq!(told.header("Upload-Offset"), None);
    open.patch(0, b" wor").expect(204, []);
    assert_eq!(whole.head().header("Upload-Offset"), None);
    open.patch(4, b"ld").expect(204, []);
    assembled(&pipeline, &whole, 11);
    let told = whole.head();
    assert_eq!(told.number("Upload-Offset"), told.number("Upload-Length"));
}

#[test]
fn head_of_a_final_upload_must_have_the_length_as_soon_as_it_can_be_calculated() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let headers = [("Upload-Concat", "partial"), ("Upload-Defer-Length", "1")];
    let open = ingest.tus().created(post(&ingest, &headers, b""));
    let other = open_part(&ingest, 5);
    let whole = ingest.tus().created(join(&ingest, &[&open, &other], &[]).1);
    let told = whole.head().expect(200, []);
    assert_eq!(told.header("Upload-Length"), None);
    super::patch(&ingest, &open, 0, &[("Upload-Length", "6")], b"hello").expect(204, []);
    whole.head().expect(200, [("Upload-Length", "11")]);
    open.patch(5, b" ").expect(204, []);
    other.patch(0, b"world").expect(204, []);
    assert_eq!(assembled(&pipeline, &whole, 11), b"hello world");
}

#[test]
fn head_of_a_partial_upload_must_have_the_offset() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let a = open_part(&ingest, 5);
    a.head().expect(200, [("Upload-Offset", "0")]);
    a.patch(0, b"hel").expect(204, []);
    a.head()
        .expect(200, [("Upload-Offset", "3"), ("Upload-Length", "5")]);
}

#[test]
fn head_must_have_upload_concat_as_it_was_received_in_the_creation() {
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let (a, open) = (part(&ingest, b"hello"), open_part(&ingest, 6));
    for part in [&a, &open] {
        part.head().expect(200, [("Upload-Concat", "partial")]);
    }
    let (list, created) = join(&ingest, &[&a, &open], &[]);
    let whole = ingest.tus().created(created);
    whole.head().expect(200, [("Upload-Concat", &*list)]);
    open.patch(0, b" world").expect(204, []);
    assembled(&pipeline, &whole, 11);
    whole.head().expect(200, [("Upload-Concat", &*list)]);
}
