//! The network policies against a table of flows: who reaches what. Starts no server; the evaluator knows what the policies use (ingress,
//! matchLabels, ports by number) and fails on anything else.

use std::collections::BTreeMap;

use serde_json::Value;

use super::build;
use super::tests::{checked, world};
use crate::platform::kubernetes::check::Checked;
use crate::platform::kubernetes::object::{Kind, Object};

type Labels = BTreeMap<String, String>;

/// A pod: its namespace and its labels.
#[derive(Clone, Debug)]
struct Peer {
    namespace: &'static str,
    labels: Labels,
}

fn labels(value: &Value) -> Labels {
    let pairs = value.as_object().into_iter().flatten();
    pairs.map(|(key, value)| (key.clone(), value.as_str().unwrap().to_owned())).collect()
}

fn selects(selector: &Value, of: &Labels) -> bool {
    let known = selector.as_object().unwrap().keys().all(|key| key == "matchLabels");
    assert!(known, "the evaluator knows matchLabels alone: {selector}");
    labels(&selector["matchLabels"]).iter().all(|(key, value)| of.get(key) == Some(value))
}

fn is_from(rule: &Value, from: &Peer, here: &str) -> bool {
    let namespace = match rule.get("namespaceSelector") {
        None => from.namespace == here,
        Some(selector) => {
            let name = ("kubernetes.io/metadata.name".to_owned(), from.namespace.to_owned());
            selects(selector, &Labels::from([name]))
        }
    };
    namespace && rule.get("podSelector").is_none_or(|selector| selects(selector, &from.labels))
}

/// Whether `from` reaches `port` of `to`. A pod that no policy selects takes everything.
fn reaches(policies: &[Object], from: &Peer, to: &Peer, port: u16) -> bool {
    let about: Vec<_> =
        policies.iter().filter(|policy| selects(&policy.json["spec"]["podSelector"], &to.labels)).collect();
    let allows = |rule: &Value| {
        let list = |name: &str| rule.get(name).and_then(Value::as_array);
        list("from").is_none_or(|from_any| from_any.iter().any(|rule| is_from(rule, from, to.namespace)))
            && list("ports")
                .is_none_or(|ports| ports.iter().any(|p| p["port"] == port && p["protocol"] == "TCP"))
    };
    about.is_empty()
        || about.iter().any(|policy| policy.json["spec"]["ingress"].as_array().unwrap().iter().any(allows))
}

/// The pods that the built objects make, by the name of what makes them.
fn pods(objects: &[Object]) -> BTreeMap<String, Peer> {
    objects
        .iter()
        .filter(|object| matches!(object.kind, Kind::StatefulSet | Kind::Deployment))
        .map(|object| {
            let labels = labels(&object.json["spec"]["template"]["metadata"]["labels"]);
            (object.name.clone(), Peer { namespace: "prod", labels })
        })
        .collect()
}

#[test]
fn everybody_reaches_what_they_need_and_nothing_else() {
    let objects = build(&checked(&world("{shards: 2, regions: [{name: a}, {name: b}]}")));
    let policies: Vec<Object> =
        objects.iter().filter(|object| object.kind == Kind::NetworkPolicy).cloned().collect();
    let mut peers = pods(&objects);
    let other = build(&checked(&world("{shards: 1, regions: [{name: a}, {name: b}]}")));
    let another_store = |mut peer: Peer| {
        peer.labels.insert("multiactive.dev/store".into(), "stall".into());
        peer
    };
    peers.extend(
        pods(&other).into_iter().map(|(name, peer)| (name.replacen("shop", "stall", 1), another_store(peer))),
    );
    let operator = [("app.kubernetes.io/name".to_owned(), "multiactive-operator".to_owned())];
    let plain = |namespace, labels| Peer { namespace, labels };
    peers.insert("operator".into(), plain("operators", Labels::from(operator.clone())));
    peers.insert("impostor".into(), plain("prod", Labels::from(operator)));
    peers.insert("client".into(), plain("prod", Labels::new()));
    peers.insert("elsewhere".into(), plain("default", Labels::new()));
    // From, to, ports that are reached, ports that are not.
    let (redis, broker, proxy) = ("shop--a--shard-0-redis", "shop--a--broker", "shop--a--proxy");
    let broker_ports = [5672, 4369, 25_672, 15_672];
    let table: [(&str, &str, &[u16], &[u16]); 22] = [
        (proxy, redis, &[6379], &[22]),
        (redis, redis, &[6379], &[]),
        ("operator", redis, &[6379], &[]),
        ("shop--b--proxy", redis, &[], &[6379]),
        ("shop--b--shard-0-redis", redis, &[], &[6379]),
        (broker, redis, &[], &[6379]),
        ("client", redis, &[], &[6379]),
        ("impostor", redis, &[], &[6379]),
        ("elsewhere", redis, &[], &[6379]),
        ("stall--a--proxy", redis, &[], &[6379]),
        (proxy, broker, &[5672, 15_692], &[4369, 25_672, 15_672]),
        ("shop--b--proxy", broker, &[5672], &[4369, 25_672, 15_672]),
        (broker, broker, &[4369, 25_672], &[5672]),
        ("shop--b--broker", broker, &[], &[4369, 25_672, 5672]),
        ("operator", broker, &[5672, 15_672], &[4369]),
        ("client", broker, &[15_692], &broker_ports),
        ("impostor", broker, &[], &broker_ports),
        ("stall--a--proxy", broker, &[], &broker_ports),
        ("client", proxy, &[6379, 8080], &[22]),
        // For shards that have no master in the other region.
        ("shop--b--proxy", proxy, &[6379], &[22]),
        ("elsewhere", proxy, &[6379, 8080], &[]),
        ("operator", proxy, &[8080], &[]),
    ];
    for (from, to, open, closed) in table {
        for (ports, wanted) in [(open, true), (closed, false)] {
            for port in ports {
                let found = reaches(&policies, &peers[from], &peers[to], *port);
                assert_eq!(found, wanted, "{from} to {to}, port {port}");
            }
        }
    }
}

/// A shard that is made again reaches the servers that it copies, and only while it is.
#[test]
fn a_shard_that_is_rebuilt_reaches_those_that_it_copies() {
    let plain = world("{shards: 2, regions: [{name: a}, {name: b}]}");
    let mut store = checked(&plain);
    let open = |store: &Checked| {
        let objects = build(store);
        let policies: Vec<Object> =
            objects.iter().filter(|object| object.kind == Kind::NetworkPolicy).cloned().collect();
        let peers = pods(&objects);
        let way = |from: &str, to: &str| reaches(&policies, &peers[from], &peers[to], 6379);
        [
            way("shop--b--shard-1-redis", "shop--a--shard-1-redis"),
            way("shop--b--shard-0-redis", "shop--a--shard-1-redis"),
            way("shop--a--shard-1-redis", "shop--b--shard-1-redis"),
        ]
    };
    assert_eq!(open(&store), [false, false, false]);
    store.identity.rebuild(&[("b".to_owned(), [1].into())].into());
    assert_eq!(open(&store), [true, false, false]);
}
