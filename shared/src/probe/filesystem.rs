//! What is known of filesystems by name: whether other hosts share them, and what they cannot do.
//!
//! Sources: flock(2), rename(2), inotify(7), mount options of nfs(5) and of the filesystems' own
//! manuals; overlay, GlusterFS and bind mounts were tried.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::durable::{DiskError, OnPath};

/// A filesystem and what follows for a spool on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filesystem {
    /// Its name: `ext4`, `nfs`, `fuse.glusterfs`, or its type number if it is unknown.
    pub name: String,
    /// Who may work on it at the same time.
    pub reach: Reach,
    /// What an operator should know about it.
    pub caution: Option<&'static str>,
}

/// How far the promises of a filesystem reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// One kernel: locks show who lives, events tell of every change.
    Local,
    /// Several hosts: no events from others, and locks need a lease beside them.
    Network,
    /// No spool can be here; why, and what to do.
    Unfit(&'static str),
}

/// A line of `/proc/self/mountinfo`: what statfs(2) does not tell.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    kind: String,
    options: String,
}

const OVERLAY: &str = "locks there do not exclude other containers; put the spool on a volume \
                       (or pass --allow-overlay if one container does everything)";
const SMB: &str = "its locks keep a hook from reading the file that it is called for; use NFS or a \
                   local disk";
const LOCAL_LOCKS: &str = "it is mounted with locks that other hosts do not see; mount it without \
                           nolock, local_lock and localflock";
const NO_LOCKS: &str = "its locks do not reach other hosts and its renames are copies; use a local \
                        disk, NFS, CephFS or GlusterFS";

const NFS_CACHES: &str = "mount NFS with lookupcache=none or actimeo=1, or finished uploads are \
                          seen up to a minute late";
const UNKNOWN_FUSE: &str = "unknown FUSE filesystem: whether its locks reach other hosts cannot be \
                            told; do not share it between hosts unless its manual says so";
const PASSED_THROUGH: &str = "no events arrive for changes made outside this machine, and locks may \
                              not reach there";
const MEMORY: &str = "everything in the spool is lost when the machine stops";

/// The filesystem that `path` lies on.
///
/// # Errors
///
/// As stat(2) and statfs(2).
pub fn of(path: &Path) -> Result<Filesystem, DiskError> {
    let stat = nix::sys::statfs::statfs(path).on("stat the filesystem of", path)?;
    let device = path.metadata().on("stat", path)?.dev();
    // Without /proc the name alone decides.
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    // The numbers have 32 bits; the field's width and sign differ between platforms.
    #[expect(
        clippy::allow_attributes,
        reason = "the cast is lossless on some platforms only"
    )]
    #[allow(clippy::unnecessary_cast)]
    let magic = stat.filesystem_type().0 as u32;
    Ok(known(magic, find_mount(&mounts, device).as_ref()))
}

/// The mount whose device number is `device`.
fn find_mount(mountinfo: &str, device: u64) -> Option<Mount> {
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let device = format!("{major}:{minor}");
    // 36 35 98:0 /root /mount rw,noatime master:1 - ext4 /dev/vda rw,errors=continue
    mountinfo.lines().find_map(|line| {
        let (place, what) = line.split_once(" - ")?;
        (place.split(' ').nth(2)? == device).then_some(())?;
        let mut what = what.split(' ');
        let kind = what.next()?.to_owned();
        Some(Mount {
            kind,
            options: what.nth(1).unwrap_or_default().to_owned(),
        })
    })
}

fn known(magic: u32, mount: Option<&Mount>) -> Filesystem {
    let local = |name: &str| (name.to_owned(), Reach::Local, None);
    let network = |name: &str| (name.to_owned(), Reach::Network, None);
    let unfit = |name: &str, reason| (name.to_owned(), Reach::Unfit(reason), None);
    let (name, reach, caution) = match magic {
        0xEF53 => local("ext4"),
        0x5846_5342 => local("xfs"),
        0x9123_683E => local("btrfs"),
        0x2FC1_2FC1 => local("zfs"),
        0xF2F5_2010 => local("f2fs"),
        0xCA45_1A4E => local("bcachefs"),
        0x0102_1994 => ("tmpfs".to_owned(), Reach::Local, Some(MEMORY)),
        0x8584_58F6 => ("ramfs".to_owned(), Reach::Local, Some(MEMORY)),
        0x794C_7630 => unfit("overlay", OVERLAY),
        0xFF53_4D42 => unfit("cifs", SMB),
        0xFE53_4D42 => unfit("smb2", SMB),
        0x517B => unfit("smb", SMB),
        0x6969 => ("nfs".to_owned(), Reach::Network, Some(NFS_CACHES)),
        0x00C3_6400 => network("ceph"),
        0x0BD0_0BD0 => network("lustre"),
        0x4750_4653 => network("gpfs"),
        0x0116_1970 => network("gfs2"),
        0x7461_636F => network("ocfs2"),
        0x5346_414F => unfit("afs", NO_LOCKS),
        0x0102_1997 => ("9p".to_owned(), Reach::Network, Some(PASSED_THROUGH)),
        0x6A65_6A63 => ("virtiofs".to_owned(), Reach::Network, Some(PASSED_THROUGH)),
        0x786F_4256 => ("vboxsf".to_owned(), Reach::Network, Some(PASSED_THROUGH)),
        0x6573_5546 => fuse(mount.map_or("fuse", |mount| &mount.kind)),
        other => match mount {
            Some(mount) => local(&mount.kind),
            None => local(&format!("filesystem type {other:#x}")),
        },
    };
    let local_locks = ["nolock", "local_lock=all", "local_lock=flock", "localflock"];
    let shares_no_locks = mount.is_some_and(|mount| {
        mount
            .options
            .split(',')
            .any(|option| local_locks.contains(&option))
    });
    let reach = if shares_no_locks {
        Reach::Unfit(LOCAL_LOCKS)
    } else {
        reach
    };
    Filesystem {
        name,
        reach,
        caution,
    }
}

fn fuse(kind: &str) -> (String, Reach, Option<&'static str>) {
    let (reach, caution) = match kind {
        "fuse.glusterfs" | "fuse.juicefs" | "fuse.ceph" | "fuse.ceph-fuse" | "fuse.moosefs"
        | "fuse.mfs" => (Reach::Network, None),
        "fuse.sshfs" | "fuse.s3fs" | "fuse.rclone" | "fuse.gcsfuse" | "fuse.goofys"
        | "fuse.geesefs" | "fuse.blobfuse" | "fuse.blobfuse2" | "fuse.fuse-nfs"
        | "fuse.mount-s3" | "fuse.mountpoint-s3" => (Reach::Unfit(NO_LOCKS), None),
        // A disk that happens to be served by a FUSE program.
        "fuseblk" => (Reach::Local, None),
        _ => (Reach::Network, Some(UNKNOWN_FUSE)),
    };
    (kind.to_owned(), reach, caution)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
40 22 0:44 / /mnt/gluster rw,relatime shared:3 - fuse.glusterfs vm:/gv rw,user_id=0
41 22 0:45 / /mnt/nolock rw,relatime - nfs srv:/a rw,vers=3,nolock,local_lock=none
42 22 0:46 / /mnt/with\\040blank rw - nfs4 srv:/b rw,vers=4.2,local_lock=none
43 22 0:47 / /mnt/ssh rw - fuse.sshfs host: rw
44 22 0:48 / /mnt/l rw - lustre l:/l rw,localflock
45 22 0:49 / /mnt/x rw - fuse.something x rw
";

    fn mount(minor: u64) -> Option<Mount> {
        find_mount(
            MOUNTS,
            nix::sys::stat::makedev(if minor == 254 { 254 } else { 0 }, minor % 254),
        )
    }

    #[test]
    fn a_mount_is_found_by_its_device() {
        assert_eq!(mount(254).unwrap().kind, "ext4");
        assert_eq!(mount(46).unwrap().options, "rw,vers=4.2,local_lock=none");
        assert_eq!(mount(99), None);
        assert_eq!(find_mount("", 0), None);
        assert_eq!(find_mount("nonsense - \n - \n1 2 0:0", 0), None);
    }

    #[test]
    fn each_filesystem_reaches_as_far_as_its_manual_says() {
        let local = [0xEF53, 0x5846_5342, 0x9123_683E, 0x0102_1994, 0xDEAD_BEEF];
        for magic in local {
            assert_eq!(known(magic, None).reach, Reach::Local, "{magic:x}");
        }
        for magic in [0x6969, 0x00C3_6400, 0x0102_1997] {
            assert_eq!(known(magic, None).reach, Reach::Network, "{magic:x}");
        }
        for magic in [0x794C_7630, 0xFF53_4D42, 0xFE53_4D42, 0x517B, 0x5346_414F] {
            assert!(
                matches!(known(magic, None).reach, Reach::Unfit(_)),
                "{magic:x}"
            );
        }
        assert_eq!(known(0xDEAD_BEEF, None).name, "filesystem type 0xdeadbeef");
    }

    #[test]
    fn what_a_fuse_program_serves_decides() {
        let fuse = |minor| known(0x6573_5546, mount(minor).as_ref());
        assert_eq!(
            (fuse(44).name.as_str(), fuse(44).reach),
            ("fuse.glusterfs", Reach::Network)
        );
        assert!(matches!(fuse(47).reach, Reach::Unfit(_)));
        assert_eq!(fuse(49).reach, Reach::Network);
        assert!(fuse(49).caution.is_some());
        assert!(fuse(99).caution.is_some());
    }

    #[test]
    fn locks_that_stay_on_one_host_are_refused() {
        assert_eq!(
            known(0x6969, mount(45).as_ref()).reach,
            Reach::Unfit(LOCAL_LOCKS)
        );
        assert_eq!(known(0x6969, mount(46).as_ref()).reach, Reach::Network);
        assert_eq!(
            known(0x0BD0_0BD0, mount(48).as_ref()).reach,
            Reach::Unfit(LOCAL_LOCKS)
        );
    }

    #[test]
    fn the_filesystem_of_a_directory_has_a_name() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!of(dir.path()).unwrap().name.is_empty());
        assert!(of(&dir.path().join("none")).unwrap_err().is_missing());
    }
}
