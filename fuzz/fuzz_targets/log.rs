//! Log entries: two copies that apply the same ones are equal, what they save loads to the same, and memory is bounded.

#![no_main]

use fuzz::bounded::bounded;
use fuzz::pieces::cut;
use fuzz::region::{Map, Region};
use fuzz::state::{load, save, state};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let entries = cut(data);
    let mut copies = [Region::new(1), Region::new(1)];
    for entry in entries {
        let [one, other] = &mut copies;
        let apply = |copy: &mut Region, map: &mut Map| copy.shard.apply(entry.clone(), 5000, map);
        let mut maps = [std::mem::take(&mut one.map), std::mem::take(&mut other.map)];
        let budget = (1 << 20) + 2048 * data.len();
        let result = bounded(budget, || apply(one, &mut maps[0]));
        assert_eq!(result, apply(other, &mut maps[1]));
        [one.map, other.map] = maps;
        if result.is_err() {
            // A copy that cannot apply an entry is not used any more.
            break;
        }
    }
    let [one, other] = &copies;
    assert_eq!(one.map, other.map);
    let keys: Vec<&[u8]> = one.map.keys.keys().map(Vec::as_slice).collect();
    let expected = state(&one.shard, &keys);
    assert_eq!(expected, state(&other.shard, &keys));
    let loaded = load(save(&one.shard)).expect("what was saved is loaded");
    assert_eq!(expected, state(&loaded, &keys));
    assert_eq!(one.shard.table().sizes(), loaded.table().sizes());
});
