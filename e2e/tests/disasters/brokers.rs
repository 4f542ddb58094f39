//! Brokers of three nodes, and volumes of theirs that are lost.

use std::time::Duration;

use e2e::cluster::chart::{FOUNDING, Installation, RECOVERY, REGIONS};
use e2e::cluster::{Deployed, Namespace};
use e2e::keyspace;
use e2e::load::Load;
use e2e::wait::wait_until;
use serde_json::Value;

/// How long a node may take to be forgotten, to join anew, and to take over the streams.
const REJOIN: Duration = Duration::from_mins(4);

/// One node after the other loses its pod and its volume at once, while the other region reads nothing: in the end the stream is on
/// volumes alone that were empty, and the other region reads from it all that was acknowledged.
pub(crate) fn each_volume_of_a_broker_is_lost(place: &Installation) {
    let namespace = place.chart.namespace().cluster().namespace("mirrored").unwrap();
    namespace.apply(&manifest()).unwrap();
    let store = Deployed::new(&namespace, "mirrored", &REGIONS);
    let picture = || place.picture_of(&namespace);
    store.wait_active(FOUNDING * 2).unwrap_or_else(|error| panic!("{error:#}\n{}", picture()));
    place.step("a store with three broker nodes a region was founded");
    let cluster = namespace.cluster();
    let is_ours = cluster.audit().is_some();
    if is_ours {
        cluster.tool(&["cut", "node-2", "--peers"]).unwrap();
    } else {
        println!(
            "skipped: the other region goes on reading; the cluster that KUBECONFIG names has no cables that this can pull"
        );
    }
    let load = Load::start(&store, &crate::LOAD).unwrap();
    let flows = |after: &str| {
        load.wait_for_more(40, RECOVERY)
            .unwrap_or_else(|error| panic!("after {after}: {error:#}\n{}", picture()));
    };
    flows("the beginning");
    for ordinal in 0..3 {
        let pod = format!("mirrored--east--broker-{ordinal}");
        let before = namespace.get("pod", &pod).unwrap()["metadata"]["uid"].clone();
        namespace.kubectl(&["delete", "pvc", &format!("data-{pod}"), "--wait=false"]).unwrap();
        namespace.kubectl(&["delete", "pod", &pod, "--grace-period=0", "--force"]).unwrap();
        flows("a broker node was lost");
        let is_back = |now: &Value| now["metadata"]["uid"] != before && is_ready(now);
        namespace.wait("pod", &pod, REJOIN, is_back).unwrap_or_else(|error| {
            panic!(
                "{error:#}\n{}\n{}",
                namespace.kubectl(&["logs", &pod, "--tail=60"]).unwrap_or_default(),
                picture()
            )
        });
        // Ready: it has all that the others had when it joined.
        let asked = format!("mirrored--east--broker-{}", (ordinal + 1) % 3);
        assert_eq!(members(&namespace, &asked), 3, "{}", picture());
        place.step(&format!(
            "{pod} lost its pod and its volume, was forgotten, joined anew, and has the stream"
        ));
        flows("a node joined anew");
    }
    // The one that joined first, killed: what is confirmed then, and what was, is on the other two.
    store.kill("mirrored--east--broker-0", "broker").unwrap();
    flows("another node was killed");
    if is_ours {
        cluster.tool(&["heal", "node-2"]).unwrap();
    }
    store.wait_active(RECOVERY).unwrap_or_else(|error| panic!("{error:#}\n{}", picture()));
    let report = load.stop().unwrap();
    let space = keyspace::wait_equal(&store, "load:*", RECOVERY)
        .unwrap_or_else(|error| panic!("{error:#}\n{}", picture()));
    let findings = report.ledger.check(&space);
    place.step(&format!(
        "all three volumes of a broker were lost: {} writes acknowledged, {} with no known end, longest gap {:.1?}; {findings}",
        report.ledger.acknowledged(),
        report.ledger.unknown(),
        report.longest_gap
    ));
    assert_eq!((findings.missing, findings.surplus), (0, 0), "{findings}\n{}", picture());
    let adopted = store.metric("west", "mas_replication_state_adopted_total").unwrap();
    assert!(adopted == 0.0, "west read it from the stream, and took nothing over as state: {adopted}");
    namespace.cluster().kubectl(&["delete", "namespace", &namespace.name, "--timeout=180s"]).unwrap();
}

fn manifest() -> String {
    let text = e2e::cluster::chart::EXAMPLE.replace("name: shop", "name: mirrored");
    let text = text.replace("  broker:\n    replicas: 1\n", "  broker:\n    replicas: 3\n");
    text.replace("  proxy:\n    replicas: 2\n", "  proxy:\n    replicas: 1\n")
}

fn is_ready(pod: &Value) -> bool {
    let statuses = pod["status"]["containerStatuses"].as_array();
    statuses.is_some_and(|of| !of.is_empty() && of.iter().all(|status| status["ready"] == true))
}

/// Members of the stream that run, as a node says.
fn members(namespace: &Namespace, pod: &str) -> usize {
    let asked = [
        "exec",
        pod,
        "-c",
        "broker",
        "--",
        "rabbitmq-streams",
        "-q",
        "stream_status",
        "--formatter",
        "json",
        "mas.mirrored.0",
    ];
    wait_until("the state of the stream", RECOVERY, || {
        let said = namespace.kubectl(&asked).map_err(|error| error.to_string())?;
        let rows: Vec<Value> = serde_json::from_str(&said).map_err(|error| format!("{error}: {said}"))?;
        Ok(rows.iter().filter(|row| row["committed_offset"].is_number()).count())
    })
    .unwrap()
}
