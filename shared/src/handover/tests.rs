use super::*;
use crate::record::Finish;
use crate::size::Offset;
use crate::spool::Options;

const DATA: [DataSeen; 3] = [DataSeen::Uploads, DataSeen::Completed, DataSeen::Neither];
const RECORDS: [RecordSeen; 5] = [
    RecordSeen::None,
    RecordSeen::Receiving,
    RecordSeen::Received,
    RecordSeen::Ended,
    RecordSeen::Unreadable,
];

/// What a step leaves behind; `None` if it is no step.
fn apply(
    step: Next,
    (data, uploads, completed): (DataSeen, RecordSeen, RecordSeen),
) -> Option<(DataSeen, RecordSeen, RecordSeen)> {
    match step {
        Next::MoveRecord => Some((data, RecordSeen::None, uploads)),
        Next::MoveData => Some((DataSeen::Completed, uploads, completed)),
        Next::DropUploadsRecord => Some((data, RecordSeen::None, completed)),
        Next::DropCompletedRecord => Some((data, uploads, RecordSeen::None)),
        Next::ReturnRecord => Some((data, completed, RecordSeen::None)),
        _ => None,
    }
}

#[test]
fn from_every_state_the_steps_come_to_an_end_and_lose_nothing() {
    for data in DATA {
        for uploads in RECORDS {
            for completed in RECORDS {
                let start = (data, uploads, completed);
                let mut state = start;
                let mut steps = 0;
                while let Some(after) = apply(next(state.0, state.1, state.2), state) {
                    state = after;
                    steps += 1;
                    assert!(steps < 5, "{start:?} never ends");
                }
                let end = next(state.0, state.1, state.2);
                let said = [uploads, completed];
                if said.contains(&RecordSeen::Ended) {
                    assert_eq!(end, Next::End, "{start:?}");
                } else if data == DataSeen::Uploads && uploads == RecordSeen::Receiving {
                    assert_eq!(end, Next::Receiving, "{start:?}");
                } else if data != DataSeen::Neither && said.contains(&RecordSeen::Received) {
                    assert_eq!(
                        end,
                        Next::Done,
                        "{start:?}: received in full, must be handed over"
                    );
                } else if data == DataSeen::Completed {
                    assert_eq!(end, Next::Torn, "{start:?}: nobody vouches for it");
                }
                // Never is data called an orphan while some record explains it.
                if end == Next::Orphan {
                    assert_eq!(said, [RecordSeen::None; 2], "{start:?}");
                }
            }
        }
    }
}

fn spool(dir: &tempfile::TempDir) -> Spool {
    Spool::open(&dir.path().join("s"), Options::default()).unwrap()
}

fn record(offset: u64, length: u64) -> Record {
    let mut record = Record::new(Some(Length(length)), UnixTime::from_secs(1));
    record.offset = Offset(offset);
    record
}

#[test]
fn a_half_finished_hand_over_is_finished_from_each_of_its_states() {
    let now = UnixTime::from_secs(9);
    for (data_at, record_at) in [
        (DataAt::Uploads, RecordAt::Uploads),
        (DataAt::Uploads, RecordAt::Completed),
        (DataAt::Completed, RecordAt::Uploads),
        (DataAt::Completed, RecordAt::Completed),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let spool = spool(&dir);
        let id = UploadId::generate();
        let written = match data_at {
            DataAt::Uploads => "hello, and junk above",
            _ => "hello",
        };
        std::fs::write(spool.layout().data(id, data_at), written).unwrap();
        spool
            .create_record(spool.layout().record(id, record_at), &record(5, 5))
            .unwrap();
        let recovered = recover(&spool, id, now).unwrap();
        let done = (data_at, record_at) == (DataAt::Completed, RecordAt::Completed);
        assert!(
            matches!(recovered, Recovered::Completed { by_us } if by_us != done),
            "{recovered:?}"
        );
        let completed = record::read(&spool.layout().record(id, RecordAt::Completed)).unwrap();
        if record_at == RecordAt::Uploads {
            assert_eq!(completed.place, Place::Completed);
            assert_eq!(completed.finished_at, Some(now));
            let data = std::fs::read(spool.layout().data(id, DataAt::Completed)).unwrap();
            assert_eq!(data, b"hello");
        }
        assert!(matches!(
            recover(&spool, id, now).unwrap(),
            Recovered::Completed { by_us: false }
        ));
    }
}

#[test]
fn what_is_not_received_in_full_by_its_own_rule_stays_in_uploads() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(&dir);
    let mut unfinished = record(4, 5);
    let mut part = record(5, 5);
    part.rest.finish = Finish::Never;
    let mut unflagged = record(5, 5);
    unflagged.rest.finish = Finish::AtFlag;
    for record in [&mut unfinished, &mut part, &mut unflagged] {
        let id = UploadId::generate();
        let data = spool.layout().data(id, DataAt::Uploads);
        std::fs::write(&data, "hello").unwrap();
        spool
            .create_record(spool.layout().record(id, RecordAt::Uploads), record)
            .unwrap();
        let recovered = recover(&spool, id, UnixTime::from_secs(9)).unwrap();
        assert!(
            matches!(recovered, Recovered::Receiving(_)),
            "{recovered:?}"
        );
        assert!(durable::stat(&data).unwrap().is_some());
    }
}

#[test]
fn what_cannot_be_explained_is_reported_and_left() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(&dir);
    let now = UnixTime::from_secs(9);
    let [orphan, torn, lone, busy] = std::array::from_fn(|_| UploadId::generate());
    std::fs::write(spool.layout().data(orphan, DataAt::Uploads), "x").unwrap();
    std::fs::write(spool.layout().data(torn, DataAt::Completed), "x").unwrap();
    std::fs::write(spool.layout().record(torn, RecordAt::Completed), "{\"le").unwrap();
    spool
        .create_record(
            spool.layout().record(lone, RecordAt::Uploads),
            &record(1, 2),
        )
        .unwrap();
    std::fs::write(spool.layout().data(busy, DataAt::Uploads), "x").unwrap();
    let path = spool.layout().data(busy, DataAt::Uploads);
    let held = DataLock::try_lock(&path).unwrap();
    assert!(matches!(
        recover(&spool, orphan, now).unwrap(),
        Recovered::Orphan
    ));
    assert!(matches!(
        recover(&spool, torn, now).unwrap(),
        Recovered::Torn { .. }
    ));
    assert!(matches!(
        recover(&spool, lone, now).unwrap(),
        Recovered::OrphanRecord
    ));
    assert!(matches!(
        recover(&spool, busy, now).unwrap(),
        Recovered::Busy
    ));
    assert!(matches!(
        recover(&spool, UploadId::generate(), now).unwrap(),
        Recovered::Elsewhere
    ));
    drop(held);
}

#[test]
fn a_record_that_promises_more_bytes_than_there_are_goes_back_to_its_client() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(&dir);
    let id = UploadId::generate();
    std::fs::write(spool.layout().data(id, DataAt::Uploads), "hel").unwrap();
    let path = spool.layout().record(id, RecordAt::Uploads);
    spool.create_record(path.clone(), &record(5, 5)).unwrap();
    let recovered = recover(&spool, id, UnixTime::from_secs(9)).unwrap();
    assert!(
        matches!(recovered, Recovered::Receiving(_)),
        "{recovered:?}"
    );
    assert_eq!(record::read(&path).unwrap().offset, Offset(0));
}

#[test]
fn data_that_was_handed_over_is_not_cut_to_a_record_that_comes_later() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(&dir);
    for data in ["hello and more", "hell"] {
        let id = UploadId::generate();
        let path = spool.layout().data(id, DataAt::Completed);
        std::fs::write(&path, data).unwrap();
        let uploads = spool.layout().record(id, RecordAt::Uploads);
        spool.create_record(uploads, &record(5, 5)).unwrap();
        let recovered = recover(&spool, id, UnixTime::from_secs(9)).unwrap();
        // Whoever claims the two sees that they do not fit.
        assert!(
            matches!(recovered, Recovered::Completed { by_us: true }),
            "{recovered:?}"
        );
        assert_eq!(std::fs::read_to_string(&path).unwrap(), data);
    }
}
