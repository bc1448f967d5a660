//! How an operation is taken step by step without being written as a state machine.
//!
//! An operation is a plain function that asks for its steps one by one. To take its nth step it is
//! run again from the beginning with what it saw in the first n-1, takes one step for real, and is
//! stopped before the one after. So what a process knows is exactly what it has seen.

use shared::layout::RecordAt;

use super::disk::{Disk, Lock, Name, Past, Rec};
use super::search::Bounds;

/// A mistake to plant, to see that the search finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slip {
    /// The hand-over moves the data before the record.
    DataBeforeRecord,
    /// DELETE does not lock.
    DeleteWithoutLock,
    /// The data of a delivered upload is removed before its receipt is written.
    RemoveBeforeReceipt,
    /// A hook does not inherit the lock.
    HookWithoutLock,
    /// The attempt is counted after the hook.
    CountAfterHook,
    /// The janitor removes a record in `completed/` beside which it has seen no data.
    StrayRecordIsRemoved,
    /// Data that cannot be matched to its record is removed.
    TornIsRemoved,
    /// An operator's word goes into a record that was not looked at again under the lock.
    OperateUnseen,
    /// A dead letter that is tried again tells so before its record has moved.
    RetryWhereItLies,
    /// A release that was cut short is left to the operator.
    HeldIsLeft,
}

impl Slip {
    pub(crate) const ALL: [Self; 10] = [
        Self::DataBeforeRecord,
        Self::DeleteWithoutLock,
        Self::RemoveBeforeReceipt,
        Self::HookWithoutLock,
        Self::CountAfterHook,
        Self::StrayRecordIsRemoved,
        Self::TornIsRemoved,
        Self::OperateUnseen,
        Self::RetryWhereItLies,
        Self::HeldIsLeft,
    ];

    /// How many processes have to be at work at once for it to do harm, and how many wishes it
    /// takes.
    pub(crate) const fn needs(self) -> (usize, u8) {
        match self {
            Self::DeleteWithoutLock => (2, 1),
            Self::StrayRecordIsRemoved => (2, 0),
            Self::OperateUnseen => (2, 3),
            Self::HeldIsLeft => (1, 2),
            _ => (1, 1),
        }
    }
}

/// What a process learned from one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Seen {
    Nothing,
    Yes(bool),
    Number(u8),
    Record(Option<Rec>),
    Lock(TryLock),
}

/// What came of trying to lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum TryLock {
    Held,
    Busy,
    Missing,
}

/// Why an operation goes no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Its step was taken; the next one is another time's.
    Yield,
    /// A name was missing that had to be there: somebody else was faster.
    Missing,
}

pub(crate) type Run<T> = Result<T, Stop>;

/// The steps of one process.
pub(crate) struct Steps<'a> {
    disk: &'a mut Disk,
    slot: u8,
    slip: Option<Slip>,
    seen: &'a [Seen],
    at: usize,
    fresh: Option<Seen>,
    chosen: Option<u8>,
    /// The alternative to take where the process has a choice.
    choice: u8,
    /// How many alternatives there were.
    pub(crate) choices: u8,
    /// Whether the process is where it may stay for long.
    pub(crate) lingers: bool,
}

impl<'a> Steps<'a> {
    pub(crate) fn new(
        disk: &'a mut Disk,
        slot: u8,
        bounds: Bounds,
        seen: &'a [Seen],
        choice: u8,
    ) -> Self {
        Self {
            disk,
            slot,
            slip: bounds.slip,
            seen,
            at: 0,
            fresh: None,
            chosen: None,
            choice,
            choices: 1,
            lingers: false,
        }
    }

    /// What the step that was taken showed, after what was chosen before it; empty if the
    /// operation ended without one.
    pub(crate) fn fresh(&self) -> Vec<Seen> {
        let chosen = self.chosen.map(Seen::Number);
        chosen.into_iter().chain(self.fresh).collect()
    }

    pub(crate) fn has_slip(&self, slip: Slip) -> bool {
        self.slip == Some(slip)
    }

    fn step(&mut self, act: impl FnOnce(&mut Disk, u8) -> Seen) -> Run<Seen> {
        if let Some(&seen) = self.seen.get(self.at) {
            self.at += 1;
            return Ok(seen);
        }
        if self.fresh.is_some() {
            return Err(Stop::Yield);
        }
        let seen = act(self.disk, self.slot);
        self.at += 1;
        self.fresh = Some(seen);
        Ok(seen)
    }

    /// A step that shows nothing.
    pub(crate) fn act(&mut self, act: impl FnOnce(&mut Disk, u8)) -> Run<()> {
        self.step(|disk, slot| {
            act(disk, slot);
            Seen::Nothing
        })?;
        Ok(())
    }

    /// A step that shows whether something is so.
    pub(crate) fn ask(&mut self, ask: impl FnOnce(&mut Disk, u8) -> bool) -> Run<bool> {
        let seen = self.step(|disk, slot| Seen::Yes(ask(disk, slot)))?;
        Ok(seen == Seen::Yes(true))
    }

    /// A step that shows a small number.
    pub(crate) fn number(&mut self, number: impl FnOnce(&mut Disk, u8) -> u8) -> Run<u8> {
        match self.step(|disk, slot| Seen::Number(number(disk, slot)))? {
            Seen::Number(number) => Ok(number),
            _ => Ok(0),
        }
    }

    /// One of `n` ways to go on, every one of which is tried. Nobody else can tell, so it is no
    /// step of its own but part of the next.
    pub(crate) fn choose(&mut self, n: u8) -> Run<u8> {
        if let Some(&Seen::Number(chosen)) = self.seen.get(self.at) {
            self.at += 1;
            return Ok(chosen);
        }
        if self.fresh.is_some() {
            return Err(Stop::Yield);
        }
        self.choices = n;
        self.chosen = Some(self.choice);
        Ok(self.choice)
    }

    /// Stays here for as long as it likes, for longer than any grace.
    pub(crate) fn linger(&mut self) -> Run<()> {
        self.lingers = self.fresh.is_some();
        self.act(|_, _| ())
    }

    /// Remembers what has happened; once, together with the step before it.
    pub(crate) fn note(&mut self, note: impl FnOnce(&mut Past)) {
        if self.fresh.is_some() {
            note(&mut self.disk.past);
        }
    }

    // The steps of `shared::durable` and `shared::lock`.

    pub(crate) fn try_lock(&mut self, name: Name) -> Run<TryLock> {
        let seen = self.step(|disk, slot| {
            Seen::Lock(if !disk.has(name) {
                TryLock::Missing
            } else if disk.lock == Lock::Free {
                disk.lock = Lock::Process(slot);
                TryLock::Held
            } else {
                TryLock::Busy
            })
        })?;
        match seen {
            Seen::Lock(TryLock::Held) if self.still_at(name)? => Ok(TryLock::Held),
            Seen::Lock(TryLock::Held) => Ok(TryLock::Missing),
            Seen::Lock(other) => Ok(other),
            _ => Ok(TryLock::Missing),
        }
    }

    /// Whether the locked file has this name; if not, it is unlocked.
    fn still_at(&mut self, name: Name) -> Run<bool> {
        self.ask(|disk, _| {
            let there = disk.has(name);
            if !there {
                disk.lock = Lock::Free;
            }
            there
        })
    }

    /// Whether it can be held again, under this name.
    pub(crate) fn relock(&mut self, name: Name) -> Run<bool> {
        let got = self.ask(|disk, slot| {
            let free = disk.lock == Lock::Free;
            if free {
                disk.lock = Lock::Process(slot);
            }
            free
        })?;
        Ok(got && self.still_at(name)?)
    }

    pub(crate) fn unlock(&mut self) -> Run<()> {
        self.act(|disk, slot| {
            if disk.lock == Lock::Process(slot) {
                disk.lock = Lock::Free;
            }
        })
    }

    pub(crate) fn stat(&mut self, name: Name) -> Run<bool> {
        self.ask(|disk, _| disk.has(name))
    }

    pub(crate) fn rename(&mut self, from: Name, to: Name) -> Run<()> {
        self.missing_is_an_error(|disk, _| {
            let there = disk.remove(from);
            if there {
                disk.add(to);
            }
            there
        })
    }

    pub(crate) fn unlink(&mut self, name: Name) -> Run<()> {
        self.act(|disk, _| {
            let _: bool = disk.remove(name);
        })
    }

    pub(crate) fn read(&mut self, at: RecordAt) -> Run<Option<Rec>> {
        let seen = self.step(|disk, _| Seen::Record(disk.record(at)))?;
        match seen {
            Seen::Record(record) => Ok(record),
            _ => Ok(None),
        }
    }

    pub(crate) fn open_record(&mut self, at: RecordAt) -> Run<Option<Rec>> {
        let seen = self.step(|disk, slot| Seen::Record(disk.open_record(slot, at)))?;
        match seen {
            Seen::Record(record) => Ok(record),
            _ => Ok(None),
        }
    }

    pub(crate) fn write_head(&mut self, rec: Rec) -> Run<()> {
        self.act(|disk, slot| disk.write_open(slot, rec))
    }

    pub(crate) fn replace_record(&mut self, at: RecordAt, rec: Rec) -> Run<()> {
        self.act(|disk, slot| disk.put_record(slot, at, rec))
    }

    pub(crate) fn has_record(&mut self, at: RecordAt) -> Run<bool> {
        self.ask(|disk, _| disk.record(at).is_some())
    }

    pub(crate) fn rename_record(&mut self, from: RecordAt, to: RecordAt) -> Run<()> {
        self.missing_is_an_error(|disk, _| disk.move_record(from, to))
    }

    /// A rename after which it does not matter whether there was anything.
    pub(crate) fn rename_record_if_there(&mut self, from: RecordAt, to: RecordAt) -> Run<()> {
        self.act(|disk, _| {
            let _: bool = disk.move_record(from, to);
        })
    }

    pub(crate) fn unlink_record(&mut self, at: RecordAt) -> Run<()> {
        self.act(|disk, _| {
            let _: bool = disk.remove_record(at);
        })
    }

    pub(crate) fn unlink_state(&mut self, claim: u8) -> Run<()> {
        self.act(|disk, _| disk.states[usize::from(claim)] = false)
    }

    fn missing_is_an_error(&mut self, ask: impl FnOnce(&mut Disk, u8) -> bool) -> Run<()> {
        if self.ask(ask)? {
            Ok(())
        } else {
            Err(Stop::Missing)
        }
    }
}
