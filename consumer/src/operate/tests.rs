use std::os::unix::fs::FileExt;

use shared::claim::{TryClaim, try_claim};
use shared::layout::{DataAt, RecordAt};
use shared::receive::NewData;
use shared::record::Record;
use shared::size::{Length, Offset};
use shared::spool::Options;

use super::*;

mod fsck;

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
            lease: Period::from_secs(60),
            json: false,
        };
        let mut out = Vec::new();
        let sound = super::fsck::fsck(&self.spool, &args, UnixTime::now(), &mut out).unwrap();
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
fn what_had_ended_before_is_not_said_to_be_removed_now() {
    let case = Case::new();
    let (queued, delivered) = (case.upload(), case.upload());
    match try_claim(&case.spool, delivered, DataAt::Completed, UnixTime::now()).unwrap() {
        TryClaim::Claimed(claim) => claim.delivered(None, None, UnixTime::now()).unwrap(),
        other => panic!("{other:?}"),
    };
    let remove = |id| {
        let args = Remove {
            spool: case.spool_args(),
            ids: vec![id],
            failed: false,
            older: None,
            json: false,
        };
        let mut out = Vec::new();
        let done = act::remove(&case.spool, &args, UnixTime::now(), &mut out).unwrap();
        (done, String::from_utf8(out).unwrap())
    };
    for (id, done, what) in [
        (delivered, false, "had been delivered before"),
        (queued, true, "removed"),
        (queued, true, "had ended before"),
    ] {
        let (was_done, told) = remove(id);
        assert_eq!(was_done, done, "{told}");
        assert!(told.contains(what), "{told}");
    }
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
