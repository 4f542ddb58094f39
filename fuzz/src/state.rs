//! All that a shard knows, in an order of its own, to be compared.

use std::collections::BTreeMap;
use std::fmt::Debug;

use bytes::Bytes;
use mas_core::meta::KeyMeta;
use mas_core::save::Loader;
use mas_core::shard::Shard;
use mas_core::slot::SLOTS;
use mas_core::wire::WireError;

/// What [`Shard::save`] gives.
pub fn save(shard: &Shard) -> Vec<Bytes> {
    let mut chunks = Vec::new();
    shard.save(&mut |chunk| chunks.push(Bytes::copy_from_slice(chunk)));
    assert!(chunks.iter().all(|chunk| !chunk.is_empty()), "an empty chunk ends the state in a file");
    chunks
}

/// What the chunks hold.
pub fn load(chunks: impl IntoIterator<Item = Bytes>) -> Result<Shard, WireError> {
    let mut loader = Loader::default();
    for chunk in chunks {
        loader.chunk(chunk)?;
    }
    loader.finish()
}

/// Everything but plain strings' entries, of which those of `keys` are looked at.
pub fn state(shard: &Shard, keys: &[&[u8]]) -> impl PartialEq + Debug + use<> {
    let table = shard.table();
    let rich: BTreeMap<Vec<u8>, KeyMeta> =
        table.rich_entries().map(|(key, meta)| (key.to_vec(), meta.clone())).collect();
    let named: Vec<KeyMeta> = keys.iter().map(|key| table.read(key, KeyMeta::clone)).collect();
    let floors: Vec<_> =
        (0..SLOTS).map(|slot| (slot, table.slot_floor(slot))).filter(|(_, f)| !f.is_zero()).collect();
    let outbox: Vec<_> = shard.outbox().iter().map(|(i, seq, effect)| (i, seq, effect.clone())).collect();
    let head = (shard.identity().clone(), shard.seq(), shard.clock(), shard.positions().clone());
    let told = (shard.stability().clone(), shard.merged_through(), shard.stable());
    (head, told, shard.cover(), outbox, shard.outbox().bytes(), rich, named, floors, table.sizes().plain)
}
