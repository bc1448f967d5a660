//! `--terminate`: removes uploads from the server.

use reqwest::Url;

use crate::client::Failure;
use crate::config::Config;
use crate::display::Display;
use crate::exit::{Exit, UploadError};
use crate::report::Report;
use crate::retry::Request;
use crate::session::Session;

/// Removes each; the exit code is that of the first that failed.
pub(crate) async fn all(config: Config, urls: &[Url], display: Display, report: &Report) -> Exit {
    let session = match Session::new(config, display) {
        Ok(session) => session,
        Err(error) => {
            report.failed(None, None, &error);
            return error.exit();
        }
    };
    let mut exit = Exit::Success;
    for url in urls {
        match remove(&session, url).await {
            Ok(()) => report.terminated(url),
            Err(error) => {
                report.failed(None, Some(url), &error);
                exit = if exit == Exit::Success {
                    error.exit()
                } else {
                    exit
                };
            }
        }
    }
    exit
}

async fn remove(session: &Session, url: &Url) -> Result<(), UploadError> {
    let say = |text: &str| session.display.say(&format!("{url}: {text}"));
    let mut tries = 0;
    let attempt = || {
        tries += 1;
        session.client.terminate(url)
    };
    let removed = session.persist(Request::Terminate, say, attempt).await;
    let status = match &removed {
        Ok(()) => None,
        Err(ended) => match &ended.failure {
            Failure::Status { status, .. } => Some(*status),
            _ => None,
        },
    };
    match removed {
        Err(ended) if !is_removed(status, tries) => return Err(ended.into()),
        _ => {}
    }
    match &session.store {
        Some(store) => store.remove_url(url),
        None => Ok(()),
    }
}

/// 410 says that it was there and is no more. 404 may be a mistyped URL, but not when an earlier
/// request, whose answer was lost, may have removed it.
fn is_removed(status: Option<u16>, tries: u32) -> bool {
    match status {
        Some(410) => true,
        Some(404) => 1 < tries,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_already_counts_as_removed_unless_it_may_be_a_typo() {
        for (status, tries, expected) in [
            (Some(410), 1, true),
            (Some(404), 1, false),
            (Some(404), 2, true),
            (Some(403), 2, false),
            (Some(423), 9, false),
            (None, 2, false),
        ] {
            assert_eq!(is_removed(status, tries), expected, "{status:?} {tries}");
        }
    }
}
