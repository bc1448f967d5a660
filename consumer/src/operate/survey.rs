//! `ls`, `show`, `stats`: what is in the spool. Reads only.

use std::collections::BTreeMap;
use std::io::Write;

use serde::Serialize;
use serde_json::{Value, json};
use shared::durable::DiskError;
use shared::id::UploadId;
use shared::layout::{DataAt, Dir, Entry, RecordAt};
use shared::lookup::{self, Found, State};
use shared::orphan;
use shared::record;
use shared::spool::Spool;
use shared::startup::Failure;
use shared::time::UnixTime;

use super::{Ls, STATES, Stats, Which};
use crate::config::Only;

/// Every readable record of the spool, one after the other, in constant memory.
pub(super) fn each(
    spool: &Spool,
    mut see: impl FnMut(UploadId, Found) -> Result<(), Failure>,
) -> Result<(), Failure> {
    for at in RecordAt::ALL {
        for entry in spool.entries(at.dir())? {
            let Entry::Record(id, _) = entry? else {
                continue;
            };
            match record::read(&spool.layout().record(id, at)) {
                Ok(record) => see(id, Found { at, record })?,
                Err(error) if error.is_missing() => {} // it has moved on
                Err(error) => tracing::warn!(upload_id = %id, %error, "skipped; see fsck"),
            }
        }
    }
    Ok(())
}

/// Whether an upload is asked for.
pub(super) fn matches(which: &Which, found: &Found, now: UnixTime) -> bool {
    let record = &found.record;
    let age = now.since(record.rest.created_at);
    let state = which.state.is_empty() || which.state.contains(&found.state());
    let old = which.older.is_none_or(|older| older.0 <= age);
    let new = which.newer.is_none_or(|newer| age <= newer.0);
    let large = which
        .larger
        .is_none_or(|larger| record.length.is_some_and(|length| larger.0 <= length.0));
    state && old && new && large && Only::new(which.only.clone()).takes(record)
}

pub(super) fn list(
    spool: &Spool,
    args: &Ls,
    now: UnixTime,
    out: &mut impl Write,
) -> Result<bool, Failure> {
    if !args.json {
        let (id, size, age) = ("ID", "SIZE", "AGE");
        writeln!(
            out,
            "{id:36}  {:10}  {size:>14}  {age:>8}  TRIES  NAME",
            "STATE"
        )?;
    }
    each(spool, |id, found| {
        if !matches(&args.which, &found, now) {
            return Ok(());
        }
        if args.json {
            writeln!(out, "{}", summary(id, &found, now))?;
            return Ok(());
        }
        let record = &found.record;
        let name = record
            .rest
            .metadata
            .get("filename")
            .map_or("", String::as_str);
        writeln!(
            out,
            "{id}  {:10}  {:>14}  {:>8}  {:>5}  {}",
            found.state().name(),
            record
                .length
                .map_or("?".to_owned(), |length| length.to_string()),
            human(now.since(record.rest.created_at).as_secs()),
            record.attempts,
            crate::filename::visible(name),
        )?;
        Ok(())
    })?;
    Ok(true)
}

fn summary(id: UploadId, found: &Found, now: UnixTime) -> Value {
    let record = &found.record;
    json!({
        "id": id,
        "state": found.state().name(),
        "length": record.length,
        "offset": record.offset,
        "age_s": now.since(record.rest.created_at).as_secs(),
        "created_at": record.rest.created_at,
        "attempts": record.attempts,
        "not_before": record.not_before,
        "metadata": record.rest.metadata,
        "server_metadata": record.rest.server_metadata,
    })
}

/// Seconds as a person says them: `45s`, `12m`, `7h`, `30d`.
fn human(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

pub(super) fn show(spool: &Spool, id: UploadId, out: &mut impl Write) -> Result<bool, Failure> {
    let Some(found) = lookup::find(spool, id)? else {
        return Err(format!("there is no upload {id}").into());
    };
    let layout = spool.layout();
    let data = lookup::data_candidates(&found).into_iter().find_map(|at| {
        let path = layout.data(id, at);
        let size = shared::durable::stat(&path).ok().flatten()?.len();
        Some(json!({"path": path, "size": size}))
    });
    let claim = match found.record.data_at() {
        Some(DataAt::Claimed(claim)) => orphan::read_state(spool, id, claim)?,
        _ => None,
    };
    let reason: Option<Value> = std::fs::read(layout.reason(id))
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let record: Value = serde_json::from_slice(&found.record.to_bytes())?;
    let all = json!({
        "id": id,
        "state": found.state().name(),
        "record_path": layout.record(id, found.at),
        "data": data,
        "claim": claim,
        "reason": reason,
        "record": record,
    });
    serde_json::to_writer_pretty(&mut *out, &all)?;
    writeln!(out)?;
    Ok(true)
}

#[derive(Clone, Copy, Default, Serialize)]
struct Count {
    uploads: u64,
    bytes: u64,
    oldest_s: u64,
}

/// The uploads in each state that there are any in.
fn counts(spool: &Spool, now: UnixTime) -> Result<BTreeMap<&'static str, Count>, Failure> {
    let mut counts: BTreeMap<_, Count> = BTreeMap::new();
    each(spool, |_, found| {
        let count = counts.entry(found.state().name()).or_default();
        let bytes = match found.state() {
            State::Receiving => found.record.offset.0,
            _ => found.record.length.map_or(0, |length| length.0),
        };
        let age = now.since(found.record.rest.created_at);
        count.uploads += 1;
        count.bytes += bytes;
        count.oldest_s = count.oldest_s.max(age.as_secs());
        Ok(())
    })?;
    Ok(counts)
}

/// How many claims are held, or were when their consumer died.
fn claims(spool: &Spool) -> Result<usize, DiskError> {
    let claimed = spool.entries(Dir::Claimed)?;
    Ok(claimed
        .filter(|entry| matches!(entry, Ok(Entry::Data(..))))
        .count())
}

pub(super) fn stats(
    spool: &Spool,
    args: &Stats,
    now: UnixTime,
    out: &mut impl Write,
) -> Result<bool, Failure> {
    let counts = counts(spool, now)?;
    if args.json {
        let count = |state: State| counts.get(state.name()).copied().unwrap_or_default();
        let states: BTreeMap<_, _> = STATES.map(|state| (state.name(), count(state))).into();
        let told = json!({"states": states, "claims": claims(spool)?});
        writeln!(out, "{told}")?;
        return Ok(true);
    }
    writeln!(
        out,
        "{:10}  {:>10}  {:>16}  {:>8}",
        "STATE", "UPLOADS", "BYTES", "OLDEST"
    )?;
    for state in STATES {
        if let Some(count) = counts.get(state.name()) {
            let (uploads, bytes, oldest) = (count.uploads, count.bytes, human(count.oldest_s));
            writeln!(
                out,
                "{:10}  {uploads:>10}  {bytes:>16}  {oldest:>8}",
                state.name()
            )?;
        }
    }
    Ok(true)
}
