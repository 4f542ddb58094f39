//! The CustomResourceDefinitions: what the types say, with defaults and rules put in place.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;
use serde_json::{Value, json};

use crate::{MultiActiveStore, StoreOperation, StoreRegion, defaults, rules};

/// Every kind's definition, as it is applied to a cluster.
pub fn definitions() -> Vec<CustomResourceDefinition> {
    let store = change_schema(&MultiActiveStore::crd(), |schema| {
        schema["properties"].as_object_mut().into_iter().flat_map(serde_json::Map::values_mut).for_each(tidy);
        bound_text(&mut schema["properties"]["spec"]);
        // Inner ones first: the default of an object is made of theirs, or the rules would not know it.
        for (path, default) in defaults::by_path().into_iter().rev() {
            let field = at(schema, path);
            field["default"] = if default.is_object() { inner_defaults(field) } else { default };
        }
        for rule in rules::all() {
            let node = at(schema, rule.path);
            let list = &mut node["x-kubernetes-validations"];
            if list.is_null() {
                *list = json!([]);
            }
            list.as_array_mut().into_iter().for_each(|list| list.push(rule.to_json()));
        }
        let regions = at(schema, "spec.regions");
        regions["x-kubernetes-list-type"] = json!("map");
        regions["x-kubernetes-list-map-keys"] = json!(["name"]);
        (regions["minItems"], regions["maxItems"]) = (json!(1), json!(16));
        list_map(schema, "status.conditions", "type");
        list_map(schema, "status.regions", "name");
        let known = at(schema, "status.regions");
        known["maxItems"] = json!(16);
        known["items"]["properties"]["name"]["maxLength"] = json!(253);
    });
    let region = change_schema(&StoreRegion::crd(), |schema| {
        schema["properties"].as_object_mut().into_iter().flat_map(serde_json::Map::values_mut).for_each(tidy);
        list_map(schema, "status.conditions", "type");
        list_map(schema, "status.shards", "shard");
        list_map(schema, "status.links", "peer");
        at(schema, "spec")["x-kubernetes-validations"] =
            json!([{"rule": "self == oldSelf", "message": "is written by the operator alone, once"}]);
    });
    let operation = change_schema(&StoreOperation::crd(), |schema| {
        schema["properties"].as_object_mut().into_iter().flat_map(serde_json::Map::values_mut).for_each(tidy);
        list_map(schema, "status.steps", "name");
        let spec = at(schema, "spec");
        spec["properties"]["action"]["default"] = json!("Run");
        spec["properties"]["attempt"]["default"] = json!(1);
        spec["properties"]["attempt"]["minimum"] = json!(1);
        // Nothing else is to be added to what people may change without a rule here.
        let fixed = ["storeRef", "type", "region", "shard", "source", "target", "force"].map(|field| {
            json!({
                "rule": format!("has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})"),
                "message": "cannot change: make another operation",
                "fieldPath": format!(".{field}"),
            })
        });
        let raised = json!({
            "rule": "self.attempt >= oldSelf.attempt",
            "message": "can only be raised: each attempt has its own number",
            "fieldPath": ".attempt",
        });
        spec["properties"]["region"]["minLength"] = json!(1);
        let region = json!({
            "rule": "has(self.region) != (self.type in ['Verify', 'Repair'])",
            "message": "Verify and Repair compare all regions and have none, and everything else needs one",
            "fieldPath": ".region",
        });
        let shard = json!({
            "rule": "has(self.shard) == (self.type in ['Rebuild', 'Switchover', 'Failover'])",
            "message": "a Rebuild, a Switchover and a Failover need the shard, and nothing else has one",
            "fieldPath": ".shard",
        });
        let copies = json!({
            "rule": "!has(self.source) || self.type in ['ScaleOut', 'Rebuild']",
            "message": "is what is copied, and only a ScaleOut and a Rebuild copy: leave it out",
            "fieldPath": ".source",
        });
        let target = json!({
            "rule": "!has(self.target) || self.type == 'Switchover'",
            "message": "is whom a Switchover makes master, and means nothing elsewhere: leave it out",
            "fieldPath": ".target",
        });
        let source = json!({
            "rule": "!has(self.source) || !has(self.region) || self.source != self.region",
            "message": "is the region itself, and a region is not copied from itself: name another one, or leave it out",
            "fieldPath": ".source",
        });
        let force = json!({
            "rule": "!has(self.force) || !self.force || self.type == 'Remove'",
            "message": "means something for a Remove alone: leave it out",
            "fieldPath": ".force",
        });
        spec["x-kubernetes-validations"] = json!(
            fixed
                .into_iter()
                .chain([raised, region, shard, copies, source, target, force])
                .collect::<Vec<_>>()
        );
    });
    vec![store, region, operation]
}

/// The definitions as YAML, one file's text.
pub fn definitions_yaml() -> String {
    let documents = definitions().into_iter().map(|definition| {
        let text = serde_yaml::to_string(&definition).unwrap_or_default();
        format!("---\n{text}")
    });
    format!("# Generated from the types in crds/src: `make generate`.\n{}", documents.collect::<String>())
}

fn change_schema(
    definition: &CustomResourceDefinition,
    change: impl FnOnce(&mut Value),
) -> CustomResourceDefinition {
    let mut json = json!(definition);
    change(&mut json["spec"]["versions"][0]["schema"]["openAPIV3Schema"]);
    serde_json::from_value(json).unwrap_or_else(|_| definition.clone())
}

/// The schema of a field: `spec.regions[].name`.
fn at<'a>(schema: &'a mut Value, path: &str) -> &'a mut Value {
    path.split('.').filter(|step| !step.is_empty()).fold(schema, |schema, step| {
        let (name, item) = step.strip_suffix("[]").map_or((step, false), |name| (name, true));
        let field = &mut schema["properties"][name];
        if item { &mut field["items"] } else { field }
    })
}

fn inner_defaults(schema: &Value) -> Value {
    let fields = schema["properties"].as_object().into_iter().flatten();
    let defaults = fields.filter_map(|(name, field)| Some((name.clone(), field.get("default")?.clone())));
    Value::Object(defaults.collect())
}

fn list_map(schema: &mut Value, path: &str, key: &str) {
    let list = at(schema, path);
    let required = &mut list["items"]["required"];
    if required.is_null() {
        *required = json!([]);
    }
    if let Some(required) = required.as_array_mut().filter(|required| !required.contains(&json!(key))) {
        required.push(json!(key));
    }
    list["x-kubernetes-list-type"] = json!("map");
    list["x-kubernetes-list-map-keys"] = json!([key]);
}

/// `null` is not a choice: it means the default, as a field that is left out does. Defaults are ours alone ([`defaults`]).
fn tidy(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            map.remove("nullable");
            map.remove("default");
            // What Kubernetes says of its own types at length has its first paragraph here.
            if let Some(Value::String(text)) = map.get_mut("description")
                && let Some(end) = text.find("\n\n")
            {
                text.truncate(end);
            }
            if map.get("type").is_none() && map.contains_key("properties") {
                map.insert("type".into(), json!("object"));
            }
            map.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// A quantity of Kubernetes, as its own tools describe it.
const AMOUNT: &str = r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$";

/// Rules over texts must know how long those can be, or the API server holds them for too dear.
fn bound_text(schema: &mut Value) {
    let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) else { return };
    for (name, field) in properties {
        let is_amount = field.get("x-kubernetes-int-or-string").is_some();
        let is_text = field["type"] == "string" && field.get("enum").is_none();
        if (is_amount || is_text) && field.get("maxLength").is_none() {
            let most = if is_amount {
                32
            } else if field.get("pattern").is_some() {
                40
            } else {
                253
            };
            field["maxLength"] = json!(if name == "name" { 253 } else { most });
        }
        if matches!(name.as_str(), "requests" | "limits") {
            field["additionalProperties"]["pattern"] = json!(AMOUNT);
        }
        bound_text(field);
        if let Some(items) = field.get_mut("items") {
            bound_text(items);
        }
    }
}
