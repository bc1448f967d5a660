//! What all transfers of one run share, and the loop that repeats a single request.

use std::time::Duration;

use crate::answer::Capabilities;
use crate::client::{Client, Failure};
use crate::config::{Config, Memory};
use crate::display::Display;
use crate::exit::UploadError;
use crate::remember::Store;
use crate::retry::{Attempts, Request, Verdict, as_error, judge};

/// One run of the program against one server.
#[derive(Debug)]
pub(crate) struct Session {
    pub config: Config,
    pub client: Client,
    pub offered: Capabilities,
    pub display: Display,
    pub store: Option<Store>,
    /// One question to the user at a time.
    pub asking: tokio::sync::Mutex<()>,
}

/// A request that failed for good.
#[derive(Debug)]
pub(crate) struct Ended {
    pub request: Request,
    pub failure: Failure,
    /// Retries since the last progress.
    pub retries: u32,
}

impl Ended {
    /// Whether only a new upload helps.
    pub(crate) fn is_gone(&self) -> bool {
        judge(self.request, &self.failure) == Verdict::Gone
    }
}

impl From<Ended> for UploadError {
    fn from(ended: Ended) -> Self {
        as_error(ended.request, ended.failure, ended.retries)
    }
}

impl Session {
    /// Sends nothing yet.
    pub(crate) fn new(config: Config, display: Display) -> Result<Self, UploadError> {
        let store = match &config.memory {
            Memory::Off => None,
            Memory::File(path) => Some(Store::at(path.clone())),
        };
        Ok(Self {
            client: Client::new(&config)?,
            offered: Capabilities::default(),
            display,
            store,
            asking: tokio::sync::Mutex::new(()),
            config,
        })
    }

    /// Asks the server what it offers, and checks that it is what the user wants.
    pub(crate) async fn learn(&mut self) -> Result<(), UploadError> {
        let say = |text: &str| self.display.say(text);
        let asked = self.persist(Request::Capabilities, say, || self.client.capabilities());
        self.offered = asked.await?;
        self.check()
    }

    fn check(&self) -> Result<(), UploadError> {
        if !self.offered.speaks_our_version() {
            let spoken = self
                .offered
                .versions
                .as_deref()
                .unwrap_or_default()
                .join(", ");
            let text = format!("the server does not speak tus 1.0.0, but {spoken}");
            return Err(UploadError::Lacking(crate::text::printable(&text)));
        }
        if let Some(algorithm) = self
            .config
            .checksum
            .filter(|it| !self.offered.verifies(*it))
        {
            let known = match self.offered.checksums.join(", ") {
                none if none.is_empty() => "it verifies no checksums".to_owned(),
                known => format!("it knows {}", crate::text::printable(&known)),
            };
            let text = format!("the server does not verify {}: {known}", algorithm.name());
            return Err(UploadError::Lacking(text));
        }
        if self.config.parallel > 1 && !self.offered.offers("concatenation") {
            self.display
                .say("the server cannot join parts: each file is sent in one piece");
        }
        Ok(())
    }

    /// Repeats one request until it succeeds, fails for good, or the retries are used up.
    pub(crate) async fn persist<T, F>(
        &self,
        request: Request,
        say: impl Fn(&str),
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, Ended>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let mut attempts = Attempts::new(self.config.retry);
        loop {
            let failure = match attempt().await {
                Ok(value) => return Ok(value),
                Err(failure) => failure,
            };
            match self.next_pause(request, &failure, &mut attempts) {
                Some(pause) => self.rest(pause, &failure, &attempts, &say).await,
                None => {
                    return Err(Ended {
                        request,
                        failure,
                        retries: attempts.failed(),
                    });
                }
            }
        }
    }

    /// How long to wait before the next attempt; `None` when there shall be none.
    pub(crate) fn next_pause(
        &self,
        request: Request,
        failure: &Failure,
        attempts: &mut Attempts,
    ) -> Option<Duration> {
        match judge(request, failure) {
            Verdict::Retry => attempts.pause(failure, fastrand::f64()),
            Verdict::Gone | Verdict::Final => None,
        }
    }

    /// Tells why, and waits.
    pub(crate) async fn rest(
        &self,
        pause: Duration,
        failure: &Failure,
        attempts: &Attempts,
        say: impl Fn(&str),
    ) {
        let (failed, retries) = (attempts.failed(), self.config.retry.retries);
        let seconds = pause.as_secs_f64();
        say(&format!(
            "{failure}; trying again in {seconds:.1} s ({failed} of {retries})"
        ));
        tokio::time::sleep(pause).await;
    }
}
