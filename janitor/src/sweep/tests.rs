//! Real spools in temporary directories; time passes by being given as an argument.

mod concatenation;
mod crashes;
mod damage;
mod second_look;
mod stock;

use std::os::unix::fs::FileExt;
use std::time::Duration;

use shared::claim::{self, Claim, TryClaim};
use shared::id::ClaimId;
use shared::layout::Layout;
use shared::receive::{NewData, Receiving};
use shared::record::{Attempt, Finish, Place, Record, read};
use shared::size::{Length, Offset};
use shared::spool::Options;

use super::*;
use crate::policy::{Expired, Zombies};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

pub(super) struct Fixture {
    pub(super) spool: Arc<Spool>,
    pub(super) rules: Rules,
    _dir: tempfile::TempDir,
}

impl Fixture {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            durability: durable::Durability::None,
            ..Options::default()
        };
        let spool = Spool::open(&dir.path().join("spool"), options).unwrap();
        let policy = Policy {
            stale_upload: DAY,
            completed: 7 * DAY,
            receipt: 30 * DAY,
            failed: None,
            grace: HOUR,
            zombies: Zombies::Finish,
            expired: Expired::Move,
        };
        let orphans = orphan::Rules {
            lease: None,
            max_attempts: 3,
        };
        let rules = Rules {
            policy,
            orphans,
            dry_run: false,
            deletions_max: u64::MAX,
        };
        Self {
            spool: Arc::new(spool),
            rules,
            _dir: dir,
        }
    }

    pub(super) fn layout(&self) -> &Layout {
        self.spool.layout()
    }

    /// Makes a pass as if it were so much later.
    pub(super) fn pass_after(&self, time: Duration) -> Report {
        let now = UnixTime::now().plus(time + Duration::from_secs(1));
        sweep(&self.spools(), &self.rules, now, &|| false)
    }

    pub(super) fn spools(&self) -> Spools {
        Spools {
            kept: Arc::clone(&self.spool),
            quick: Arc::clone(&self.spool),
        }
    }

    /// An upload of `hello` with `received` bytes of it, begun by a client that has gone.
    pub(super) fn receiving(&self, received: u64) -> UploadId {
        self.receiving_as(received, |_| ())
    }

    pub(super) fn receiving_as(&self, received: u64, change: impl Fn(&mut Record)) -> UploadId {
        let mut upload = self.begin(change);
        upload
            .data()
            .write_all_at(&b"hello"[..usize::try_from(received).unwrap()], 0)
            .unwrap();
        upload.advance(Offset(received), UnixTime::now()).unwrap();
        upload.id()
    }

    fn begin(&self, change: impl Fn(&mut Record)) -> Receiving {
        let mut record = Record::new(Some(Length(5)), UnixTime::now());
        change(&mut record);
        NewData::create(&self.spool)
            .unwrap()
            .into_receiving(record)
            .unwrap()
    }

    pub(super) fn completed(&self) -> UploadId {
        let new = NewData::create(&self.spool).unwrap();
        let id = new.id();
        new.data().write_all_at(b"hello", 0).unwrap();
        let mut record = Record::new(Some(Length(5)), UnixTime::now());
        record.offset = Offset(5);
        new.into_completed(record, UnixTime::now()).unwrap();
        id
    }

    pub(super) fn claim(&self, id: UploadId) -> Box<Claim> {
        match claim::try_claim(&self.spool, id, DataAt::Completed, UnixTime::now()).unwrap() {
            TryClaim::Claimed(claim) => claim,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn deferred(&self) -> UploadId {
        let id = self.completed();
        self.claim(id)
            .retry(Attempt::default(), 1_700_000_000)
            .unwrap();
        id
    }

    /// Where files of an upload are, without what differs between runs.
    pub(super) fn places(&self, id: UploadId) -> Vec<String> {
        let id = id.to_string();
        let mut places: Vec<_> = self
            .names()
            .into_iter()
            .filter(|name| name.contains(&id))
            .collect();
        for place in &mut places {
            *place = place.replace(&id, "ID");
            if let Some((head, tail)) = place.split_once('~') {
                let suffix = if tail.ends_with(".state") {
                    ".state"
                } else {
                    ""
                };
                *place = format!("{head}~{suffix}");
            }
        }
        places.sort();
        places
    }

    pub(super) fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        for dir in Dir::ALL {
            for entry in std::fs::read_dir(self.layout().dir(dir)).unwrap() {
                let name = entry.unwrap().file_name();
                names.push(format!("{}/{}", dir.name(), name.to_string_lossy()));
            }
        }
        names.sort();
        names
    }
}

#[test]
fn an_idle_upload_expires_and_leaves_a_receipt() {
    let spool = Fixture::new();
    let id = spool.receiving(3);
    spool.pass_after(DAY - HOUR);
    assert_eq!(spool.places(id), ["uploads/ID", "uploads/ID.meta"]);
    let report = spool.pass_after(DAY);
    assert_eq!(report.counted(Tally::StaleRemoved), 1);
    assert_eq!(spool.places(id), ["receipts/ID.meta"]);
    let receipt = read(&spool.layout().record(id, RecordAt::Receipts)).unwrap();
    assert_eq!(receipt.place, Place::Expired);
}

#[test]
fn who_holds_the_lock_is_left_in_peace() {
    let spool = Fixture::new();
    let upload = spool.begin(|_| ());
    let alone = NewData::create(&spool.spool).unwrap();
    let before = spool.names();
    let report = spool.pass_after(3 * DAY);
    assert_eq!(spool.names(), before);
    assert_eq!(report.counted(Tally::Busy), 2);
    assert!(report.is_complete());
    drop((upload, alone));
    assert_eq!(spool.pass_after(3 * DAY).counted(Tally::StaleRemoved), 1);
}

#[test]
fn a_zombie_is_finished_or_deleted_as_the_flag_says() {
    let mut spool = Fixture::new();
    let (id, young) = (spool.receiving(5), spool.receiving(5));
    spool.pass_after(HOUR / 2);
    assert_eq!(spool.places(id), ["uploads/ID", "uploads/ID.meta"]);
    assert_eq!(spool.pass_after(HOUR).counted(Tally::Finished), 2);
    assert_eq!(spool.places(id), ["completed/ID", "completed/ID.meta"]);
    assert_eq!(spool.places(young), ["completed/ID", "completed/ID.meta"]);

    spool.rules.policy.zombies = Zombies::Delete;
    let id = spool.receiving(5);
    assert_eq!(spool.pass_after(HOUR).counted(Tally::ZombiesRemoved), 1);
    assert_eq!(spool.places(id), ["receipts/ID.meta"]);
}

#[test]
fn what_its_client_has_not_called_complete_is_no_zombie() {
    let spool = Fixture::new();
    let id = spool.receiving_as(5, |record| record.rest.finish = Finish::AtFlag);
    spool.pass_after(DAY - HOUR);
    assert_eq!(spool.places(id), ["uploads/ID", "uploads/ID.meta"]);
    assert_eq!(spool.pass_after(DAY).counted(Tally::StaleRemoved), 1);
}

fn open(spool: &Fixture, id: UploadId) -> Receiving {
    match Receiving::open(&spool.spool, id, UnixTime::now()).unwrap() {
        shared::receive::Open::Held(upload) => *upload,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_nobody_claims_becomes_a_dead_letter_or_goes_as_the_flag_says() {
    let mut spool = Fixture::new();
    let (id, deferred) = (spool.completed(), spool.deferred());
    let waiting = spool.places(deferred);
    spool.pass_after(7 * DAY - HOUR);
    assert_eq!(spool.places(id), ["completed/ID", "completed/ID.meta"]);
    assert_eq!(spool.pass_after(7 * DAY).counted(Tally::ExpiredMoved), 1);
    assert_eq!(
        spool.places(id),
        ["failed/ID", "failed/ID.meta", "failed/ID.reason.json"]
    );
    let reason = std::fs::read_to_string(spool.layout().reason(id)).unwrap();
    assert!(reason.contains("nobody claimed it"), "{reason}");
    assert_eq!(spool.places(deferred), waiting, "has been claimed");

    spool.rules.policy.expired = Expired::Delete;
    let unwanted = spool.completed();
    assert_eq!(spool.pass_after(7 * DAY).counted(Tally::ExpiredRemoved), 1);
    assert_eq!(spool.places(unwanted), ["receipts/ID.meta"]);

    spool.rules.policy.failed = Some(9 * DAY);
    spool.pass_after(9 * DAY - HOUR);
    assert_eq!(spool.places(id).len(), 3);
    assert_eq!(spool.pass_after(9 * DAY).counted(Tally::FailedRemoved), 1);
    assert_eq!(spool.places(id), ["receipts/ID.meta"]);
}

#[test]
fn what_crashes_leave_goes_after_its_grace() {
    let spool = Fixture::new();
    let layout = spool.layout();
    let (alone, recordless) = (spool.receiving(3), spool.receiving(3));
    std::fs::remove_file(layout.data(alone, DataAt::Uploads)).unwrap();
    std::fs::remove_file(layout.record(recordless, RecordAt::Uploads)).unwrap();
    let gone = spool.completed();
    std::fs::remove_file(layout.data(gone, DataAt::Completed)).unwrap();
    let id = UploadId::generate();
    let leftovers = [
        layout.temp(Dir::Uploads, id, ClaimId::generate()),
        layout.temp(Dir::Claimed, id, ClaimId::generate()),
        layout.state(id, ClaimId::generate()),
        layout.reason(id),
    ];
    for path in leftovers {
        std::fs::write(path, "half").unwrap();
    }
    let before = spool.names();
    assert_eq!(
        spool.pass_after(HOUR / 2).counted(Tally::LeftoversRemoved),
        0
    );
    assert_eq!(spool.names(), before);
    assert_eq!(spool.pass_after(HOUR).counted(Tally::LeftoversRemoved), 6);
    // Somebody else's worker has taken it, and its client may ask: it is as good as a receipt.
    assert_eq!(spool.places(gone), ["completed/ID.meta"]);
    assert_eq!(spool.names().len(), 1);
    spool.pass_after(29 * DAY);
    assert_eq!(spool.names().len(), 1);
    assert_eq!(
        spool.pass_after(30 * DAY).counted(Tally::LeftoversRemoved),
        1
    );
    assert_eq!(spool.names(), Vec::<String>::new());
}

#[test]
fn the_result_of_a_command_that_still_runs_stays() {
    let spool = Fixture::new();
    let id = spool.completed();
    let claim = spool.claim(id);
    let result = spool.layout().temp(Dir::Claimed, id, ClaimId::generate());
    std::fs::write(&result, "result").unwrap();
    spool.pass_after(2 * HOUR);
    assert!(durable::stat(&result).unwrap().is_some());
    drop(claim);
    spool.pass_after(2 * HOUR);
    spool.pass_after(2 * HOUR);
    assert!(durable::stat(&result).unwrap().is_none());
}

#[test]
fn a_record_whose_data_is_claimed_deferred_or_held_stays() {
    let spool = Fixture::new();
    let (deferred, held, claimed) = (spool.deferred(), spool.completed(), spool.completed());
    spool.claim(held).hold().unwrap();
    let _claim = spool.claim(claimed);
    // The hint in the record is no more than that, but for a release, which begins with it.
    for id in [deferred, claimed] {
        let path = spool.layout().record(id, RecordAt::Completed);
        let (file, mut record) = record::RecordFile::open(path).unwrap();
        record.set_place(DataAt::Completed);
        file.write_head(&record).unwrap();
    }
    let before = spool.names();
    let report = spool.pass_after(300 * DAY);
    assert_eq!(spool.names(), before);
    assert_eq!(report.counted(Tally::Busy), 1);
}

#[test]
fn receipts_go_when_they_are_old_but_not_before_what_they_explain() {
    let spool = Fixture::new();
    let (old, needed) = (spool.completed(), spool.completed());
    for id in [old, needed] {
        spool
            .claim(id)
            .delivered(None, None, UnixTime::now())
            .unwrap();
    }
    let receipt = spool.layout().record(needed, RecordAt::Receipts);
    std::fs::copy(receipt, spool.layout().record(needed, RecordAt::Completed)).unwrap();
    spool.pass_after(29 * DAY);
    assert_eq!(spool.places(old), ["receipts/ID.meta"]);
    assert_eq!(
        spool.places(needed),
        ["receipts/ID.meta"],
        "the settling is finished"
    );
    assert_eq!(
        spool.pass_after(30 * DAY).counted(Tally::ReceiptsRemoved),
        2
    );
    assert_eq!(spool.names(), Vec::<String>::new());
}

#[test]
fn a_record_of_a_newer_version_and_its_data_are_not_touched() {
    let spool = Fixture::new();
    let (receiving, completed) = (spool.receiving(3), spool.completed());
    let records = [
        spool.layout().record(receiving, RecordAt::Uploads),
        spool.layout().record(completed, RecordAt::Completed),
    ];
    for path in records {
        let json = std::fs::read_to_string(&path).unwrap();
        let mut json: serde_json::Value = serde_json::from_str(&json).unwrap();
        json["format"] = 99.into();
        std::fs::write(&path, json.to_string()).unwrap();
    }
    let before = spool.names();
    spool.pass_after(300 * DAY);
    assert_eq!(spool.names(), before);
}

#[test]
fn foreign_names_are_counted_and_left_alone() {
    let spool = Fixture::new();
    let id = UploadId::generate();
    for dir in Dir::ALL {
        for name in [
            "README".to_owned(),
            format!("{id}.bak"),
            format!(".tmp-{id}"),
        ] {
            std::fs::write(spool.layout().dir(dir).join(name), "mine").unwrap();
        }
        std::fs::create_dir(spool.layout().dir(dir).join("lost+found")).unwrap();
    }
    // A directory or a link with the name of an upload is nobody's either.
    let dir = spool.layout().data(id, DataAt::Uploads);
    std::fs::create_dir(dir).unwrap();
    let link = spool.layout().data(UploadId::generate(), DataAt::Completed);
    std::os::unix::fs::symlink("/etc/hostname", link).unwrap();
    let before = spool.names();
    let report = spool.pass_after(300 * DAY);
    assert_eq!(spool.names(), before);
    assert!(
        report.counted(Tally::Foreign) >= 4 * 7 && report.is_complete(),
        "{report}"
    );
}

#[test]
fn a_dry_run_counts_the_same_and_does_nothing() {
    let mut spool = Fixture::new();
    for make in [Fixture::completed, Fixture::deferred] {
        make(&spool);
    }
    for received in [3, 5] {
        spool.receiving(received);
    }
    std::fs::write(spool.layout().reason(UploadId::generate()), "").unwrap();
    drop(spool.claim(spool.completed()));
    let before = spool.names();
    spool.rules.dry_run = true;
    let would = spool.pass_after(8 * DAY);
    assert_eq!(spool.names(), before);
    spool.rules.dry_run = false;
    let did = spool.pass_after(8 * DAY);
    for tally in [
        Tally::StaleRemoved,
        Tally::Requeued,
        Tally::LeftoversRemoved,
    ] {
        assert_eq!(
            would.counted(tally),
            did.counted(tally),
            "{tally:?}: {would}; {did}"
        );
        assert_eq!(did.counted(tally), 1, "{tally:?}: {did}");
    }
    assert_eq!(would.counted(Tally::Finished), 1);
}

#[test]
fn not_more_than_the_limit_is_deleted_and_the_rest_is_told() {
    let mut spool = Fixture::new();
    for _ in 0..5 {
        spool.receiving(3);
    }
    let finished = spool.receiving(5);
    spool.rules.deletions_max = 2;
    let report = spool.pass_after(2 * DAY);
    assert_eq!(report.counted(Tally::StaleRemoved), 2);
    assert_eq!(report.counted(Tally::OverLimit), 3);
    assert!(!report.is_complete());
    assert_eq!(
        spool.places(finished),
        ["completed/ID", "completed/ID.meta"],
        "no deletion"
    );
}

#[test]
fn a_pass_ends_between_two_entries_when_it_is_asked_to() {
    let spool = Fixture::new();
    for _ in 0..5 {
        spool.receiving(3);
    }
    let asked = std::cell::Cell::new(0);
    let stop = || asked.replace(asked.get() + 1) == 4;
    let now = UnixTime::now().plus(2 * DAY);
    let report = sweep(&spool.spools(), &spool.rules, now, &stop);
    assert!(report.interrupted);
    assert!(report.entries < 10, "{report}");
}

#[test]
fn two_passes_at_once_do_everything_once() {
    let spool = Fixture::new();
    let mut ids = Vec::new();
    for _ in 0..100 {
        ids.extend([spool.receiving(3), spool.receiving(5), spool.completed()]);
        drop(spool.claim(spool.completed()));
    }
    let reports = std::thread::scope(|scope| {
        let passes: Vec<_> = (0..2)
            .map(|_| scope.spawn(|| spool.pass_after(2 * DAY)))
            .collect();
        passes
            .into_iter()
            .map(|pass| pass.join().unwrap())
            .collect::<Vec<_>>()
    });
    let both = |tally| {
        reports
            .iter()
            .map(|report| report.counted(tally))
            .sum::<u64>()
    };
    assert_eq!(both(Tally::StaleRemoved), 100, "{reports:?}");
    assert_eq!(both(Tally::Finished), 100, "{reports:?}");
    assert_eq!(both(Tally::Requeued), 100, "{reports:?}");
    assert_eq!(both(Tally::Errors), 0, "{reports:?}");
    assert_eq!(both(Tally::TornMoved), 0, "{reports:?}");
    for chunk in ids.chunks(3) {
        assert_eq!(spool.places(chunk[0]), ["receipts/ID.meta"]);
        for id in &chunk[1..] {
            assert_eq!(spool.places(*id), ["completed/ID", "completed/ID.meta"]);
        }
    }
}
