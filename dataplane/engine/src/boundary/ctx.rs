//! The command at hand: what it may ask of the server, and how it answers.

use std::ffi::{CStr, CString, c_char, c_int};
use std::sync::atomic::{AtomicPtr, Ordering::Relaxed};

use redis_module::raw::{self, RedisModuleCtx};

use super::reply::Reply;
use super::server;
use super::words::Words;

static DETACHED: AtomicPtr<RedisModuleCtx> = AtomicPtr::new(std::ptr::null_mut());

/// Longest name of a command, bytes.
const NAME_MAX: usize = 31;

/// The context of one callback of the server. Must not be kept beyond it.
#[derive(Clone, Copy)]
pub(crate) struct Ctx(*mut RedisModuleCtx);

/// A command's name with its final zero.
struct Name([u8; NAME_MAX + 1]);

impl Name {
    fn new(name: &str) -> Self {
        let mut buf = [0; NAME_MAX + 1];
        let len = name.len().min(NAME_MAX);
        buf[..len].copy_from_slice(&name.as_bytes()[..len]);
        Self(buf)
    }

    fn as_ptr(&self) -> *const c_char {
        self.0.as_ptr().cast()
    }
}

/// How to run a command: errors come back as replies.
const PLAIN: &CStr = c"Ev";
/// The same, and the reply is in the protocol of the client.
const AS_CLIENT: &CStr = c"E0v";
/// The same, with the rights of the client's user.
const AS_USER: &CStr = c"E0Cv";

/// With whose rights a command runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rights {
    /// The engine's: whoever may send `MAS.EXEC` is trusted with all keys.
    Engine,
    /// Those of the user who sent the native command, as if it had not been captured.
    User,
}

// A context is also the witness that this is the server's thread, where a function of it takes none.
#[allow(clippy::unused_self)]
impl Ctx {
    pub(super) fn new(ctx: *mut RedisModuleCtx) -> Self {
        Self(ctx)
    }

    pub(super) fn raw(self) -> *mut RedisModuleCtx {
        self.0
    }

    /// Makes the context that [`Ctx::detached`] gives. Called once, at load.
    pub(crate) fn keep_detached(self) {
        // SAFETY: a live context during load; the new one lives as long as the process.
        DETACHED.store(unsafe { server!(RedisModule_GetDetachedThreadSafeContext(self.0)) }, Relaxed);
    }

    /// A context that belongs to no command, for callbacks of the server that come without one. Only on its main thread.
    pub(crate) fn detached() -> Option<Self> {
        let ctx = DETACHED.load(Relaxed);
        (!ctx.is_null()).then_some(Self(ctx))
    }

    // ---- the server ----

    /// The wall clock, unix milliseconds.
    pub(crate) fn wall_ms(self) -> u64 {
        // SAFETY: no arguments.
        u64::try_from(unsafe { server!(RedisModule_Milliseconds()) }).unwrap_or(0)
    }

    fn flags(self) -> u32 {
        // SAFETY: a live context.
        unsafe { server!(RedisModule_GetContextFlags(self.0)) as u32 }
    }

    /// Whether the server is a replica.
    pub(crate) fn is_replica(self) -> bool {
        self.flags() & raw::REDISMODULE_CTX_FLAGS_SLAVE != 0
    }

    /// Whether the command comes from the master's stream or from the AOF.
    pub(crate) fn is_replayed(self) -> bool {
        self.flags() & (raw::REDISMODULE_CTX_FLAGS_REPLICATED | raw::REDISMODULE_CTX_FLAGS_LOADING) != 0
    }

    /// Number of the database that is selected.
    pub(crate) fn database(self) -> i32 {
        // SAFETY: a live context.
        unsafe { server!(RedisModule_GetSelectedDb(self.0)) }
    }

    /// Number of keys.
    pub(crate) fn keys(self) -> u64 {
        // SAFETY: a live context.
        unsafe { server!(RedisModule_DbSize(self.0)) }
    }

    /// Used memory as a part of `maxmemory`; 0 without one.
    pub(crate) fn memory_used(self) -> f64 {
        // SAFETY: no arguments.
        f64::from(unsafe { server!(RedisModule_GetUsedMemoryRatio()) })
    }

    /// 64 random bits from the server's cryptographic generator.
    pub(crate) fn random(self) -> u64 {
        let mut bytes = [0u8; 8];
        // SAFETY: writes exactly that many bytes.
        unsafe { server!(RedisModule_GetRandomBytes(bytes.as_mut_ptr(), bytes.len())) };
        u64::from_le_bytes(bytes)
    }

    /// Writes a line to the server's log.
    pub(crate) fn warn(self, line: &str) {
        let Ok(line) = CString::new(line) else { return };
        // SAFETY: a format with one string.
        unsafe { server!(RedisModule_Log(self.0, c"warning".as_ptr(), c"%s".as_ptr(), line.as_ptr())) };
    }

    /// A field of a section of `INFO`.
    pub(crate) fn info(self, section: &CStr, fields: &[&CStr]) -> Vec<Option<String>> {
        // SAFETY: the data lives until it is freed below; field strings are owned by it.
        unsafe {
            let data = server!(RedisModule_GetServerInfo(self.0, section.as_ptr()));
            let values = fields
                .iter()
                .map(|field| {
                    let value = server!(RedisModule_ServerInfoGetFieldC(data, field.as_ptr()));
                    (!value.is_null()).then(|| CStr::from_ptr(value).to_string_lossy().into_owned())
                })
                .collect();
            server!(RedisModule_FreeServerInfo(self.0, data));
            values
        }
    }

    /// A setting of the server.
    pub(crate) fn setting(self, name: &[u8]) -> Option<Vec<u8>> {
        match &self.call("CONFIG", &[b"GET", name]).leaves()[..] {
            [_, value] => value.bytes().map(<[u8]>::to_vec),
            _ => None,
        }
    }

    // ---- running commands ----

    fn call_raw(
        self,
        name: &str,
        how: &CStr,
        argv: *const *mut raw::RedisModuleString,
        argc: usize,
    ) -> Reply {
        let name = Name::new(name);
        crate::gate::own_call(|| {
            // SAFETY: the format says: an array of strings, and its length.
            Reply::new(unsafe { server!(RedisModule_Call(self.0, name.as_ptr(), how.as_ptr(), argv, argc)) })
        })
    }

    /// Runs `words` (the first is the name) as the client wrote them; the reply is in the client's protocol.
    pub(crate) fn run(self, name: &str, words: Words<'_>, rights: Rights) -> Reply {
        let args = words.skip(1);
        let how = if rights == Rights::User { AS_USER } else { AS_CLIENT };
        self.call_raw(name, how, args.as_ptr(), args.len())
    }

    /// Runs a command with arguments of our own; the reply is in the client's protocol.
    pub(crate) fn run_with(self, name: &str, args: &[&[u8]]) -> Reply {
        self.call_with(name, AS_CLIENT, args)
    }

    /// Runs a command with arguments of our own; the reply is in RESP2.
    pub(crate) fn call(self, name: &str, args: &[&[u8]]) -> Reply {
        self.call_with(name, PLAIN, args)
    }

    fn call_with(self, name: &str, how: &CStr, args: &[&[u8]]) -> Reply {
        let strings: Vec<Text> = args.iter().map(|arg| Text::new(self, arg)).collect();
        let argv: Vec<_> = strings.iter().map(Text::raw).collect();
        self.call_raw(name, how, argv.as_ptr(), argv.len())
    }

    /// `SET key value` with strings that nobody else holds, so that the server may store a number as one.
    pub(crate) fn set_fresh(self, key: &[u8], value: &[u8]) -> Reply {
        crate::gate::own_call(|| {
            // SAFETY: the format says: two buffers with their lengths.
            Reply::new(unsafe {
                server!(RedisModule_Call(
                    self.0,
                    c"SET".as_ptr(),
                    c"Ebb".as_ptr(),
                    key.as_ptr(),
                    key.len(),
                    value.as_ptr(),
                    value.len()
                ))
            })
        })
    }

    /// Sends a log entry to replicas and AOF.
    pub(crate) fn replicate(self, entry: &[u8]) {
        // SAFETY: the format says: a buffer with its length.
        unsafe {
            server!(RedisModule_Replicate(
                self.0,
                c"MAS.APPLY".as_ptr(),
                c"b".as_ptr(),
                entry.as_ptr(),
                entry.len()
            ))
        };
    }

    /// Sends the command at hand to this server's own AOF, as it came.
    pub(crate) fn replicate_verbatim(self) {
        // SAFETY: a live context of a command.
        unsafe { server!(RedisModule_ReplicateVerbatim(self.0)) };
    }

    // ---- answering ----

    /// Begins an array of `len` elements.
    pub(crate) fn reply_array(self, len: usize) {
        // SAFETY: a live context, as in all functions below.
        unsafe { server!(RedisModule_ReplyWithArray(self.0, len as _)) };
    }

    /// A bulk string.
    pub(crate) fn reply_bytes(self, bytes: &[u8]) {
        // SAFETY: bytes with their length.
        unsafe { server!(RedisModule_ReplyWithStringBuffer(self.0, bytes.as_ptr().cast(), bytes.len())) };
    }

    /// A bulk string of text.
    #[allow(clippy::needless_pass_by_value)] // numbers, all of them
    pub(crate) fn reply_text(self, text: impl ToString) {
        self.reply_bytes(text.to_string().as_bytes());
    }

    /// An integer.
    pub(crate) fn reply_integer(self, value: i64) {
        // SAFETY: see above.
        unsafe { server!(RedisModule_ReplyWithLongLong(self.0, value)) };
    }

    /// `+OK`.
    pub(crate) fn reply_ok(self) {
        // SAFETY: a string with a final zero.
        unsafe { server!(RedisModule_ReplyWithSimpleString(self.0, c"OK".as_ptr())) };
    }

    /// An error; its first word is the code.
    pub(crate) fn reply_error(self, message: &str) {
        let clean: Vec<u8> = message.bytes().map(|b| if b < b' ' { b' ' } else { b }).collect();
        let Ok(message) = CString::new(clean) else { return };
        // SAFETY: a string with a final zero.
        unsafe { server!(RedisModule_ReplyWithError(self.0, message.as_ptr())) };
    }

    /// The reply of another command, as it is.
    pub(crate) fn reply_with(self, reply: &Reply) {
        if reply.raw().is_null() {
            // SAFETY: see above.
            unsafe { server!(RedisModule_ReplyWithNull(self.0)) };
            return;
        }
        // SAFETY: a live reply.
        let status: c_int = unsafe { server!(RedisModule_ReplyWithCallReply(self.0, reply.raw())) };
        if status != raw::REDISMODULE_OK as c_int {
            self.reply_error("ERR the reply cannot be expressed in the client's protocol");
        }
    }
}

/// A string of the server that we own.
pub(super) struct Text {
    ctx: *mut RedisModuleCtx,
    string: *mut raw::RedisModuleString,
}

impl Text {
    pub(super) fn new(ctx: Ctx, bytes: &[u8]) -> Self {
        // SAFETY: bytes with their length; freed in `drop`.
        let string = unsafe { server!(RedisModule_CreateString(ctx.0, bytes.as_ptr().cast(), bytes.len())) };
        Self { ctx: ctx.0, string }
    }

    pub(super) fn raw(&self) -> *mut raw::RedisModuleString {
        self.string
    }
}

impl Drop for Text {
    fn drop(&mut self) {
        // SAFETY: created by `new`, freed once.
        unsafe { server!(RedisModule_FreeString(self.ctx, self.string)) };
    }
}
