//! The consumer: claim, hook, settlement.

use super::steps::shared;
use super::world::{
    ATTEMPTS_MAX, CLAIMS, COMPLETED, Content, Name, RECEIPTS, Record, Said, Slip, Task, World,
};

/// Everything that this consumer may do next.
pub(super) fn steps(world: World, me: usize) -> Vec<World> {
    let task = world.tasks[me];
    if let Some(next) = shared(world, me, task) {
        return next;
    }
    match task {
        Task::Idle => picks(world, me),
        Task::ClaimCheck(from) => check(world, me, from),
        Task::ClaimMove(_) | Task::ClaimMark(_) | Task::ClaimState(_) => {
            vec![claim(world, me, task)]
        }
        Task::HookStart(claim) => vec![start_hook(world, me, claim)],
        Task::HookRuns(claim) => outcomes(world, me, claim),
        _ => settle(world, me, task),
    }
}

/// What can be begun with: something to claim, or the claim of somebody who is gone.
pub(super) fn picks(world: World, me: usize) -> Vec<World> {
    let mut next = Vec::new();
    for from in [Name::Completed, Name::Deferred] {
        next.extend(
            world
                .locked(me, from)
                .map(|world| world.then(me, Task::ClaimCheck(from))),
        );
    }
    next.extend(orphans(world, me));
    next
}

pub(super) fn orphans(world: World, me: usize) -> Vec<World> {
    let lock = |claim| {
        let name = Name::Claimed(claim);
        let careless = world.slip == Slip::RecoverWithoutLock && world.has(name);
        let locked = world.locked(me, name).or(careless.then_some(world))?;
        Some(locked.then(me, Task::Orphan(claim)))
    };
    (0..CLAIMS).filter_map(lock).collect()
}

fn check(world: World, me: usize, from: Name) -> Vec<World> {
    match world.records[COMPLETED] {
        Some(record) if record.says.is_ending() => {
            vec![world.then(me, Task::EndCut(from, COMPLETED))]
        }
        Some(record) if record.received && world.content == Content::Whole => {
            vec![world.then(me, Task::ClaimMove(from))]
        }
        Some(_) => vec![world.then(me, Task::BuryRecord(from, COMPLETED))],
        None => {
            let mut next = vec![world.then(me, Task::Recover(Name::Completed))];
            if world.others_are_calm(me) {
                next.push(world.then(me, Task::BuryRecord(from, COMPLETED)));
            }
            next
        }
    }
}

fn claim(mut world: World, me: usize, task: Task) -> World {
    match task {
        Task::ClaimMove(from) => {
            let free = |claim: &u8| {
                let named = world.records.iter().flatten();
                let mut said = named.map(|record| record.says);
                !world.has(Name::Claimed(*claim))
                    && world.states & (1 << claim) == 0
                    && !said.any(|said| said == Said::Claimed(*claim))
            };
            let Some(claim) = (0..CLAIMS).find(free) else {
                return world.done(me);
            };
            match world.moved(from, Name::Claimed(claim)) {
                Some(world) => world.then(me, Task::ClaimMark(claim)),
                None => world.failed("the data moved under the lock"),
            }
        }
        Task::ClaimMark(claim) => match world.records[COMPLETED] {
            Some(record) => {
                let attempts = (record.attempts + 1).min(ATTEMPTS_MAX);
                let says = Said::Claimed(claim);
                world.records[COMPLETED] = Some(Record {
                    says,
                    attempts,
                    ..record
                });
                world.then(me, Task::ClaimState(claim))
            }
            None => world.failed("the record was taken from under the lock"),
        },
        Task::ClaimState(claim) => {
            world.states |= 1 << claim;
            world.then(me, Task::HookStart(claim))
        }
        _ => world.failed("not a claim"),
    }
}

fn start_hook(mut world: World, me: usize, claim: u8) -> World {
    if world.hook.is_some() {
        return world.failed("two hooks run at once");
    }
    if world.content != Content::Whole {
        return world.failed("a hook runs for what is not whole");
    }
    world.hook = Some(claim);
    world.then(me, Task::HookRuns(claim))
}

fn outcomes(mut world: World, me: usize, claim: u8) -> Vec<World> {
    world.hook = None;
    let attempts = world.records[COMPLETED].map_or(0, |record| record.attempts);
    let dead = world.then(me, Task::BuryRecord(Name::Claimed(claim), COMPLETED));
    let put_back = world.then(me, Task::BackRecord(claim, Said::Completed));
    let retry = world.then(me, Task::BackRecord(claim, Said::Deferred));
    let failed = if ATTEMPTS_MAX <= attempts {
        dead
    } else {
        retry
    };
    vec![world.then(me, Task::Deliver(claim)), failed, dead, put_back]
}

fn settle(mut world: World, me: usize, task: Task) -> Vec<World> {
    let next = match task {
        Task::Deliver(claim) => {
            if !world.has(Name::Claimed(claim)) {
                return vec![world.done(me)];
            }
            world.delivered = true;
            if world.slip == Slip::UnlinkBeforeReceipt {
                return vec![
                    world
                        .without(Name::Claimed(claim))
                        .then(me, Task::ReceiptNew(claim)),
                ];
            }
            let new = world.then(me, Task::ReceiptNew(claim));
            return vec![new, world.then(me, Task::ReceiptInPlace(claim))];
        }
        Task::ReceiptNew(claim) => {
            let receipt = world.records[COMPLETED];
            world.records[RECEIPTS] = receipt.map(|r| Record {
                says: Said::Delivered,
                ..r
            });
            world.then(me, Task::DeliveredUnlink(claim, true))
        }
        Task::ReceiptInPlace(claim) => {
            if let Some(record) = &mut world.records[COMPLETED] {
                record.says = Said::Delivered;
            }
            world.then(me, Task::DeliveredUnlink(claim, false))
        }
        Task::DeliveredUnlink(claim, new) => world
            .without(Name::Claimed(claim))
            .then(me, Task::DeliveredState(claim, new)),
        Task::DeliveredState(claim, new) => world
            .without_state(claim)
            .then(me, Task::DeliveredRecord(new)),
        Task::DeliveredRecord(true) => {
            world.records[COMPLETED] = None;
            world.done(me)
        }
        Task::DeliveredRecord(false) => world.record_moved(COMPLETED, RECEIPTS).done(me),
        _ => back(world, me, task),
    };
    vec![next]
}

fn back(mut world: World, me: usize, task: Task) -> World {
    match task {
        Task::BackRecord(claim, says) => {
            if let Some(record) = &mut world.records[COMPLETED] {
                let uncounted = u8::from(says == Said::Completed);
                record.says = says;
                record.attempts -= uncounted.min(record.attempts);
            }
            let to = if says == Said::Deferred {
                Name::Deferred
            } else {
                Name::Completed
            };
            world.then(me, Task::BackMove(claim, to))
        }
        Task::BackMove(claim, to) => match world.moved(Name::Claimed(claim), to) {
            Some(world) => world.then(me, Task::BackState(claim)),
            None => world.failed("the data moved under the lock"),
        },
        Task::BackState(claim) => world.without_state(claim).done(me),
        _ => world.failed("not a settlement"),
    }
}
