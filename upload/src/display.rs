//! What a person sees while files are on their way: bars on a terminal, lines elsewhere, nothing with
//! `--quiet`. All of it goes to standard error; results are `report`'s.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use indicatif::{
    HumanBytes, HumanDuration, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle,
};
use tokio::task::AbortHandle;

/// Between two progress lines of one file.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Longest pause between two redraws of a bar that does not move.
const REDRAW_EVERY: Duration = Duration::from_millis(250);

/// Columns for a name: the width in the templates below.
const NAME_WIDTH: usize = 20;

const BAR: &str = "{prefix:20!} {percent:>3} % [{wide_bar}] {binary_bytes}/{binary_total_bytes} \
                   {binary_bytes_per_sec} {eta} {msg}";
const SPINNER: &str = "{prefix:20!} {spinner} {binary_bytes} {binary_bytes_per_sec} {msg}";
const TOTAL: &str = "{prefix:20!} {percent:>3} % [{wide_bar}] {pos} of {len} files";

/// The display of a whole run.
#[derive(Clone, Debug)]
pub(crate) enum Display {
    Bars {
        all: MultiProgress,
        total: Option<ProgressBar>,
    },
    Lines,
    Quiet,
}

impl Display {
    /// For this many files.
    pub(crate) fn new(quiet: bool, files: usize) -> Self {
        if quiet {
            return Self::Quiet;
        }
        if !io::stderr().is_terminal() {
            return Self::Lines;
        }
        let all = MultiProgress::new();
        let total = (files > 1).then(|| {
            let bar = all.add(ProgressBar::new(files as u64).with_style(style(TOTAL)));
            bar.set_prefix("all");
            bar.tick();
            bar
        });
        Self::Bars { all, total }
    }

    /// A remark that `--quiet` suppresses.
    pub(crate) fn say(&self, text: &str) {
        match self {
            Self::Quiet => {}
            Self::Bars { .. } | Self::Lines => self.complain(text),
        }
    }

    /// A line that is always shown.
    pub(crate) fn complain(&self, text: &str) {
        self.beside_the_bars(|| {
            // Nobody is left to be told when standard error is closed.
            writeln!(io::stderr(), "{text}").ok();
        });
    }

    /// Runs something short that writes to the terminal.
    pub(crate) fn beside_the_bars<T>(&self, act: impl FnOnce() -> T) -> T {
        match self {
            Self::Bars { all, .. } => all.suspend(act),
            Self::Lines | Self::Quiet => act(),
        }
    }

    /// Runs something that waits for the user. The bars are hidden and not suspended: that would hold
    /// their lock, and with it the transfers that report to them.
    pub(crate) fn without_bars<T>(&self, act: impl FnOnce() -> T) -> T {
        let Self::Bars { all, .. } = self else {
            return act();
        };
        all.clear().ok();
        all.set_draw_target(ProgressDrawTarget::hidden());
        let answer = act();
        all.set_draw_target(ProgressDrawTarget::stderr());
        answer
    }

    /// Begins to show a file; `length` is unknown for pipes.
    pub(crate) fn file(&self, name: &str, length: Option<u64>) -> Arc<FileProgress> {
        let look = match self {
            Self::Quiet => Look::None,
            Self::Lines => Look::Lines,
            Self::Bars { all, total } => {
                let bar = match length {
                    Some(length) => ProgressBar::new(length).with_style(style(BAR)),
                    None => ProgressBar::no_length().with_style(style(SPINNER)),
                };
                let bar = match total {
                    Some(total) => all.insert_before(total, bar),
                    None => all.add(bar),
                };
                bar.set_prefix(shortened(name));
                bar.enable_steady_tick(REDRAW_EVERY);
                Look::Bar {
                    bar,
                    total: total.clone(),
                }
            }
        };
        FileProgress::start(name, length, look)
    }

    /// Removes what is drawn.
    pub(crate) fn clear(&self) {
        if let Self::Bars { all, total } = self {
            if let Some(total) = total {
                total.finish_and_clear();
            }
            all.clear().ok();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

#[derive(Debug)]
enum Look {
    None,
    Lines,
    Bar {
        bar: ProgressBar,
        total: Option<ProgressBar>,
    },
}

/// The display of one file.
#[derive(Debug)]
pub(crate) struct FileProgress {
    name: String,
    length: Option<u64>,
    done: AtomicU64,
    look: Look,
    /// Where and when this run began, for the speed.
    began: Mutex<(u64, Instant)>,
    ticker: Mutex<Option<AbortHandle>>,
    /// As the server calls it, after the upload.
    state: Mutex<String>,
}

impl FileProgress {
    fn start(name: &str, length: Option<u64>, look: Look) -> Arc<Self> {
        let progress = Arc::new(Self {
            name: name.to_owned(),
            length,
            done: AtomicU64::new(0),
            look,
            began: Mutex::new((0, Instant::now())),
            ticker: Mutex::new(None),
            state: Mutex::default(),
        });
        if let Look::Lines = progress.look {
            let watched = Arc::downgrade(&progress);
            let ticker = tokio::spawn(async move {
                let mut shown = 0;
                loop {
                    tokio::time::sleep(LINE_EVERY).await;
                    let Some(progress) = watched.upgrade() else {
                        return;
                    };
                    shown = progress.print_if_moved(shown);
                }
            });
            *lock(&progress.ticker) = Some(ticker.abort_handle());
        }
        progress
    }

    /// So many bytes more went out.
    pub(crate) fn add(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if let Look::Bar { bar, .. } = &self.look {
            bar.set_position(done);
        }
    }

    /// One of the parts stands elsewhere than was thought.
    pub(crate) fn correct(&self, before: u64, after: u64) {
        if after < before {
            self.done.fetch_sub(before - after, Ordering::Relaxed);
        } else {
            self.done.fetch_add(after - before, Ordering::Relaxed);
        }
        if let Look::Bar { bar, .. } = &self.look {
            bar.set_position(self.done.load(Ordering::Relaxed));
        }
    }

    /// What is there already must not count as speed.
    pub(crate) fn resume_here(&self) {
        *lock(&self.began) = (self.done.load(Ordering::Relaxed), Instant::now());
        if let Look::Bar { bar, .. } = &self.look {
            bar.reset_eta();
        }
    }

    /// How much of the file an earlier run had sent, in bytes.
    pub(crate) fn resumed_at(&self) -> u64 {
        lock(&self.began).0
    }

    /// A remark on this file.
    pub(crate) fn note(&self, text: &str) {
        match &self.look {
            Look::None => {}
            Look::Lines => {
                writeln!(io::stderr(), "{}: {text}", self.name).ok();
            }
            Look::Bar { bar, .. } => bar.suspend(|| {
                writeln!(io::stderr(), "{}: {text}", self.name).ok();
            }),
        }
    }

    /// What the server says that the upload is; told once.
    pub(crate) fn state(&self, state: &str) {
        let mut told = lock(&self.state);
        if *told == state {
            return;
        }
        state.clone_into(&mut told);
        match &self.look {
            Look::Bar { bar, .. } => bar.set_message(state.to_owned()),
            Look::None | Look::Lines => self.note(state),
        }
    }

    fn print_if_moved(&self, shown: u64) -> u64 {
        let done = self.done.load(Ordering::Relaxed);
        if done != shown {
            let (from, since) = *lock(&self.began);
            let speed = done.saturating_sub(from) as f64 / since.elapsed().as_secs_f64();
            writeln!(
                io::stderr(),
                "{}: {}",
                self.name,
                line(done, self.length, speed)
            )
            .ok();
        }
        done
    }
}

impl Drop for FileProgress {
    fn drop(&mut self) {
        if let Some(ticker) = lock(&self.ticker).take() {
            ticker.abort();
        }
        if let Look::Bar { bar, total } = &self.look {
            bar.finish_and_clear();
            if let Some(total) = total {
                total.inc(1);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The end of a long name tells more than its beginning.
fn shortened(name: &str) -> String {
    let length = name.chars().count();
    if length <= NAME_WIDTH {
        return name.to_owned();
    }
    let end: String = name.chars().skip(length - (NAME_WIDTH - 1)).collect();
    format!("…{end}")
}

/// `40 % (1.20 GiB of 3.00 GiB), 95.00 MiB/s, 20 seconds left`; speed in bytes a second.
fn line(done: u64, length: Option<u64>, speed: f64) -> String {
    let rate = HumanBytes(speed as u64);
    let Some(length) = length else {
        return format!("{}, {rate}/s", HumanBytes(done));
    };
    let percent = done.saturating_mul(100).checked_div(length).unwrap_or(100);
    let mut text = format!(
        "{percent} % ({} of {}), {rate}/s",
        HumanBytes(done),
        HumanBytes(length)
    );
    let left = length.saturating_sub(done) as f64 / speed;
    if let Ok(left) = Duration::try_from_secs_f64(left) {
        text.push_str(&format!(", {} left", HumanDuration(left)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_share_speed_and_time_left() {
        let mebibyte = 1 << 20;
        let text = line(30 * mebibyte, Some(100 * mebibyte), 10.0 * mebibyte as f64);
        assert_eq!(
            text,
            "30 % (30.00 MiB of 100.00 MiB), 10.00 MiB/s, 7 seconds left"
        );
        assert_eq!(line(2048, None, 1024.0), "2.00 KiB, 1.00 KiB/s");
        assert_eq!(line(0, Some(0), 0.0), "100 % (0 B of 0 B), 0 B/s");
        assert_eq!(line(1, Some(2), 0.0), "50 % (1 B of 2 B), 0 B/s");
    }

    #[test]
    fn long_names_are_shown_by_their_ends() {
        assert_eq!(shortened("short.txt"), "short.txt");
        let short = shortened("a/very/long/path/to/some/holiday.jpg");
        assert_eq!(short, "…to/some/holiday.jpg");
        assert_eq!(shortened(&"ü".repeat(30)).chars().count(), NAME_WIDTH);
    }

    #[test]
    fn parts_add_up_and_lost_bytes_are_taken_back() {
        let file = FileProgress::start("f", Some(100), Look::None);
        let (a, b) = (
            crate::meter::Meter::new(&file),
            crate::meter::Meter::new(&file),
        );
        a.add(30);
        b.add(50);
        b.set(20);
        assert_eq!(file.done.load(Ordering::Relaxed), 50);
        a.set(40);
        assert_eq!(file.done.load(Ordering::Relaxed), 60);
    }
}
