//! A whole run: all jobs, a few at a time, and the exit code that comes of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, JoinSet};

use crate::config::{Config, Memory, Task};
use crate::display::Display;
use crate::exit::{Exit, UploadError};
use crate::job::{self, delivered};
use crate::report::{Report, summary};
use crate::session::Session;
use crate::terminate;
use crate::walk::{Found, Job, walk};

/// What one job came to.
struct Ended {
    exit: Exit,
    /// The uploads' lengths.
    bytes: u64,
    /// What earlier runs had sent of them.
    before: u64,
}

/// Runs until all is done or a signal comes.
pub(crate) async fn run(config: Config) -> Exit {
    let (Ok(mut interrupt), Ok(mut termination)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) else {
        return Exit::Local;
    };
    let found = match &config.task {
        Task::Files(words) => walk(words),
        Task::Random(length) => Found {
            jobs: vec![Job::random(*length)],
            ..Found::default()
        },
        Task::Terminate(_) | Task::Completions(_) | Task::Man => Found::default(),
    };
    let display = Display::new(config.quiet, found.jobs.len());
    let told = display.clone();
    let keeps = config.memory != Memory::Off && matches!(config.task, Task::Files(_));
    let interrupted = |exit| {
        told.clear();
        let hint = if keeps {
            "; the same command goes on from here"
        } else {
            ""
        };
        told.complain(&format!("upload: interrupted{hint}"));
        exit
    };
    tokio::select! {
        exit = act(config, found, display) => exit,
        _ = interrupt.recv() => interrupted(Exit::Interrupted),
        _ = termination.recv() => interrupted(Exit::Terminated),
    }
}

async fn act(config: Config, found: Found, display: Display) -> Exit {
    let report = Report {
        display: display.clone(),
        json: config.json,
        quiet: config.quiet,
    };
    if let Task::Terminate(urls) = &config.task {
        let urls = urls.clone();
        return terminate::all(config, &urls, display, &report).await;
    }
    for skipped in &found.skipped {
        display.say(&format!("{skipped}: skipped, not a regular file"));
    }
    let mut first_failure = None;
    for (name, error) in &found.failures {
        report.failed(Some(name), None, error);
        first_failure.get_or_insert(error.exit());
    }
    if found.jobs.is_empty() {
        display.say("nothing to upload");
        return first_failure.unwrap_or(Exit::Success);
    }
    let session = match open(config, display.clone()).await {
        Ok(session) => Arc::new(session),
        Err(error) => {
            display.clear();
            report.failed(None, None, &error);
            return error.exit();
        }
    };
    let begun = Instant::now();
    let count = found.jobs.len();
    let ended = run_jobs(&session, found.jobs, &report).await;
    display.clear();
    if count > 1 {
        conclude(&ended, begun.elapsed(), &display);
    }
    let failures = ended
        .iter()
        .map(|ended| ended.exit)
        .find(|exit| *exit != Exit::Success);
    first_failure.or(failures).unwrap_or(Exit::Success)
}

async fn open(config: Config, display: Display) -> Result<Session, UploadError> {
    let mut session = Session::new(config, display)?;
    session.learn().await?;
    Ok(session)
}

/// As many at a time as there are places.
async fn run_jobs(session: &Arc<Session>, jobs: Vec<Job>, report: &Report) -> Vec<Ended> {
    let places = Arc::new(Semaphore::new(session.config.jobs));
    let mut running = JoinSet::new();
    let mut ended = Vec::with_capacity(jobs.len());
    for job in jobs {
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            break;
        };
        while let Some(done) = running.try_join_next() {
            ended.push(done.unwrap_or_else(panicked));
        }
        running.spawn(run_job(Arc::clone(session), job, report.clone(), place));
    }
    while let Some(done) = running.join_next().await {
        ended.push(done.unwrap_or_else(panicked));
    }
    ended
}

/// Waiting for a delivery takes no place from files that are still to be sent.
async fn run_job(
    session: Arc<Session>,
    job: Job,
    report: Report,
    place: OwnedSemaphorePermit,
) -> Ended {
    let uploaded = job::upload(&session, &job).await;
    drop(place);
    let uploaded = match uploaded {
        Ok(uploaded) => uploaded,
        Err(error) => {
            report.failed(Some(&job.shown), None, &error);
            return Ended {
                exit: error.exit(),
                bytes: 0,
                before: 0,
            };
        }
    };
    let exit = match delivered(&session, &uploaded).await {
        Ok(result) => {
            report.uploaded(&job.shown, &uploaded, result);
            Exit::Success
        }
        Err(error) => {
            report.failed(Some(&job.shown), Some(&uploaded.url), &error);
            error.exit()
        }
    };
    Ended {
        exit,
        bytes: uploaded.length,
        before: uploaded.progress.resumed_at(),
    }
}

/// The panic itself was told by its hook.
fn panicked(_: JoinError) -> Ended {
    Ended {
        exit: Exit::Local,
        bytes: 0,
        before: 0,
    }
}

fn conclude(ended: &[Ended], took: Duration, display: &Display) {
    let good = ended
        .iter()
        .filter(|ended| ended.exit == Exit::Success)
        .count();
    let bytes = ended.iter().map(|ended| ended.bytes).sum();
    let before = ended.iter().map(|ended| ended.before).sum();
    let all = summary(bytes, before, took);
    display.say(&format!("{good} of {} files, {all}", ended.len()));
}
