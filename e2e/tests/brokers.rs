//! A region with a broker of three nodes: its streams are mirrored, so that one node may be lost, for a while or with all that it had.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::TcpStream;
use std::time::Duration;

use e2e::keyspace;
use e2e::load::{Load, Plan};
use e2e::{Store, manifest, one_at_a_time, wait_until};

const LIMIT: Duration = Duration::from_mins(4);

const NODES: [&str; 3] = ["east/broker-0", "east/broker-1", "east/broker-2"];

#[test]
fn one_of_three_nodes_may_be_lost() {
    each_in_turn("mirrored", |store, node, load| {
        store.hold(node).unwrap();
        // With two of three left the stream has a majority: it goes on confirming.
        is_confirmed(store, node);
        load.wait_for_more(200, LIMIT).unwrap();
        store.resume(node).unwrap();
    });
}

/// In the end nothing of the first three volumes is left: each node had all of the stream from the others before the next one was lost.
#[test]
fn a_node_that_lost_its_data_takes_it_over_from_the_others() {
    each_in_turn("emptied", |store, node, load| {
        store.hold(node).unwrap();
        std::fs::remove_dir_all(store.folder_of(node).join("data")).unwrap();
        store.resume(node).unwrap();
        load.wait_for_more(200, LIMIT).unwrap();
    });
}

/// All nodes have lost their data: none makes a cluster of its own, until a person says which one shall. What was confirmed and is in the
/// engines is still there, and writes are confirmed again.
#[test]
fn a_broker_that_lost_all_its_data_waits_for_a_person() {
    let _alone = one_at_a_time();
    let store = Store::start(&mirrored("lost")).unwrap();
    let mut client = store.connect("east").unwrap();
    let () = redis::cmd("SET").arg("before").arg("1").query(&mut client).unwrap();
    for node in NODES {
        store.hold(node).unwrap();
        std::fs::remove_dir_all(store.folder_of(node).join("data")).unwrap();
    }
    for node in NODES {
        store.resume(node).unwrap();
    }
    let says = |node: &str, what: &str| {
        let log = std::fs::read_to_string(store.folder_of(node).join("log")).unwrap();
        log.lines().any(|line| line == format!("multiactive: {what}"))
    };
    let waits = || NODES.iter().all(|node| says(node, "nobody answers yet"));
    wait_until("all nodes to wait", LIMIT, || if waits() { Ok(()) } else { Err("not all wait".to_owned()) })
        .unwrap();
    assert!(NODES.iter().skip(1).all(|node| !says(node, "makes a cluster")));
    std::fs::write(store.folder_of(NODES[0]).join("data/anew"), "").unwrap();
    for node in NODES {
        is_back(&store, node);
    }
    is_confirmed(&store, "nothing");
    let value: String = redis::cmd("GET").arg("before").query(&mut client).unwrap();
    assert_eq!(value, "1");
    store.finish().unwrap();
}

fn mirrored(name: &str) -> String {
    let spec = "  shards: 1\n  redis: {replicas: 1, maxMemory: 128Mi}\n  broker: {replicas: 3}\n  proxy: {replicas: 1}";
    manifest(name, &["east"], spec)
}

/// It takes clients when it has joined the others, and has what it lacked: without that the next one would be the second that is lost.
fn is_back(store: &Store, node: &str) {
    wait_until(&format!("{node} to be back"), LIMIT, || {
        let port = store.process(node).map_err(|error| error.to_string())?.port.ok_or("no port")?;
        TcpStream::connect(("127.0.0.1", port)).map_err(|error| error.to_string())
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", log_of(store, node)));
}

/// Does something to one node after the other, under load; nothing that was acknowledged may be lost.
fn each_in_turn(name: &str, happens: impl Fn(&Store, &str, &Load)) {
    let _alone = one_at_a_time();
    let store = Store::start(&mirrored(name)).unwrap();
    let plan = Plan {
        regions: &["east"],
        writers: 2,
        prefix: "k",
        level: &["QUEUED"],
        pace: Duration::from_millis(4),
    };
    let load = Load::start(&store, &plan).unwrap();
    load.wait_for_more(200, LIMIT).unwrap();
    for node in NODES {
        happens(&store, node, &load);
        is_back(&store, node);
        is_confirmed(&store, node);
        load.wait_for_more(200, LIMIT).unwrap();
    }
    let report = load.stop().unwrap();
    let space = keyspace::wait_equal(&store, "k*", LIMIT).unwrap();
    let findings = report.ledger.check(&space);
    println!(
        "{name}: {} acknowledged, {} missing, longest wait {:.2} s",
        report.ledger.acknowledged(),
        findings.missing,
        report.longest_gap.as_secs_f64()
    );
    assert_eq!((findings.missing, findings.surplus), (0, 0), "{findings}");
    store.finish().unwrap();
}

fn is_confirmed(store: &Store, node: &str) {
    wait_until("writes to be confirmed", LIMIT, || match effective(store) {
        level if level == "Queued" => Ok(()),
        other => Err(format!("the level in effect without {node} is {other}")),
    })
    .unwrap();
}

fn log_of(store: &Store, node: &str) -> String {
    let log = std::fs::read_to_string(store.folder_of(node).join("log")).unwrap_or_default();
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

/// The acknowledgement level in effect, as the proxy says.
fn effective(store: &Store) -> String {
    let info: String =
        redis::cmd("INFO").arg("multiactive").query(&mut store.connect("east").unwrap()).unwrap();
    info.lines().find_map(|line| line.strip_prefix("ack_effective:")).unwrap().trim().to_owned()
}
