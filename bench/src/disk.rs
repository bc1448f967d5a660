//! A fresh filesystem on a loop device for every run: directories in which many files were deleted
//! make ext4 slow, and figures of one server must not depend on what another left.

use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

nix::ioctl_write_ptr_bad!(
    /// `EXT4_IOC_SHUTDOWN`, which is `XFS_IOC_GOINGDOWN`, too.
    shutdown,
    0x8004_587d,
    u32
);

/// Which filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Fs {
    Ext4,
    Xfs,
    /// No filesystem of its own and no device: memory.
    Tmpfs,
}

/// A mounted filesystem; unmounted when dropped.
pub(crate) struct Disk {
    image: Option<PathBuf>,
    mount: tempfile::TempDir,
    logs: tempfile::TempDir,
    device: Option<String>,
}

impl Disk {
    /// Of `gib` GiB, its image in the directory `images`.
    pub(crate) fn make(fs: Fs, gib: u64, images: &Path) -> Result<Self> {
        let mount = tempfile::Builder::new()
            .prefix("bench-")
            .tempdir_in(images)?;
        let logs = tempfile::tempdir()?;
        if fs == Fs::Tmpfs {
            let size = format!("size={gib}G");
            run(Command::new("mount")
                .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
                .arg(mount.path()))?;
            return Ok(Self {
                image: None,
                mount,
                logs,
                device: None,
            });
        }
        let image = mount.path().with_extension("img");
        let file = std::fs::File::create(&image)?;
        file.set_len(gib << 30)?;
        // An inode per 4 KiB: two for each of a million uploads.
        let inodes = (gib << 18).to_string();
        let options = match fs {
            Fs::Ext4 => {
                run(Command::new("mkfs.ext4")
                    .args(["-Fq", "-N", &inodes])
                    .arg(&image))?;
                // No thread of the kernel that goes on making the filesystem meanwhile.
                "noinit_itable"
            }
            Fs::Xfs | Fs::Tmpfs => {
                run(Command::new("mkfs.xfs").arg("-fq").arg(&image))?;
                "defaults"
            }
        };
        // Otherwise the page cache would be the disk, and a flush would write all of it at once.
        // Where the image lies in memory that is so, and this changes nothing.
        let looped = Command::new("losetup")
            .args(["-f", "--show", "--direct-io=on"])
            .arg(&image)
            .output()?;
        ensure!(looped.status.success(), "losetup failed");
        let device = String::from_utf8(looped.stdout)?.trim().to_owned();
        let disk = Self {
            image: Some(image),
            mount,
            logs,
            device: Some(device.clone()),
        };
        let mut mount = Command::new("mount");
        run(mount.args(["-o", options]).arg(device).arg(disk.path()))?;
        Ok(disk)
    }

    /// Where what runs on it may log: beside it, so that logging costs the filesystem nothing.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.logs.path().join(name)
    }

    /// Throws away what is not written yet, which unmounting would write.
    fn shut_down(&self) -> Result<()> {
        let root = std::fs::File::open(self.path())?;
        let without_log_flush: u32 = 2;
        #[expect(unsafe_code, reason = "an ioctl")]
        // SAFETY: the ioctl reads one u32 from a valid pointer, on an open descriptor.
        unsafe {
            shutdown(root.as_raw_fd(), &raw const without_log_flush)?;
        }
        Ok(())
    }

    pub(crate) fn path(&self) -> &Path {
        self.mount.path()
    }

    /// Flushes that the device has done: field 16 of the block layer's statistics.
    pub(crate) fn flushes(&self) -> Result<u64> {
        let Some(device) = &self.device else {
            return Ok(0);
        };
        let name = device.trim_start_matches("/dev/");
        let stat = std::fs::read_to_string(format!("/sys/block/{name}/stat"))?;
        let field = stat
            .split_whitespace()
            .nth(15)
            .context("no flush statistics")?;
        Ok(field.parse()?)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.device.is_some() {
            // Only time is lost without it.
            self.shut_down().ok();
        }
        let tried = run(Command::new("umount").arg(self.mount.path()));
        if tried.is_err() {
            // Something still holds it: detach, so that the next run is not hindered.
            drop(run(Command::new("umount").arg("-l").arg(self.mount.path())));
        }
        if let Some(device) = &self.device {
            drop(run(Command::new("losetup").arg("-d").arg(device)));
        }
        if let Some(image) = &self.image {
            drop(std::fs::remove_file(image));
        }
    }
}

pub(crate) fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}", error.trim());
    Ok(())
}
