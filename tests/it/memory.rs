//! Memory does not grow with what is uploaded.

use std::io::Read;

use tests::needs::sized;
use tests::payload::Stream;
use tests::pipeline::Pipeline;

/// Resident memory that ingest may reach.
const RESIDENT_BYTES_MAX: u64 = 64 << 20;

#[test]
fn one_patch_of_gigabytes_stays_under_64_mib() {
    let length: u64 = sized(512 << 20, 4 << 30);
    let pipeline = Pipeline::new();
    let ingest = pipeline.ingest(&[]);
    let upload = ingest.tus().create(length, &[]);
    let mut connection = upload.begin_patch(0, length);
    let mut body = Stream::new(1, length);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = body.read(&mut buffer).unwrap();
        if n == 0 {
            break;
        }
        connection.send(&buffer[..n]).unwrap();
    }
    let answer = connection.receive("PATCH").unwrap().expect(204, []);
    assert_eq!(answer.number("Upload-Offset"), length);
    let peak = ingest.process.peak_resident_bytes();
    assert!(peak < RESIDENT_BYTES_MAX, "{} MiB resident", peak >> 20);
}
