//! Native keys: what the merge reads and shows, through the server's key API where it has one.

use std::ffi::{c_int, c_void};

use bytes::Bytes;
use mas_core::effect::{Kind, Value};
use mas_core::keyspace::Keyspace;
use mas_core::slot::{SLOTS, slot_of};
use redis_module::raw::{self, RedisModuleCtx, RedisModuleKey, RedisModuleString};

use super::ctx::{Ctx, Text};
use super::server;
use super::words::{Words, bytes_of};

/// The type of a native key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyType {
    /// No such key.
    None,
    /// A type that is merged.
    Of(Kind),
    /// Another type.
    Other,
}

const READ: u32 = raw::REDISMODULE_READ | raw::REDISMODULE_OPEN_KEY_NOTOUCH;
const WRITE: u32 = raw::REDISMODULE_READ | raw::REDISMODULE_WRITE;

/// An open key.
struct Key(*mut RedisModuleKey);

impl Key {
    fn open(ctx: Ctx, name: &Text, mode: u32) -> Self {
        // SAFETY: a live context and string; closed in `drop`.
        Self(unsafe { server!(RedisModule_OpenKey(ctx.raw(), name.raw(), mode as c_int)) }.cast())
    }

    fn kind(&self) -> KeyType {
        if self.0.is_null() {
            return KeyType::None;
        }
        // SAFETY: an open key.
        match unsafe { server!(RedisModule_KeyType(self.0)) } as isize {
            raw::REDISMODULE_KEYTYPE_EMPTY => KeyType::None,
            raw::REDISMODULE_KEYTYPE_STRING => KeyType::Of(Kind::Str),
            raw::REDISMODULE_KEYTYPE_HASH => KeyType::Of(Kind::Hash),
            raw::REDISMODULE_KEYTYPE_SET => KeyType::Of(Kind::Set),
            raw::REDISMODULE_KEYTYPE_ZSET => KeyType::Of(Kind::Zset),
            _ => KeyType::Other,
        }
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: opened by `open`, closed once.
            unsafe { server!(RedisModule_CloseKey(self.0)) };
        }
    }
}

/// The native keys of the database.
#[derive(Clone, Copy)]
pub(crate) struct Native(pub(crate) Ctx);

impl Native {
    /// The type of a key; a key that the server finds expired is not there.
    pub(crate) fn kind(self, key: &[u8]) -> KeyType {
        Key::open(self.0, &Text::new(self.0, key), READ).kind()
    }

    /// When the key expires, unix milliseconds.
    pub(crate) fn expiry(self, key: &[u8]) -> Option<u64> {
        let key = Key::open(self.0, &Text::new(self.0, key), READ);
        if key.0.is_null() {
            return None;
        }
        // SAFETY: an open key.
        u64::try_from(unsafe { server!(RedisModule_GetAbsExpire(key.0)) }).ok()
    }

    /// A field of a hash.
    pub(crate) fn hash_field(self, key: &[u8], field: &[u8]) -> Option<Bytes> {
        let key = Key::open(self.0, &Text::new(self.0, key), READ);
        if key.kind() != KeyType::Of(Kind::Hash) {
            return None;
        }
        let field = Text::new(self.0, field);
        let mut value: *mut RedisModuleString = std::ptr::null_mut();
        // SAFETY: pairs of field and place for the value, ended by a null.
        unsafe {
            server!(RedisModule_HashGet(
                key.0,
                raw::REDISMODULE_HASH_NONE as c_int,
                field.raw(),
                &raw mut value,
                std::ptr::null_mut::<c_void>()
            ));
            if value.is_null() {
                return None;
            }
            let bytes = Bytes::copy_from_slice(bytes_of(value));
            server!(RedisModule_FreeString(self.0.raw(), value));
            Some(bytes)
        }
    }

    /// Elements that the key shows: 1 for a string.
    pub(crate) fn elements(self, key: &[u8]) -> u64 {
        let command = match self.kind(key) {
            KeyType::None | KeyType::Other => return 0,
            KeyType::Of(Kind::Str) => return 1,
            KeyType::Of(Kind::Hash) => "HLEN",
            KeyType::Of(Kind::Set) => "SCARD",
            KeyType::Of(Kind::Zset) => "ZCARD",
        };
        self.0.call(command, &[key]).integer().and_then(|count| u64::try_from(count).ok()).unwrap_or(0)
    }

    /// A member's score.
    pub(crate) fn score(self, key: &[u8], member: &[u8]) -> Option<f64> {
        let key = Key::open(self.0, &Text::new(self.0, key), READ);
        if key.kind() != KeyType::Of(Kind::Zset) {
            return None;
        }
        let mut score = 0.0;
        let member = Text::new(self.0, member);
        // SAFETY: an open sorted set.
        let status = unsafe { server!(RedisModule_ZsetScore(key.0, member.raw(), &raw mut score)) };
        (status == raw::REDISMODULE_OK as c_int).then_some(score)
    }

    /// Memory that the key takes, bytes; 0 without one.
    pub(crate) fn memory(self, key: &[u8]) -> u64 {
        let reply = self.0.call("MEMORY", &[b"USAGE", key, b"SAMPLES", b"0"]);
        reply.integer().and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0)
    }

    /// Length of a string, bytes; 0 without one.
    pub(crate) fn string_length(self, key: &[u8]) -> u64 {
        self.0.call("STRLEN", &[key]).integer().and_then(|len| u64::try_from(len).ok()).unwrap_or(0)
    }

    /// A string's value.
    pub(crate) fn string(self, key: &[u8]) -> Option<Bytes> {
        let reply = self.0.call("GET", &[key]);
        if reply.is_error() { None } else { reply.bytes().map(Bytes::copy_from_slice) }
    }

    /// Sets a whole string and clears its time-to-live, as `SET` does.
    pub(crate) fn set_string(self, key: &[u8], value: &[u8]) {
        if mas_core::amount::is_redis_integer(value) {
            self.0.set_fresh(key, value);
            return;
        }
        let (key, value) = (Text::new(self.0, key), Text::new(self.0, value));
        let key = Key::open(self.0, &key, WRITE);
        // SAFETY: a key open for writing.
        unsafe { server!(RedisModule_StringSet(key.0, value.raw())) };
    }

    /// The same, with words of the command at hand, which the server then shares.
    pub(crate) fn set_word(self, words: Words<'_>, key: usize, value: usize) {
        let bytes = words.get(value);
        if mas_core::amount::is_redis_integer(bytes) {
            self.0.set_fresh(words.get(key), bytes);
            return;
        }
        let ctx = self.0.raw();
        // SAFETY: words of the command at hand; the key is closed at once.
        unsafe {
            let name = words.raw(key);
            let open = server!(RedisModule_OpenKey(ctx, name, WRITE as c_int)).cast();
            server!(RedisModule_StringSet(open, words.raw(value)));
            server!(RedisModule_CloseKey(open));
            server!(RedisModule_NotifyKeyspaceEvent(
                ctx,
                raw::REDISMODULE_NOTIFY_STRING,
                c"set".as_ptr(),
                name
            ));
        }
    }

    /// Makes sure that the key is of `kind`, or not there.
    fn clear_unless(self, key: &[u8], kind: Kind) {
        match self.kind(key) {
            KeyType::None => {}
            KeyType::Of(found) if found == kind => {}
            KeyType::Of(_) | KeyType::Other => self.remove_key(key),
        }
    }

    fn remove_key(self, key: &[u8]) {
        let key = Key::open(self.0, &Text::new(self.0, key), WRITE);
        // SAFETY: a key open for writing.
        unsafe { server!(RedisModule_UnlinkKey(key.0)) };
    }

    /// `value` null pointer removes the field.
    fn set_field(self, key: &[u8], field: &[u8], value: Option<&[u8]>) {
        let key = Key::open(self.0, &Text::new(self.0, key), WRITE);
        let field = Text::new(self.0, field);
        let text = value.map(|v| Text::new(self.0, v));
        // What the header calls REDISMODULE_HASH_DELETE.
        let delete = std::ptr::without_provenance_mut::<RedisModuleString>(1);
        // SAFETY: pairs of field and value, ended by a null.
        unsafe {
            server!(RedisModule_HashSet(
                key.0,
                raw::REDISMODULE_HASH_NONE as c_int,
                field.raw(),
                text.as_ref().map_or(delete, Text::raw),
                std::ptr::null_mut::<c_void>()
            ))
        };
    }

    /// All keys for which `wanted` holds.
    pub(crate) fn scan(self, mut wanted: impl FnMut(&[u8]) -> bool) -> Vec<Vec<u8>> {
        struct State<'a> {
            wanted: &'a mut dyn FnMut(&[u8]) -> bool,
            found: Vec<Vec<u8>>,
        }
        extern "C" fn visit(
            _: *mut RedisModuleCtx,
            name: *mut RedisModuleString,
            _: *mut RedisModuleKey,
            state: *mut c_void,
        ) {
            // SAFETY: `state` is the one below; nothing else touches it during the scan.
            let state = unsafe { &mut *state.cast::<State<'_>>() };
            let name = bytes_of(name);
            if (state.wanted)(name) {
                state.found.push(name.to_vec());
            }
        }
        let mut state = State { wanted: &mut wanted, found: Vec::new() };
        // SAFETY: the cursor is destroyed below; the callback does not change keys.
        unsafe {
            let cursor = server!(RedisModule_ScanCursorCreate());
            while server!(RedisModule_Scan(self.0.raw(), cursor, Some(visit), (&raw mut state).cast())) != 0 {
            }
            server!(RedisModule_ScanCursorDestroy(cursor));
        }
        state.found
    }
}

impl Keyspace for Native {
    fn read(&mut self, key: &[u8], kind: Kind, name: &[u8]) -> Option<Value> {
        match kind {
            Kind::Str => self.string(key).map(Value::Bytes),
            Kind::Hash => self.hash_field(key, name).map(Value::Bytes),
            Kind::Set => {
                (self.0.call("SISMEMBER", &[key, name]).integer() == Some(1)).then_some(Value::Member)
            }
            Kind::Zset => self.score(key, name).map(Value::Score),
        }
    }

    fn exists(&mut self, key: &[u8]) -> bool {
        self.kind(key) != KeyType::None
    }

    fn write(&mut self, key: &[u8], kind: Kind, name: &[u8], value: &Value) {
        match (kind, value) {
            (Kind::Str, Value::Bytes(value)) => self.set_string(key, value),
            (Kind::Hash, Value::Bytes(value)) => {
                self.clear_unless(key, kind);
                self.set_field(key, name, Some(value));
            }
            (Kind::Set, Value::Member) => {
                self.clear_unless(key, kind);
                self.0.call("SADD", &[key, name]);
            }
            (Kind::Zset, Value::Score(score)) => {
                self.clear_unless(key, kind);
                let key = Key::open(self.0, &Text::new(self.0, key), WRITE);
                let member = Text::new(self.0, name);
                // SAFETY: a key open for writing; no flags wanted.
                unsafe { server!(RedisModule_ZsetAdd(key.0, *score, member.raw(), std::ptr::null_mut())) };
            }
            // The codec lets no other pair through.
            (Kind::Str | Kind::Hash | Kind::Set | Kind::Zset, _) => {}
        }
    }

    fn remove(&mut self, key: &[u8], kind: Kind, name: &[u8]) {
        if self.kind(key) != KeyType::Of(kind) {
            return;
        }
        match kind {
            Kind::Str => self.remove_key(key),
            Kind::Hash => self.set_field(key, name, None),
            Kind::Set => {
                self.0.call("SREM", &[key, name]);
            }
            Kind::Zset => {
                let key = Key::open(self.0, &Text::new(self.0, key), WRITE);
                let member = Text::new(self.0, name);
                // SAFETY: a key open for writing; no flags wanted.
                unsafe { server!(RedisModule_ZsetRem(key.0, member.raw(), std::ptr::null_mut())) };
            }
        }
    }

    fn delete(&mut self, key: &[u8]) {
        self.remove_key(key);
    }

    fn set_expiry(&mut self, key: &[u8], at_ms: Option<u64>) {
        let key = Key::open(self.0, &Text::new(self.0, key), WRITE);
        if key.kind() == KeyType::None {
            return;
        }
        let at = at_ms.map_or(raw::REDISMODULE_NO_EXPIRE.into(), |ms| i64::try_from(ms).unwrap_or(i64::MAX));
        // SAFETY: a key open for writing.
        unsafe { server!(RedisModule_SetAbsExpire(key.0, at)) };
    }

    fn keys_in_slots(&mut self, first: u16, last: u16) -> Vec<Vec<u8>> {
        let all = first == 0 && last == SLOTS - 1;
        Native::scan(*self, |key| all || (first..=last).contains(&slot_of(key)))
    }

    /// With the server's own cursor, whose promise is the one that is asked for.
    fn scan(&mut self, cursor: &[u8], count: usize) -> (Vec<u8>, Vec<Vec<u8>>) {
        let cursor = if cursor.is_empty() { b"0" } else { cursor };
        let count = count.to_string();
        let reply = self.0.call("SCAN", &[cursor, b"COUNT", count.as_bytes()]);
        // The cursor, then the keys.
        let mut words = reply.leaves().into_iter().filter_map(|leaf| leaf.bytes().map(<[u8]>::to_vec));
        let next = words.next().filter(|next| next != b"0").unwrap_or_default();
        (next, words.collect())
    }
}
