//! Places at which a debug build of our programs can be told to die, stop or meet an error.

use std::process::Command;

/// The variable that debug builds read: `name=what[@n]`, separated by semicolons.
const VARIABLE: &str = "TUSPOOL_FAILPOINTS";

/// What happens at a failpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL to itself: nothing is cleaned up, no buffer is flushed.
    Kill,
    /// SIGSTOP to itself: the test looks at the state and kills or continues it.
    Stop,
    /// The step fails with this errno name (`ENOSPC`, `EIO`) instead of being done.
    Error(&'static str),
}

/// One failpoint to arm.
#[derive(Clone, Debug)]
pub struct Failpoint {
    name: String,
    fault: Fault,
    /// At which passage it happens, counted from 1; every passage if `None`.
    passage: Option<u32>,
}

impl Failpoint {
    /// `fault` at the place `name`, every time it is passed.
    #[must_use]
    pub fn new(name: &str, fault: Fault) -> Self {
        Self {
            name: name.to_owned(),
            fault,
            passage: None,
        }
    }

    /// Only at the `n`th passage, counted from 1.
    #[must_use]
    pub fn at_passage(mut self, n: u32) -> Self {
        self.passage = Some(n);
        self
    }

    fn spelled(&self) -> String {
        let fault = match &self.fault {
            Fault::Kill => "kill".to_owned(),
            Fault::Stop => "stop".to_owned(),
            Fault::Error(errno) => format!("error:{errno}"),
        };
        let passage = self.passage.map(|n| format!("@{n}")).unwrap_or_default();
        format!("{}={fault}{passage}", self.name)
    }
}

/// Arms failpoints in a program that is about to be started.
pub fn arm(command: &mut Command, failpoints: &[Failpoint]) {
    // A build without failpoints refuses to start when the variable is set.
    if !failpoints.is_empty() {
        let spelled: Vec<String> = failpoints.iter().map(Failpoint::spelled).collect();
        command.env(VARIABLE, spelled.join(";"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failpoints_are_spelled_as_the_programs_read_them() {
        let mut command = Command::new("true");
        let kill = Failpoint::new("create_record", Fault::Kill);
        let full = Failpoint::new("hand_over", Fault::Error("ENOSPC")).at_passage(2);
        arm(
            &mut command,
            &[kill, full, Failpoint::new("x", Fault::Stop)],
        );
        let (_, value) = command.get_envs().next().unwrap();
        assert_eq!(
            value.unwrap(),
            "create_record=kill;hand_over=error:ENOSPC@2;x=stop"
        );
    }
}
