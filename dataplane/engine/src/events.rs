//! What the server tells the module: it was loaded, a role or a setting changed, data is being loaded.

use mas_core::shard::Shard;

use crate::boundary::{Ctx, Words};
use crate::engine::{self, Engine};
use crate::settings::{Settings, SettingsError};

/// The module was loaded: it begins blank and fenced, until data is loaded and it is promoted.
pub(crate) fn loaded(ctx: Ctx, words: Words<'_>) -> Result<(), SettingsError> {
    let settings = Settings::parse(words.iter())?;
    ctx.keep_detached();
    let mut engine = Engine::new(ctx, settings);
    engine.node.set_role(ctx.is_replica());
    engine.install();
    config_changed(ctx);
    Ok(())
}

/// A new role begins fenced.
pub(crate) fn role_changed(ctx: Ctx, replica: bool) {
    engine::with(|engine| {
        engine.node.set_role(replica);
        ctx.warn(&format!(
            "mas_engine {}: now a {}, fenced",
            engine.settings.node,
            if replica { "replica" } else { "master" }
        ));
    });
}

/// What was there is replaced: by the file's state, or by nothing when the file has none.
pub(crate) fn loading_started(ctx: Ctx) {
    engine::with(|engine| {
        engine.node.set_loading(true);
        engine.node.damaged = None;
        engine.shard = Shard::new((ctx.random(), ctx.random()));
    });
}

/// Loading ended, well or not.
pub(crate) fn loading_ended(_: Ctx) {
    engine::with(|engine| engine.node.set_loading(false));
}

/// Settings of the server that the engine depends on.
pub(crate) fn config_changed(ctx: Ctx) {
    let setting = |name: &str| ctx.setting(name.as_bytes()).unwrap_or_default();
    let required = [
        ("maxmemory-policy", "noeviction", "an evicted key would vanish in one region only"),
        ("aof-use-rdb-preamble", "yes", "a rewritten AOF would lose the engine's state"),
        ("replica-read-only", "yes", "a write to a replica would stay there unseen"),
    ];
    let unfit = required.iter().find(|(name, value, _)| setting(name) != value.as_bytes());
    let unfit = unfit.map(|(name, value, why)| {
        format!("set {name} to {value} before this engine serves: otherwise {why}")
    });
    let maxmemory = String::from_utf8_lossy(&setting("maxmemory")).parse().unwrap_or(0);
    engine::with(|engine| {
        if engine.node.unfit != unfit
            && let Some(why) = &unfit
        {
            ctx.warn(&format!("mas_engine {}: {why}", engine.settings.node));
        }
        engine.node.unfit = unfit;
        engine.node.maxmemory = maxmemory;
    });
}
