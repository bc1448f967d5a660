//! What lies in the spool of one upload, as far as the order of steps matters.
//!
//! One data file under any number of names, records as files of their own (so that a write to one
//! that was replaced meanwhile goes where it would go), locks, and what has happened so far.

use std::fmt;

use shared::layout::RecordAt;
use shared::record::Place;

/// Processes that are in the middle of an operation at once, at most.
pub(crate) const SLOTS: usize = 2;
/// Claims whose names, states or mentions exist at once, at most.
pub(crate) const CLAIMS: u8 = 3;
/// The upload's length, in units that a PATCH may send.
pub(crate) const LENGTH: u8 = 2;
/// Attempts that are counted; more of them are not told apart.
pub(crate) const COUNTED_MAX: u8 = 3;
/// Attempts after which an upload is a dead letter.
pub(crate) const ATTEMPTS_MAX: u8 = 2;

/// A name of the data file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Name {
    Uploads,
    Completed,
    Deferred,
    Held,
    Failed,
    Claimed(u8),
}

impl Name {
    pub(crate) const FIXED: [Self; 5] = [
        Self::Uploads,
        Self::Completed,
        Self::Deferred,
        Self::Held,
        Self::Failed,
    ];

    const fn bit(self) -> u16 {
        match self {
            Self::Uploads => 1,
            Self::Completed => 2,
            Self::Deferred => 4,
            Self::Held => 8,
            Self::Failed => 16,
            Self::Claimed(claim) => 32 << claim,
        }
    }

    /// Where the record lies while the data has this name.
    pub(crate) const fn home(self) -> RecordAt {
        match self {
            Self::Uploads => RecordAt::Uploads,
            Self::Failed => RecordAt::Failed,
            _ => RecordAt::Completed,
        }
    }
}

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Rec {
    pub(crate) offset: u8,
    pub(crate) place: Place,
    pub(crate) claim: Option<u8>,
    pub(crate) attempts: u8,
}

impl Rec {
    pub(crate) const fn new(offset: u8, place: Place) -> Self {
        Self {
            offset,
            place,
            claim: None,
            attempts: 0,
        }
    }

    pub(crate) fn is_received(self) -> bool {
        self.offset == LENGTH
    }

    pub(crate) fn at(mut self, name: Name) -> Self {
        self.claim = None;
        self.place = match name {
            Name::Uploads => Place::Uploads,
            Name::Completed => Place::Completed,
            Name::Deferred => Place::Deferred,
            Name::Held => Place::Held,
            Name::Failed => Place::Failed,
            Name::Claimed(claim) => {
                self.claim = Some(claim);
                Place::Claimed
            }
        };
        self
    }

    pub(crate) fn ended(mut self, place: Place) -> Self {
        self.claim = None;
        self.place = place;
        self
    }

    /// Where it says that the data is.
    pub(crate) fn data_at(self) -> Option<Name> {
        match self.place {
            Place::Uploads => Some(Name::Uploads),
            Place::Completed => Some(Name::Completed),
            Place::Claimed => self.claim.map(Name::Claimed),
            Place::Deferred => Some(Name::Deferred),
            Place::Held => Some(Name::Held),
            Place::Failed => Some(Name::Failed),
            Place::Delivered | Place::Terminated | Place::Expired | Place::Joined => None,
        }
    }
}

/// Who holds the data file's lock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Lock {
    #[default]
    Free,
    /// A process, by its slot; a hook that it runs shares it.
    Process(u8),
    /// A hook that outlived its consumer.
    Hook,
}

/// A hook of a consumer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Hook {
    #[default]
    None,
    /// It has inherited the lock.
    Locking,
    /// It has not.
    Lockless,
}

/// What has happened, whatever the disk says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Past {
    /// A data file was made.
    pub(crate) begun: bool,
    /// The client was told of the upload.
    pub(crate) created: bool,
    /// The client was told that all of it has arrived.
    pub(crate) complete: bool,
    /// A consumer has delivered it, or somebody who may has ended it.
    pub(crate) over: bool,
    /// The client was told that it has ended.
    pub(crate) end_told: bool,
    /// The attempt of the last hook that was started.
    pub(crate) attempt: u8,
    /// How often a client or an operator wished for something.
    pub(crate) wishes: u8,
    /// What must never happen and did.
    pub(crate) wrong: Option<&'static str>,
}

/// What is too young for the janitor, and for a consumer that misses a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Young {
    /// The data file's content.
    pub(crate) data: bool,
    /// The data file's names.
    pub(crate) names: bool,
    /// Records and the files beside data.
    pub(crate) others: bool,
}

/// Everything about one upload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Disk {
    names: u16,
    /// Bytes in the data file.
    pub(crate) size: u8,
    pub(crate) lock: Lock,
    /// For each place, the file that lies there, counted from 1.
    records: [u8; 4],
    files: [Option<Rec>; 4],
    /// For each claim, whether it has a state.
    pub(crate) states: [bool; CLAIMS as usize],
    /// States whose claims nothing speaks of any more; how many makes no difference.
    pub(crate) stale_states: bool,
    pub(crate) reason: bool,
    pub(crate) young: Young,
    /// For each slot, the record it has open, counted from 1.
    open: [u8; SLOTS],
    /// For each slot, the claims that its operation speaks of, as bits.
    pins: [u8; SLOTS],
    /// For each slot, the hook that it runs.
    pub(crate) hooks: [Hook; SLOTS],
    /// A hook runs that outlived its consumer.
    pub(crate) stray_hook: bool,
    pub(crate) past: Past,
}

impl Disk {
    pub(crate) fn has(&self, name: Name) -> bool {
        self.names & name.bit() != 0
    }

    pub(crate) fn is_nowhere(&self) -> bool {
        self.names == 0
    }

    pub(crate) fn add(&mut self, name: Name) {
        self.names |= name.bit();
        self.young.names = true;
    }

    /// Whether it was there.
    pub(crate) fn remove(&mut self, name: Name) -> bool {
        let there = self.has(name);
        self.names &= !name.bit();
        self.young.names |= there;
        there
    }

    pub(crate) fn claimed(&self) -> impl Iterator<Item = u8> + use<> {
        let disk = *self;
        (0..CLAIMS).filter(move |&claim| disk.has(Name::Claimed(claim)))
    }

    pub(crate) fn record(&self, at: RecordAt) -> Option<Rec> {
        let file = self.records[at as usize];
        file.checked_sub(1)
            .and_then(|file| self.files[usize::from(file)])
    }

    /// The record at a place, opened by a process.
    pub(crate) fn open_record(&mut self, slot: u8, at: RecordAt) -> Option<Rec> {
        self.open[usize::from(slot)] = self.records[at as usize];
        self.record(at)
    }

    /// Overwrites the record that a process has open, wherever it lies now.
    pub(crate) fn write_open(&mut self, slot: u8, rec: Rec) {
        if let Some(file) = self.open[usize::from(slot)].checked_sub(1) {
            self.files[usize::from(file)] = Some(rec);
            self.young.others = true;
        }
    }

    /// Puts a new file at a place, replacing what is there; the process has it open then.
    pub(crate) fn put_record(&mut self, slot: u8, at: RecordAt, rec: Rec) {
        let free = self.files.iter().position(Option::is_none);
        let file = free.expect("four files are enough");
        self.files[file] = Some(rec);
        let file = u8::try_from(file).unwrap_or(u8::MAX) + 1;
        self.records[at as usize] = file;
        self.open[usize::from(slot)] = file;
        self.young.others = true;
    }

    /// Whether it was there.
    pub(crate) fn move_record(&mut self, from: RecordAt, to: RecordAt) -> bool {
        let file = std::mem::take(&mut self.records[from as usize]);
        if file != 0 {
            self.records[to as usize] = file;
        }
        file != 0
    }

    /// Whether it was there.
    pub(crate) fn remove_record(&mut self, at: RecordAt) -> bool {
        std::mem::take(&mut self.records[at as usize]) != 0
    }

    pub(crate) fn has_states_without_data(&self) -> bool {
        let mut claims = 0..CLAIMS;
        self.stale_states
            || claims.any(|n| self.states[usize::from(n)] && !self.has(Name::Claimed(n)))
    }

    pub(crate) fn remove_states_without_data(&mut self) {
        self.stale_states = false;
        for claim in 0..CLAIMS {
            self.states[usize::from(claim)] &= self.has(Name::Claimed(claim));
        }
    }

    /// A claim that nothing speaks of. `None` bounds the search: only dead consumers in a row, each
    /// of which leaves a name behind, get there.
    pub(crate) fn new_claim(&mut self, slot: u8) -> Option<u8> {
        let spoken_of = |claim: u8| {
            self.has(Name::Claimed(claim))
                || self.states[usize::from(claim)]
                || self.pins.iter().any(|pins| pins & (1 << claim) != 0)
                || self
                    .files
                    .iter()
                    .flatten()
                    .any(|rec| rec.claim == Some(claim))
        };
        let claim = (0..CLAIMS).find(|&claim| !spoken_of(claim))?;
        self.pin(slot, claim);
        Some(claim)
    }

    /// Keeps a claim's number from being given to another.
    pub(crate) fn pin(&mut self, slot: u8, claim: u8) {
        self.pins[usize::from(slot)] |= 1 << claim;
    }

    /// What the kernel does when a process ends, in whatever way.
    pub(crate) fn release(&mut self, slot: u8) {
        let hook = std::mem::take(&mut self.hooks[usize::from(slot)]);
        self.stray_hook |= hook != Hook::None;
        if self.lock == Lock::Process(slot) {
            self.lock = match hook {
                Hook::Locking => Lock::Hook,
                Hook::None | Hook::Lockless => Lock::Free,
            };
        }
        self.open[usize::from(slot)] = 0;
        self.pins[usize::from(slot)] = 0;
        self.tidy();
    }

    /// A hook that outlived its consumer comes to its end.
    pub(crate) fn end_stray_hook(&mut self) {
        self.stray_hook = false;
        if self.lock == Lock::Hook {
            self.lock = Lock::Free;
        }
    }

    /// Hooks that run at this moment.
    pub(crate) fn hooks_running(&self) -> usize {
        let of_consumers = self
            .hooks
            .iter()
            .filter(|&&hook| hook != Hook::None)
            .count();
        of_consumers + usize::from(self.stray_hook)
    }

    /// The same with the slots in another order: slot `n` becomes what `order[n]` was.
    pub(crate) fn reorder(&mut self, order: [usize; SLOTS]) {
        let old = *self;
        for (new, &was) in order.iter().enumerate() {
            self.open[new] = old.open[was];
            self.pins[new] = old.pins[was];
            self.hooks[new] = old.hooks[was];
            if old.lock == Lock::Process(u8::try_from(was).unwrap_or(u8::MAX)) {
                self.lock = Lock::Process(u8::try_from(new).unwrap_or(u8::MAX));
            }
        }
        self.tidy();
    }

    /// Forgets files without a name that nobody has open, and numbers the others by their places,
    /// so that equal disks are equal.
    pub(crate) fn tidy(&mut self) {
        for claim in 0..CLAIMS {
            let pinned = self.pins.iter().any(|pins| pins & (1 << claim) != 0);
            let state = &mut self.states[usize::from(claim)];
            if *state && !pinned && self.names & Name::Claimed(claim).bit() == 0 {
                *state = false;
                self.stale_states = true;
            }
        }
        let mut order = Vec::with_capacity(8);
        for file in self.records.iter().chain(&self.open).copied() {
            if file != 0 && !order.contains(&file) {
                order.push(file);
            }
        }
        let number = |file: u8| {
            let n = order.iter().position(|&other| other == file);
            n.map_or(0, |n| u8::try_from(n).unwrap_or(u8::MAX) + 1)
        };
        self.records = self.records.map(number);
        self.open = self.open.map(number);
        let files = self.files;
        self.files = [None; 4];
        for (new, old) in order.iter().enumerate() {
            self.files[new] = files[usize::from(*old) - 1];
        }
        if self.is_nowhere() && self.lock == Lock::Free {
            self.size = 0;
        }
    }

    /// What must hold at every moment; what does not, in words.
    pub(crate) fn violated(&self) -> Option<&'static str> {
        let past = &self.past;
        if past.wrong.is_some() {
            return past.wrong;
        }
        let whole = self.size == LENGTH && !self.is_nowhere();
        if past.complete && !whole && !past.over {
            return Some("an upload that was received in full is nowhere");
        }
        let queued = [Name::Completed, Name::Deferred, Name::Held];
        let handed_over =
            queued.iter().any(|&name| self.has(name)) || self.claimed().next().is_some();
        if handed_over && !whole && !past.over {
            return Some("something was handed over that was not received in full");
        }
        if self.has(Name::Completed) && self.record(RecordAt::Completed).is_none() && !past.over {
            return Some("data without a record appears in completed/");
        }
        let known = RecordAt::ALL.iter().any(|&at| self.record(at).is_some());
        if past.created && !known {
            return Some("an upload that its client was told of is not known any more");
        }
        if self.hooks_running() > 1 {
            return Some("two hooks run for one upload");
        }
        None
    }

    /// Whether all that is left is what is to be left: an upload that waits for its client or for
    /// an operator, or that has ended; and nothing else of it.
    pub(crate) fn is_settled(&self) -> bool {
        if self.lock != Lock::Free
            || self.stray_hook
            || self.stale_states
            || self.states.contains(&true)
        {
            return false;
        }
        let records: Vec<RecordAt> = RecordAt::ALL
            .into_iter()
            .filter(|&at| self.record(at).is_some())
            .collect();
        match records[..] {
            [] => self.is_nowhere() && !self.reason,
            [RecordAt::Receipts] => self.is_nowhere() && !self.reason,
            [RecordAt::Failed] => {
                let told = self.record(RecordAt::Failed).map(|rec| rec.place);
                self.names == Name::Failed.bit() && self.reason && told == Some(Place::Failed)
            }
            [RecordAt::Completed] => {
                let told = self.record(RecordAt::Completed).map(|rec| rec.place);
                self.names == Name::Held.bit() && !self.reason && told == Some(Place::Held)
            }
            _ => false,
        }
    }
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let claimed = (0..CLAIMS).map(Name::Claimed);
        for name in Name::FIXED.into_iter().chain(claimed) {
            if self.has(name) {
                write!(f, "{name:?} ")?;
            }
        }
        write!(f, "size={} lock={:?}", self.size, self.lock)?;
        for at in RecordAt::ALL {
            if let Some(rec) = self.record(at) {
                let Rec {
                    offset,
                    place,
                    claim,
                    attempts,
                    ..
                } = rec;
                write!(
                    f,
                    " {at:?}.meta={{{offset} {place:?} {claim:?} n={attempts}}}"
                )?;
            }
        }
        for (claim, state) in self.states.iter().enumerate() {
            if *state {
                write!(f, " state({claim})")?;
            }
        }
        if self.stale_states {
            write!(f, " stale")?;
        }
        if self.reason {
            write!(f, " reason")?;
        }
        write!(f, " complete={}", self.past.complete)
    }
}
