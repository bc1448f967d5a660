//! What the jobs of a process are told while they wait for work.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::watch::Heard;

/// News kept while all jobs are busy; beyond, everything is looked at.
const NEWS_MAX: usize = 1024;

/// What others have to tell, and whether it is over. Never held for long: events come in here.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    news: Mutex<News>,
    bell: Condvar,
}

#[derive(Debug, Default)]
struct News {
    heard: Vec<Heard>,
    /// Counts reasons to look again that need no words.
    rung: u64,
    closed: bool,
}

impl Inbox {
    /// What was heard since the last time, and the state of the bell; `None` if it is over.
    pub(super) fn read(&self) -> Option<(Vec<Heard>, u64)> {
        let mut news = self.news();
        (!news.closed).then(|| (std::mem::take(&mut news.heard), news.rung))
    }

    /// It is over for all.
    pub(super) fn close(&self) {
        self.news().closed = true;
        self.bell.notify_all();
    }

    fn news(&self) -> MutexGuard<'_, News> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn tell(&self, heard: Heard) {
        let mut news = self.news();
        match news.heard.len() {
            0..NEWS_MAX => news.heard.push(heard),
            _ => news.heard = vec![Heard::Lost],
        }
        drop(news);
        self.bell.notify_one();
    }

    pub(super) fn ring_one(&self) {
        self.news().rung += 1;
        self.bell.notify_one();
    }

    pub(super) fn ring(&self) {
        self.news().rung += 1;
        self.bell.notify_all();
    }

    /// Waits until there is news since `seen`, or the time is over.
    pub(super) fn wait(&self, seen: u64, time: Duration) {
        let quiet = |news: &mut News| news.heard.is_empty() && news.rung == seen && !news.closed;
        let waited = self.bell.wait_timeout_while(self.news(), time, quiet);
        drop(waited);
    }
}
