//! Each kind of damage by itself: what is told of it, and what a repair makes of it. What comes
//! together by chance is in [`harms`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use shared::claim::Claim;
use shared::id::ClaimId;
use shared::layout::{Dir, Entry};
use shared::record::{Place, RecordFile};
use shared::settle::Settled;

use super::*;

mod harms;

#[test]
fn a_sound_spool_is_sound() {
    let case = Case::new();
    case.upload();
    case.dead("no");
    assert_eq!(case.fsck(false), (true, String::new()));
}

/// What goes wrong with an upload, what is told of it, and where its data is after the repair.
type Damage = (&'static str, Life, fn(&Case, UploadId), Option<DataAt>);

const DAMAGES: [Damage; 14] = [
    (
        "without a record",
        Life::Queued,
        |case, id| {
            std::fs::remove_file(case.record(id, RecordAt::Completed)).unwrap();
        },
        FAILED,
    ),
    (
        "unreadable record",
        Life::Queued,
        |case, id| {
            std::fs::write(case.record(id, RecordAt::Completed), "{").unwrap();
        },
        FAILED,
    ),
    (
        "does not fit",
        Life::Queued,
        |case, id| {
            std::fs::write(case.data(id, DataAt::Completed), "hell").unwrap();
        },
        FAILED,
    ),
    (
        "does not fit",
        Life::Receiving,
        |case, id| {
            std::fs::write(case.data(id, DataAt::Uploads), "h").unwrap();
        },
        FAILED,
    ),
    (
        "half done",
        Life::Queued,
        |case, id| {
            case.move_data(id, DataAt::Completed, DataAt::Uploads);
        },
        COMPLETED,
    ),
    // What has been given up is not begun again.
    (
        "half done",
        Life::Dead,
        |case, id| {
            case.move_data(id, DataAt::Failed, DataAt::Completed);
        },
        FAILED,
    ),
    // Nor is anything cut to what a record says that was not beside it.
    (
        "half done",
        Life::Queued,
        |case, id| {
            std::fs::write(case.data(id, DataAt::Completed), "hello more").unwrap();
            case.move_data(id, DataAt::Completed, DataAt::Uploads);
            let (from, to) = (RecordAt::Completed, RecordAt::Receipts);
            shared::durable::rename(&case.record(id, from), &case.record(id, to)).unwrap();
        },
        FAILED,
    ),
    (
        "claimed by a consumer that is gone",
        Life::Queued,
        |case, id| {
            case.move_data(id, DataAt::Completed, DataAt::Claimed(ClaimId::generate()));
        },
        COMPLETED,
    ),
    (
        "state of a claim that is over",
        Life::Queued,
        |case, id| {
            let state = case.spool.layout().state(id, ClaimId::generate());
            std::fs::write(state, "{}").unwrap();
        },
        COMPLETED,
    ),
    (
        "several records",
        Life::Queued,
        |case, id| {
            let (from, to) = (RecordAt::Completed, RecordAt::Failed);
            std::fs::copy(case.record(id, from), case.record(id, to)).unwrap();
        },
        COMPLETED,
    ),
    // A receipt counts only where no record says otherwise.
    (
        "several records",
        Life::Queued,
        |case, id| {
            let receipt = case.record(id, RecordAt::Receipts);
            std::fs::copy(case.record(id, RecordAt::Completed), &receipt).unwrap();
            tell_place(&receipt, Place::Delivered, 5);
        },
        COMPLETED,
    ),
    (
        "several names",
        Life::Queued,
        |case, id| {
            let (from, to) = (DataAt::Completed, DataAt::Held);
            shared::durable::link(&case.data(id, from), &case.data(id, to)).unwrap();
        },
        COMPLETED,
    ),
    (
        "a reason without its dead letter",
        Life::Queued,
        |case, id| {
            std::fs::write(case.spool.layout().reason(id), "{}").unwrap();
        },
        COMPLETED,
    ),
    (
        "without data",
        Life::Queued,
        |case, id| {
            std::fs::remove_file(case.data(id, DataAt::Completed)).unwrap();
        },
        None,
    ),
];

const COMPLETED: Option<DataAt> = Some(DataAt::Completed);
const FAILED: Option<DataAt> = Some(DataAt::Failed);

#[test]
fn damage_is_reported_and_repaired_and_no_data_is_lost() {
    for (expected, life, damage, place) in DAMAGES {
        let case = Case::new();
        let id = case.live(life);
        damage(&case, id);
        let before = contents(&case);
        let (sound, told) = case.fsck(false);
        assert!(
            !sound && told.contains(expected),
            "{expected}, {life:?}: {told}"
        );
        let (repaired, told) = case.fsck(true);
        assert!(repaired, "{expected}, {life:?}: {told}");
        assert_eq!(
            case.fsck(false),
            (true, String::new()),
            "{expected}, {life:?}"
        );
        let is_there = |at: &DataAt| case.data(id, *at).is_file();
        let places = [
            DataAt::Uploads,
            DataAt::Completed,
            DataAt::Held,
            DataAt::Failed,
        ];
        assert_eq!(
            places.into_iter().find(is_there),
            place,
            "{expected}, {life:?}"
        );
        assert_eq!(contents(&case), before, "{expected}, {life:?}");
        if expected == "unreadable record" {
            // Somebody may still make sense of it.
            let record = std::fs::read_to_string(case.record(id, RecordAt::Failed));
            assert_eq!(record.unwrap(), "{");
        }
    }
}

/// Where an upload stands before anything goes wrong with it.
#[derive(Debug, Clone, Copy)]
enum Life {
    Receiving,
    Queued,
    Claimed,
    Deferred,
    Held,
    Dead,
    Delivered,
    /// Its command took the data and failed.
    DataTaken,
}

const LIVES: [Life; 8] = [
    Life::Receiving,
    Life::Queued,
    Life::Claimed,
    Life::Deferred,
    Life::Held,
    Life::Dead,
    Life::Delivered,
    Life::DataTaken,
];

impl Case {
    fn data(&self, id: UploadId, at: DataAt) -> PathBuf {
        self.spool.layout().data(id, at)
    }

    fn record(&self, id: UploadId, at: RecordAt) -> PathBuf {
        self.spool.layout().record(id, at)
    }

    fn move_data(&self, id: UploadId, from: DataAt, to: DataAt) {
        shared::durable::rename(&self.data(id, from), &self.data(id, to)).unwrap();
    }

    fn claim(&self, id: UploadId) -> Claim {
        match try_claim(&self.spool, id, DataAt::Completed, UnixTime::now()).unwrap() {
            TryClaim::Claimed(claim) => *claim,
            other => panic!("{other:?}"),
        }
    }

    fn live(&self, life: Life) -> UploadId {
        let now = UnixTime::now();
        if let Life::Receiving = life {
            let new = NewData::create(&self.spool).unwrap();
            let id = new.id();
            new.data().write_all_at(b"hel", 0).unwrap();
            let mut record = Record::new(Some(Length(5)), now);
            record.offset = Offset(3);
            new.into_receiving(record).unwrap();
            return id;
        }
        let id = self.upload();
        let settled = match life {
            Life::Receiving | Life::Queued => return id,
            // Dropped: what a crash leaves.
            Life::Claimed => return self.claim(id).id(),
            Life::Deferred => self.claim(id).retry(Default::default(), 4_000_000_000),
            Life::Held => self.claim(id).hold(),
            Life::Dead => self.claim(id).dead(None, "no", now),
            Life::Delivered => self.claim(id).delivered(None, None, now),
            Life::DataTaken => {
                let claim = self.claim(id);
                std::fs::remove_file(claim.path()).unwrap();
                assert_eq!(claim.dead(None, "no", now).unwrap(), Settled::DataTaken);
                return id;
            }
        };
        assert_eq!(settled.unwrap(), Settled::Done);
        id
    }
}

/// Has a record say that the upload is in another place, and how much of it there is. One that
/// cannot be read stays as it is.
fn tell_place(path: &Path, place: Place, offset: u64) {
    let Ok((file, mut record)) = RecordFile::open(path.to_owned()) else {
        return;
    };
    (record.place, record.offset) = (place, Offset(offset));
    file.write_head(&record).unwrap();
}

/// The content of every data file in the spool, and whose it was.
fn contents(case: &Case) -> BTreeSet<Vec<u8>> {
    let entries = Dir::ALL
        .iter()
        .flat_map(|dir| case.spool.entries(*dir).unwrap());
    let data = entries.filter_map(|entry| match entry.unwrap() {
        Entry::Data(id, at) => Some(std::fs::read(case.spool.layout().data(id, at)).unwrap()),
        _ => None,
    });
    data.collect()
}

fn listing(case: &Case) -> BTreeMap<Dir, BTreeSet<String>> {
    let names = |dir: &Dir| {
        let names = std::fs::read_dir(case.spool.layout().dir(*dir)).unwrap();
        let names = names.map(|name| name.unwrap().file_name().into_string().unwrap());
        (*dir, names.collect())
    };
    Dir::ALL.iter().map(names).collect()
}

#[test]
fn an_upload_in_any_state_of_its_life_is_sound_unless_its_consumer_is_gone() {
    for life in LIVES {
        let case = Case::new();
        case.live(life);
        let (sound, told) = case.fsck(false);
        let crashed = matches!(life, Life::Claimed);
        assert_eq!(
            (sound, told.is_empty()),
            (!crashed, !crashed),
            "{life:?}: {told}"
        );
    }
}

#[test]
fn what_cannot_be_read_or_is_of_a_later_version_is_not_touched() {
    type Make = fn(&Path);
    let cases: [(bool, Make); 3] = [
        (false, |path| {
            let text = std::fs::read(path).unwrap();
            let mut newer: serde_json::Value = serde_json::from_slice(&text).unwrap();
            newer["format"] = 9.into();
            std::fs::write(path, newer.to_string()).unwrap();
        }),
        (true, |path| {
            std::fs::remove_file(path).unwrap();
            std::fs::create_dir(path).unwrap();
        }),
        (true, |path| {
            std::fs::remove_file(path).unwrap();
            std::os::unix::fs::symlink("/dev/null", path).unwrap();
        }),
    ];
    for (is_told, make) in cases {
        for life in [Life::Delivered, Life::Receiving] {
            let case = Case::new();
            let id = case.live(life);
            let at = match life {
                Life::Delivered => RecordAt::Receipts,
                _ => RecordAt::Uploads,
            };
            let path = case.spool.layout().record(id, at);
            make(&path);
            let (before, kind) = (contents(&case), std::fs::symlink_metadata(&path).unwrap());
            let (sound, told) = case.fsck(true);
            assert_eq!((sound, told.is_empty()), (!is_told, !is_told), "{told}");
            assert_eq!(contents(&case), before);
            let now = std::fs::symlink_metadata(&path).unwrap();
            assert_eq!(now.file_type(), kind.file_type());
        }
    }
}
