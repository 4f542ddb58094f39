//! The allocator: the server's own, so that metadata and outbox count as its used memory and towards `maxmemory`.
//! Outside a server (unit tests) it is the system's.

use std::alloc::{GlobalAlloc, Layout, System};

use redis_module::raw;

/// The server aligns to this. What needs more (the metadata table's row of slots, 1 MiB, allocated once) is `System`'s, and
/// not counted as the server's memory.
const SERVER_ALIGN: usize = 16;

struct ServerAlloc;

#[global_allocator]
static ALLOC: ServerAlloc = ServerAlloc;

// SAFETY: delegates to one of two allocators. Which one is decided by the layout and by whether the API was initialized,
// which happens before the first allocation of the module (first line of `RedisModule_OnLoad`) or never.
unsafe impl GlobalAlloc for ServerAlloc {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        unsafe {
            match raw::RedisModule_Alloc {
                Some(alloc) if layout.align() <= SERVER_ALIGN => alloc(layout.size()).cast(),
                _ => System.alloc(layout),
            }
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        unsafe {
            match raw::RedisModule_Calloc {
                Some(calloc) if layout.align() <= SERVER_ALIGN => calloc(1, layout.size()).cast(),
                _ => System.alloc_zeroed(layout),
            }
        }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        unsafe {
            match raw::RedisModule_Realloc {
                Some(realloc) if layout.align() <= SERVER_ALIGN => realloc(ptr.cast(), size).cast(),
                _ => System.realloc(ptr, layout, size),
            }
        }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        unsafe {
            match raw::RedisModule_Free {
                Some(free) if layout.align() <= SERVER_ALIGN => free(ptr.cast()),
                _ => System.dealloc(ptr, layout),
            }
        }
    }
}
