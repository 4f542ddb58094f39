//! Replies of commands that the engine runs inside the server.

use redis_module::raw::{self, RedisModuleCallReply};

use super::server;

/// A reply; freed with this value.
pub(crate) struct Reply(*mut RedisModuleCallReply);

/// What a reply is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReplyKind {
    /// A string, bulk or simple.
    String,
    /// An error.
    Error,
    /// An integer, or a boolean.
    Integer,
    /// A double (RESP3).
    Double,
    /// Null.
    Null,
    /// An array, a set or a map.
    Many,
    /// Anything else.
    Other,
}

/// A value at the bottom of a nested reply.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Leaf {
    /// A string.
    Bytes(Vec<u8>),
    /// An integer.
    Integer(i64),
    /// A double.
    Double(f64),
    /// Null.
    Null,
}

impl Leaf {
    /// The bytes of a string leaf.
    pub(crate) fn bytes(&self) -> Option<&[u8]> {
        if let Self::Bytes(bytes) = self { Some(bytes) } else { None }
    }
}

fn kind_of(reply: *mut RedisModuleCallReply) -> ReplyKind {
    if reply.is_null() {
        return ReplyKind::Null;
    }
    // SAFETY: a live reply.
    match unsafe { server!(RedisModule_CallReplyType(reply)) } as isize {
        raw::REDISMODULE_REPLY_STRING | raw::REDISMODULE_REPLY_VERBATIM_STRING => ReplyKind::String,
        raw::REDISMODULE_REPLY_ERROR => ReplyKind::Error,
        raw::REDISMODULE_REPLY_INTEGER | raw::REDISMODULE_REPLY_BOOL => ReplyKind::Integer,
        raw::REDISMODULE_REPLY_DOUBLE => ReplyKind::Double,
        raw::REDISMODULE_REPLY_NULL => ReplyKind::Null,
        raw::REDISMODULE_REPLY_ARRAY | raw::REDISMODULE_REPLY_SET | raw::REDISMODULE_REPLY_MAP => {
            ReplyKind::Many
        }
        _ => ReplyKind::Other,
    }
}

fn bytes_of<'a>(reply: *mut RedisModuleCallReply) -> &'a [u8] {
    let mut len = 0;
    // SAFETY: a live reply of a string kind; the bytes belong to it.
    unsafe {
        let ptr = server!(RedisModule_CallReplyStringPtr(reply, &raw mut len));
        if ptr.is_null() { &[] } else { std::slice::from_raw_parts(ptr.cast(), len) }
    }
}

fn walk(reply: *mut RedisModuleCallReply, out: &mut Vec<Leaf>) {
    // SAFETY: children live as long as their parent, which the caller holds.
    unsafe {
        match kind_of(reply) {
            ReplyKind::String | ReplyKind::Error => out.push(Leaf::Bytes(bytes_of(reply).to_vec())),
            ReplyKind::Integer => out.push(Leaf::Integer(server!(RedisModule_CallReplyInteger(reply)))),
            ReplyKind::Double => out.push(Leaf::Double(server!(RedisModule_CallReplyDouble(reply)))),
            ReplyKind::Null | ReplyKind::Other => out.push(Leaf::Null),
            ReplyKind::Many => {
                let len = server!(RedisModule_CallReplyLength(reply));
                let kind = server!(RedisModule_CallReplyType(reply)) as isize;
                for i in 0..len {
                    if kind == raw::REDISMODULE_REPLY_MAP {
                        let (mut key, mut value) = (std::ptr::null_mut(), std::ptr::null_mut());
                        server!(RedisModule_CallReplyMapElement(reply, i, &raw mut key, &raw mut value));
                        walk(key, out);
                        walk(value, out);
                    } else if kind == raw::REDISMODULE_REPLY_SET {
                        walk(server!(RedisModule_CallReplySetElement(reply, i)), out);
                    } else {
                        walk(server!(RedisModule_CallReplyArrayElement(reply, i)), out);
                    }
                }
            }
        }
    }
}

impl Reply {
    pub(super) fn new(reply: *mut RedisModuleCallReply) -> Self {
        Self(reply)
    }

    pub(super) fn raw(&self) -> *mut RedisModuleCallReply {
        self.0
    }

    /// What it is.
    pub(crate) fn kind(&self) -> ReplyKind {
        kind_of(self.0)
    }

    /// Whether it is an error.
    pub(crate) fn is_error(&self) -> bool {
        self.kind() == ReplyKind::Error
    }

    /// Whether it is null.
    pub(crate) fn is_null(&self) -> bool {
        self.kind() == ReplyKind::Null
    }

    /// The integer, if it is one.
    pub(crate) fn integer(&self) -> Option<i64> {
        // SAFETY: a live reply of that kind.
        (self.kind() == ReplyKind::Integer).then(|| unsafe { server!(RedisModule_CallReplyInteger(self.0)) })
    }

    /// The bytes of a string or an error.
    pub(crate) fn bytes(&self) -> Option<&[u8]> {
        matches!(self.kind(), ReplyKind::String | ReplyKind::Error).then(|| bytes_of(self.0))
    }

    /// A double, or a string that holds one.
    pub(crate) fn double(&self) -> Option<f64> {
        match self.kind() {
            // SAFETY: a live reply of that kind.
            ReplyKind::Double => Some(unsafe { server!(RedisModule_CallReplyDouble(self.0)) }),
            ReplyKind::String => std::str::from_utf8(bytes_of(self.0)).ok()?.parse().ok(),
            _ => None,
        }
    }

    /// All values in it, depth first.
    pub(crate) fn leaves(&self) -> Vec<Leaf> {
        let mut out = Vec::new();
        walk(self.0, &mut out);
        out
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: the top of a reply, freed once.
            unsafe { server!(RedisModule_FreeCallReply(self.0)) };
        }
    }
}
