//! Steps that several programs take: recovery, endings, burials. The lock is held in all of them.

use shared::handover::{DataSeen, Next, RecordSeen, next};

use super::world::{
    ATTEMPTS_MAX, COMPLETED, Content, FAILED, Name, RECEIPTS, Record, Said, Task, UPLOADS, World,
};

fn seen(record: Option<Record>) -> RecordSeen {
    match record {
        None => RecordSeen::None,
        Some(record) if record.says.is_ending() => RecordSeen::Ended,
        Some(record) if record.received => RecordSeen::Received,
        Some(_) => RecordSeen::Receiving,
    }
}

/// What is to be done about data in `uploads/` or `completed/`.
pub(super) fn look(world: &World, at: Name) -> Next {
    let data = if at == Name::Uploads {
        DataSeen::Uploads
    } else {
        DataSeen::Completed
    };
    next(
        data,
        seen(world.records[UPLOADS]),
        seen(world.records[COMPLETED]),
    )
}

/// One step of a task that any program may be at; `None` if it is not such a task.
pub(super) fn shared(world: World, me: usize, task: Task) -> Option<Vec<World>> {
    Some(match task {
        Task::Recover(at) => vec![recover(world, me, at)],
        Task::EndFind(..) | Task::EndWrite(..) | Task::EndCut(..) => end(world, me, task),
        Task::EndMoveRecord(..) | Task::EndUnlink(..) => end(world, me, task),
        Task::BuryRecord(..) | Task::BuryReason(..) | Task::BuryMove(..) => bury(world, me, task),
        Task::BuryMoveRecord(..) | Task::BuryState(_) => bury(world, me, task),
        Task::Orphan(_) | Task::OrphanReceipt(_) => orphan(world, me, task),
        Task::OrphanRecord(_) | Task::OrphanState(_) => orphan(world, me, task),
        _ => return None,
    })
}

fn recover(mut world: World, me: usize, at: Name) -> World {
    match look(&world, at) {
        Next::MoveRecord => {
            if let Some(record) = &mut world.records[UPLOADS] {
                record.says = Said::Completed;
            }
            world.record_moved(UPLOADS, COMPLETED)
        }
        Next::MoveData => match world.moved(at, Name::Completed) {
            Some(world) => world.then(me, Task::Recover(Name::Completed)),
            None => world.failed("the data moved under the lock"),
        },
        Next::DropUploadsRecord => {
            world.records[UPLOADS] = None;
            world
        }
        Next::DropCompletedRecord => {
            world.records[COMPLETED] = None;
            world
        }
        Next::ReturnRecord => world.record_moved(COMPLETED, UPLOADS),
        Next::End => {
            let in_uploads = world.records[UPLOADS].is_some_and(|record| record.says.is_ending());
            let record = if in_uploads { UPLOADS } else { COMPLETED };
            world.then(me, Task::EndCut(at, record))
        }
        Next::Done => {
            world.told.complete |= world.told.created;
            world.done(me)
        }
        // The janitor alone buries and removes; here it is left as it is.
        Next::Torn | Next::Orphan | Next::Receiving => world.done(me),
        Next::OrphanRecord | Next::InMotion | Next::Nothing => world.done(me),
    }
}

/// The names under which the data may be, by what the record says and where it lies.
fn candidates(record: Record, at: usize) -> Vec<Name> {
    let others: &[Name] = match at {
        UPLOADS => &[Name::Uploads, Name::Completed],
        COMPLETED => &[Name::Completed, Name::Uploads],
        FAILED => &[Name::Failed],
        _ => &[],
    };
    record
        .says
        .name()
        .into_iter()
        .chain(others.iter().copied())
        .collect()
}

fn end(mut world: World, me: usize, task: Task) -> Vec<World> {
    let next = match task {
        Task::EndFind(how) => {
            let found = (UPLOADS..=RECEIPTS).find_map(|at| Some((at, world.records[at]?)));
            let Some((at, record)) = found.filter(|(_, record)| !record.says.is_ending()) else {
                return vec![world.done(me)];
            };
            let data = candidates(record, at)
                .into_iter()
                .find(|name| world.has(*name));
            let locked = data.and_then(|data| Some((data, world.locked(me, data)?)));
            match locked {
                Some((data, world)) => world.then(me, Task::EndWrite(data, at, how)),
                None => world.done(me),
            }
        }
        Task::EndWrite(data, at, how) => match world.records[at] {
            None => world.done(me),
            Some(record) if record.says.is_ending() => world.then(me, Task::EndCut(data, at)),
            // Only what is idle is expired.
            Some(record) if how == Said::Expired && record.received => world.done(me),
            Some(record) => {
                world.records[at] = Some(Record {
                    says: how,
                    ..record
                });
                world.ended = true;
                world.then(me, Task::EndCut(data, at))
            }
        },
        Task::EndCut(data, at) => {
            world.content = Content::Cut;
            world.then(me, Task::EndMoveRecord(data, at))
        }
        Task::EndMoveRecord(data, at) => {
            let world = if at == RECEIPTS {
                world
            } else {
                world.record_moved(at, RECEIPTS)
            };
            world.then(me, Task::EndUnlink(data, at))
        }
        Task::EndUnlink(data, at) => {
            let mut world = world.without(data);
            if at == FAILED {
                world.reason = false;
            }
            match data {
                Name::Claimed(claim) => world.then(me, Task::OrphanState(claim)),
                _ => world.done(me),
            }
        }
        _ => world.failed("not an ending"),
    };
    vec![next]
}

fn bury(mut world: World, me: usize, task: Task) -> Vec<World> {
    let next = match task {
        Task::BuryRecord(data, at) => {
            if let Some(record) = &mut world.records[at] {
                record.says = Said::Failed;
            }
            world.then(me, Task::BuryReason(data, at))
        }
        Task::BuryReason(data, at) => {
            world.reason = true;
            world.then(me, Task::BuryMove(data, at))
        }
        Task::BuryMove(data, at) => match world.moved(data, Name::Failed) {
            Some(world) => world.then(me, Task::BuryMoveRecord(data, at)),
            None => world.failed("the data moved under the lock"),
        },
        Task::BuryMoveRecord(data, at) => world
            .record_moved(at, FAILED)
            .then(me, Task::BuryState(data)),
        Task::BuryState(Name::Claimed(claim)) => world.without_state(claim).done(me),
        _ => world.done(me),
    };
    vec![next]
}

fn orphan(mut world: World, me: usize, task: Task) -> Vec<World> {
    let next = match task {
        Task::Orphan(claim) => {
            let receipt = world.records[RECEIPTS].is_some_and(|record| record.says.is_ending());
            if receipt {
                world
                    .without(Name::Claimed(claim))
                    .then(me, Task::OrphanReceipt(claim))
            } else {
                return vec![orphan_by_record(world, me, claim)];
            }
        }
        Task::OrphanReceipt(claim) => {
            world.records[COMPLETED] = None;
            world.then(me, Task::OrphanState(claim))
        }
        Task::OrphanRecord(claim) => {
            let to = world.records[COMPLETED].and_then(|record| record.says.name());
            let to = to.unwrap_or(Name::Completed);
            match world.moved(Name::Claimed(claim), to) {
                Some(world) => world.then(me, Task::OrphanState(claim)),
                None => world.failed("the data moved under the lock"),
            }
        }
        Task::OrphanState(claim) => world.without_state(claim).done(me),
        _ => world.failed("not an orphan"),
    };
    vec![next]
}

fn orphan_by_record(mut world: World, me: usize, claim: u8) -> World {
    let data = Name::Claimed(claim);
    let bury = Task::BuryRecord(data, COMPLETED);
    let has_state = world.states & (1 << claim) != 0;
    match world.records[COMPLETED] {
        None => world.then(me, bury),
        Some(record) if record.says.is_ending() => world.then(me, Task::EndCut(data, COMPLETED)),
        Some(Record {
            says: Said::Failed, ..
        }) => world.then(me, bury),
        // A settlement that was cut short has told its outcome.
        Some(Record {
            says: Said::Deferred,
            ..
        }) => world.then(me, Task::OrphanRecord(claim)),
        Some(Record {
            says: Said::Completed,
            ..
        }) if has_state => world.then(me, Task::OrphanRecord(claim)),
        Some(mut record) => {
            if record.says != Said::Claimed(claim) {
                record.attempts = (record.attempts + 1).min(ATTEMPTS_MAX);
            }
            let used_up = ATTEMPTS_MAX <= record.attempts;
            record.says = if used_up {
                Said::Failed
            } else {
                Said::Completed
            };
            world.records[COMPLETED] = Some(record);
            world.then(
                me,
                if used_up {
                    bury
                } else {
                    Task::OrphanRecord(claim)
                },
            )
        }
    }
}
