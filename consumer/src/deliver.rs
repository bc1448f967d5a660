//! Gives a claimed upload its place in the destination directory, once, over nobody's file.
//!
//! 1. A free name is found: `a.jpg`, `a_1.jpg`, …
//! 2. The name, and the inode that will have it, are written down beside the claim.
//! 3. The record, if it is kept, gets `{name}.meta`.
//! 4. The data gets the name, by link(2): it fails if anybody else was faster, and then the search
//!    goes on. Until the receipt is durable the data has its name in the spool as well.
//! 5. The directory is synced.
//!
//! If the process dies anywhere, the next attempt is told the name of step 2. A file there with
//! that inode and our length is ours, and the delivery is only finished; anything else means that
//! it never happened. Inode and length, not length alone: another upload of the same name and
//! length may have been faster.
//!
//! Across filesystems a copy is made first, `.{id}.part` beside the name, synced; then the claim
//! is checked once more, and the copy's inode gets the name. A link is made from the open file,
//! not from its path: should the claim have been lost and another consumer be writing a new
//! `.part` there, it is not that one which is published half-written.

mod claim;
mod part;

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::unistd::{Gid, Uid};
use serde::Deserialize;
use shared::durable::{self, DirSync, DiskError, OnPath};
use shared::failpoint::{self, Failpoint};
use shared::id::UploadId;
use shared::record;

pub use self::claim::{Chosen, Claim, Halt};
use self::part::Part;
use crate::filename::numbered;

/// How often another file may take the name just found free before the attempt is given up. Each
/// loss means that another delivery won, so this takes a crowd.
const RACES_MAX: u32 = 1000;

/// A directory that uploads are moved to.
#[derive(Debug)]
pub struct Destination {
    dir: PathBuf,
    /// Permissions of delivered files; `None` keeps those they have in the spool.
    mode: Option<u32>,
    /// Owner and group of delivered files; `None` keeps them.
    owner: (Option<Uid>, Option<Gid>),
    syncs: bool,
    /// Shared by all deliveries straight into `dir`. Replaced after a failure, because what it
    /// did not make durable has been taken back then; and where `dir` is another directory now.
    dir_sync: Mutex<Arc<DirSync>>,
}

/// What is to be delivered.
#[derive(Debug)]
pub struct Parcel<'a> {
    /// Which upload.
    pub id: UploadId,
    /// Its data, open and locked.
    pub data: &'a File,
    /// The path of the data that only this claim uses.
    pub path: &'a Path,
    /// Where it should go, relative to the destination.
    pub name: &'a Path,
    /// The record to put beside it: a JSON object that has the upload's `id`.
    pub record: Option<&'a [u8]>,
}

/// The one field by which a record beside a delivered file is known again.
#[derive(Deserialize)]
struct KeptRecord {
    id: UploadId,
}

/// Why nothing was delivered. Trying again is right for all of them.
#[derive(Debug, thiserror::Error)]
pub enum DeliverError {
    /// A file operation failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The claim could not be asked or written to.
    #[error("the claim's state: {0}")]
    State(#[source] io::Error),
    /// It should not go on.
    #[error(transparent)]
    Halted(#[from] Halt),
    /// Others were faster, again and again.
    #[error("no free name was found for {0}")]
    NoFreeName(PathBuf),
}

impl Destination {
    /// Opens the directory, which must exist. `syncs`: whether deliveries are made durable.
    ///
    /// # Errors
    /// It is no directory that can be read.
    pub fn open(
        dir: PathBuf,
        mode: Option<u32>,
        owner: (Option<Uid>, Option<Gid>),
        syncs: bool,
    ) -> Result<Self, DiskError> {
        let dir_sync = Mutex::new(Arc::new(DirSync::open(dir.clone())?));
        Ok(Self {
            dir,
            mode,
            owner,
            syncs,
            dir_sync,
        })
    }

    /// Delivers the parcel, or finishes the delivery that an `earlier` attempt chose a name for.
    /// Returns the name relative to the destination. Durable on return.
    ///
    /// # Errors
    /// See [`DeliverError`]. Nothing is left in the destination then.
    pub fn deliver(
        &self,
        parcel: &Parcel<'_>,
        earlier: Option<&Chosen>,
        claim: &mut impl Claim,
    ) -> Result<PathBuf, DeliverError> {
        if let Some(chosen) = earlier {
            if self.holds(chosen, parcel)? {
                tracing::info!(name = %chosen.name.display(), "an earlier attempt had delivered it");
                part::remove_leftover(&self.dir.join(&chosen.name), parcel.id)?;
                self.make_durable(parcel, &chosen.name)?;
                return Ok(chosen.name.clone());
            }
            self.take_back_record(parcel.id, chosen)?;
            claim.forget().map_err(DeliverError::State)?;
        }
        // Before anything is made where nothing is mounted any more.
        self.root()?;
        let directory = self.directory_of(parcel.name)?;
        let there = std::fs::metadata(&directory).on("stat", &directory)?.dev();
        let here = parcel.data.metadata().on("stat", parcel.path)?;
        if here.dev() == there && self.may_share(&here) {
            self.dress(parcel.data, parcel.path)?;
            // Two mounts may share a device number, and some filesystems have no links.
            match self.place(parcel, &Source::Data(parcel), claim) {
                Err(DeliverError::Disk(error)) if cannot_link(&error) => {}
                result => return result,
            }
        }
        let part = Part::copy(parcel, &directory, self.syncs, claim)?;
        let source = Source::Copy(part);
        let placed = match self.dress(source.file(), parcel.path) {
            Ok(()) => self.place(parcel, &source, claim),
            Err(error) => Err(error.into()),
        };
        if placed.is_err()
            && let Err(error) = claim.forget()
        {
            tracing::warn!(%error, "a name that was not given stays written down");
        }
        source.remove();
        placed
    }

    /// Whether the chosen name stands for that very file. A copy that never got the name is gone,
    /// and its inode number may be another upload's by now; so the time that the copy was given
    /// (in seconds, which every filesystem keeps) must be that of the data too. To take another's
    /// file for ours would lose an upload; to miss ours makes a second copy.
    fn holds(&self, chosen: &Chosen, parcel: &Parcel<'_>) -> Result<bool, DiskError> {
        let found = durable::stat(&self.dir.join(&chosen.name))?;
        let data = parcel.data.metadata().on("stat", parcel.path)?;
        let same = |file: &Metadata| {
            file.is_file()
                && file.ino() == chosen.inode
                && file.len() == data.len()
                && file.mtime() == data.mtime()
        };
        Ok(found.as_ref().is_some_and(same))
    }

    /// Whether the data can have its name in the destination beside the one in the spool: not if
    /// the permissions asked for would keep us from locking it for another attempt.
    fn may_share(&self, data: &Metadata) -> bool {
        Uid::effective().is_root() || self.mode.is_none_or(|mode| can_lock(data.mode(), mode))
    }

    /// Removes the record that an attempt put beside a name and died before it gave the name.
    fn take_back_record(&self, id: UploadId, chosen: &Chosen) -> Result<(), DiskError> {
        let path = meta_of(&self.dir.join(&chosen.name));
        let Some(metadata) = durable::stat(&path)? else {
            return Ok(());
        };
        let small = metadata.is_file() && metadata.len() <= record::RECORD_MAX;
        let ours = |bytes: Vec<u8>| {
            let kept: Option<KeptRecord> = serde_json::from_slice(&bytes).ok();
            kept.is_some_and(|kept| kept.id == id)
        };
        if small && ours(std::fs::read(&path).on("read", &path)?) {
            durable::unlink(&path)?;
        }
        Ok(())
    }

    /// The directory that the name lies in, made if need be.
    fn directory_of(&self, name: &Path) -> Result<PathBuf, DiskError> {
        let mut directory = self.dir.clone();
        for component in name.parent().into_iter().flat_map(Path::components) {
            let parent = directory.clone();
            directory.push(component);
            match std::fs::create_dir(&directory) {
                Ok(()) if self.syncs => durable::sync_directory(&parent)?,
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(DiskError::new("create", directory, error)),
            }
        }
        Ok(directory)
    }

    /// Gives the file the permissions and owner that were asked for.
    fn dress(&self, file: &File, path: &Path) -> Result<(), DiskError> {
        if let Some(mode) = self.mode {
            let mode = nix::sys::stat::Mode::from_bits_truncate(mode);
            nix::sys::stat::fchmod(file, mode).on("change the mode of", path)?;
        }
        if let (None, None) = self.owner {
            return Ok(());
        }
        nix::unistd::fchown(file, self.owner.0, self.owner.1).on("change the owner of", path)
    }

    /// Finds a name, has it written down, gives it, makes it durable.
    fn place(
        &self,
        parcel: &Parcel<'_>,
        source: &Source<'_>,
        claim: &mut impl Claim,
    ) -> Result<PathBuf, DeliverError> {
        let inode = source.file().metadata().on("stat", parcel.path)?.ino();
        let keeps_record = parcel.record.is_some();
        let mut from = 0;
        for _ in 0..RACES_MAX {
            let number = first_free(from, |number| {
                self.is_free(parcel.name, number, keeps_record)
            })?;
            let name = candidate(parcel.name, number);
            let chosen = Chosen { name, inode };
            claim.choose(&chosen).map_err(DeliverError::State)?;
            claim.go_on()?;
            if self.give_names(parcel, source, &chosen.name)? {
                failpoint::hit(Failpoint::DeliverNamed).on("deliver", parcel.path)?;
                self.make_durable(parcel, &chosen.name)?;
                return Ok(chosen.name);
            }
            from = number;
        }
        Err(DeliverError::NoFreeName(parcel.name.to_owned()))
    }

    fn is_free(&self, name: &Path, number: u32, keeps_record: bool) -> Result<bool, DiskError> {
        let path = self.dir.join(candidate(name, number));
        let free = durable::stat(&path)?.is_none();
        Ok(free && (!keeps_record || durable::stat(&meta_of(&path))?.is_none()))
    }

    /// The record's name and then the data's; false if one was taken meanwhile.
    fn give_names(
        &self,
        parcel: &Parcel<'_>,
        source: &Source<'_>,
        name: &Path,
    ) -> Result<bool, DeliverError> {
        let path = self.dir.join(name);
        let meta = meta_of(&path);
        if let Some(record) = parcel.record {
            match part::write_new(parcel.id, &meta, record, self.mode, self.syncs) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
                result => result?,
            }
        }
        let placed = match source.link(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) if error.is_missing() && source.is_gone()? => Err(Halt::ClaimLost.into()),
            Err(error) => Err(error.into()),
            Ok(()) => Ok(true),
        };
        if parcel.record.is_some() && !matches!(placed, Ok(true)) {
            durable::unlink(&meta)?;
        }
        placed
    }

    /// Syncs the directory, and looks whether the name is in the one that was synced: another may have
    /// been mounted there in between. If that fails the name is taken back: the kernel reports lost names
    /// once only, so that a later attempt must not find this one and believe it.
    fn make_durable(&self, parcel: &Parcel<'_>, name: &Path) -> Result<(), DeliverError> {
        let path = self.dir.join(name);
        let directory = path.parent().unwrap_or(&self.dir);
        let synced = match directory {
            _ if !self.syncs => Ok(()),
            directory if directory == self.dir => self.sync_root(),
            directory => durable::sync_directory(directory),
        };
        let synced = synced.and_then(|()| match durable::stat(&path)? {
            Some(_) => Ok(()),
            None => Err(DiskError::new(
                "find",
                &path,
                io::ErrorKind::NotFound.into(),
            )),
        });
        if synced.is_err() {
            durable::unlink(&path)?;
            if parcel.record.is_some() {
                durable::unlink(&meta_of(&path))?;
            }
        }
        Ok(synced?)
    }

    fn sync_root(&self) -> Result<(), DiskError> {
        let round = self.root()?;
        let synced = round.sync();
        if synced.is_err() {
            self.open_again(&round)?;
        }
        synced
    }

    /// The directory that `dir` names now. What was opened before may have been unmounted, or another
    /// mounted over it or put in its place: to sync that would make nothing durable.
    fn root(&self) -> Result<Arc<DirSync>, DiskError> {
        let root = Arc::clone(&self.shared_sync());
        if root.is_at_its_path()? {
            return Ok(root);
        }
        let device = |path: &Path| std::fs::metadata(path).on("stat", path).map(|it| it.dev());
        let (there, above) = (device(&self.dir)?, device(&self.dir.join(".."))?);
        if there == above && there != root.device()? {
            let gone = io::Error::other("what was mounted there is gone");
            return Err(DiskError::new("use", &self.dir, gone));
        }
        tracing::warn!(directory = %self.dir.display(), "the destination is another directory now");
        self.open_again(&root)
    }

    /// Opens `dir` in the place of `old`, unless somebody else has done so.
    fn open_again(&self, old: &Arc<DirSync>) -> Result<Arc<DirSync>, DiskError> {
        let mut shared = self.shared_sync();
        if Arc::ptr_eq(old, &shared) {
            *shared = Arc::new(DirSync::open(self.dir.clone())?);
        }
        Ok(Arc::clone(&shared))
    }

    fn shared_sync(&self) -> MutexGuard<'_, Arc<DirSync>> {
        self.dir_sync.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The file that gets the name in the destination.
enum Source<'a> {
    Data(&'a Parcel<'a>),
    Copy(Part),
}

impl Source<'_> {
    fn file(&self) -> &File {
        match self {
            Self::Data(parcel) => parcel.data,
            Self::Copy(part) => part.file(),
        }
    }

    fn link(&self, to: &Path) -> Result<(), DiskError> {
        match self {
            Self::Data(parcel) => durable::link(parcel.path, to),
            Self::Copy(part) => part.publish(to),
        }
    }

    /// Whether it no longer has the name that only this claim uses.
    fn is_gone(&self) -> Result<bool, DiskError> {
        match self {
            Self::Data(parcel) => Ok(durable::stat(parcel.path)?.is_none()),
            Self::Copy(part) => part.is_gone(),
        }
    }

    /// Removes what is no longer needed.
    fn remove(self) {
        if let Self::Copy(part) = self {
            part.remove();
        }
    }
}

/// Whether `mode` leaves everybody reading and writing who can with `now`: locking takes both.
fn can_lock(now: u32, mode: u32) -> bool {
    let both = |mode: u32| mode & 0o444 & (mode << 1);
    both(now) & !both(mode) == 0
}

/// `name` with a number in its last component; 0 is the name itself.
fn candidate(name: &Path, number: u32) -> PathBuf {
    let last = name.file_name().unwrap_or_default().to_string_lossy();
    name.with_file_name(numbered(&last, number))
}

/// Where the record of a delivered file lies.
fn meta_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".meta");
    name.into()
}

/// A free number at or above `from`. Numbers need not be used without gaps, so the distance is
/// doubled until one is free and then halved: about 2·log₂(n) looks where n uploads have one name.
fn first_free<E>(from: u32, free: impl Fn(u32) -> Result<bool, E>) -> Result<u32, E> {
    if free(from)? {
        return Ok(from);
    }
    let (mut taken, mut step) = (from, 1_u32);
    let mut found = loop {
        let next = taken.saturating_add(step);
        if next == taken || free(next)? {
            break next;
        }
        taken = next;
        step = step.saturating_mul(2);
    };
    while 1 < found - taken {
        let middle = taken + (found - taken) / 2;
        if free(middle)? {
            found = middle;
        } else {
            taken = middle;
        }
    }
    Ok(found)
}

/// Whether an error says that a filesystem cannot link here, rather than that linking failed.
fn cannot_link(error: &DiskError) -> bool {
    let unable = [
        Errno::EXDEV,
        Errno::EPERM,
        Errno::EOPNOTSUPP,
        Errno::EMLINK,
        Errno::ENOSYS,
    ];
    error
        .source
        .raw_os_error()
        .is_some_and(|raw| unable.contains(&Errno::from_raw(raw)))
}

#[cfg(test)]
mod tests;
