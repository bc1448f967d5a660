//! What is wrong with an upload, told from its names and what its files say.

use shared::claim;
use shared::durable::{self, DiskError};
use shared::id::{ClaimId, UploadId};
use shared::layout::{DataAt, Dir, RecordAt};
use shared::lock::{DataLock, TryLock};
use shared::orphan;
use shared::record::{self, Place, Record, RecordError};

use super::{Look, Names};

/// What is wrong with an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrong {
    /// Something that is no file has a name of ours.
    Strange(Dir),
    /// Data that no record explains.
    NoRecord(Dir),
    /// Its record cannot be read.
    Unreadable(RecordAt),
    /// Data of another length than recorded, or of an upload that is not complete.
    Torn(Dir),
    /// The data is not where the record says, or two steps apart from it.
    Unfinished(Dir),
    /// Several names for the data.
    TwoNames,
    /// A claim whose consumer is gone.
    Orphan(ClaimId),
    /// A claim's state without its data.
    StaleState(ClaimId),
    /// A record whose data is nowhere.
    NoData(RecordAt),
    /// Several records.
    TwoRecords,
    /// A reason without its dead letter.
    StaleReason,
}

impl Wrong {
    pub(super) fn text(self) -> String {
        match self {
            Self::Strange(dir) => format!("what has its name in {}/ is no file", dir.name()),
            Self::NoRecord(dir) => format!("data in {}/ without a record", dir.name()),
            Self::Unreadable(at) => format!("unreadable record in {}/", at.dir().name()),
            Self::Torn(dir) => format!("data in {}/ does not fit its record", dir.name()),
            Self::Unfinished(dir) => format!("a step was left half done ({}/)", dir.name()),
            Self::TwoNames => "its data has several names".to_owned(),
            Self::Orphan(_) => "claimed by a consumer that is gone".to_owned(),
            Self::StaleState(_) => "the state of a claim that is over".to_owned(),
            Self::NoData(at) => format!("record in {}/ without data", at.dir().name()),
            Self::TwoRecords => "it has several records".to_owned(),
            Self::StaleReason => "a reason without its dead letter".to_owned(),
        }
    }
}

/// A record that was found; `None` if it cannot be read.
type Found = (RecordAt, Option<Record>);

/// What is wrong, as far as it shows. Nothing is, where a later version of the programs has
/// written a record: it is not ours to judge.
///
/// # Errors
/// A file could not be looked at, which says nothing about its upload.
pub(super) fn judge(look: &Look<'_>, id: UploadId, names: &Names) -> Result<Vec<Wrong>, DiskError> {
    let Some(records) = records(look, id, names)? else {
        return Ok(Vec::new());
    };
    let mut wrongs: Vec<Wrong> = names.strange.iter().copied().map(Wrong::Strange).collect();
    let unreadable = records.iter().filter(|(_, record)| record.is_none());
    // A dead letter whose reason says so is where it should be.
    let unreadable = unreadable.filter(|(at, _)| !(*at == RecordAt::Failed && names.reason));
    wrongs.extend(unreadable.map(|(at, _)| Wrong::Unreadable(*at)));
    if 1 < records.len() {
        wrongs.push(Wrong::TwoRecords);
    }
    if 1 < names.data.len() {
        wrongs.push(Wrong::TwoNames);
    }
    for &at in &names.data {
        wrongs.extend(judge_data(look, id, at, names, &records)?);
    }
    let settled = |claim: &ClaimId| !names.data.contains(&DataAt::Claimed(*claim));
    let stale = names.states.iter().copied().filter(settled);
    wrongs.extend(stale.map(Wrong::StaleState));
    if names.data.is_empty() {
        wrongs.extend(
            records
                .iter()
                .filter_map(|found| without_data(names, found)),
        );
    }
    let letter = names.data.contains(&DataAt::Failed) || names.records.contains(&RecordAt::Failed);
    if names.reason && !letter {
        wrongs.push(Wrong::StaleReason);
    }
    Ok(wrongs)
}

/// What the records say; `None` if one of them is of a later version.
fn records(look: &Look<'_>, id: UploadId, names: &Names) -> Result<Option<Vec<Found>>, DiskError> {
    let mut found = Vec::new();
    for &at in &names.records {
        match record::read(&look.spool.layout().record(id, at)) {
            Ok(record) => found.push((at, Some(record))),
            Err(error) if error.is_missing() => {}
            Err(error) if error.is_newer() => return Ok(None),
            Err(RecordError::Unreadable { .. }) => found.push((at, None)),
            // It may be in the best order.
            Err(RecordError::Disk(error)) => return Err(error),
        }
    }
    Ok(Some(found))
}

/// What is wrong with a record whose data is nowhere.
fn without_data(names: &Names, (at, record): &Found) -> Option<Wrong> {
    let record = record.as_ref()?;
    let in_order = match at {
        RecordAt::Receipts => record.place.is_ending(),
        // Its command has taken the data out of the spool and then failed.
        RecordAt::Failed => names.reason && !record.place.is_ending(),
        RecordAt::Uploads | RecordAt::Completed => false,
    };
    (!in_order).then_some(Wrong::NoData(*at))
}

/// Where the record of data at a place belongs.
pub(super) fn home(at: DataAt) -> RecordAt {
    match at {
        DataAt::Uploads => RecordAt::Uploads,
        DataAt::Failed => RecordAt::Failed,
        DataAt::Completed | DataAt::Claimed(_) | DataAt::Deferred(_) | DataAt::Held => {
            RecordAt::Completed
        }
    }
}

fn judge_data(
    look: &Look<'_>,
    id: UploadId,
    at: DataAt,
    names: &Names,
    records: &[Found],
) -> Result<Option<Wrong>, DiskError> {
    if let DataAt::Claimed(claim) = at {
        let abandoned = orphan::is_abandoned(look.spool, id, claim, look.lease)?;
        return Ok(abandoned.then_some(Wrong::Orphan(claim)));
    }
    let path = look.spool.layout().data(id, at);
    let Some(data) = durable::stat(&path)? else {
        return Ok(None); // it has moved on
    };
    let Some(wrong) = suspicion(at, data.len(), names, records) else {
        return Ok(None);
    };
    // Whoever holds it may be between two steps at this moment.
    let held_by_nobody = matches!(DataLock::try_lock(&path)?, TryLock::Held(_));
    Ok(held_by_nobody.then_some(wrong))
}

/// What is wrong with data of a size at a place, unless somebody works on it.
fn suspicion(at: DataAt, size: u64, names: &Names, records: &[Found]) -> Option<Wrong> {
    if at == DataAt::Failed && records.is_empty() && names.reason {
        return None;
    }
    let Some((_, record)) = records.iter().find(|(found, _)| *found == home(at)) else {
        return Some(match records {
            [] => Wrong::NoRecord(at.dir()),
            _ => Wrong::Unfinished(at.dir()),
        });
    };
    // That it cannot be read has been told.
    let record = record.as_ref()?;
    if record.place.is_ending() {
        return Some(Wrong::Unfinished(at.dir()));
    }
    let fits = claim::fits(record, size).is_ok();
    match at {
        DataAt::Uploads if record.is_received() => Some(Wrong::Unfinished(at.dir())),
        DataAt::Uploads if size < record.offset.0 => Some(Wrong::Torn(at.dir())),
        // What lies in failed/ has been judged already.
        DataAt::Uploads | DataAt::Failed => None,
        _ if !fits => Some(Wrong::Torn(at.dir())),
        // A release writes the record first.
        DataAt::Held if record.place != Place::Held => Some(Wrong::Unfinished(at.dir())),
        _ => None,
    }
}
