//! Flags about the operator's own programs.

use super::InvalidConfig;

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Hooks and events")]
pub(crate) struct HookArgs {
    /// Tell clients, in the answer to GET, why processing their upload failed
    #[arg(long)]
    show_failures: bool,
}

/// What the operator's own programs are asked and told.
#[derive(Clone, Debug)]
pub struct Hooks {
    /// Whether clients are told why processing failed.
    pub show_failures: bool,
}

impl TryFrom<HookArgs> for Hooks {
    type Error = InvalidConfig;

    fn try_from(args: HookArgs) -> Result<Self, InvalidConfig> {
        Ok(Self {
            show_failures: args.show_failures,
        })
    }
}
