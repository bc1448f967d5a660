use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt;

use super::*;

/// Of the name and the inode that are written down before a delivery.
mod choice;

/// A claim as the tests see it: what was chosen, and when it is lost.
#[derive(Default)]
struct Notes {
    chosen: Vec<Chosen>,
    halt_after: Option<u32>,
    looks: u32,
    /// Where the copy lies, and how often it was there when a choice was taken back.
    part: PathBuf,
    forgotten: u32,
}

impl Claim for Notes {
    fn choose(&mut self, chosen: &Chosen) -> io::Result<()> {
        self.chosen.push(chosen.clone());
        Ok(())
    }

    fn forget(&mut self) -> io::Result<()> {
        self.forgotten += u32::from(self.part.try_exists()?);
        Ok(())
    }

    fn go_on(&mut self) -> Result<(), Halt> {
        self.looks += 1;
        match self.halt_after {
            Some(after) if after < self.looks => Err(Halt::ClaimLost),
            _ => Ok(()),
        }
    }
}

/// A spool with one claimed file, and a destination.
struct Case {
    spool: tempfile::TempDir,
    dest: tempfile::TempDir,
    id: UploadId,
    data: File,
    record: Option<&'static [u8]>,
}

impl Case {
    /// On one filesystem, where the data is linked.
    fn near() -> Self {
        Self::new(tempfile::tempdir().unwrap())
    }

    /// On two filesystems, where it is copied.
    fn far() -> Self {
        Self::new(tempfile::tempdir_in("/dev/shm").unwrap())
    }

    fn both() -> [Self; 2] {
        [Self::near(), Self::far()]
    }

    fn new(dest: tempfile::TempDir) -> Self {
        let spool = tempfile::tempdir().unwrap();
        let path = spool.path().join("data");
        std::fs::write(&path, "content").unwrap();
        let data = durable::open(&path, true).unwrap();
        Self {
            spool,
            dest,
            id: UploadId::generate(),
            data,
            record: None,
        }
    }

    fn path(&self) -> PathBuf {
        self.spool.path().join("data")
    }

    fn destination(&self) -> Destination {
        let dir = self.dest.path().to_owned();
        Destination::open(dir, None, (None, None), true).unwrap()
    }

    fn deliver(
        &self,
        name: &str,
        earlier: Option<&Chosen>,
        notes: &mut Notes,
    ) -> Result<PathBuf, DeliverError> {
        let path = self.path();
        let parcel = Parcel {
            id: self.id,
            data: &self.data,
            path: &path,
            name: Path::new(name),
            record: self.record,
        };
        self.destination().deliver(&parcel, earlier, notes)
    }

    fn delivers(&self, name: &str) -> String {
        let name = self.deliver(name, None, &mut Notes::default()).unwrap();
        assert_eq!(self.content(name.to_str().unwrap()), "content");
        name.to_str().unwrap().to_owned()
    }

    fn content(&self, name: &str) -> String {
        std::fs::read_to_string(self.dest.path().join(name)).unwrap()
    }

    /// Every file in the destination, hidden ones too.
    fn names(&self) -> HashSet<String> {
        let list = std::fs::read_dir(self.dest.path()).unwrap();
        list.map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    fn has(&self, names: &[&str]) {
        assert_eq!(
            self.names(),
            names.iter().map(|&name| name.to_owned()).collect()
        );
    }
}

#[test]
fn the_two_cases_differ() {
    let device = |case: &Case| std::fs::metadata(case.dest.path()).unwrap().dev();
    assert_ne!(
        device(&Case::near()),
        device(&Case::far()),
        "/dev/shm must be a filesystem"
    );
}

#[test]
fn a_delivery_takes_the_next_free_name_and_overwrites_nothing() {
    for case in Case::both() {
        std::fs::write(case.dest.path().join("a.jpg"), "theirs").unwrap();
        std::os::unix::fs::symlink("nowhere", case.dest.path().join("a_1.jpg")).unwrap();
        assert_eq!(case.delivers("a.jpg"), "a_2.jpg");
        assert_eq!(case.content("a.jpg"), "theirs");
        case.has(&["a.jpg", "a_1.jpg", "a_2.jpg"]);
        assert!(
            case.path().try_exists().unwrap(),
            "the spool keeps it until it is settled"
        );
    }
}

#[test]
fn directories_in_the_name_are_made() {
    for case in Case::both() {
        assert_eq!(case.delivers("2026/08/a.jpg"), "2026/08/a.jpg");
        let again = case
            .deliver("2026/08/a.jpg", None, &mut Notes::default())
            .unwrap();
        assert_eq!(again, Path::new("2026/08/a_1.jpg"));
    }
}

#[test]
fn an_attempt_that_finds_its_own_file_only_finishes() {
    for case in Case::both() {
        let mut notes = Notes::default();
        case.deliver("a.jpg", None, &mut notes).unwrap();
        let chosen = notes.chosen.pop().unwrap();
        let again = case.deliver("a.jpg", Some(&chosen), &mut notes).unwrap();
        assert_eq!(again, Path::new("a.jpg"));
        case.has(&["a.jpg"]);
    }
}

#[test]
fn a_lost_claim_delivers_nothing() {
    let case = Case::far();
    for halt_after in 0..2 {
        let mut notes = Notes {
            halt_after: Some(halt_after),
            ..Notes::default()
        };
        let lost = case.deliver("a", None, &mut notes);
        assert!(
            matches!(lost, Err(DeliverError::Halted(Halt::ClaimLost))),
            "{lost:?}"
        );
        case.has(&[]);
    }
    let case = Case::near();
    std::fs::remove_file(case.path()).unwrap();
    let lost = case.deliver("a", None, &mut Notes::default());
    assert!(
        matches!(lost, Err(DeliverError::Halted(Halt::ClaimLost))),
        "{lost:?}"
    );
}

#[test]
fn a_temporary_file_that_another_consumer_took_over_is_not_published() {
    struct Thief<'a>(&'a Case);
    impl Claim for Thief<'_> {
        fn choose(&mut self, _: &Chosen) -> io::Result<()> {
            let part = self.0.dest.path().join(format!(".{}.part", self.0.id));
            std::fs::remove_file(&part)?;
            std::fs::write(&part, "con")
        }
        fn forget(&mut self) -> io::Result<()> {
            Ok(())
        }
        fn go_on(&mut self) -> Result<(), Halt> {
            Ok(())
        }
    }
    let case = Case::far();
    let path = case.path();
    let name = Path::new("a");
    let parcel = Parcel {
        id: case.id,
        data: &case.data,
        path: &path,
        name,
        record: None,
    };
    let lost = case.destination().deliver(&parcel, None, &mut Thief(&case));
    assert!(
        matches!(lost, Err(DeliverError::Halted(Halt::ClaimLost))),
        "{lost:?}"
    );
    case.has(&[&format!(".{}.part", case.id)]);
}

#[test]
fn leftovers_of_a_dead_attempt_are_replaced_or_removed() {
    let case = Case::far();
    let part = case.dest.path().join(format!(".{}.part", case.id));
    std::fs::write(&part, "half of an earlier copy").unwrap();
    let mut notes = Notes::default();
    case.deliver("a", None, &mut notes).unwrap();
    case.has(&["a"]);
    // It died between giving the name and removing the temporary one.
    std::fs::hard_link(case.dest.path().join("a"), &part).unwrap();
    case.deliver("a", notes.chosen.last(), &mut Notes::default())
        .unwrap();
    case.has(&["a"]);
}

#[test]
fn the_record_is_kept_beside_the_file_under_the_same_number() {
    for mut case in Case::both() {
        case.record = Some(b"{}");
        std::fs::write(case.dest.path().join("a.jpg.meta"), "theirs").unwrap();
        assert_eq!(case.delivers("a.jpg"), "a_1.jpg");
        assert_eq!(case.content("a_1.jpg.meta"), "{}");
        assert_eq!(case.content("a.jpg.meta"), "theirs");
        case.has(&["a.jpg.meta", "a_1.jpg", "a_1.jpg.meta"]);
    }
}

#[test]
fn a_record_without_its_file_is_taken_back_if_it_is_ours() {
    for mut case in Case::both() {
        let own = format!("{{\"id\":\"{}\"}}", case.id).leak().as_bytes();
        case.record = Some(own);
        let meta = case.dest.path().join("a.meta");
        let chosen = Chosen {
            name: "a".into(),
            inode: 1,
        };
        std::fs::write(&meta, own).unwrap();
        let name = case
            .deliver("a", Some(&chosen), &mut Notes::default())
            .unwrap();
        assert_eq!(name, Path::new("a"));
        case.has(&["a", "a.meta"]);
        let other = Case::new(tempfile::tempdir().unwrap());
        std::fs::write(other.dest.path().join("a.meta"), own).unwrap();
        other
            .deliver("a", Some(&chosen), &mut Notes::default())
            .unwrap();
        other.has(&["a", "a.meta"]);
    }
}

#[test]
fn permissions_and_times_are_those_of_the_spool_unless_told_otherwise() {
    for case in Case::both() {
        let mode = std::fs::Permissions::from_mode(0o640);
        std::fs::set_permissions(case.path(), mode).unwrap();
        let modified =
            std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        case.data
            .set_times(std::fs::FileTimes::new().set_modified(modified))
            .unwrap();
        case.delivers("a");
        let metadata = std::fs::metadata(case.dest.path().join("a")).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o640);
        assert_eq!(metadata.modified().unwrap(), modified);
        let dir = case.dest.path().to_owned();
        let open = Destination::open(dir, Some(0o604), (None, Some(nix::unistd::getgid())), true);
        let path = case.path();
        let name = Path::new("b");
        let parcel = Parcel {
            id: case.id,
            data: &case.data,
            path: &path,
            name,
            record: None,
        };
        open.unwrap()
            .deliver(&parcel, None, &mut Notes::default())
            .unwrap();
        let metadata = std::fs::metadata(case.dest.path().join("b")).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o604);
    }
}

#[test]
fn many_at_once_with_one_name_all_arrive() {
    for base in [std::env::temp_dir(), "/dev/shm".into()] {
        let dest = tempfile::tempdir_in(base).unwrap();
        let names: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        let mut names = Vec::new();
                        for _ in 0..20 {
                            let aside = tempfile::tempdir().unwrap();
                            let mut case = Case::new(aside);
                            let mut notes = Notes::default();
                            let path = case.path();
                            let dir = dest.path().to_owned();
                            let destination =
                                Destination::open(dir, None, (None, None), false).unwrap();
                            case.record = Some(b"{}");
                            let parcel = Parcel {
                                id: case.id,
                                data: &case.data,
                                path: &path,
                                name: Path::new("image.jpg"),
                                record: case.record,
                            };
                            names.push(destination.deliver(&parcel, None, &mut notes).unwrap());
                        }
                        names
                    })
                })
                .collect();
            threads
                .into_iter()
                .flat_map(|thread| thread.join().unwrap())
                .collect()
        });
        let distinct: HashSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), 160);
        assert_eq!(
            std::fs::read_dir(dest.path()).unwrap().count(),
            320,
            "nothing temporary"
        );
    }
}

#[test]
fn free_numbers_are_found_without_trying_them_all() {
    for taken in [0_u32, 1, 2, 3, 7, 8, 100, 65_536, 1_000_000] {
        let looks = std::cell::Cell::new(0);
        let found = first_free(0, |number| {
            looks.set(looks.get() + 1);
            Ok::<_, ()>(taken <= number)
        });
        assert_eq!(found, Ok(taken));
        assert!(looks.get() <= 2 * 21, "{taken}: {}", looks.get());
    }
    // Gaps: any free number will do.
    let found = first_free(0, |number| Ok::<_, ()>(number == 5 || 9 < number)).unwrap();
    assert!(found == 5 || 9 < found);
    assert_eq!(
        first_free(0, |_| Err::<bool, _>("unreadable")),
        Err("unreadable")
    );
}

#[test]
fn permissions_that_would_keep_the_next_attempt_from_locking_are_told() {
    for (now, mode, can) in [
        (0o640, 0o600, true),
        (0o640, 0o644, true),
        (0o640, 0o440, false),
        (0o640, 0o200, false),
        (0o660, 0o640, false),
        (0o660, 0o666, true),
        (0o400, 0o400, true),
    ] {
        assert_eq!(can_lock(now, mode), can, "{now:o} {mode:o}");
    }
}

#[test]
fn what_is_delivered_into_a_directory_that_took_the_place_of_another_is_synced_there() {
    for case in Case::both() {
        let dir = case.dest.path().join("inbox");
        std::fs::create_dir(&dir).unwrap();
        let destination = Destination::open(dir.clone(), None, (None, None), true).unwrap();
        durable::rename(&dir, &case.dest.path().join("away")).unwrap();
        std::fs::create_dir(&dir).unwrap();
        let path = case.path();
        let parcel = Parcel {
            id: case.id,
            data: &case.data,
            path: &path,
            name: Path::new("a.jpg"),
            record: None,
        };
        let mut notes = Notes::default();
        destination.deliver(&parcel, None, &mut notes).unwrap();
        assert_eq!(case.content("inbox/a.jpg"), "content");
        let synced = destination.root().unwrap();
        assert!(synced.is_at_its_path().unwrap());
        assert_eq!(synced.rounds(), 1, "another directory was synced");
    }
}
