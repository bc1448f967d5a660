//! `retry`, `hold`, `release`, `drop`: what changes where an upload is.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use shared::burial::Reason;
use shared::durable::{self, DiskError, OnPath};
use shared::ending::{self, End};
use shared::id::{ClaimId, UploadId};
use shared::layout::{DataAt, Dir, Entry, RecordAt};
use shared::operate::{self, Operated};
use shared::record::Place;
use shared::spool::Spool;
use shared::startup::Failure;
use shared::time::UnixTime;

use super::{Release, Remove, Retry, Several, tell};

pub(super) fn retry(
    spool: &Arc<Spool>,
    args: &Retry,
    out: &mut impl Write,
) -> Result<bool, Failure> {
    let ids = if args.all {
        // One whose data its command has moved away leaves nothing to try again with.
        let has_data = |id| spool.layout().data(id, DataAt::Failed).is_file();
        let why = args.reason.as_deref();
        dead_letters(spool, |id| has_data(id) && is_because(spool, id, why))?
    } else {
        args.ids.clone()
    };
    each(out, args.json, &ids, |id| {
        operate::retry(spool, id).map(|operated| told(operated, "in the queue again"))
    })
}

pub(super) fn hold(
    spool: &Arc<Spool>,
    args: &Several,
    out: &mut impl Write,
) -> Result<bool, Failure> {
    each(out, args.json, &args.ids, |id| {
        operate::hold(spool, id).map(|operated| told(operated, "held"))
    })
}

pub(super) fn release(
    spool: &Arc<Spool>,
    args: &Release,
    now: UnixTime,
    out: &mut impl Write,
) -> Result<bool, Failure> {
    each(out, args.json, &args.ids, |id| {
        let released = match operate::release(spool, id)? {
            Operated::NotThere if args.force => take_away(spool, id, now)?,
            released => released,
        };
        Ok(told(released, "in the queue again"))
    })
}

pub(super) fn remove(
    spool: &Arc<Spool>,
    args: &Remove,
    now: UnixTime,
    out: &mut impl Write,
) -> Result<bool, Failure> {
    let ids = if args.failed {
        dead_letters(spool, |_| true)?
    } else {
        args.ids.clone()
    };
    let old = |created: UnixTime| args.older.is_none_or(|older| older.0 <= now.since(created));
    each(out, args.json, &ids, |id| {
        let condition = |record: &shared::record::Record| old(record.rest.created_at);
        let operated = match ending::end_if(spool, id, Place::Terminated, now, condition)? {
            End::Already(Place::Delivered) => return Ok((false, "it had been delivered before")),
            End::Already(_) => return Ok((true, "it had ended before")),
            End::Ended => Operated::Done,
            End::Busy => Operated::Busy,
            End::Missing => Operated::Missing,
            End::Spared => Operated::NotThere,
        };
        Ok(told(operated, "removed"))
    })
}

/// Whether it was done, and what to tell.
type Told = (bool, &'static str);

fn told(operated: Operated, done: &'static str) -> Told {
    let what = match operated {
        Operated::Done => done,
        Operated::Busy => "somebody works on it",
        Operated::NotThere => "not in a state in which this makes sense",
        Operated::Missing => "there is no such upload",
    };
    (operated == Operated::Done, what)
}

/// Does one thing to each upload and tells what came of it; whether all of it was done.
fn each(
    out: &mut impl Write,
    json: bool,
    ids: &[UploadId],
    mut act: impl FnMut(UploadId) -> Result<Told, DiskError>,
) -> Result<bool, Failure> {
    let mut all = true;
    for &id in ids {
        let (is_done, what) = act(id)?;
        all &= is_done;
        tell(out, json, id, is_done, what)?;
    }
    Ok(all)
}

/// The uploads in `failed/` that satisfy a condition. Of some there is no data, of others no record.
fn dead_letters(
    spool: &Spool,
    condition: impl Fn(UploadId) -> bool,
) -> Result<Vec<UploadId>, Failure> {
    let mut ids = BTreeSet::new();
    for entry in spool.entries(Dir::Failed)? {
        if let Entry::Data(id, _) | Entry::Record(id, _) = entry? {
            ids.insert(id);
        }
    }
    Ok(ids.into_iter().filter(|&id| condition(id)).collect())
}

/// Whether the reason of a dead letter contains a text, if one is given.
fn is_because(spool: &Spool, id: UploadId, text: Option<&str>) -> bool {
    text.is_none_or(|text| {
        let bytes = std::fs::read(spool.layout().reason(id)).unwrap_or_default();
        let reason: Option<Reason> = serde_json::from_slice(&bytes).ok();
        reason.is_some_and(|reason| reason.final_reason.contains(text))
    })
}

/// Takes an upload away from a consumer whose lock does not go: the content is copied, because
/// the lock stays with the old file. Should the consumer live, it finds its claimed name gone,
/// says that the claim was lost, and touches nothing.
fn take_away(spool: &Arc<Spool>, id: UploadId, now: UnixTime) -> Result<Operated, DiskError> {
    let Some(claim) = claim_of(spool, id)? else {
        return Ok(Operated::NotThere);
    };
    let layout = spool.layout();
    let claimed = layout.data(id, DataAt::Claimed(claim));
    let temp = spool.temp(Dir::Claimed, id);
    let from = match durable::open(&claimed, false) {
        Err(error) if error.is_missing() => return Ok(Operated::NotThere),
        opened => opened?,
    };
    let to = spool.create_file(&temp)?;
    let copied = io::copy(&mut &from, &mut &to).on("copy", &claimed);
    let synced = copied.and_then(|_| durable::sync_data(&to, &temp));
    match synced.and_then(|()| replace_if_same(&temp, &claimed, &from)) {
        Ok(true) => {}
        replaced => {
            durable::unlink(&temp)?;
            return replaced.map(|_| Operated::NotThere);
        }
    }
    let rules = shared::orphan::Rules {
        lease: None,
        max_attempts: u32::MAX,
    };
    shared::orphan::recover(spool, id, claim, rules, now)?;
    if spool.durability().syncs_finish() {
        spool.sync_dir(Dir::Completed)?;
    }
    let queued = durable::stat(&layout.record(id, RecordAt::Completed))?.is_some();
    Ok(if queued {
        Operated::Done
    } else {
        Operated::NotThere
    })
}

/// Gives a copy the name of the claimed file that it was made of; whether that file still had it.
/// With this the consumer loses its claim, and only then is the record ours to write.
///
/// Copying takes its time. Should the consumer have settled meanwhile, the copy would be a second
/// upload of the same id, under the name of a claim that is over.
fn replace_if_same(copy: &Path, claimed: &Path, original: &File) -> Result<bool, DiskError> {
    let original = original.metadata().on("stat", claimed)?;
    let there = durable::stat(claimed)?.map(|there| durable::identity(&there));
    let is_same = there == Some(durable::identity(&original));
    if is_same {
        durable::rename(copy, claimed)?;
    }
    Ok(is_same)
}

fn claim_of(spool: &Spool, id: UploadId) -> Result<Option<ClaimId>, DiskError> {
    for entry in spool.entries(Dir::Claimed)? {
        if let Entry::Data(found, DataAt::Claimed(claim)) = entry?
            && found == id
        {
            return Ok(Some(claim));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_gets_the_name_of_its_original_only_as_long_as_that_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let [claimed, copy, deferred] = ["claimed", "copy", "deferred"].map(|n| dir.path().join(n));
        std::fs::write(&claimed, "hello").unwrap();
        std::fs::write(&copy, "hello").unwrap();
        let original = durable::open(&claimed, false).unwrap();
        durable::rename(&claimed, &deferred).unwrap();
        assert!(!replace_if_same(&copy, &claimed, &original).unwrap());
        let is_there = |path: &Path| durable::stat(path).unwrap().is_some();
        assert!(!is_there(&claimed), "its consumer has settled the claim");
        std::fs::write(&claimed, "another operator's").unwrap();
        assert!(!replace_if_same(&copy, &claimed, &original).unwrap());
        durable::rename(&deferred, &claimed).unwrap();
        assert!(replace_if_same(&copy, &claimed, &original).unwrap());
        assert!(!is_there(&copy) && is_there(&claimed));
    }
}
