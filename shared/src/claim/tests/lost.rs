use super::*;

#[test]
fn a_state_that_a_crash_left_empty_is_as_good_as_none() {
    let case = case();
    let claim = case.claim();
    let path = case.spool.layout().state(case.id, claim.claim_id());
    drop(claim);
    std::fs::write(&path, "").unwrap();
    assert!(matches!(case.recover()[..], [Orphan::Requeued]));
    assert_eq!(case.names(), ["completed/ID", "completed/ID.meta"]);
    assert_eq!(case.claim().attempt(), 2);
}

#[test]
fn a_claim_that_cannot_be_counted_for_want_of_space_is_as_if_it_had_not_been_made() {
    let case = case();
    {
        let _full = failpoint::scoped("claim.renamed=error:ENOSPC").unwrap();
        let refused = try_claim(&case.spool, case.id, DataAt::Completed, now(3));
        assert!(refused.unwrap_err().is_full());
    }
    assert_eq!(case.names(), ["completed/ID", "completed/ID.meta"]);
    assert_eq!(case.claim().attempt(), 1);
}

#[test]
fn a_claim_that_was_taken_away_touches_nothing() {
    let case = case();
    let claim = case.claim();
    // As a network filesystem can lose it.
    claim.lock.unlock(&claim.path()).unwrap();
    assert!(matches!(case.recover()[..], [Orphan::Requeued]));
    let _other = case.claim();
    assert!(!claim.is_ours().unwrap());
    let before = case.names();
    assert_eq!(claim.delivered(None, None, now(4)).unwrap(), Settled::Lost);
    assert_eq!(case.names(), before);
}

#[test]
fn a_hook_that_moves_the_file_away_itself_has_delivered_it() {
    let case = case();
    let claim = case.claim();
    let to = tempfile::tempdir().unwrap();
    durable::rename(&claim.path(), &to.path().join("moved")).unwrap();
    assert_eq!(claim.delivered(None, None, now(4)).unwrap(), Settled::Done);
    assert_eq!(case.names(), ["receipts/ID.meta"]);
    assert_eq!(case.record().place, Place::Delivered);
}

#[test]
fn a_claim_with_a_living_heartbeat_is_left_alone_though_its_lock_is_free() {
    let case = case();
    let claim = case.claim();
    claim.lock.unlock(&claim.path()).unwrap(); // as a network filesystem loses it
    let rules = Rules {
        lease: Some(Duration::from_secs(60)),
        ..RULES
    };
    let seen = orphan::recover(&case.spool, case.id, claim.claim_id(), rules, now(9)).unwrap();
    assert!(matches!(seen, Orphan::Alive(Some(_))));
}

/// Ends at every named step of claim and settle with an error, as a crash would, and lets whoever
/// comes next go on: the upload is never lost, never in two places, and the attempt counted
/// exactly once.

#[test]
fn a_claim_that_is_taken_away_while_it_is_settled_keeps_record_and_data_together() {
    let case = case();
    let claim = case.claim();
    claim.lock.unlock(&claim.path()).unwrap();
    assert!(matches!(case.recover()[..], [Orphan::Requeued]));
    assert_eq!(
        claim.tell_delivered(None, None, now(4)).unwrap(),
        Settled::Lost
    );
    assert_eq!(case.names(), ["completed/ID", "completed/ID.meta"]);
    assert_eq!(case.record().place, Place::Completed);
    assert_eq!(case.claim().attempt(), 2);
}

/// As an operator takes it away by force: another file gets the claim's name, and then whoever
/// comes by finds its lock free.
#[test]
fn a_claim_whose_name_is_another_files_has_lost_it_and_its_command_has_moved_nothing() {
    type Settle = fn(Claim) -> Result<Settled, DiskError>;
    let ways: [Settle; 3] = [
        |claim| claim.retry(failed(1), 9),
        |claim| claim.dead(Some(failed(1)), "rejected", now(4)),
        Claim::put_back,
    ];
    for settle in ways {
        let case = case();
        let claim = case.claim();
        let copy = case.spool.temp(Dir::Claimed, case.id);
        std::fs::copy(claim.path(), &copy).unwrap();
        durable::rename(&copy, &claim.path()).unwrap();
        assert_eq!(settle(claim).unwrap(), Settled::Lost);
        assert!(matches!(case.recover()[..], [Orphan::Requeued]));
        assert_eq!(case.names(), ["completed/ID", "completed/ID.meta"]);
        assert_eq!(case.claim().attempt(), 2);
    }
}

#[test]
fn a_claim_whose_taker_comes_too_late_is_settled_with_its_own_receipt() {
    let case = case();
    let claim = case.claim();
    // The taker has got as far as the record when the data goes.
    let mut record = case.record();
    record.set_place(DataAt::Completed);
    let path = claim.record_path();
    case.spool
        .replace_record(path, Dir::Claimed, case.id, &record)
        .unwrap();
    assert_eq!(
        claim.tell_delivered(None, None, now(4)).unwrap(),
        Settled::Done
    );
    assert_eq!(case.names(), ["receipts/ID.meta"]);
    assert_eq!(case.record().place, Place::Delivered);
}

#[test]
fn what_is_claimed_is_not_ended_even_if_its_lock_was_lost() {
    let case = case();
    let claim = case.claim();
    let end = || ending::end(&case.spool, case.id, Place::Terminated, now(5)).unwrap();
    assert_eq!(end(), ending::End::Busy);
    claim.lock.unlock(&claim.path()).unwrap();
    assert_eq!(end(), ending::End::Busy);
    assert_eq!(claim.delivered(None, None, now(6)).unwrap(), Settled::Done);
    assert_eq!(end(), ending::End::Already(Place::Delivered));
}

#[test]
fn data_that_a_failed_command_has_moved_away_leaves_a_dead_letter_that_can_be_dropped() {
    let attempt = || Attempt {
        error: "exit code 1".to_owned(),
        ..Attempt::default()
    };
    type Settle = fn(Claim, Attempt) -> Result<Settled, DiskError>;
    let ways: [Settle; 3] = [
        |claim, attempt| claim.retry(attempt, 9),
        |claim, attempt| claim.dead(Some(attempt), "rejected", now(4)),
        |claim, _| claim.put_back(),
    ];
    for settle in ways {
        let case = case();
        let claim = case.claim();
        let away = case.spool.layout().root().join("away");
        durable::rename(&claim.path(), &away).unwrap();
        assert_eq!(settle(claim, attempt()).unwrap(), Settled::DataTaken);
        assert_eq!(case.names(), ["failed/ID.meta", "failed/ID.reason.json"]);
        assert_eq!(case.state(), State::Failed);
        let reason = std::fs::read_to_string(case.spool.layout().reason(case.id)).unwrap();
        assert!(
            reason.contains("moved the data out of the spool"),
            "{reason}"
        );
        assert_eq!(
            operate::retry(&case.spool, case.id).unwrap(),
            Operated::NotThere
        );
        let end = ending::end(&case.spool, case.id, Place::Terminated, now(5)).unwrap();
        assert_eq!(end, ending::End::Ended);
        assert_eq!(case.names(), ["receipts/ID.meta"]);
        assert_eq!(
            std::fs::read(away).unwrap(),
            b"hello",
            "and is not ours to touch"
        );
    }
}

#[test]
fn a_choice_in_the_destination_outlives_a_crash_and_so_does_its_being_taken_back() {
    let case = case();
    let chosen = |case: &Case| {
        assert!(matches!(case.recover()[..], [Orphan::Requeued]));
        let rest = case.record().rest;
        rest.destination.zip(rest.destination_inode)
    };
    let mut claim = case.claim();
    claim.set_destination("/srv/a", 7).unwrap();
    drop(claim);
    assert_eq!(chosen(&case), Some(("/srv/a".to_owned(), 7)));
    let mut claim = case.claim();
    claim.forget_destination().unwrap();
    drop(claim);
    assert_eq!(chosen(&case), None);
}
