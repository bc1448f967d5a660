//! Walks through every order of every process's steps, with a kill possible before each.

use std::collections::HashMap;
use std::fmt::Write as _;

use shared::layout::RecordAt;

use super::disk::{Disk, Name, SLOTS, Young};
use super::steps::{Seen, Slip, Steps, Stop};
use super::{consume, receive, tend};

/// Something that one of the programs begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Op {
    Create,
    CreateWhole,
    Patch,
    Delete,
    Head,
    Claim(Name),
    RecoverClaim(u8),
    LookAtData(Name),
    LookAtRecord(RecordAt),
    FinishSettled,
    LookAtReason,
    ExpireCompleted { deletes: bool },
    Retry,
    Hold,
    Release,
}

impl Op {
    /// What somebody might begin, given what lies there. What finds nothing to do is left out
    /// where the listing that leads to it would be empty.
    fn all(disk: &Disk) -> Vec<Self> {
        if !disk.past.begun {
            return vec![Self::Create, Self::CreateWhole];
        }
        let mut all = Vec::with_capacity(24);
        if disk.has(Name::Uploads) {
            all.extend([Self::Patch, Self::Head]);
        }
        let is_anywhere = RecordAt::ALL.iter().any(|&at| disk.record(at).is_some());
        if is_anywhere && disk.record(RecordAt::Receipts).is_none() {
            all.extend([Self::Delete, Self::Retry, Self::Hold, Self::Release]);
        }
        for from in [Name::Completed, Name::Deferred] {
            if disk.has(from) {
                all.push(Self::Claim(from));
            }
        }
        all.extend(disk.claimed().map(Self::RecoverClaim));
        if disk.has(Name::Completed) {
            all.extend([true, false].map(|deletes| Self::ExpireCompleted { deletes }));
        }
        let fixed = Name::FIXED.into_iter().filter(|&name| disk.has(name));
        all.extend(fixed.map(Self::LookAtData));
        let records = RecordAt::ALL
            .into_iter()
            .filter(|&at| disk.record(at).is_some());
        all.extend(records.map(Self::LookAtRecord));
        if disk.has_states_without_data() {
            all.push(Self::FinishSettled);
        }
        if disk.reason {
            all.push(Self::LookAtReason);
        }
        all
    }

    /// Whether it needs somebody's wish: what is left behind must not have to wait for that.
    fn is_a_wish(self) -> bool {
        matches!(
            self,
            Self::Delete | Self::Retry | Self::Hold | Self::Release | Self::ExpireCompleted { .. }
        )
    }

    fn run(self, s: &mut Steps) -> Result<(), Stop> {
        match self {
            Self::Create => receive::create(s),
            Self::CreateWhole => receive::create_whole(s),
            Self::Patch => receive::patch(s),
            Self::Delete => receive::delete(s),
            Self::Head => receive::recover(s),
            Self::Claim(from) => consume::claim(s, from),
            Self::RecoverClaim(claim) => consume::recover(s, claim),
            Self::LookAtData(name) => tend::look_at_data(s, name),
            Self::LookAtRecord(at) => tend::look_at_record(s, at),
            Self::FinishSettled => tend::finish_settled(s),
            Self::LookAtReason => tend::look_at_reason(s),
            Self::ExpireCompleted { deletes } => tend::expire_completed(s, deletes),
            Self::Retry => tend::retry(s),
            Self::Hold => tend::hold(s),
            Self::Release => tend::release(s),
        }
    }

    fn claim(self) -> Option<u8> {
        match self {
            Self::RecoverClaim(claim) => Some(claim),
            _ => None,
        }
    }
}

/// A process in the middle of an operation: what it has seen is what it knows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Local {
    op: Op,
    seen: Vec<Seen>,
    lingers: bool,
}

/// Where everything stands: numbers of a disk and, for each slot, of a [`Local`] (0 is idle).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct State {
    disk: u32,
    locals: [u32; SLOTS],
}

/// What led from one state to another.
#[derive(Clone, Copy, Debug)]
enum Move {
    Begin(Op),
    Step(#[expect(dead_code, reason = "for the trace")] Op),
    Kill(#[expect(dead_code, reason = "for the trace")] Op),
    HookEnds,
    GrowOld,
}

/// How far to search.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Processes in the middle of something at once.
    pub(crate) slots: usize,
    /// How many operations a client or an operator wishes for.
    pub(crate) wishes: u8,
    pub(crate) slip: Option<Slip>,
}

/// What a search found.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) states: usize,
    pub(crate) disks: usize,
    pub(crate) moves: usize,
    /// The first thing that must not be, and how it came about.
    pub(crate) violation: Option<String>,
}

struct Table<T> {
    all: Vec<T>,
    numbers: HashMap<T, u32>,
}

impl<T: Clone + Eq + std::hash::Hash> Table<T> {
    fn new() -> Self {
        Self {
            all: Vec::new(),
            numbers: HashMap::new(),
        }
    }

    /// The number of a thing, and whether it is new.
    fn number(&mut self, thing: &T) -> (u32, bool) {
        if let Some(&number) = self.numbers.get(thing) {
            return (number, false);
        }
        let number = u32::try_from(self.all.len()).expect("fewer than 2^32 states");
        self.all.push(thing.clone());
        self.numbers.insert(thing.clone(), number);
        (number, true)
    }
}

struct Search {
    bounds: Bounds,
    disks: Table<Disk>,
    locals: Table<Option<Local>>,
    states: Table<State>,
    /// For each state, where it was first reached from.
    parents: Vec<(u32, Move)>,
    /// Moves that happen without anybody's wish and without a kill, backward.
    fair: Vec<(u32, u32)>,
    moves: usize,
}

/// Searches everything within the bounds.
pub(crate) fn search(bounds: Bounds) -> Found {
    let mut search = Search {
        bounds,
        disks: Table::new(),
        locals: Table::new(),
        states: Table::new(),
        parents: Vec::new(),
        fair: Vec::new(),
        moves: 0,
    };
    search.locals.number(&None);
    let (disk, _) = search.disks.number(&Disk::default());
    let start = State {
        disk,
        locals: [0; SLOTS],
    };
    search.states.number(&start);
    search.parents.push((0, Move::GrowOld));
    let violation = search.walk().or_else(|| search.stuck());
    Found {
        states: search.states.all.len(),
        disks: search.disks.all.len(),
        moves: search.moves,
        violation,
    }
}

impl Search {
    fn walk(&mut self) -> Option<String> {
        let mut next = 0;
        while next < self.states.all.len() {
            let from = u32::try_from(next).expect("numbers of states fit");
            let state = self.states.all[next];
            for (to, how) in self.successors(state) {
                self.moves += 1;
                let (number, is_new) = self.states.number(&to);
                if is_new {
                    self.parents.push((from, how));
                    if let Some(what) = self.disk(to).violated() {
                        return Some(self.tell(what, number));
                    }
                }
                let fair = match how {
                    Move::Begin(op) => !op.is_a_wish(),
                    Move::Step(_) | Move::HookEnds | Move::GrowOld => true,
                    Move::Kill(_) => false,
                };
                if fair {
                    self.fair.push((number, from));
                }
            }
            next += 1;
        }
        None
    }

    fn disk(&self, state: State) -> &Disk {
        &self.disks.all[state.disk as usize]
    }

    fn local(&self, number: u32) -> Option<&Local> {
        self.locals.all[number as usize].as_ref()
    }

    fn successors(&mut self, state: State) -> Vec<(State, Move)> {
        let disk = *self.disk(state);
        let mut all = Vec::with_capacity(32);
        let mut idle_seen = false;
        for slot in 0..self.bounds.slots {
            match self.local(state.locals[slot]).cloned() {
                // All idle slots are the same.
                None if std::mem::replace(&mut idle_seen, true) => {}
                None => {
                    for op in Op::all(&disk) {
                        if !op.is_a_wish() || disk.past.wishes < self.bounds.wishes {
                            self.take(state, disk, slot, op, &[], &mut all);
                        }
                    }
                }
                Some(local) => {
                    self.take(state, disk, slot, local.op, &local.seen, &mut all);
                    let mut killed = disk;
                    killed.release(slot_number(slot));
                    all.push((self.moved(state, killed, slot, None), Move::Kill(local.op)));
                }
            }
        }
        if disk.stray_hook {
            let mut ended = disk;
            ended.end_stray_hook();
            all.push((self.same(state, ended), Move::HookEnds));
        }
        if disk.young != Young::default() && self.may_grow_old(state) {
            let mut old = disk;
            old.young = Young::default();
            all.push((self.same(state, old), Move::GrowOld));
        }
        all
    }

    /// The grace is longer than any step takes, but for those that wait for a client or a hook.
    fn may_grow_old(&self, state: State) -> bool {
        let locals = state.locals.iter();
        let mut busy = locals.filter_map(|&local| self.local(local));
        busy.all(|local| local.lingers)
    }

    /// One step of one process, in every way that it may choose.
    fn take(
        &mut self,
        state: State,
        disk: Disk,
        slot: usize,
        op: Op,
        seen: &[Seen],
        into: &mut Vec<(State, Move)>,
    ) {
        let mut choice = 0;
        loop {
            let mut after = disk;
            if seen.is_empty() && op.is_a_wish() {
                after.past.wishes += 1;
            }
            if let Some(claim) = op.claim() {
                after.pin(slot_number(slot), claim);
            }
            let mut steps = Steps::new(&mut after, slot_number(slot), self.bounds, seen, choice);
            let result = op.run(&mut steps);
            let (fresh, choices, lingers) = (steps.fresh(), steps.choices, steps.lingers);
            let local = match (result, fresh) {
                (Err(Stop::Yield), fresh) => {
                    let seen = seen.iter().copied().chain(fresh).collect();
                    Some(Local { op, seen, lingers })
                }
                _ => None,
            };
            let how = if seen.is_empty() {
                Move::Begin(op)
            } else {
                Move::Step(op)
            };
            if local.is_none() {
                after.release(slot_number(slot));
            }
            into.push((self.moved(state, after, slot, local), how));
            choice += 1;
            if choice >= choices {
                return;
            }
        }
    }

    fn same(&mut self, state: State, disk: Disk) -> State {
        let (disk, _) = self.disks.number(&disk);
        State { disk, ..state }
    }

    fn moved(&mut self, state: State, mut disk: Disk, slot: usize, local: Option<Local>) -> State {
        let mut locals = state.locals;
        locals[slot] = self.locals.number(&local).0;
        // Processes are alike: their order means nothing.
        let mut order: [usize; SLOTS] = std::array::from_fn(|n| n);
        order.sort_by_key(|&n| std::cmp::Reverse(locals[n]));
        disk.reorder(order);
        let locals = order.map(|n| locals[n]);
        let (disk, _) = self.disks.number(&disk);
        State { disk, locals }
    }

    /// A state from which nothing that happens by itself leads to an end.
    fn stuck(&mut self) -> Option<String> {
        let mut forward = vec![false; self.states.all.len()];
        let mut todo = Vec::new();
        for (number, state) in self.states.all.iter().enumerate() {
            if state.locals == [0; SLOTS] && self.disk(*state).is_settled() {
                forward[number] = true;
                todo.push(u32::try_from(number).expect("numbers of states fit"));
            }
        }
        self.fair.sort_unstable();
        while let Some(to) = todo.pop() {
            let begin = self.fair.partition_point(|&(t, _)| t < to);
            for &(_, from) in self.fair[begin..].iter().take_while(|&&(t, _)| t == to) {
                if !std::mem::replace(&mut forward[from as usize], true) {
                    todo.push(from);
                }
            }
        }
        let stuck = forward.iter().position(|&forward| !forward)?;
        let stuck = u32::try_from(stuck).expect("numbers of states fit");
        Some(self.tell("nothing that happens by itself leads to an end", stuck))
    }

    fn tell(&self, what: &str, number: u32) -> String {
        let mut way = vec![];
        let mut at = number;
        while at != 0 {
            let (parent, how) = self.parents[at as usize];
            way.push((how, self.disk(self.states.all[at as usize])));
            at = parent;
        }
        let mut text = format!("{what}:\n");
        let mut shown = String::new();
        for (how, disk) in way.into_iter().rev() {
            let now = disk.to_string();
            let changed = if now == shown { "" } else { &now };
            writeln!(text, "  {:32} {changed}", format!("{how:?}")).expect("a string takes text");
            shown = now;
        }
        text
    }
}

fn slot_number(slot: usize) -> u8 {
    u8::try_from(slot).expect("there are few slots")
}
