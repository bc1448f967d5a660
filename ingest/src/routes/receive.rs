//! The one way in which bytes get into an upload, whichever request brings them.

use admin::ingest::{BodyEnd, UploadEvent};
use http::HeaderMap;
use shared::record::{Finish, Record};
use shared::size::{Length, Offset};
use tokio::task::spawn_blocking;

use super::Request;
use super::stored::of_record;
use crate::append::{Append, Held};
use crate::body::{self, End};
use crate::digests::{Finished, Running, Taps};
use crate::error::IngestError;
use crate::ingest::Ingest;
use crate::ledger::Lost;
use crate::tus::checksum::{Announced, Hasher, Verify};
use crate::tus::patch::{self, Reached};
use crate::tus::refusal::Refusal;
use crate::tus::stored::Kind;

/// Receives a body into an upload that is held, as planned, and commits it. However the body ends,
/// what arrived and may count is kept; then the end's own answer is given.
pub(super) async fn receive(
    ingest: &Ingest,
    request: &Request,
    held: Held,
    plan: &patch::Append,
    record: &Record,
) -> Result<Reached, IngestError> {
    let id = held.seat.id();
    let received = Box::pin(receive_held(ingest, request, held, plan, record)).await;
    if let Some(refusal) = received.as_ref().err().and_then(IngestError::failure) {
        ingest.uploads.failed(id, record, &refusal);
    }
    received
}

async fn receive_held(
    ingest: &Ingest,
    request: &Request,
    held: Held,
    plan: &patch::Append,
    record: &Record,
) -> Result<Reached, IngestError> {
    let (id, kind) = (held.seat.id(), of_record(record).kind);
    let mut append = prepare(ingest, held, plan, record, kind)?;
    let whole = (kind == Kind::Whole).then(|| ingest.uploads.digests.take(id, record, plan.at));
    let mut taps = Taps {
        checksum: hasher_of(&plan.verify),
        whole: whole.flatten(),
    };
    let end = stream(ingest, request, &mut append, &mut taps).await;
    let (counted, came) = (counted_as(&end), append.position().0 - plan.at.0);
    // What could not be made to count must not be handed over.
    let lost = matches!(end, End::Lost(_) | End::Disk(_));
    let (mut append, mut ended) = match end {
        End::Complete(trailers) => verify(append, plan, taps.checksum, trailers.as_ref()).await?,
        other => (append, Err(refusal(&other, &plan.room.beyond))),
    };
    let counted = match (counted, &ended) {
        (BodyEnd::Complete, Err(_)) => BodyEnd::Mismatch,
        (counted, _) => counted,
    };
    ingest.metrics.body(counted, came);
    append.settle().await?;
    let position = append.position();
    let reached = plan.reached(position.0 - plan.at.0, ended.is_ok());
    let complete = matches!(&reached, Ok(reached) if reached.complete) && append.all_counts();
    let mut whole = (complete && kind == Kind::Whole && !lost).then_some(Length(position.0));
    let running = taps.whole.filter(|running| running.upto() == position);
    if whole.is_some() {
        // Rarely needed, and larger than all the rest: in a place of its own.
        let checking = Box::pin(check(ingest, append, running, record.clone()));
        let (checked, verdict) = checking.await?;
        append = checked;
        whole = whole.filter(|_| verdict.is_ok());
        ended = ended.and(verdict);
    } else if let Some(running) = running {
        ingest.uploads.digests.keep(id, running);
    }
    ingest.uploads.commit(append, whole).await?;
    if complete && kind == Kind::Partial {
        ingest.uploads.part_completed(id, record);
    }
    if whole.is_some() {
        ingest.metrics.upload(UploadEvent::Completed);
    }
    ended?;
    Ok(reached?)
}

/// Takes the body in, until it ends in one way or another. The lock is held when this returns, but for
/// [`End::Lost`].
async fn stream(ingest: &Ingest, request: &Request, append: &mut Append, taps: &mut Taps) -> End {
    let mut body = request.exchange.take_body();
    let (patience, metrics) = (&ingest.patience, &ingest.metrics);
    let mut end = body::receive(&mut body, append, taps, patience, metrics).await;
    drop(body);
    // A body can end in the silence in which the lock was given up: nothing is done without it.
    if let Err(lost) = append.resume() {
        end = End::Lost(lost);
    }
    log(&end);
    end
}

/// The hasher for a digest that was announced before the body.
fn hasher_of(verify: &Verify) -> Option<Box<Hasher>> {
    match verify {
        Verify::Digest(announced) => Some(Box::new(Hasher::new(announced.algorithm))),
        Verify::Nothing | Verify::Trailer => None,
    }
}

/// Notes what this request says about the upload: a length that has just become known, for which
/// there must be space, and what will complete it.
fn prepare(
    ingest: &Ingest,
    held: Held,
    plan: &patch::Append,
    record: &Record,
    kind: Kind,
) -> Result<Append, IngestError> {
    let new_length = plan.length.filter(|length| record.length != Some(*length));
    if let Some(length) = new_length {
        ingest.uploads.admit(length.0.saturating_sub(plan.at.0))?;
        ingest.uploads.reserve(&held, length, plan.at)?;
    }
    let end = plan.at.0.saturating_add(plan.room.most);
    let mut append = Append::new(held, end, plan.verify.counts_at_once());
    if let Some(length) = new_length {
        append.set_length(length)?;
    }
    if kind == Kind::Whole && !ingest.uploads.digests.needed(record).is_empty() {
        let ceiling = plan.length.map(|length| length.0.saturating_sub(1));
        append.hold_back_from(ceiling.unwrap_or(u64::MAX));
    }
    let flagged = plan.flags_end();
    if record.rest.finish == Finish::AtFlag && record.flagged != flagged {
        append.set_flagged(flagged)?;
    }
    Ok(append)
}

/// Holds what arrived against the digest that was announced, before or after it. Bytes whose
/// digest is wrong do not count, and those that did are taken back.
async fn verify(
    mut append: Append,
    plan: &patch::Append,
    hasher: Option<Box<Hasher>>,
    trailers: Option<&HeaderMap>,
) -> Result<(Append, Result<(), Refusal>), IngestError> {
    let announced = match plan.verify.at_end(trailers) {
        Ok(None) => return Ok((append, Ok(()))),
        Ok(Some(announced)) => announced,
        Err(refusal) => return Ok((append, Err(refusal))),
    };
    append.settle().await?;
    let at = plan.at;
    let hasher = hasher.filter(|_| !append.gave_way());
    let judge = move || {
        let digest = match hasher {
            Some(hasher) => hasher.finish(),
            None => append.digest_from(at, Hasher::new(announced.algorithm))?,
        };
        let verdict = Announced::verify(&announced, &digest);
        match verdict {
            Ok(()) => append.count(),
            Err(_) => append.take_back(at)?,
        }
        Ok::<_, IngestError>((append, verdict))
    };
    spawn_blocking(judge).await?
}

/// Computes the digests that the upload needs, now that it is complete, and holds them against the
/// one that its client declared. If they differ, nothing of it counts: any byte may be the wrong
/// one.
pub(super) async fn check(
    ingest: &Ingest,
    mut append: Append,
    running: Option<Running>,
    record: Record,
) -> Result<(Append, Result<(), Refusal>), IngestError> {
    let needed = ingest.uploads.digests.needed(&record);
    if needed.is_empty() {
        return Ok((append, Ok(())));
    }
    let (id, about) = (append.id(), record.clone());
    let judge = move || {
        let finished = Finished::of(&append, running, &needed)?;
        let verdict = finished.check(&record);
        match &verdict {
            Ok(()) => finished
                .for_record()
                .map_or(Ok(()), |digest| append.set_digest(digest))?,
            Err(_) => append.take_back(Offset(0))?,
        }
        Ok::<_, IngestError>((append, verdict))
    };
    let (append, verdict) = spawn_blocking(judge).await??;
    if let Err(refusal) = &verdict {
        ingest.uploads.failed(id, &about, refusal);
    }
    Ok((append, verdict))
}

/// The answer to a body that did not come to its end.
fn refusal(end: &End, beyond: &Refusal) -> Refusal {
    match end {
        End::Broken(_) | End::Complete(_) => Refusal::BodyBroken,
        End::Stalled => Refusal::BodyTimeout,
        End::Cut => Refusal::Draining,
        End::Replaced | End::Lost(Lost::ToAnother) => Refusal::Locked,
        End::TooLong => beyond.clone(),
        End::Disk(error) if error.is_full() => Refusal::InsufficientStorage,
        End::Disk(_) | End::Lost(Lost::Unreadable(_)) => Refusal::Internal,
    }
}

/// Under what a body's end is counted.
fn counted_as(end: &End) -> BodyEnd {
    match end {
        End::Complete(_) => BodyEnd::Complete,
        End::Broken(_) => BodyEnd::Broken,
        End::Stalled => BodyEnd::Stalled,
        End::Cut => BodyEnd::Cut,
        End::Replaced | End::Lost(Lost::ToAnother) => BodyEnd::Replaced,
        End::TooLong => BodyEnd::TooLong,
        End::Disk(_) | End::Lost(Lost::Unreadable(_)) => BodyEnd::Disk,
    }
}

fn log(end: &End) {
    match end {
        End::Complete(_) => {}
        End::Disk(error) => tracing::error!(%error, "cannot write"),
        End::Lost(Lost::Unreadable(error)) => tracing::error!(%error, "cannot go on"),
        End::Broken(error) => tracing::info!(%error, "body broke off; what came is kept"),
        End::Stalled | End::Cut | End::Replaced | End::TooLong | End::Lost(Lost::ToAnother) => {
            tracing::info!(?end, "body ended early; what came is kept");
        }
    }
}
