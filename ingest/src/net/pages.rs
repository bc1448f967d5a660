//! The buffers of connections that wait, without their memory.
//!
//! hyper keeps 8 KiB for reading and 8 KiB for writing as long as a connection lives. Where
//! thousands of clients send slowly, these are most of what each of them costs, and next to nothing
//! of them is used. So buffers of this size begin at a page: of the one for writing only the page
//! that holds an answer is ever touched. The pages of one that waits to be read into are given back
//! to the kernel, which puts others in their place when they are written to.
//!
//! The buffers into which large bodies are read begin at a page too: the kernel copies a body into
//! one and out of it again, from and to pages of its own, and does so faster if both begin alike.
//! hyper doubles what its first buffer has left behind a request's head, so these are of many sizes,
//! but none is larger than twice of what is read at once: each gets as much as that, of which only
//! what is read into is ever touched. glibc finds aligned memory anew each time instead of what was
//! given back, so what was is kept here for the next one.

use std::alloc::{GlobalAlloc, Layout, System};
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use nix::libc;

use super::connection::READ_BUFFER_BYTES;

/// What hyper allocates for either buffer until a client fills one.
const BUFFER_BYTES: usize = 8 << 10;
/// Where the kernel's pages are larger, it gives no memory back, and nothing else is different.
const PAGE_BYTES: usize = 4 << 10;

/// What every buffer into which a large body is read gets.
const LARGE_BYTES: usize = 2 * READ_BUFFER_BYTES;

/// Blocks of [`LARGE_BYTES`] that are kept, at most.
const SPARE_MAX: usize = 32;

static SPARE: [AtomicPtr<u8>; SPARE_MAX] = [const { AtomicPtr::new(ptr::null_mut()) }; SPARE_MAX];

/// The system's allocator, but that buffers begin at a page.
pub(crate) struct Paged;

/// Whether a large body is read into a block of this size.
fn is_large(size: usize) -> bool {
    READ_BUFFER_BYTES / 2 < size && size <= LARGE_BYTES
}

fn is_paged(size: usize) -> bool {
    size == BUFFER_BYTES || is_large(size)
}

/// Whether such a block is kept when it is given back.
fn is_spare(layout: Layout) -> bool {
    is_large(layout.size()) && layout.align() <= PAGE_BYTES
}

/// A buffer that was kept, if there is one.
fn take_spare() -> Option<*mut u8> {
    let kept = |spare: &&AtomicPtr<u8>| !spare.load(Ordering::Relaxed).is_null();
    let mut taken = SPARE
        .iter()
        .filter(kept)
        .map(|spare| spare.swap(ptr::null_mut(), Ordering::Acquire));
    taken.find(|block| !block.is_null())
}

/// Keeps a buffer; whether there was room.
fn keep_spare(block: *mut u8) -> bool {
    let none = ptr::null_mut();
    SPARE.iter().any(|spare| {
        spare.load(Ordering::Relaxed).is_null()
            && spare
                .compare_exchange(none, block, Ordering::Release, Ordering::Relaxed)
                .is_ok()
    })
}

/// What is asked of the system for a block: the same each time for one size, so that a block is
/// given back as what it was taken as.
fn placed(layout: Layout) -> Layout {
    let size = match layout.size() {
        size if is_large(size) => LARGE_BYTES,
        BUFFER_BYTES => BUFFER_BYTES,
        _ => return layout,
    };
    Layout::from_size_align(size, layout.align().max(PAGE_BYTES)).unwrap_or(layout)
}

#[expect(unsafe_code, reason = "an allocator has no safe interface")]
// SAFETY: every block is the system allocator's, asked for and given back with one layout, which
// has no smaller size and alignment than were asked for. One that is kept is nobody's: whoever
// takes it leaves nothing in its place.
unsafe impl GlobalAlloc for Paged {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_spare(layout)
            && let Some(block) = take_spare()
        {
            return block;
        }
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(placed(layout)) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(placed(layout)) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if is_spare(layout) && keep_spare(block) {
            return;
        }
        // SAFETY: as above; it was taken so.
        unsafe { System.dealloc(block, placed(layout)) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !is_paged(layout.size()) && !is_paged(size) {
            // SAFETY: as above.
            return unsafe { System.realloc(block, layout, size) };
        }
        // SAFETY: the caller promises that this is a layout.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        if placed(wanted) == placed(layout) {
            return block;
        }
        // SAFETY: the size is not 0, by the same promise.
        let moved = unsafe { self.alloc(wanted) };
        if !moved.is_null() {
            // SAFETY: both have so many bytes, and the new one is nobody else's; the old one is
            // not used any more.
            unsafe {
                ptr::copy_nonoverlapping(block, moved, layout.size().min(size));
                self.dealloc(block, layout);
            }
        }
        moved
    }
}

/// Gives the whole pages of `unused` back to the kernel. What was in them is gone.
pub(super) fn give_back(unused: &mut [MaybeUninit<u8>]) {
    let before = unused.as_ptr().align_offset(PAGE_BYTES);
    let Some(pages) = unused.get_mut(before..) else {
        return;
    };
    let bytes = pages.len() / PAGE_BYTES * PAGE_BYTES;
    #[expect(unsafe_code, reason = "the kernel takes addresses")]
    // SAFETY: the bytes are borrowed mutably, and nobody relies on what is in them. A refusal
    // leaves them as they are.
    unsafe {
        libc::madvise(pages.as_mut_ptr().cast(), bytes, libc::MADV_DONTNEED);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_begins_at_a_page() {
        // The last two: what a head of 64 and of 128 bytes leaves, doubled until it is enough.
        let left = |head: usize| (BUFFER_BYTES - head) << 7;
        let sizes = [BUFFER_BYTES, READ_BUFFER_BYTES, left(64), 2 * left(128)];
        // More than are kept, and again when some are.
        for _ in 0..2 {
            let buffers: Vec<Vec<u8>> = (0..2 * SPARE_MAX)
                .flat_map(|_| sizes.map(Vec::with_capacity))
                .collect();
            for buffer in &buffers {
                assert_eq!(buffer.as_ptr().align_offset(PAGE_BYTES), 0);
            }
        }
    }

    #[test]
    fn a_buffer_that_grows_or_shrinks_keeps_what_is_in_it() {
        for (from, to) in [
            (BUFFER_BYTES, 3 * BUFFER_BYTES),
            (100, BUFFER_BYTES),
            (BUFFER_BYTES, READ_BUFFER_BYTES),
            (READ_BUFFER_BYTES, LARGE_BYTES),
            (LARGE_BYTES - PAGE_BYTES, LARGE_BYTES + 1),
        ] {
            let mut buffer: Vec<u8> = Vec::with_capacity(from);
            buffer.extend((0..from).map(|at| at as u8));
            buffer.reserve_exact(to - from);
            assert!(
                buffer
                    .iter()
                    .enumerate()
                    .all(|(at, byte)| *byte == at as u8)
            );
            buffer.truncate(50);
            buffer.shrink_to(from.min(BUFFER_BYTES));
            buffer.shrink_to_fit();
            assert!(
                buffer
                    .iter()
                    .enumerate()
                    .all(|(at, byte)| *byte == at as u8)
            );
        }
    }

    #[test]
    fn a_large_buffer_that_grows_stays_where_it_is() {
        let mut buffer: Vec<u8> = Vec::with_capacity(READ_BUFFER_BYTES / 2 + 1);
        let before = buffer.as_ptr();
        buffer.reserve_exact(LARGE_BYTES);
        assert_eq!(buffer.as_ptr(), before);
    }

    #[test]
    fn a_large_buffer_is_one_owner_s_at_a_time() {
        let owner = |n: usize| {
            move || {
                for round in 0..200 {
                    let mark = (n * 31 + round) as u8;
                    let mut buffer: Vec<u8> = Vec::with_capacity(READ_BUFFER_BYTES);
                    buffer.resize(READ_BUFFER_BYTES, mark);
                    std::thread::yield_now();
                    let is_mine = |at: usize| buffer[at] == mark;
                    assert!((0..READ_BUFFER_BYTES).step_by(PAGE_BYTES).all(is_mine));
                }
            }
        };
        let owners: Vec<_> = (0..8).map(|n| std::thread::spawn(owner(n))).collect();
        for owner in owners {
            owner.join().unwrap();
        }
    }

    #[test]
    fn whole_pages_are_given_back_and_nothing_beside_them() {
        // A buffer of its own pages: three of them, and the ends of two.
        let mut space = vec![MaybeUninit::new(1_u8); 6 * PAGE_BYTES];
        let first = space.as_ptr().align_offset(PAGE_BYTES);
        give_back(&mut space[first + 1..first + 5 * PAGE_BYTES - 1]);
        // SAFETY: all of it was initialised, and the kernel gives zeros.
        #[expect(unsafe_code, reason = "the pages are looked at again")]
        let bytes: Vec<u8> = unsafe { space.iter().map(|byte| byte.assume_init()).collect() };
        for (at, byte) in bytes.into_iter().enumerate() {
            let given = first + PAGE_BYTES <= at && at < first + 4 * PAGE_BYTES;
            assert_eq!(byte, u8::from(!given), "at {at}");
        }
    }
}
