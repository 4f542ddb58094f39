//! The saved state: what loads saves and loads to the same, and memory is bounded.

#![no_main]

use fuzz::bounded::bounded;
use fuzz::pieces::cut;
use fuzz::state::{load, save, state};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let chunks = cut(data);
    let shard = match bounded((8 << 20) + 2048 * data.len(), || load(chunks)) {
        Ok(shard) => shard,
        Err(why) => return assert!(!why.to_string().is_empty()),
    };
    let again = load(save(&shard)).expect("what was saved is loaded");
    assert_eq!(state(&shard, &[]), state(&again, &[]));
    // A damaged state may hold a key twice, which counts twice; once saved, it does not.
    let last = load(save(&again)).expect("what was saved is loaded");
    assert_eq!(again.table().sizes(), last.table().sizes());
});
