//! What all requests share.

use std::sync::atomic::{AtomicBool, Ordering};

use admin::IngestMetrics;
use shared::id::UploadId;
use shared::record::Record;
use tokio_util::sync::CancellationToken;

use crate::body::Patience;
use crate::config::Config;
use crate::cors::Cors;
use crate::draft::version::Drafts;
use crate::hooks::on_create::{Asker, OnCreate};
use crate::location::Locator;
use crate::routes::Request;
use crate::tus::capabilities::Capabilities;
use crate::tus::refusal::Refusal;
use crate::uploads::Uploads;

/// The server's state behind every request.
pub(crate) struct Ingest {
    pub(crate) base_path: String,
    pub(crate) capabilities: Capabilities,
    pub(crate) drafts: Drafts,
    pub(crate) locator: Locator,
    pub(crate) cors: Cors,
    pub(crate) uploads: Uploads,
    pub(crate) patience: Patience,
    pub(crate) metrics: IngestMetrics,
    pub(crate) on_create: Option<OnCreate>,
    /// Whether clients are told why processing failed.
    pub(crate) show_failures: bool,
    warned_of_proxy: AtomicBool,
}

impl Ingest {
    pub(crate) fn new(
        config: &Config,
        uploads: Uploads,
        metrics: IngestMetrics,
        cut: CancellationToken,
    ) -> Self {
        Self {
            base_path: config.base_path.clone(),
            capabilities: config.capabilities(),
            drafts: config.drafts,
            locator: config.locator.clone(),
            cors: config.cors.clone(),
            uploads,
            patience: Patience {
                stall_timeout: config.connections.stall_timeout,
                rate_min: config.connections.rate_min,
                cut,
            },
            metrics,
            on_create: config.hooks.on_create.clone(),
            show_failures: config.hooks.show_failures,
            warned_of_proxy: AtomicBool::new(false),
        }
    }

    /// Asks `--on-create`, if there is one, whether this upload may begin, and notes in its record
    /// what is to be kept with it. To be done before anything of it exists and its body is read.
    pub(crate) async fn ask_to_create(
        &self,
        id: UploadId,
        request: &Request,
        record: &mut Record,
    ) -> Result<(), Refusal> {
        let Some(on_create) = &self.on_create else {
            return Ok(());
        };
        let asker = Asker {
            path: &request.path,
            remote: request.exchange.peer,
            headers: request.headers(),
        };
        record.rest.server_metadata = Box::pin(on_create.ask(id, record, asker)).await?;
        Ok(())
    }

    /// The URL of a new upload for the client of this request.
    pub(crate) fn locate(&self, request: &Request, id: UploadId) -> String {
        let located = self.locator.locate(&request.facts(), id);
        if located.untrusted_proxy && !self.warned_of_proxy.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                peer = %request.exchange.peer,
                "a proxy stands before us that --trusted-proxies does not list: \
                 Location is relative there"
            );
        }
        located.url
    }
}
