//! A full disk is drained by those who take away from it: consumers keep space in hand for that.

use tests::hook::Hook;
use tests::loop_fs::{self, Kind, LoopFs};
use tests::needs::{self, sized};
use tests::payload;
use tests::pipeline::Pipeline;
use tests::programs::{Program, scratch_dir};
use tests::wait::{wait_for, wait_until};

use super::{Ballast, MIB};

const UPLOADS: usize = 6;

/// A spool on a disk that is full to the last block, on which a consumer has run before.
struct Full {
    pipeline: Pipeline,
    fs: LoopFs,
    _dir: tempfile::TempDir,
}

impl Full {
    fn new(kind: Kind) -> Self {
        let dir = tempfile::tempdir_in(scratch_dir()).unwrap();
        let bytes = if kind == Kind::Ext4 { 24 } else { 320 } * MIB;
        let fs = LoopFs::make(kind, dir.path(), "fs", bytes);
        let pipeline = Pipeline::with_spool(&fs.mount_point().join("spool"));
        let drain = ["--drain", "--hook", "/bin/true"];
        pipeline.run(Program::Consumer, &drain).expect_code(0);
        Self {
            pipeline,
            fs,
            _dir: dir,
        }
    }

    /// Uploads, and then fills the disk.
    fn fill(&self) {
        let ingest = self.pipeline.ingest(&["--min-free", "0"]);
        for n in 0..UPLOADS {
            let body = payload::bytes(n as u64, 100_000);
            let upload = ingest
                .tus()
                .create_with(&body, &[("filename", &n.to_string())]);
            upload.head().expect(200, []);
        }
        for name in ["ballast", "rest"] {
            let path = self.fs.mount_point().join(name);
            if std::fs::File::create(&path).is_ok() {
                std::mem::forget(Ballast::fill(&path, 0));
            }
        }
    }
}

/// On ext4, and at full size on the other filesystems too.
fn on_full_disks(check: impl Fn(Kind, &Pipeline)) {
    if !needs::met(&loop_fs::NEEDS) {
        return;
    }
    for kind in sized(&Kind::ALL[..1], &Kind::ALL[..]) {
        let full = Full::new(*kind);
        full.fill();
        check(*kind, &full.pipeline);
    }
}

#[test]
fn a_full_disk_is_drained_into_another_one() {
    on_full_disks(|kind, pipeline| {
        let out = pipeline.out();
        let _consumer = pipeline.consumer(&["--move-to", &out.to_string_lossy()]);
        wait_until("an empty spool", || {
            pipeline.spool().is_settled().then_some(())
        });
        for n in 0..UPLOADS {
            let body = payload::bytes(n as u64, 100_000);
            let delivered = std::fs::read(out.join(n.to_string())).unwrap();
            assert!(delivered == body, "{kind:?}: {n}");
        }
        assert_eq!(std::fs::read_dir(&out).unwrap().count(), UPLOADS);
    });
}

/// The first one fails, and the last one is rejected: both take space.
#[test]
fn commands_run_on_a_full_disk_and_each_attempt_counts() {
    on_full_disks(|kind, pipeline| {
        let judge = "case $NAME.$ATTEMPT in 0.1) exit 1 ;; 5.*) exit 65 ;; esac";
        let hook = Hook::new(pipeline, "judge", judge);
        let args = ["--hook", &hook.command(), "--backoff-base", "100ms"];
        let _consumer = pipeline.consumer(&args);
        wait_for("the end of all", &(1, UPLOADS - 1), || {
            let failed = pipeline.spool().data_in("failed").len();
            (failed, pipeline.spool().names("receipts").len())
        });
        wait_until("idleness", || pipeline.spool().is_idle().then_some(()));
        let mut attempts: Vec<_> = hook.runs().iter().map(|run| run.attempt).collect();
        attempts.sort_unstable();
        assert_eq!(attempts, [1, 1, 1, 1, 1, 1, 2], "{kind:?}");
        let rejected = &pipeline.spool().data_in("failed")[0];
        let reason = format!("{rejected}.reason.json");
        let reason = pipeline.spool().json("failed", &reason);
        assert_eq!(reason["attempts_begun"], 1, "{reason}");
    });
}
