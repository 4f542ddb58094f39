//! The shard's state in RDB files, in full syncs and in the AOF's preamble: auxiliary data of a data type that no key has.

use std::ffi::{c_int, c_void};

use redis_module::raw::{self, RedisModuleCtx, RedisModuleIO, RedisModuleTypeMethods};

use super::server;

/// Name of the data type, nine characters.
const TYPE_NAME: &std::ffi::CStr = c"mas-shard";
/// Version of what [`aux_save`] writes around the chunks.
const ENCODING: c_int = 1;

/// Where chunks go. An empty chunk ends them.
pub(crate) struct Save(*mut RedisModuleIO);

impl Save {
    /// Writes one chunk.
    pub(crate) fn chunk(&mut self, bytes: &[u8]) {
        // SAFETY: a live stream; bytes with their length.
        unsafe { server!(RedisModule_SaveStringBuffer(self.0, bytes.as_ptr().cast(), bytes.len())) };
    }
}

/// Where chunks come from.
pub(crate) struct Load(*mut RedisModuleIO);

impl Load {
    /// The next chunk, copied; `None` when the stream broke.
    pub(crate) fn chunk(&mut self) -> Option<Vec<u8>> {
        let mut len = 0;
        // SAFETY: a live stream; the buffer is ours and freed below.
        unsafe {
            let ptr = server!(RedisModule_LoadStringBuffer(self.0, &raw mut len));
            if ptr.is_null() {
                return None;
            }
            let bytes = std::slice::from_raw_parts(ptr.cast::<u8>(), len).to_vec();
            server!(RedisModule_Free(ptr.cast()));
            (server!(RedisModule_IsIOError(self.0)) == 0).then_some(bytes)
        }
    }
}

extern "C" fn aux_save(io: *mut RedisModuleIO, _when: c_int) {
    crate::persistence::save(&mut Save(io));
}

extern "C" fn aux_load(io: *mut RedisModuleIO, encoding: c_int, _when: c_int) -> c_int {
    let loaded = encoding == ENCODING && crate::persistence::load(&mut Load(io));
    (if loaded { raw::REDISMODULE_OK } else { raw::REDISMODULE_ERR }) as c_int
}

/// No key has this type.
extern "C" fn no_load(_: *mut RedisModuleIO, _: c_int) -> *mut c_void {
    std::ptr::null_mut()
}

extern "C" fn no_free(_: *mut c_void) {}

/// Registers the data type.
pub(super) fn register(ctx: *mut RedisModuleCtx) -> bool {
    let mut methods = RedisModuleTypeMethods {
        // What 7.0 knows of; later fields are not read.
        version: 2,
        rdb_load: Some(no_load),
        rdb_save: None,
        aof_rewrite: None,
        mem_usage: None,
        digest: None,
        free: Some(no_free),
        aux_load: Some(aux_load),
        aux_save: Some(aux_save),
        aux_save_triggers: raw::REDISMODULE_AUX_BEFORE_RDB as c_int,
        free_effort: None,
        unlink: None,
        copy: None,
        defrag: None,
        mem_usage2: None,
        free_effort2: None,
        unlink2: None,
        copy2: None,
        aux_save2: None,
    };
    // SAFETY: a live context during load; the methods are copied.
    unsafe {
        server!(RedisModule_SetModuleOptions(ctx, raw::REDISMODULE_OPTIONS_HANDLE_IO_ERRORS as c_int));
        !server!(RedisModule_CreateDataType(ctx, TYPE_NAME.as_ptr(), ENCODING, &raw mut methods)).is_null()
    }
}
