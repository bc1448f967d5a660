//! A refusal reaches a client that is still sending what is refused.

use std::process::Command;
use std::time::Duration;

use tests::needs::{Need, met};
use tests::pipeline::Pipeline;

/// More than all windows and buffers on the way hold.
const LENGTH: u64 = 100 << 20;

#[test]
fn curl_hears_a_refusal_while_it_sends_a_large_body() {
    if !met(&[Need::Tool("curl")]) {
        return;
    }
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let upload = ingest.tus().create(LENGTH, &[]);
    let url = format!("http://{}{}", ingest.address().get(), upload.path());
    let body = pipeline.path("body");
    let file = std::fs::File::create(&body).unwrap();
    file.set_len(LENGTH).unwrap();
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let mut curl = Command::new("curl");
        curl.args([version, "--silent", "--show-error", "--request", "PATCH"])
            .args(["--header", "Tus-Resumable: 1.0.0"])
            .args(["--header", "Content-Type: application/offset+octet-stream"])
            .args(["--header", "Upload-Offset: 7"])
            // Without it, curl would wait for consent and send nothing.
            .args(["--header", "Expect:"])
            .args(["--write-out", "%{http_code}", "--upload-file"])
            .arg(&body)
            .arg(&url);
        let sent = pipeline.start("curl", curl);
        let sent = sent.finish(Duration::from_secs(60)).expect_code(0);
        let answer = sent.stdout.as_str();
        let (refusal, status) = answer.split_once('\n').unwrap();
        assert!(refusal.starts_with("offset_mismatch: "), "{answer}");
        assert_eq!(status, "409", "{version}");
    }
    assert_eq!(upload.offset(), 0);
}
