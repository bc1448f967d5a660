//! `fsck`: every inconsistent state, and with `--repair` the way out of it.
//!
//! What is where is gathered first, from names alone; what looks odd is then looked at closely,
//! twice if it may only have been on its way. [`judge()`] tells what is wrong, [`repair()`] takes the
//! steps that every program takes when it comes by, and buries in `failed/` what nobody could go
//! on with: no data is ever deleted, but for what is left of an upload that has ended. A file that
//! has a second name in the spool loses one of them.

mod judge;
mod repair;

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use shared::durable::{self, DiskError};
use shared::id::{ClaimId, UploadId};
use shared::layout::{DataAt, Dir, Entry, RecordAt};
use shared::lock::DataLock;
use shared::locked::Locked;
use shared::probe::filesystem::{self, Reach};
use shared::spool::Spool;
use shared::startup::Failure;
use shared::time::UnixTime;

use self::judge::judge;
use self::repair::repair;
use super::{Fsck, tell};

/// How long something odd is given to turn out to have been on its way.
const SECOND_LOOK: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 250 });

/// What all steps need.
#[derive(Debug, Clone, Copy)]
struct Look<'a> {
    spool: &'a Arc<Spool>,
    /// How long the heartbeat of a claim may be silent whose lock is free: see [`shared::orphan`].
    lease: Option<Duration>,
    now: UnixTime,
}

impl Look<'_> {
    fn locked<'a>(&'a self, id: UploadId, at: DataAt, lock: &'a DataLock) -> Locked<'a> {
        let spool = self.spool;
        Locked {
            spool,
            id,
            at,
            lock,
        }
    }
}

/// Every name that belongs to one upload.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Names {
    data: Vec<DataAt>,
    records: Vec<RecordAt>,
    states: Vec<ClaimId>,
    reason: bool,
    /// Where something has one of these names that is no file.
    strange: Vec<Dir>,
}

pub(super) fn fsck(
    spool: &Arc<Spool>,
    args: &Fsck,
    now: UnixTime,
    out: &mut impl Write,
) -> Result<bool, Failure> {
    let filesystem = filesystem::of(spool.layout().root())?;
    let look = Look {
        spool,
        lease: (filesystem.reach == Reach::Network).then_some(args.lease.0),
        now,
    };
    let mut sound = true;
    let suspects: Vec<UploadId> = gather(spool)?
        .into_iter()
        .filter(|(id, names)| !judge(&look, *id, names).is_ok_and(|wrongs| wrongs.is_empty()))
        .map(|(id, _)| id)
        .collect();
    if !suspects.is_empty() {
        std::thread::sleep(SECOND_LOOK);
    }
    for id in suspects {
        sound &= one(&look, id, args, out)?;
    }
    Ok(sound)
}

/// Looks at one upload for the second time, tells what is wrong and, if asked to, puts it right.
/// Whether it is sound now.
fn one(look: &Look<'_>, id: UploadId, args: &Fsck, out: &mut impl Write) -> Result<bool, Failure> {
    let wrongs = match names_of(look.spool, id).and_then(|names| judge(look, id, &names)) {
        Ok(wrongs) => wrongs,
        Err(error) => {
            // What cannot be read may be in order: nothing is done about it.
            tell(out, args.json, id, false, &error.to_string())?;
            return Ok(false);
        }
    };
    for wrong in &wrongs {
        tell(out, args.json, id, false, &wrong.text())?;
    }
    if wrongs.is_empty() {
        return Ok(true);
    }
    let repaired = args.repair && repair(look, id);
    if repaired {
        tell(out, args.json, id, true, "put right")?;
    }
    Ok(repaired)
}

/// Every name of every upload.
fn gather(spool: &Spool) -> Result<BTreeMap<UploadId, Names>, DiskError> {
    let mut all: BTreeMap<UploadId, Names> = BTreeMap::new();
    for dir in Dir::ALL {
        for entry in spool.entries(dir)? {
            match entry? {
                Entry::Data(id, at) => all.entry(id).or_default().data.push(at),
                Entry::Record(id, at) => all.entry(id).or_default().records.push(at),
                Entry::State(id, claim) => all.entry(id).or_default().states.push(claim),
                Entry::Reason(id) => all.entry(id).or_default().reason = true,
                // Owed events and what is on its way say nothing about where an upload stands.
                Entry::Event(_) | Entry::Temp(_) | Entry::Spare(..) | Entry::Foreign => {}
            }
        }
    }
    Ok(all)
}

/// The names of one upload as they are now.
fn names_of(spool: &Spool, id: UploadId) -> Result<Names, DiskError> {
    let layout = spool.layout();
    let mut names = Names::default();
    let mut data = vec![
        DataAt::Uploads,
        DataAt::Completed,
        DataAt::Held,
        DataAt::Failed,
    ];
    // Only `claimed/` and `deferred/` have names that cannot be guessed.
    for dir in [Dir::Claimed, Dir::Deferred] {
        for entry in spool.entries(dir)? {
            match entry? {
                Entry::Data(found, at) if found == id => data.push(at),
                Entry::State(found, claim) if found == id => names.states.push(claim),
                _ => {}
            }
        }
    }
    for at in data {
        match durable::stat(&layout.data(id, at))? {
            Some(file) if file.is_file() => names.data.push(at),
            Some(_) => names.strange.push(at.dir()),
            None => {}
        }
    }
    for at in RecordAt::ALL {
        match durable::stat(&layout.record(id, at))? {
            Some(file) if file.is_file() => names.records.push(at),
            Some(_) => names.strange.push(at.dir()),
            None => {}
        }
    }
    names.reason = durable::stat(&layout.reason(id))?.is_some();
    Ok(names)
}
