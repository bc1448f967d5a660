//! Spools damaged in ways that no program of ours makes: nothing that may have been received in
//! full is lost, and no pass fails.

use proptest::prelude::*;

use super::*;

/// A record as somebody may find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damage {
    Missing,
    Empty,
    Garbage,
    Cut,
    Receiving,
    Received,
    Ended,
}

const DAMAGES: [Damage; 7] = [
    Damage::Missing,
    Damage::Empty,
    Damage::Garbage,
    Damage::Cut,
    Damage::Receiving,
    Damage::Received,
    Damage::Ended,
];

impl Damage {
    fn bytes(self, at: RecordAt, data: Option<DataAt>) -> Option<Vec<u8>> {
        let mut record = Record::new(Some(Length(5)), UnixTime::now());
        record.set_place(data.unwrap_or(DataAt::Uploads));
        match self {
            Self::Missing => return None,
            Self::Empty => return Some(Vec::new()),
            Self::Garbage => return Some(b"\0\0\0\xff{}".to_vec()),
            Self::Cut | Self::Receiving => {}
            Self::Received => record.offset = Offset(5),
            Self::Ended => record.set_ending(Place::Terminated, UnixTime::now()),
        }
        if at == RecordAt::Receipts {
            record.set_ending(Place::Delivered, UnixTime::now());
        }
        let mut bytes = record.to_bytes();
        if self == Self::Cut {
            bytes.truncate(bytes.len() / 2);
        }
        Some(bytes)
    }

    fn tells_an_ending(self, at: RecordAt) -> bool {
        self == Self::Ended
            || at == RecordAt::Receipts && matches!(self, Self::Receiving | Self::Received)
    }
}

fn damage() -> impl Strategy<Value = Damage> {
    proptest::sample::select(&DAMAGES[..])
}

fn data() -> impl Strategy<Value = Option<DataAt>> {
    let claim = ClaimId::generate();
    let places = vec![
        None,
        Some(DataAt::Uploads),
        Some(DataAt::Completed),
        Some(DataAt::Claimed(claim)),
        Some(DataAt::Deferred(1_700_000_000)),
        Some(DataAt::Held),
        Some(DataAt::Failed),
    ];
    proptest::sample::select(places)
}

fn write(
    spool: &Fixture,
    id: UploadId,
    (data, bytes): (Option<DataAt>, &[u8]),
    records: [Damage; 4],
) {
    let layout = spool.layout();
    if let Some(at) = data {
        std::fs::write(layout.data(id, at), bytes).unwrap();
    }
    for (at, damage) in RecordAt::ALL.into_iter().zip(records) {
        if let Some(bytes) = damage.bytes(at, data) {
            std::fs::write(layout.record(id, at), bytes).unwrap();
        }
    }
}

fn contents(spool: &Fixture, id: UploadId) -> Vec<Vec<u8>> {
    let mut contents = Vec::new();
    for dir in Dir::ALL {
        for entry in std::fs::read_dir(spool.layout().dir(dir)).unwrap() {
            let entry = entry.unwrap();
            if let Entry::Data(found, _) = classify(dir, &entry.file_name())
                && found == id
            {
                contents.push(std::fs::read(entry.path()).unwrap());
            }
        }
    }
    contents
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn data_that_may_be_whole_is_never_lost(
        data in data(),
        records in [damage(), damage(), damage(), damage()],
        short: bool,
        reason: bool,
        state: bool,
    ) {
        let spool = Fixture::new();
        let id = UploadId::generate();
        let bytes = if short { &b"hel"[..] } else { b"hello" };
        write(&spool, id, (data, bytes), records);
        if reason {
            std::fs::write(spool.layout().reason(id), "{").unwrap();
        }
        if let (true, Some(DataAt::Claimed(claim))) = (state, data) {
            std::fs::write(spool.layout().state(id, claim), "{").unwrap();
        }
        for pass in 1..=3 {
            let report = spool.pass_after(2 * HOUR * pass);
            prop_assert_eq!(report.counted(Tally::Errors), 0, "{}", report);
        }
        let ended = RecordAt::ALL.into_iter().zip(records).any(|(at, d)| d.tells_an_ending(at));
        // Only in `uploads/` can data be what nobody was ever told about.
        let in_uploads = data == Some(DataAt::Uploads);
        let unanswered = in_uploads && records.iter().all(|&record| record == Damage::Missing);
        if data.is_some() && !ended && !unanswered {
            prop_assert_eq!(contents(&spool, id), [bytes], "{:?}", spool.places(id));
        }
        // And no pass after these finds anything to do.
        let before = spool.names();
        spool.pass_after(9 * HOUR);
        prop_assert_eq!(spool.names(), before);
    }

    #[test]
    fn uploads_beside_a_damaged_one_are_dealt_with(
        records in [damage(), damage(), damage(), damage()],
        data in data(),
    ) {
        let spool = Fixture::new();
        write(&spool, UploadId::generate(), (data, b"hello"), records);
        let (stale, zombie) = (spool.receiving(3), spool.receiving(5));
        spool.pass_after(2 * DAY);
        prop_assert_eq!(spool.places(stale), ["receipts/ID.meta"]);
        prop_assert_eq!(spool.places(zombie), ["completed/ID", "completed/ID.meta"]);
    }
}
