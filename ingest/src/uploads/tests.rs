use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;

use nix::libc::O_NONBLOCK;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use shared::probe::{self, Expectations};
use shared::spool::Options;

use super::*;
use crate::events::teller::Teller;

fn uploads(dir: &tempfile::TempDir) -> Uploads {
    let spool = Arc::new(Spool::open(&dir.path().join("s"), Options::default()).unwrap());
    let expect = Expectations {
        file_mode: 0o600,
        allow_overlay: true,
    };
    let mut probe = probe::probe(spool.layout(), expect).unwrap();
    // What is promised is counted only where no space can be set aside.
    probe.fallocate = false;
    let nobody = Teller {
        command: None,
        endpoint: None,
        kinds: Vec::new(),
        timeout: Duration::ZERO,
    };
    let events = Events::new(Arc::clone(&spool), nobody);
    let policy = Policy {
        free_bytes_min: 0,
        digest: None,
        direct_io: false,
    };
    Uploads::new(spool, &policy, &probe, events).unwrap()
}

#[test]
fn a_sweep_leaves_alone_what_is_just_being_created() {
    let dir = tempfile::tempdir().unwrap();
    let uploads = uploads(&dir);
    let data = uploads
        .spool
        .layout()
        .data(UploadId::generate(), DataAt::Uploads);
    // In place of a data file, because a fifo tells its reader that somebody has opened it.
    mkfifo(&data, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    let reader = File::options()
        .read(true)
        .custom_flags(O_NONBLOCK)
        .open(&data)
        .unwrap();
    let was_opened = || {
        let mut fifo = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
        poll(&mut fifo, PollTimeout::ZERO).unwrap() != 0
    };
    uploads.sweep(|| true).unwrap();
    assert!(!was_opened());
    // The proof of the proof.
    drop(File::options().read(true).write(true).open(&data).unwrap());
    assert!(was_opened());
}

#[tokio::test]
async fn a_refused_termination_leaves_an_upload_the_space_that_it_was_promised() {
    let dir = tempfile::tempdir().unwrap();
    let uploads = uploads(&dir);
    let record = Record::new(Some(Length(10)), UnixTime::now());
    let receiving = NewData::create(&uploads.spool)
        .unwrap()
        .into_receiving(record)
        .unwrap();
    let id = receiving.id();
    uploads.space.promise(id, u64::MAX / 2);
    assert_eq!(uploads.terminate(id).await.unwrap(), End::Busy);
    assert!(uploads.admit(1).is_err(), "its bytes are still to come");
    drop(receiving);
    assert_eq!(uploads.terminate(id).await.unwrap(), End::Ended);
    assert!(uploads.admit(1).is_ok());
}

#[test]
fn a_sweep_takes_back_promises_to_uploads_that_are_gone_and_none_that_was_made_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let uploads = uploads(&dir);
    let record = Record::new(Some(Length(10)), UnixTime::now());
    let found = NewData::create(&uploads.spool).unwrap();
    let _found = found.into_receiving(record).unwrap();
    let all = u64::MAX / 2;
    uploads.space.promise(UploadId::generate(), all);
    assert!(uploads.admit(1).is_err());
    assert!(uploads.sweep(|| true).unwrap());
    assert!(uploads.admit(1).is_ok());
    let meanwhile = || {
        uploads.space.promise(UploadId::generate(), all);
        true
    };
    assert!(uploads.sweep(meanwhile).unwrap());
    assert!(uploads.admit(1).is_err(), "its data came after the look");
}

#[tokio::test]
async fn bytes_that_are_taken_back_are_promised_again() {
    /// More than any disk has.
    const FAR: u64 = 1 << 60;
    let dir = tempfile::tempdir().unwrap();
    let uploads = uploads(&dir);
    let length = Length(FAR + 1);
    let mut record = Record::new(Some(length), UnixTime::now());
    record.offset = Offset(FAR);
    let new = NewData::create(&uploads.spool).unwrap();
    let receiving = Box::new(new.into_receiving(record).unwrap());
    let id = receiving.id();
    let held = Held {
        ledger: Arc::new(Ledger::of_receiving(&uploads.spool, receiving)),
        seat: Arc::new(uploads.writers.take_seat(id).await.unwrap()),
        promise: uploads
            .space
            .promise_to_writer(id, Offset(FAR), Some(length)),
        is_new: false,
    };
    uploads.space.promise(id, 1);
    let mut append = Append::new(held, length.0, true);
    assert!(uploads.admit(1).is_ok());
    append.take_back(Offset(0)).unwrap();
    assert!(uploads.admit(1).is_err());
}
