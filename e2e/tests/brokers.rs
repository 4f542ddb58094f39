//! A region with a broker of three nodes: its streams are mirrored, so that one node may be lost, also for good for a while.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::TcpStream;
use std::time::Duration;

use e2e::keyspace;
use e2e::load::{Load, Plan};
use e2e::{Store, manifest, one_at_a_time, wait_for, wait_until};

const LIMIT: Duration = Duration::from_mins(1);

#[test]
fn one_of_three_nodes_may_be_lost() {
    let _alone = one_at_a_time();
    let spec = "  shards: 1\n  redis: {replicas: 1, maxMemory: 128Mi}\n  broker: {replicas: 3}\n  proxy: {replicas: 1}";
    let store = Store::start(&manifest("mirrored", &["east"], spec)).unwrap();
    let plan = Plan {
        regions: &["east"],
        writers: 2,
        prefix: "k",
        level: &["QUEUED"],
        pace: Duration::from_millis(4),
    };
    let load = Load::start(&store, &plan).unwrap();
    load.wait_for_more(200, LIMIT).unwrap();
    for node in ["east/broker-0", "east/broker-1", "east/broker-2"] {
        store.hold(node).unwrap();
        // With two of three left the stream has a majority: it goes on confirming.
        wait_until("writes to be confirmed", LIMIT, || match effective(&store) {
            level if level == "Queued" => Ok(()),
            other => Err(format!("the level in effect without {node} is {other}")),
        })
        .unwrap();
        load.wait_for_more(200, LIMIT).unwrap();
        store.resume(node).unwrap();
        // It listens when it has joined the others; without that the next one would be the second that is lost.
        wait_for(&format!("{node} to be back"), LIMIT, || {
            let port = store.process(node).ok()?.port?;
            TcpStream::connect(("127.0.0.1", port)).ok()
        })
        .unwrap();
        load.wait_for_more(200, LIMIT).unwrap();
    }
    let report = load.stop().unwrap();
    let space = keyspace::wait_equal(&store, "k*", LIMIT).unwrap();
    let findings = report.ledger.check(&space);
    println!(
        "{} acknowledged, {} missing, longest wait {:.2} s",
        report.ledger.acknowledged(),
        findings.missing,
        report.longest_gap.as_secs_f64()
    );
    assert_eq!((findings.missing, findings.surplus), (0, 0), "{findings}");
    store.finish().unwrap();
}

/// The acknowledgement level in effect, as the proxy says.
fn effective(store: &Store) -> String {
    let info: String =
        redis::cmd("INFO").arg("multiactive").query(&mut store.connect("east").unwrap()).unwrap();
    info.lines().find_map(|line| line.strip_prefix("ack_effective:")).unwrap().trim().to_owned()
}
