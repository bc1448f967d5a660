//! The janitor: under the lock, and where there is nothing to lock, once all is calm.

use shared::handover::Next;

use super::consumer::orphans;
use super::steps::{look, shared};
use super::world::{CLAIMS, COMPLETED, FAILED, Name, RECEIPTS, Said, Task, UPLOADS, World};

/// Everything that the janitor may do next.
pub(super) fn steps(world: World, me: usize) -> Vec<World> {
    let task = world.tasks[me];
    if let Some(next) = shared(world, me, task) {
        return next;
    }
    let mut next = orphans(world, me);
    for at in [Name::Uploads, Name::Completed] {
        next.extend(handed_over(world, me, at));
    }
    next.extend(dead_letters(world, me));
    next.extend(leftovers(world, me));
    // An idle upload expires.
    next.push(world.then(me, Task::EndFind(Said::Expired)));
    next
}

fn handed_over(world: World, me: usize, at: Name) -> Vec<World> {
    let Some(locked) = world.locked(me, at) else {
        return Vec::new();
    };
    let record = if at == Name::Uploads {
        UPLOADS
    } else {
        COMPLETED
    };
    let ended = world.records[RECEIPTS].is_some_and(|record| record.says.is_ending());
    let mut next = Vec::new();
    match look(&world, at) {
        // Data with a receipt, whose record is in neither place any more.
        Next::Orphan | Next::Torn if ended => {
            next.push(locked.then(me, Task::EndCut(at, RECEIPTS)));
        }
        // A creation that was never answered.
        Next::Orphan if world.others_are_calm(me) => next.push(locked.without(at).done(me)),
        Next::Torn if world.others_are_calm(me) => {
            next.push(locked.then(me, Task::BuryRecord(at, record)));
        }
        Next::Orphan | Next::Torn | Next::Receiving => (),
        // Nobody has claimed it for too long.
        Next::Done => next.push(locked.then(me, Task::BuryRecord(at, record))),
        _ => next.push(locked.then(me, Task::Recover(at))),
    }
    next
}

/// A burial that was cut short: the record is still in `completed/`.
fn dead_letters(world: World, me: usize) -> Option<World> {
    let locked = world.locked(me, Name::Failed)?;
    let ended = |at: usize| world.records[at].is_some_and(|record| record.says.is_ending());
    if ended(COMPLETED) || ended(FAILED) {
        let at = if ended(COMPLETED) { COMPLETED } else { FAILED };
        return Some(locked.then(me, Task::EndCut(Name::Failed, at)));
    }
    if ended(RECEIPTS) {
        return Some(locked.then(me, Task::EndCut(Name::Failed, RECEIPTS)));
    }
    for at in [COMPLETED, UPLOADS] {
        if world.records[at].is_some_and(|record| record.says == Said::Failed) {
            return Some(locked.record_moved(at, FAILED).done(me));
        }
    }
    None
}

/// What belongs to no data, once nobody can be in the middle of making it.
fn leftovers(mut world: World, me: usize) -> Option<World> {
    if !world.others_are_calm(me) {
        return None;
    }
    if world.temporary {
        world.temporary = false;
        return Some(world);
    }
    let claimed = |claim: &u8| world.has(Name::Claimed(*claim));
    let stale = (0..CLAIMS).find(|claim| world.states & (1 << claim) != 0 && !claimed(claim));
    if let Some(claim) = stale {
        return Some(world.without_state(claim));
    }
    if world.reason && !world.has(Name::Failed) {
        world.reason = false;
        return Some(world);
    }
    if world.data != 0 {
        return None;
    }
    let at = [UPLOADS, COMPLETED, FAILED]
        .into_iter()
        .find(|at| world.records[*at].is_some())?;
    let record = world.records[at]?;
    if record.says.is_ending() && world.records[RECEIPTS].is_none() {
        return Some(world.record_moved(at, RECEIPTS));
    }
    world.records[at] = None;
    Some(world)
}
