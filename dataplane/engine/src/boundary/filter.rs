//! The command filter: sees every command before the server looks it up, inner commands of scripts included.

use redis_module::raw::{RedisModuleCommandFilterCtx, RedisModuleString};

use super::server;
use super::words::{Words, bytes_of};

/// What becomes of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Filtered {
    /// It goes on as it is.
    Pass,
    /// It goes on as `MAS.NATIVE command …`.
    Capture,
    /// It is answered with this error.
    Refuse(String),
}

fn string(bytes: &[u8]) -> *mut RedisModuleString {
    // SAFETY: without a context the string is ours; it is handed to the server at once.
    unsafe { server!(RedisModule_CreateString(std::ptr::null_mut(), bytes.as_ptr().cast(), bytes.len())) }
}

/// The filter that is registered with the server.
pub(super) extern "C" fn filter(ctx: *mut RedisModuleCommandFilterCtx) {
    // SAFETY: a live filter context; positions below its count; strings that are inserted are given away.
    unsafe {
        let Some(gate) = crate::gate::open() else { return };
        let count = server!(RedisModule_CommandFilterArgsCount(ctx));
        if count < 1 {
            return;
        }
        let name = bytes_of(server!(RedisModule_CommandFilterArgGet(ctx, 0)));
        if crate::gate::is_harmless(name) {
            return;
        }
        let argv: Vec<_> = (0..count).map(|i| server!(RedisModule_CommandFilterArgGet(ctx, i))).collect();
        match crate::gate::judge(gate, &Words::new(argv.as_ptr(), argv.len())) {
            Filtered::Pass => {}
            Filtered::Capture => {
                server!(RedisModule_CommandFilterArgInsert(ctx, 0, string(b"MAS.NATIVE")));
            }
            Filtered::Refuse(why) => {
                server!(RedisModule_CommandFilterArgReplace(ctx, 0, string(b"MAS.REFUSED")));
                for i in (1..count).rev() {
                    server!(RedisModule_CommandFilterArgDelete(ctx, i));
                }
                server!(RedisModule_CommandFilterArgInsert(ctx, 1, string(why.as_bytes())));
            }
        }
    }
}
