//! Every order in which two ingests, two consumers and the janitor can take their steps on one
//! upload, with a SIGKILL possible before each: an exhaustive search.
//!
//! The world is what lies in the spool, who holds the lock, and where each process stands. A step
//! is one system call that changes something (or a look whose result decides what comes next).
//! The steps are written down again here, from ARCHITECTURE.md and not by calling the code, but
//! for the decision [`shared::handover::next`]: a mistake in the *order* of steps shows here, one
//! in their execution in the tests beside the code and in `crash`.
//!
//! A grace is modelled as "nobody else is in the middle of anything": what looks half done and is
//! not guarded by a lock is only touched then.

mod consumer;
mod ingest;
mod janitor;
mod search;
mod steps;
mod world;

use search::{Explored, explore};
use world::{Said, World};

/// What a world must never be.
fn invariants(world: &World) -> Result<(), &'static str> {
    if let Some(wrong) = world.wrong {
        return Err(wrong);
    }
    let there = world.data != 0 && world.content == world::Content::Whole;
    if world.told.complete && !there && !world.delivered && !world.ended {
        return Err("an upload that its client was told is complete is gone");
    }
    if world.told.created && world.data == 0 && !world.delivered && !world.ended {
        return Err("an upload that its client knows of is gone");
    }
    Ok(())
}

/// A world in which nothing is left to be done.
fn is_settled(world: &World) -> bool {
    let [uploads, completed, failed, receipt] = world.records;
    let nobody = world.is_calm() && world.states == 0 && !world.temporary && uploads.is_none();
    let receipt_only = world.data == 0 && failed.is_none() && completed.is_none() && !world.reason;
    let ended = receipt.is_none_or(|record| record.says.is_ending());
    let dead = world.data == world::Name::Failed.bit() && completed.is_none() && receipt.is_none();
    nobody && ((receipt_only && ended) || dead)
}

fn check(explored: &Explored) {
    if let Some((why, trace)) = &explored.violation {
        let trace: Vec<_> = trace.iter().map(|world| format!("{world:?}")).collect();
        panic!("{why}:\n{}", trace.join("\n"));
    }
    if let Some(stuck) = &explored.stuck {
        panic!("no way forward from {stuck:?}");
    }
}

#[test]
fn no_order_of_steps_and_kills_loses_an_upload_or_leaves_one_stuck() {
    let explored = explore(World::new(), invariants, is_settled);
    check(&explored);
    println!(
        "model: {} states, {} steps between them",
        explored.states, explored.steps
    );
    assert!(
        explored.states > 10_000,
        "the model has become trivial: {}",
        explored.states
    );
}

#[test]
fn the_model_finds_a_recovery_that_does_not_take_the_lock() {
    let mut world = World::new();
    world.slip = world::Slip::RecoverWithoutLock;
    assert!(explore(world, invariants, is_settled).violation.is_some());
}

#[test]
fn the_model_finds_a_consumer_that_unlinks_before_the_receipt() {
    let mut world = World::new();
    world.slip = world::Slip::UnlinkBeforeReceipt;
    let explored = explore(world, invariants, is_settled);
    assert!(explored.violation.is_some() || explored.stuck.is_some());
}

#[test]
fn the_model_finds_a_hook_that_does_not_inherit_the_lock() {
    let mut world = World::new();
    world.slip = world::Slip::HookWithoutLock;
    let explored = explore(world, invariants, is_settled);
    assert_eq!(
        explored.violation.map(|(why, _)| why),
        Some("two hooks run at once")
    );
}

#[test]
fn every_ending_that_a_record_can_tell_is_one() {
    let endings = [Said::Delivered, Said::Terminated, Said::Expired];
    assert!(endings.iter().all(|said| said.is_ending()));
    let others = [
        Said::Uploads,
        Said::Completed,
        Said::Claimed(0),
        Said::Deferred,
        Said::Failed,
    ];
    assert!(!others.iter().any(|said| said.is_ending()));
}
