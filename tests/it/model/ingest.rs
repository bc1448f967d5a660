//! Ingest: creation, PATCH, HEAD, DELETE.

use super::steps::shared;
use super::world::{COMPLETED, Content, Name, RECEIPTS, Record, Said, Task, UPLOADS, World};

const CREATED: Record = Record {
    received: false,
    says: Said::Uploads,
    attempts: 0,
};
const RECEIVED: Record = Record {
    received: true,
    says: Said::Completed,
    attempts: 0,
};

/// Everything that this ingest may do next.
pub(super) fn steps(world: World, me: usize) -> Vec<World> {
    let task = world.tasks[me];
    if let Some(next) = shared(world, me, task) {
        return next;
    }
    match task {
        Task::Idle => requests(world, me),
        Task::CreateRecord | Task::CreateAnswer => vec![create(world, me, task)],
        Task::WholeTemporary | Task::WholeMoveRecord => vec![whole(world, me, task)],
        Task::WholeMoveData | Task::WholeAnswer => vec![whole(world, me, task)],
        Task::Look(pass, at) => vec![head(world, me, pass, at)],
        Task::HeadLock => vec![match world.locked(me, Name::Uploads) {
            Some(world) => world.then(me, Task::Recover(Name::Uploads)),
            None => world.done(me),
        }],
        _ => patch(world, me, task),
    }
}

fn requests(world: World, me: usize) -> Vec<World> {
    let mut next = Vec::new();
    if !world.begun {
        let mut begun = world;
        begun.begun = true;
        begun.data = Name::Uploads.bit();
        let begun = begun.locked(me, Name::Uploads).unwrap_or(world);
        next.push(begun.then(me, Task::CreateRecord));
        let mut whole = begun;
        whole.content = Content::Whole;
        next.push(whole.then(me, Task::WholeTemporary));
    }
    if world.told.created {
        next.push(world.then(me, Task::Look(0, UPLOADS)));
        if let Some(locked) = world.locked(me, Name::Uploads) {
            next.push(locked.then(me, Task::PatchRead));
        }
        if !world.delete_asked {
            let mut asked = world;
            asked.delete_asked = true;
            next.push(asked.then(me, Task::EndFind(Said::Terminated)));
        }
    }
    next
}

fn create(mut world: World, me: usize, task: Task) -> World {
    if task == Task::CreateRecord {
        world.records[UPLOADS] = Some(CREATED);
        return world.then(me, Task::CreateAnswer);
    }
    world.told.created = true;
    world.done(me)
}

fn whole(mut world: World, me: usize, task: Task) -> World {
    match task {
        Task::WholeTemporary => {
            world.temporary = true;
            world.then(me, Task::WholeMoveRecord)
        }
        Task::WholeMoveRecord => {
            world.temporary = false;
            world.records[COMPLETED] = Some(RECEIVED);
            world.then(me, Task::WholeMoveData)
        }
        Task::WholeMoveData => match world.moved(Name::Uploads, Name::Completed) {
            Some(world) => world.then(me, Task::WholeAnswer),
            None => world.failed("the data moved under the lock"),
        },
        _ => {
            world.told.created = true;
            world.told.complete = true;
            world.done(me)
        }
    }
}

fn patch(mut world: World, me: usize, task: Task) -> Vec<World> {
    let next = match task {
        Task::PatchRead => match world.records[UPLOADS] {
            Some(record) if !record.received && !record.says.is_ending() => {
                world.then(me, Task::PatchWrite)
            }
            _ => world.then(me, Task::Recover(Name::Uploads)),
        },
        Task::PatchWrite => {
            // The connection may break first.
            let broken = world.done(me);
            world.content = Content::Whole;
            return vec![broken, world.then(me, Task::PatchMark)];
        }
        Task::PatchMark if world.records[UPLOADS].is_none() => {
            world.failed("the record was taken from under the lock")
        }
        Task::PatchMark => {
            world.records[UPLOADS] = Some(RECEIVED);
            world.then(me, Task::PatchMoveRecord)
        }
        Task::PatchMoveRecord => {
            let world = world.record_moved(UPLOADS, COMPLETED);
            world.then(me, Task::PatchMoveData)
        }
        Task::PatchMoveData => match world.moved(Name::Uploads, Name::Completed) {
            Some(world) => world.then(me, Task::PatchAnswer),
            None => world.failed("the data moved under the lock"),
        },
        _ => {
            world.told.complete = true;
            world.done(me)
        }
    };
    vec![next]
}

/// HEAD reads one place after the other, twice, before it says 404.
fn head(mut world: World, me: usize, pass: u8, at: usize) -> World {
    let Some(record) = world.records[at] else {
        return match (pass, at) {
            (0, RECEIPTS) => world.then(me, Task::Look(1, UPLOADS)),
            (_, RECEIPTS) => world.failed("HEAD says 404 for an upload that exists"),
            _ => world.then(me, Task::Look(pass, at + 1)),
        };
    };
    if at == UPLOADS && record.received && !record.says.is_ending() {
        return world.then(me, Task::HeadLock);
    }
    world.told.complete |=
        at != UPLOADS && (!record.says.is_ending() || record.says == Said::Delivered);
    world.done(me)
}
