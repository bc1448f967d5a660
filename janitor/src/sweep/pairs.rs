//! Which records of a directory lie beside their data, told by its listing alone.
//!
//! A record beside its data has been looked at, or will be, with the data. To ask the disk for every
//! record whether the data is there would double the looks; the listing has already said it.

use std::collections::HashSet;

use shared::id::UploadId;

/// How many ids may wait for their other half. A listing comes in no order, so that about half of its
/// uploads wait at once; this is enough for 800,000 uploads, and takes 10 MiB. Those beyond are asked
/// for on the disk.
const WAITING_MAX: usize = 400_000;

/// The halves of pairs that one listing has shown so far.
#[derive(Debug)]
pub(super) struct Pairs {
    data: HashSet<UploadId>,
    records: HashSet<UploadId>,
    waiting_max: usize,
}

/// What is known of a record's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beside {
    /// It is listed too, or may still be: see [`Pairs::alone`].
    Listed,
    /// Only the disk can tell.
    Unknown,
}

impl Default for Pairs {
    fn default() -> Self {
        Self::of(WAITING_MAX)
    }
}

impl Pairs {
    fn of(waiting_max: usize) -> Self {
        Self {
            data: HashSet::new(),
            records: HashSet::new(),
            waiting_max,
        }
    }

    /// Data was listed.
    pub(super) fn data(&mut self, id: UploadId) {
        if !self.records.remove(&id) && self.has_room() {
            self.data.insert(id);
        }
    }

    /// A record was listed.
    pub(super) fn record(&mut self, id: UploadId) -> Beside {
        if self.data.remove(&id) {
            return Beside::Listed;
        }
        if !self.has_room() {
            return Beside::Unknown;
        }
        self.records.insert(id);
        Beside::Listed
    }

    /// Records whose data the listing has not shown up to its end.
    pub(super) fn alone(self) -> impl Iterator<Item = UploadId> {
        self.records.into_iter()
    }

    fn has_room(&self) -> bool {
        self.data.len() + self.records.len() < self.waiting_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_records_whose_data_is_never_listed_are_alone() {
        let mut pairs = Pairs::default();
        let [before, after, record, data] = std::array::from_fn(|_| UploadId::generate());
        pairs.data(before);
        assert_eq!(pairs.record(before), Beside::Listed);
        assert_eq!(pairs.record(after), Beside::Listed);
        pairs.data(after);
        pairs.data(data);
        assert_eq!(pairs.record(record), Beside::Listed);
        assert_eq!(pairs.alone().collect::<Vec<_>>(), [record]);
    }

    #[test]
    fn what_there_is_no_room_for_is_unknown_not_alone() {
        let mut pairs = Pairs::of(1);
        let [first, second] = std::array::from_fn(|_| UploadId::generate());
        pairs.data(first);
        pairs.data(second);
        assert_eq!(pairs.record(second), Beside::Unknown);
        assert_eq!(pairs.record(first), Beside::Listed);
        assert_eq!(pairs.record(second), Beside::Listed, "there is room again");
        assert_eq!(pairs.alone().collect::<Vec<_>>(), [second]);
    }
}
