//! What a delivery asks of the claim that it is made for.

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A name in the destination together with the inode that gets it: what a later attempt needs to
/// tell whether the delivery happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chosen {
    /// Relative to the destination.
    pub name: PathBuf,
    /// Of the file that gets the name.
    pub inode: u64,
}

/// What a delivery asks of its claim.
pub trait Claim {
    /// Writes the choice down durably; before the name exists.
    ///
    /// # Errors
    /// The choice could not be made durable; nothing is delivered then.
    fn choose(&mut self, chosen: &Chosen) -> io::Result<()>;

    /// Takes the choice back durably, before the file that was to get the name is removed: the next
    /// file with its inode number may be another upload's.
    ///
    /// # Errors
    /// The choice may stay.
    fn forget(&mut self) -> io::Result<()>;

    /// Whether to go on; asked during a copy, which may take hours, and after it.
    ///
    /// # Errors
    /// Why not.
    fn go_on(&mut self) -> Result<(), Halt>;
}

/// Why a delivery should not go on.
#[derive(Debug, thiserror::Error)]
pub enum Halt {
    /// The claim was lost to another consumer; touch nothing.
    #[error("the claim was lost")]
    ClaimLost,
    /// The consumer is shutting down.
    #[error("interrupted by shutdown")]
    Stopping,
    /// It cannot be known.
    #[error("the claim's state: {0}")]
    Unknown(#[source] io::Error),
}
