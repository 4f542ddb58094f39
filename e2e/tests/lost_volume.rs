//! A broker's volume is deleted, with records in it that the other region has not read: what they said comes as state.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use e2e::{Store, keyspace, manifest, one_at_a_time, wait_until};
use redis::{Commands, Connection};

const LIMIT: Duration = Duration::from_mins(2);
const KEYS: u32 = 3000;

fn write_all(connection: &mut Connection, round: u32) {
    for from in (0..KEYS).step_by(500) {
        let mut pipe = redis::pipe();
        for n in from..from + 500 {
            pipe.set(format!("s{n}"), format!("{round}-{n}")).ignore();
            pipe.hset(format!("h{}", n % 50), format!("f{n}"), round).ignore();
            pipe.sadd(format!("m{}", n % 50), format!("{round}-{n}")).ignore();
            pipe.cmd("ZINCRBY").arg(format!("z{}", n % 50)).arg(1).arg(n).ignore();
            pipe.incr(format!("c{}", n % 50), 1).ignore();
        }
        pipe.exec(connection).unwrap();
    }
}

#[test]
fn a_deleted_broker_volume_ends_with_equal_regions() {
    let _alone = one_at_a_time();
    let spec = "  shards: 2\n  redis: {replicas: 1, maxMemory: 128Mi}\n  broker: {replicas: 1}\n  proxy: {replicas: 1}";
    let store = Store::start(&manifest("volumes", &["east", "west"], spec)).unwrap();
    let (mut east, mut west) = (store.connect("east").unwrap(), store.connect("west").unwrap());
    write_all(&mut east, 1);
    keyspace::wait_equal(&store, "*", LIMIT).unwrap();

    // West does not see this, nor what is deleted; all of it is acknowledged at Queued, so it is in east's stream alone.
    store.cut("east", "west").unwrap();
    write_all(&mut east, 2);
    let deleted: Vec<String> = (0..KEYS).step_by(3).map(|n| format!("s{n}")).collect();
    let _: () = east.del(&deleted).unwrap();
    let _: () = east.del("h7").unwrap();
    let _: () = east.pexpire("m7", 3_600_000).unwrap();
    let _: () = east.set("large", "x".repeat(3 << 20)).unwrap();
    // West goes on by itself.
    let _: () = west.incr("c1", 1000).unwrap();
    let _: () = west.hset("h8", "west", "here").unwrap();
    wait_until("the outboxes of east to be empty", LIMIT, || {
        match store.engine_counters("east").unwrap()["outbox-effects"] {
            0 => Ok(()),
            left => Err(format!("{left} effects are left")),
        }
    })
    .unwrap();

    store.hold("east/broker-0").unwrap();
    std::fs::remove_dir_all(store.folder_of("east/broker-0").join("data")).unwrap();
    std::fs::create_dir(store.folder_of("east/broker-0").join("data")).unwrap();
    store.resume("east/broker-0").unwrap();
    store.heal("east", "west").unwrap();
    let mut after = 0;
    wait_until("writes at Queued after the loss", LIMIT, || {
        after += 1;
        let set = redis::cmd("SET").arg("after").arg(after).query::<String>(&mut east);
        let level = set.map_err(|e| e.to_string()).and_then(|_| effective(&mut east));
        level.and_then(|level| if level == "Queued" { Ok(()) } else { Err(level) })
    })
    .unwrap();

    let space = keyspace::wait_equal(&store, "*", LIMIT).unwrap();
    assert!(
        !space.contains_key(&b"s0"[..]) && !space.contains_key(&b"h7"[..]),
        "deleted while west was cut off"
    );
    for connection in [&mut east, &mut west] {
        assert_eq!(connection.get::<_, String>("s1").unwrap(), "2-1");
        assert_eq!(
            connection.get::<_, i64>("c1").unwrap(),
            2 * i64::from(KEYS / 50) + 1000,
            "all increments count"
        );
        assert_eq!(connection.zscore::<_, _, String>("z1", 1).unwrap(), "2");
        assert_eq!(connection.strlen::<_, usize>("large").unwrap(), 3 << 20);
        assert!(connection.pttl::<_, i64>("m7").unwrap() > 0);
        assert_eq!(connection.hget::<_, _, String>("h8", "west").unwrap(), "here");
    }
    let adopted: f64 = store
        .proxies("west")
        .unwrap()
        .iter()
        .map(|proxy| store.metric(proxy, "mas_replication_state_adopted_total").unwrap())
        .sum();
    assert!(adopted > 0.0, "it came as state");
    wait_until("links to be well", LIMIT, || {
        let status = store.status().unwrap();
        if status.all_active() && status.regions.iter().flat_map(|r| &r.links).all(|l| l.state == "Connected")
        {
            Ok(())
        } else {
            Err(status.summary())
        }
    })
    .unwrap();
    println!("{adopted} pieces of state taken over");
    store.finish().unwrap();
}

fn effective(connection: &mut Connection) -> Result<String, String> {
    let info: String = redis::cmd("INFO").arg("multiactive").query(connection).map_err(|e| e.to_string())?;
    let line = info.lines().find_map(|line| line.strip_prefix("ack_effective:"));
    line.map(|level| level.trim().to_owned()).ok_or_else(|| "no level is shown".to_owned())
}
