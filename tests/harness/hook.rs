//! Hooks that write down when they ran and for what.

use std::path::PathBuf;

use crate::pipeline::Pipeline;

/// A shell script to be used as a hook. It notes its start and its end in a file.
pub struct Hook {
    script: PathBuf,
    log: PathBuf,
}

/// One run of a hook.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Run {
    /// The upload it ran for.
    pub id: String,
    /// The attempt that it was told.
    pub attempt: u32,
    /// Whether it came to its end.
    pub ended: bool,
}

impl Hook {
    /// A hook that does `body`, a piece of shell in which `$ID`, `$ATTEMPT`, `$FILE` and `$NAME`
    /// stand for the upload.
    ///
    /// # Panics
    /// If the script cannot be written.
    #[must_use]
    pub fn new(pipeline: &Pipeline, name: &str, body: &str) -> Self {
        let script = pipeline.path(&format!("{name}.sh"));
        let log = pipeline.path(&format!("{name}.log"));
        // Each line is one write to a file opened for appending: lines never mix.
        let text = format!(
            "ID=$1 ATTEMPT=$2 FILE=$3 NAME=$4 LOG={log}\n\
             note() {{ echo \"$1 $ID $ATTEMPT\" >>\"$LOG\"; }}\n\
             trap 'note end' EXIT\n\
             note start\n\
             {body}\n",
            log = log.display(),
        );
        std::fs::write(&script, text).expect("the pipeline's directory is writable");
        Self { script, log }
    }

    /// The command line to give to a consumer.
    #[must_use]
    pub fn command(&self) -> String {
        format!(
            "/bin/sh {} {{id}} {{attempt}} {{file}} {{filename}}",
            self.script.display()
        )
    }

    /// All runs so far, in the order of their starts.
    ///
    /// # Panics
    /// If two runs for one upload were under way at once: that never may be.
    #[must_use]
    pub fn runs(&self) -> Vec<Run> {
        runs(&std::fs::read_to_string(&self.log).unwrap_or_default())
    }
}

fn runs(log: &str) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    // A last line without its end is still being written.
    for line in log
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'))
    {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [what, id, attempt] = words[..] else {
            panic!("not a hook's note: {line:?}")
        };
        let attempt = attempt.parse().expect("an attempt is a number");
        let under_way = runs.iter_mut().rev().find(|run| run.id == id && !run.ended);
        match (what, under_way) {
            ("start", None) => runs.push(Run {
                id: id.to_owned(),
                attempt,
                ended: false,
            }),
            ("end", Some(run)) if run.attempt == attempt => run.ended = true,
            _ => panic!("two runs at once for {id}:\n{log}"),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_read_in_order_of_their_starts() {
        let run = |id: &str, attempt, ended| Run {
            id: id.to_owned(),
            attempt,
            ended,
        };
        let log = "start a 1\nstart b 1\nend a 1\nstart a 2\nend b 1\nend a";
        assert_eq!(
            runs(log),
            [run("a", 1, true), run("b", 1, true), run("a", 2, false)]
        );
    }

    #[test]
    fn two_runs_at_once_for_one_upload_are_noticed() {
        let both = std::panic::catch_unwind(|| runs("start a 1\nstart a 2\n"));
        assert!(both.is_err());
    }
}
