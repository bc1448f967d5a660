//! Workers: claim a finished upload, process it, settle it.

pub mod config;

pub mod filename;
pub mod template;

pub mod backlog;
pub mod breaker;
pub mod deferred;
pub mod outcome;
pub mod retry;

pub mod deliver;
pub mod hook;
