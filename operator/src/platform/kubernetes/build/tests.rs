//! Snapshots of what is built. Starts no server.

use std::collections::{BTreeMap, BTreeSet};

use crds::MultiActiveStore;

use super::build;
use crate::platform::kubernetes::catalog::Catalog;
use crate::platform::kubernetes::check::{Checked, check};
use crate::platform::kubernetes::dereference::World;
use crate::platform::kubernetes::object::{Kind, Object};

pub(super) fn world(spec: &str) -> World {
    let text = format!("metadata: {{name: shop, namespace: prod, uid: u-1}}\nspec: {spec}");
    let yaml = format!("apiVersion: multiactive.dev/v1alpha1\nkind: MultiActiveStore\n{text}");
    let store: MultiActiveStore = serde_yaml::from_str(&yaml).unwrap();
    World {
        store,
        identity: None,
        credentials: None,
        client: None,
        proxy_configs: BTreeMap::new(),
        proxies: BTreeMap::new(),
        ready_brokers: BTreeMap::new(),
        formed_brokers: BTreeSet::new(),
        old_claims: BTreeMap::new(),
    }
}

pub(super) fn checked(world: &World) -> Checked {
    let mut n = 0;
    let mut password = || {
        n += 1;
        format!("password-{n}")
    };
    check(world, &Catalog::default(), "operators", &mut password).unwrap()
}

fn yaml(objects: &[Object]) -> String {
    let documents: Vec<String> = objects.iter().map(|o| serde_yaml::to_string(&o.json).unwrap()).collect();
    documents.join("---\n")
}

#[test]
fn the_objects_of_a_store_are_up_to_date() {
    let world = world(
        "{shards: 1, regions: [{name: beijing, placement: {nodeSelector: {topology.kubernetes.io/region: cn-north}}}, {name: shanghai}], broker: {replicas: 3}}",
    );
    let objects = build(&checked(&world));
    insta::assert_snapshot!(yaml(&objects));
}

/// A node without data may make a cluster until all nodes of its broker were ready once, and never again: not when some are away later, nor
/// in a store that is founded and gets a new region.
#[test]
fn a_broker_is_told_that_it_was_complete() {
    let mut world = world("{shards: 1, regions: [{name: a}, {name: b}], broker: {replicas: 3}}");
    let told = |world: &World| -> Vec<bool> {
        let objects = build(&checked(world));
        let files = |name: &str| {
            let is = |object: &&Object| object.kind == Kind::ConfigMap && object.name == name;
            objects.iter().find(is).unwrap().json["data"].clone()
        };
        ["shop--a--broker", "shop--b--broker"].map(|name| files(name)["formed"].is_string()).to_vec()
    };
    assert_eq!(told(&world), [false, false]);
    world.ready_brokers = [("a".to_owned(), 3), ("b".to_owned(), 2)].into();
    assert_eq!(told(&world), [true, false]);
    world.formed_brokers = ["a".to_owned()].into();
    world.ready_brokers.clear();
    assert_eq!(told(&world), [true, false]);
}

#[test]
fn the_same_input_gives_the_same_objects() {
    let world = world("{shards: 2, regions: [{name: a}, {name: b}]}");
    assert_eq!(build(&checked(&world)), build(&checked(&world)));
}

/// Its own configuration says that others serve its clients, theirs that it serves nobody; and its pods are left as they are.
#[test]
fn a_region_that_leaves_is_told_so_and_keeps_its_pods_until_it_is_no_member() {
    use mas_core::config::ProxyConfig;
    let record = |more: &str| {
        let region = |name: &str, id: u16, more: &str| {
            format!("{{\"name\": \"{name}\", \"id\": {id}, \"epochs\": [1]{more}}}")
        };
        format!(
            "{{\"format\": 1, \"founded\": \"now\", \"regions\": [{}, {}], \"nextRegionId\": 3, \"shards\": 1, \"slots\": [[[0, 16383]]], \
             \"membership\": 1}}",
            region("a", 1, ""),
            region("b", 2, more)
        )
    };
    let mut world = world("{shards: 1, regions: [{name: a}], broker: {replicas: 1}}");
    world.credentials = Some(BTreeMap::new());
    let built = |world: &World, more: &str| {
        build(&checked(&World { identity: Some((record(more), "7".into())), ..world.clone() }))
    };
    let config = |objects: &[Object], region: &str| -> Option<ProxyConfig> {
        let name = format!("shop--{region}--proxy");
        let map = objects.iter().find(|of| of.kind == Kind::ConfigMap && of.name == name)?;
        serde_json::from_str(map.json["data"]["proxy.json"].as_str()?).ok()
    };
    let of_b = |objects: &[Object]| -> Vec<String> {
        let of = objects.iter().filter(|of| of.json["metadata"]["labels"]["multiactive.dev/region"] == "b");
        of.map(|of| format!("{} {}", of.kind, of.name)).collect()
    };
    for state in ["", ", \"removing\": \"Draining\"", ", \"removing\": \"Settled\""] {
        let objects = built(&world, state);
        let (a, b) = (config(&objects, "a").unwrap(), config(&objects, "b").unwrap());
        assert!(b.drained && !a.drained);
        assert_eq!(a.peers.iter().map(|peer| peer.endpoint.clone()).collect::<Vec<_>>(), [None]);
        assert!(b.peers[0].endpoint.is_some());
        assert_eq!(
            of_b(&objects),
            [
                "ConfigMap shop--b--proxy",
                "Secret shop--b--redis",
                "Secret shop--b--broker",
                "Secret shop--b--proxy",
                "StoreRegion shop--b",
                "StoreOperation shop--remove--b-2",
                "NetworkPolicy shop--b--redis",
                "NetworkPolicy shop--b--broker",
                "NetworkPolicy shop--b--proxy",
            ]
        );
    }
    let objects = built(&world, ", \"removing\": \"Forgotten\"");
    assert!(config(&objects, "a").unwrap().peers.is_empty(), "the others are told");
    assert_eq!(of_b(&objects), ["StoreOperation shop--remove--b-2"]);
    let objects = built(&world, ", \"leaving\": true");
    assert_eq!(of_b(&objects), Vec::<String>::new(), "all of it goes");
}
