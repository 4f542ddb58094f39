//! A key that expired and was forgotten in one region, while another still has its time-to-live. Starts no server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)] // test helpers

#[allow(dead_code, unreachable_pub)]
mod common;

use std::collections::BTreeSet;

use common::{Data, Region, Write};
use mas_core::save::Loader;
use mas_core::stamp::RegionId;

/// Two regions with a set that expired at 2101 everywhere and was forgotten in the first region alone.
fn expired() -> (Region, Region) {
    let (mut one, mut two) = (Region::new(1), Region::new(2));
    for region in [&mut one, &mut two] {
        region.shard.set_members(1, BTreeSet::from([RegionId(1), RegionId(2)])).expect("a newer list");
    }
    one.write(&Write::SAdd(0, 1), 2000);
    one.write(&Write::Expire(0, 100), 2000);
    for now in [3000, 4000, 5000] {
        for region in [&mut one, &mut two] {
            region.shard.tick(now);
            region.beat();
        }
        one.merge(2, &two.log.clone(), now);
        two.merge(1, &one.log.clone(), now);
    }
    one.collect(5000);
    assert_eq!((one.shard.table().sizes().rich, two.shard.table().sizes().rich), (0, 1));
    (one, two)
}

#[test]
fn a_key_begun_anew_does_not_die_by_a_forgotten_time_to_live() {
    let (mut one, mut two) = expired();
    one.write(&Write::SAdd(0, 2), 6000);
    two.merge(1, &one.log.clone(), 6000);
    two.map.expire(7000);
    assert_eq!(one.map.keys, two.map.keys);
    assert!(two.map.keys.contains_key(&b"k0"[..]), "what was written anew is shown");
}

#[test]
fn what_was_forgotten_is_known_after_a_restart() {
    let (mut one, mut two) = expired();
    let mut loader = Loader::default();
    one.shard.save(&mut |chunk| loader.chunk(chunk.to_vec().into()).expect("loads"));
    one.shard = loader.finish().expect("loads");
    one.write(&Write::SAdd(0, 2), 6000);
    two.merge(1, &one.log.clone(), 6000);
    two.map.expire(7000);
    assert_eq!(one.map.keys, two.map.keys);
}

/// A key had its time-to-live taken away, was deleted, written again with another one, died under that, and was begun anew by region 3. Region 1 hears of
/// that end before it hears of the beginning, and gives the key a new time-to-live: it does not go on with the life before.
#[test]
fn who_knows_of_a_kill_does_not_renew_a_life_before_it() {
    let [mut one, mut two, mut three] = [1, 2, 3].map(Region::new);
    one.write(&Write::SAdd(0, 1), 2000);
    one.write(&Write::Expire(0, 5000), 2001);
    one.write(&Write::Persist(0), 2002);
    two.merge(1, &one.log.clone(), 2010);
    three.merge(1, &one.log.clone(), 2010);
    two.write(&Write::Del(0), 2099);
    two.write(&Write::SAdd(0, 2), 2100);
    two.write(&Write::Expire(0, 100), 2101);
    three.merge(2, &two.log.clone(), 2110);
    three.write(&Write::SAdd(0, 3), 3000);
    one.merge(3, &three.log.clone(), 3010);
    one.write(&Write::Expire(0, 9000), 3020);
    one.merge(2, &two.log.clone(), 3100);
    let log = one.log.clone();
    two.merge(3, &three.log.clone(), 3100);
    two.merge(1, &log, 3100);
    three.merge(1, &log, 3100);
    assert_eq!(one.map.keys, two.map.keys);
    assert_eq!(one.map.keys, three.map.keys);
    let (shown, _) = &one.map.keys[&b"k0"[..]];
    assert_eq!(shown, &Data::Set([b"f\x03".to_vec()].into()), "the rest died with its time-to-live");
}
