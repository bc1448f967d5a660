//! The admin listener of ingest and consumer: `/metrics`, `/healthz` and `/readyz`, on an address
//! of its own (`--admin`), never on the public one.
//!
//! A crate, because both programs need it and `shared` knows neither HTTP nor async. Counters and
//! histograms belong to the process; everything about the spool is derived from the disk, so that
//! restarts and replicas agree.
//!
//! How a program uses it:
//!
//! ```no_run
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use admin::{Admin, AdminArgs, Health, IngestMetrics};
//! use admin::ingest::{BodyEnd, UploadEvent};
//! # use shared::spool::Spool;
//! # async fn run(args: AdminArgs, spool: Arc<Spool>) -> Result<(), Box<dyn std::error::Error>> {
//! # let shutdown = shared::startup::Shutdown::on_signals()?;
//!
//! // 1. Flatten `AdminArgs` into the arguments. Before anything else is touched:
//! if args.healthcheck {
//!     return Ok(admin::healthcheck(&args)?); // exit code 0, or 1 with the reason
//! }
//! let listener = args.bind()?; // `None` without --admin; an error is a bad flag
//!
//! // 2. Metrics are counted whether anybody asks for them or not. Clones share their values.
//! let mut admin = Admin::new("ingest");
//! let metrics = IngestMetrics::register(admin.registry());
//!
//! // 3. Once the spool is open:
//! let health = Health::new(spool, 256 << 20, shutdown.clone());
//! if let Some(listener) = listener {
//!     // Until the process ends: a draining server still tells that it drains.
//!     tokio::spawn(admin.serve(listener, health.clone())?);
//! }
//!
//! // 4. In the handlers:
//! let _open = metrics.connection(); // counts until it is dropped
//! metrics.upload(UploadEvent::Created);
//! metrics.received(4096); // bytes of a body, as they come
//! metrics.body(BodyEnd::Complete, 4096);
//! metrics.refused("offset-mismatch"); // the stable code of a refusal
//! metrics.request(&http::Method::PATCH, 204, Duration::from_millis(4));
//! health.poison(); // after a failed sync: not ready any more, for good
//! # Ok(())
//! # }
//! ```

mod args;
mod healthcheck;
mod look;
mod server;

mod health;
mod process;
mod stock;
mod text;

pub mod consumer;
pub mod ingest;
mod metrics;

pub use args::{AdminArgs, BindError};
pub use consumer::ConsumerMetrics;
pub use health::Health;
pub use healthcheck::{Unhealthy, healthcheck};
pub use ingest::IngestMetrics;
pub use server::Admin;
