//! ingest

fn main() {}
