//! Unmounting, in every mount namespace.
//!
//! Whoever makes a mount namespace (a container engine, an ingest that is to believe in another
//! boot) gets copies of all mounts there are at that moment, those of other tests among them. Such
//! a copy keeps a file system alive, with its device and its image, until the last process of that
//! namespace ends. What is unmounted here is propagated there only if the mount it lies on is
//! shared, which depends on the machine.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::wait::wait_until;

/// Unmounts `point` here, and its copies elsewhere.
///
/// # Panics
/// If it stays busy here: then somebody who should have ended has not.
pub fn unmount(point: &Path) {
    // Who only looked (a build that walks the tree, say) is gone in a moment.
    let what = format!("nobody to use {}", point.display());
    wait_until(&what, || umount(&[], point).then_some(()));
    drop_copies(point);
}

/// Takes `point` away at once, here and elsewhere, also from those who still use it: for what a
/// failing test may have left.
pub fn abandon(point: &Path) {
    umount(&["--lazy"], point);
    drop_copies(point);
}

fn umount(options: &[&str], point: &Path) -> bool {
    let mut command = Command::new("umount");
    succeeds(command.args(options).arg(point))
}

/// Processes that see a mount on `point` are in a namespace that has a copy of it. Best effort: a
/// process can end between the look and the deed, and its namespace with it.
fn drop_copies(point: &Path) {
    for pid in pids() {
        if !sees(pid, point).unwrap_or(false) {
            continue;
        }
        let namespace = format!("--mount=/proc/{pid}/ns/mnt");
        let mut command = Command::new("nsenter");
        command.args([&namespace, "umount", "--lazy"]).arg(point);
        succeeds(&mut command);
    }
}

fn pids() -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").expect("/proc is mounted");
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter_map(|name| name.parse().ok()).collect()
}

/// proc(5): the fifth field of each line of `mountinfo` is a mount point.
fn sees(pid: u32, point: &Path) -> io::Result<bool> {
    let mounts = std::fs::read_to_string(format!("/proc/{pid}/mountinfo"))?;
    let mut points = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4).map(PathBuf::from));
    Ok(points.any(|mounted| mounted == point))
}

fn succeeds(command: &mut Command) -> bool {
    let quiet = command.stdin(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loop_fs::MemoryFs;
    use crate::needs::{self, Need};
    use crate::process::Process;

    #[test]
    fn a_copy_in_another_namespace_goes_too() {
        if !needs::met(&[Need::Root, Need::Tool("unshare"), Need::Tool("nsenter")]) {
            return;
        }
        let dir = tempfile::tempdir_in(crate::programs::scratch_dir()).unwrap();
        let point = dir.path().join("fs");
        std::fs::create_dir(&point).unwrap();
        let fs = MemoryFs::mount(&point, 1 << 20);
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private"]);
        command.args(["sh", "-c", "echo there >&2; exec sleep 600"]);
        let elsewhere = Process::start("elsewhere", command, dir.path());
        elsewhere.wait_for_log();
        let pid = u32::try_from(elsewhere.pid().as_raw()).unwrap();
        assert!(sees(pid, &point).unwrap());
        drop(fs);
        assert!(!sees(pid, &point).unwrap());
    }
}
