//! Requests with keys: where they go, how they are split and joined.

use crate::fake_engine::FakeEngine;
use crate::harness::{Client, Harness, frame, front_of};

/// Keys of shard 0 and 1 of two: slots of "b" and "a" are 3300 and 15495.
const LOW: &str = "b";
const HIGH: &str = "a";

fn two_shards() -> (FakeEngine, FakeEngine, Harness, Client) {
    let (low, high) = (FakeEngine::serving(0, 1), FakeEngine::serving(1, 1));
    let front = front_of(&[&low, &high]);
    let client = front.client();
    (low, high, front, client)
}

#[test]
fn writes_and_reads_go_to_the_shard_of_their_key() {
    let (low, high, front, mut client) = two_shards();
    assert_eq!(client.ask(&["SET", LOW, "1"]), "+OK\r\n");
    assert_eq!(client.ask(&["set", HIGH, "2"]), "+OK\r\n");
    assert_eq!(client.ask(&["GET", LOW]), "$1\r\n1\r\n");
    assert_eq!(client.ask(&["GET", HIGH]), "$1\r\n2\r\n");
    assert_eq!(low.executed(), ["SET b 1"]);
    assert_eq!(high.executed(), ["set a 2"]);
    assert_eq!(front.replication.shipped(), 2);
}

#[test]
fn replies_of_a_pipeline_over_two_shards_come_in_order() {
    let (_low, _high, _front, mut client) = two_shards();
    client.ask(&["MSET", LOW, "low", HIGH, "high"]);
    let mut bytes = Vec::new();
    for n in 0..3000 {
        bytes.extend(frame(&["GET", if n % 3 == 0 { LOW } else { HIGH }]));
    }
    client.send(&bytes);
    for n in 0..3000 {
        assert_eq!(client.reply(), if n % 3 == 0 { "$3\r\nlow\r\n" } else { "$4\r\nhigh\r\n" }, "reply {n}");
    }
}

#[test]
fn requests_arrive_byte_by_byte_and_inline() {
    let (_low, _high, _front, mut client) = two_shards();
    for byte in frame(&["SET", LOW, "slow"]) {
        client.send(&[byte]);
    }
    assert_eq!(client.reply(), "+OK\r\n");
    client.send(b"SET a \"with space\"\r\nGET a\r\n\r\nGET b\n");
    assert_eq!(client.reply(), "+OK\r\n");
    assert_eq!(client.reply(), "$10\r\nwith space\r\n");
    assert_eq!(client.reply(), "$4\r\nslow\r\n");
}

#[test]
fn commands_with_many_keys_are_split_and_joined() {
    let (low, high, _front, mut client) = two_shards();
    assert_eq!(client.ask(&["MSET", LOW, "1", HIGH, "2", "{b}2", "3"]), "+OK\r\n");
    assert_eq!((low.executed().len(), high.executed().len()), (1, 1));
    assert_eq!(
        client.ask(&["MGET", HIGH, LOW, "none", "{b}2", HIGH]),
        "*5\r\n$1\r\n2\r\n$1\r\n1\r\n$-1\r\n$1\r\n3\r\n$1\r\n2\r\n"
    );
    assert_eq!(client.ask(&["EXISTS", HIGH, LOW, LOW, "none"]), ":3\r\n");
    assert_eq!(client.ask(&["DBSIZE"]), ":3\r\n");
    assert_eq!(client.ask(&["DEL", LOW, HIGH, "none"]), ":2\r\n");
    assert!(client.ask(&["RANDOMKEY"]).contains("{b}2"));
    assert_eq!(client.ask(&["FLUSHALL"]), "+OK\r\n");
    assert_eq!(client.ask(&["DBSIZE"]), ":0\r\n");
    assert_eq!(client.ask(&["RANDOMKEY"]), "$-1\r\n");
    assert!(client.ask(&["MSET", LOW, "1", HIGH]).starts_with("-ERR wrong number of arguments for 'mset'"));
}

#[test]
fn scan_and_keys_see_every_shard() {
    let (_low, _high, _front, mut client) = two_shards();
    let mut keys: Vec<String> = (0..20).map(|n| format!("key{n}")).collect();
    for key in &keys {
        client.ask(&["SET", key, "x"]);
    }
    let mut found = Vec::new();
    let mut cursor = "0".to_owned();
    loop {
        let reply = client.ask(&["SCAN", &cursor, "COUNT", "2"]);
        let lines: Vec<&str> = reply.split("\r\n").collect();
        cursor = lines[2].to_owned();
        found.extend(lines[4..].iter().filter(|l| l.starts_with("key")).map(|&l| l.to_owned()));
        if cursor == "0" {
            break;
        }
    }
    found.sort();
    keys.sort();
    assert_eq!(found, keys);
    assert_eq!(client.ask(&["KEYS", "*"]).matches("key").count(), 20);
    assert_eq!(client.ask(&["SCAN", "nonsense"]), "-ERR invalid cursor\r\n");
}

#[test]
fn keys_in_different_slots_are_refused_as_in_redis_cluster() {
    let (_low, _high, _front, mut client) = two_shards();
    let cross = "-CROSSSLOT Keys in request don't hash to the same slot\r\n";
    assert_eq!(client.ask(&["MSETNX", LOW, "1", HIGH, "2"]), cross);
    assert_eq!(client.ask(&["RENAME", LOW, HIGH]), cross);
    assert_eq!(client.ask(&["SUNIONSTORE", "d", "e"]), cross);
    assert_eq!(client.ask(&["ZUNIONSTORE", "{a}", "2", "{a}b", "{b}"]), cross);
    assert_eq!(client.ask(&["RENAME", "{a}1", "{a}2"]), "-ERR fake engine: RENAME\r\n");
}

#[test]
fn what_is_not_in_the_table_goes_nowhere() {
    let (low, high, _front, mut client) = two_shards();
    assert_eq!(
        client.ask(&["NOSUCH", "a", "b"]),
        "-ERR unknown command 'NOSUCH', with args beginning with: 'a' 'b' \r\n"
    );
    for internal in
        ["MAS.EXEC", "MAS.MERGE", "MAS.FENCE", "MAS.PROMOTE", "MAS.APPLY", "MAS.NATIVE", "MAS.TRIM"]
    {
        assert!(client.ask(&[internal, "x"]).starts_with("-ERR unknown command"), "{internal}");
    }
    let refused = client.ask(&["LPUSH", "a", "b"]);
    assert!(refused.starts_with("-ERR 'LPUSH' is not supported by a multi-active store: lists"), "{refused}");
    assert!(client.ask(&["CONFIG", "SET", "a", "b"]).contains("not supported"), "subcommands");
    assert!(
        client.ask(&["SORT", LOW, "STORE", "x"]).contains("'SORT' with STORE is not supported"),
        "options"
    );
    assert_eq!(client.ask(&["GET"]), "-ERR wrong number of arguments for 'get' command\r\n");
    for name in ["mset", "msetnx"] {
        let half = format!("-ERR wrong number of arguments for '{name}' command\r\n");
        assert_eq!(client.ask(&[name, LOW, "1", HIGH]), half);
    }
    assert_eq!(client.ask(&["CLIENT", "NOSUCH"]), "-ERR unknown subcommand 'NOSUCH'. Try CLIENT HELP.\r\n");
    assert_eq!((low.executed().len(), high.executed().len()), (0, 0));
}

#[test]
fn a_later_write_carries_the_highest_clock_seen() {
    let (low, _high, front, mut client) = two_shards();
    client.ask(&["SET", LOW, "1"]);
    client.ask(&["SET", LOW, "2"]);
    assert_eq!(low.seen_clock(), 1 << 32 | 1);
    let mut other = front.client();
    other.ask(&["SET", LOW, "3"]);
    assert!(low.seen_clock() >= 1 << 32 | 2, "also from another connection, perhaps another worker");
}
