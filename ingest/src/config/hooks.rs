//! Flags about the operator's own programs.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use shared::startup::Period;
use tokio::sync::Semaphore;

use super::{InvalidConfig, positive};
use crate::events::event::Kind;
use crate::events::teller::Teller;
use crate::hooks::on_create::OnCreate;
use crate::hooks::webhook::Secret;
use crate::hooks::{Hook, InvalidHook};

/// Longer than a look-up in a database that is being restarted; shorter than clients wait.
const ON_CREATE_TIMEOUT_DEFAULT: Period = Period::from_secs(10);
/// More processes than that at a time would only get into each other's way.
const ON_CREATE_JOBS_DEFAULT: usize = 32;

/// As tusd's: a listener that needs longer should take the message and work later.
const EVENT_TIMEOUT_DEFAULT: Period = Period::from_secs(15);

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Hooks and events")]
pub(crate) struct HookArgs {
    /// Command or URL that is asked whether an upload may begin. It gets JSON (on standard input,
    /// or as a POST) with `id`, `length`, `metadata`, `headers`, `path`, `remote`, and answers
    /// {"server_metadata": {…}} or {"reject": {"status": 403, "text": "…"}}; exit code 0 without
    /// output, or 204, is a yes. Anything else refuses the upload with 503
    #[arg(long, value_name = "COMMAND|URL")]
    on_create: Option<String>,

    /// Time that --on-create may take, waiting for its turn included
    #[arg(long, value_name = "DURATION", default_value_t = ON_CREATE_TIMEOUT_DEFAULT)]
    on_create_timeout: Period,

    /// Questions to --on-create at a time; more wait for their turn
    #[arg(long, value_name = "N", default_value_t = ON_CREATE_JOBS_DEFAULT)]
    on_create_jobs: usize,

    /// Command that is told what happens to uploads: JSON on standard input, and EVENT, EVENT_ID,
    /// UPLOAD_ID in its environment. Exit code 0 says that it has heard
    #[arg(long, value_name = "COMMAND")]
    on_event: Option<String>,

    /// URL that is told the same, as signed by the Standard Webhooks scheme; 2xx says that it has
    /// heard
    #[arg(long, value_name = "URL")]
    event_url: Option<String>,

    /// Secret of the signatures, shared with --event-url
    #[arg(long, value_name = "whsec_…", hide_env_values = true)]
    event_secret: Option<String>,

    /// File that holds the secret
    #[arg(long, value_name = "FILE")]
    event_secret_file: Option<PathBuf>,

    /// Events that are told. `completed` (and `expired`) is told at least once, also over a crash,
    /// and told again until it is heard; the others once, if the listeners can keep up
    #[arg(
        long,
        value_name = "NAME,…",
        value_delimiter = ',',
        default_value = "created,progress,completed,failed,terminated,expired"
    )]
    events: Vec<Kind>,

    /// Time that a listener may take
    #[arg(long, value_name = "DURATION", default_value_t = EVENT_TIMEOUT_DEFAULT)]
    event_timeout: Period,

    /// Tell clients, in the answer to GET, why processing their upload failed
    #[arg(long)]
    show_failures: bool,
}

/// What the operator's own programs are asked and told.
#[derive(Clone, Debug)]
pub struct Hooks {
    pub(crate) on_create: Option<OnCreate>,
    pub(crate) events: Teller,
    /// Whether clients are told why processing failed.
    pub show_failures: bool,
}

impl TryFrom<HookArgs> for Hooks {
    type Error = InvalidConfig;

    fn try_from(args: HookArgs) -> Result<Self, InvalidConfig> {
        let timeout = positive("--on-create-timeout", args.on_create_timeout)?.0;
        let jobs = positive("--on-create-jobs", args.on_create_jobs)?;
        let turns = Arc::new(Semaphore::new(jobs.min(Semaphore::MAX_PERMITS)));
        let on_create = args.on_create.filter(|text| !text.is_empty()).map(|text| {
            let hook = text
                .parse()
                .map_err(|error| InvalidConfig::Hook("--on-create", error))?;
            Ok(OnCreate {
                hook,
                timeout,
                turns,
            })
        });
        let on_create = on_create.transpose()?;
        let secret = secret(args.event_secret, args.event_secret_file)?;
        let events = Teller {
            command: parsed("--on-event", args.on_event, Hook::Command)?,
            endpoint: match (
                parsed("--event-url", args.event_url, Hook::Endpoint)?,
                secret,
            ) {
                (Some(endpoint), Some(secret)) => Some((endpoint, secret)),
                (Some(_), None) => return Err(InvalidConfig::NoSecret),
                (None, _) => None,
            },
            kinds: args.events,
            timeout: positive("--event-timeout", args.event_timeout)?.0,
        };
        Ok(Self {
            on_create,
            events,
            show_failures: args.show_failures,
        })
    }
}

fn parsed<T: FromStr<Err = InvalidHook>>(
    flag: &'static str,
    text: Option<String>,
    hook: impl FnOnce(T) -> Hook,
) -> Result<Option<Hook>, InvalidConfig> {
    let parsed = text
        .filter(|text| !text.is_empty())
        .map(|text| text.parse());
    let parsed = parsed
        .transpose()
        .map_err(|error| InvalidConfig::Hook(flag, error))?;
    Ok(parsed.map(hook))
}

/// The secret, of which a file is what others on this machine cannot see.
fn secret(text: Option<String>, file: Option<PathBuf>) -> Result<Option<Secret>, InvalidConfig> {
    let text = match (text, file) {
        (Some(_), Some(_)) => return Err(InvalidConfig::TwoSecrets),
        (None, Some(path)) => {
            let read = std::fs::read_to_string(&path);
            Some(read.map_err(|error| InvalidConfig::SecretFile {
                path,
                reason: error.to_string(),
            })?)
        }
        (text, None) => text,
    };
    let secret = text.map(|text| text.parse().map_err(InvalidConfig::Secret));
    secret.transpose()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::config::{Args, Config};

    fn hooks(args: &[&str]) -> Result<Hooks, InvalidConfig> {
        let args = ["ingest", "--spool", "/nowhere"].iter().chain(args);
        Config::try_from(Args::try_parse_from(args).unwrap()).map(|config| config.hooks)
    }

    #[test]
    fn without_flags_nobody_is_asked() {
        let hooks = hooks(&[]).unwrap();
        assert!(hooks.on_create.is_none());
        assert!(!Kind::ALL.into_iter().any(|kind| hooks.events.wants(kind)));
        assert!(!hooks.show_failures);
    }

    #[test]
    fn a_hook_that_can_never_work_is_found_at_start() {
        let program = InvalidHook::Program("no-such-program-x".into());
        let host = InvalidHook::Host("no-such-host.invalid".into());
        let cases = [
            ("no-such-program-x --fast", program),
            ("http://no-such-host.invalid/create", host),
        ];
        for (hook, error) in cases {
            let expected = InvalidConfig::Hook("--on-create", error);
            let refused = hooks(&["--on-create", hook]).unwrap_err();
            assert_eq!(refused, expected);
            assert_eq!(refused.to_string().lines().count(), 1);
        }
        for zero in ["--on-create-timeout", "--on-create-jobs", "--event-timeout"] {
            assert_eq!(hooks(&[zero, "0"]).unwrap_err(), InvalidConfig::Zero(zero));
        }
    }

    #[test]
    fn events_go_to_a_command_and_to_an_endpoint_that_shares_a_secret() {
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secret");
        std::fs::write(&file, format!("{secret}\n")).unwrap();
        let file = file.to_str().unwrap();
        let url = ["--event-url", "http://127.0.0.1:1/"];
        for secret in [["--event-secret", secret], ["--event-secret-file", file]] {
            let heard = hooks(&[url, secret, ["--on-event", "cat"]].concat()).unwrap();
            assert!(Kind::ALL.into_iter().all(|kind| heard.events.wants(kind)));
            assert!(heard.events.command.is_some() && heard.events.endpoint.is_some());
            assert!(!format!("{heard:?}").contains("MfKQ"));
        }
        let some = hooks(&["--on-event", "cat", "--events", "completed,failed"]).unwrap();
        assert!(some.events.wants(Kind::Completed) && !some.events.wants(Kind::Progress));
        let refused = |args: &[&str]| hooks(args).unwrap_err();
        assert_eq!(refused(&url), InvalidConfig::NoSecret);
        let both = [
            url,
            ["--event-secret", secret],
            ["--event-secret-file", file],
        ]
        .concat();
        assert_eq!(refused(&both), InvalidConfig::TwoSecrets);
        let short = [url, ["--event-secret", "whsec_AAAA"]].concat();
        assert!(matches!(refused(&short), InvalidConfig::Secret(_)));
        let none = [url, ["--event-secret-file", "/no/such/file"]].concat();
        let said = refused(&none).to_string();
        assert!(
            said.contains("/no/such/file: No such file or directory"),
            "{said}"
        );
        let ftp = refused(&["--event-url", "ftp://127.0.0.1/"]);
        let expected = InvalidHook::Url("ftp://127.0.0.1/".into());
        assert_eq!(ftp, InvalidConfig::Hook("--event-url", expected));
        let missing = refused(&["--on-event", "no-such-program-x"]);
        assert!(matches!(
            missing,
            InvalidConfig::Hook("--on-event", InvalidHook::Program(_))
        ));
    }
}
