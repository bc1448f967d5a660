//! A command that is started for each call, in a process group of its own.

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::str::FromStr;
use std::time::Duration;

use http::StatusCode;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{AccessFlags, Pid, access};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdin};
use tokio::time::timeout;

use super::{Answer, Call, CallError, InvalidHook};

/// Variables of our own environment that a command gets; the rest may hold our secrets.
const INHERITED: [&str; 5] = ["PATH", "HOME", "LANG", "TZ", "TMPDIR"];

/// What is kept of a command's standard error, for the log.
const STDERR_BYTES: usize = 512;

/// How long after a command's end its output is waited for: somebody that it left running may
/// hold the pipe open.
const OUTPUT_GRACE: Duration = Duration::from_millis(200);

/// A command line, split as a shell would and run without one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Command {
    program: String,
    arguments: Vec<String>,
}

impl FromStr for Command {
    type Err = InvalidHook;

    fn from_str(text: &str) -> Result<Self, InvalidHook> {
        let mut words = shell_words::split(text).unwrap_or_default().into_iter();
        let program = words
            .next()
            .ok_or_else(|| InvalidHook::CommandLine(text.to_owned()))?;
        if !is_found(&program) {
            return Err(InvalidHook::Program(program));
        }
        Ok(Self {
            program,
            arguments: words.collect(),
        })
    }
}

/// Whether the kernel would find something to execute.
fn is_found(program: &str) -> bool {
    if program.contains('/') {
        return is_executable(Path::new(program));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| is_executable(&dir.join(program)))
}

fn is_executable(path: &Path) -> bool {
    let is_file = std::fs::metadata(path)
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0);
    is_file && access(path, AccessFlags::X_OK).is_ok()
}

impl Command {
    /// Runs it once.
    pub(super) async fn run(&self, call: &Call) -> Result<Answer, CallError> {
        let mut child = self.spawn(call)?;
        let group = Group::led_by(&child);
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let mut answer = Vec::new();
        let mut said = Vec::new();
        let status = {
            let heard = async {
                let (read, ()) = tokio::join!(
                    read(stdout, call.answer_bytes_max, &mut answer),
                    tail(stderr, &mut said)
                );
                read
            };
            let mut heard = std::pin::pin!(heard);
            let mut ended = std::pin::pin!(async {
                let ((), status) = tokio::join!(feed(stdin, &call.body), child.wait());
                status
            });
            tokio::select! {
                biased;
                read = &mut heard => {
                    read?;
                    ended.await?
                }
                status = &mut ended => {
                    // What it has written is in the pipe by now.
                    timeout(OUTPUT_GRACE, heard).await.unwrap_or(Ok(()))?;
                    status?
                }
            }
        };
        drop(group);
        match status.success() {
            true => Ok(Answer {
                status: match answer.is_empty() {
                    true => StatusCode::NO_CONTENT,
                    false => StatusCode::OK,
                },
                body: answer,
            }),
            false => Err(CallError::Exit {
                status,
                stderr: one_line(&said),
            }),
        }
    }

    fn spawn(&self, call: &Call) -> io::Result<Child> {
        let inherited = |name: &str| Some((OsString::from(name), std::env::var_os(name)?));
        tokio::process::Command::new(&self.program)
            .args(&self.arguments)
            .env_clear()
            .envs(INHERITED.into_iter().filter_map(inherited))
            .envs(call.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
    }
}

/// A command's process group: it ends with the call, however the call ends.
struct Group(Option<Pid>);

impl Group {
    fn led_by(child: &Child) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        Self(id.map(Pid::from_raw))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Its number is taken for as long as the group has members, and without members there is
        // nothing to end: numbers are not given out again before all others have been.
        if let Some(group) = self.0 {
            killpg(group, Signal::SIGKILL).ok();
        }
    }
}

/// A command need not read its input.
async fn feed(stdin: Option<ChildStdin>, bytes: &[u8]) {
    if let Some(mut stdin) = stdin {
        stdin.write_all(bytes).await.ok();
    }
}

/// Reads to the end into `answer`; an answer that is too long is not read on.
async fn read(
    stream: Option<impl AsyncRead + Unpin>,
    most: usize,
    answer: &mut Vec<u8>,
) -> Result<(), CallError> {
    let Some(mut stream) = stream else {
        return Ok(());
    };
    let mut piece = [0; 8192];
    loop {
        match stream.read(&mut piece).await? {
            0 => return Ok(()),
            n if most < answer.len() + n => return Err(CallError::TooLong(most)),
            n => answer.extend_from_slice(&piece[..n]),
        }
    }
}

/// Reads to the end and keeps the last of it.
async fn tail(stream: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    let Some(mut stream) = stream else { return };
    let mut piece = [0; 8192];
    while let Ok(n @ 1..) = stream.read(&mut piece).await {
        kept.extend_from_slice(&piece[..n]);
        let excess = kept.len().saturating_sub(STDERR_BYTES);
        kept.drain(..excess);
    }
}

fn one_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let text: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use http::HeaderMap;

    use super::super::Hook;
    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    fn call(script: &str, body: &[u8], patience: Duration) -> Result<Answer, CallError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let hook = Hook::Command(Command {
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
        });
        let call = Call {
            body: body.to_vec(),
            environment: vec![("UPLOAD_ID", "7".into())],
            fields: HeaderMap::new(),
            answer_bytes_max: 1000,
        };
        runtime.block_on(hook.call(&call, patience))
    }

    fn answer(script: &str, body: &[u8]) -> String {
        let answer = call(script, body, LONG).unwrap();
        let expected = match answer.body.is_empty() {
            true => StatusCode::NO_CONTENT,
            false => StatusCode::OK,
        };
        assert_eq!(answer.status, expected);
        String::from_utf8(answer.body).unwrap()
    }

    #[test]
    fn it_reads_its_input_and_is_heard() {
        assert_eq!(answer("true", b""), "");
        assert_eq!(answer("cat; echo !", b"hello"), "hello!\n");
        // More input than a pipe holds, unread.
        assert_eq!(answer("echo $UPLOAD_ID", &[b'x'; 1 << 20]), "7\n");
    }

    #[test]
    fn its_environment_holds_nothing_of_ours() {
        let names = answer("env | cut -d= -f1 | sort", b"");
        let allowed = [
            "PATH",
            "HOME",
            "LANG",
            "TZ",
            "TMPDIR",
            "UPLOAD_ID",
            "PWD",
            "SHLVL",
            "_",
            "OLDPWD",
        ];
        for name in names.lines() {
            assert!(allowed.contains(&name), "{name}");
        }
    }

    #[test]
    fn a_bad_end_is_an_error_with_what_it_said_last() {
        let failed = call(
            "echo one >&2; printf 'two\\n\\tthree' >&2; exit 7",
            b"",
            LONG,
        );
        let text = failed.unwrap_err().to_string();
        assert!(
            text.contains("7") && text.ends_with("one two three"),
            "{text}"
        );
        let killed = call("kill -KILL $$", b"", LONG).unwrap_err().to_string();
        assert!(killed.contains("signal"), "{killed}");
    }

    #[test]
    fn an_endless_answer_is_cut_off_at_once_and_ends_the_command() {
        let began = Instant::now();
        let cut = call("yes & yes; wait", b"", LONG);
        assert!(matches!(cut, Err(CallError::TooLong(1000))), "{cut:?}");
        assert!(began.elapsed() < LONG);
        // Endless talk on standard error is no answer, and costs no memory.
        let talk = call("yes >&2", b"", Duration::from_millis(300));
        assert!(matches!(talk, Err(CallError::TimedOut(_))), "{talk:?}");
    }

    #[test]
    fn one_that_hangs_is_ended_with_all_that_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().display();
        let script = format!("sleep 1000 & echo $! >{path}/pid; echo $$ >>{path}/pid; wait");
        let hung = call(&script, b"", Duration::from_secs(3));
        assert!(matches!(hung, Err(CallError::TimedOut(_))), "{hung:?}");
        let pids = std::fs::read_to_string(dir.path().join("pid")).unwrap();
        assert_eq!(pids.lines().count(), 2);
        let deadline = Instant::now() + LONG;
        for pid in pids.lines() {
            let stat = format!("/proc/{pid}/stat");
            let lives = || std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z "));
            while lives() {
                assert!(Instant::now() < deadline, "{pid} lives on");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    #[test]
    fn what_it_leaves_running_does_not_hold_up_its_answer() {
        let began = Instant::now();
        assert_eq!(answer("sleep 1000 & echo done", b""), "done\n");
        assert!(began.elapsed() < LONG);
    }
}
