//! Any of an upload's files damaged in any way, several times over: it is told, and no data is lost
//! in the repair.

use proptest::prelude::*;

use super::*;

/// Every name that an upload can have in the spool, and what of it has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Data,
    Record,
    State,
    Reason,
    Temp,
    Event,
}

/// How many [`names`] there are.
const NAMES: usize = 17;

fn names(case: &Case, id: UploadId) -> [(Kind, PathBuf); NAMES] {
    let layout = case.spool.layout();
    let claim = |n: u8| -> ClaimId { format!("{n:032x}").parse().unwrap() };
    let data = |at| (Kind::Data, layout.data(id, at));
    let record = |at| (Kind::Record, layout.record(id, at));
    [
        data(DataAt::Uploads),
        data(DataAt::Completed),
        data(DataAt::Claimed(claim(1))),
        data(DataAt::Claimed(claim(2))),
        data(DataAt::Deferred(1)),
        data(DataAt::Deferred(shared::layout::NOT_BEFORE_MAX)),
        data(DataAt::Held),
        data(DataAt::Failed),
        record(RecordAt::Uploads),
        record(RecordAt::Completed),
        record(RecordAt::Failed),
        record(RecordAt::Receipts),
        (Kind::State, layout.state(id, claim(1))),
        (Kind::State, layout.state(id, claim(2))),
        (Kind::Reason, layout.reason(id)),
        (Kind::Temp, layout.temp(Dir::Claimed, id, claim(3))),
        (Kind::Event, layout.event(id)),
    ]
}

/// One thing that goes wrong with the files of an upload. Numbers choose among its [`names`].
#[derive(Debug, Clone)]
enum Harm {
    Remove(usize),
    /// Cut to a part of its length.
    Truncate(usize, usize),
    /// Longer than it was.
    Append(usize),
    /// Other bytes, or none that were there before.
    Write(usize, Vec<u8>),
    /// Another upload's record, of another state, or of one that has ended.
    Tell(usize, Place, u64),
    Move(usize, usize),
    Copy(usize, usize),
    Link(usize, usize),
}

fn harms() -> impl Strategy<Value = Harm> {
    let name = 0..NAMES;
    let garbage = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..700),
        Just(b"{}".to_vec()),
        Just(b"other".to_vec()),
        Just(vec![0; 600]),
    ];
    prop_oneof![
        name.clone().prop_map(Harm::Remove),
        (name.clone(), 0..2000usize).prop_map(|(n, length)| Harm::Truncate(n, length)),
        name.clone().prop_map(Harm::Append),
        (name.clone(), garbage).prop_map(|(n, bytes)| Harm::Write(n, bytes)),
        (
            name.clone(),
            proptest::sample::select(&Place::ALL[..]),
            0..7u64
        )
            .prop_map(|(n, place, offset)| Harm::Tell(n, place, offset)),
        (name.clone(), name.clone()).prop_map(|(n, to)| Harm::Move(n, to)),
        (name.clone(), name.clone()).prop_map(|(n, to)| Harm::Copy(n, to)),
        (name.clone(), name).prop_map(|(n, to)| Harm::Link(n, to)),
    ]
}

/// What happens to something happens to one that is there. What cannot be done is not done.
fn harm(case: &Case, id: UploadId, harm: &Harm) {
    let names = names(case, id);
    let there: Vec<_> = names.iter().filter(|(_, path)| path.is_file()).collect();
    if there.is_empty() {
        return;
    }
    let one = |n: &usize| there[n % there.len()];
    // Of the same kind, so that data stays data.
    let other = |n: &usize, to: &usize| {
        let (kind, _) = one(n);
        let alike: Vec<_> = names.iter().filter(|(other, _)| other == kind).collect();
        alike[to % alike.len()].1.clone()
    };
    match harm {
        // Data that is gone is not fsck's to bring back.
        Harm::Remove(n) if one(n).0 == Kind::Data => {}
        Harm::Remove(n) => std::fs::remove_file(&one(n).1).unwrap(),
        Harm::Truncate(n, length) => {
            let bytes = std::fs::read(&one(n).1).unwrap();
            std::fs::write(&one(n).1, &bytes[..length % bytes.len().max(1)]).unwrap();
        }
        Harm::Append(n) => {
            let bytes = std::fs::read(&one(n).1).unwrap();
            std::fs::write(&one(n).1, [&bytes[..], b"more"].concat()).unwrap();
        }
        Harm::Write(n, bytes) => {
            // Not over data: what was there would be missed.
            let (kind, path) = &names[*n];
            if *kind != Kind::Data || !path.is_file() {
                std::fs::write(path, bytes).unwrap();
            }
        }
        Harm::Tell(n, place, offset) if one(n).0 == Kind::Record => {
            tell_place(&one(n).1, *place, *offset);
        }
        Harm::Tell(..) => {}
        Harm::Move(n, to) => {
            drop(shared::durable::rename_noreplace(&one(n).1, &other(n, to)));
        }
        Harm::Copy(n, to) => {
            if !other(n, to).is_file() {
                std::fs::copy(&one(n).1, other(n, to)).unwrap();
            }
        }
        Harm::Link(n, to) => drop(shared::durable::link(&one(n).1, &other(n, to))),
    }
}

/// The content of data that waits to be handed over, as the hand-over will cut it: what lies behind
/// the length that its record tells is nobody's.
fn cut_to_length(case: &Case, id: UploadId) -> BTreeMap<Vec<u8>, Vec<Vec<u8>>> {
    let layout = case.spool.layout();
    let Ok(whole) = std::fs::read(layout.data(id, DataAt::Uploads)) else {
        return BTreeMap::new();
    };
    let received = [RecordAt::Uploads, RecordAt::Completed]
        .into_iter()
        .filter_map(|at| {
            let record = shared::record::read(&layout.record(id, at)).ok()?;
            record.length.filter(|_| record.is_received())
        });
    let cut = received
        .filter_map(|length| whole.get(..usize::try_from(length.0).ok()?))
        .map(<[u8]>::to_vec)
        .collect();
    BTreeMap::from([(whole, cut)])
}

/// Whether a record says that the upload has ended, so that everybody may remove its data.
fn has_ended(case: &Case, id: UploadId) -> bool {
    let ended = |at: &RecordAt| {
        let record = shared::record::read(&case.spool.layout().record(id, *at));
        record.is_ok_and(|record| record.place.is_ending())
    };
    RecordAt::ALL.iter().any(ended)
}

/// Delivers what can be claimed, as consumers do: fresh, deferred, and what crashes left. Whether
/// all of it could be.
fn drain(case: &Case) -> Result<(), String> {
    let now = UnixTime::now();
    let rules = orphan::Rules {
        lease: None,
        max_attempts: 10,
    };
    for dir in [Dir::Claimed, Dir::Completed, Dir::Deferred] {
        for entry in case.spool.entries(dir).unwrap() {
            match entry.unwrap() {
                Entry::Data(id, DataAt::Claimed(claim)) => {
                    return Err(format!("{id} is still claimed by {claim}: {rules:?}"));
                }
                Entry::Data(id, at) => match try_claim(&case.spool, id, at, now).unwrap() {
                    TryClaim::Claimed(claim) => {
                        let settled = claim.delivered(None, None, now).unwrap();
                        assert_eq!(settled, Settled::Done);
                    }
                    other => return Err(format!("{other:?}")),
                },
                _ => {}
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if std::env::var_os("TUSPOOL_LONG").is_some() { 5000 } else { 120 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]
    #[test]
    fn whatever_the_damage_it_is_told_and_a_repair_keeps_all_data_for_whoever_goes_on(
        life in proptest::sample::select(&LIVES[..]),
        harms in proptest::collection::vec(harms(), 1..6),
    ) {
        let case = Case::new();
        let id = case.live(life);
        for one in &harms {
            harm(&case, id, one);
        }
        let (before, listed, ended) = (contents(&case), listing(&case), has_ended(&case, id));
        let cut = cut_to_length(&case, id);
        let (sound, told) = case.fsck(false);
        prop_assert_eq!(&listed, &listing(&case), "looking changed something");
        prop_assert_eq!(sound, told.is_empty(), "{}", told);
        let (repaired, told) = case.fsck(true);
        prop_assert!(repaired, "{told}");
        if sound {
            prop_assert_eq!(&listed, &listing(&case), "a sound spool was changed");
        }
        let (sound, told) = case.fsck(false);
        prop_assert!(sound, "{told}");
        let after = contents(&case);
        let is_kept = |content: &Vec<u8>| {
            let mut forms = std::iter::once(content).chain(cut.get(content).into_iter().flatten());
            forms.any(|form| after.contains(form))
        };
        prop_assert!(ended || before.iter().all(is_kept), "{before:?} {after:?}");
        prop_assert_eq!(drain(&case), Ok(()));
        let (sound, told) = case.fsck(false);
        prop_assert!(sound, "after a drain: {told}");
    }
}
