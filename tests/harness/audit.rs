//! Holds a spool against a ledger: what clients were told has to be true.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::client::Tus;
use crate::ledger::{Entry, Ledger};
use crate::spool::SpoolView;

/// Something that was promised and is not so.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loss {
    /// HEAD knows nothing of an upload whose creation was answered.
    Upload(u32),
    /// HEAD reports less than was acknowledged.
    Bytes(u32),
    /// A byte below a reported offset, or in something handed over, is wrong.
    Corrupt(u32),
    /// The data of an upload that was reported complete is nowhere.
    Data(u32),
    /// A file was delivered that nobody sent.
    Unknown(String),
}

/// Compares what HEAD says now, and the bytes that lie on the disk, with the ledger.
///
/// To be called while no client writes. Consumers may run.
#[must_use]
pub fn acknowledged(tus: &Tus, spool: &SpoolView, out: &Path, entries: &[Entry]) -> Vec<Loss> {
    entries
        .iter()
        .filter_map(|entry| check(tus, spool, out, entry))
        .collect()
}

fn check(tus: &Tus, spool: &SpoolView, out: &Path, entry: &Entry) -> Option<Loss> {
    let content = entry.content();
    for part in &entry.parts {
        let head = tus.request("HEAD", &part.url, &[], b"");
        // A part may be removed once it has been joined.
        if head.status != 200 {
            let joined = entry.url.is_some() && head.status == 410;
            if !joined {
                return Some(Loss::Upload(entry.number));
            }
            continue;
        }
        let offset = offset_of(&head);
        if offset < part.acknowledged {
            return Some(Loss::Bytes(entry.number));
        }
        let piece = &content[part.range.0..part.range.1];
        let data = find(spool, id_of(&part.url));
        if let Some(path) = data
            && !starts_with(&path, &piece[..offset.min(piece.len())])
        {
            return Some(Loss::Corrupt(entry.number));
        }
    }
    let url = entry.url.as_ref()?;
    let head = tus.request("HEAD", url, &[], b"");
    if head.status != 200 {
        return Some(Loss::Upload(entry.number));
    }
    let offset = offset_of(&head);
    if offset < entry.acknowledged {
        return Some(Loss::Bytes(entry.number));
    }
    if entry.complete || offset == entry.length {
        return check_delivered(spool, out, entry, &content);
    }
    let data = find(spool, id_of(url))?;
    (!starts_with(&data, &content[..offset])).then_some(Loss::Corrupt(entry.number))
}

/// A complete upload lies in the spool or in the destination, with the right bytes.
fn check_delivered(spool: &SpoolView, out: &Path, entry: &Entry, content: &[u8]) -> Option<Loss> {
    // A consumer may move it between the two looks: look again.
    for _ in 0..100 {
        let in_spool = entry.url.as_deref().and_then(|url| find(spool, id_of(url)));
        let found = in_spool.or_else(|| delivered(out).remove(&entry.number)?.pop());
        let Some(path) = found else { continue };
        match std::fs::read(&path) {
            Ok(bytes) if bytes == content => return None,
            Ok(_) => return Some(Loss::Corrupt(entry.number)),
            Err(_) => continue,
        }
    }
    Some(Loss::Data(entry.number))
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
        let content = entry.content();
        let copies = found.remove(&entry.number).unwrap_or_default();
        if copies.is_empty() {
            losses.push(Loss::Data(entry.number));
        }
        for copy in copies {
            if !std::fs::read(copy).is_ok_and(|bytes| bytes == content) {
                losses.push(Loss::Corrupt(entry.number));
            }
        }
    }
    let unknown = found.into_values().flatten();
    losses.extend(unknown.map(|path| Loss::Unknown(path.display().to_string())));
    losses
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

fn starts_with(path: &Path, wanted: &[u8]) -> bool {
    std::fs::read(path).is_ok_and(|bytes| bytes.starts_with(wanted))
}

fn offset_of(head: &crate::http::Response) -> usize {
    usize::try_from(head.number("Upload-Offset")).unwrap_or(usize::MAX)
}

fn id_of(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or_default()
}
