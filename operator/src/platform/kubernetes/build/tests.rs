//! Snapshots of what is built. Starts no server.

use std::collections::BTreeMap;

use crds::MultiActiveStore;

use super::build;
use crate::platform::kubernetes::catalog::Catalog;
use crate::platform::kubernetes::check::{Checked, check};
use crate::platform::kubernetes::dereference::World;
use crate::platform::kubernetes::object::Object;

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

#[test]
fn the_same_input_gives_the_same_objects() {
    let world = world("{shards: 2, regions: [{name: a}, {name: b}]}");
    assert_eq!(build(&checked(&world)), build(&checked(&world)));
}
