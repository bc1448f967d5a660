//! Which uploads this process takes now: `--only` and `--limit-per`. Pure.

use std::collections::{HashMap, HashSet, VecDeque};

use shared::id::UploadId;
use shared::record::Record;

use crate::config::{LimitPer, Only};

/// Uploads of others remembered, so that their records are not read at every scan. An upload's
/// metadata never changes; what is forgotten is only read again.
const DECLINED_MAX: usize = 1 << 17;

/// Uploads kept waiting by a limit, over all values; beyond, a scan will find them.
const PARKED_MAX: usize = 1 << 14;

/// One value of one limited key.
type Slot = (usize, String);

/// Decides who may pass.
#[derive(Debug)]
pub struct Gate {
    only: Only,
    limits: Vec<LimitPer>,
    inside: HashMap<Slot, u32>,
    parked: HashMap<Slot, VecDeque<UploadId>>,
    parked_ids: HashSet<UploadId>,
    declined: HashSet<UploadId>,
}

/// What the gate says to an upload.
#[derive(Debug, PartialEq, Eq)]
pub enum Entry {
    /// It may be claimed; give the pass back when it is over.
    Pass(Pass),
    /// It is not for this process.
    NotOurs,
    /// As many of its kind are being worked on as may be. It is set free by [`Gate::leave`].
    Full,
}

/// Permission to work on one upload.
#[derive(Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Pass(Vec<Slot>);

impl Gate {
    /// By these rules.
    #[must_use]
    pub fn new(only: Only, limits: Vec<LimitPer>) -> Self {
        Self {
            only,
            limits,
            inside: HashMap::new(),
            parked: HashMap::new(),
            parked_ids: HashSet::new(),
            declined: HashSet::new(),
        }
    }

    /// Whether it lets everything pass, so that no record need be read.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.only.takes_all() && self.limits.is_empty()
    }

    /// Whether an upload with this record is for this process.
    #[must_use]
    pub fn is_ours(&self, record: &Record) -> bool {
        self.only.takes(record)
    }

    /// Whether the upload is known not to be ours.
    #[must_use]
    pub fn has_declined(&self, id: UploadId) -> bool {
        self.declined.contains(&id)
    }

    /// Lets an upload pass, or not. One without a record passes: the claim will see to it.
    pub fn enter(&mut self, id: UploadId, record: Option<&Record>) -> Entry {
        let Some(record) = record else {
            return Entry::Pass(Pass(Vec::new()));
        };
        if !self.only.takes(record) {
            if DECLINED_MAX <= self.declined.len() {
                self.declined.clear();
            }
            self.declined.insert(id);
            return Entry::NotOurs;
        }
        let slots: Vec<Slot> = self
            .limits
            .iter()
            .enumerate()
            .filter_map(|(index, limit)| Some((index, limit.key.of(record)?.to_owned())))
            .collect();
        let full = |slot: &&Slot| {
            let inside = self.inside.get(*slot).copied().unwrap_or(0);
            self.limits
                .get(slot.0)
                .is_some_and(|limit| limit.most.get() <= inside)
        };
        if let Some(slot) = slots.iter().find(full).cloned() {
            self.park(slot, id);
            return Entry::Full;
        }
        for slot in &slots {
            *self.inside.entry(slot.clone()).or_default() += 1;
        }
        Entry::Pass(Pass(slots))
    }

    fn park(&mut self, slot: Slot, id: UploadId) {
        if self.parked_ids.len() < PARKED_MAX && self.parked_ids.insert(id) {
            self.parked.entry(slot).or_default().push_back(id);
        }
    }

    /// The work is over. Returns one upload that waited for it, if any is remembered, and whether
    /// others may be waiting that are not.
    pub fn leave(&mut self, pass: Pass) -> (Option<UploadId>, bool) {
        let limited = !pass.0.is_empty();
        let mut freed = None;
        for slot in pass.0 {
            if let Some(inside) = self.inside.get_mut(&slot) {
                *inside = inside.saturating_sub(1);
                if *inside == 0 {
                    self.inside.remove(&slot);
                }
            }
            if freed.is_none()
                && let Some(queue) = self.parked.get_mut(&slot)
            {
                freed = queue.pop_front();
                if let Some(id) = &freed {
                    self.parked_ids.remove(id);
                }
                if queue.is_empty() {
                    self.parked.remove(&slot);
                }
            }
        }
        (freed, limited && freed.is_none())
    }
}

#[cfg(test)]
mod tests {
    use shared::time::UnixTime;

    use super::*;

    fn gate(only: &[&str], limits: &[&str]) -> Gate {
        let only = Only::new(only.iter().map(|pair| pair.parse().unwrap()).collect());
        Gate::new(
            only,
            limits.iter().map(|limit| limit.parse().unwrap()).collect(),
        )
    }

    fn of(owner: &str) -> Record {
        let mut record = Record::new(None, UnixTime::default());
        record
            .rest
            .metadata
            .insert("owner".to_owned(), owner.to_owned());
        record
    }

    fn enter(gate: &mut Gate, id: UploadId, owner: &str) -> Option<Pass> {
        match gate.enter(id, Some(&of(owner))) {
            Entry::Pass(pass) => Some(pass),
            Entry::NotOurs | Entry::Full => None,
        }
    }

    #[test]
    fn an_open_gate_lets_all_pass() {
        assert!(gate(&[], &[]).is_open());
        assert!(!gate(&["owner=a"], &[]).is_open());
        assert!(!gate(&[], &["owner=1"]).is_open());
    }

    #[test]
    fn uploads_of_others_are_remembered() {
        let mut gate = gate(&["owner=a"], &[]);
        let id = UploadId::generate();
        assert!(enter(&mut gate, UploadId::generate(), "a").is_some());
        assert_eq!(gate.enter(id, Some(&of("b"))), Entry::NotOurs);
        assert!(gate.has_declined(id));
        assert!(matches!(gate.enter(id, None), Entry::Pass(_)));
    }

    #[test]
    fn a_limit_holds_for_each_value_and_frees_who_waited_first() {
        let mut gate = gate(&[], &["owner=2"]);
        let ids: Vec<_> = (0..6).map(|_| UploadId::generate()).collect();
        let first = enter(&mut gate, ids[0], "a").unwrap();
        let second = enter(&mut gate, ids[1], "a").unwrap();
        assert!(enter(&mut gate, ids[2], "a").is_none());
        assert!(enter(&mut gate, ids[3], "a").is_none());
        assert!(enter(&mut gate, ids[2], "a").is_none(), "waits once only");
        let other = enter(&mut gate, ids[4], "b").unwrap();
        assert_eq!(gate.leave(other), (None, true));
        assert_eq!(gate.leave(first), (Some(ids[2]), false));
        let third = enter(&mut gate, ids[2], "a").unwrap();
        assert!(enter(&mut gate, ids[5], "a").is_none());
        assert_eq!(gate.leave(second), (Some(ids[3]), false));
        assert_eq!(gate.leave(third), (Some(ids[5]), false));
    }

    #[test]
    fn uploads_without_the_key_are_not_limited() {
        let mut gate = gate(&[], &["tenant=1"]);
        for _ in 0..3 {
            let pass = enter(&mut gate, UploadId::generate(), "a").unwrap();
            assert_eq!(pass, Pass(Vec::new()));
        }
    }

    #[test]
    fn several_limits_must_all_have_room() {
        let mut gate = gate(&[], &["owner=1", "metadata.owner=2"]);
        let pass = enter(&mut gate, UploadId::generate(), "a").unwrap();
        assert!(enter(&mut gate, UploadId::generate(), "a").is_none());
        assert!(gate.leave(pass).0.is_some());
        assert!(gate.inside.is_empty());
    }
}
