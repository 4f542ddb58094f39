//! Two regions: reading, merging, lag; cuts, duplicates, dead letters, waiting for other regions.

use std::time::{Duration, Instant};

use lapin::BasicProperties;
use lapin::options::{BasicGetOptions, BasicPublishOptions, QueueDeleteOptions};
use mas_core::config::AckLevel;
use mas_core::record::PART_BYTES;
use mas_core::stamp::{Hlc, Incarnation, Origin, RegionId, ShardId};
use mas_proxy::front::replication::{Replication, Written};
use mas_proxy::link::Acknowledged;

use super::region::{Proxy, config, promote, wait_serving};
use super::relay::Relay;
use super::servers::{Broker, Engine, wait_for};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_regions_read_each_other() {
    let (mut one, two) = (Broker::start(), Broker::start());
    let (a, b) = (Engine::start(), Engine::start());
    promote(&a, 1, 1);
    promote(&b, 1, 2);
    let relay = Relay::start(one.port);
    let here = Proxy::start(config(1, &a, &one, &[(2, two.address(), &two)]));
    let there = Proxy::start(config(2, &b, &two, &[(1, relay.address(), &one)]));
    let second = Proxy::start(config(2, &b, &two, &[(1, relay.address(), &one)]));
    wait_serving(&a, true);
    wait_serving(&b, true);

    // Written in one, seen in the other, both ways; also what travels in parts.
    let start = Instant::now();
    here.set(&a, "x", "1", Some(AckLevel::Queued));
    wait_for("x in region 2", 10, || b.get("x"));
    println!("first visible after {:?}", start.elapsed());
    let large = vec![b'x'; PART_BYTES * 2 + 10];
    there.write(&b, &[b"SET", b"large", &large], Some(AckLevel::Queued));
    wait_for("large in region 1", 10, || a.get("large").filter(|v| v.len() == large.len()));
    for n in 0..50 {
        here.write(&a, &[b"INCR", b"n"], None);
        there.write(&b, &[b"INCR", b"n"], if n == 49 { Some(AckLevel::Queued) } else { None });
    }
    wait_for("the sum in region 1", 10, || (a.get("n").as_deref() == Some("100")).then_some(()));
    wait_for("the sum in region 2", 10, || (b.get("n").as_deref() == Some("100")).then_some(()));

    // One proxy of region 2 reads, the other stands by.
    let reader = if there.link().state == "Standby" { &second } else { &there };
    reader.wait_state("Connected");
    assert_eq!(reader.link().lag_effects, 0);
    let standby = if there.link().state == "Standby" { &there } else { &second };
    assert_eq!(standby.link().state, "Standby");

    // Remote, tokens and MAS.WAIT, also through the proxy that does not read.
    assert_eq!(here.set(&a, "r", "1", Some(AckLevel::Remote)), Some(Acknowledged::Yes));
    assert_eq!(b.get("r").as_deref(), Some("1"));
    assert_eq!(standby.set(&b, "r", "2", Some(AckLevel::Remote)), Some(Acknowledged::Yes));
    let written = |engine: &Engine| Written {
        shard: ShardId(0),
        origin: Origin {
            region: RegionId(1),
            incarnation: Incarnation::parse(&engine.identity("incarnation")).unwrap(),
        },
        seq: engine.identity("seq").parse().unwrap(),
        hlc: Hlc(0),
        local_only: 0,
    };
    here.set(&a, "t", "1", Some(AckLevel::Queued));
    let token = here.replication.token(vec![written(&a)], vec![]).await.unwrap();
    let limit = Duration::from_secs(5);
    assert_eq!(standby.replication.await_token(token.into_bytes(), limit).await, Ok(true));
    assert_eq!(b.get("t").as_deref(), Some("1"));
    assert_eq!(here.replication.wait_regions(vec![written(&a)], 1, limit).await, Ok(1));
    assert_eq!(here.replication.wait_regions(vec![written(&a)], 2, Duration::from_millis(50)).await, Ok(1));

    // A record that cannot be decoded goes to the dead letters and stops nobody. A duplicate is refused by the cover.
    {
        let (_connection, channel) = one.channel().await;
        let options = BasicPublishOptions::default();
        let plain = BasicProperties::default();
        channel.basic_publish("".into(), "mas.shop.0".into(), options, b"junk", plain).await.unwrap();
        here.set(&a, "junk", "passed", Some(AckLevel::Queued));
        wait_for("what follows", 10, || b.get("junk"));
        let (_connection, channel) = two.channel().await;
        let dead = tokio::time::timeout(limit, async {
            loop {
                let got = channel
                    .basic_get("mas.shop.dead-letters".into(), BasicGetOptions::default())
                    .await
                    .unwrap();
                if let Some(message) = got {
                    return message.delivery.data;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        assert_eq!(dead.await.unwrap(), b"junk");
        assert!(reader.metric("mas_replication_dead_letters_total") >= 1.0);
    }

    // A silent cut: both go on, the link says so, and it catches up afterwards.
    relay.set_cut(true);
    let start = Instant::now();
    for n in 0..100 {
        here.set(&a, &format!("cut{n}"), "1", None);
    }
    there.set(&b, "meanwhile", "1", Some(AckLevel::Queued));
    wait_for("the other direction", 10, || a.get("meanwhile"));
    wait_for("Disconnected", 15, || {
        ["Disconnected", "Silent"].contains(&reader.link().state.as_str()).then_some(())
    });
    println!("cut noticed after {:?}", start.elapsed());
    assert_eq!(b.get("cut99"), None);
    relay.set_cut(false);
    wait_for("what was written during the cut", 30, || b.get("cut99"));
    reader.wait_state("Connected");

    // The proxy that reads goes away: the other takes over.
    if std::ptr::eq(reader, &raw const there) {
        drop(there);
        takes_over(&here, &a, &b, &second);
    } else {
        drop(second);
        takes_over(&here, &a, &b, &there);
    }

    // The stream is deleted and declared again: read from its start, refused by the cover where known.
    {
        let (_connection, channel) = one.channel().await;
        channel.queue_delete("mas.shop.0".into(), QueueDeleteOptions::default()).await.unwrap();
    }
    here.set(&a, "new", "log", Some(AckLevel::Queued));
    wait_for("what is in the new log", 30, || b.get("new"));

    // The broker dies under load and comes back.
    one.kill();
    here.set(&a, "while", "down", None);
    one.restart();
    wait_for("what was written meanwhile", 40, || b.get("while"));
}

fn takes_over(here: &Proxy, a: &Engine, b: &Engine, left: &Proxy) {
    here.set(a, "take", "over", Some(AckLevel::Queued));
    wait_for("the other proxy", 15, || b.get("take"));
    left.wait_state("Connected");
}
