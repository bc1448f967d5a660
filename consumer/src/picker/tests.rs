use super::*;

const BACKOFF: Backoff = Backoff {
    base: Duration::from_secs(5),
    cap: Duration::from_secs(900),
    attempts_max: 10,
};
const POLL: Duration = Duration::from_secs(30);

fn at(millis: u64) -> Now {
    Now {
        steady: Duration::from_millis(millis),
        unix: 1_000_000 + millis / 1000,
    }
}

fn picker() -> Picker {
    Picker::new(BACKOFF, POLL, Duration::ZERO)
}

fn ids(n: usize) -> Vec<UploadId> {
    (0..n).map(|_| UploadId::generate()).collect()
}

/// Answers both listings and returns the first pick that is none.
fn settle(picker: &mut Picker, fresh: &[UploadId], deferred: &[(u64, UploadId)], now: Now) -> Pick {
    loop {
        match picker.pick(now, 0.5) {
            Pick::ListFresh => picker.listed_fresh(fresh.iter().copied(), 0.0),
            Pick::ListDeferred => picker.listed_deferred(deferred.iter().copied(), now, 0.0),
            pick => return pick,
        }
    }
}

fn tried(pick: Pick) -> Candidate {
    match pick {
        Pick::Try(candidate) => candidate,
        other => panic!("{other:?}"),
    }
}

#[test]
fn everything_is_listed_at_the_start_and_at_each_poll_and_not_between() {
    let mut picker = picker();
    assert_eq!(settle(&mut picker, &[], &[], at(0)), Pick::Wait(POLL));
    assert_eq!(picker.pick(at(29_999), 0.5), Pick::Wait(POLL));
    assert_eq!(picker.pick(at(30_000), 0.5), Pick::ListFresh);
    assert_eq!(picker.pick(at(30_000), 0.5), Pick::ListDeferred);
    assert_eq!(
        picker.pick(at(30_000), 0.5),
        Pick::Wait(Duration::from_secs(60))
    );
}

#[test]
fn fresh_and_deferred_take_turns_however_long_either_backlog_is() {
    let (fresh, late) = (ids(3), ids(50_000));
    let deferred: Vec<_> = late.iter().map(|&id| (1, id)).collect();
    let mut picker = picker();
    let mut order = Vec::new();
    for _ in 0..8 {
        order.push(tried(settle(&mut picker, &fresh, &deferred, at(0))).turn());
    }
    use Turn::{Deferred as D, Fresh as F};
    assert_eq!(order, [F, D, F, D, F, D, D, D]);
    picker.heard(fresh[0]);
    let next = tried(picker.pick(at(0), 0.5));
    assert_eq!(
        (next.turn(), next.id),
        (F, fresh[0]),
        "the next turn is the fresh one's"
    );
}

#[test]
fn what_was_heard_of_is_tried_without_a_listing() {
    let mut picker = picker();
    settle(&mut picker, &[], &[], at(0));
    let id = UploadId::generate();
    picker.heard(id);
    assert_eq!(tried(picker.pick(at(5), 0.5)).id, id);
    assert!(matches!(picker.pick(at(5), 0.5), Pick::Wait(_)));
}

#[test]
fn too_much_news_ends_in_a_listing() {
    let mut picker = picker();
    settle(&mut picker, &[], &[], at(0));
    for id in ids(HEARD_MAX + 1) {
        picker.heard(id);
    }
    for _ in 0..HEARD_MAX {
        tried(picker.pick(at(5), 0.5));
    }
    assert_eq!(picker.pick(at(5), 0.5), Pick::ListFresh);
}

#[test]
fn a_busy_upload_is_tried_again_after_1_2_4_to_256_milliseconds() {
    let mut picker = picker();
    settle(&mut picker, &[], &[], at(0));
    let id = UploadId::generate();
    picker.heard(id);
    let (mut now, mut waits) = (at(0), Vec::new());
    loop {
        match picker.pick(now, 0.5) {
            Pick::Try(candidate) => picker.missed(candidate, Miss::Busy, now.steady, 0.5),
            Pick::Wait(until) if until < POLL => {
                waits.push((until - now.steady).as_millis());
                now.steady = until;
            }
            Pick::Wait(_) => break,
            list => panic!("{list:?}"),
        }
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256]);
}

#[test]
fn a_deferred_upload_wakes_us_when_it_is_due() {
    let mut picker = picker();
    let id = UploadId::generate();
    let due = at(0).unix + 7;
    assert_eq!(
        settle(&mut picker, &[], &[(due, id)], at(0)),
        Pick::Wait(Duration::from_secs(7))
    );
    assert!(matches!(picker.pick(at(6_999), 0.5), Pick::Wait(_)));
    assert_eq!(tried(picker.pick(at(7_000), 0.5)).id, id);
    picker.deferred(due + 10, id);
    assert_eq!(
        picker.pick(at(8_000), 0.5),
        Pick::Wait(Duration::from_secs(17))
    );
}

#[test]
fn a_snapshot_that_is_given_up_is_made_anew() {
    let mut picker = picker();
    let fresh = ids(100);
    for _ in 0..16 {
        let candidate = tried(settle(&mut picker, &fresh, &[], at(0)));
        picker.missed(candidate, Miss::Gone, Duration::ZERO, 0.3);
    }
    assert_eq!(picker.fresh_left(), 0);
    assert_eq!(picker.pick(at(0), 0.5), Pick::ListFresh);
}

#[test]
fn listings_of_which_others_take_everything_are_made_ever_more_rarely() {
    let mut picker = picker();
    let fresh = ids(100);
    let (mut now, mut waits) = (at(0), Vec::new());
    while waits.len() < 11 {
        match picker.pick(now, 0.5) {
            Pick::ListFresh => picker.listed_fresh(fresh.iter().copied(), 0.0),
            Pick::ListDeferred => picker.listed_deferred([], now, 0.0),
            Pick::Try(candidate) => picker.missed(candidate, Miss::Gone, now.steady, 1.0),
            Pick::Wait(until) => {
                waits.push((until - now.steady).as_millis());
                now.steady = until;
            }
        }
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 256, 256]);
    let candidate = tried(settle(&mut picker, &fresh, &[], now));
    picker.claimed(candidate);
    for _ in 0..16 {
        let candidate = tried(settle(&mut picker, &fresh, &[], now));
        picker.missed(candidate, Miss::Gone, now.steady, 1.0);
    }
    assert_eq!(
        picker.pick(now, 0.5),
        Pick::ListFresh,
        "one hit, and at once"
    );
}

#[test]
fn due_ones_of_a_listing_that_was_given_up_are_found_again() {
    let mut picker = picker();
    let deferred: Vec<_> = ids(100).into_iter().map(|id| (1, id)).collect();
    for _ in 0..16 {
        let candidate = tried(settle(&mut picker, &[], &deferred, at(0)));
        picker.missed(candidate, Miss::Gone, Duration::ZERO, 0.3);
    }
    assert_eq!(picker.pick(at(0), 0.5), Pick::Wait(Duration::from_secs(1)));
    assert_eq!(picker.pick(at(1000), 0.5), Pick::ListDeferred);
}

#[test]
fn nothing_makes_it_whirl() {
    // Whatever the clock says about what is due, a wait is a wait.
    let mut picker = picker();
    let soon = (at(0).unix + 1, UploadId::generate());
    settle(&mut picker, &[], &[soon], at(0));
    let before = Now {
        unix: at(0).unix,
        ..at(1500)
    };
    match picker.pick(before, 0.5) {
        Pick::Wait(until) => assert!(Duration::from_millis(100) <= until - before.steady),
        other => panic!("{other:?}"),
    }
}
