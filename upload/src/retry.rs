//! What a failure means, and how long to wait before the next attempt. Pure: randomness comes in as an
//! argument, nobody sleeps here.

use std::time::Duration;

use crate::client::Failure;
use crate::exit::UploadError;

/// No pause of our own choice is longer.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// No server is obeyed longer than this; it may well have meant another client.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

/// When to give up, and how fast to come back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    /// Retries in a row without progress.
    pub retries: u32,
    /// Upper limit of the first pause.
    pub base: Duration,
}

/// The requests of the protocol, in the words of an error message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    Capabilities,
    Create,
    Concatenate,
    Head,
    Patch,
    Terminate,
    State,
}

/// What to do after a failure.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The next attempt may succeed.
    Retry,
    /// The upload is not there (any more): only a new one helps.
    Gone,
    /// Asking again brings the same answer.
    Final,
}

impl Request {
    /// Completes "the server refused to …".
    pub(crate) fn verb(self) -> &'static str {
        match self {
            Self::Capabilities => "tell what it offers",
            Self::Create => "create the upload",
            Self::Concatenate => "join the parts",
            Self::Head => "tell the offset",
            Self::Patch => "take the data",
            Self::Terminate => "remove the upload",
            Self::State => "tell the upload's state",
        }
    }
}

/// Decides by request and failure.
pub(crate) fn judge(request: Request, failure: &Failure) -> Verdict {
    let status = match failure {
        Failure::Broken { lasting: true, .. } | Failure::Local(_) => return Verdict::Final,
        Failure::Broken { .. } | Failure::Stalled(_) | Failure::Garbled(_) => {
            return Verdict::Retry;
        }
        Failure::Status { status, .. } => *status,
    };
    match (status, request) {
        // tus 1.0.0, HEAD: a server may say 403 of an upload that is not there.
        (403 | 404 | 410, Request::Head) | (404 | 410, Request::Patch) => Verdict::Gone,
        // 409: another offset; 423: locked by a connection that may be dead already; 460: checksum.
        (408 | 409 | 423 | 425 | 429 | 460, _) => Verdict::Retry,
        // Not implemented, and HTTP version not supported.
        (501 | 505, _) => Verdict::Final,
        (500.., _) => Verdict::Retry,
        _ => Verdict::Final,
    }
}

/// A final failure as the user reads it.
pub(crate) fn as_error(request: Request, failure: Failure, retries: u32) -> UploadError {
    match failure {
        Failure::Local(error) => error,
        Failure::Status { status, text, .. } if judge_status_is_final(request, status) => {
            UploadError::Refused {
                what: request.verb(),
                status,
                text,
            }
        }
        other => UploadError::GaveUp {
            retries,
            last: other.to_string(),
        },
    }
}

fn judge_status_is_final(request: Request, status: u16) -> bool {
    let failure = Failure::Status {
        status,
        text: String::new(),
        retry_after: None,
    };
    judge(request, &failure) != Verdict::Retry
}

/// Counts the failures since something last went forward.
#[derive(Debug)]
pub(crate) struct Attempts {
    policy: Policy,
    failed: u32,
}

impl Attempts {
    pub(crate) fn new(policy: Policy) -> Self {
        Self { policy, failed: 0 }
    }

    /// Failures without progress so far.
    pub(crate) fn failed(&self) -> u32 {
        self.failed
    }

    /// Something arrived: the count starts anew.
    pub(crate) fn progress(&mut self) {
        self.failed = 0;
    }

    /// The pause before the next attempt, or `None` when there shall be none. `chance` is in 0..1.
    pub(crate) fn pause(&mut self, failure: &Failure, chance: f64) -> Option<Duration> {
        if self.failed >= self.policy.retries {
            return None;
        }
        let limit = self
            .policy
            .base
            .saturating_mul(1 << self.failed.min(16))
            .min(PAUSE_MAX);
        self.failed += 1;
        let own = limit.mul_f64(chance.clamp(0.0, 1.0));
        Some(
            own.max(
                failure
                    .retry_after()
                    .unwrap_or_default()
                    .min(RETRY_AFTER_MAX),
            ),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUESTS: [Request; 7] = [
        Request::Capabilities,
        Request::Create,
        Request::Concatenate,
        Request::Head,
        Request::Patch,
        Request::Terminate,
        Request::State,
    ];

    fn status(status: u16) -> Failure {
        Failure::Status {
            status,
            text: String::new(),
            retry_after: None,
        }
    }

    fn broken() -> Failure {
        Failure::Broken {
            reason: String::new(),
            lasting: false,
        }
    }

    #[test]
    fn every_status_is_judged_for_every_request() {
        for request in REQUESTS {
            for code in 100..=599 {
                let gone = match request {
                    Request::Head => matches!(code, 403 | 404 | 410),
                    Request::Patch => matches!(code, 404 | 410),
                    _ => false,
                };
                let expected = match code {
                    _ if gone => Verdict::Gone,
                    408 | 409 | 423 | 425 | 429 | 460 => Verdict::Retry,
                    501 | 505 => Verdict::Final,
                    500.. => Verdict::Retry,
                    _ => Verdict::Final,
                };
                assert_eq!(
                    judge(request, &status(code)),
                    expected,
                    "{request:?} {code}"
                );
            }
        }
    }

    #[test]
    fn a_lost_connection_is_retried_and_a_bad_certificate_is_not() {
        for request in REQUESTS {
            assert_eq!(judge(request, &broken()), Verdict::Retry);
            let lasting = Failure::Broken {
                reason: String::new(),
                lasting: true,
            };
            assert_eq!(judge(request, &lasting), Verdict::Final);
        }
    }

    #[test]
    fn pauses_double_up_to_the_limit_and_end_after_the_last_retry() {
        let base = Duration::from_millis(500);
        let mut attempts = Attempts::new(Policy { retries: 9, base });
        let mut pauses = Vec::new();
        while let Some(pause) = attempts.pause(&broken(), 1.0) {
            pauses.push(pause.as_millis());
        }
        assert_eq!(
            pauses,
            [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000]
        );
        attempts.progress();
        assert_eq!(attempts.pause(&broken(), 0.5), Some(base / 2));
    }

    #[test]
    fn the_jitter_is_full() {
        let mut attempts = Attempts::new(Policy {
            retries: 2,
            base: Duration::from_secs(1),
        });
        assert_eq!(attempts.pause(&broken(), 0.0), Some(Duration::ZERO));
    }

    #[test]
    fn many_retries_do_not_overflow() {
        let policy = Policy {
            retries: u32::MAX,
            base: Duration::MAX,
        };
        let mut attempts = Attempts {
            policy,
            failed: u32::MAX - 1,
        };
        assert_eq!(attempts.pause(&broken(), 1.0), Some(PAUSE_MAX));
        assert_eq!(attempts.pause(&broken(), 1.0), None);
    }

    #[test]
    fn a_longer_pause_named_by_the_server_is_kept_to_within_reason() {
        let pause = |seconds| {
            let retry_after = Some(Duration::from_secs(seconds));
            let failure = Failure::Status {
                status: 503,
                text: String::new(),
                retry_after,
            };
            let policy = Policy {
                retries: 1,
                base: Duration::from_secs(2),
            };
            Attempts::new(policy).pause(&failure, 1.0).unwrap()
        };
        assert_eq!(pause(1), Duration::from_secs(2));
        assert_eq!(pause(7), Duration::from_secs(7));
        assert_eq!(pause(86_400), RETRY_AFTER_MAX);
    }
}
