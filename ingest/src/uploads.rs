//! The uploads in the spool, as requests need them: create, look, hold, commit, terminate.
//!
//! No header and no status code. What blocks for long (a sync) runs on a thread for that, and to
//! its end: who asked may be gone by then, the upload is whole all the same.

use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use shared::durable::{self, DiskError};
use shared::ending::{self, End};
use shared::handover::{self, Recovered};
use shared::id::UploadId;
use shared::layout::{DataAt, Dir, Entry, RecordAt};
use shared::lookup::{self, Found};
use shared::probe::Probe;
use shared::receive::{NewData, Open, Receiving};
use shared::record::{self, Place, Record};
use shared::size::{Length, Offset};
use shared::spool::Spool;
use shared::time::UnixTime;
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use crate::append::{Append, Held};
use crate::assemble::{is_needed, name_parts};
use crate::assembler::Assembler;
use crate::digests::Digests;
use crate::error::IngestError;
use crate::events::Events;
use crate::events::event::{Detail, Kind};
use crate::ledger::Ledger;
use crate::space::Space;
use crate::tus::checksum::Algorithm;
use crate::tus::refusal::Refusal;
use crate::writers::Writers;

/// How long a question waits for a writer of this process to publish what arrived.
const PUBLISH_PATIENCE: Duration = Duration::from_secs(1);
/// A silent holder in another process gives its lock up after 500 ms of silence.
const HOLD_PATIENCE: Duration = Duration::from_millis(1200);
const HOLD_RETRY: Duration = Duration::from_millis(20);
/// How long HEAD waits for a hand-over that another request is making.
const FINISH_PATIENCE: Duration = Duration::from_secs(1);

/// Where parts are joined without copying. If one of these cannot after all, a full disk shows
/// only while it is joined, and the upload waits.
const SHARING_FILESYSTEMS: [&str; 3] = ["xfs", "btrfs", "bcachefs"];

/// What the operator wants of all uploads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    /// Bytes that uploads leave free.
    pub(crate) free_bytes_min: u64,
    /// The digest that every record gets.
    pub(crate) digest: Option<Algorithm>,
    /// Whether large bodies may be written past the page cache.
    pub(crate) direct_io: bool,
}

/// All uploads of one spool.
pub(crate) struct Uploads {
    spool: Arc<Spool>,
    writers: Arc<Writers>,
    space: Space,
    assembler: Arc<Assembler>,
    events: Arc<Events>,
    /// Whether joining parts takes no space: their blocks are shared.
    shares_blocks: bool,
    direct_io: bool,
    /// Digests of whole uploads.
    pub(crate) digests: Arc<Digests>,
}

impl Uploads {
    pub(crate) fn new(
        spool: Arc<Spool>,
        policy: &Policy,
        probe: &Probe,
        events: Arc<Events>,
    ) -> std::io::Result<Self> {
        let dir = File::open(spool.layout().dir(Dir::Uploads))?;
        let space = Space::new(dir, policy.free_bytes_min, probe);
        let digests = Arc::new(Digests::new(policy.digest));
        let (joined, told) = (Arc::clone(&digests), Arc::clone(&events));
        let assembler = Assembler::new(Arc::clone(&spool), joined, told);
        let shares_blocks = SHARING_FILESYSTEMS.contains(&probe.filesystem.name.as_str());
        Ok(Self {
            spool,
            writers: Arc::default(),
            space,
            assembler: Arc::new(assembler),
            events,
            shares_blocks,
            direct_io: policy.direct_io,
            digests,
        })
    }

    /// The task that assembles final uploads.
    pub(crate) fn assembling(&self) -> impl Future<Output = ()> + Send + use<> {
        Arc::clone(&self.assembler).run()
    }

    /// The record of an upload, wherever it is; of one that is being written, with every byte that
    /// has arrived in this process.
    pub(crate) async fn look(&self, id: UploadId) -> Result<Found, IngestError> {
        self.writers.publish(id, PUBLISH_PATIENCE).await;
        let found = self.peek(id).await?;
        if found.record.synced() <= found.record.offset {
            return Ok(found);
        }
        // A writer is about to show its offset, or has died before it did: then it is done here.
        let spool = Arc::clone(&self.spool);
        let settle = move || Receiving::open(&spool, id, UnixTime::now()).map(drop);
        if let Err(error) = spawn_blocking(settle).await? {
            tracing::warn!(upload_id = %id, %error, "cannot make sure of the offset");
        }
        self.peek(id).await
    }

    /// The record of an upload as it stands on disk. Disturbs nobody.
    pub(crate) async fn peek(&self, id: UploadId) -> Result<Found, IngestError> {
        if let Some(found) = lookup::find_once(&self.spool, id)?
            && self.may_go_on(id, &found)?
        {
            return Ok(found);
        }
        sleep(lookup::SECOND_LOOK_AFTER).await;
        match lookup::find_once(&self.spool, id)? {
            Some(found) if self.may_go_on(id, &found)? => Ok(found),
            // Told as being received it would be refused by every PATCH, for as long as the janitor
            // spares it; who hears that it is not there begins anew.
            Some(_) => Err(Refusal::NotFound.into()),
            // What cannot be read now is not gone, and whoever heard so would begin again from
            // byte 0.
            None if self.may_exist(id)? => Err(Refusal::Locked.into()),
            None => Err(Refusal::NotFound.into()),
        }
    }

    /// Whether an upload that is being received still has its data. A power cut can take it and
    /// leave the record, where creations are not synced.
    ///
    /// The record comes after the data, moves on before it, and never comes back without it. So who
    /// misses the data of a record in `uploads/`, and later finds the record there still, has not
    /// looked in the middle of a hand-over.
    fn may_go_on(&self, id: UploadId, found: &Found) -> Result<bool, DiskError> {
        if found.at != RecordAt::Uploads || found.record.place.is_ending() {
            return Ok(true);
        }
        for at in [
            DataAt::Uploads,
            DataAt::Completed,
            DataAt::Held,
            DataAt::Failed,
        ] {
            if durable::stat(&self.spool.layout().data(id, at))?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether there may be an upload, although no record of it can be read: a torn one, or one of a
    /// later version, or all of them, if the spool's filesystem was unmounted or moved away.
    fn may_exist(&self, id: UploadId) -> Result<bool, DiskError> {
        let format = self.spool.layout().format_file();
        Ok(self.has_record(id)? || durable::stat(&format)?.is_none())
    }

    /// Whether there is a record, whatever is in it.
    fn has_record(&self, id: UploadId) -> Result<bool, DiskError> {
        for at in RecordAt::ALL {
            if durable::stat(&self.spool.layout().record(id, at))?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// As [`Self::look`]; an upload that has all its bytes is handed over first, so that what is told of
    /// it is true for good.
    pub(crate) async fn look_whole(&self, id: UploadId) -> Result<Found, IngestError> {
        let found = self.look(id).await?;
        if found.record.is_assembling() {
            self.assembler.add(id, &found.record.rest.parts);
        }
        let may_be_left = matches!(found.at, RecordAt::Uploads | RecordAt::Completed);
        if !may_be_left || !found.record.is_received() || !self.is_in_uploads(id)? {
            return Ok(found);
        }
        self.finish(id).await?;
        self.look(id).await
    }

    /// Takes an upload for writing: from nobody, or from a holder whose client is silent. `None`
    /// if it is not (or no longer) being received.
    pub(crate) async fn hold(&self, id: UploadId) -> Result<Option<Held>, IngestError> {
        let seat = self
            .writers
            .take_seat(id)
            .await
            .map_err(|_| Refusal::Locked)?;
        let deadline = Instant::now() + HOLD_PATIENCE;
        loop {
            match Receiving::open(&self.spool, id, UnixTime::now())? {
                Open::Held(receiving) => {
                    self.reserve_again(&receiving);
                    let (offset, length) = (receiving.record().offset, receiving.record().length);
                    let ledger = Ledger::of_receiving(&self.spool, receiving);
                    let ledger = ledger
                        .told_to(&self.events, id)
                        .with_direct_io(self.direct_io);
                    return Ok(Some(Held {
                        ledger: Arc::new(ledger),
                        seat: Arc::new(seat),
                        promise: self.space.promise_to_writer(id, offset, length),
                        is_new: false,
                    }));
                }
                Open::Missing => return Ok(None),
                Open::Busy if deadline <= Instant::now() => return Err(Refusal::Locked.into()),
                Open::Busy => sleep(HOLD_RETRY).await,
            }
        }
    }

    /// Refuses an upload, or the rest of one, for which there is no space.
    pub(crate) fn admit(&self, bytes: u64) -> Result<(), Refusal> {
        self.space.admit(bytes)
    }

    /// The same for a final upload, whose bytes are here already.
    pub(crate) fn admit_final(&self, bytes: u64) -> Result<(), Refusal> {
        if self.shares_blocks {
            Ok(())
        } else {
            self.space.admit(bytes)
        }
    }

    /// Makes sure that the parts of a final upload stay, and has it assembled.
    pub(crate) async fn join(&self, id: UploadId, parts: Vec<UploadId>) -> Result<(), IngestError> {
        let spool = Arc::clone(&self.spool);
        let parts =
            spawn_blocking(move || name_parts(&spool, id, &parts).map(|()| parts)).await??;
        self.assembler.add(id, &parts);
        Ok(())
    }

    /// Has final uploads looked at that may have waited for this part.
    pub(crate) fn part_completed(&self, id: UploadId, part: &Record) {
        self.assembler.part_completed(id, part.joined_into);
    }

    /// Sets space aside for an upload at `at` whose length has just become known.
    pub(crate) fn reserve(&self, held: &Held, length: Length, at: Offset) -> Result<(), DiskError> {
        let ledger = &held.ledger;
        self.space
            .reserve(ledger.data()?, ledger.path(), Some(length))?;
        self.space
            .promise(held.seat.id(), length.0.saturating_sub(at.0));
        Ok(())
    }

    /// Sets space aside anew for an upload whose file was cut. It may be gone: then a write says so.
    fn reserve_again(&self, receiving: &Receiving) {
        if !receiving.was_cut() {
            return;
        }
        let (path, length) = (receiving.data_path(), receiving.record().length);
        if let Err(error) = self.space.reserve(receiving.data(), &path, length) {
            tracing::warn!(upload_id = %receiving.id(), %error, "no space is set aside any more");
        }
    }

    /// Gives a new upload its data file and takes it for writing. Its record comes with its first
    /// commit; until then nobody finds it, and who dies leaves an orphan to the janitor.
    pub(crate) async fn create(
        &self,
        id: UploadId,
        mut record: Record,
    ) -> Result<Held, IngestError> {
        record.rest.announce = self.events.announces();
        // Ids are random: one that is taken is a janitor's doing, and the client may come again.
        let new = NewData::create_as(&self.spool, id)?.ok_or(Refusal::Locked)?;
        let own_bytes = record.length.filter(|_| !record.is_final());
        if let Err(error) = self.space.reserve(new.data(), &new.data_path(), own_bytes) {
            new.discard()?;
            return Err(error.into());
        }
        self.space
            .promise(id, record.length.map_or(0, |length| length.0));
        let seat = self
            .writers
            .take_seat(id)
            .await
            .map_err(|_| Refusal::Locked)?;
        let promise = self.space.promise_to_writer(id, Offset(0), record.length);
        let ledger = Ledger::of_new(&self.spool, new, record)
            .told_to(&self.events, id)
            .with_direct_io(self.direct_io);
        Ok(Held {
            ledger: Arc::new(ledger),
            seat: Arc::new(seat),
            promise,
            is_new: true,
        })
    }

    /// Takes back what was promised to an upload whose creation failed, if nothing is left of it.
    pub(crate) fn creation_failed(&self, id: UploadId) {
        if matches!(lookup::find_once(&self.spool, id), Ok(None)) {
            self.space.promise(id, 0);
        }
    }

    /// Makes a new upload durable before anything is written to it.
    pub(crate) async fn settle_creation(&self, held: Held) -> Result<Held, IngestError> {
        let settle = move || held.ledger.publish(Offset(0)).map(|()| held);
        let mut held = spawn_blocking(settle).await??;
        held.is_new = false;
        Ok(held)
    }

    /// Makes what was written count, and hands the upload over if it is complete at `whole`.
    pub(crate) async fn commit(
        &self,
        mut append: Append,
        whole: Option<Length>,
    ) -> Result<(), IngestError> {
        append.settle().await?;
        let left = append.left();
        let durability = self.spool.durability();
        let syncs = durability.syncs_patches() || (durability.syncs_finish() && whole.is_some());
        let (tell, told) = oneshot::channel();
        // Whoever waits for it may be gone.
        let done = move |result: Result<(), DiskError>, mut append: Append| {
            if result.is_ok() {
                append.keep_promise(left);
            }
            drop(tell.send((result, append)));
        };
        let job = move || append.conclude_then(whole, done);
        let job = match syncs {
            true => Some(spawn_blocking(job)),
            false => {
                job();
                None
            }
        };
        match (told.await, job) {
            (Ok((result, append)), _) => {
                // What is told of it from now on is told without its lock.
                drop(append);
                Ok(result?)
            }
            (Err(_), Some(panicked)) => Ok(panicked.await?),
            (Err(_), None) => Err(Refusal::Internal.into()),
        }
    }

    /// Finishes a hand-over that was interrupted, if there is one to finish: an upload that has all
    /// its bytes is never left lying. `Err(Locked)` while somebody else is at it.
    async fn finish(&self, id: UploadId) -> Result<(), IngestError> {
        let deadline = Instant::now() + FINISH_PATIENCE;
        loop {
            let spool = Arc::clone(&self.spool);
            let recover = move || handover::recover(&spool, id, UnixTime::now());
            match spawn_blocking(recover).await?? {
                Recovered::Busy if Instant::now() < deadline => sleep(HOLD_RETRY).await,
                Recovered::Busy => return Err(Refusal::Locked.into()),
                Recovered::Completed { by_us: true } => {
                    self.events.owe(id);
                    return Ok(());
                }
                _ => return Ok(()),
            }
        }
    }

    /// Ends an upload at its client's word.
    pub(crate) async fn terminate(&self, id: UploadId) -> Result<End, IngestError> {
        self.end_if(id, |_| true).await
    }

    /// Ends an upload that is still being received; one that is not goes on.
    pub(crate) async fn end_unreceived(&self, id: UploadId) -> Result<End, IngestError> {
        self.end_if(id, |record| !record.is_received()).await
    }

    /// Ends an upload if its record satisfies a condition, and no final upload needs it.
    async fn end_if(
        &self,
        id: UploadId,
        condition: impl Fn(&Record) -> bool + Send + 'static,
    ) -> Result<End, IngestError> {
        // A writer whose client is silent leaves; the bytes of one that receives are wanted.
        let _seat = self
            .writers
            .take_seat(id)
            .await
            .map_err(|_| Refusal::Locked)?;
        let spool = Arc::clone(&self.spool);
        let end = move || {
            let is_needed = |record: &Record| is_needed(&spool, id, record).unwrap_or(true);
            ending::end_if(&spool, id, Place::Terminated, UnixTime::now(), |record| {
                condition(record) && !is_needed(record)
            })
        };
        let end = match spawn_blocking(end).await?? {
            End::Missing if self.may_exist(id)? => End::Busy,
            // Without data there is nothing that could be locked.
            End::Busy => self.peek(id).await.map(|_| End::Busy)?,
            end => end,
        };
        if end == End::Ended {
            self.space.promise(id, 0);
            let ended = lookup::find_once(&self.spool, id)?;
            let record = ended.map_or_else(|| Record::new(None, UnixTime::now()), |f| f.record);
            let (kind, detail) = (Kind::Terminated, Detail::None);
            self.events.raise(kind, id, &record, detail);
        }
        Ok(end)
    }

    /// Raises `failed`: what was to be written, kept or handed over could not be.
    pub(crate) fn failed(&self, id: UploadId, record: &Record, refusal: &Refusal) {
        let text = refusal.to_string();
        let detail = Detail::Failure(refusal.code(), &text);
        self.events.raise(Kind::Failed, id, record, detail);
    }

    /// Looks through the uploads being received: finishes hand-overs that were interrupted, and
    /// sums up what is still to come where that is not set aside. Blocks for as long as there are
    /// uploads, or until `go_on` says no. Whether it is worth repeating.
    pub(crate) fn sweep(&self, go_on: impl Fn() -> bool) -> Result<bool, DiskError> {
        self.space.begin_scan();
        let mut left = HashMap::new();
        for entry in self.spool.entries(Dir::Uploads)? {
            if !go_on() {
                return Ok(false);
            }
            let Entry::Data(id, DataAt::Uploads) = entry? else {
                continue;
            };
            match record::read(&self.spool.layout().record(id, RecordAt::Uploads)) {
                Ok(record) if record.is_assembling() => {
                    self.assembler.add(id, &record.rest.parts);
                }
                Ok(record) if !record.is_received() => {
                    let remaining = record
                        .length
                        .and_then(|length| length.remaining(record.offset));
                    left.extend(remaining.map(|bytes| (id, bytes)));
                }
                // Received in full.
                Ok(_) => self.recover(id),
                // Its record has gone ahead. Or it is still to come: then the one who creates the
                // upload must find its lock free.
                Err(record::RecordError::Disk(_)) if self.has_record(id).unwrap_or(true) => {
                    self.recover(id);
                }
                Err(_) => {}
            }
        }
        Ok(self.space.end_scan(left))
    }

    fn recover(&self, id: UploadId) {
        match handover::recover(&self.spool, id, UnixTime::now()) {
            Ok(Recovered::Completed { by_us: true }) => {
                tracing::info!(upload_id = %id, "finished a hand-over that was interrupted");
                self.events.owe(id);
            }
            Ok(_) => {}
            Err(error) => tracing::error!(upload_id = %id, %error, "cannot finish a hand-over"),
        }
    }

    /// Whether the data of an upload is still among those being received.
    fn is_in_uploads(&self, id: UploadId) -> Result<bool, DiskError> {
        let path = self.spool.layout().data(id, DataAt::Uploads);
        Ok(durable::stat(&path)?.is_some())
    }
}

#[cfg(test)]
mod tests;
