//! What was deleted takes no memory for ever: once every region has it, it is forgotten; while one is cut off, it is kept.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use e2e::{Store, keyspace, manifest, one_at_a_time, wait_until};
use redis::Connection;

const REGIONS: [&str; 2] = ["east", "west"];
const KEYS: u32 = 20_000;
const LIMIT: Duration = Duration::from_mins(2);

/// Bytes that the master of the region's only shard uses.
fn memory(store: &Store, region: &str) -> i64 {
    let status = store.status().unwrap();
    let master = status.region(region).unwrap().shards[0].master.clone().unwrap();
    let mut engine = store.connect_engine(&master).unwrap();
    // What the allocator keeps and what buffers hold is not what is stored.
    let _: () = redis::cmd("MEMORY").arg("PURGE").query(&mut engine).unwrap();
    let info: String = redis::cmd("INFO").arg("memory").query(&mut engine).unwrap();
    let field = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().parse::<i64>().unwrap()
    };
    field("used_memory:") - field("mem_clients_normal:") - field("mem_total_replication_buffers:")
}

/// Keys with more metadata than a plain string needs.
fn marked(store: &Store, region: &str) -> i64 {
    store.engine_counters(region).unwrap()["rich-keys"]
}

fn write_all(connection: &mut Connection) {
    for from in (0..KEYS).step_by(1000) {
        let mut pipe = redis::pipe();
        for n in from..from + 1000 {
            pipe.set(format!("s{n}"), "0123456789").ignore();
            pipe.hset(format!("h{n}"), "f", n).ignore();
            pipe.sadd(format!("m{}", n % 100), n).ignore();
            pipe.cmd("SET").arg(format!("e{n}")).arg(n).arg("PX").arg(500).ignore();
        }
        pipe.exec(connection).unwrap();
    }
}

fn delete_all(connection: &mut Connection) {
    for from in (0..KEYS).step_by(1000) {
        let mut pipe = redis::pipe();
        for n in from..from + 1000 {
            pipe.del(format!("s{n}")).ignore();
            pipe.hdel(format!("h{n}"), "f").ignore();
            pipe.srem(format!("m{}", n % 100), n).ignore();
        }
        pipe.exec(connection).unwrap();
    }
}

/// Waits until only `live` keys are left that need it.
fn wait_forgotten(store: &Store, live: i64) {
    for region in REGIONS {
        wait_until(&format!("{region} to forget"), LIMIT, || {
            let left = marked(store, region);
            if left <= live { Ok(()) } else { Err(format!("{left} are left")) }
        })
        .unwrap();
    }
}

#[test]
fn memory_returns_after_a_mass_deletion() {
    let _alone = one_at_a_time();
    let spec = "  shards: 1\n  redis: {replicas: 1, maxMemory: 256Mi}\n  broker: {replicas: 1}\n  proxy: {replicas: 2}";
    let store = Store::start(&manifest("tombs", &REGIONS, spec)).unwrap();
    let mut east = store.connect("east").unwrap();
    redis::cmd("SET").arg("stays").arg("here").exec(&mut east).unwrap();
    // A failover: until it is known that nothing of the old master comes any more, nothing may be forgotten.
    let master = store.master("east", 0).unwrap();
    store.hold(&master).unwrap();
    wait_until("another master", LIMIT, || match store.master("east", 0) {
        Ok(name) if name != master => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .unwrap();
    store.resume(&master).unwrap();
    store.wait_active().unwrap();
    let mut east = store.connect("east").unwrap();
    let before = REGIONS.map(|region| memory(&store, region));

    write_all(&mut east);
    keyspace::wait_equal(&store, "*", LIMIT).unwrap();
    let full = REGIONS.map(|region| memory(&store, region));

    // Nobody who may still send something older is waited for in vain: west does not know of the deletions yet.
    store.cut("east", "west").unwrap();
    delete_all(&mut east);
    std::thread::sleep(Duration::from_secs(5));
    let held = marked(&store, "east");
    assert!(held >= i64::from(KEYS), "only {held} tombstones are held while west is cut off");
    let mut west = store.connect("west").unwrap();
    redis::cmd("SET").arg("s7").arg("written later").exec(&mut west).unwrap();
    redis::cmd("HSET").arg("h9").arg("g").arg("new").exec(&mut west).unwrap();

    store.heal("east", "west").unwrap();
    // The hash of which a field is left.
    wait_forgotten(&store, 1);
    let space = keyspace::wait_equal(&store, "*", LIMIT).unwrap();
    assert_eq!(space.len(), 3, "what stays, and what was written later than its deletion");
    let after = REGIONS.map(|region| memory(&store, region));
    for (n, region) in REGIONS.iter().enumerate() {
        let (grown, left) = (full[n] - before[n], after[n] - before[n]);
        println!(
            "{region}: {grown} bytes more with all keys, {left} after they went; {held} tombstones held meanwhile"
        );
        assert!(left < grown / 10, "{region}: {left} of {grown} bytes are left");
    }
    store.finish().unwrap();
}

/// One proxy of a region shows what only the holder of a shard's own duty knows. When another one has taken the duty over, the first shows
/// none of it, and not what it knew last.
#[test]
fn who_loses_a_duty_shows_nothing_of_it() {
    let _alone = one_at_a_time();
    let spec = "  shards: 1\n  redis: {replicas: 1, maxMemory: 64Mi}\n  broker: {replicas: 1}\n  proxy: {replicas: 2}";
    let store = Store::start(&manifest("duties", &["east"], spec)).unwrap();
    let shows = |proxy: &str| {
        let names = [
            "mas_replication_stable_age_seconds",
            "mas_replication_tombstones",
            "mas_engine_memory_used_bytes",
        ];
        names.into_iter().filter(|name| store.metric(proxy, name).is_ok()).count()
    };
    let proxies = ["east/proxy-0", "east/proxy-1"];
    let holder = || {
        wait_until("one proxy to show everything", LIMIT, || match proxies.map(shows) {
            [3, 0] => Ok(0),
            [0, 3] => Ok(1),
            other => Err(format!("{other:?}")),
        })
        .unwrap()
    };
    let first = holder();
    assert!(
        (store.metric(proxies[first], "mas_engine_up").unwrap() - 2.0).abs() < 0.1,
        "both engines answer"
    );
    assert!((store.metric(proxies[first], "mas_engine_master").unwrap() - 1.0).abs() < 0.1);
    store.pause(proxies[first]).unwrap();
    let second = proxies[1 - first];
    let takes_over = || if shows(second) == 3 { Ok(()) } else { Err("it shows nothing yet".to_owned()) };
    wait_until("the other proxy to take the duty over", LIMIT, takes_over).unwrap();
    store.resume(proxies[first]).unwrap();
    assert_eq!(proxies[holder()], second);
    store.finish().unwrap();
}
