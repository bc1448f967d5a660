//! How far one transfer is: feeds the progress display and tells a live connection from a dead one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::display::FileProgress;

/// One upload, or one part of a parallel one.
#[derive(Debug)]
pub(crate) struct Meter {
    at: AtomicU64,
    moved: AtomicU64,
    file: Option<Arc<FileProgress>>,
}

impl Meter {
    /// Counts towards a file.
    pub(crate) fn new(file: &Arc<FileProgress>) -> Arc<Self> {
        Arc::new(Self {
            at: AtomicU64::new(0),
            moved: AtomicU64::new(0),
            file: Some(Arc::clone(file)),
        })
    }

    /// For requests that carry no data.
    pub(crate) fn idle() -> Arc<Self> {
        Arc::new(Self {
            at: AtomicU64::new(0),
            moved: AtomicU64::new(0),
            file: None,
        })
    }

    /// So many bytes more went out.
    pub(crate) fn add(&self, bytes: u64) {
        self.at.fetch_add(bytes, Ordering::Relaxed);
        self.moved.fetch_add(1, Ordering::Relaxed);
        if let Some(file) = &self.file {
            file.add(bytes);
        }
    }

    /// The server has this much: what went out beyond it was lost.
    pub(crate) fn set(&self, offset: u64) {
        let before = self.at.swap(offset, Ordering::Relaxed);
        if let Some(file) = &self.file {
            file.correct(before, offset);
        }
    }

    /// Changes with every movement.
    pub(crate) fn activity(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }
}
