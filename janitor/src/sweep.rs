//! One pass over the spool: reads directories as streams, looks, asks the policy, obeys.
//!
//! Memory does not grow with the number of entries. What is destroyed is locked first and looked
//! at again; who holds the lock is left in peace. Any number of passes may run at once.

mod deeds;
mod needed;
mod pairs;
mod strays;
#[cfg(test)]
mod tests;

use std::fs::{DirEntry, Metadata};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use shared::durable::{self, DiskError, OnPath};
use shared::id::UploadId;
use shared::layout::{DataAt, Dir, Entry, RecordAt, classify};
use shared::orphan;
use shared::record::{self, Place};
use shared::spool::Spool;
use shared::time::UnixTime;

use crate::look::{Look, Sight, record_home};
use crate::policy::{Found, Policy, Verdict, judge};
use crate::report::{Report, Tally};
use deeds::{Deeds, Done};
use needed::Needed;
use pairs::{Beside, Pairs};
use strays::Strays;

/// How a pass goes about it.
#[derive(Clone, Debug)]
pub struct Rules {
    /// What becomes of what is found.
    pub policy: Policy,
    /// When a claim counts as abandoned.
    pub orphans: orphan::Rules,
    /// Only count what would be done.
    pub dry_run: bool,
    /// How many uploads may lose their data.
    pub deletions_max: u64,
}

/// The time that ages are measured against: of the machine that stores the spool if that is
/// behind the local clock. A clock that is ahead makes everything look old.
#[must_use]
pub fn clock(spool: &Spool) -> UnixTime {
    let local = UnixTime::now();
    spool.stored_now().map_or(local, |stored| local.min(stored))
}

/// The spool of a pass, twice.
#[derive(Clone, Debug)]
pub struct Spools {
    /// With the promises that all programs make: for what a client has been or will be told.
    pub kept: Arc<Spool>,
    /// Without syncs: for what expires. Nobody was promised that; names change in their order, so
    /// that a power cut leaves an upload as it was or expired; and hundreds of thousands of syncs
    /// in a row would be in the way of those who need theirs.
    pub quick: Arc<Spool>,
}

/// Makes one pass. `stop` is asked between entries.
#[must_use]
pub fn sweep(spools: &Spools, rules: &Rules, now: UnixTime, stop: &dyn Fn() -> bool) -> Report {
    let began = Instant::now();
    let mut report = Report::default();
    report.dry_run = rules.dry_run;
    let strays = Strays::default();
    let mut sweep = Sweep {
        spool: &spools.kept,
        quick: &spools.quick,
        rules,
        now,
        stop,
        report,
        deletions: 0,
        strays,
        needed: Needed::default(),
    };
    // Claims first: what they give back is in order when the rest is looked at. Dead letters before
    // what becomes one in this pass, which need not be looked at again. The outbox holds nothing to
    // judge, but a killed program's probe file may lie there. Receipts last: they tell what else may
    // be removed.
    for dir in [
        Dir::Claimed,
        Dir::Failed,
        Dir::Uploads,
        Dir::Completed,
        Dir::Deferred,
        Dir::Held,
        Dir::Outbox,
    ] {
        sweep.directory(dir);
    }
    sweep.settle_strays();
    sweep.directory(Dir::Receipts);
    sweep.report.took = began.elapsed();
    sweep.report
}

struct Sweep<'a> {
    spool: &'a Arc<Spool>,
    quick: &'a Spool,
    rules: &'a Rules,
    now: UnixTime,
    stop: &'a dyn Fn() -> bool,
    report: Report,
    /// Uploads that lost their data, or would have.
    deletions: u64,
    strays: Strays,
    needed: Needed,
}

impl Sweep<'_> {
    fn directory(&mut self, dir: Dir) {
        let path = self.spool.layout().dir(dir);
        let entries = match std::fs::read_dir(&path).on("list", &path) {
            Ok(entries) => entries,
            Err(error) => return self.failed(&error),
        };
        let mut pairs = Pairs::default();
        for entry in entries {
            if self.is_stopped() {
                return;
            }
            self.report.entries += 1;
            let dealt_with = entry
                .on("list", &path)
                .and_then(|entry| self.entry(dir, &entry, &mut pairs));
            if let Err(error) = dealt_with {
                self.failed(&error);
            }
        }
        let Some(at) = RecordAt::ALL.into_iter().find(|at| at.dir() == dir) else {
            return;
        };
        for id in pairs.alone() {
            if self.is_stopped() {
                return;
            }
            if let Err(error) = self.record(id, at) {
                self.failed(&error);
            }
        }
    }

    fn is_stopped(&mut self) -> bool {
        self.report.interrupted |= (self.stop)();
        self.report.interrupted
    }

    fn failed(&mut self, error: &DiskError) {
        tracing::warn!("{error}");
        self.report.count(Tally::Errors);
    }

    fn entry(&mut self, dir: Dir, entry: &DirEntry, pairs: &mut Pairs) -> Result<(), DiskError> {
        let layout = self.spool.layout();
        match classify(dir, &entry.file_name()) {
            Entry::Data(id, at) => {
                if record_home(at).dir() == dir {
                    pairs.data(id);
                }
                self.data(dir, entry, id, at)
            }
            Entry::Record(id, RecordAt::Receipts) => self.receipt(entry, id),
            Entry::Record(id, at) => match pairs.record(id) {
                Beside::Listed => Ok(()),
                Beside::Unknown => self.record(id, at),
            },
            Entry::State(id, claim) => {
                let data = layout.data(id, DataAt::Claimed(claim));
                self.leftover(id, &layout.state(id, claim), &[data])
            }
            Entry::Reason(id) => {
                let data = layout.data(id, DataAt::Failed);
                if durable::stat(&data)?.is_some() || self.is_being_buried(id)? {
                    return Ok(());
                }
                // The data once more: it may have come while the record was read.
                let record = layout.record(id, RecordAt::Failed);
                self.leftover(id, &layout.reason(id), &[data, record])
            }
            // A running command's result, perhaps; it may have been written hours ago.
            Entry::Temp(id) if dir == Dir::Claimed && self.is_claimed(id) => Ok(()),
            Entry::Temp(id) => self.leftover(id, &entry.path(), &[]),
            Entry::Event(_) | Entry::Spare(..) => Ok(()),
            Entry::Foreign => {
                self.report.count(Tally::Foreign);
                Ok(())
            }
        }
    }

    /// Whether a reason was written whose data and record are on their way: the data has left the
    /// record's side, and the record tells where to.
    fn is_being_buried(&self, id: UploadId) -> Result<bool, DiskError> {
        let layout = self.spool.layout();
        for (data, at) in [
            (DataAt::Uploads, RecordAt::Uploads),
            (DataAt::Completed, RecordAt::Completed),
        ] {
            let told = record::read(&layout.record(id, at)).map(|record| record.place);
            if told.is_ok_and(|place| place == Place::Failed) {
                return Ok(durable::stat(&layout.data(id, data))?.is_none());
            }
        }
        Ok(false)
    }

    fn look(&self) -> Look<'_> {
        Look {
            layout: self.spool.layout(),
            policy: &self.rules.policy,
            now: self.now,
        }
    }

    fn deeds(&self) -> Deeds<'_> {
        Deeds {
            spool: self.spool,
            quick: self.quick,
            look: self.look(),
            orphans: self.rules.orphans,
        }
    }

    fn judge(&self, sight: Sight) -> Verdict {
        judge(&self.rules.policy, sight.found, sight.idle)
    }

    /// Data, with or without its record. In `uploads/` the record is read first: of most uploads it
    /// tells that nothing is due, so that their data need not be looked at.
    fn data(
        &mut self,
        dir: Dir,
        entry: &DirEntry,
        id: UploadId,
        at: DataAt,
    ) -> Result<(), DiskError> {
        let read = (at == DataAt::Uploads && is_file(entry)?)
            .then(|| record::read(&self.spool.layout().record(id, RecordAt::Uploads)));
        if let Some(Ok(record)) = &read
            && let Some(idle) = self.look().idle_if_kept(record)?
        {
            self.report.saw_data(dir, record.offset.0, idle);
            return Ok(());
        }
        let Some(data) = stat(entry)?.filter(Metadata::is_file) else {
            return Ok(());
        };
        let age = self.look().age(&data);
        self.report.saw_data(dir, data.len(), age);
        if age <= self.rules.policy.soonest() && !matches!(at, DataAt::Claimed(_)) {
            return Ok(());
        }
        let mut sight = self.look().at_data(id, at, &data, read)?;
        let is_due = self.judge(sight) != Verdict::Keep;
        if sight.found == Found::Part && is_due && self.needed.has(self.spool, id)? {
            sight.found = Found::NamedPart;
        }
        self.obey(id, sight, |deeds, verdict| {
            deeds.to_data(id, at, sight.found, verdict)
        })
    }

    /// A record; beside its data, that has been or will be looked at.
    fn record(&mut self, id: UploadId, at: RecordAt) -> Result<(), DiskError> {
        let layout = self.spool.layout();
        let beside = match at {
            RecordAt::Uploads => DataAt::Uploads,
            RecordAt::Completed => DataAt::Completed,
            RecordAt::Failed => DataAt::Failed,
            RecordAt::Receipts => return Ok(()),
        };
        if durable::stat(&layout.data(id, beside))?.is_some() {
            return Ok(());
        }
        let sight = self.look().at_record(id, at)?;
        match sight.filter(|&sight| self.judge(sight) != Verdict::Keep) {
            // In `uploads/` there is nothing that a consumer could have taken.
            Some(sight) if at == RecordAt::Uploads => {
                self.obey(id, sight, |deeds, _| deeds.to_record(id, at))
            }
            Some(_) => {
                self.strays.suspect(id, at);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Records in `completed/` and `failed/` whose data was not found where they say: unless it
    /// lies in `claimed/` or `deferred/` under a name that only a listing shows.
    fn settle_strays(&mut self) {
        let mut strays = std::mem::take(&mut self.strays);
        if let Err(error) = strays.absolve(self.spool) {
            return self.failed(&error);
        }
        for (id, at) in strays.remaining() {
            let settled = self.look().at_record(id, at).and_then(|sight| match sight {
                Some(sight) => self.obey(id, sight, |deeds, _| deeds.to_record(id, at)),
                None => Ok(()),
            });
            if let Err(error) = settled {
                self.failed(&error);
            }
        }
    }

    fn receipt(&mut self, entry: &DirEntry, id: UploadId) -> Result<(), DiskError> {
        let Some(file) = stat(entry)? else {
            return Ok(());
        };
        let Some(idle) = self.look().at_receipt(id, &file)? else {
            return Ok(());
        };
        let sight = Sight {
            found: Found::Receipt,
            idle,
        };
        let path = self.spool.layout().record(id, RecordAt::Receipts);
        self.obey(id, sight, |deeds, _| deeds.to_file(&path))
    }

    fn is_claimed(&self, id: UploadId) -> bool {
        let record = record::read(&self.spool.layout().record(id, RecordAt::Completed));
        record.is_ok_and(|record| record.place == Place::Claimed)
    }

    /// A file that means nothing without one of those beside it.
    fn leftover(&mut self, id: UploadId, path: &Path, beside: &[PathBuf]) -> Result<(), DiskError> {
        for beside in beside {
            if durable::stat(beside)?.is_some() {
                return Ok(());
            }
        }
        let Some(file) = durable::stat(path)?.filter(Metadata::is_file) else {
            return Ok(());
        };
        let sight = Sight {
            found: Found::Leftover,
            idle: self.look().age(&file),
        };
        self.obey(id, sight, |deeds, _| deeds.to_file(path))
    }

    /// Does what the policy says, counts it and logs it.
    fn obey(
        &mut self,
        id: UploadId,
        sight: Sight,
        deed: impl FnOnce(&Deeds<'_>, Verdict) -> Result<Done, DiskError>,
    ) -> Result<(), DiskError> {
        let verdict = self.judge(sight);
        let Some(tally) = Tally::of(sight.found, verdict) else {
            return Ok(());
        };
        let deletes = verdict == Verdict::Expire || sight.found == Found::DataAlone;
        if deletes && self.rules.deletions_max <= self.deletions {
            self.report.count(Tally::OverLimit);
            return Ok(());
        }
        let done = match self.rules.dry_run {
            true => Done::Yes,
            false => deed(&self.deeds(), verdict)?,
        };
        match done {
            Done::Yes => {
                self.deletions += u64::from(deletes);
                self.report.count(tally);
                tell(id, sight, tally, self.rules.dry_run);
            }
            Done::Busy => self.report.count(Tally::Busy),
            Done::Changed => {}
        }
        Ok(())
    }
}

/// Whether a listed name was a file's; most filesystems tell that in the listing.
fn is_file(entry: &DirEntry) -> Result<bool, DiskError> {
    match entry.file_type() {
        Err(error) if durable::is_missing(&error) => Ok(false),
        kind => Ok(kind.on("stat", &entry.path())?.is_file()),
    }
}

/// `stat` of a listed name; `None` if it is not there any more. From the open directory: of a million
/// names the way to each is not walked anew.
fn stat(entry: &DirEntry) -> Result<Option<Metadata>, DiskError> {
    match entry.metadata() {
        Err(error) if durable::is_missing(&error) => Ok(None),
        stat => stat.on("stat", &entry.path()).map(Some),
    }
}

/// What cost an upload its data, or moved it, is worth a line; the rest only when asked for.
fn tell(id: UploadId, sight: Sight, tally: Tally, dry_run: bool) {
    let (did, found, idle) = (tally.name(), sight.found, sight.idle.as_secs());
    match tally {
        Tally::LeftoversRemoved | Tally::ReceiptsRemoved => {
            tracing::debug!(upload_id = %id, did, ?found, idle, dry_run, "tidied");
        }
        _ => tracing::info!(upload_id = %id, did, ?found, idle, dry_run, "dealt with"),
    }
}
