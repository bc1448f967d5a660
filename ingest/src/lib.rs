//! ingest

pub mod tus;
