//! The operator ends as if killed after every single request that writes: each successor begins where a crash has left the store, makes
//! one write, and ends. So the store goes through every picture that a crash can leave, and comes to the same end.

use std::time::Duration;

use e2e::cluster::{Cluster, Namespace};
use e2e::wait::wait_until;

use crate::{LIMIT, is_reconciled, picture, small, wait_reconciled};

/// Runs operators that crash after their first write, until one has nothing left to write. Returns how many crashed.
fn crash_after_every_write(namespace: &Namespace, leases: &mut usize) -> usize {
    for crashes in 0..500 {
        // Each has a Lease of its own, which is its first write: the one of the last would hold for a while.
        let lease = format!("lease-{}", *leases);
        *leases += 1;
        let mut operator = namespace.operator(&["--crash-after", "2", "--lease", &lease]).unwrap();
        let crashed = wait_until("a crash, or the end of the work", LIMIT, || {
            if operator.wait_end(Duration::ZERO).is_ok() {
                return Ok(true);
            }
            let store = namespace.get("mas", "shop").map_err(|error| error.to_string())?;
            if is_reconciled(&store) { Ok(false) } else { Err(store.to_string()) }
        });
        if !crashed.unwrap() {
            return crashes;
        }
    }
    panic!("after 500 crashes the work is not done");
}

#[test]
fn a_crash_after_any_write_changes_nothing_in_the_end() {
    // With how many writes, at least.
    let changes = [
        ("proxies and the level of acknowledgement", ", proxy: {replicas: 3}, replication: {ack: Local}", 4),
        ("memory and resources", ", redis: {maxMemory: 96Mi, resources: {requests: {cpu: 100m}}}", 4),
        ("retention", ", replication: {retention: {duration: 2h}}", 2),
        ("what is kept", ", deletionPolicy: Delete", 4),
    ];
    let whole = Cluster::shared().namespace("whole").unwrap();
    let broken = Cluster::shared().namespace("broken").unwrap();
    let mut leases = 0;
    let same = |what: &str| {
        let [whole, broken] =
            [&whole, &broken].map(|of| format!("{:#?}", picture(of)).replace(&of.name, "NAMESPACE"));
        assert_eq!(whole, broken, "after {what}");
    };
    whole.apply(&small("")).unwrap();
    let _operator = whole.operator(&[]).unwrap();
    wait_reconciled(&whole, "shop");
    broken.apply(&small("")).unwrap();
    let crashes = crash_after_every_write(&broken, &mut leases);
    assert!(crashes > 30, "{crashes} crashes");
    same("the first round");
    for (what, change, writes) in changes {
        for namespace in [&whole, &broken] {
            namespace.apply(&small(change).replace("redis: {maxMemory: 64Mi}, redis", "redis")).unwrap();
        }
        wait_reconciled(&whole, "shop");
        let crashes = crash_after_every_write(&broken, &mut leases);
        assert!(crashes >= writes, "{crashes} crashes after a change of {what}");
        same(what);
    }
}
