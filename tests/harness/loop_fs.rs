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

use crate::needs::{Need, run};

/// What it takes to make one.
pub const NEEDS: [Need; 5] = [
    Need::Root,
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
            Self::Ext4 => ("mkfs.ext4", &["-q", "-F"]),
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
    mounted: bool,
    /// For btrfs: the file system that holds the image and can reflink it.
    _host: Option<Box<Self>>,
}

impl LoopFs {
    /// Makes and mounts one of `bytes` below `dir`, named `name`.
    ///
    /// # Panics
    /// If the machine lacks something of [`NEEDS`], or the space.
    #[must_use]
    pub fn make(kind: Kind, dir: &Path, name: &str, bytes: u64) -> Self {
        let host = (kind == Kind::Btrfs).then(|| {
            // Room for the image and one copy, whose blocks are shared until they are written.
            Box::new(Self::make(
                Kind::Xfs,
                dir,
                &format!("{name}-host"),
                3 * bytes,
            ))
        });
        let image = host
            .as_ref()
            .map_or(dir, |host| host.mount_point())
            .join(format!("{name}.img"));
        let mount = dir.join(name);
        let file = File::create(&image).expect("the directory of the image is writable");
        file.set_len(bytes).expect("the image may be that long");
        run(kind.mkfs().arg(&image));
        std::fs::create_dir(&mount).expect("the mount point is new");
        let mut made = Self {
            kind,
            image,
            mount,
            mounted: false,
            _host: host,
        };
        made.mount();
        made
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

    /// Mounts what a machine would find after the cut. Nobody may use the old mount any more.
    ///
    /// # Panics
    /// If the file system does not come back.
    pub fn mount_again(&mut self) {
        self.unmount();
        let copy = self.image.with_extension("cut");
        if self.kind == Kind::Btrfs {
            std::fs::remove_file(&self.image).expect("the old image is unused");
            std::fs::hard_link(&copy, &self.image).expect("the copy lies beside it");
            std::fs::remove_file(&copy).expect("it has another name now");
        }
        self.mount();
    }

    /// Makes it read-only, as a kernel does after an error.
    ///
    /// # Panics
    /// If it is busy with writers or cannot be remounted.
    pub fn make_read_only(&self) {
        run(Command::new("mount")
            .args(["-o", "remount,ro"])
            .arg(&self.mount));
    }

    fn mount(&mut self) {
        run(Command::new("mount")
            .args(["-o", "loop"])
            .arg(&self.image)
            .arg(&self.mount));
        self.mounted = true;
    }

    fn unmount(&mut self) {
        if self.mounted {
            run(Command::new("umount").arg(&self.mount));
            self.mounted = false;
        }
    }
}

impl Drop for LoopFs {
    fn drop(&mut self) {
        if self.mounted {
            // Lazily: a failing test may have left processes on it.
            drop(
                Command::new("umount")
                    .arg("--lazy")
                    .arg(&self.mount)
                    .status(),
            );
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
