//! An allocator that counts. Whoever decodes a small input must not allocate much, whatever lengths the input declares.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static LIVE: Cell<usize> = const { Cell::new(0) };
    static LIMIT: Cell<usize> = const { Cell::new(usize::MAX) };
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn grow(bytes: usize) {
    let live = LIVE.get().wrapping_add(bytes);
    LIVE.set(live);
    let limit = LIMIT.get();
    // What was allocated before the bound was set may be freed under it: then the count is "negative".
    if live > limit && live < usize::MAX / 2 {
        LIMIT.set(usize::MAX);
        eprintln!("{live} bytes are allocated where {limit} should do");
        std::process::abort();
    }
}

fn shrink(bytes: usize) {
    LIVE.set(LIVE.get().wrapping_sub(bytes));
}

// SAFETY: every call goes to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        shrink(layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

/// Runs `run`, which may have at most `limit` bytes more allocated at any time than before it; else the process aborts.
pub fn bounded<R>(limit: usize, run: impl FnOnce() -> R) -> R {
    LIVE.set(0);
    LIMIT.set(limit);
    let result = run();
    LIMIT.set(usize::MAX);
    result
}
