//! The generated definitions: the committed file is the one that the types make. Starts no server.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

#[test]
fn definitions_are_up_to_date() {
    for file in ["multiactive.dev.yaml", "../charts/multiactive/files/crds.yaml"] {
        is_up_to_date(file, &crds::definitions_yaml());
    }
}

#[test]
fn the_reference_is_up_to_date() {
    is_up_to_date("../docs/api.md", &crds::reference());
}

fn is_up_to_date(file: &str, made: &str) {
    // Where the tree is now, and not where it was built.
    let package = std::env::var("CARGO_MANIFEST_DIR").unwrap();
    let file = Path::new(&package).join(file);
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&file, made).unwrap();
    }
    let committed = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(made == committed, "{} is not what the types make: run `make generate`", file.display());
}

#[test]
fn each_default_of_the_schema_is_the_one_of_validation() {
    let bare = crds::load(
        "apiVersion: multiactive.dev/v1alpha1\nkind: MultiActiveStore\nmetadata: {name: shop}\nspec: {regions: [{name: a}]}",
    )
    .unwrap();
    let definitions = crds::definitions();
    let schema = serde_json::json!(definitions[0]);
    let spec = &schema["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let filled = defaults(spec, serde_json::json!({"regions": [{"name": "a"}]}));
    let text = serde_json::json!({
        "apiVersion": crds::API_VERSION, "kind": crds::KIND, "metadata": {"name": "shop"}, "spec": filled
    });
    let mut full = crds::load(&text.to_string()).unwrap();
    full.cluster_only.clear();
    assert_eq!(full, bare);
}

/// What the API server does with an object of this schema.
fn defaults(schema: &serde_json::Value, mut value: serde_json::Value) -> serde_json::Value {
    if let Some(items) = value.as_array_mut() {
        for item in items {
            *item = defaults(&schema["items"], item.take());
        }
    }
    if let (Some(object), Some(fields)) = (value.as_object_mut(), schema["properties"].as_object()) {
        for (name, field) in fields {
            let given = object.remove(name).or_else(|| field.get("default").cloned());
            if let Some(given) = given {
                object.insert(name.clone(), defaults(field, given));
            }
        }
    }
    value
}
