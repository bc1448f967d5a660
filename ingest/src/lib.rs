//! ingest

pub mod cors;
pub mod draft;
pub mod location;
pub mod tus;
