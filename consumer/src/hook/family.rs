//! The processes that commands leave behind.
//!
//! A command may start others and exit before them, on purpose or by mistake. This process is
//! made their *subreaper*: whatever loses its parent becomes our child instead of init's. So
//! everything that a command started can be found, ended with it and reaped; nothing stays as a
//! zombie when we are process 1 of a container.
//!
//! A stray of a command is told by its process group or session, or by the claim in its
//! environment; it is left alone while that command runs and ended when it has. One that hides
//! all three (`env -i setsid …`) is ended once every command that ran when it was first seen is
//! over: never too early, and not for ever.

use std::collections::{HashMap, HashSet};
use std::io;
use std::process::{Child, ExitStatus};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use shared::id::ClaimId;

/// The variable by which a process is known to belong to a claim's command.
pub const CLAIM_VARIABLE: &str = "UPLOAD_CLAIM";

/// One per process, as children are: with two of these, each would take the other's for strays.
static FAMILY: LazyLock<Mutex<Family>> = LazyLock::new(Mutex::default);

#[derive(Debug, Default)]
struct Family {
    /// The commands that run, by process (which is also group and session).
    running: HashMap<Pid, ClaimId>,
    /// Strays that could not be told, with the commands that may have left them.
    unknown: HashMap<Pid, HashSet<Pid>>,
}

/// A process as far as it tells whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stray {
    group: Pid,
    session: Pid,
    claim: Option<ClaimId>,
}

/// Becomes the subreaper of all that commands start. Once, at start.
///
/// # Errors
/// As prctl(2) with `PR_SET_CHILD_SUBREAPER`.
pub fn adopt_orphans() -> io::Result<()> {
    Ok(nix::sys::prctl::set_child_subreaper(true)?)
}

/// Starts a command that becomes the leader of its own group and session.
pub(super) fn start(
    claim: ClaimId,
    spawn: impl FnOnce() -> io::Result<Child>,
) -> io::Result<(Child, Pid)> {
    // Under the lock, so that no sweep sees a child that is not yet known to run.
    let mut family = lock();
    let child = spawn()?;
    let pid = i32::try_from(child.id()).map_err(|_| io::Error::from(Errno::EOVERFLOW))?;
    let pid = Pid::from_raw(pid);
    family.running.insert(pid, claim);
    Ok((child, pid))
}

/// Ends what is left of a command whose leader has exited but is not yet reaped (so that its
/// number cannot have been given to another), reaps the leader, and forgets it.
pub(super) fn end(pid: Pid, child: &mut Child) -> io::Result<ExitStatus> {
    if let Err(Errno::EPERM) = killpg(pid, Signal::SIGKILL) {
        tracing::warn!("what the command left has changed its user and cannot be ended");
    }
    let status = child.wait();
    lock().running.remove(&pid);
    status
}

/// Reaps strays that are dead and ends those whose command is over. Returns how many still live
/// that should not.
pub fn sweep() -> usize {
    let mut family = lock();
    let children = children();
    family.unknown.retain(|pid, _| children.contains(pid));
    let mut doomed = 0;
    for pid in children {
        if family.running.contains_key(&pid) || reap(pid) {
            continue;
        }
        let Some(stray) = describe(pid) else { continue };
        if family.is_doomed(pid, &stray) {
            doomed += 1;
            tracing::warn!(
                pid = pid.as_raw(),
                "ending a process that a command left behind"
            );
            // It is our unreaped child, so the number is still its own.
            kill(pid, Signal::SIGKILL).ok();
            reap(pid);
        }
    }
    doomed
}

/// Ends every process of this host that has the claim in its environment; returns how many.
/// Expensive, as it looks at all processes.
pub fn end_by_claim(claim: ClaimId) -> usize {
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return 0;
    };
    let own = nix::unistd::getpid();
    let pids = processes
        .flatten()
        .filter_map(|entry| pid(entry.file_name().to_str()?));
    let theirs =
        |pid: &Pid| *pid != own && describe(*pid).is_some_and(|stray| stray.claim == Some(claim));
    pids.filter(theirs)
        .filter(|pid| kill(*pid, Signal::SIGKILL).is_ok())
        .count()
}

impl Family {
    fn is_doomed(&mut self, pid: Pid, stray: &Stray) -> bool {
        let owned = |(leader, claim): (&Pid, &ClaimId)| {
            stray.group == *leader || stray.session == *leader || stray.claim == Some(*claim)
        };
        if self.running.iter().any(owned) {
            return false;
        }
        if stray.claim.is_some() {
            return true;
        }
        let running: HashSet<Pid> = self.running.keys().copied().collect();
        let suspects = self.unknown.entry(pid).or_insert_with(|| running.clone());
        suspects.retain(|leader| running.contains(leader));
        suspects.is_empty()
    }
}

fn lock() -> MutexGuard<'static, Family> {
    FAMILY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes the exit status of a child that has ended; whether it had.
fn reap(pid: Pid) -> bool {
    let status = waitpid(pid, Some(WaitPidFlag::WNOHANG));
    !matches!(status, Ok(nix::sys::wait::WaitStatus::StillAlive))
}

/// Our children, whichever of our threads started or inherited them.
fn children() -> HashSet<Pid> {
    let mut children = HashSet::new();
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else {
        return children;
    };
    for thread in threads.flatten() {
        // A thread may end meanwhile; its children pass to another.
        match std::fs::read_to_string(thread.path().join("children")) {
            Ok(list) => children.extend(list.split_ascii_whitespace().filter_map(pid)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_) => {}
        }
    }
    children
}

fn pid(text: &str) -> Option<Pid> {
    text.parse().ok().map(Pid::from_raw)
}

/// What /proc tells of a process; `None` if it is gone.
fn describe(pid: Pid) -> Option<Stray> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (group, session) = group_and_session(&stat)?;
    // Unreadable (another user's) and emptied environments are alike.
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    Some(Stray {
        group,
        session,
        claim: claim_of(&environment),
    })
}

/// Fields 5 and 6 of /proc/PID/stat. The name in field 2 may contain anything, `)` too.
fn group_and_session(stat: &str) -> Option<(Pid, Pid)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(2);
    Some((pid(fields.next()?)?, pid(fields.next()?)?))
}

fn claim_of(environment: &[u8]) -> Option<ClaimId> {
    environment.split(|&b| b == 0).find_map(|entry| {
        let value = std::str::from_utf8(entry)
            .ok()?
            .strip_prefix(CLAIM_VARIABLE)?;
        value.strip_prefix('=')?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(n: i32) -> Pid {
        Pid::from_raw(n)
    }

    fn stray(group: i32, session: i32, claim: Option<ClaimId>) -> Stray {
        Stray {
            group: process(group),
            session: process(session),
            claim,
        }
    }

    #[test]
    fn a_stray_is_left_alone_while_its_command_runs() {
        let claim = ClaimId::generate();
        let mut family = Family::default();
        family.running.insert(process(10), claim);
        let own = [
            stray(10, 10, None),
            stray(99, 10, None),
            stray(99, 99, Some(claim)),
        ];
        for stray in &own {
            assert!(!family.is_doomed(process(50), stray), "{stray:?}");
        }
        family.running.clear();
        family.running.insert(process(11), ClaimId::generate());
        assert!(family.is_doomed(process(50), &own[2]));
    }

    #[test]
    fn one_that_hides_is_ended_after_all_who_may_have_left_it() {
        let hidden = stray(77, 77, None);
        let mut family = Family::default();
        family.running.insert(process(10), ClaimId::generate());
        family.running.insert(process(11), ClaimId::generate());
        assert!(!family.is_doomed(process(50), &hidden));
        family.running.remove(&process(10));
        family.running.insert(process(12), ClaimId::generate());
        assert!(!family.is_doomed(process(50), &hidden));
        family.running.remove(&process(11));
        assert!(
            family.is_doomed(process(50), &hidden),
            "12 began after it was seen"
        );
    }

    #[test]
    fn a_process_name_cannot_fake_its_group() {
        let stat = "50 (a) S 1 2 3) S 40 41 42 0 -1 4194304";
        assert_eq!(group_and_session(stat), Some((process(41), process(42))));
        assert_eq!(group_and_session("50 (sh"), None);
        assert_eq!(group_and_session("50 (sh) S 1"), None);
    }

    #[test]
    fn the_claim_is_read_from_the_environment() {
        let claim = ClaimId::generate();
        let environment = format!("PATH=/bin\0UPLOAD_CLAIM={claim}\0HOME=/");
        assert_eq!(claim_of(environment.as_bytes()), Some(claim));
        for other in [
            "",
            "UPLOAD_CLAIM=",
            "UPLOAD_CLAIM=x",
            "XUPLOAD_CLAIM=",
            "UPLOAD_CLAIMS=y",
        ] {
            assert_eq!(claim_of(other.as_bytes()), None, "{other}");
        }
    }
}
