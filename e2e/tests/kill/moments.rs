//! `kill -9` at chosen moments, which need no hook in what is tested: a frozen broker keeps writes from being published,
//! and the engine's stored position tells when something was merged.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use e2e::admin::{identity, metric_at};
use e2e::{Store, process, wait_for, wait_until};
use redis::Connection;

const LIMIT: Duration = Duration::from_secs(40);
/// The proxy that dies has at least so much in its hands that is applied and not confirmed.
const KEPT_BYTES: f64 = 4000.0;
/// A reader is killed until it has died so often before it merged anything more, but not more often than that.
const HITS: usize = 3;
const READERS_MAX: usize = 20;

/// A proxy between apply and publish: while the broker is frozen nothing is published, but writes are applied. The proxy
/// that dies with them stays away, so that another has to publish what it left in the outbox.
pub(crate) fn between_apply_and_publish(store: &Store, region: &str) {
    let mut engine = store.connect_master(region, 0).unwrap();
    let broker = format!("{region}/broker-0");
    let ports = admin_ports(store, region);
    let swept_before: BTreeMap<&String, f64> = ports
        .iter()
        .map(|(name, port)| (name, metric_at(*port, "mas_replication_swept_effects_total").unwrap()))
        .collect();

    store.pause(&broker).unwrap();
    let victim = wait_for("a proxy to hold writes that are not published", LIMIT, || {
        let kept = |port: &u16| metric_at(*port, "mas_replication_kept_bytes").ok();
        ports
            .iter()
            .find(|(_, port)| kept(port).is_some_and(|kept| kept >= KEPT_BYTES))
            .map(|(name, _)| name.clone())
    });
    let victim = victim.unwrap();
    store.hold(&victim).unwrap();
    let left = identity(&mut engine).unwrap();
    store.resume(&broker).unwrap();

    // All that was issued by then is confirmed at last, hence published, by those who are left.
    let (incarnation, last) = (left["incarnation"].clone(), left["seq"].parse::<u64>().unwrap());
    wait_until("what was left in the outbox to be published", LIMIT, || {
        let now = identity(&mut engine).map_err(|error| error.to_string())?;
        match first_waiting(&now["outbox-first"], &incarnation) {
            Some(first) if first <= last => Err(format!("{first} of {last} is still in the outbox")),
            _ => Ok(()),
        }
    })
    .unwrap();
    let swept: f64 = ports
        .iter()
        .filter(|(name, _)| **name != victim)
        .map(|(name, port)| {
            metric_at(*port, "mas_replication_swept_effects_total").unwrap() - swept_before[name]
        })
        .sum();
    println!(
        "  {victim} died with {} effects in the outbox of {region}; others swept {swept}",
        left["outbox-effects"]
    );
    assert!(left["outbox-effects"] != "0" && swept > 0.0, "the proxy did not die between apply and publish");
    store.resume(&victim).unwrap();
    store.pid(&victim).unwrap();
}

/// A reader between merge and the next read: the proxy that reads `peer`'s stream dies as soon as the engine has stored a new
/// position, again and again, until it has died three times before it merged more.
pub(crate) fn between_merge_and_read(store: &Store, region: &str, peer: &str) {
    let peer_id = identity(&mut store.connect_master(peer, 0).unwrap()).unwrap()["region"].clone();
    let mut engine = store.connect_master(region, 0).unwrap();
    let mut position = || position(&mut engine, &peer_id).unwrap();
    let mut hits = 0;
    let mut kills = 0;
    while hits < HITS && kills < READERS_MAX {
        let (reader, pid) = reader(store, region);
        let before = position();
        let mut merged = before.clone();
        wait_for("something to be merged", LIMIT, || {
            merged = position();
            (merged != before).then_some(())
        })
        .unwrap();
        process::kill(pid).unwrap();
        wait_for("the reader to be dead", LIMIT, || (!process::is_alive(pid)).then_some(())).unwrap();
        kills += 1;
        hits += usize::from(position() == merged);
        wait_for("another reader", LIMIT, || (position() != merged).then_some(())).unwrap();
        store.wait_restarted(&reader, pid).unwrap();
    }
    println!("  readers of {peer} in {region} died {kills} times, {hits} of them before they merged more");
    assert!(hits >= HITS, "no reader died between merge and the next read");
}

/// The number of the first effect of `incarnation` that waits, in `outbox-first` of `MAS.IDENTITY`.
fn first_waiting(waiting: &str, incarnation: &str) -> Option<u64> {
    let all = waiting.split(',').filter_map(|entry| entry.split_once(':'));
    all.filter(|(of, _)| *of == incarnation).find_map(|(_, first)| first.parse().ok())
}

fn position(engine: &mut Connection, region: &str) -> Result<(String, String)> {
    let all: Vec<String> = redis::cmd("MAS.POSITIONS").query(engine)?;
    let found = all.chunks(3).find(|position| position[0] == region);
    found.map(|found| (found[1].clone(), found[2].clone())).context("the peer's stream has no position")
}

fn admin_ports(store: &Store, region: &str) -> BTreeMap<String, u16> {
    let names = store.proxies(region).unwrap();
    let port = |name: &String| store.process(name).unwrap().port.unwrap();
    names.iter().map(|name| (name.clone(), port(name))).collect()
}

/// The proxy that merges now, and its process.
fn reader(store: &Store, region: &str) -> (String, u32) {
    let ports = admin_ports(store, region);
    let merged = |port: &u16| metric_at(*port, "mas_replication_merged_effects_total").unwrap_or(0.0);
    let before: BTreeMap<&String, f64> = ports.iter().map(|(name, port)| (name, merged(port))).collect();
    let name = wait_for("a proxy that merges", LIMIT, || {
        ports.iter().find(|(name, port)| merged(port) > before[name]).map(|(name, _)| name.clone())
    });
    let name = name.unwrap();
    let pid = store.pid(&name).unwrap();
    (name, pid)
}
