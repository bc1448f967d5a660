//! The buffers of connections that wait, without their memory.
//!
//! hyper keeps 8 KiB for reading and 8 KiB for writing as long as a connection lives. Where
//! thousands of clients send slowly, these are most of what each of them costs, and next to nothing
//! of them is used. So buffers of this size begin at a page: of the one for writing only the page
//! that holds an answer is ever touched. The pages of one that waits to be read into are given back
//! to the kernel, which puts others in their place when they are written to.

use std::alloc::{GlobalAlloc, Layout, System};
use std::mem::MaybeUninit;

use nix::libc;

/// What hyper allocates for either buffer until a client fills one.
const BUFFER_BYTES: usize = 8 << 10;
/// Where the kernel's pages are larger, it gives no memory back, and nothing else is different.
const PAGE_BYTES: usize = 4 << 10;

/// The system's allocator, but that buffers begin at a page.
pub(crate) struct Paged;

/// What is asked of the system for a block: the same each time for one size, so that a block is
/// given back as what it was taken as.
fn placed(layout: Layout) -> Layout {
    match layout.size() {
        BUFFER_BYTES => layout.align_to(PAGE_BYTES).unwrap_or(layout),
        _ => layout,
    }
}

#[expect(unsafe_code, reason = "an allocator has no safe interface")]
// SAFETY: every block is the system allocator's, asked for and given back with one layout, which
// has the size that was asked for and no smaller alignment.
unsafe impl GlobalAlloc for Paged {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(placed(layout)) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(placed(layout)) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above; it was taken so.
        unsafe { System.dealloc(block, placed(layout)) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if ![layout.size(), size].contains(&BUFFER_BYTES) {
            // SAFETY: as above.
            return unsafe { System.realloc(block, layout, size) };
        }
        // SAFETY: the caller promises that this is a layout.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        // SAFETY: the size is not 0, by the same promise.
        let moved = unsafe { self.alloc(wanted) };
        if !moved.is_null() {
            // SAFETY: both have so many bytes, and the new one is nobody else's; the old one is
            // not used any more.
            unsafe {
                std::ptr::copy_nonoverlapping(block, moved, layout.size().min(size));
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
        let buffers: Vec<Vec<u8>> = (0..10).map(|_| Vec::with_capacity(BUFFER_BYTES)).collect();
        for buffer in buffers {
            assert_eq!(buffer.as_ptr().align_offset(PAGE_BYTES), 0);
        }
    }

    #[test]
    fn a_buffer_that_grows_or_shrinks_keeps_what_is_in_it() {
        for (from, to) in [(BUFFER_BYTES, 3 * BUFFER_BYTES), (100, BUFFER_BYTES)] {
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
