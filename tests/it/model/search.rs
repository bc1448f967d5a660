//! Breadth-first search through all worlds.

use std::collections::{HashMap, VecDeque};

use super::world::{Holder, PROCESSES, Task, World};
use super::{consumer, ingest, janitor};

/// What a search found.
pub(super) struct Explored {
    /// Different worlds.
    pub(super) states: usize,
    /// Steps that lead from one to another.
    pub(super) steps: usize,
    /// A world that must not be, and the shortest way to it.
    pub(super) violation: Option<(&'static str, Vec<World>)>,
    /// A world from which nothing leads to the end, even if nobody is killed any more.
    pub(super) stuck: Option<World>,
}

/// All that can happen next if nobody is killed.
fn calm_steps(world: World) -> Vec<World> {
    let mut next = Vec::new();
    for me in 0..PROCESSES {
        next.extend(match me {
            0 | 1 => ingest::steps(world, me),
            2 | 3 => consumer::steps(world, me),
            _ => janitor::steps(world, me),
        });
    }
    let alone = world.hook.is_some()
        && !world
            .tasks
            .iter()
            .any(|task| matches!(task, Task::HookRuns(_)));
    if alone || world.holder == Some(Holder::Hook) {
        next.push(world.hook_ended());
    }
    next
}

fn kills(world: World) -> impl Iterator<Item = World> {
    let busy = (0..PROCESSES).filter(move |process| world.tasks[*process] != Task::Idle);
    busy.map(move |process| world.killed(process))
}

/// Goes through every world that can be reached from `start`.
pub(super) fn explore(
    start: World,
    invariants: impl Fn(&World) -> Result<(), &'static str>,
    is_settled: impl Fn(&World) -> bool,
) -> Explored {
    let mut worlds = vec![start];
    let mut numbers = HashMap::from([(start, 0_u32)]);
    // For each world, the one it was first reached from, and (for calm steps) all of them.
    let mut first_from = vec![0_u32];
    let mut calm_from: Vec<Vec<u32>> = vec![Vec::new()];
    let mut steps = 0;
    let mut queue = VecDeque::from([0_u32]);
    while let Some(here) = queue.pop_front() {
        let world = worlds[here as usize];
        if let Err(why) = invariants(&world) {
            let trace = trace(&worlds, &first_from, here);
            return Explored {
                states: worlds.len(),
                steps,
                violation: Some((why, trace)),
                stuck: None,
            };
        }
        let calm = calm_steps(world).into_iter().map(|next| (next, true));
        for (next, calm) in calm.chain(kills(world).map(|next| (next, false))) {
            steps += 1;
            let fresh = u32::try_from(worlds.len()).expect("the model is not that large");
            let number = *numbers.entry(next).or_insert(fresh);
            if number == fresh {
                worlds.push(next);
                first_from.push(here);
                calm_from.push(Vec::new());
                queue.push_back(number);
            }
            if calm {
                calm_from[number as usize].push(here);
            }
        }
    }
    let stuck = find_stuck(&worlds, &calm_from, is_settled);
    Explored {
        states: worlds.len(),
        steps,
        violation: None,
        stuck,
    }
}

fn trace(worlds: &[World], first_from: &[u32], mut here: u32) -> Vec<World> {
    let mut trace = vec![worlds[here as usize]];
    while here != 0 {
        here = first_from[here as usize];
        trace.push(worlds[here as usize]);
    }
    trace.reverse();
    trace
}

/// A world from which no calm way leads to a settled one.
fn find_stuck(
    worlds: &[World],
    calm_from: &[Vec<u32>],
    is_settled: impl Fn(&World) -> bool,
) -> Option<World> {
    let mut hopeful = vec![false; worlds.len()];
    let settled = (0..worlds.len()).filter(|here| is_settled(&worlds[*here]));
    let mut queue: Vec<usize> = settled.collect();
    while let Some(here) = queue.pop() {
        if std::mem::replace(&mut hopeful[here], true) {
            continue;
        }
        queue.extend(
            calm_from[here]
                .iter()
                .map(|from| *from as usize)
                .filter(|from| !hopeful[*from]),
        );
    }
    hopeful
        .iter()
        .position(|hopeful| !hopeful)
        .map(|here| worlds[here])
}
