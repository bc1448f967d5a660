use std::os::unix::fs::FileExt;
use std::path::Path;

use super::*;
use crate::id::{ClaimId, UploadId};
use crate::layout::RecordAt;
use crate::lookup::{self, State};
use crate::receive::NewData;
use crate::record::{Attempt, Record};
use crate::settle::Settled;
use crate::size::{Length, Offset};
use crate::spool::Options;

fn finished(dir: &Path) -> (Waiter, UploadId) {
    let spool = Arc::new(Spool::open(&dir.join("s"), Options::default()).unwrap());
    let new = NewData::create(&spool).unwrap();
    let id = new.id();
    new.data().write_all_at(b"hello", 0).unwrap();
    let mut record = Record::new(Some(Length(5)), UnixTime::now());
    record.offset = Offset(5);
    new.into_completed(record, UnixTime::now()).unwrap();
    (Waiter::new(spool), id)
}

fn state(waiter: &Waiter, id: UploadId) -> State {
    lookup::find(&waiter.spool, id).unwrap().unwrap().state()
}

#[test]
fn an_upload_is_waited_for_saved_once_and_gone() {
    let dir = tempfile::tempdir().unwrap();
    let (waiter, id) = finished(dir.path());
    let mut held = waiter.wait(Duration::ZERO).unwrap().unwrap();
    assert!(
        waiter.wait(Duration::ZERO).unwrap().is_none(),
        "it is held by one only"
    );
    let to = dir.path().join("a.txt");
    std::fs::write(dir.path().join("taken"), "").unwrap();
    let taken = held.save(&dir.path().join("taken"));
    assert!(matches!(taken, Err(SaveError::Taken(_))));
    held.save(&to).unwrap();
    held.save_record(&dir.path().join("a.txt.meta")).unwrap();
    assert!(matches!(held.save(&to), Err(SaveError::Twice(_))));
    assert_eq!(held.finish().unwrap(), Settled::Done);
    assert_eq!(std::fs::read(&to).unwrap(), b"hello");
    assert_eq!(state(&waiter, id), State::Delivered);
    let saved = std::fs::read(dir.path().join("a.txt.meta")).unwrap();
    assert_eq!(Record::from_bytes(&saved).unwrap().length, Some(Length(5)));
}

#[test]
fn what_is_dropped_unsaved_comes_back_until_its_attempts_are_used_up() {
    let dir = tempfile::tempdir().unwrap();
    let (mut waiter, id) = finished(dir.path());
    waiter.rules.max_attempts = 2;
    waiter
        .wait(Duration::ZERO)
        .unwrap()
        .unwrap()
        .give_back()
        .unwrap();
    for attempt in 1..=2 {
        let held = waiter.wait(Duration::ZERO).unwrap().unwrap();
        assert_eq!(held.attempt(), attempt);
    }
    assert!(waiter.wait(Duration::ZERO).unwrap().is_none());
    assert_eq!(state(&waiter, id), State::Failed);
}

#[test]
fn what_is_wrong_with_one_upload_keeps_no_other_from_being_held() {
    let dir = tempfile::tempdir().unwrap();
    let (waiter, _) = finished(dir.path());
    let layout = waiter.spool.layout();
    // An orphaned claim, then data in the queue, whose records cannot even be looked at.
    let claim = ClaimId::generate();
    for at in [DataAt::Claimed(claim), DataAt::Completed] {
        let id = UploadId::generate();
        std::fs::write(layout.data(id, at), "x").unwrap();
        std::fs::create_dir(layout.record(id, RecordAt::Completed)).unwrap();
    }
    let held = waiter.try_next().unwrap().unwrap();
    held.finish().unwrap();
    let error = waiter.try_next().unwrap_err();
    assert!(
        error.path.extension().is_some_and(|x| x == "meta"),
        "{error}"
    );
}

#[test]
fn a_delay_that_a_clock_set_back_has_made_long_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let (waiter, id) = finished(dir.path());
    let now = UnixTime::now();
    for (ahead, due) in [(600, false), (3600, true)] {
        let claim = try_claim(&waiter.spool, id, DataAt::Completed, now).unwrap();
        let TryClaim::Claimed(claim) = claim else {
            panic!("{claim:?}")
        };
        claim
            .retry(Attempt::default(), now.as_secs() + ahead)
            .unwrap();
        let held = waiter.try_next().unwrap();
        assert_eq!(held.is_some(), due, "{ahead}");
        match held {
            Some(held) => drop(held.give_back()),
            None => drop(crate::operate::retry(&waiter.spool, id).unwrap()),
        }
    }
}

#[test]
fn what_is_shown_to_live_is_not_taken_even_if_its_lock_was_lost() {
    let dir = tempfile::tempdir().unwrap();
    let (mut waiter, _) = finished(dir.path());
    waiter.rules.lease = Some(Duration::from_secs(3600));
    let held = waiter.try_next().unwrap().unwrap();
    let claim = held.claim();
    let state = waiter.spool.layout().state(claim.id(), claim.claim_id());
    held.claim().lock.unlock(&held.path()).unwrap();
    assert!(waiter.try_next().unwrap().is_none());
    let before = std::fs::metadata(&state).unwrap().modified().unwrap();
    held.beat().unwrap();
    assert!(before <= std::fs::metadata(&state).unwrap().modified().unwrap());
    waiter.rules.lease = None;
    assert!(waiter.try_next().unwrap().is_some(), "back in the queue");
    assert!(held.beat().unwrap_err().is_missing());
}

#[test]
fn dropping_what_was_saved_finishes_it() {
    let dir = tempfile::tempdir().unwrap();
    let (waiter, id) = finished(dir.path());
    let mut held = waiter.wait(Duration::ZERO).unwrap().unwrap();
    held.save(&dir.path().join("x")).unwrap();
    drop(held);
    assert_eq!(state(&waiter, id), State::Delivered);
}

#[test]
fn a_copy_to_another_filesystem_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir_in("/dev/shm").unwrap();
    let (waiter, _) = finished(dir.path());
    let mut held = waiter.wait(Duration::ZERO).unwrap().unwrap();
    held.save(&other.path().join("x")).unwrap();
    held.finish().unwrap();
    assert_eq!(std::fs::read(other.path().join("x")).unwrap(), b"hello");
    assert_eq!(
        std::fs::read_dir(other.path()).unwrap().count(),
        1,
        "no part is left"
    );
}
