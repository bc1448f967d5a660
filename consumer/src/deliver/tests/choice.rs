use super::*;

#[test]
fn another_upload_of_the_same_name_and_length_is_not_taken_for_ours() {
    for case in Case::both() {
        let mut notes = Notes {
            halt_after: Some(0),
            ..Notes::default()
        };
        // Small enough to be copied in one look; lost before the name was given.
        notes.halt_after = Some(if case.dest.path().starts_with("/dev/shm") {
            1
        } else {
            0
        });
        assert!(case.deliver("a.jpg", None, &mut notes).is_err());
        let chosen = notes.chosen.pop().unwrap();
        case.has(&[]);
        std::fs::write(case.dest.path().join("a.jpg"), "CONTENT").unwrap();
        let again = case
            .deliver("a.jpg", Some(&chosen), &mut Notes::default())
            .unwrap();
        assert_eq!(again, Path::new("a_1.jpg"));
        assert_eq!(case.content("a.jpg"), "CONTENT");
    }
}

#[test]
fn the_choice_is_written_down_before_the_name_exists() {
    struct Watch<'a>(&'a Case);
    impl Claim for Watch<'_> {
        fn choose(&mut self, chosen: &Chosen) -> io::Result<()> {
            let path = self.0.dest.path().join(&chosen.name);
            assert!(!path.try_exists().unwrap());
            Err(io::Error::other("no space"))
        }
        fn forget(&mut self) -> io::Result<()> {
            Ok(())
        }
        fn go_on(&mut self) -> Result<(), Halt> {
            Ok(())
        }
    }
    for case in Case::both() {
        let path = case.path();
        let parcel = Parcel {
            id: case.id,
            data: &case.data,
            path: &path,
            name: Path::new("a"),
            record: None,
        };
        let refused = case.destination().deliver(&parcel, None, &mut Watch(&case));
        assert!(matches!(refused, Err(DeliverError::State(_))));
        case.has(&[]);
    }
}

#[test]
fn an_inode_number_that_another_upload_got_since_is_not_taken_for_ours() {
    let case = Case::far();
    let path = case.dest.path().join("a.txt");
    std::fs::write(&path, "another").unwrap();
    let another = durable::open(&path, true).unwrap();
    let earlier = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
    another.set_modified(earlier).unwrap();
    let chosen = Chosen {
        name: "a.txt".into(),
        inode: another.metadata().unwrap().ino(),
    };
    let name = case.deliver("a.txt", Some(&chosen), &mut Notes::default());
    assert_eq!(name.unwrap(), Path::new("a_1.txt"));
    assert_eq!(case.content("a.txt"), "another");
    assert_eq!(case.content("a_1.txt"), "content");
}

#[test]
fn a_choice_is_taken_back_before_its_inode_number_can_be_another_uploads() {
    let case = Case::far();
    let notes = |halt_after| Notes {
        halt_after,
        part: case.dest.path().join(format!(".{}.part", case.id)),
        ..Notes::default()
    };
    let mut halted = notes(Some(1));
    assert!(case.deliver("a", None, &mut halted).is_err());
    assert_eq!((halted.chosen.len(), halted.forgotten), (1, 1));
    // Or the attempt was killed, and it is the next one that removes its copy.
    let mut next = notes(Some(0));
    std::fs::write(&next.part, "content").unwrap();
    let chosen = halted.chosen.pop();
    assert!(case.deliver("a", chosen.as_ref(), &mut next).is_err());
    assert_eq!((next.chosen.len(), next.forgotten), (0, 1));
    case.has(&[]);
}
