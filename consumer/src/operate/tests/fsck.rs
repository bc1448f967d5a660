use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use proptest::prelude::*;
use shared::claim::Claim;
use shared::id::ClaimId;
use shared::layout::{Dir, Entry};
use shared::record::{Place, RecordFile};
use shared::settle::Settled;

use super::*;

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
            tell_place(&(Kind::Record, receipt), Place::Delivered, 5);
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

/// Every name that an upload can have in the spool, and what of it has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Data,
    Record,
    State,
    Reason,
    Temp,
    Event,
}

/// How many [`names`] there are.
const NAMES: usize = 17;

fn names(case: &Case, id: UploadId) -> [(Kind, PathBuf); NAMES] {
    let layout = case.spool.layout();
    let claim = |n: u8| -> ClaimId { format!("{n:032x}").parse().unwrap() };
    let data = |at| (Kind::Data, layout.data(id, at));
    let record = |at| (Kind::Record, layout.record(id, at));
    [
        data(DataAt::Uploads),
        data(DataAt::Completed),
        data(DataAt::Claimed(claim(1))),
        data(DataAt::Claimed(claim(2))),
        data(DataAt::Deferred(1)),
        data(DataAt::Deferred(shared::layout::NOT_BEFORE_MAX)),
        data(DataAt::Held),
        data(DataAt::Failed),
        record(RecordAt::Uploads),
        record(RecordAt::Completed),
        record(RecordAt::Failed),
        record(RecordAt::Receipts),
        (Kind::State, layout.state(id, claim(1))),
        (Kind::State, layout.state(id, claim(2))),
        (Kind::Reason, layout.reason(id)),
        (Kind::Temp, layout.temp(Dir::Claimed, id, claim(3))),
        (Kind::Event, layout.event(id)),
    ]
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

/// One thing that goes wrong with the files of an upload. Numbers choose among its [`names`].
#[derive(Debug, Clone)]
enum Harm {
    Remove(usize),
    /// Cut to a part of its length.
    Truncate(usize, usize),
    /// Longer than it was.
    Append(usize),
    /// Other bytes, or none that were there before.
    Write(usize, Vec<u8>),
    /// Another upload's record, of another state, or of one that has ended.
    Tell(usize, Place, u64),
    Move(usize, usize),
    Copy(usize, usize),
    Link(usize, usize),
}

fn harms() -> impl Strategy<Value = Harm> {
    let name = 0..NAMES;
    let garbage = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..700),
        Just(b"{}".to_vec()),
        Just(b"other".to_vec()),
        Just(vec![0; 600]),
    ];
    prop_oneof![
        name.clone().prop_map(Harm::Remove),
        (name.clone(), 0..2000usize).prop_map(|(n, length)| Harm::Truncate(n, length)),
        name.clone().prop_map(Harm::Append),
        (name.clone(), garbage).prop_map(|(n, bytes)| Harm::Write(n, bytes)),
        (
            name.clone(),
            proptest::sample::select(&Place::ALL[..]),
            0..7u64
        )
            .prop_map(|(n, place, offset)| Harm::Tell(n, place, offset)),
        (name.clone(), name.clone()).prop_map(|(n, to)| Harm::Move(n, to)),
        (name.clone(), name.clone()).prop_map(|(n, to)| Harm::Copy(n, to)),
        (name.clone(), name).prop_map(|(n, to)| Harm::Link(n, to)),
    ]
}

/// What happens to something happens to one that is there. What cannot be done is not done.
fn harm(case: &Case, id: UploadId, harm: &Harm) {
    let names = names(case, id);
    let there: Vec<_> = names.iter().filter(|(_, path)| path.is_file()).collect();
    if there.is_empty() {
        return;
    }
    let one = |n: &usize| there[n % there.len()];
    // Of the same kind, so that data stays data.
    let other = |n: &usize, to: &usize| {
        let (kind, _) = one(n);
        let alike: Vec<_> = names.iter().filter(|(other, _)| other == kind).collect();
        alike[to % alike.len()].1.clone()
    };
    match harm {
        // Data that is gone is not fsck's to bring back.
        Harm::Remove(n) if one(n).0 == Kind::Data => {}
        Harm::Remove(n) => std::fs::remove_file(&one(n).1).unwrap(),
        Harm::Truncate(n, length) => {
            let bytes = std::fs::read(&one(n).1).unwrap();
            std::fs::write(&one(n).1, &bytes[..length % bytes.len().max(1)]).unwrap();
        }
        Harm::Append(n) => {
            let bytes = std::fs::read(&one(n).1).unwrap();
            std::fs::write(&one(n).1, [&bytes[..], b"more"].concat()).unwrap();
        }
        Harm::Write(n, bytes) => {
            // Not over data: what was there would be missed.
            let (kind, path) = &names[*n];
            if *kind != Kind::Data || !path.is_file() {
                std::fs::write(path, bytes).unwrap();
            }
        }
        Harm::Tell(n, place, offset) => tell_place(one(n), *place, *offset),
        Harm::Move(n, to) => {
            drop(shared::durable::rename_noreplace(&one(n).1, &other(n, to)));
        }
        Harm::Copy(n, to) => {
            if !other(n, to).is_file() {
                std::fs::copy(&one(n).1, other(n, to)).unwrap();
            }
        }
        Harm::Link(n, to) => drop(shared::durable::link(&one(n).1, &other(n, to))),
    }
}

/// Has the record say that the upload is in another place, and how much of it there is.
fn tell_place((kind, path): &(Kind, PathBuf), place: Place, offset: u64) {
    if *kind != Kind::Record {
        return;
    }
    let (file, mut record) = match RecordFile::open(path.clone()) {
        Ok(opened) => opened,
        Err(_) => return,
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

/// The content of data that waits to be handed over, as the hand-over will cut it: what lies behind
/// the length that its record tells is nobody's.
fn cut_to_length(case: &Case, id: UploadId) -> BTreeMap<Vec<u8>, Vec<Vec<u8>>> {
    let layout = case.spool.layout();
    let Ok(whole) = std::fs::read(layout.data(id, DataAt::Uploads)) else {
        return BTreeMap::new();
    };
    let received = [RecordAt::Uploads, RecordAt::Completed]
        .into_iter()
        .filter_map(|at| {
            let record = shared::record::read(&layout.record(id, at)).ok()?;
            record.length.filter(|_| record.is_received())
        });
    let cut = received
        .filter_map(|length| whole.get(..usize::try_from(length.0).ok()?))
        .map(<[u8]>::to_vec)
        .collect();
    BTreeMap::from([(whole, cut)])
}

/// Whether a record says that the upload has ended, so that everybody may remove its data.
fn has_ended(case: &Case, id: UploadId) -> bool {
    let ended = |at: &RecordAt| {
        let record = shared::record::read(&case.spool.layout().record(id, *at));
        record.is_ok_and(|record| record.place.is_ending())
    };
    RecordAt::ALL.iter().any(ended)
}

/// Delivers what can be claimed, as consumers do: fresh, deferred, and what crashes left. Whether
/// all of it could be.
fn drain(case: &Case) -> Result<(), String> {
    let now = UnixTime::now();
    let rules = shared::orphan::Rules {
        lease: None,
        max_attempts: 10,
    };
    for dir in [Dir::Claimed, Dir::Completed, Dir::Deferred] {
        for entry in case.spool.entries(dir).unwrap() {
            match entry.unwrap() {
                Entry::Data(id, DataAt::Claimed(claim)) => {
                    return Err(format!("{id} is still claimed by {claim}: {rules:?}"));
                }
                Entry::Data(id, at) => match try_claim(&case.spool, id, at, now).unwrap() {
                    TryClaim::Claimed(claim) => {
                        let settled = claim.delivered(None, None, now).unwrap();
                        assert_eq!(settled, Settled::Done);
                    }
                    other => return Err(format!("{other:?}")),
                },
                _ => {}
            }
        }
    }
    Ok(())
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

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if std::env::var_os("TUSPOOL_LONG").is_some() { 5000 } else { 120 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]
    #[test]
    fn whatever_the_damage_it_is_told_and_a_repair_keeps_all_data_for_whoever_goes_on(
        life in proptest::sample::select(&LIVES[..]),
        harms in proptest::collection::vec(harms(), 1..6),
    ) {
        let case = Case::new();
        let id = case.live(life);
        for one in &harms {
            harm(&case, id, one);
        }
        let (before, listed, ended) = (contents(&case), listing(&case), has_ended(&case, id));
        let cut = cut_to_length(&case, id);
        let (sound, told) = case.fsck(false);
        prop_assert_eq!(&listed, &listing(&case), "looking changed something");
        prop_assert_eq!(sound, told.is_empty(), "{}", told);
        let (repaired, told) = case.fsck(true);
        prop_assert!(repaired, "{told}");
        if sound {
            prop_assert_eq!(&listed, &listing(&case), "a sound spool was changed");
        }
        let (sound, told) = case.fsck(false);
        prop_assert!(sound, "{told}");
        let after = contents(&case);
        let is_kept = |content: &Vec<u8>| {
            let mut forms = std::iter::once(content).chain(cut.get(content).into_iter().flatten());
            forms.any(|form| after.contains(form))
        };
        prop_assert!(ended || before.iter().all(is_kept), "{before:?} {after:?}");
        prop_assert_eq!(drain(&case), Ok(()));
        let (sound, told) = case.fsck(false);
        prop_assert!(sound, "after a drain: {told}");
    }
}

#[test]
fn what_cannot_be_read_or_is_of_a_later_version_is_not_touched() {
    type Make = fn(&std::path::Path);
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
