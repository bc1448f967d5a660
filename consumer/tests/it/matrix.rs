//! Every class of outcome × every attempt × a kill at every step: the upload always ends in the
//! documented state, its attempts are counted once each, and no command ever runs twice at once.

use std::sync::atomic::{AtomicUsize, Ordering};

use shared::failpoint::{self, Failpoint};
use shared::id::UploadId;
use shared::lookup::State;

use crate::bench::{Bench, killed};

/// Attempts in all; so there is a first, a middle and a last one.
const ATTEMPTS: u32 = 3;

/// What the command does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Exit code 0.
    Done,
    /// Exit code 1, or 75, by the attempt.
    Failed,
    /// Exit code 65.
    Rejected,
    /// Killed by a signal.
    Signalled,
    /// Runs too long.
    Slow,
    /// Cannot be started.
    Unstartable,
}

const CLASSES: [Class; 6] = [
    Class::Done,
    Class::Failed,
    Class::Rejected,
    Class::Signalled,
    Class::Slow,
    Class::Unstartable,
];

/// Where the first consumer is killed. All that concern a consumer, in the order of its steps.
const POINTS: [Failpoint; 13] = [
    Failpoint::ClaimLocked,
    Failpoint::ClaimRenamed,
    Failpoint::ClaimStateWritten,
    Failpoint::DeliverChosen,
    Failpoint::DeliverNamed,
    Failpoint::HookStarted,
    Failpoint::HookEnded,
    Failpoint::SettleDelivered,
    Failpoint::SettleReceiptWritten,
    Failpoint::SettleDataRemoved,
    Failpoint::SettleRetryRecorded,
    Failpoint::SettleReasonWritten,
    Failpoint::SettleDataFailed,
];

/// What the documentation promises once somebody has finished what the killed consumer left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Promise {
    state: State,
    attempts: u32,
}

/// `attempt` is the one during which the consumer was killed at `point`, `None` if it was not.
fn promise(class: Class, attempt: u32, point: Option<Failpoint>) -> Promise {
    use Failpoint as F;
    let told = match point {
        // Killed before it was its own, the attempt was never begun.
        None | Some(F::ClaimLocked) => return without_kill(class, attempt),
        Some(F::SettleReceiptWritten | F::SettleDataRemoved) => {
            return Promise {
                state: State::Delivered,
                attempts: attempt,
            };
        }
        Some(F::SettleReasonWritten | F::SettleDataFailed) => {
            return Promise {
                state: State::Failed,
                attempts: attempt,
            };
        }
        // The outcome is told, or else the attempt is lost; the next one comes in both cases.
        Some(F::SettleRetryRecorded) => true,
        Some(_) => false,
    };
    if attempt == ATTEMPTS && !told {
        // Nobody knows what came of the last attempt: to be looked at by a person.
        return Promise {
            state: State::Failed,
            attempts: attempt,
        };
    }
    if class == Class::Unstartable && told {
        // Put back: the attempt was taken back before it was told.
        return without_kill(class, attempt);
    }
    without_kill(class, attempt + 1)
}

/// What comes of it when nothing kills a consumer from this attempt on.
fn without_kill(class: Class, attempt: u32) -> Promise {
    match class {
        Class::Done => Promise {
            state: State::Delivered,
            attempts: attempt,
        },
        Class::Rejected => Promise {
            state: State::Failed,
            attempts: attempt,
        },
        Class::Failed | Class::Signalled | Class::Slow => Promise {
            state: State::Failed,
            attempts: ATTEMPTS,
        },
        Class::Unstartable => Promise {
            state: State::Queued,
            attempts: attempt - 1,
        },
    }
}

fn command(bench: &Bench, class: Class) -> String {
    let body = match class {
        Class::Done => "exit 0",
        Class::Failed => "[ $UPLOAD_ATTEMPT = 2 ] && exit 75; exit 1",
        Class::Rejected => "exit 65",
        Class::Signalled => "rmdir $L; kill -9 $$",
        Class::Slow => "exec sleep 1000",
        Class::Unstartable => "",
    };
    let script = bench.path("hook");
    let first = match class {
        // Passes every check at start; only the kernel finds out.
        Class::Unstartable => "#!/no/such/interpreter",
        _ => "#!/bin/sh",
    };
    // A directory is made by one at a time. A killed command leaves its own behind; who finds it
    // looks whether the one before still lives (dead but not yet reaped is dead).
    let text = format!(
        "{first}\nL={dir}/lock.$UPLOAD_ID\n\
         echo $UPLOAD_ATTEMPT >> {dir}/attempts\n\
         if ! mkdir $L 2>/dev/null; then P=$(cat {dir}/pid); \
         [ -e /proc/$P ] && ! grep -q ') [ZX]' /proc/$P/stat && touch {dir}/twice; fi\n\
         echo $$ > {dir}/pid\n\
         trap 'rmdir $L' EXIT\n{body}\n",
        dir = bench.path("").display()
    );
    std::fs::write(&script, text).unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&script, executable).unwrap();
    script.to_str().unwrap().to_owned()
}

fn check(class: Class, attempt: u32, point: Failpoint) {
    let what = format!("{class:?}, attempt {attempt}, killed at {}", point.name());
    let bench = Bench::new();
    let id = bench.upload_with(|record| record.attempts = attempt - 1);
    let hook = command(&bench, class);
    let attempts = ATTEMPTS.to_string();
    let args = [
        "--move-to",
        "$D/out",
        "--hook",
        &hook,
        "--max-attempts",
        &attempts,
        "--backoff-base",
        "1ms",
        "--hook-timeout",
        "500ms",
        "--kill-grace",
        "1s",
    ];
    let first = [&["--once"][..], &args].concat();
    let rule = format!("{}=kill", point.name());
    let mut consumer = bench.consumer(&first);
    let status = consumer.env(failpoint::VARIABLE, rule).status().unwrap();
    let killed = killed(status);
    let code = bench.run(&[&["--drain"][..], &args].concat()).code();
    // Without a kill the first consumer has had its attempt in peace.
    let expected = promise(class, attempt, killed.then_some(point));
    let expected_code = if class == Class::Unstartable && expected.state == State::Queued {
        78
    } else {
        0
    };
    assert_eq!(code, Some(expected_code), "{what}: {}", bench.read("log"));
    verify(&bench, id, expected, &what);
}

fn verify(bench: &Bench, id: UploadId, expected: Promise, what: &str) {
    let found = bench.found(id);
    let really = Promise {
        state: found.state(),
        attempts: found.record.attempts,
    };
    assert_eq!(really, expected, "{what}: {}", bench.read("log"));
    let names = match expected.state {
        State::Delivered => vec![],
        State::Failed => {
            vec![
                format!("failed/{id}"),
                format!("failed/{id}.meta"),
                format!("failed/{id}.reason.json"),
            ]
        }
        _ => vec![format!("completed/{id}"), format!("completed/{id}.meta")],
    };
    assert_eq!(bench.left(), names, "{what}");
    assert!(
        !bench.path("twice").try_exists().unwrap(),
        "{what}: two commands at once"
    );
    let log = bench.read("attempts");
    let attempts: Vec<u32> = log.lines().map(|line| line.parse().unwrap()).collect();
    assert!(attempts.is_sorted_by(|a, b| a < b), "{what}: {attempts:?}");
    let out: Vec<_> = std::fs::read_dir(bench.path("out"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(out.len() <= 1, "{what}: {out:?}");
    if expected.state == State::Delivered {
        assert_eq!(out, [id.to_string()], "{what}");
    }
    for name in out {
        assert_eq!(bench.read(&format!("out/{name}")), "hello", "{what}");
    }
}

#[test]
fn every_outcome_at_every_attempt_survives_a_kill_at_every_step() {
    if !failpoint::BUILT_IN {
        return;
    }
    let cases: Vec<_> = CLASSES
        .iter()
        .flat_map(|&class| (1..=ATTEMPTS).map(move |attempt| (class, attempt)))
        .flat_map(|(class, attempt)| POINTS.iter().map(move |&point| (class, attempt, point)))
        .collect();
    // Most of a case is waiting for processes.
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while let Some(&(class, attempt, point)) =
                    cases.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    check(class, attempt, point);
                }
            });
        }
    });
}
