//! ingest

pub mod cors;
pub mod location;
pub mod tus;
