//! Holds a spool against a ledger: what clients were told has to be true.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::client::Tus;
use crate::http::Response;
use crate::ledger::{Entry, Ledger, Part, Shape};
use crate::spool::SpoolView;

/// Something that was promised and is not so.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loss {
    /// HEAD knows nothing of an upload whose creation was answered.
    Upload(u32),
    /// HEAD reports less than was acknowledged.
    Bytes(u32),
    /// A byte below a reported offset, or in something handed over, is wrong.
    Corrupt {
        /// In which upload.
        number: u32,
        /// Sent how.
        shape: Shape,
        /// Position of the first wrong byte.
        at: usize,
        /// Up to where it should have been right.
        of: usize,
        /// What lies there instead.
        found: Found,
    },
    /// The data of an upload that HEAD knows is nowhere.
    Data(u32),
    /// Its data is there and cannot be read: why.
    Unreadable(u32, String),
    /// An upload that was begun cannot be resumed, or not be finished.
    Stuck(u32, String),
    /// A file was delivered that nobody sent.
    Unknown(String),
}

/// What lies where something else was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Found {
    /// Nothing: the file is too short.
    End,
    /// Zeros to the end of what should be there: never written.
    Zeros,
    /// Zeros up to this position, then what was sent.
    ZerosUpTo(usize),
    /// Other bytes.
    Bytes,
}

/// What an acknowledgement promises over the fault that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// Every offset and every upload that a client was told of is still there.
    EveryOffset,
    /// Only an upload that was told to be complete is. Of the others any part may be gone, but
    /// what an offset covers is what was sent.
    EveryCompletion,
    /// Nothing is, but what the offset of an unfinished upload covers is what was sent.
    NoWrongByte,
}

/// What counts as the offset of an upload that is not complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offset {
    /// What HEAD reports.
    Reported,
    /// The size of the data file, as in servers that keep no watermark: to see that the audit
    /// would find what is wrong with that.
    FileSize,
}

/// A comparison of what HEAD says now, and of the bytes that lie on the disk, with a ledger.
///
/// To be made while no client writes. Consumers may run.
pub struct Audit<'a> {
    /// The server to ask.
    pub tus: &'a Tus,
    /// The spool to look into.
    pub spool: &'a SpoolView,
    /// The destination.
    pub out: &'a Path,
    /// What to believe.
    pub offset: Offset,
    /// What to ask for.
    pub promise: Promise,
}

impl Audit<'_> {
    /// What was acknowledged and is not so.
    #[must_use]
    pub fn acknowledged(&self, entries: &[Entry]) -> Vec<Loss> {
        let check = |entry: &Entry| {
            if let Some(said) = &entry.refused {
                return Some(Loss::Stuck(entry.number, said.clone()));
            }
            let content = entry.content();
            let parts = entry
                .parts
                .iter()
                .find_map(|part| self.part(entry, part, &content));
            parts.or_else(|| self.whole(entry, &content))
        };
        entries.iter().filter_map(check).collect()
    }

    fn part(&self, entry: &Entry, part: &Part, content: &[u8]) -> Option<Loss> {
        let head = self.tus.request("HEAD", &part.url, &[], b"");
        if head.status != 200 {
            // A part may be removed once it has been joined.
            let joined = entry.url.is_some() && head.status == 410;
            return (!joined && self.promise == Promise::EveryOffset)
                .then_some(Loss::Upload(entry.number));
        }
        let (begin, end) = part.range;
        self.unfinished(
            entry,
            &head,
            part.acknowledged,
            &part.url,
            &content[begin..end],
        )
    }

    fn whole(&self, entry: &Entry, content: &[u8]) -> Option<Loss> {
        let url = entry.url.as_ref()?;
        let head = self.tus.request("HEAD", url, &[], b"");
        let is_promised = match self.promise {
            Promise::EveryOffset => true,
            Promise::EveryCompletion => entry.complete,
            Promise::NoWrongByte => false,
        };
        if head.status != 200 {
            return is_promised.then_some(Loss::Upload(entry.number));
        }
        let is_joined = head.header("Upload-Offset").is_some();
        if entry.shape == Shape::Concatenated && !is_joined {
            return (entry.complete && is_promised).then_some(Loss::Bytes(entry.number));
        }
        if offset_of(&head) == entry.length {
            let is_checked = self.promise != Promise::NoWrongByte;
            return is_checked
                .then(|| check_delivered(self.spool, self.out, entry, content))
                .flatten();
        }
        if entry.complete && is_promised {
            return Some(Loss::Bytes(entry.number));
        }
        self.unfinished(entry, &head, entry.acknowledged, url, content)
    }

    /// An upload that is still being received: its offset, and every byte below it.
    fn unfinished(
        &self,
        entry: &Entry,
        head: &Response,
        acknowledged: usize,
        url: &str,
        content: &[u8],
    ) -> Option<Loss> {
        let mut offset = offset_of(head);
        if offset < acknowledged && self.promise == Promise::EveryOffset {
            return Some(Loss::Bytes(entry.number));
        }
        let bytes = match data_of(self.spool, url) {
            Some(Ok(bytes)) => bytes,
            Some(Err(error)) => return Some(Loss::Unreadable(entry.number, error.to_string())),
            // It may be gone: where only the record was synced, btrfs keeps its name and not the
            // data's. But then HEAD must not know of the upload.
            None => return Some(Loss::Data(entry.number)),
        };
        if self.offset == Offset::FileSize {
            offset = bytes.len().min(content.len());
        }
        corrupt(entry, &bytes, content.get(..offset).unwrap_or(content))
    }
}

/// The data of an upload in the spool; `None` if it has none.
fn data_of(spool: &SpoolView, url: &str) -> Option<io::Result<Vec<u8>>> {
    // Who finishes a hand-over may move it between the two looks: look again.
    for _ in 0..100 {
        let Some(path) = find(spool, id_of(url)) else {
            continue;
        };
        match std::fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            read => return Some(read),
        }
    }
    None
}

/// A complete upload lies in the spool or in the destination, with the right bytes.
fn check_delivered(spool: &SpoolView, out: &Path, entry: &Entry, content: &[u8]) -> Option<Loss> {
    // A consumer may move it between the two looks: look again.
    for _ in 0..100 {
        let in_spool = entry.url.as_deref().and_then(|url| find(spool, id_of(url)));
        let found = in_spool.or_else(|| delivered(out).remove(&entry.number)?.pop());
        let Some(path) = found else { continue };
        match std::fs::read(&path) {
            Ok(bytes) => return corrupt(entry, &bytes, content),
            Err(_) => continue,
        }
    }
    Some(Loss::Data(entry.number))
}

/// Whether `bytes` begin with what is wanted; where they do not.
fn corrupt(entry: &Entry, bytes: &[u8], wanted: &[u8]) -> Option<Loss> {
    let same = bytes.iter().zip(wanted).take_while(|(a, b)| a == b).count();
    let loss = Loss::Corrupt {
        number: entry.number,
        shape: entry.shape,
        at: same,
        of: wanted.len(),
        found: found_at(same, bytes, wanted),
    };
    (same < wanted.len()).then_some(loss)
}

fn found_at(at: usize, bytes: &[u8], wanted: &[u8]) -> Found {
    let Some(there) = bytes.get(at..).filter(|rest| !rest.is_empty()) else {
        return Found::End;
    };
    let zeros = there.iter().take_while(|&&byte| byte == 0).count();
    let end = at + zeros;
    match wanted.get(end..) {
        _ if zeros == 0 => Found::Bytes,
        None | Some([]) => Found::Zeros,
        Some(rest) if there[zeros..].starts_with(rest) => Found::ZerosUpTo(end),
        Some(_) => Found::Bytes,
    }
}

/// After everything has been resumed and delivered: whether each upload of the ledger lies in the
/// destination, whole.
///
/// An upload whose creation was never answered may be there twice: its client made another one.
#[must_use]
pub fn delivered_whole(out: &Path, ledger: &Ledger) -> Vec<Loss> {
    let mut found = delivered(out);
    let mut losses = Vec::new();
    for entry in ledger.entries() {
        if !entry.complete {
            let why = entry
                .refused
                .clone()
                .unwrap_or_else(|| "it takes for ever".to_owned());
            losses.push(Loss::Stuck(entry.number, why));
            found.remove(&entry.number);
            continue;
        }
        let content = entry.content();
        let copies = found.remove(&entry.number).unwrap_or_default();
        if copies.is_empty() {
            losses.push(Loss::Data(entry.number));
        }
        for copy in copies {
            let bytes = std::fs::read(copy).unwrap_or_default();
            losses.extend(corrupt(&entry, &bytes, &content));
        }
    }
    let unknown = found.into_values().flatten();
    losses.extend(unknown.map(|path| Loss::Unknown(path.display().to_string())));
    losses
}

/// Lets clients begin anew with what was lost and may have been: with uploads that HEAD does not know,
/// and with those that are to be joined of parts, any of which may be lost.
///
/// They believe HEAD, as clients do: one that it knows, but whose data is gone, stays stuck.
pub fn begin_anew(tus: &Tus, entries: &mut [Entry]) {
    for entry in entries.iter_mut().filter(|entry| !entry.complete) {
        let is_there = |url: &String| tus.request("HEAD", url, &[], b"").status == 200;
        if entry.shape == Shape::Concatenated || !entry.url.as_ref().is_some_and(is_there) {
            entry.begin_anew();
        }
    }
}

/// Files in a destination by the number in their names (`000012.bin`, `000012_1.bin`).
fn delivered(out: &Path) -> BTreeMap<u32, Vec<PathBuf>> {
    let mut found: BTreeMap<u32, Vec<PathBuf>> = BTreeMap::new();
    for file in std::fs::read_dir(out).expect("the destination can be read") {
        let path = file.expect("a directory entry").path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        // Hidden ones are being copied.
        if let Some(number) = name.get(..6).and_then(|digits| digits.parse().ok()) {
            found.entry(number).or_default().push(path);
        }
    }
    found
}

/// The data of an upload, wherever it lies in the spool.
fn find(spool: &SpoolView, id: &str) -> Option<PathBuf> {
    for directory in ["uploads", "completed", "failed", "held"] {
        let path = spool.path(directory, id);
        if path.try_exists().unwrap_or(false) {
            return Some(path);
        }
    }
    for directory in ["claimed", "deferred"] {
        let named = |name: &String| name.contains(id) && !name.ends_with(".state");
        let mut names = spool.names(directory).into_iter();
        if let Some(name) = names.find(|name| named(name) && !name.starts_with('.')) {
            return Some(spool.path(directory, &name));
        }
    }
    None
}

fn offset_of(head: &Response) -> usize {
    usize::try_from(head.number("Upload-Offset")).unwrap_or(usize::MAX)
}

fn id_of(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or_default()
}
