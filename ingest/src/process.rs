//! What the process asks of the kernel and the allocator before it serves anything.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing::warn;

/// Descriptors that are not connections: listener, log, runtime, and the files of uploads whose
/// connections have just gone.
const DESCRIPTORS_BESIDE: u64 = 64;
/// A connection in the middle of an upload: its socket, and while its client is not silent the data
/// and the record. All can be busy at once.
const DESCRIPTORS_PER_CONNECTION: u64 = 3;

/// Takes what the process may have of descriptors and makes the allocator keep large buffers.
/// Nothing here is needed for correctness; what is refused is told once.
pub(crate) fn prepare(connections_max: usize) {
    keep_large_buffers();
    let wanted = DESCRIPTORS_PER_CONNECTION * connections_max as u64 + DESCRIPTORS_BESIDE;
    match raise_descriptor_limit(wanted) {
        Ok(limit) if limit < wanted => {
            warn!(
                limit,
                wanted, "few file descriptors for so many connections; see ulimit -n"
            );
        }
        Ok(_) => {}
        Err(error) => warn!(%error, "could not raise the limit on file descriptors"),
    }
}

/// `most` connections, or as many as the limit on descriptors lets this process have.
pub(crate) fn affordable_connections(most: usize) -> usize {
    // Without an answer from the kernel the limit is met, and told, when it is raised.
    let hard = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(_, hard)| hard);
    connections_within(hard, most)
}

fn connections_within(descriptors: u64, most: usize) -> usize {
    let within = descriptors.saturating_sub(DESCRIPTORS_BESIDE) / DESCRIPTORS_PER_CONNECTION;
    usize::try_from(within).unwrap_or(most).clamp(1, most)
}

/// Raises the soft limit as far as `wanted` or the hard limit; the limit that holds then.
fn raise_descriptor_limit(wanted: u64) -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let limit = wanted.min(hard).max(soft);
    if soft < limit {
        setrlimit(Resource::RLIMIT_NOFILE, limit, hard)?;
    }
    Ok(limit)
}

/// glibc gives every block of 128 KiB and more back to the kernel at once. Read buffers of 1 MiB
/// then cost a page fault per 4 KiB received: 41,000 per GiB, and a third of the CPU time.
#[cfg(target_env = "gnu")]
fn keep_large_buffers() {
    const MMAP_FROM_BYTES: libc::c_int = 32 << 20;
    const TRIM_FROM_BYTES: libc::c_int = 64 << 20;
    #[expect(
        unsafe_code,
        reason = "the allocator's settings have no safe interface"
    )]
    // SAFETY: mallopt takes two integers and is called before other threads exist.
    let accepted = unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MMAP_FROM_BYTES)
            & libc::mallopt(libc::M_TRIM_THRESHOLD, TRIM_FROM_BYTES)
    };
    if accepted != 1 {
        warn!("the allocator refused its thresholds");
    }
}

#[cfg(not(target_env = "gnu"))]
fn keep_large_buffers() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_descriptor_limit_never_sinks() {
        let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(raise_descriptor_limit(0).unwrap(), soft);
    }

    #[test]
    fn as_many_connections_are_served_as_there_are_descriptors_for() {
        for (descriptors, connections) in [
            (0, 1),
            (64, 1),
            (67, 1),
            (70, 2),
            (20_000, 6_645),
            (30_063, 9_999),
            (30_064, 10_000),
            (u64::MAX, 10_000),
        ] {
            assert_eq!(connections_within(descriptors, 10_000), connections);
        }
    }
}
