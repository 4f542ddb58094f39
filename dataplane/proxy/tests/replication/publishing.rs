//! One region: publish, confirm, trim; brokers that die, hang and forget; recovery after a promotion.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use lapin::options::{BasicConsumeOptions, BasicQosOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use mas_core::config::{AckLevel, OnBrokerLoss};
use mas_core::record::{Body, PART_BYTES, Record};
use mas_core::stamp::{Hlc, Incarnation, Origin, RegionId, ShardId};
use mas_core::wire::peek_effect;
use mas_proxy::front::replication::{Replication, Written};
use mas_proxy::link::Acknowledged;

use super::region::{Proxy, config, execute, promote, wait_serving};
use super::servers::{Broker, Engine, wait_for};

/// All numbers of effects in the stream, in order of publication, up to the first heartbeat after `enough`.
async fn published(broker: &Broker, enough: usize) -> Vec<u64> {
    let (_connection, channel) = broker.channel().await;
    channel.basic_qos(100, BasicQosOptions::default()).await.unwrap();
    let mut arguments = FieldTable::default();
    arguments.insert("x-stream-offset".into(), AMQPValue::LongString("first".into()));
    let options = BasicConsumeOptions::default();
    let mut consumer =
        channel.basic_consume("mas.shop.0".into(), "".into(), options, arguments).await.unwrap();
    let mut seqs = Vec::new();
    while let Some(delivery) = consumer.next().await {
        match Record::decode(delivery.unwrap().data.into()).unwrap().body {
            Body::Effects(effects) => seqs.extend(effects.iter().map(|e| peek_effect(e).unwrap().0)),
            Body::Heartbeat(_) if seqs.len() >= enough => break,
            _ => {}
        }
    }
    seqs
}

fn outbox(engine: &Engine) -> u64 {
    engine.identity("outbox-effects").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishes_confirms_trims_recovers() {
    let mut broker = Broker::start();
    let mut engine = Engine::start();
    promote(&engine, 1, 1);
    let proxy = Proxy::start(config(1, &engine, &broker, &[]));
    wait_serving(&engine, true);

    // Confirmed, and then trimmed.
    for n in 0..20 {
        assert_eq!(
            proxy.set(&engine, &format!("k{n}"), "v", Some(AckLevel::Queued)),
            Some(Acknowledged::Yes)
        );
    }
    wait_for("an empty outbox", 5, || (outbox(&engine) == 0).then_some(()));
    let seqs = published(&broker, 20).await;
    assert_eq!(seqs, (1..=20).collect::<Vec<_>>());

    // A write that changes nothing is acknowledged too.
    assert_eq!(proxy.write(&engine, &[b"DEL", b"nothing"], Some(AckLevel::Queued)), Some(Acknowledged::Yes));

    // What nobody ships is swept.
    execute(&engine, &[b"SET", b"left", b"behind"], None);
    wait_for("a sweep", 5, || (outbox(&engine) == 0).then_some(()));
    assert!(proxy.metric("mas_replication_swept_effects_total") >= 1.0);
    assert_eq!(published(&broker, 21).await.last(), Some(&21));

    // A large effect travels in parts.
    let large = vec![b'x'; PART_BYTES * 2 + 10];
    assert_eq!(
        proxy.write(&engine, &[b"SET", b"large", &large], Some(AckLevel::Queued)),
        Some(Acknowledged::Yes)
    );

    // The stream is deleted under it: what is returned is not confirmed; it is declared again.
    {
        let (_connection, channel) = broker.channel().await;
        channel.queue_delete("mas.shop.0".into(), QueueDeleteOptions::default()).await.unwrap();
    }
    assert_eq!(proxy.set(&engine, "after", "deletion", Some(AckLevel::Queued)), Some(Acknowledged::Yes));
    assert_eq!(published(&broker, 1).await, [23]);

    // The broker dies: the writes degrade, stay in the outbox, and are published when it is back.
    broker.kill();
    let start = Instant::now();
    assert_eq!(proxy.set(&engine, "without", "broker", Some(AckLevel::Queued)), Some(Acknowledged::Degraded));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    wait_for("degraded", 5, || {
        (proxy.replication.effective(AckLevel::Queued) == AckLevel::Local).then_some(())
    });
    assert!(outbox(&engine) >= 1);
    let strict = mas_core::config::ProxyConfig {
        on_broker_loss: OnBrokerLoss::Reject,
        ..proxy.config.borrow().as_ref().clone()
    };
    proxy.config.send_replace(std::sync::Arc::new(strict));
    wait_for("a rejection", 5, || {
        (proxy.set(&engine, "without", "broker", Some(AckLevel::Queued)) == Some(Acknowledged::Unavailable))
            .then_some(())
    });
    broker.restart();
    wait_for("an empty outbox", 30, || (outbox(&engine) == 0).then_some(()));
    wait_for("Queued", 30, || {
        (proxy.set(&engine, "with", "broker", Some(AckLevel::Queued)) == Some(Acknowledged::Yes))
            .then_some(())
    });

    // The engine restarts in place: fenced, promoted again, recovered through the own stream.
    execute(&engine, &[b"SET", b"in", b"outbox"], None);
    engine.restart();
    assert_eq!(engine.identity("state"), "fenced");
    promote(&engine, 2, 1);
    wait_serving(&engine, true);
    assert_eq!(engine.get("in").as_deref(), Some("outbox"));
    wait_for("an empty outbox", 5, || (outbox(&engine) == 0).then_some(()));

    // Tokens: covered at once here; one of a lost incarnation is an error and not a wait.
    let incarnation = Incarnation::parse(&engine.identity("incarnation")).unwrap();
    wait_for("the new master", 5, || proxy.set(&engine, "a", "b", Some(AckLevel::Queued)));
    let seq = engine.identity("seq").parse().unwrap();
    let wrote = |incarnation, seq, local_only| Written {
        shard: ShardId(0),
        origin: Origin { region: RegionId(1), incarnation },
        seq,
        hlc: Hlc(1),
        local_only,
    };
    let token = proxy.replication.token(vec![wrote(incarnation, seq, 0)], vec![]).await.unwrap();
    let short = Duration::from_millis(200);
    assert_eq!(proxy.replication.await_token(token.into_bytes(), short).await, Ok(true));
    let ahead = proxy.replication.token(vec![wrote(incarnation, seq + 1, 0)], vec![]).await.unwrap();
    assert_eq!(proxy.replication.await_token(ahead.into_bytes(), short).await, Ok(false));
    let void = proxy.replication.token(vec![wrote(Incarnation(0xbad), 7, 7)], vec![]).await.unwrap();
    let refusal =
        proxy.replication.await_token(void.into_bytes(), Duration::from_secs(10)).await.unwrap_err();
    assert!(refusal.0.contains("incarnation 0000000000000bad") && refusal.0.contains("Local"), "{refusal}");
    assert!(
        proxy
            .replication
            .await_token(b"junk".to_vec(), short)
            .await
            .unwrap_err()
            .0
            .starts_with("ERR the token")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_hangs_or_is_not_there_stops_nobody() {
    let mut broker = Broker::start();
    let engine = Engine::start();
    broker.kill();
    promote(&engine, 1, 1);
    let start = Instant::now();
    let proxy = Proxy::start(config(1, &engine, &broker, &[]));
    wait_serving(&engine, false);
    assert!(start.elapsed() < Duration::from_secs(10));
    assert_eq!(proxy.set(&engine, "a", "1", Some(AckLevel::Queued)), Some(Acknowledged::Degraded));
    broker.restart();
    wait_serving(&engine, true);
    wait_for("Queued", 20, || {
        (proxy.set(&engine, "a", "2", Some(AckLevel::Queued)) == Some(Acknowledged::Yes)).then_some(())
    });

    // It blocks its publishers: connections stay, nothing is taken.
    broker.alarm(true);
    let start = Instant::now();
    wait_for("degraded", 5, || {
        (proxy.set(&engine, "c", "1", Some(AckLevel::Queued)) == Some(Acknowledged::Degraded)).then_some(())
    });
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
    broker.alarm(false);
    wait_for("Queued", 20, || {
        (proxy.set(&engine, "c", "2", Some(AckLevel::Queued)) == Some(Acknowledged::Yes)).then_some(())
    });

    // It hangs: no connection is refused or closed, nothing answers. (On a busy machine it takes a moment until it does.)
    broker.signal("-STOP");
    let start = Instant::now();
    wait_for("degraded", 5, || {
        (proxy.set(&engine, "b", "1", Some(AckLevel::Queued)) == Some(Acknowledged::Degraded)).then_some(())
    });
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
    std::thread::sleep(Duration::from_secs(6));
    broker.signal("-CONT");
    wait_for("Queued", 30, || {
        (proxy.set(&engine, "b", "2", Some(AckLevel::Queued)) == Some(Acknowledged::Yes)).then_some(())
    });
    wait_for("an empty outbox", 10, || (outbox(&engine) == 0).then_some(()));
}
