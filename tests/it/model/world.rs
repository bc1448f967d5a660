//! What the processes see and change: one upload.

/// Claims that can exist at once. One that is settled gives its number back: to this model it is
/// as good as a new one, since nobody remembers it.
pub(super) const CLAIMS: u8 = 2;

/// Attempts after which an upload is a dead letter.
pub(super) const ATTEMPTS_MAX: u8 = 2;

/// Processes: two ingests, two consumers, the janitor.
pub(super) const PROCESSES: usize = 5;

/// A name of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Name {
    Uploads,
    Completed,
    Deferred,
    Failed,
    Claimed(u8),
}

impl Name {
    pub(super) const fn bit(self) -> u8 {
        match self {
            Self::Uploads => 1,
            Self::Completed => 2,
            Self::Deferred => 4,
            Self::Failed => 8,
            Self::Claimed(claim) => 16 << claim,
        }
    }
}

/// A place of the record: an index into [`World::records`].
pub(super) const UPLOADS: usize = 0;
pub(super) const COMPLETED: usize = 1;
pub(super) const FAILED: usize = 2;
pub(super) const RECEIPTS: usize = 3;

/// Where a record says that the upload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Said {
    Uploads,
    Completed,
    Claimed(u8),
    Deferred,
    Failed,
    Delivered,
    Terminated,
    Expired,
}

impl Said {
    pub(super) const fn is_ending(self) -> bool {
        matches!(self, Self::Delivered | Self::Terminated | Self::Expired)
    }

    /// The name of the data that goes with it.
    pub(super) const fn name(self) -> Option<Name> {
        match self {
            Self::Uploads => Some(Name::Uploads),
            Self::Completed => Some(Name::Completed),
            Self::Claimed(claim) => Some(Name::Claimed(claim)),
            Self::Deferred => Some(Name::Deferred),
            Self::Failed => Some(Name::Failed),
            Self::Delivered | Self::Terminated | Self::Expired => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Record {
    pub(super) received: bool,
    pub(super) says: Said,
    pub(super) attempts: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Content {
    /// Bytes are missing.
    Partial,
    Whole,
    /// Cut to nothing, because the upload has ended.
    Cut,
}

/// Who holds the lock of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Holder {
    Process(usize),
    /// A hook whose consumer is gone.
    Hook,
}

/// What the client has been told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Told {
    pub(super) created: bool,
    pub(super) complete: bool,
}

/// A mistake that the model is to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Slip {
    None,
    RecoverWithoutLock,
    UnlinkBeforeReceipt,
    HookWithoutLock,
}

/// Where a process stands: what it will do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Task {
    Idle,
    // Creation, in two requests or in one.
    CreateRecord,
    CreateAnswer,
    WholeTemporary,
    WholeMoveRecord,
    WholeMoveData,
    WholeAnswer,
    // PATCH with the lock held.
    PatchRead,
    PatchWrite,
    PatchMark,
    PatchMoveRecord,
    PatchMoveData,
    PatchAnswer,
    // HEAD: which of two looks, and at which record.
    Look(u8, usize),
    HeadLock,
    // Shared by all, lock held: look, take a step, look again.
    Recover(Name),
    // DELETE and expiry.
    EndFind(Said),
    EndWrite(Name, usize, Said),
    EndCut(Name, usize),
    EndMoveRecord(Name, usize),
    EndUnlink(Name, usize),
    // Claim.
    ClaimCheck(Name),
    ClaimMove(Name),
    ClaimMark(u8),
    ClaimState(u8),
    HookStart(u8),
    HookRuns(u8),
    // Settlement: delivered, with the receipt as a new file or in place.
    Deliver(u8),
    ReceiptNew(u8),
    ReceiptInPlace(u8),
    DeliveredUnlink(u8, bool),
    DeliveredState(u8, bool),
    DeliveredRecord(bool),
    // Settlement: to be tried again, or put back.
    BackRecord(u8, Said),
    BackMove(u8, Name),
    BackState(u8),
    // Dead letters.
    BuryRecord(Name, usize),
    BuryReason(Name, usize),
    BuryMove(Name, usize),
    BuryMoveRecord(Name, usize),
    BuryState(Name),
    // A claim whose consumer is gone, lock held.
    Orphan(u8),
    OrphanReceipt(u8),
    OrphanRecord(u8),
    OrphanState(u8),
}

/// The spool as far as one upload is concerned, and everybody at work on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct World {
    /// Names of the data: bits of [`Name::bit`].
    pub(super) data: u8,
    pub(super) content: Content,
    pub(super) records: [Option<Record>; 4],
    /// States of claims, a bit each.
    pub(super) states: u8,
    pub(super) reason: bool,
    pub(super) temporary: bool,
    pub(super) holder: Option<Holder>,
    /// The claim whose hook runs.
    pub(super) hook: Option<u8>,
    pub(super) tasks: [Task; PROCESSES],
    /// A request to create it was received.
    pub(super) begun: bool,
    pub(super) told: Told,
    /// A DELETE was received.
    pub(super) delete_asked: bool,
    /// A record has told that the client or its age ended it.
    pub(super) ended: bool,
    /// Its bytes lie in the destination.
    pub(super) delivered: bool,
    pub(super) slip: Slip,
    /// Something happened that never may.
    pub(super) wrong: Option<&'static str>,
}

impl World {
    pub(super) fn new() -> Self {
        Self {
            data: 0,
            content: Content::Partial,
            records: [None; 4],
            states: 0,
            reason: false,
            temporary: false,
            holder: None,
            hook: None,
            tasks: [Task::Idle; PROCESSES],
            begun: false,
            told: Told::default(),
            delete_asked: false,
            ended: false,
            delivered: false,
            slip: Slip::None,
            wrong: None,
        }
    }

    pub(super) fn has(&self, name: Name) -> bool {
        self.data & name.bit() != 0
    }

    /// Nobody is in the middle of anything.
    pub(super) fn is_calm(&self) -> bool {
        self.tasks.iter().all(|task| *task == Task::Idle) && self.hook.is_none()
    }

    /// Nobody but `me` is.
    pub(super) fn others_are_calm(&self, me: usize) -> bool {
        let mut others = self.tasks;
        others[me] = Task::Idle;
        others.iter().all(|task| *task == Task::Idle) && self.hook.is_none()
    }

    pub(super) fn then(mut self, me: usize, task: Task) -> Self {
        self.tasks[me] = task;
        self
    }

    /// Tries to lock the data under a name.
    pub(super) fn locked(mut self, me: usize, name: Name) -> Option<Self> {
        (self.has(name) && self.holder.is_none()).then(|| {
            self.holder = Some(Holder::Process(me));
            self
        })
    }

    /// Unlocks, if it holds the lock, and is done.
    pub(super) fn done(mut self, me: usize) -> Self {
        if self.holder == Some(Holder::Process(me)) {
            self.holder = None;
        }
        self.then(me, Task::Idle)
    }

    pub(super) fn failed(mut self, wrong: &'static str) -> Self {
        self.wrong = Some(wrong);
        self
    }

    /// rename(2) of the data; `None` if the old name is gone.
    pub(super) fn moved(mut self, from: Name, to: Name) -> Option<Self> {
        self.has(from).then(|| {
            self.data = self.data & !from.bit() | to.bit();
            self
        })
    }

    pub(super) fn without(mut self, name: Name) -> Self {
        self.data &= !name.bit();
        self
    }

    /// rename(2) of the record, over whatever is there; nothing if it is gone.
    pub(super) fn record_moved(mut self, from: usize, to: usize) -> Self {
        if let Some(record) = self.records[from].take() {
            self.records[to] = Some(record);
        }
        self
    }

    pub(super) fn without_state(mut self, claim: u8) -> Self {
        self.states &= !(1 << claim);
        self
    }

    /// SIGKILL of a process; its hook goes on and keeps the lock.
    pub(super) fn killed(mut self, process: usize) -> Self {
        let had_hook = matches!(self.tasks[process], Task::HookRuns(_));
        if self.holder == Some(Holder::Process(process)) {
            let inherited = had_hook && self.slip != Slip::HookWithoutLock;
            self.holder = inherited.then_some(Holder::Hook);
        }
        self.then(process, Task::Idle)
    }

    /// The end of a hook whose consumer is gone.
    pub(super) fn hook_ended(mut self) -> Self {
        self.hook = None;
        if self.holder == Some(Holder::Hook) {
            self.holder = None;
        }
        self
    }
}
