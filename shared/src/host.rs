//! Which host, boot and process this is, and whether a recorded process is still the same.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;
use std::time::Duration;

use nix::time::ClockId;

/// This host and boot: process ids mean something only within one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// The host's name.
    pub name: String,
    /// The kernel's boot id.
    pub boot: String,
}

impl Host {
    /// The host that this process runs on.
    #[must_use]
    pub fn this() -> &'static Self {
        static THIS: OnceLock<Host> = OnceLock::new();
        THIS.get_or_init(|| {
            let name = nix::unistd::gethostname()
                .ok()
                .and_then(|name| name.into_string().ok());
            let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
            Self {
                name: name.unwrap_or_else(|| "unknown".to_owned()),
                boot: boot.map(|boot| boot.trim().to_owned()).unwrap_or_default(),
            }
        })
    }
}

/// How long the machine has run since its boot, suspension left out: the same for all processes of
/// a boot, and not to be set. What is to be waited for on one host is measured by it; the wall
/// clock jumps.
#[must_use]
pub fn steady() -> Duration {
    // It fails for no clock that Linux has.
    ClockId::CLOCK_MONOTONIC
        .now()
        .map_or(Duration::ZERO, |now| {
            let seconds = u64::try_from(now.tv_sec()).unwrap_or(0);
            Duration::new(seconds, u32::try_from(now.tv_nsec()).unwrap_or(0))
        })
}

/// Names one boot of one host: what was written and not synced can be relied on within it only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootId(u64);

impl BootId {
    /// Hexadecimal digits of the written form: the first 48 bits of the kernel's boot id, all of
    /// them random.
    const DIGITS: usize = 12;

    /// This boot. Where the kernel does not tell, every process is taken for a boot of its own.
    #[must_use]
    pub fn this() -> Self {
        static THIS: OnceLock<BootId> = OnceLock::new();
        *THIS.get_or_init(|| {
            let told = Host::this().boot.replace('-', "");
            let first = told.get(..Self::DIGITS).and_then(|text| text.parse().ok());
            first.unwrap_or_else(|| Self(fastrand::u64(..1 << (4 * Self::DIGITS))))
        })
    }
}

/// Not twelve lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a boot id")]
pub struct InvalidBootId;

impl FromStr for BootId {
    type Err = InvalidBootId;

    fn from_str(text: &str) -> Result<Self, InvalidBootId> {
        let is_digit = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        let is_one = text.len() == Self::DIGITS && text.bytes().all(is_digit);
        let digits = is_one.then(|| u64::from_str_radix(text, 16).ok());
        digits.flatten().map(Self).ok_or(InvalidBootId)
    }
}

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:0width$x}", self.0, width = Self::DIGITS)
    }
}

/// When a process started, in clock ticks since boot (field 22 of proc_pid_stat(5)); `None` if
/// there is none of that id. Together with the id it names a process for one boot.
#[must_use]
pub fn started_ticks(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name may hold anything, parentheses and blanks included.
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_a_start_and_a_free_id_has_none() {
        let first = started_ticks(std::process::id()).unwrap();
        assert_eq!(started_ticks(std::process::id()), Some(first));
        assert_eq!(started_ticks(u32::MAX), None);
        assert!(!Host::this().boot.is_empty() && !Host::this().name.is_empty());
    }
}
