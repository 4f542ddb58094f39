//! The words of a command, as the server holds them.

use std::marker::PhantomData;

use mas_commands::Args;
use redis_module::raw::RedisModuleString;

use super::server;

/// The words of a command, its name first. Valid while the command runs.
#[derive(Clone, Copy)]
pub(crate) struct Words<'a> {
    argv: *const *mut RedisModuleString,
    argc: usize,
    command: PhantomData<&'a RedisModuleString>,
}

impl<'a> Words<'a> {
    /// # Safety
    /// `argv` must point to `argc` strings that live as long as `'a`.
    pub(super) unsafe fn new(argv: *const *mut RedisModuleString, argc: usize) -> Self {
        Self { argv, argc, command: PhantomData }
    }

    /// How many there are.
    pub(crate) fn len(self) -> usize {
        self.argc
    }

    /// Word `i`; empty when there are fewer.
    pub(crate) fn get(self, i: usize) -> &'a [u8] {
        if i < self.argc { bytes_of(self.raw(i)) } else { b"" }
    }

    /// The words from `n` on.
    pub(crate) fn skip(self, n: usize) -> Self {
        let n = n.min(self.argc);
        // SAFETY: still within the same array.
        Self { argv: unsafe { self.argv.add(n) }, argc: self.argc - n, command: PhantomData }
    }

    /// All of them.
    pub(crate) fn iter(self) -> impl Iterator<Item = &'a [u8]> {
        (0..self.argc).map(move |i| self.get(i))
    }

    pub(super) fn raw(self, i: usize) -> *mut RedisModuleString {
        debug_assert!(i < self.argc);
        // SAFETY: callers pass an index below `argc`.
        unsafe { *self.argv.add(i) }
    }

    pub(super) fn as_ptr(self) -> *const *mut RedisModuleString {
        self.argv
    }
}

impl Args for Words<'_> {
    fn count(&self) -> usize {
        self.argc
    }

    fn arg(&self, i: usize) -> &[u8] {
        self.get(i)
    }
}

/// The bytes of a string of the server, for as long as that string lives.
pub(super) fn bytes_of<'a>(string: *mut RedisModuleString) -> &'a [u8] {
    let mut len = 0;
    // SAFETY: `string` is a live string; the server answers with its bytes.
    unsafe {
        let ptr = server!(RedisModule_StringPtrLen(string, &raw mut len));
        if ptr.is_null() { &[] } else { std::slice::from_raw_parts(ptr.cast(), len) }
    }
}
