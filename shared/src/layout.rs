//! Every name in the spool, both ways: the on-disk specification.
//!
//! ```text
//! spool/
//!   FORMAT                                  layout version
//!   uploads/    {id} {id}.meta              being received
//!   completed/  {id} {id}.meta              received in full, free to be claimed
//!   claimed/    {id}~{claim} {id}~{claim}.state .spare-{id}~{random}
//!   deferred/   {not_before:010}-{id}       waits for its next attempt
//!   held/       {id}                        taken aside by an operator
//!   failed/     {id} {id}.meta {id}.reason.json
//!   receipts/   {id}.meta                   the data has left the spool
//!   outbox/     {id}                        a `completed` event is still to be told
//! ```
//!
//! Temporary files are `.tmp-{id}-{random}` and are made in `uploads/` and `claimed/` only; the probe
//! at a program's start carries one through every directory, and a kill can leave it in any. Whatever
//! does not parse is foreign: nobody reads it, nobody deletes it. Nothing that a client sends
//! becomes part of a path here. This module opens nothing.

use std::ffi::{OsStr, OsString};
use std::fmt::{self, Write};
use std::path::{Path, PathBuf};

use crate::id::{ClaimId, UploadId};

/// File that names the layout's version.
pub const FORMAT_FILE: &str = "FORMAT";

/// A directory of the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dir {
    /// Being received; written by ingest.
    Uploads,
    /// Received in full, free to be claimed: the public hand-over point.
    Completed,
    /// One consumer works on it.
    Claimed,
    /// Waits for its next attempt.
    Deferred,
    /// Taken aside by an operator.
    Held,
    /// Dead letters.
    Failed,
    /// What became of uploads whose data has left the spool.
    Receipts,
    /// Uploads whose `completed` event has not been told yet (only with event hooks).
    Outbox,
}

impl Dir {
    /// All directories, in the order in which data flows.
    pub const ALL: [Self; 8] = [
        Self::Uploads,
        Self::Completed,
        Self::Claimed,
        Self::Deferred,
        Self::Held,
        Self::Failed,
        Self::Receipts,
        Self::Outbox,
    ];

    /// The directory's name below the spool.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uploads => "uploads",
            Self::Completed => "completed",
            Self::Claimed => "claimed",
            Self::Deferred => "deferred",
            Self::Held => "held",
            Self::Failed => "failed",
            Self::Receipts => "receipts",
            Self::Outbox => "outbox",
        }
    }
}

/// Where the data file of an upload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DataAt {
    /// `uploads/{id}`
    Uploads,
    /// `completed/{id}`
    Completed,
    /// `claimed/{id}~{claim}`
    Claimed(ClaimId),
    /// `deferred/{not_before}-{id}`, Unix seconds.
    Deferred(u64),
    /// `held/{id}`
    Held,
    /// `failed/{id}`
    Failed,
}

impl DataAt {
    /// The directory that holds it.
    #[must_use]
    pub const fn dir(self) -> Dir {
        match self {
            Self::Uploads => Dir::Uploads,
            Self::Completed => Dir::Completed,
            Self::Claimed(_) => Dir::Claimed,
            Self::Deferred(_) => Dir::Deferred,
            Self::Held => Dir::Held,
            Self::Failed => Dir::Failed,
        }
    }
}

/// Where the record of an upload is, in the order in which it flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordAt {
    /// `uploads/{id}.meta`
    Uploads,
    /// `completed/{id}.meta`, also while the data is claimed, deferred or held.
    Completed,
    /// `failed/{id}.meta`
    Failed,
    /// `receipts/{id}.meta`
    Receipts,
}

impl RecordAt {
    /// All places of a record, in the order in which it flows and is looked for.
    pub const ALL: [Self; 4] = [Self::Uploads, Self::Completed, Self::Failed, Self::Receipts];

    /// The directory that holds it.
    #[must_use]
    pub const fn dir(self) -> Dir {
        match self {
            Self::Uploads => Dir::Uploads,
            Self::Completed => Dir::Completed,
            Self::Failed => Dir::Failed,
            Self::Receipts => Dir::Receipts,
        }
    }
}

/// What a name in one of the directories means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Entry {
    /// The data of an upload, at the place that the name says.
    Data(UploadId, DataAt),
    /// The record of an upload.
    Record(UploadId, RecordAt),
    /// The state of a claim: `claimed/{id}~{claim}.state`.
    State(UploadId, ClaimId),
    /// Why an upload failed: `failed/{id}.reason.json`.
    Reason(UploadId),
    /// A `completed` event that is still to be told: `outbox/{id}`.
    Event(UploadId),
    /// A temporary file; garbage unless it is young.
    Temp(UploadId),
    /// Space kept for claims on a full disk: `claimed/.spare-{id}~{random}`.
    Spare(UploadId, ClaimId),
    /// Not ours: never read, never deleted.
    Foreign,
}

/// Largest `not_before` whose ten digits sort by name.
pub const NOT_BEFORE_MAX: u64 = 9_999_999_999;

/// Reads a file name found in `dir`. The inverse of the paths that [`Layout`] makes.
#[must_use]
pub fn classify(dir: Dir, name: &OsStr) -> Entry {
    name.to_str()
        .and_then(|name| parse(dir, name))
        .unwrap_or(Entry::Foreign)
}

fn parse(dir: Dir, name: &str) -> Option<Entry> {
    if let Some(rest) = name.strip_prefix(".tmp-") {
        let (id, random) = rest.split_at_checked(UploadId::LEN)?;
        let _: ClaimId = random.strip_prefix('-')?.parse().ok()?;
        return Some(Entry::Temp(id.parse().ok()?));
    }
    match dir {
        Dir::Uploads => data_or_record(name, DataAt::Uploads, RecordAt::Uploads),
        Dir::Completed => data_or_record(name, DataAt::Completed, RecordAt::Completed),
        Dir::Claimed => {
            let spare = name.strip_prefix(SPARE);
            let (id, claim) = spare.unwrap_or(name).split_once('~')?;
            let id = id.parse().ok()?;
            if spare.is_some() {
                return Some(Entry::Spare(id, claim.parse().ok()?));
            }
            match claim.strip_suffix(".state") {
                Some(claim) => Some(Entry::State(id, claim.parse().ok()?)),
                None => Some(Entry::Data(id, DataAt::Claimed(claim.parse().ok()?))),
            }
        }
        Dir::Deferred => {
            let (not_before, id) = name.split_once('-')?;
            let digits = not_before.len() == 10 && not_before.bytes().all(|b| b.is_ascii_digit());
            let not_before = digits.then(|| not_before.parse().ok()).flatten()?;
            Some(Entry::Data(id.parse().ok()?, DataAt::Deferred(not_before)))
        }
        Dir::Held => Some(Entry::Data(name.parse().ok()?, DataAt::Held)),
        Dir::Failed => match name.strip_suffix(".reason.json") {
            Some(id) => Some(Entry::Reason(id.parse().ok()?)),
            None => data_or_record(name, DataAt::Failed, RecordAt::Failed),
        },
        Dir::Receipts => {
            let id = name.strip_suffix(".meta")?;
            Some(Entry::Record(id.parse().ok()?, RecordAt::Receipts))
        }
        Dir::Outbox => Some(Entry::Event(name.parse().ok()?)),
    }
}

fn data_or_record(name: &str, data: DataAt, record: RecordAt) -> Option<Entry> {
    match name.strip_suffix(".meta") {
        Some(id) => Some(Entry::Record(id.parse().ok()?, record)),
        None => Some(Entry::Data(name.parse().ok()?, data)),
    }
}

/// How names of spares begin.
const SPARE: &str = ".spare-";

/// Longest path below the root: that of a spare.
const PATH_MAX: usize = "/claimed/~".len() + SPARE.len() + UploadId::LEN + ClaimId::LEN;

/// Makes the paths of one spool.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The layout below `root`. Touches nothing.
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The spool's directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The file that names the layout's version.
    #[must_use]
    pub fn format_file(&self) -> PathBuf {
        self.root.join(FORMAT_FILE)
    }

    /// One of the spool's directories.
    #[must_use]
    pub fn dir(&self, dir: Dir) -> PathBuf {
        self.root.join(dir.name())
    }

    /// The data file of an upload.
    #[must_use]
    pub fn data(&self, id: UploadId, at: DataAt) -> PathBuf {
        let dir = at.dir();
        match at {
            DataAt::Uploads | DataAt::Completed | DataAt::Held | DataAt::Failed => {
                self.join(dir, format_args!("{id}"))
            }
            DataAt::Claimed(claim) => self.join(dir, format_args!("{id}~{claim}")),
            DataAt::Deferred(not_before) => {
                let not_before = not_before.min(NOT_BEFORE_MAX);
                self.join(dir, format_args!("{not_before:010}-{id}"))
            }
        }
    }

    /// The record of an upload.
    #[must_use]
    pub fn record(&self, id: UploadId, at: RecordAt) -> PathBuf {
        self.join(at.dir(), format_args!("{id}.meta"))
    }

    /// The state file of a claim.
    #[must_use]
    pub fn state(&self, id: UploadId, claim: ClaimId) -> PathBuf {
        self.join(Dir::Claimed, format_args!("{id}~{claim}.state"))
    }

    /// Why an upload failed.
    #[must_use]
    pub fn reason(&self, id: UploadId) -> PathBuf {
        self.join(Dir::Failed, format_args!("{id}.reason.json"))
    }

    /// The marker of a `completed` event that is still to be told.
    #[must_use]
    pub fn event(&self, id: UploadId) -> PathBuf {
        self.join(Dir::Outbox, format_args!("{id}"))
    }

    /// A fresh temporary name in `uploads/` or `claimed/`; `unique` makes it so.
    #[must_use]
    pub fn temp(&self, dir: Dir, id: UploadId, unique: ClaimId) -> PathBuf {
        debug_assert!(matches!(dir, Dir::Uploads | Dir::Claimed));
        self.join(dir, format_args!(".tmp-{id}-{unique}"))
    }

    /// Space kept for claims on a full disk. Of no upload, but with a name that is longer than any
    /// that a claim needs, so that there is room for those in the directory.
    #[must_use]
    pub fn spare(&self, id: UploadId, unique: ClaimId) -> PathBuf {
        self.join(Dir::Claimed, format_args!("{SPARE}{id}~{unique}"))
    }

    fn join(&self, dir: Dir, name: fmt::Arguments<'_>) -> PathBuf {
        let root = self.root.as_os_str();
        let mut path = OsString::with_capacity(root.len() + PATH_MAX);
        path.push(root);
        // Never fails: a string takes all that is written to it.
        write!(path, "/{}/{name}", dir.name()).ok();
        path.into()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(path: &Path) -> &OsStr {
        path.file_name().unwrap()
    }

    #[test]
    fn every_name_written_is_classified_back() {
        let layout = Layout::new("/spool".into());
        let id = UploadId::generate();
        let claim = ClaimId::generate();
        let data = [
            DataAt::Uploads,
            DataAt::Completed,
            DataAt::Claimed(claim),
            DataAt::Deferred(0),
            DataAt::Deferred(1_764_000_000),
            DataAt::Deferred(NOT_BEFORE_MAX),
            DataAt::Held,
            DataAt::Failed,
        ];
        for at in data {
            let path = layout.data(id, at);
            assert_eq!(path.parent().unwrap(), layout.dir(at.dir()));
            assert_eq!(classify(at.dir(), name(&path)), Entry::Data(id, at));
        }
        for at in RecordAt::ALL {
            let path = layout.record(id, at);
            assert_eq!(path.parent().unwrap(), layout.dir(at.dir()));
            assert_eq!(classify(at.dir(), name(&path)), Entry::Record(id, at));
        }
        let state = layout.state(id, claim);
        assert_eq!(
            classify(Dir::Claimed, name(&state)),
            Entry::State(id, claim)
        );
        assert_eq!(
            classify(Dir::Claimed, name(&layout.spare(id, claim))),
            Entry::Spare(id, claim)
        );
        assert_eq!(
            classify(Dir::Failed, name(&layout.reason(id))),
            Entry::Reason(id)
        );
        assert_eq!(
            classify(Dir::Outbox, name(&layout.event(id))),
            Entry::Event(id)
        );
        for dir in [Dir::Uploads, Dir::Claimed] {
            let temp = layout.temp(dir, id, ClaimId::generate());
            for found_in in Dir::ALL {
                assert_eq!(classify(found_in, name(&temp)), Entry::Temp(id));
            }
        }
    }

    #[test]
    fn deferred_names_sort_by_time() {
        let layout = Layout::new("/spool".into());
        let (a, b) = (UploadId::generate(), UploadId::generate());
        let early = layout.data(b, DataAt::Deferred(999));
        let late = layout.data(a, DataAt::Deferred(1_764_000_000));
        assert!(early < late);
    }

    proptest! {
        #[test]
        fn what_does_not_parse_is_foreign_and_what_parses_is_spelt_the_same(
            text in "(\\.tmp-|\\.spare-)?[0-9a-f~.-]{0,12}[0-9a-f-]{36}?(~[0-9a-f]{32})?(\\.meta|\\.state|\\.reason\\.json)?"
        ) {
            let layout = Layout::new("/s".into());
            for dir in Dir::ALL {
                let path = match classify(dir, OsStr::new(&text)) {
                    Entry::Data(id, at) => layout.data(id, at),
                    Entry::Record(id, at) => layout.record(id, at),
                    Entry::State(id, claim) => layout.state(id, claim),
                    Entry::Reason(id) => layout.reason(id),
                    Entry::Event(id) => layout.event(id),
                    Entry::Spare(id, unique) => layout.spare(id, unique),
                    Entry::Temp(_) | Entry::Foreign => continue,
                };
                prop_assert_eq!(path, layout.dir(dir).join(&text));
            }
        }
    }

    #[test]
    fn a_name_that_is_not_utf8_is_foreign() {
        use std::os::unix::ffi::OsStrExt;
        for dir in Dir::ALL {
            assert_eq!(
                classify(dir, OsStr::from_bytes(b"\xff\xfe")),
                Entry::Foreign
            );
        }
    }
}
