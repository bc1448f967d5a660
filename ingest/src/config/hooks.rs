//! Flags about the operator's own programs.

use std::sync::Arc;

use shared::startup::Period;
use tokio::sync::Semaphore;

use super::{InvalidConfig, positive};
use crate::hooks::on_create::OnCreate;

/// Longer than a look-up in a database that is being restarted; shorter than clients wait.
const ON_CREATE_TIMEOUT_DEFAULT: Period = Period::from_secs(10);
/// More processes than that at a time would only get into each other's way.
const ON_CREATE_JOBS_DEFAULT: usize = 32;

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
    #[arg(long, value_name = "TIME", default_value_t = ON_CREATE_TIMEOUT_DEFAULT)]
    on_create_timeout: Period,

    /// Questions to --on-create at a time; more wait for their turn
    #[arg(long, value_name = "N", default_value_t = ON_CREATE_JOBS_DEFAULT)]
    on_create_jobs: usize,

    /// Tell clients, in the answer to GET, why processing their upload failed
    #[arg(long)]
    show_failures: bool,
}

/// What the operator's own programs are asked and told.
#[derive(Clone, Debug)]
pub struct Hooks {
    pub(crate) on_create: Option<OnCreate>,
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
        Ok(Self {
            on_create: on_create.transpose()?,
            show_failures: args.show_failures,
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::config::{Args, Config};
    use crate::hooks::InvalidHook;

    fn hooks(args: &[&str]) -> Result<Hooks, InvalidConfig> {
        let args = ["ingest", "--spool", "/nowhere"].iter().chain(args);
        Config::try_from(Args::try_parse_from(args).unwrap()).map(|config| config.hooks)
    }

    #[test]
    fn without_flags_nobody_is_asked() {
        let hooks = hooks(&[]).unwrap();
        assert!(hooks.on_create.is_none());
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
        for zero in ["--on-create-timeout", "--on-create-jobs"] {
            assert_eq!(hooks(&[zero, "0"]).unwrap_err(), InvalidConfig::Zero(zero));
        }
    }
}
