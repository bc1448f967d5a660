//! Watermarks that stand otherwise in memory than on the disk.
//!
//! A record in the page cache tells every process of this boot the same, synced or not; what a
//! power cut leaves of it may be older or, worse, newer than what it leaves of the data. So while
//! the two differ, the record says both: `offset` is the watermark as long as this boot lasts, and
//! `synced` is the one that a later boot finds.
//!
//! * In `every-patch` mode `synced` runs ahead for the time of one sync: it is made durable first,
//!   and only then shown as the offset. So nobody, in whichever process, is told of an offset that
//!   a power cut takes back.
//! * Where PATCHes are not synced, `synced` stays behind: a later boot may find the newer record
//!   over data that was never written.

use super::Record;
use crate::host::BootId;
use crate::size::Offset;

/// Within which boot a record's offset holds, and which one holds after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsettled {
    /// The boot in which the offset was written.
    pub boot: BootId,
    /// The watermark in every other boot.
    pub synced: Offset,
}

/// The two fields of the head, which come together or not at all.
pub(super) fn unsettled(
    synced: Option<Offset>,
    boot: Option<String>,
) -> Result<Option<Unsettled>, String> {
    let Some((synced, boot)) = synced.zip(boot) else {
        return Ok(None);
    };
    let boot = boot.parse().map_err(|_| "no boot id".to_owned())?;
    Ok(Some(Unsettled { boot, synced }))
}

impl Record {
    /// The watermark that a power cut would leave.
    #[must_use]
    pub fn synced(&self) -> Offset {
        self.unsettled
            .map_or(self.offset, |unsettled| unsettled.synced)
    }

    /// Moves the watermark to `to`, of which a power cut would leave `synced`.
    pub fn set_offset(&mut self, to: Offset, synced: Offset, boot: BootId) {
        self.offset = to;
        self.unsettled = (synced != to).then_some(Unsettled { boot, synced });
    }

    /// What the record means to whoever reads it in `boot`.
    #[must_use]
    pub fn read_in(mut self, boot: BootId) -> Self {
        let past = self
            .unsettled
            .take_if(|unsettled| unsettled.boot != boot)
            .map(|unsettled| unsettled.synced);
        if let Some(synced) = past {
            if synced < self.offset {
                // What was said about bytes that may be lost is not true any more.
                self.flagged = false;
                self.finished_at = None;
            }
            self.offset = synced;
        }
        self
    }
}
