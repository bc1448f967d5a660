//! Every order of steps, with a kill before each: a model of what the programs do in the spool.
//!
//! The model knows the steps of each operation in the order in which `shared` and the janitor take
//! them, one upload, and any number of processes of which a few are in the middle of an operation
//! at once. The search tries every order of their steps and kills each of them before each step.
//! After every step: no upload that was received in full is gone without delivery, retention, its
//! client's or an operator's word; nothing is handed over that was not received; no two hooks run
//! for one upload, and none twice with one attempt; no client is told of an upload that is not
//! known. And from every state, what happens by itself leads to a settled one.

mod consume;
mod disk;
mod receive;
mod search;
mod steps;
mod tend;

use search::{Bounds, search};
use steps::Slip;

/// How many processes are at work at once, and how often a client or an operator wishes for
/// something: one and two of a quick run, and a full run's pairs of steps besides.
const QUICK: [(usize, u8); 1] = [(1, 2)];
const FULL: [(usize, u8); 2] = [(1, 3), (2, 0)];

#[test]
fn no_order_of_steps_and_kills_loses_an_upload_or_leaves_one_stuck() {
    for &(slots, wishes) in tests::needs::sized(&QUICK[..], &FULL[..]) {
        let found = search(Bounds {
            slots,
            wishes,
            slip: None,
        });
        println!(
            "{slots} at once, {wishes} wishes: {} states, {} disks, {} moves",
            found.states, found.disks, found.moves
        );
        let violation = found.violation.unwrap_or_default();
        assert!(violation.is_empty(), "{violation}");
    }
}

#[test]
fn every_planted_mistake_is_found() {
    for slip in Slip::ALL {
        let (slots, wishes) = slip.needs();
        let found = search(Bounds {
            slots,
            wishes,
            slip: Some(slip),
        });
        let Some(violation) = found.violation else {
            panic!("{slip:?} goes unnoticed in {} states", found.states);
        };
        let what = violation.lines().next().unwrap_or_default();
        println!("{slip:?}: {what} ({} states)", found.states);
    }
}
