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
