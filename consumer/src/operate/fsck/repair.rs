//! The way out of what is wrong with an upload.

use shared::burial;
use shared::claim;
use shared::durable::{self, DiskError};
use shared::ending;
use shared::handover;
use shared::id::UploadId;
use shared::layout::{DataAt, RecordAt};
use shared::lock::{DataLock, TryLock};
use shared::operate;
use shared::orphan::{self, Rules};
use shared::record::{self, Place};

use super::judge::{Wrong, home, judge};
use super::{Look, Names, names_of};

/// Takes every step that somebody would take who came by, and buries what nobody could go on
/// with. Whether nothing is wrong any more.
pub(super) fn repair(look: &Look<'_>, id: UploadId) -> bool {
    // Each round brings it nearer to an end; the bound is for what keeps changing.
    for _ in 0..8 {
        match round(look, id) {
            Ok(true) => return true,
            Ok(false) => {}
            Err(error) => tracing::warn!(upload_id = %id, %error, "a repair failed"),
        }
    }
    let left = names_of(look.spool, id).and_then(|names| judge(look, id, &names));
    left.is_ok_and(|wrongs| wrongs.is_empty())
}

/// One step; true if there was none left to take.
fn round(look: &Look<'_>, id: UploadId) -> Result<bool, DiskError> {
    let names = names_of(look.spool, id)?;
    let wrongs = judge(look, id, &names)?;
    // What is no file was put there by somebody who must take it away.
    let ours = |wrong: &&Wrong| !matches!(wrong, Wrong::Strange(_));
    // First of all one file: the other steps expect no more.
    let several = wrongs.iter().find(|wrong| **wrong == Wrong::TwoNames);
    let Some(&wrong) = several.or(wrongs.iter().find(ours)) else {
        return Ok(wrongs.is_empty());
    };
    if wrong == Wrong::TwoNames {
        return one_name(look, id, &names).map(|()| false);
    }
    usual_steps(look, id, &names)?;
    // Those may have been enough; what follows is for what they leave.
    if judge(look, id, &names_of(look.spool, id)?)? == wrongs {
        own_step(look, id, &names, wrong)?;
    }
    Ok(false)
}

/// What any program would do that came by.
fn usual_steps(look: &Look<'_>, id: UploadId, names: &Names) -> Result<(), DiskError> {
    let (spool, now) = (look.spool, look.now);
    let rules = Rules {
        lease: look.lease,
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
    if names.data.contains(&DataAt::Failed) && !names.records.contains(&RecordAt::Failed) {
        operate::settle_backward(spool, id)?;
    }
    handover::recover(spool, id, now)?;
    if names.data.contains(&DataAt::Held) {
        operate::settle_held(spool, id)?;
    }
    finish_ended(look, id, names)
}

/// Takes away what an ending has left in a place where nobody else looks for it.
fn finish_ended(look: &Look<'_>, id: UploadId, names: &Names) -> Result<(), DiskError> {
    let layout = look.spool.layout();
    let unclaimed = |at: &&DataAt| !matches!(at, DataAt::Claimed(_));
    for &at in names.data.iter().filter(unclaimed) {
        let TryLock::Held(lock) = DataLock::try_lock(&layout.data(id, at))? else {
            continue;
        };
        let locked = look.locked(id, at, &lock);
        let has_ended = |at| match record::read(&layout.record(id, at)) {
            Ok(record) => Some(record.place.is_ending()),
            Err(error) => (!error.is_missing()).then_some(false),
        };
        // A receipt counts only where no record says otherwise.
        for record_at in [home(at), RecordAt::Receipts] {
            match has_ended(record_at) {
                Some(true) => {
                    ending::finish(locked, record_at)?;
                    break;
                }
                Some(false) => break,
                None => {}
            }
        }
    }
    Ok(())
}

/// What only this tool does about it.
fn own_step(look: &Look<'_>, id: UploadId, names: &Names, wrong: Wrong) -> Result<(), DiskError> {
    let layout = look.spool.layout();
    match wrong {
        Wrong::TwoRecords => one_record(look, id, names),
        Wrong::Unfinished(_) => bring_record(look, id, names, &wrong.text()),
        Wrong::NoData(at) => expire(look, id, at),
        // Another one explains the data, or there is none to explain.
        Wrong::Unreadable(at) if is_dispensable(names, at) => {
            durable::unlink(&layout.record(id, at)).map(drop)
        }
        Wrong::StaleReason => durable::unlink(&layout.reason(id)).map(drop),
        Wrong::NoRecord(_) | Wrong::Unreadable(_) | Wrong::Torn(_) => bury(look, id, &wrong.text()),
        Wrong::TwoNames | Wrong::Orphan(_) | Wrong::StaleState(_) | Wrong::Strange(_) => Ok(()),
    }
}

fn is_dispensable(names: &Names, at: RecordAt) -> bool {
    1 < names.records.len() || names.data.iter().all(|data| home(*data) != at)
}

/// Of several names, the first by the order of flow stays. A second name of the same file is
/// taken away; another file becomes a dead letter of its own, under a new id.
fn one_name(look: &Look<'_>, id: UploadId, names: &Names) -> Result<(), DiskError> {
    let layout = look.spool.layout();
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
        let rescued = look.locked(rescued, DataAt::Completed, &other);
        burial::bury(rescued, &why, look.now)?;
    }
    Ok(())
}

/// Of several records, the one where the data's should be stays, or else the last.
fn one_record(look: &Look<'_>, id: UploadId, names: &Names) -> Result<(), DiskError> {
    let home = names
        .data
        .first()
        .map(|at| home(*at))
        .filter(|at| names.records.contains(at));
    let Some(kept) = home.or(names.records.last().copied()) else {
        return Ok(());
    };
    for &at in names.records.iter().filter(|at| **at != kept) {
        durable::unlink(&look.spool.layout().record(id, at))?;
    }
    Ok(())
}

/// The only record is not where the data's should be. If it explains the data, it is moved there;
/// but what has been given up is not begun again, and data that does not fit is nobody's to cut.
fn bring_record(look: &Look<'_>, id: UploadId, names: &Names, why: &str) -> Result<(), DiskError> {
    let ([data], [at]) = (names.data.as_slice(), names.records.as_slice()) else {
        return Ok(());
    };
    let layout = look.spool.layout();
    let (path, from) = (layout.data(id, *data), layout.record(id, *at));
    let explains = match record::read(&from) {
        Ok(record) => {
            durable::stat(&path)?.is_some_and(|data| claim::fits(&record, data.len()).is_ok())
        }
        Err(_) => false,
    };
    let given_up = *at == RecordAt::Failed;
    if *data != DataAt::Failed && (given_up || !explains) {
        return bury(look, id, why);
    }
    durable::rename_noreplace(&from, &layout.record(id, home(*data)))
}

/// The data is nowhere: the upload has come to an end, which somebody may have written down.
fn expire(look: &Look<'_>, id: UploadId, at: RecordAt) -> Result<(), DiskError> {
    let layout = look.spool.layout();
    let path = layout.record(id, at);
    let opened = look
        .spool
        .open_record(path.clone(), ending::temp_dir(at), id);
    let Ok((file, mut record)) = opened else {
        return Ok(());
    };
    // A network filesystem may have shown directories as they were a while ago.
    let told = record.data_at().map(|told| layout.data(id, told));
    if let Some(told) = told
        && durable::stat(&told)?.is_some()
    {
        return Ok(());
    }
    if !record.place.is_ending() {
        record.set_ending(Place::Expired, look.now);
        file.write_head(&record)?;
    }
    durable::rename(&path, &layout.record(id, RecordAt::Receipts))
}

/// Moves data that nobody could go on with to `failed/`, unless somebody holds it; what lies there
/// already gets its reason.
fn bury(look: &Look<'_>, id: UploadId, why: &str) -> Result<(), DiskError> {
    for at in names_of(look.spool, id)?.data {
        if let TryLock::Held(lock) = DataLock::try_lock(&look.spool.layout().data(id, at))? {
            return burial::bury(look.locked(id, at, &lock), why, look.now);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use shared::claim::{TryClaim, try_claim};
    use shared::lookup::{self, State};
    use shared::receive::NewData;
    use shared::record::Record;
    use shared::size::{Length, Offset};
    use shared::spool::{Options, Spool};
    use shared::time::UnixTime;

    use super::*;

    #[test]
    fn an_upload_whose_data_no_listing_showed_is_not_ended_if_it_is_where_its_record_says() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Arc::new(Spool::open(&dir.path().join("s"), Options::default()).unwrap());
        let (new, now) = (NewData::create(&spool).unwrap(), UnixTime::now());
        let id = new.id();
        let mut record = Record::new(Some(Length(0)), now);
        record.offset = Offset(0);
        new.into_completed(record, now).unwrap();
        let claimed = try_claim(&spool, id, DataAt::Completed, now).unwrap();
        assert!(matches!(claimed, TryClaim::Claimed(_)));
        let look = Look {
            spool: &spool,
            lease: None,
            now,
        };
        let shown = Names {
            records: vec![RecordAt::Completed],
            ..Names::default()
        };
        own_step(&look, id, &shown, Wrong::NoData(RecordAt::Completed)).unwrap();
        let found = lookup::find(&spool, id).unwrap().unwrap();
        assert_eq!(found.state(), State::Processing);
    }
}
