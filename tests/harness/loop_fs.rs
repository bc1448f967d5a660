//! File systems in a file, whose power can be cut.
//!
//! Two ways to lose what was not synced. ext4 and xfs have an ioctl that shuts a mounted file
//! system down and drops its dirty pages and its journal's tail. btrfs has none: there, the image
//! is copied by reflink (atomically, so it is what a disk would hold at that moment) and the copy
//! is mounted. Both model a crash of the kernel or the host. Neither drops what a disk keeps in
//! a volatile cache: they find a missing sync, not a disk that lies about having done it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::mounts;
use crate::needs::{Need, run};
use crate::wait::wait_until;

/// What it takes to make one.
pub const NEEDS: [Need; 6] = [
    Need::Root,
    Need::Tool("nsenter"),
    Need::LoopDevices,
    Need::Tool("mkfs.ext4"),
    Need::Tool("mkfs.xfs"),
    Need::Tool("mkfs.btrfs"),
];

/// A kind of file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// ext4 with its defaults.
    Ext4,
    /// xfs with its defaults; the only one of them that reflinks its files for others.
    Xfs,
    /// btrfs with its defaults.
    Btrfs,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Ext4, Self::Xfs, Self::Btrfs];

    fn mkfs(self) -> Command {
        let (program, options): (_, &[&str]) = match self {
            // No blocks kept for root, who runs the tests: full is full.
            Self::Ext4 => ("mkfs.ext4", &["-q", "-F", "-m", "0"]),
            Self::Xfs => ("mkfs.xfs", &["-q", "-f"]),
            Self::Btrfs => ("mkfs.btrfs", &["-q", "-f"]),
        };
        let mut command = Command::new(program);
        command.args(options);
        command
    }
}

/// How a shut-down treats the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Journal {
    /// What is in memory of it is written first: data pages are lost, metadata is not.
    Flushed = 1,
    /// It is lost from the last commit on.
    Lost = 2,
}

/// A mounted file system in an image file. Dropping it unmounts it and removes the image.
pub struct LoopFs {
    kind: Kind,
    image: PathBuf,
    mount: PathBuf,
    /// The loop device, while it is mounted.
    device: Option<PathBuf>,
    /// The file system that holds the image, if one was made for it.
    host: Option<Host>,
}

/// A file system that holds the image of another.
enum Host {
    /// Can reflink it.
    Reflinking { _host: Box<LoopFs> },
    /// Smaller than the image says: writes fail once it is full.
    Small(MemoryFs),
}

/// A file system in memory, mounted on a directory. Dropping it unmounts it.
pub struct MemoryFs(PathBuf);

impl MemoryFs {
    /// Mounts one of `bytes` on an existing directory.
    ///
    /// # Panics
    /// If that is not allowed here.
    #[must_use]
    pub fn mount(on: &Path, bytes: u64) -> Self {
        let size = format!("size={bytes}");
        run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(on));
        Self(on.to_path_buf())
    }

    fn resize(&self, bytes: u64) {
        let size = format!("remount,size={bytes}");
        run(Command::new("mount").args(["-o", &size]).arg(&self.0));
    }
}

impl Drop for MemoryFs {
    fn drop(&mut self) {
        mounts::abandon(&self.0);
    }
}

impl LoopFs {
    /// Makes and mounts one of `bytes` below `dir`, named `name`.
    ///
    /// # Panics
    /// If the machine lacks something of [`NEEDS`], or the space.
    #[must_use]
    pub fn make(kind: Kind, dir: &Path, name: &str, bytes: u64) -> Self {
        if kind != Kind::Btrfs {
            return Self::make_on(kind, dir, dir, name, bytes, None);
        }
        // Room for the image and one copy, whose blocks are shared until they are written.
        let host = Self::make(Kind::Xfs, dir, &format!("{name}-host"), 3 * bytes);
        let images = host.mount_point().to_path_buf();
        let host = Host::Reflinking {
            _host: Box::new(host),
        };
        Self::make_on(kind, dir, &images, name, bytes, Some(host))
    }

    /// As [`make`](Self::make), but the disk has only `real_bytes`: what is written beyond them
    /// fails when it is synced, which is how a disk dies.
    ///
    /// # Panics
    /// As [`make`](Self::make).
    #[must_use]
    pub fn make_on_dying_disk(
        kind: Kind,
        dir: &Path,
        name: &str,
        bytes: u64,
        real_bytes: u64,
    ) -> Self {
        let disk = dir.join(format!("{name}-disk"));
        std::fs::create_dir(&disk).expect("the mount point is new");
        let host = Host::Small(MemoryFs::mount(&disk, real_bytes));
        Self::make_on(kind, dir, &disk, name, bytes, Some(host))
    }

    fn make_on(
        kind: Kind,
        dir: &Path,
        images: &Path,
        name: &str,
        bytes: u64,
        host: Option<Host>,
    ) -> Self {
        let image = images.join(format!("{name}.img"));
        let mount = dir.join(name);
        let file = File::create(&image).expect("the directory of the image is writable");
        file.set_len(bytes).expect("the image may be that long");
        run(kind.mkfs().arg(&image));
        std::fs::create_dir(&mount).expect("the mount point is new");
        let mut made = Self {
            kind,
            image,
            mount,
            device: None,
            host,
        };
        made.mount();
        made
    }

    /// Gives a dying disk the bytes that it lacks.
    ///
    /// # Panics
    /// If it is not one made by [`make_on_dying_disk`](Self::make_on_dying_disk).
    pub fn revive_disk(&self, real_bytes: u64) {
        let Some(Host::Small(disk)) = &self.host else {
            panic!("the disk is not dying")
        };
        disk.resize(real_bytes);
    }

    /// Where it is mounted.
    #[must_use]
    pub fn mount_point(&self) -> &Path {
        &self.mount
    }

    /// Cuts the power: from here on nothing reaches what [`mount_again`](Self::mount_again) will
    /// show. On ext4 and xfs everything that is tried on the mounted file system now fails; on
    /// btrfs it goes on into the void, so an answer given after this call does not count.
    ///
    /// # Panics
    /// If the file system refuses.
    pub fn cut_power(&mut self, journal: Journal) {
        if self.kind == Kind::Btrfs {
            let copy = self.image.with_extension("cut");
            run(Command::new("cp")
                .arg("--reflink=always")
                .arg(&self.image)
                .arg(copy));
            return;
        }
        let root = File::open(&self.mount).expect("the mount point can be opened");
        shut_down(&root, journal as u32);
    }

    /// Mounts what a machine would find after the cut, or, without one, what it finds after it was
    /// shut down in order. Nobody may use the old mount any more.
    ///
    /// # Panics
    /// If the file system does not come back.
    pub fn mount_again(&mut self) {
        self.unmount();
        let copy = self.image.with_extension("cut");
        if copy.is_file() {
            std::fs::remove_file(&self.image).expect("the old image is unused");
            std::fs::hard_link(&copy, &self.image).expect("the copy lies beside it");
            std::fs::remove_file(&copy).expect("it has another name now");
        }
        self.mount();
    }

    /// Makes an ext4 read-only at once, whoever writes to it: what the kernel does after an error.
    ///
    /// # Panics
    /// If it is no ext4.
    pub fn abort(&self) {
        run(Command::new("mount")
            .args(["-o", "remount,abort"])
            .arg(&self.mount));
    }

    fn mount(&mut self) {
        let device = run(Command::new("losetup")
            .args(["--find", "--show"])
            .arg(&self.image));
        let device = self.device.insert(PathBuf::from(device.trim()));
        if matches!(self.host, Some(Host::Small(_))) {
            answer_truly(device);
        }
        run(Command::new("mount").arg(device).arg(&self.mount));
    }

    fn unmount(&mut self) {
        let Some(device) = self.device.take() else {
            return;
        };
        mounts::unmount(&self.mount);
        run(Command::new("losetup").arg("--detach").arg(device));
        // A container that was started this moment may hold the mount for one longer, and with it the
        // file system: two of them on one image would be the end of it.
        wait_until("the image to be free", || {
            let used = run(Command::new("losetup").arg("--associated").arg(&self.image));
            used.trim().is_empty().then_some(())
        });
    }
}

/// Limits a loop device's requests to one page. A write of several that the file below takes only
/// in part is answered by the kernel (6.18) as if it were whole: a disk that lies, not one that
/// dies.
fn answer_truly(device: &Path) {
    let name = device.file_name().unwrap_or_default().to_string_lossy();
    let limit = format!("/sys/block/{name}/queue/max_sectors_kb");
    std::fs::write(limit, "4").expect("the size of requests can be limited");
}

impl Drop for LoopFs {
    fn drop(&mut self) {
        if let Some(device) = &self.device {
            // Lazily: a failing test may have left processes on it. A device that is detached while
            // it is in use goes with its last user.
            mounts::abandon(&self.mount);
            drop(Command::new("losetup").arg("--detach").arg(device).status());
        }
        drop(std::fs::remove_file(&self.image));
        drop(std::fs::remove_dir(&self.mount));
    }
}

/// `EXT4_IOC_SHUTDOWN`, `XFS_IOC_GOINGDOWN`: one number.
fn shut_down(root: &File, mode: u32) {
    use std::os::fd::AsRawFd;
    nix::ioctl_read!(going_down, b'X', 125, u32);
    let mut mode = mode;
    // SAFETY: the kernel reads one u32 behind the pointer, which lives until the call returns.
    #[expect(unsafe_code, reason = "an ioctl that no library wraps")]
    let done = unsafe { going_down(root.as_raw_fd(), &raw mut mode) };
    done.expect("ext4 and xfs can be shut down by root");
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::needs;

    #[test]
    fn after_a_cut_there_is_what_was_synced_and_not_what_was_not() {
        if !needs::met(&NEEDS) {
            return;
        }
        let dir = tempfile::tempdir_in(crate::programs::scratch_dir()).unwrap();
        for kind in Kind::ALL {
            let mut fs = LoopFs::make(kind, dir.path(), "fs", 512 << 20);
            let at = |fs: &LoopFs, name: &str| fs.mount_point().join(name);
            let mut synced = File::create(at(&fs, "synced")).unwrap();
            synced.write_all(b"kept").unwrap();
            synced.sync_all().unwrap();
            File::open(fs.mount_point()).unwrap().sync_all().unwrap();
            std::fs::write(at(&fs, "not-synced"), "lost").unwrap();
            fs.cut_power(Journal::Lost);
            drop(synced);
            fs.mount_again();
            assert_eq!(
                std::fs::read(at(&fs, "synced")).unwrap(),
                b"kept",
                "{kind:?}"
            );
            let lost = std::fs::read(at(&fs, "not-synced")).unwrap_or_default();
            assert_eq!(lost, b"", "{kind:?}");
        }
    }
}
