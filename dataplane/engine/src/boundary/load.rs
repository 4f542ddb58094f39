//! What the server calls first: registers commands, the data type, events and the filter.

use std::ffi::{CStr, c_int, c_void};

use redis_module::raw::{self, RedisModuleCtx, RedisModuleEvent, RedisModuleString};

use super::ctx::Ctx;
use super::words::Words;
use super::{filter, persist, server};

const OK: c_int = raw::REDISMODULE_OK as c_int;
const ERR: c_int = raw::REDISMODULE_ERR as c_int;

/// Registers commands: name, flags as the server knows them, and the function.
macro_rules! commands {
    ($ctx:expr; $($name:literal $flags:literal $handler:path,)*) => {
        $({
            extern "C" fn run(ctx: *mut RedisModuleCtx, argv: *mut *mut RedisModuleString, argc: c_int) -> c_int {
                // SAFETY: the server passes `argc` words that live as long as the call.
                $handler(Ctx::new(ctx), unsafe { Words::new(argv, argc as usize) });
                OK
            }
            if !create($ctx, $name, $flags, run) {
                return ERR;
            }
        })*
    };
}

type Handler = extern "C" fn(*mut RedisModuleCtx, *mut *mut RedisModuleString, c_int) -> c_int;

fn create(ctx: *mut RedisModuleCtx, name: &CStr, flags: &CStr, run: Handler) -> bool {
    // SAFETY: a live context during load.
    unsafe {
        server!(RedisModule_CreateCommand(ctx, name.as_ptr(), Some(run), flags.as_ptr(), 0, 0, 0)) == OK
    }
}

extern "C" fn role_changed(ctx: *mut RedisModuleCtx, _: RedisModuleEvent, sub: u64, _: *mut c_void) {
    crate::events::role_changed(Ctx::new(ctx), sub == raw::REDISMODULE_EVENT_REPLROLECHANGED_NOW_REPLICA);
}

extern "C" fn loading(ctx: *mut RedisModuleCtx, _: RedisModuleEvent, sub: u64, _: *mut c_void) {
    match sub {
        raw::REDISMODULE_SUBEVENT_LOADING_RDB_START
        | raw::REDISMODULE_SUBEVENT_LOADING_AOF_START
        | raw::REDISMODULE_SUBEVENT_LOADING_REPL_START => crate::events::loading_started(Ctx::new(ctx)),
        _ => crate::events::loading_ended(Ctx::new(ctx)),
    }
}

extern "C" fn config_changed(ctx: *mut RedisModuleCtx, _: RedisModuleEvent, _: u64, _: *mut c_void) {
    crate::events::config_changed(Ctx::new(ctx));
}

fn subscribe(
    ctx: *mut RedisModuleCtx,
    id: u64,
    handler: extern "C" fn(*mut RedisModuleCtx, RedisModuleEvent, u64, *mut c_void),
) -> bool {
    // SAFETY: a live context during load. Data version 1 is what 7.0 has.
    unsafe {
        let event = RedisModuleEvent { id, dataver: 1 };
        server!(RedisModule_SubscribeToServerEvent(ctx, event, Some(handler))) == OK
    }
}

/// Called by the server when it loads the module.
///
/// # Safety
/// To be called by the server alone: with a live context and `argc` words.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn RedisModule_OnLoad(
    ctx: *mut RedisModuleCtx,
    argv: *mut *mut RedisModuleString,
    argc: c_int,
) -> c_int {
    // SAFETY: the server passes a live context; nothing has allocated before this line.
    if unsafe { raw::Export_RedisModule_Init(ctx, c"mas".as_ptr(), 1, raw::REDISMODULE_APIVER_1 as c_int) }
        != OK
    {
        return ERR;
    }
    // SAFETY: the server passes `argc` words that live as long as the call.
    let words = unsafe { Words::new(argv, argc as usize) };
    if let Err(why) = crate::events::loaded(Ctx::new(ctx), words) {
        Ctx::new(ctx).warn(&format!("mas_engine: {why}"));
        return ERR;
    }
    commands!(ctx;
        c"MAS.EXEC" c"write" crate::commands::exec::exec,
        c"MAS.NATIVE" c"write" crate::commands::exec::native,
        c"MAS.REFUSED" c"allow-loading allow-stale fast" crate::commands::exec::refused,
        c"MAS.MERGE" c"write" crate::commands::merge::merge,
        c"MAS.APPLY" c"write" crate::commands::merge::apply,
        c"MAS.OUTBOX" c"readonly" crate::commands::outbox::outbox,
        c"MAS.TRIM" c"write" crate::commands::outbox::trim,
        c"MAS.CLAIM" c"fast" crate::commands::outbox::claim,
        c"MAS.COLLECT" c"write" crate::commands::stability::collect,
        c"MAS.STATE" c"readonly" crate::commands::state::state,
        c"MAS.DIGEST" c"readonly" crate::commands::digest::digest,
        c"MAS.KEYS" c"readonly" crate::commands::digest::keys,
        c"MAS.SAMPLE" c"readonly" crate::commands::verify::sample,
        c"MAS.ELEMENTS" c"readonly" crate::commands::verify::elements,
        c"MAS.SHIP" c"readonly" crate::commands::verify::ship,
        c"MAS.REPAIR" c"write" crate::commands::verify::repair,
        c"MAS.PROMOTE" c"admin" crate::commands::control::promote,
        c"MAS.JOIN" c"admin" crate::commands::control::join,
        c"MAS.JOINED" c"admin" crate::commands::control::joined,
        c"MAS.SERVE" c"admin" crate::commands::control::serve,
        c"MAS.FENCE" c"admin allow-stale" crate::commands::control::fence,
        c"MAS.IDENTITY" c"readonly allow-stale" crate::commands::report::identity,
        c"MAS.COVER" c"readonly allow-stale" crate::commands::report::cover,
        c"MAS.POSITIONS" c"readonly allow-stale" crate::commands::report::positions,
        c"MAS.STAMP" c"readonly allow-stale" crate::commands::report::stamp,
        c"MAS.STATS" c"readonly allow-stale" crate::commands::report::stats,
    );
    let subscribed = subscribe(ctx, raw::REDISMODULE_EVENT_REPLICATION_ROLE_CHANGED, role_changed)
        && subscribe(ctx, raw::REDISMODULE_EVENT_LOADING, loading)
        && subscribe(ctx, raw::REDISMODULE_EVENT_CONFIG, config_changed);
    if !subscribed || !persist::register(ctx) {
        return ERR;
    }
    // SAFETY: a live context; the filter is a function of this module.
    if unsafe { server!(RedisModule_RegisterCommandFilter(ctx, Some(filter::filter), 0)) }.is_null() {
        return ERR;
    }
    OK
}
