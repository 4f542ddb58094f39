//! Saving and loading the shard's state beside the keys.

use bytes::Bytes;
use mas_core::save::Loader;

use crate::boundary::{Ctx, Load, Save};
use crate::engine;

/// Writes the state (in the server's process or in its forked child). An empty chunk ends it.
pub(crate) fn save(sink: &mut Save) {
    engine::with(|engine| engine.shard.save(&mut |chunk| sink.chunk(chunk)));
    sink.chunk(b"");
}

/// Replaces the state by what a file holds; `false` when it cannot be read.
pub(crate) fn load(source: &mut Load) -> bool {
    let mut loader = Loader::default();
    let warn = |why: &str| {
        if let Some(ctx) = Ctx::detached() {
            ctx.warn(&format!("mas_engine: the engine's state in the file cannot be loaded: {why}"));
        }
    };
    loop {
        let Some(chunk) = source.chunk() else {
            warn("the file or the stream broke off");
            return false;
        };
        if chunk.is_empty() {
            break;
        }
        if let Err(why) = loader.chunk(Bytes::from(chunk)) {
            warn(&why.to_string());
            return false;
        }
    }
    match loader.finish() {
        Ok(shard) => engine::with(|engine| engine.shard = shard).is_some(),
        Err(why) => {
            warn(&why.to_string());
            false
        }
    }
}
