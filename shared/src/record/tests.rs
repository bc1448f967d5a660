use proptest::prelude::*;

use super::*;
use crate::host::BootId;

fn widest() -> Record {
    let mut record = Record::new(Some(Length(u64::MAX)), UnixTime::from_secs(9_999_999_999));
    record.offset = Offset(u64::MAX);
    record.place = Place::Terminated;
    record.claim = Some(ClaimId::generate());
    record.attempts = u32::MAX;
    record.not_before = Some(crate::layout::NOT_BEFORE_MAX);
    record.finished_at = Some(UnixTime::from_micros(i64::MAX));
    record.rest.created_at = UnixTime::from_secs(0);
    record.digest = Some(format!("sha256:{}", "f".repeat(64)));
    record.joined_into = Some(UploadId::generate());
    record.ended_at = Some(UnixTime::from_secs(4_000_000_000));
    record
}

/// An upload that is being received has no claim and no end.
fn widest_unsettled() -> Record {
    let mut record = widest();
    record.place = Place::Uploads;
    (record.claim, record.ended_at) = (None, None);
    record.set_offset(Offset(u64::MAX), Offset(u64::MAX - 1), BootId::this());
    record
}

#[test]
fn the_head_is_one_sector_however_wide_its_values() {
    for record in [
        Record::new(None, UnixTime::from_secs(0)),
        widest(),
        widest_unsettled(),
    ] {
        let bytes = record.to_bytes();
        assert_eq!(bytes[HEAD_LEN - 1], b',');
        assert_eq!(Record::from_bytes(&bytes).unwrap(), record);
        let whole: Value = serde_json::from_slice(&bytes).unwrap();
        assert!(whole.is_object());
    }
}

/// What begins otherwise is not overwritten in place: it would be replaced, one by one, in every
/// spool that is there already.
#[test]
fn a_head_is_written_to_the_byte_as_the_first_version_wrote_it() {
    let mut record = Record::new(
        Some(Length(5)),
        UnixTime::from_micros(1_795_829_713_287_766),
    );
    record.set_offset(Offset(3), Offset(0), "2ab98fca832d".parse().unwrap());
    let receiving = concat!(
        r#"{"format":1,"offset":                   3,"length":                   5,"#,
        r#""last_write":1795829713.287766,"flagged":false,"place":"uploads"   ,"#,
        r#""claim":null,"synced":0                   ,"attempts":         0,"#,
        r#""not_before":      null,"finished_at":null                         ,"#,
        r#""duration":null                    ,"#,
        r#""digest":null                                                                         ,"#,
        r#""joined_into":null                                  ,"#,
        r#""ended_at":null,"boot":"2ab98fca832d"    ,"check":"380cc6de"  ,"#,
    );
    assert_eq!(str::from_utf8(&record.head()), Ok(receiving));
    record.set_offset(Offset(5), Offset(5), BootId::this());
    record.last_write = UnixTime::from_micros(1_795_829_713_312_854);
    record.rest.created_at = UnixTime::from_micros(1_795_829_713_257_022);
    crate::handover::complete(&mut record, UnixTime::from_micros(1_795_829_713_312_854));
    let completed = concat!(
        r#"{"format":1,"offset":                   5,"length":                   5,"#,
        r#""last_write":1795829713.312854,"flagged":false,"place":"completed" ,"#,
        r#""claim":null                              ,"attempts":         0,"#,
        r#""not_before":      null,"finished_at":"2026-11-28T01:35:13.312854Z","#,
        r#""duration":"PT0.055832S"           ,"#,
        r#""digest":null                                                                         ,"#,
        r#""joined_into":null                                  ,"#,
        r#""ended_at":             null             ,"check":"1eba8664"  ,"#,
    );
    assert_eq!(str::from_utf8(&record.head()), Ok(completed));
}

#[test]
fn every_field_stands_at_the_same_place_in_every_head() {
    let marks = |head: [u8; HEAD_LEN]| -> Vec<usize> {
        let text = String::from_utf8(head.to_vec()).unwrap();
        [
            "\"offset\":",
            "\"place\":",
            "\"finished_at\":",
            "\"joined_into\":",
        ]
        .iter()
        .map(|mark| text.find(mark).unwrap())
        .collect()
    };
    let plain = marks(Record::new(None, UnixTime::default()).head());
    assert_eq!(marks(widest().head()), plain);
    assert_eq!(marks(widest_unsettled().head()), plain);
}

#[test]
fn an_unsettled_offset_holds_in_its_own_boot_and_the_synced_one_in_every_other() {
    let (here, elsewhere) = (BootId::this(), "0123456789ab".parse().unwrap());
    for (shown, synced) in [(0, 0), (3, 0), (5, 3), (3, 5), (5, 5)] {
        let mut record = Record::new(Some(Length(5)), UnixTime::default());
        record.rest.finish = Finish::AtFlag;
        record.flagged = true;
        record.set_offset(Offset(shown), Offset(synced), here);
        let read = Record::from_bytes(&record.to_bytes()).unwrap();
        assert_eq!(read.clone().read_in(here), record);

        let later = read.read_in(elsewhere);
        assert_eq!(
            (later.offset, later.synced()),
            (Offset(synced), Offset(synced))
        );
        assert_eq!(later.unsettled, None);
        // Whether the last byte has been sent is known only where the last byte is.
        assert_eq!(later.flagged, shown <= synced);
        assert_eq!(later.is_received(), synced == 5);
    }
}

#[test]
fn heads_from_before_boots_were_told_and_broken_ones_are_understood_or_refused() {
    let with = |more: &str| {
        let json =
            format!(r#"{{"format":1,"offset":3,"length":5,"last_write":1,"created_at":1{more}}}"#);
        Record::from_bytes(json.as_bytes()).map(|record| record.synced().0)
    };
    assert_eq!(with(""), Ok(3));
    assert_eq!(with(r#","synced":1,"boot":"0123456789ab""#), Ok(1));
    assert_eq!(with(r#","synced":1"#), Ok(3));
    assert!(with(r#","synced":1,"boot":"0123456789AB""#).is_err());
    assert!(with(r#","synced":1,"boot":"""#).is_err());
}

/// As tussi 3.1.0 writes one, with a field of the future.
const TUSSI: &str = r#"{"length":11,"offset":11,"metadata":{"filename":"a b.txt"},
    "server_metadata":{"user":"7"},"last_write":1764000000.25,"created_at":1763999999.5,
    "finished_at":"2025-11-24T16:00:00.500000Z","duration":"PT0.75S","colour":{"deep":[1,null]}}"#;

#[test]
fn tussis_record_means_what_tussi_means() {
    let record = Record::from_bytes(TUSSI.as_bytes()).unwrap();
    assert_eq!(record.format, None);
    assert_eq!(record.offset, Offset(11));
    assert!(record.is_received());
    assert_eq!(record.rest.metadata["filename"], "a b.txt");
    assert_eq!(record.rest.server_metadata["user"], "7");
    assert_eq!(
        record.finished_at,
        UnixTime::parse_iso8601("2025-11-24T16:00:00.5Z")
    );
}

#[test]
fn fields_that_we_do_not_know_are_kept() {
    let mut record = Record::from_bytes(TUSSI.as_bytes()).unwrap();
    record.format = Some(FORMAT);
    let again = Record::from_bytes(&record.to_bytes()).unwrap();
    assert_eq!(again, record);
    assert_eq!(
        again.rest.other["colour"],
        serde_json::json!({"deep": [1, null]})
    );
    assert!(
        !again.rest.other.contains_key("duration"),
        "a field of the head was doubled"
    );
}

#[test]
fn a_record_without_a_deferred_length_or_from_the_future_is_understood_or_refused() {
    let deferred = r#"{"length":null,"metadata":{},"last_write":1,"created_at":1}"#;
    let record = Record::from_bytes(deferred.as_bytes()).unwrap();
    assert_eq!((record.length, record.offset), (None, Offset(0)));
    for bad in [
        "",
        "{",
        "[]",
        "null",
        r#"{"format":2,"length":1,"last_write":1,"created_at":1}"#,
        r#"{"length":1,"offset":2,"last_write":1,"created_at":1}"#,
        r#"{"length":-1,"last_write":1,"created_at":1}"#,
        r#"{"length":1,"last_write":1,"created_at":1,"parts":["../../etc"]}"#,
    ] {
        assert!(Record::from_bytes(bad.as_bytes()).is_err(), "{bad}");
    }
}

#[test]
fn only_the_right_rule_makes_an_upload_received() {
    // Every finish rule × offset before or at the length × flag × length known: walked whole.
    for finish in [Finish::AtLength, Finish::AtFlag, Finish::Never] {
        for offset in [0, 5] {
            for flagged in [false, true] {
                for length in [None, Some(Length(5))] {
                    let mut record = Record::new(length, UnixTime::default());
                    record.offset = Offset(offset);
                    record.flagged = flagged;
                    record.rest.finish = finish;
                    let at_length = length.is_some() && offset == 5;
                    let expected = match finish {
                        Finish::AtLength => at_length,
                        Finish::AtFlag => at_length && flagged,
                        Finish::Never => false,
                    };
                    assert_eq!(record.is_received(), expected, "{record:?}");
                }
            }
        }
    }
}

#[test]
fn the_head_is_overwritten_in_place_and_tussis_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.meta");
    let mut record = Record::new(Some(Length(9)), UnixTime::from_secs(1));
    record.rest.metadata.insert("filename".into(), "ä".into());
    let file = RecordFile::create(path.clone(), &record, 0o600).unwrap();
    record.offset = Offset(4);
    file.write_head(&record).unwrap();
    assert_eq!(read(&path).unwrap(), record);
    let (file, again) = RecordFile::open(path.clone()).unwrap();
    assert!(file.has_head());
    assert_eq!(again, record);
    std::fs::write(&path, TUSSI).unwrap();
    assert!(!RecordFile::open(path.clone()).unwrap().0.has_head());
    std::fs::write(&path, "").unwrap();
    assert!(matches!(read(&path), Err(RecordError::Unreadable { .. })));
    assert!(read(&dir.path().join("none")).unwrap_err().is_missing());
}

#[test]
fn a_record_of_any_length_is_read_whole_and_its_time_of_access_stays() {
    let dir = tempfile::tempdir().unwrap();
    let long_ago = std::time::UNIX_EPOCH + Duration::from_secs(86_400);
    let mut record = Record::new(None, UnixTime::from_secs(1));
    // Around the size of the buffer that most records fit in, and of two.
    for length in [2047, 2048, 2049, 4096, 20_000] {
        record.rest.upload_metadata = Some(String::new());
        let shortest = record.to_bytes().len();
        record.rest.upload_metadata = Some("x".repeat(length - shortest));
        let path = dir.path().join(length.to_string());
        let written = RecordFile::create(path.clone(), &record, 0o600).unwrap();
        assert_eq!(record.to_bytes().len(), length);
        let accessed = std::fs::FileTimes::new().set_accessed(long_ago);
        written.file().set_times(accessed).unwrap();
        assert_eq!(read(&path).unwrap(), record);
        let stat = std::fs::metadata(&path).unwrap();
        assert_eq!(stat.accessed().unwrap(), long_ago);
    }
    assert!(read(dir.path()).is_err(), "a directory is no record");
}

#[test]
fn a_head_that_was_half_written_is_told_from_a_whole_one_and_from_a_foreign_one() {
    let old = Record::new(Some(Length(9)), UnixTime::from_secs(1));
    let mut new = old.clone();
    new.offset = Offset(9);
    new.ended_at = Some(UnixTime::from_secs(2));
    let (old_bytes, new_bytes) = (old.to_bytes(), new.to_bytes());
    for cut in 0..HEAD_LEN {
        let mut mix = new_bytes.clone();
        mix[..cut].copy_from_slice(&old_bytes[..cut]);
        match Record::from_bytes(&mix) {
            Ok(seen) => assert!(seen == old || seen == new, "cut at {cut}"),
            Err(reason) => assert!(reason.contains("torn"), "cut at {cut}: {reason}"),
        }
    }
    let rewritten: Value = serde_json::from_slice(&new_bytes).unwrap();
    assert_eq!(
        Record::from_bytes(rewritten.to_string().as_bytes()).unwrap(),
        new
    );
}

#[test]
fn a_reader_without_the_lock_never_sees_half_a_head() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.meta");
    let mut record = Record::new(Some(Length(u64::MAX)), UnixTime::from_secs(1));
    let file = RecordFile::create(path.clone(), &record, 0o600).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let order = std::sync::atomic::Ordering::Relaxed;
            while !stop.load(order) {
                // Offset and attempts move together: a mix of two heads would show.
                record.attempts = record.attempts.wrapping_add(0x1111_1111);
                record.offset = Offset(u64::from(record.attempts) << 31);
                file.write_head(&record).unwrap();
            }
        });
        let torn = (0..20_000).map(|_| read(&path)).find(|seen| {
            !seen
                .as_ref()
                .is_ok_and(|r| r.offset == Offset(u64::from(r.attempts) << 31))
        });
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(torn.is_none(), "{torn:?}");
    });
}

proptest! {
    #[test]
    fn any_bytes_are_a_record_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _unused = Record::from_bytes(&bytes).is_ok();
    }

    #[test]
    fn a_record_survives_the_disk(
        offset in any::<u64>(), more in any::<u64>(), deferred in any::<bool>(),
        flagged in any::<bool>(), attempts in any::<u32>(), at in 0i64..4_000_000_000_000_000,
        key in "[a-z]{1,8}", value in "\\PC{0,40}", header in "\\PC{0,40}",
        not_before in prop::option::of(0..=crate::layout::NOT_BEFORE_MAX),
        finished in prop::option::of(0i64..4_000_000_000_000_000),
    ) {
        let length = (!deferred).then(|| Length(offset.saturating_add(more)));
        let mut record = Record::new(length, UnixTime::from_micros(at));
        record.offset = Offset(offset);
        record.flagged = flagged;
        record.attempts = attempts;
        record.not_before = not_before;
        record.finished_at = finished.map(UnixTime::from_micros);
        record.rest.metadata.insert(key, value);
        record.rest.upload_metadata = Some(header);
        prop_assert_eq!(Record::from_bytes(&record.to_bytes()).unwrap(), record);
    }
}
