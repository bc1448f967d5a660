use std::process::Command;
use std::time::{Duration, Instant};

use super::*;

const EXPECT: Expectations = Expectations {
    file_mode: 0o600,
    allow_overlay: true,
};

/// Says that a test cannot run here. In CI, where everything runs as root, it has to.
fn skip(why: &str) {
    assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{why}");
    eprintln!("SKIPPED: {why} (not root?)");
}

struct TestSpool {
    layout: Layout,
    mounts: Vec<PathBuf>,
    dir: tempfile::TempDir,
}

impl TestSpool {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path().join("spool"));
        let spool = Self {
            layout,
            mounts: Vec::new(),
            dir,
        };
        spool.make_dirs();
        spool
    }

    fn make_dirs(&self) {
        for dir in Dir::ALL {
            std::fs::create_dir_all(self.layout.dir(dir)).unwrap();
        }
    }

    /// Mounts something on `at`; false, and loudly, where that is not allowed.
    fn mount(&mut self, args: &[&str], at: &Path) -> bool {
        std::fs::create_dir_all(at).unwrap();
        let mounted = Command::new("mount").args(args).arg(at).output();
        let mounted = mounted.is_ok_and(|output| output.status.success());
        if mounted {
            self.mounts.push(at.to_owned());
        } else {
            skip(&format!("cannot mount {args:?}"));
        }
        mounted
    }

    fn probe(&self) -> Result<Probe, ProbeError> {
        probe(&self.layout, EXPECT)
    }

    fn files(&self) -> Vec<PathBuf> {
        let entries = Dir::ALL.map(|dir| std::fs::read_dir(self.layout.dir(dir)).unwrap());
        entries
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().path())
            .collect()
    }
}

impl Drop for TestSpool {
    fn drop(&mut self) {
        for at in self.mounts.iter().rev() {
            // Busy while a process that another test has just forked still has our descriptors.
            let deadline = Instant::now() + Duration::from_secs(60);
            while !Command::new("umount").arg(at).status().unwrap().success() {
                assert!(Instant::now() < deadline, "{at:?} is still mounted");
                std::thread::yield_now();
            }
        }
    }
}

#[test]
fn a_plain_directory_can_be_a_spool_and_is_left_as_it_was() {
    let spool = TestSpool::new();
    let probe = spool.probe().unwrap();
    assert!(probe.directory_sync && !probe.full, "{probe}");
    assert_eq!(spool.files(), Vec::<PathBuf>::new());
    assert!(probe.to_string().starts_with(&probe.filesystem.name));
}

#[test]
fn a_missing_directory_is_told_by_name() {
    let spool = TestSpool::new();
    std::fs::remove_dir(spool.layout.dir(Dir::Held)).unwrap();
    let error = spool.probe().unwrap_err().to_string();
    assert!(error.contains("/held"), "{error}");
}

#[test]
fn two_bind_mounts_of_one_filesystem_are_no_spool() {
    let mut spool = TestSpool::new();
    let (other, completed) = (
        spool.dir.path().join("other"),
        spool.layout.dir(Dir::Completed),
    );
    std::fs::create_dir(&other).unwrap();
    if !spool.mount(&["--bind", other.to_str().unwrap()], &completed) {
        return;
    }
    let uploads = spool.layout.dir(Dir::Uploads);
    assert_eq!(
        uploads.metadata().unwrap().dev(),
        completed.metadata().unwrap().dev()
    );
    let error = spool.probe().unwrap_err();
    assert!(
        matches!(&error, ProbeError::TwoMounts { to, .. } if *to == completed),
        "{error}"
    );
    assert_eq!(spool.files(), Vec::<PathBuf>::new());
}

#[test]
fn a_spool_on_two_filesystems_is_refused() {
    let mut spool = TestSpool::new();
    let claimed = spool.layout.dir(Dir::Claimed);
    if spool.mount(&["-t", "tmpfs", "tmpfs"], &claimed) {
        let error = spool.probe().unwrap_err();
        assert!(matches!(error, ProbeError::TwoMounts { .. }), "{error}");
    }
}

#[test]
fn a_whole_spool_on_a_bind_mount_is_fine() {
    let mut spool = TestSpool::new();
    let (other, root) = (
        spool.dir.path().join("other"),
        spool.layout.root().to_owned(),
    );
    std::fs::create_dir(&other).unwrap();
    if spool.mount(&["--bind", other.to_str().unwrap()], &root) {
        spool.make_dirs();
        spool.probe().unwrap();
    }
}

#[test]
fn tmpfs_is_accepted_with_a_warning_and_without_reserving_its_memory() {
    let mut spool = TestSpool::new();
    let root = spool.layout.root().to_owned();
    if spool.mount(&["-t", "tmpfs", "tmpfs"], &root) {
        spool.make_dirs();
        let probe = spool.probe().unwrap();
        assert_eq!(probe.filesystem.name, "tmpfs");
        assert!(!probe.fallocate && !probe.is_network());
        assert_eq!(probe.warnings().len(), 1);
    }
}

#[test]
fn an_overlay_is_refused_unless_it_is_asked_for() {
    let mut spool = TestSpool::new();
    // The layers lie on a tmpfs: an overlay cannot be the upper layer of another one.
    let (layers, root) = (
        spool.dir.path().join("layers"),
        spool.layout.root().to_owned(),
    );
    if !spool.mount(&["-t", "tmpfs", "tmpfs"], &layers) {
        return;
    }
    for dir in ["lower", "upper", "work"] {
        std::fs::create_dir(layers.join(dir)).unwrap();
    }
    let layers = layers.display();
    let options = format!("lowerdir={layers}/lower,upperdir={layers}/upper,workdir={layers}/work");
    if !spool.mount(&["-t", "overlay", "overlay", "-o", &options], &root) {
        return;
    }
    spool.make_dirs();
    let refused = Expectations {
        allow_overlay: false,
        ..EXPECT
    };
    let error = probe(&spool.layout, refused).unwrap_err().to_string();
    assert!(
        error.contains("overlay") && error.contains("volume"),
        "{error}"
    );
    assert!(!spool.probe().unwrap().is_network());
}

#[test]
fn a_full_disk_does_not_keep_a_program_from_starting() {
    let mut spool = TestSpool::new();
    let root = spool.layout.root().to_owned();
    // Ten inodes: the root and the directories.
    let inodes = format!("nr_inodes={}", Dir::ALL.len() + 1);
    if spool.mount(&["-t", "tmpfs", "tmpfs", "-o", &inodes], &root) {
        spool.make_dirs();
        let probe = spool.probe().unwrap();
        assert!(probe.full);
        assert!(
            probe
                .warnings()
                .iter()
                .any(|line| line.contains("no space"))
        );
    }
}

#[test]
fn a_read_only_spool_is_refused_by_name() {
    let mut spool = TestSpool::new();
    let root = spool.layout.root().to_owned();
    if spool.mount(&["-t", "tmpfs", "tmpfs"], &root) {
        spool.make_dirs();
        let status = Command::new("mount")
            .args(["-o", "remount,ro"])
            .arg(&root)
            .status();
        assert!(status.unwrap().success());
        let error = spool.probe().unwrap_err();
        assert!(
            matches!(&error, ProbeError::Disk(error) if !error.is_full()),
            "{error}"
        );
    }
}

#[test]
fn a_directory_of_another_user_needs_modes_for_the_group() {
    let spool = TestSpool::new();
    let completed = spool.layout.dir(Dir::Completed);
    let chown = nix::unistd::chown(&completed, Some(nix::unistd::Uid::from_raw(12345)), None);
    if chown.is_err() {
        return skip("cannot chown");
    }
    let error = spool.probe().unwrap_err();
    assert!(
        matches!(error, ProbeError::NotShared { theirs: 12345, .. }),
        "{error}"
    );
    let shared = Expectations {
        file_mode: 0o660,
        ..EXPECT
    };
    assert!(
        probe(&spool.layout, shared).is_err(),
        "the directory is not for the group"
    );
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o2770);
    std::fs::set_permissions(&completed, mode).unwrap();
    probe(&spool.layout, shared).unwrap();
}

#[test]
fn only_a_second_lock_that_is_refused_proves_exclusion() {
    let path = Path::new("/s/uploads/x");
    let error = |errno: Errno| Err(TryLockError::Error(errno.into()));
    let busy = || Err(TryLockError::WouldBlock);
    assert!(judge_locks(path, Ok(()), busy).is_ok());
    let both = judge_locks(path, Ok(()), || Ok(()));
    assert!(matches!(both, Err(ProbeError::LocksDoNotExclude { .. })));
    for errno in [
        Errno::ENOLCK,
        Errno::EOPNOTSUPP,
        Errno::ENOSYS,
        Errno::EINVAL,
    ] {
        let none = judge_locks(path, error(errno), busy).unwrap_err();
        assert!(matches!(&none, ProbeError::NoLocks { .. }));
        assert!(
            none.to_string()
                .starts_with("files in /s/uploads cannot be locked")
        );
    }
}

#[test]
fn every_refusal_is_one_line() {
    let path = PathBuf::from("/s");
    let refusals = [
        ProbeError::Unfit {
            path: path.clone(),
            name: "overlay".into(),
            reason: "no",
        },
        ProbeError::TwoMounts {
            from: path.clone(),
            to: path.clone(),
        },
        ProbeError::NotShared {
            path,
            theirs: 1,
            ours: 2,
        },
    ];
    for refusal in refusals {
        let line = refusal.to_string();
        assert!(!line.contains('\n') && !line.contains("  "), "{line:?}");
    }
}
