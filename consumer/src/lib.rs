//! Workers: claim a finished upload, process it, settle it.

pub mod config;

pub mod filename;
pub mod template;

pub mod breaker;
pub mod outcome;
pub mod retry;

pub mod backlog;
pub mod deferred;
pub mod gate;
pub mod picker;
pub mod watch;

pub mod deliver;
pub mod hook;

pub mod facts;
pub mod job;
mod result;

pub mod operate;
pub mod queue;
pub mod recovery;
pub mod run;
pub mod worker;

mod program;
pub use program::main;
