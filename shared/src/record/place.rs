//! Where an upload stands in its life, and what completes it.

use serde::{Deserialize, Serialize};

/// When an upload counts as received in full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finish {
    /// At offset == length (tus).
    #[default]
    AtLength,
    /// Once the client has said so: offset == length alone does not complete it (IETF draft).
    AtFlag,
    /// Never by itself: a part of a concatenation.
    Never,
}

/// Where the data is, or what became of it. For uploads that are still there a hint (the data
/// file's name is the truth); the endings are the truth, and written before the data goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// Being received.
    #[default]
    Uploads,
    /// Free to be claimed.
    Completed,
    /// One consumer works on it.
    Claimed,
    /// Waits for its next attempt.
    Deferred,
    /// Taken aside by an operator.
    Held,
    /// A dead letter.
    Failed,
    /// Ended: a consumer delivered it.
    Delivered,
    /// Ended: the client or an operator removed it.
    Terminated,
    /// Ended: it was idle, or nobody claimed it, for too long.
    Expired,
    /// Ended: a part that has been joined into its final upload.
    Joined,
}

impl Place {
    /// Every place.
    pub const ALL: [Self; 10] = [
        Self::Uploads,
        Self::Completed,
        Self::Claimed,
        Self::Deferred,
        Self::Held,
        Self::Failed,
        Self::Delivered,
        Self::Terminated,
        Self::Expired,
        Self::Joined,
    ];

    /// Its name in the record.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uploads => "uploads",
            Self::Completed => "completed",
            Self::Claimed => "claimed",
            Self::Deferred => "deferred",
            Self::Held => "held",
            Self::Failed => "failed",
            Self::Delivered => "delivered",
            Self::Terminated => "terminated",
            Self::Expired => "expired",
            Self::Joined => "joined",
        }
    }

    /// Whether the upload has ended: its data is gone or may be removed by whoever finds it.
    #[must_use]
    pub const fn is_ending(self) -> bool {
        matches!(
            self,
            Self::Delivered | Self::Terminated | Self::Expired | Self::Joined
        )
    }
}
