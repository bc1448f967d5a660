//! Whom events are told: a command, an HTTP endpoint, or both.

use std::time::Duration;

use http::HeaderMap;
use shared::time::UnixTime;

use super::event::{Event, Kind};
use crate::hooks::webhook::Secret;
use crate::hooks::{Call, CallError, Hook};

/// What is read of an answer, so that the connection can be used again. Nothing is made of it.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Who listens, and to what.
#[derive(Clone, Debug)]
pub(crate) struct Teller {
    pub(crate) command: Option<Hook>,
    pub(crate) endpoint: Option<(Hook, Secret)>,
    pub(crate) kinds: Vec<Kind>,
    pub(crate) timeout: Duration,
}

/// Who has been told of an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) command: bool,
    pub(crate) endpoint: bool,
}

impl Teller {
    /// Whether somebody wants to hear of this.
    pub(crate) fn wants(&self, kind: Kind) -> bool {
        let somebody = self.command.is_some() || self.endpoint.is_some();
        somebody && self.kinds.contains(&kind)
    }

    /// Tells everyone who has not been told yet. Failures are logged here.
    pub(crate) async fn tell(&self, event: &Event, before: Told) -> Told {
        let command = async {
            match self.command.as_ref().filter(|_| !before.command) {
                Some(hook) => self.reach("command", hook, event, HeaderMap::new()).await,
                None => true,
            }
        };
        let endpoint = async {
            match self.endpoint.as_ref().filter(|_| !before.endpoint) {
                Some((hook, secret)) => {
                    let now = UnixTime::now().as_secs();
                    let fields = secret.sign(&event.id, now, &event.body);
                    self.reach("endpoint", hook, event, fields).await
                }
                None => true,
            }
        };
        let (command, endpoint) = tokio::join!(command, endpoint);
        Told { command, endpoint }
    }

    async fn reach(&self, who: &str, hook: &Hook, event: &Event, fields: HeaderMap) -> bool {
        let call = Call {
            body: event.body.clone(),
            environment: vec![
                ("EVENT", event.kind.to_string()),
                ("EVENT_ID", event.id.clone()),
                ("UPLOAD_ID", event.upload.to_string()),
            ],
            fields,
            answer_bytes_max: ANSWER_BYTES_MAX,
        };
        let error = match hook.call(&call, self.timeout).await {
            Ok(answer) if answer.status.is_success() => return true,
            Ok(answer) => format!("it answers {}", answer.status),
            // Whoever answers so much has heard.
            Err(CallError::TooLong(_)) if matches!(hook, Hook::Command(_)) => {
                "it talks too much and was ended".to_owned()
            }
            Err(error) => error.to_string(),
        };
        tracing::warn!(upload_id = %event.upload, event = %event.kind, error, "the {who} was not told");
        false
    }
}

impl Told {
    /// Whether nobody is left to be told.
    pub(crate) fn all(self) -> bool {
        self.command && self.endpoint
    }
}
