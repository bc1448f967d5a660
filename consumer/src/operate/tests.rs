use std::os::unix::fs::FileExt;

use shared::claim::{TryClaim, try_claim};
use shared::layout::{DataAt, RecordAt};
use shared::receive::NewData;
use shared::record::Record;
use shared::size::{Length, Offset};

use super::*;

struct Case {
    dir: tempfile::TempDir,
    spool: Arc<Spool>,
}

impl Case {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(&dir.path().join("spool"), Options::default()).unwrap();
        Self {
            dir,
            spool: Arc::new(spool),
        }
    }

    fn upload(&self) -> UploadId {
        let new = NewData::create(&self.spool).unwrap();
        let id = new.id();
        new.data().write_all_at(b"hello", 0).unwrap();
        let mut record = Record::new(Some(Length(5)), UnixTime::now());
        record.offset = Offset(5);
        record
            .rest
            .metadata
            .insert("filename".to_owned(), "a\nb".to_owned());
        new.into_completed(record, UnixTime::now()).unwrap();
        id
    }

    fn dead(&self, reason: &str) -> UploadId {
        let id = self.upload();
        match try_claim(&self.spool, id, DataAt::Completed, UnixTime::now()).unwrap() {
            TryClaim::Claimed(claim) => claim.dead(None, reason, UnixTime::now()).unwrap(),
            other => panic!("{other:?}"),
        };
        id
    }

    fn state(&self, id: UploadId) -> State {
        shared::lookup::find(&self.spool, id)
            .unwrap()
            .unwrap()
            .state()
    }

    fn spool_args(&self) -> SpoolArgs {
        use clap::Parser;
        #[derive(Parser)]
        struct Only {
            #[command(flatten)]
            spool: SpoolArgs,
        }
        let path = self.dir.path().join("spool");
        Only::parse_from(["x", "--spool", path.to_str().unwrap()]).spool
    }

    fn retry(&self, ids: Vec<UploadId>, reason: Option<&str>) -> String {
        let args = Retry {
            spool: self.spool_args(),
            all: ids.is_empty(),
            ids,
            reason: reason.map(str::to_owned),
            json: false,
        };
        let mut out = Vec::new();
        act::retry(&self.spool, &args, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn fsck(&self, repair: bool) -> (bool, String) {
        let args = Fsck {
            spool: self.spool_args(),
            repair,
            json: false,
        };
        let mut out = Vec::new();
        let sound = fsck::fsck(&self.spool, &args, UnixTime::now(), &mut out).unwrap();
        (sound, String::from_utf8(out).unwrap())
    }
}

#[test]
fn listings_show_each_upload_on_one_line_and_by_what_was_asked() {
    let case = Case::new();
    let (queued, dead) = (case.upload(), case.dead("no"));
    let which = |state: Vec<State>| Which {
        state,
        older: None,
        newer: None,
        larger: None,
        only: Vec::new(),
    };
    let list = |state: Vec<State>, json: bool| {
        let args = Ls {
            spool: case.spool_args(),
            which: which(state),
            json,
        };
        let mut out = Vec::new();
        survey::list(&case.spool, &args, UnixTime::now(), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    };
    let all = list(vec![], false);
    assert_eq!(all.lines().count(), 3, "{all}");
    assert!(all.contains(&queued.to_string()) && all.contains("a_b"));
    let failed = list(vec![State::Failed], true);
    let line: serde_json::Value = serde_json::from_str(failed.trim()).unwrap();
    assert_eq!(
        (&line["id"], &line["state"]),
        (&dead.to_string().into(), &"failed".into())
    );
    assert_eq!(line["metadata"]["filename"], "a\nb");
}

#[test]
fn dead_letters_are_retried_one_by_one_or_by_reason() {
    let case = Case::new();
    let (one, other) = (case.dead("disk full"), case.dead("no such album"));
    case.retry(vec![], Some("disk"));
    assert_eq!(
        (case.state(one), case.state(other)),
        (State::Queued, State::Failed)
    );
    assert!(case.retry(vec![other], None).contains("in the queue again"));
    assert_eq!(case.state(other), State::Queued);
    assert!(case.retry(vec![other], None).contains("not in a state"));
}

#[test]
fn a_claim_can_be_taken_away_by_force_and_its_consumer_notices() {
    let case = Case::new();
    let id = case.upload();
    let TryClaim::Claimed(claim) =
        try_claim(&case.spool, id, DataAt::Completed, UnixTime::now()).unwrap()
    else {
        panic!("not claimed");
    };
    let release = |force: bool| {
        let args = Release {
            spool: case.spool_args(),
            ids: vec![id],
            force,
            json: false,
        };
        act::release(&case.spool, &args, UnixTime::now(), &mut Vec::new()).unwrap()
    };
    assert!(!release(false));
    assert!(release(true));
    assert_eq!(case.state(id), State::Queued);
    let settled = claim.delivered(None, None, UnixTime::now()).unwrap();
    assert_eq!(settled, shared::settle::Settled::Lost);
    let data = case.spool.layout().data(id, DataAt::Completed);
    assert_eq!(std::fs::read(data).unwrap(), b"hello");
}

#[test]
fn the_tool_is_told_from_the_consumer_by_the_first_word() {
    use clap::CommandFactory;
    Tool::command().debug_assert();
    for (word, tool) in [
        (Some("ls"), true),
        (Some("help"), true),
        (Some("--spool"), false),
        (None, false),
    ] {
        assert_eq!(Tool::is_asked_for(word.map(OsStr::new)), tool);
    }
}

#[test]
fn a_sound_spool_is_sound() {
    let case = Case::new();
    case.upload();
    case.dead("no");
    assert_eq!(case.fsck(false), (true, String::new()));
}

#[test]
fn damage_is_reported_and_repaired_and_no_data_is_lost() {
    type Damage = fn(&Case, UploadId);
    let layout = |case: &Case| case.spool.layout().clone();
    let damages: [(&str, Damage); 6] = [
        ("without a record", |case, id| {
            let record = case.spool.layout().record(id, RecordAt::Completed);
            std::fs::remove_file(record).unwrap();
        }),
        ("unreadable record", |case, id| {
            let record = case.spool.layout().record(id, RecordAt::Completed);
            std::fs::write(record, "{").unwrap();
        }),
        ("does not fit", |case, id| {
            let data = case.spool.layout().data(id, DataAt::Completed);
            std::fs::write(data, "hell").unwrap();
        }),
        ("half done", |case, id| {
            let (from, to) = (
                case.spool.layout().data(id, DataAt::Completed),
                case.spool.layout().data(id, DataAt::Uploads),
            );
            shared::durable::rename(&from, &to).unwrap();
        }),
        ("claimed by a consumer that is gone", |case, id| {
            let claim = shared::id::ClaimId::generate();
            let (from, to) = (
                case.spool.layout().data(id, DataAt::Completed),
                case.spool.layout().data(id, DataAt::Claimed(claim)),
            );
            shared::durable::rename(&from, &to).unwrap();
        }),
        ("state of a claim that is over", |case, id| {
            let claim = shared::id::ClaimId::generate();
            std::fs::write(case.spool.layout().state(id, claim), "{}").unwrap();
        }),
    ];
    for (expected, damage) in damages {
        let case = Case::new();
        let id = case.upload();
        damage(&case, id);
        let (sound, told) = case.fsck(false);
        assert!(!sound && told.contains(expected), "{expected}: {told}");
        let (repaired, told) = case.fsck(true);
        assert!(repaired, "{expected}: {told}");
        assert_eq!(case.fsck(false), (true, String::new()), "{expected}");
        let places = [DataAt::Completed, DataAt::Failed];
        let kept = places.iter().filter(|at| {
            let data = std::fs::read(layout(&case).data(id, **at)).unwrap_or_default();
            data.starts_with(b"hell")
        });
        assert_eq!(kept.count(), 1, "{expected}");
    }
}

/// One thing that goes wrong with the files of an upload.
#[derive(Debug, Clone)]
enum Harm {
    RemoveRecord(usize),
    SpoilRecord(usize, usize),
    CopyRecord(usize),
    MoveData(usize),
    LinkData(usize),
    OtherData(usize),
    State,
    Reason,
}

const PLACES: [DataAt; 5] = [
    DataAt::Uploads,
    DataAt::Completed,
    DataAt::Deferred(1),
    DataAt::Held,
    DataAt::Failed,
];

fn harm(case: &Case, id: UploadId, harm: &Harm) {
    let layout = case.spool.layout();
    let record = |n: &usize| layout.record(id, RecordAt::ALL[n % RecordAt::ALL.len()]);
    let data = || {
        PLACES
            .iter()
            .map(|at| layout.data(id, *at))
            .find(|path| path.is_file())
    };
    let to = |n: &usize| layout.data(id, PLACES[n % PLACES.len()]);
    // What cannot be done (nothing is there) is not done.
    match harm {
        Harm::RemoveRecord(n) => drop(std::fs::remove_file(record(n))),
        Harm::SpoilRecord(n, length) => {
            if let Ok(bytes) = std::fs::read(record(n)) {
                std::fs::write(record(n), &bytes[..length % bytes.len().max(1)]).unwrap();
            }
        }
        Harm::CopyRecord(n) => {
            let all = RecordAt::ALL.map(|at| layout.record(id, at));
            let from = all.into_iter().find(|path| path.is_file());
            if let Some(from) = from.filter(|from| *from != record(n)) {
                std::fs::copy(&from, record(n)).unwrap();
            }
        }
        Harm::MoveData(n) => {
            drop(data().map(|from| shared::durable::rename_noreplace(&from, &to(n))))
        }
        Harm::LinkData(n) => drop(data().map(|from| shared::durable::link(&from, &to(n)))),
        Harm::OtherData(n) => {
            if !to(n).is_file() {
                std::fs::write(to(n), "other").unwrap();
            }
        }
        Harm::State => {
            std::fs::write(layout.state(id, shared::id::ClaimId::generate()), "{").unwrap();
        }
        Harm::Reason => std::fs::write(layout.reason(id), "{}").unwrap(),
    }
}

/// The content of every data file in the spool, without repetition.
fn contents(case: &Case) -> std::collections::BTreeSet<Vec<u8>> {
    use shared::layout::{Dir, Entry};
    let entries = Dir::ALL
        .iter()
        .flat_map(|dir| case.spool.entries(*dir).unwrap());
    let data = entries.filter_map(|entry| match entry.unwrap() {
        Entry::Data(id, at) => Some(std::fs::read(case.spool.layout().data(id, at)).unwrap()),
        _ => None,
    });
    data.collect()
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig {
        cases: 40,
        failure_persistence: None,
        ..Default::default()
    })]
    #[test]
    fn whatever_the_damage_a_repair_keeps_all_data_and_leaves_a_sound_spool(
        harms in proptest::collection::vec(harms(), 1..5)
    ) {
        let case = Case::new();
        let id = case.upload();
        for one in &harms {
            harm(&case, id, one);
        }
        let before = contents(&case);
        case.fsck(true);
        let (sound, told) = case.fsck(false);
        proptest::prop_assert!(sound, "{harms:?}: {told}");
        let after = contents(&case);
        proptest::prop_assert!(before.is_subset(&after), "{harms:?}: {before:?} {after:?}");
    }
}

fn harms() -> impl proptest::strategy::Strategy<Value = Harm> {
    use proptest::prelude::*;
    prop_oneof![
        (0..4usize).prop_map(Harm::RemoveRecord),
        (0..4usize, 0..2000usize).prop_map(|(n, length)| Harm::SpoilRecord(n, length)),
        (0..4usize).prop_map(Harm::CopyRecord),
        (0..5usize).prop_map(Harm::MoveData),
        (0..5usize).prop_map(Harm::LinkData),
        (0..5usize).prop_map(Harm::OtherData),
        Just(Harm::State),
        Just(Harm::Reason),
    ]
}
