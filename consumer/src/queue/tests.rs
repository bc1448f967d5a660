use std::sync::mpsc;

use shared::layout::DataAt;
use shared::receive::NewData;
use shared::record::Record;
use shared::size::{Length, Offset};
use shared::spool::Options;

use super::*;
use crate::config::Only;
use crate::retry::Backoff;

const LONG: Duration = Duration::from_secs(60);

fn upload(spool: &Arc<Spool>, owner: &str) -> UploadId {
    let new = NewData::create(spool).unwrap();
    let id = new.id();
    let mut record = Record::new(Some(Length(0)), UnixTime::now());
    record.offset = Offset(0);
    let metadata = &mut record.rest.metadata;
    metadata.insert("owner".to_owned(), owner.to_owned());
    new.into_completed(record, UnixTime::now()).unwrap();
    id
}

fn queue(spool: &Arc<Spool>, drains: bool) -> Arc<Queue> {
    let rules = Rules {
        drains,
        allowance: None,
        watches: true,
    };
    let gate = Gate::new(Only::new(vec!["owner=us".parse().unwrap()]), Vec::new());
    let backoff = Backoff {
        base: Duration::from_secs(5),
        cap: Duration::from_secs(900),
        attempts_max: 10,
    };
    let breaker = Breaker::new(0);
    let spool = Arc::clone(spool);
    let queue = Queue::new(spool, &rules, gate, breaker, |now| {
        Picker::new(backoff, LONG, now)
    });
    Arc::new(queue)
}

/// Takes on another thread, which is left alone if it never comes back.
fn take(queue: &Arc<Queue>) -> Option<Task> {
    let (taken, wait) = mpsc::channel();
    let queue = Arc::clone(queue);
    std::thread::spawn(move || taken.send(queue.take()));
    wait.recv_timeout(LONG).expect("it neither takes nor ends")
}

fn open() -> (tempfile::TempDir, Arc<Spool>) {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(&dir.path().join("spool"), Options::default()).unwrap();
    (dir, Arc::new(spool))
}

#[test]
fn many_uploads_of_others_are_listed_and_passed_over_but_not_over_and_over() {
    let (_dir, spool) = open();
    for _ in 0..2 * BACKLOG {
        upload(&spool, "them");
    }
    let queue = queue(&spool, true);
    assert!(take(&queue).is_none());
    let desk = queue.desk();
    assert!(desk.watch.as_ref().unwrap().is_armed());
}

#[test]
fn nobody_listens_while_a_backlog_is_worked_through() {
    let (_dir, spool) = open();
    for _ in 0..2 * BACKLOG {
        upload(&spool, "us");
    }
    let queue = queue(&spool, false);
    let is_armed = || queue.desk().watch.as_ref().unwrap().is_armed();
    queue.desk().listen();
    for n in 0..2 * BACKLOG {
        let task = take(&queue).unwrap();
        let id = task.candidate.id;
        std::fs::remove_file(spool.layout().data(id, DataAt::Completed)).unwrap();
        queue.claimed(&task);
        assert!(!is_armed(), "{n}");
        queue.finished(task, Sign::Works, None);
    }
    let new = upload(&spool, "us");
    assert_eq!(take(&queue).unwrap().candidate.id, new);
    assert!(is_armed());
}
