//! A shard without a master: its requests go to another region, in order, once, and come back.

use std::time::Duration;

use mas_core::config::{AckLevel, ProxyConfig};
use mas_core::cover::{Cover, SeqSet};
use mas_core::stamp::{Incarnation, Origin, RegionId};
use mas_proxy::front::counters::Count;
use mas_proxy::link::Acknowledged;

use crate::fake_engine::FakeEngine;
use crate::harness::{Client, Harness, config, eventually, frame, front_with};

/// Two regions of two shards each. The engines of the second one serve; those of the first are as they are given.
struct Regions {
    here: Harness,
    there: Harness,
    low: FakeEngine,
    high: FakeEngine,
    low_there: FakeEngine,
    high_there: FakeEngine,
}

fn config_of(engines: [&FakeEngine; 2]) -> ProxyConfig {
    config(&engines.map(|engine| vec![engine.address.clone()]))
}

/// A peer's endpoint, in the configuration of the other region.
fn with_peer(mut config: ProxyConfig, endpoint: &str) -> ProxyConfig {
    config.peers[0].endpoint = Some(endpoint.to_owned());
    config
}

/// The low shard of the first region (slots of `b`, not of `a`) has no master.
fn regions(change: impl Fn(&mut ProxyConfig)) -> Regions {
    let (low, high) = (FakeEngine::start(0), FakeEngine::serving(1, 1));
    let (low_there, high_there) = (FakeEngine::serving(0, 1), FakeEngine::serving(1, 1));
    let mut of_peer = config_of([&low_there, &high_there]);
    change(&mut of_peer);
    let there = front_with(of_peer);
    there.replication.has(Some(Cover::default()));
    let mut own = with_peer(config_of([&low, &high]), &there.address);
    change(&mut own);
    let here = front_with(own);
    Regions { here, there, low, high, low_there, high_there }
}

/// The low shard gets its master, and all its requests.
fn home(regions: &Regions) {
    regions.low.promote(1);
    let mut probe = regions.here.client();
    eventually("the master serves", || {
        probe.ask(&["SET", LOW, "1"]);
        !regions.low.executed().is_empty() && !evacuated(&mut probe)
    });
}

fn up_to(region: u16, incarnation: u64, seq: u64) -> Cover {
    let mut cover = Cover::default();
    cover.set(Origin { region: RegionId(region), incarnation: Incarnation(incarnation) }, SeqSet::up_to(seq));
    cover
}

/// `b` is in the low shard, `a` in the high one.
const LOW: &str = "b";
const HIGH: &str = "a";

fn evacuated(client: &mut Client) -> bool {
    client.ask(&["INFO", "multiactive"]).contains("shard0_evacuated_to:there")
}

#[test]
fn requests_that_wait_and_new_ones_go_to_the_other_region() {
    let regions = regions(|_| {});
    let mut client = regions.here.client();
    client.send(&[frame(&["SET", LOW, "1"]), frame(&["GET", LOW])].concat());
    assert_eq!([client.reply(), client.reply()], ["+OK\r\n", "$1\r\n1\r\n"]);
    assert_eq!(client.ask(&["GET", LOW]), "$1\r\n1\r\n");
    assert_eq!(regions.low_there.executed(), ["SET b 1"]);
    assert_eq!(regions.low.executed(), Vec::<String>::new());
    assert!(evacuated(&mut client));
    // The other shard stays.
    assert_eq!(client.ask(&["SET", HIGH, "2"]), "+OK\r\n");
    assert_eq!((regions.high.executed().len(), regions.high_there.executed().len()), (1, 0));
    eventually("they are counted", || {
        (regions.here.count(Count::Forwarded), regions.there.count(Count::ForwardedHere)) == (3, 3)
    });
}

#[test]
fn replies_leave_in_order_when_some_come_from_elsewhere() {
    let regions = regions(|_| {});
    let mut client = regions.here.client();
    let mut bytes = Vec::new();
    for n in 0..300 {
        let n = n.to_string();
        for key in [LOW, HIGH] {
            bytes.extend(frame(&["SET", key, &n]));
            bytes.extend(frame(&["GET", key]));
        }
        bytes.extend(frame(&["ECHO", &n]));
    }
    client.send(&bytes);
    for n in 0..300 {
        let n = n.to_string();
        let text = format!("${}\r\n{n}\r\n", n.len());
        let replies: Vec<String> = (0..5).map(|_| client.reply()).collect();
        assert_eq!(replies, ["+OK\r\n", &text, "+OK\r\n", &text, &text]);
    }
}

#[test]
fn commands_over_shards_go_there_piece_by_piece() {
    let regions = regions(|_| {});
    let mut client = regions.here.client();
    assert_eq!(client.ask(&["MSET", LOW, "1", HIGH, "2"]), "+OK\r\n");
    assert_eq!(client.ask(&["MGET", HIGH, LOW]), "*2\r\n$1\r\n2\r\n$1\r\n1\r\n");
    // Of all keys: the other region has more of the high shard, which is not asked for.
    let mut other = regions.there.client();
    other.ask(&["SET", "{a}more", "3"]);
    assert_eq!(client.ask(&["DBSIZE"]), ":2\r\n");
    assert!(client.ask(&["KEYS", "*"]).starts_with("*2\r\n"));
    let first = client.ask(&["SCAN", "0"]);
    assert!(first.contains("$1\r\nb\r\n"), "{first}");
    assert_eq!(client.ask(&["DEL", HIGH, LOW]), ":2\r\n");
    client.ask(&["SET", LOW, "1"]);
    assert_eq!(client.ask(&["RANDOMKEY"]), "$1\r\nb\r\n");
    assert_eq!(client.ask(&["FLUSHALL"]), "+OK\r\n");
    assert_eq!(client.ask(&["EXISTS", LOW]), ":0\r\n");
    assert_eq!(other.ask(&["EXISTS", "{a}more"]), ":1\r\n", "flushed in its own region alone");
}

#[test]
fn a_forwarded_request_goes_no_further() {
    // Two regions, each the other's peer, and no master in either: they would send it to and fro for ever.
    let engines: Vec<FakeEngine> = (0..2).map(|_| FakeEngine::start(0)).collect();
    let one = front_with(config(&[vec![engines[0].address.clone()]]));
    let other = front_with(with_peer(config(&[vec![engines[1].address.clone()]]), &one.address));
    one.set_config(with_peer(config(&[vec![engines[0].address.clone()]]), &other.address));
    // Each believes that the other one has a master.
    for region in [&one, &other] {
        region.replication.has(Some(Cover::default()));
    }
    let mut client = one.client();
    let reply = client.ask(&["SET", "k", "1"]);
    assert!(reply.starts_with("-MASNOMASTER shard 0 has no serving master"), "{reply}");
    let there = |region: &Harness| (region.count(Count::Forwarded), region.count(Count::ForwardedHere));
    eventually("one hop is counted", || there(&one) == (1, 0) && there(&other) == (0, 1));
}

#[test]
fn without_a_master_anywhere_nothing_is_forwarded() {
    let (engine, engine_there) = (FakeEngine::start(0), FakeEngine::start(0));
    let there = front_with(config(&[vec![engine_there.address.clone()]]));
    let here = front_with(with_peer(config(&[vec![engine.address.clone()]]), &there.address));
    let mut client = here.client();
    let reply = client.ask(&["GET", "k"]);
    assert!(reply.starts_with("-MASNOMASTER"), "{reply}");
    assert_eq!((here.count(Count::Forwarded), there.count(Count::ForwardedHere)), (0, 0));
    // Founded there in the meantime.
    engine_there.promote(1);
    there.replication.has(Some(Cover::default()));
    assert_eq!(client.ask(&["SET", "k", "1"]), "+OK\r\n");
}

#[test]
fn what_a_connection_wrote_is_there_before_its_next_request() {
    let regions = regions(|_| {});
    home(&regions);
    let (mut writer, mut other) = (regions.here.client(), regions.here.client());
    assert_eq!(writer.ask(&["SET", LOW, "1"]), "+OK\r\n");
    regions.low.fence();
    // Another connection, which wrote nothing, is served at once; the writer waits.
    let read = other.ask(&["GET", LOW]);
    let (there, forwarded) = (regions.low_there.executed(), regions.there.count(Count::ForwardedHere));
    writer.send(&[frame(&["GET", LOW]), frame(&["SET", LOW, "2"])].concat());
    assert!(writer.is_silent());
    assert_eq!(regions.low_there.executed(), there);
    regions.there.replication.has(Some(up_to(2, 0x1001, 1_000_000)));
    assert!(writer.is_silent(), "the numbers are of another region");
    regions.there.replication.has(Some(up_to(1, 0x1001, 1_000_000)));
    assert_eq!([writer.reply(), writer.reply()], [read, "+OK\r\n".to_owned()]);
    eventually("it is counted", || regions.there.count(Count::ForwardedHere) >= forwarded + 2);
}

#[test]
fn what_never_gets_there_is_named() {
    let regions = regions(|_| {});
    home(&regions);
    let mut writer = regions.here.client();
    assert_eq!(writer.ask(&["SET", LOW, "1"]), "+OK\r\n");
    let written = regions.low.executed().len();
    regions.low.fence();
    writer.stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let reply = writer.ask(&["GET", LOW]);
    let expected = format!(
        "-MASTIMEOUT shard 0 is served by region there now, which does not have what this connection wrote: effect {written} \
         of incarnation 0000000000001001, acknowledged at Local only\r\n"
    );
    assert_eq!(reply, expected);
}

#[test]
fn what_was_known_here_is_awaited_for_a_moment_only() {
    let regions = regions(|_| {});
    regions.here.replication.was_known(up_to(1, 7, 3));
    let mut client = regions.here.client();
    client.request(&["GET", LOW]);
    assert!(client.is_silent());
    assert_eq!(client.reply(), "$-1\r\n");
}

#[test]
fn the_level_of_the_connection_holds_there() {
    let regions = regions(|config| config.ack = AckLevel::Queued);
    let mut client = regions.here.client();
    client.request(&["SET", LOW, "1"]);
    eventually("the write waits there", || regions.there.replication.waiting() == 1);
    assert!(client.is_silent());
    // Others do not wait for it.
    let mut reader = regions.here.client();
    assert_eq!(reader.ask(&["GET", LOW]), "$1\r\n1\r\n");
    regions.there.replication.release(Acknowledged::Yes);
    assert_eq!(client.reply(), "+OK\r\n");
    assert_eq!(client.ask(&["MAS.ACK", "LOCAL"]), "+OK\r\n");
    assert_eq!(client.ask(&["SET", LOW, "2"]), "+OK\r\n");
    assert_eq!(regions.there.replication.waiting(), 0);
    // Tokens name who numbered it, and what was not confirmed.
    let token = client.ask(&["MAS.TOKEN"]);
    assert!(token.contains("0:2/0000000000001001:2:2,0:0 effects there"), "{token}");
}

#[test]
fn a_degraded_write_is_known_to_be_local_only() {
    let regions = regions(|config| config.ack = AckLevel::Queued);
    regions.there.replication.answer_at_once(Some(Acknowledged::Degraded));
    let mut client = regions.here.client();
    assert_eq!(client.ask(&["SET", LOW, "1"]), "+OK\r\n");
    assert!(client.ask(&["MAS.TOKEN"]).contains("0:2/0000000000001001:1:1"));
    regions.there.replication.answer_at_once(Some(Acknowledged::Failed));
    assert!(client.ask(&["SET", LOW, "1"]).starts_with("-MASUNACKNOWLEDGED"));
    assert!(client.ask(&["MAS.TOKEN"]).contains("0:2/0000000000001001:2:1"), "it was written all the same");
}

#[test]
fn requests_come_back_when_everything_is_here() {
    let regions = regions(|_| {});
    regions.here.replication.is_behind(true);
    let mut client = regions.here.client();
    assert_eq!(client.ask(&["SET", LOW, "1"]), "+OK\r\n");
    regions.low.promote(2);
    eventually("the master is seen", || {
        client.ask(&["INFO", "multiactive"]).contains("shard0:state=serving")
    });
    assert_eq!(client.ask(&["SET", LOW, "2"]), "+OK\r\n");
    assert!(evacuated(&mut client), "this region does not have what was written there");
    assert_eq!(regions.low.executed(), Vec::<String>::new());
    regions.here.replication.is_behind(false);
    let mut there = 2;
    eventually("requests come back", || {
        client.ask(&["SET", LOW, "3"]);
        there += usize::from(regions.low.executed().is_empty());
        !regions.low.executed().is_empty()
    });
    assert_eq!(regions.low_there.executed().len(), there, "each was executed in one region");
    eventually("all workers are back", || !evacuated(&mut client));
    // A later write here has the higher stamp.
    assert!(regions.low.seen_clock() > 1 << 32, "{:x}", regions.low.seen_clock());
}

#[test]
fn a_client_that_changes_the_version_of_resp_is_not_back_before_the_others() {
    let regions = regions(|_| {});
    regions.here.replication.is_behind(true);
    let mut client = regions.here.client();
    assert_eq!(client.ask(&["SET", LOW, "1"]), "+OK\r\n");
    regions.low.promote(2);
    eventually("the master is seen", || {
        client.ask(&["INFO", "multiactive"]).contains("shard0:state=serving")
    });
    regions.there.replication.has(Some(up_to(2, 0x1001, 1)));
    // The connection for RESP3 is opened now; what was written through the other one is not here yet.
    assert!(client.ask(&["HELLO", "3"]).starts_with("%7"));
    assert_eq!(client.ask(&["GET", LOW]), "$1\r\n1\r\n");
    assert_eq!(client.ask(&["SET", LOW, "2"]), "+OK\r\n");
    assert_eq!(regions.low.executed(), Vec::<String>::new());
    assert_eq!(regions.low_there.executed(), ["SET b 1", "SET b 2"]);
}

#[test]
fn order_survives_the_way_back() {
    let regions = regions(|_| {});
    let mut client = regions.here.client();
    client.ask(&["SET", LOW, "start"]);
    let mut bytes = Vec::new();
    for n in 0..2000 {
        bytes.extend(frame(&["SET", LOW, &n.to_string()]));
    }
    client.send(&bytes);
    regions.low.promote(2);
    for _ in 0..2000 {
        assert_eq!(client.reply(), "+OK\r\n");
    }
    eventually("requests come back", || !evacuated(&mut client));
    let all = [regions.low_there.executed(), regions.low.executed()].concat();
    let expected: Vec<String> =
        std::iter::once("SET b start".to_owned()).chain((0..2000).map(|n| format!("SET b {n}"))).collect();
    assert_eq!(all, expected);
}

#[test]
fn a_peer_that_breaks_off_leaves_no_doubt_about_reads() {
    let regions = regions(|_| {});
    let mut client = regions.here.client();
    assert_eq!(client.ask(&["SET", LOW, "1"]), "+OK\r\n");
    // The peer's own engine does not answer a write: its proxy says so, and so does this one.
    regions.low_there.lose_replies(true);
    let reply = client.ask(&["SET", LOW, "2"]);
    assert!(reply.starts_with("-MASUNKNOWN"), "{reply}");
    regions.low_there.lose_replies(false);
    assert_eq!(client.ask(&["GET", LOW]), "$1\r\n2\r\n");
    // The peer's proxy ends with requests under way: what is not sent again is said to be unknown.
    regions.low_there.fence();
    client.send(&[frame(&["SET", LOW, "3"]), frame(&["GET", LOW])].concat());
    eventually("both are under way", || regions.there.count(Count::ForwardedHere) >= 5);
    let Regions { here, there, low_there, .. } = regions;
    there.replication.has(None);
    let reply = client.reply();
    assert!(reply.starts_with("-MASUNKNOWN the connection to the other region"), "{reply}");
    low_there.promote(3);
    there.replication.has(Some(up_to(2, 0x1001, 10)));
    // The read is sent again, if another connection is made in time.
    let reply = client.reply();
    assert!(reply.starts_with("$1") || reply.starts_with("-MASNOMASTER"), "{reply}");
    eventually("reads go there again", || client.ask(&["GET", LOW]).starts_with("$1"));
    drop(here);
}

#[test]
fn a_client_of_the_peer_cannot_use_it_for_more() {
    let regions = regions(|_| {});
    let mut client = regions.there.client();
    for (words, error) in [
        (&["MAS.FORWARD", "7", "1", "GET", LOW][..], "-ERR MAS.FORWARD takes a shard"),
        (&["MAS.FORWARD", "0", "0", "GET", LOW], "-ERR MAS.FORWARD takes a shard"),
    ] {
        let reply = client.ask(words);
        assert!(reply.starts_with(error), "{reply}");
    }
    for (words, error) in [
        (&["MAS.FORWARD", "0", "1", "GET", HIGH][..], "-CROSSSLOT"),
        (&["MAS.FORWARD", "0", "1", "MAS.EXEC", "x"], "-ERR unknown command"),
        (&["MAS.FORWARD", "0", "1", "MAS.FORWARD", "0", "1", "GET", LOW], "-ERR MAS.FORWARD is for commands"),
        (&["MAS.FORWARD", "0", "1", "AUTH", "x"], "-ERR MAS.FORWARD is for commands"),
        (&["MAS.FORWARD", "0", "1", "LPUSH", "x", "y"], "-ERR 'LPUSH' is not supported"),
        (&["MAS.FORWARD", "0", "1", "GET"], "-ERR wrong number of arguments for 'get'"),
    ] {
        let reply = client.ask(words);
        assert!(reply.contains(&format!("+reply\r\n{error}")), "{reply}");
    }
}
