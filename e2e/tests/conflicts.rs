//! The conflicts that make other systems diverge, made on purpose in two live regions: no key differs afterwards, and
//! what is left is what the rules say. `MAS_ROUNDS` sets the rounds of each kind (10,000).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use e2e::keyspace::{self, Content, Keyspace};
use e2e::{Store, manifest, rounds};
use redis::{Cmd, Connection, Pipeline, Value};

const SPEC: &str =
    "  shards: 2\n  redis: {replicas: 1, maxMemory: 256Mi}\n  broker: {replicas: 1}\n  proxy: {replicas: 1}";
const CHUNK: usize = 250;
const EQUAL_WITHIN: Duration = Duration::from_mins(1);
const REGIONS: [&str; 2] = ["east", "west"];

/// A command from its words.
fn cmd(words: &[&str]) -> Cmd {
    let mut command = redis::cmd(words[0]);
    for word in &words[1..] {
        command.arg(word);
    }
    command
}

/// Sends what `commands` says for each round, many at a time; the replies in order.
fn send(
    connection: &mut Connection,
    range: std::ops::Range<usize>,
    commands: impl Fn(usize) -> Vec<Cmd>,
) -> Vec<Value> {
    let mut pipe = Pipeline::new();
    for command in range.flat_map(commands) {
        pipe.add_command(command);
    }
    if pipe.is_empty() { Vec::new() } else { pipe.query(connection).expect("no write is refused") }
}

/// Every round in both regions at the same time; the replies of each region.
fn collide(
    store: &Store,
    rounds: usize,
    commands: impl Fn(usize, usize) -> Vec<Cmd> + Sync,
) -> [Vec<Value>; 2] {
    let barrier = Barrier::new(2);
    let side = |number: usize| {
        let mut connection = store.connect(REGIONS[number]).unwrap();
        let mut replies = Vec::new();
        for first in (0..rounds).step_by(CHUNK) {
            barrier.wait();
            let range = first..(first + CHUNK).min(rounds);
            replies.extend(send(&mut connection, range, |round| commands(number, round)));
        }
        replies
    };
    thread::scope(|scope| {
        let other = scope.spawn(|| side(1));
        [side(0), other.join().unwrap()]
    })
}

/// Writes in one region, seen in both.
fn prepare(store: &Store, kind: &str, rounds: usize, commands: impl Fn(usize) -> Vec<Cmd>) {
    let mut connection = store.connect(REGIONS[0]).unwrap();
    for first in (0..rounds).step_by(CHUNK) {
        send(&mut connection, first..(first + CHUNK).min(rounds), &commands);
    }
    equal(store, kind);
}

fn equal(store: &Store, kind: &str) -> Keyspace {
    keyspace::wait_equal(store, &format!("{kind}:*"), EQUAL_WITHIN).unwrap()
}

fn text(space: &Keyspace, key: &str) -> Option<String> {
    match &space.get(key.as_bytes())?.content {
        Content::Text(text) => Some(String::from_utf8_lossy(text).into_owned()),
        other => panic!("{key} is {other}"),
    }
}

fn fields(space: &Keyspace, key: &str) -> Vec<String> {
    match space.get(key.as_bytes()).map(|entry| &entry.content) {
        None => Vec::new(),
        Some(Content::Hash(fields)) => {
            fields.keys().map(|field| String::from_utf8_lossy(field).into_owned()).collect()
        }
        Some(other) => panic!("{key} is {other}"),
    }
}

fn report(kind: &str, rounds: usize, keys: usize, started: Instant) {
    println!("{kind}: {rounds} rounds, {keys} keys left, 0 differ, {:.1} s", started.elapsed().as_secs_f64());
}

#[test]
fn no_key_differs() {
    let store = Store::start(&manifest("conflicts", &REGIONS, SPEC)).unwrap();
    let n = rounds(10_000);
    increments_are_summed(&store, n);
    swapped_sets_settle(&store, n);
    deletes_end_what_they_saw(&store, n);
    renewals_in_time_win(&store, n);
    recreated_keys_settle(&store, n);
    everything_at_once_with_a_restart(&store, n);
    store.finish().unwrap();
}

fn increments_are_summed(store: &Store, rounds: usize) {
    let started = Instant::now();
    let keys = (rounds / 20).max(1);
    let name = |round: usize| {
        (
            format!("incr:text:{}", round % keys),
            format!("incr:hash:{}", round % keys),
            format!("incr:sorted:{}", round % keys),
        )
    };
    collide(store, rounds, |region, round| {
        let (a, b, c) = name(round);
        let by = (region + 1).to_string();
        vec![
            cmd(&["INCRBY", &a, &by]),
            cmd(&["HINCRBY", &b, "field", &by]),
            cmd(&["ZINCRBY", &c, &by, "member"]),
        ]
    });
    let space = equal(store, "incr");
    for key in 0..keys {
        let expected = (0..rounds).filter(|round| round % keys == key).count() * 3;
        let (a, b, c) = name(key);
        assert_eq!(text(&space, &a), Some(expected.to_string()), "{a}");
        let Content::Hash(hash) = &space[b.as_bytes()].content else { panic!("{b} is no hash") };
        assert_eq!(hash[&b"field"[..]], expected.to_string().into_bytes(), "{b}");
        let Content::Sorted(sorted) = &space[c.as_bytes()].content else { panic!("{c} is no sorted set") };
        assert_eq!(sorted[&b"member"[..]], expected.to_string().into_bytes(), "{c}");
    }
    report("concurrent INCRBY, HINCRBY, ZINCRBY, sums kept", rounds, space.len(), started);
}

fn swapped_sets_settle(store: &Store, rounds: usize) {
    let started = Instant::now();
    collide(store, rounds, |region, round| vec![cmd(&["SET", &format!("swap:{round}"), REGIONS[region]])]);
    let space = equal(store, "swap");
    let won = (0..rounds).filter(|round| match text(&space, &format!("swap:{round}")).as_deref() {
        Some("east") => true,
        Some("west") => false,
        other => panic!("swap:{round} is {other:?}"),
    });
    println!("(east won {} of {rounds})", won.count());
    report("swapped SETs", rounds, space.len(), started);
}

fn deletes_end_what_they_saw(store: &Store, rounds: usize) {
    let started = Instant::now();
    let key = |round: usize| format!("delete:{round}");
    prepare(store, "delete", rounds, |round| vec![cmd(&["HSET", &key(round), "old", "1"])]);
    collide(store, rounds, |region, round| {
        let key = key(round);
        vec![if region == 0 { cmd(&["DEL", &key]) } else { cmd(&["HSET", &key, "new", "1"]) }]
    });
    let space = equal(store, "delete");
    for round in 0..rounds {
        let left = fields(&space, &key(round));
        assert!(left.is_empty() || left == ["new"], "{} has {left:?}: the delete saw `old`", key(round));
    }
    report("delete against update", rounds, space.len(), started);
}

fn renewals_in_time_win(store: &Store, rounds: usize) {
    let started = Instant::now();
    let key = |round: usize| format!("expiry:{round}");
    // Every batch expires while the other region renews it: some in time, some too late.
    let (mut east, mut west) = (store.connect("east").unwrap(), store.connect("west").unwrap());
    let mut replies = Vec::new();
    for first in (0..rounds).step_by(CHUNK) {
        let range = first..(first + CHUNK).min(rounds);
        send(&mut east, range.clone(), |round| {
            vec![cmd(&["SET", &key(round), "v", "PX", &(150 + (round * 7) % 300).to_string()])]
        });
        // The batch's last key lives long enough to be seen there.
        let last = key(range.end - 1);
        e2e::wait_for("the batch in the other region", EQUAL_WITHIN, || {
            let seen: i64 = redis::cmd("EXISTS").arg(&last).query(&mut west).unwrap();
            let gone: i64 = redis::cmd("EXISTS").arg(&last).query(&mut east).unwrap();
            (seen == 1 || gone == 0).then_some(())
        })
        .unwrap();
        for round in range {
            replies.extend(send(&mut west, round..round + 1, |round| {
                vec![cmd(&["PEXPIRE", &key(round), "3600000"])]
            }));
        }
    }
    // A renewal that found nothing came before the key or after its end.
    let renewed = replies.iter().filter(|reply| **reply == Value::Int(1)).count();
    let in_a_while = now_ms() + 600_000;
    let space = e2e::wait_until("what was not renewed to end", EQUAL_WITHIN, || {
        let space = equal(store, "expiry");
        let left = space.values().filter(|entry| entry.expires_at.is_none_or(|at| at < in_a_while)).count();
        if left == 0 { Ok(space) } else { Err(format!("{left} are still there")) }
    })
    .unwrap();
    for (round, reply) in replies.iter().enumerate().filter(|(_, reply)| **reply == Value::Int(1)) {
        assert!(
            space.contains_key(key(round).as_bytes()),
            "{} was renewed in time ({reply:?}) and is gone",
            key(round)
        );
    }
    println!("({renewed} of {rounds} renewed in time, {} live)", space.len());
    assert_eq!(space.len(), renewed, "what was not renewed in time is gone");
    report("expiry against renewal", rounds, space.len(), started);
}

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    now.as_millis() as i64
}

fn recreated_keys_settle(store: &Store, rounds: usize) {
    let started = Instant::now();
    let key = |round: usize| format!("again:{round}");
    prepare(store, "again", rounds, |round| vec![cmd(&["SADD", &key(round), "old"])]);
    collide(store, rounds, |region, round| {
        let key = key(round);
        let anew = match (region, round % 3) {
            (0, 0) | (1, 1) => cmd(&["SET", &key, "text"]),
            (0, _) => cmd(&["HSET", &key, "by", "east"]),
            (_, _) => cmd(&["ZADD", &key, "1", "west"]),
        };
        vec![cmd(&["DEL", &key]), anew]
    });
    let space = equal(store, "again");
    assert_eq!(space.len(), rounds, "both created every key anew: none is gone");
    let old = space.values().filter(|entry| matches!(entry.content, Content::Set(_))).count();
    assert_eq!(old, 0, "deleted keys are back");
    report("re-created keys, other types", rounds, space.len(), started);
}

fn everything_at_once_with_a_restart(store: &Store, rounds: usize) {
    let started = Instant::now();
    let commands = |region: usize, round: usize| {
        let key = format!("mixed:{}", round % 500);
        let name = format!("{}{round}", REGIONS[region]);
        match (round / 500 + 2 * region) % 6 {
            0 => cmd(&["SET", &key, &name]),
            1 => cmd(&["DEL", &key]),
            2 => cmd(&["SET", &key, &name, "PX", "50"]),
            3 => cmd(&["SETRANGE", &key, "3", &name]),
            4 => cmd(&["APPEND", &key, "x"]),
            _ => cmd(&["PEXPIRE", &key, "3600000"]),
        }
    };
    thread::scope(|scope| {
        let sides = [0, 1].map(|region| scope.spawn(move || retrying(store, region, rounds, commands)));
        // A master and a proxy of one region die meanwhile.
        for component in [store.master("west", 0).unwrap(), "west/proxy-0".to_owned()] {
            store.kill(&component).unwrap();
        }
        for side in sides {
            side.join().unwrap();
        }
    });
    store.wait_active().unwrap();
    let space = equal(store, "mixed");
    report("everything, with a peer's restart in between", rounds, space.len(), started);
}

/// As a client with a reconnect loop does it: what failed is sent again.
fn retrying(store: &Store, region: usize, rounds: usize, commands: impl Fn(usize, usize) -> Cmd) {
    let limit = Instant::now() + Duration::from_mins(2);
    let mut connection = store.connect(REGIONS[region]).ok();
    for first in (0..rounds).step_by(CHUNK) {
        let mut pipe = Pipeline::new();
        for round in first..(first + CHUNK).min(rounds) {
            pipe.add_command(commands(region, round));
        }
        while connection.as_mut().is_none_or(|open| pipe.exec(open).is_err()) {
            assert!(Instant::now() < limit, "{} did not come back", REGIONS[region]);
            thread::sleep(Duration::from_millis(20));
            connection = store.connect(REGIONS[region]).ok();
        }
    }
}
