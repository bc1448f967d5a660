//! Workers: claim a finished upload, process it, settle it.

pub mod breaker;
pub mod filename;
pub mod outcome;
pub mod retry;
pub mod template;
