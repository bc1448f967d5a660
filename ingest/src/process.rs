//! What the process asks of the kernel and the allocator before it serves anything.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing::warn;

/// Descriptors that are not connections: listener, log, runtime, and the files of uploads whose
/// connections have just gone.
const DESCRIPTORS_BESIDE: u64 = 64;
/// A connection in the middle of an upload: its socket, the data, the record.
const DESCRIPTORS_PER_CONNECTION: u64 = 3;

/// Takes what the process may have of descriptors and makes the allocator keep large buffers.
/// Nothing here is needed for correctness; what is refused is told once.
pub fn prepare(connections_max: usize) {
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
}
