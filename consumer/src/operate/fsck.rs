//! `fsck`: every inconsistent state, and with `--repair` the way out of it.
//!
//! What is where is gathered first, from names alone; what looks odd is then looked at closely,
//! twice if it may only have been on its way. Repairs are the steps that every program takes when
//! it comes by, and the burial in `failed/`: no data is ever deleted. A file that has a second
//! name in the spool loses one of them.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use shared::durable::{self, DiskError};
use shared::handover;
use shared::id::{ClaimId, UploadId};
use shared::layout::{DataAt, Dir, Entry, RecordAt};
use shared::lock::{DataLock, TryLock};
use shared::operate;
use shared::orphan::{self, Rules};
use shared::record::{self, Place, Record};
use shared::settle;
use shared::spool::Spool;
use shared::startup::Failure;
use shared::time::UnixTime;

use super::{Fsck, tell};

/// How long something odd is given to turn out to have been on its way.
const SECOND_LOOK: Duration = Duration::from_millis(250);

/// Every name that belongs to one upload.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Names {
    data: Vec<DataAt>,
    records: Vec<RecordAt>,
    states: Vec<ClaimId>,
    reason: bool,
}

/// What is wrong with an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Wrong {
    /// Data that no record explains.
    NoRecord(At),
    /// Its record cannot be read.
    Unreadable(RecordAt),
    /// Data of another length than recorded, or of an upload that is not complete.
    Torn(At),
    /// The data is not where the record says, or two steps apart from it.
    Unfinished(At),
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

/// A place of data, ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct At(Dir);

impl Wrong {
    fn text(self) -> String {
        match self {
            Self::NoRecord(at) => format!("data in {}/ without a record", at.0.name()),
            Self::Unreadable(at) => format!("unreadable record in {}/", at.dir().name()),
            Self::Torn(at) => format!("data in {}/ does not fit its record", at.0.name()),
            Self::Unfinished(at) => format!("a step was left half done ({}/)", at.0.name()),
            Self::TwoNames => "its data has several names".to_owned(),
            Self::Orphan(_) => "claimed by a consumer that is gone".to_owned(),
            Self::StaleState(_) => "the state of a claim that is over".to_owned(),
            Self::NoData(at) => format!("record in {}/ without data", at.dir().name()),
            Self::TwoRecords => "it has several records".to_owned(),
            Self::StaleReason => "a reason without its dead letter".to_owned(),
        }
    }
}

pub(super) fn fsck(
    spool: &Arc<Spool>,
    args: &Fsck,
    now: UnixTime,
    out: &mut impl Write,
) -> Result<bool, Failure> {
    let mut sound = true;
    let suspects: Vec<UploadId> = gather(spool)?
        .into_iter()
        .filter(|(id, names)| !judge(spool, *id, names).is_empty())
        .map(|(id, _)| id)
        .collect();
    if !suspects.is_empty() {
        std::thread::sleep(SECOND_LOOK);
    }
    for id in suspects {
        let wrongs = judge(spool, id, &names_of(spool, id)?);
        for wrong in &wrongs {
            tell(out, args.json, id, false, &wrong.text())?;
        }
        if wrongs.is_empty() {
            continue;
        }
        let repaired = args.repair && repair(spool, id, now)?;
        if repaired {
            tell(out, args.json, id, true, "put right")?;
        }
        sound &= repaired;
    }
    Ok(sound)
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
                Entry::Event(_) | Entry::Temp(_) | Entry::Foreign => {}
            }
        }
    }
    Ok(all)
}

/// The names of one upload as they are now.
fn names_of(spool: &Spool, id: UploadId) -> Result<Names, DiskError> {
    // Only `claimed/` and `deferred/` have names that cannot be guessed.
    let mut names = Names::default();
    let layout = spool.layout();
    for at in [
        DataAt::Uploads,
        DataAt::Completed,
        DataAt::Held,
        DataAt::Failed,
    ] {
        if durable::stat(&layout.data(id, at))?.is_some() {
            names.data.push(at);
        }
    }
    for at in RecordAt::ALL {
        if durable::stat(&layout.record(id, at))?.is_some() {
            names.records.push(at);
        }
    }
    names.reason = durable::stat(&layout.reason(id))?.is_some();
    for dir in [Dir::Claimed, Dir::Deferred] {
        for entry in spool.entries(dir)? {
            match entry? {
                Entry::Data(found, at) if found == id => names.data.push(at),
                Entry::State(found, claim) if found == id => names.states.push(claim),
                _ => {}
            }
        }
    }
    Ok(names)
}

/// What is wrong, as far as it shows without a lock.
fn judge(spool: &Spool, id: UploadId, names: &Names) -> Vec<Wrong> {
    let mut wrongs = Vec::new();
    let mut readable: Vec<(RecordAt, Record)> = Vec::new();
    for &at in &names.records {
        match record::read(&spool.layout().record(id, at)) {
            Ok(record) => readable.push((at, record)),
            Err(error) if error.is_missing() => {}
            // A dead letter whose reason says so is where it should be.
            Err(_) if at == RecordAt::Failed && names.reason => {}
            Err(_) => wrongs.push(Wrong::Unreadable(at)),
        }
    }
    if 1 < names.records.len() {
        wrongs.push(Wrong::TwoRecords);
    }
    if 1 < names.data.len() {
        wrongs.push(Wrong::TwoNames);
    }
    for &at in &names.data {
        wrongs.extend(judge_data(spool, id, at, names, &readable));
    }
    for &claim in &names.states {
        if !names.data.contains(&DataAt::Claimed(claim)) {
            wrongs.push(Wrong::StaleState(claim));
        }
    }
    if names.data.is_empty() {
        let live = |(at, record): &(RecordAt, Record)| {
            (*at != RecordAt::Receipts || !record.place.is_ending()).then_some(Wrong::NoData(*at))
        };
        wrongs.extend(readable.iter().filter_map(live));
    }
    if names.reason && !names.data.contains(&DataAt::Failed) {
        wrongs.push(Wrong::StaleReason);
    }
    wrongs
}

/// Where the record of data at a place belongs.
fn home(at: DataAt) -> RecordAt {
    match at {
        DataAt::Uploads => RecordAt::Uploads,
        DataAt::Failed => RecordAt::Failed,
        DataAt::Completed | DataAt::Claimed(_) | DataAt::Deferred(_) | DataAt::Held => {
            RecordAt::Completed
        }
    }
}

fn judge_data(
    spool: &Spool,
    id: UploadId,
    at: DataAt,
    names: &Names,
    readable: &[(RecordAt, Record)],
) -> Option<Wrong> {
    let place = At(at.dir());
    let path = spool.layout().data(id, at);
    if let DataAt::Claimed(claim) = at
        && let Ok(TryLock::Held(_)) = DataLock::try_lock(&path)
    {
        return Some(Wrong::Orphan(claim));
    }
    if at == DataAt::Failed && names.records.is_empty() && names.reason {
        return None;
    }
    if !names.records.contains(&home(at)) {
        let elsewhere = !names.records.is_empty();
        return Some(if elsewhere {
            Wrong::Unfinished(place)
        } else {
            Wrong::NoRecord(place)
        });
    }
    let (_, record) = readable.iter().find(|(found, _)| *found == home(at))?;
    let size = durable::stat(&path).ok().flatten()?.len();
    if record.place.is_ending() {
        return Some(Wrong::Unfinished(place));
    }
    match at {
        DataAt::Uploads if record.is_received() => Some(Wrong::Unfinished(place)),
        DataAt::Uploads if size < record.offset.0 => Some(Wrong::Torn(place)),
        // What lies in failed/ has been judged already.
        DataAt::Uploads | DataAt::Failed => None,
        _ if record.length.is_some_and(|length| length.0 == size) => None,
        _ => Some(Wrong::Torn(place)),
    }
}

/// Takes every step that somebody would take who came by, and buries what nobody could go on
/// with. Whether nothing is wrong any more.
fn repair(spool: &Arc<Spool>, id: UploadId, now: UnixTime) -> Result<bool, Failure> {
    // Each round brings it nearer to an end; the bound is for what keeps changing.
    for _ in 0..8 {
        let names = names_of(spool, id)?;
        let wrongs = judge(spool, id, &names);
        let several = wrongs.iter().find(|wrong| **wrong == Wrong::TwoNames);
        let Some(wrong) = several.or(wrongs.first()).copied() else {
            return Ok(true);
        };
        if let Err(error) = step(spool, id, &names, wrong, now) {
            tracing::warn!(upload_id = %id, %error, "a repair failed");
        }
    }
    let names = names_of(spool, id)?;
    Ok(judge(spool, id, &names).is_empty())
}

fn step(
    spool: &Arc<Spool>,
    id: UploadId,
    names: &Names,
    wrong: Wrong,
    now: UnixTime,
) -> Result<(), DiskError> {
    let layout = spool.layout();
    if wrong == Wrong::TwoNames {
        // First of all: the steps below expect one file.
        return one_name(spool, id, names, now);
    }
    let rules = Rules {
        lease: None,
        max_attempts: u32::MAX,
    };
    for &at in &names.data {
        if let DataAt::Claimed(claim) = at {
            orphan::recover(spool, id, claim, rules, now)?;
        }
    }
    for &claim in &names.states {
        orphan::finish_settled(spool, id, claim, now)?;
    }
    if names.data.contains(&DataAt::Failed) {
        operate::settle_backward(spool, id)?;
    }
    handover::recover(spool, id, now)?;
    // Those steps may have been enough; what follows is for what they leave.
    if judge(spool, id, &names_of(spool, id)?) != judge(spool, id, names) {
        return Ok(());
    }
    match wrong {
        Wrong::TwoRecords => one_record(spool, id, names),
        Wrong::Unfinished(_) => bring_record(spool, id, names),
        Wrong::NoData(at) => expire(spool, id, at, now),
        Wrong::Unreadable(at) if names.data.iter().all(|data| home(*data) != at) => {
            durable::unlink(&layout.record(id, at)).map(drop)
        }
        Wrong::StaleReason => durable::unlink(&layout.reason(id)).map(drop),
        Wrong::NoRecord(_) | Wrong::Unreadable(_) | Wrong::Torn(_) => {
            bury(spool, id, &wrong.text(), now)
        }
        Wrong::TwoNames | Wrong::Orphan(_) | Wrong::StaleState(_) => Ok(()),
    }
}

/// Of several names, the first by the order of flow stays. A second name of the same file is
/// taken away; another file becomes a dead letter of its own, under a new id.
fn one_name(
    spool: &Arc<Spool>,
    id: UploadId,
    names: &Names,
    now: UnixTime,
) -> Result<(), DiskError> {
    let layout = spool.layout();
    let by_record = |at: &&DataAt| names.records.contains(&home(**at));
    let kept = names.data.iter().find(by_record).or(names.data.first());
    let Some(&kept) = kept else { return Ok(()) };
    let TryLock::Held(lock) = DataLock::try_lock(&layout.data(id, kept))? else {
        return Ok(()); // somebody works on it
    };
    for &at in names.data.iter().filter(|at| **at != kept) {
        let path = layout.data(id, at);
        if lock.is_at(&path)? {
            durable::unlink(&path)?;
            continue;
        }
        let TryLock::Held(other) = DataLock::try_lock(&path)? else {
            continue;
        };
        let rescued = UploadId::generate();
        let why = format!(
            "a second file of upload {id}, found in {}/",
            at.dir().name()
        );
        durable::rename_noreplace(&path, &layout.data(rescued, DataAt::Completed))?;
        settle::bury(spool, rescued, &other, DataAt::Completed, &why, now)?;
    }
    Ok(())
}

/// Of several records, the one where the data's should be stays, or else the last.
fn one_record(spool: &Spool, id: UploadId, names: &Names) -> Result<(), DiskError> {
    let home = names
        .data
        .first()
        .map(|at| home(*at))
        .filter(|at| names.records.contains(at));
    let Some(kept) = home.or(names.records.last().copied()) else {
        return Ok(());
    };
    for &at in names.records.iter().filter(|at| **at != kept) {
        durable::unlink(&spool.layout().record(id, at))?;
    }
    Ok(())
}

/// The only record is not where the data's should be: it is moved there.
fn bring_record(spool: &Spool, id: UploadId, names: &Names) -> Result<(), DiskError> {
    if let ([data], [record]) = (names.data.as_slice(), names.records.as_slice()) {
        let (from, to) = (
            spool.layout().record(id, *record),
            spool.layout().record(id, home(*data)),
        );
        durable::rename_noreplace(&from, &to)?;
    }
    Ok(())
}

/// The data is nowhere: the upload has come to an end that nobody wrote down.
fn expire(spool: &Spool, id: UploadId, at: RecordAt, now: UnixTime) -> Result<(), DiskError> {
    let path = spool.layout().record(id, at);
    let opened = spool.open_record(path.clone(), shared::ending::temp_dir(at), id);
    if let Ok((file, mut record)) = opened {
        record.set_ending(Place::Expired, now);
        file.write_head(&record)?;
        durable::rename(&path, &spool.layout().record(id, RecordAt::Receipts))?;
    }
    Ok(())
}

/// Moves data that nobody could go on with to `failed/`, unless somebody holds it; what lies there
/// already gets its reason.
fn bury(spool: &Spool, id: UploadId, why: &str, now: UnixTime) -> Result<(), DiskError> {
    for at in names_of(spool, id)?.data {
        if let TryLock::Held(lock) = DataLock::try_lock(&spool.layout().data(id, at))? {
            return settle::bury(spool, id, &lock, at, why, now);
        }
    }
    Ok(())
}
