//! The agreement between the programs: what lies in the spool, what it means and how it changes.
//!
//! Synchronous and free of HTTP, async runtimes and policy, so that it is tested without any of
//! them. Modules in reading order.

pub mod id;
pub mod size;
pub mod time;

pub mod durable;
pub mod layout;
pub mod lock;
pub mod locked;
pub mod record;
pub mod spool;

pub mod ending;
pub mod handover;
pub mod lookup;
pub mod receive;

pub mod burial;
pub mod claim;
pub mod host;
pub mod operate;
pub mod orphan;
pub mod settle;
pub mod wait;

pub mod failpoint;
pub mod probe;
pub mod startup;
