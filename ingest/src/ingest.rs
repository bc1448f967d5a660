//! What all requests share.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::body::Patience;
use crate::config::Config;
use crate::tus::capabilities::Capabilities;
use crate::uploads::Uploads;

/// The server's state behind every request.
pub(crate) struct Ingest {
    pub(crate) base_path: String,
    pub(crate) capabilities: Capabilities,
    pub(crate) uploads: Arc<Uploads>,
    pub(crate) patience: Patience,
}

impl Ingest {
    pub(crate) fn new(config: &Config, uploads: Uploads, cut: CancellationToken) -> Self {
        Self {
            base_path: config.base_path.clone(),
            capabilities: config.capabilities(),
            uploads: Arc::new(uploads),
            patience: Patience {
                stall_timeout: config.connections.stall_timeout,
                cut,
            },
        }
    }
}
