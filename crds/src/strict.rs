//! Strict reading: every field that the schema does not know is an error with its full path and the name that was
//! probably meant. The schema is generated from the types, so there is no second list of fields.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use crate::document;
use crate::{API_VERSION, Invalid, KIND, Manifest, Problem};

/// Fields of the API that come with later behaviour, and what to do until then.
const LATER: [(&str, &str); 4] = [
    ("failover", "failover has no settings yet; leave it out"),
    ("operationHistory", "operations come later; leave it out"),
    ("keyspaces", "keyspace policies come later; leave it out: every key is MultiWriter"),
    ("tls", "TLS comes later; leave it out"),
];

/// Reads a manifest, or says everything that keeps it from being one.
pub(crate) fn read(text: &str) -> Result<Manifest, Invalid> {
    let document = document::parse(text).map_err(|error| Invalid::one("", error.to_string()))?;
    check_kind(&document)?;
    let mut problems = Vec::new();
    find_unknown(&document, &schema(), "", &mut problems);
    if !problems.is_empty() {
        return Err(Invalid { problems });
    }
    serde_path_to_error::deserialize(document).map_err(|error| {
        let path = error.path().to_string();
        let path = if path == "." { String::new() } else { path };
        Invalid::one(path, in_words(&error.into_inner().to_string()))
    })
}

/// The manifest's schema with every definition in place.
pub(crate) fn schema() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<Manifest>().to_value()
}

fn check_kind(document: &Value) -> Result<(), Invalid> {
    let Some(map) = document.as_object() else {
        return Err(Invalid::one("", "the file is no manifest: start from examples/minimal.yaml"));
    };
    for (field, wanted) in [("apiVersion", API_VERSION), ("kind", KIND)] {
        match map.get(field) {
            Some(Value::String(found)) if found == wanted => {}
            Some(found) => {
                return Err(Invalid::one(field, format!("{found} is not known here: write {wanted}")));
            }
            None => return Err(Invalid::one(field, format!("is missing: write {field}: {wanted}"))),
        }
    }
    Ok(())
}

fn find_unknown(value: &Value, schema: &Value, path: &str, problems: &mut Vec<Problem>) {
    let schema = unwrap_optional(schema);
    match value {
        Value::Object(map) => {
            let Some(known) = schema.get("properties").and_then(Value::as_object) else { return };
            for (name, inner) in map {
                let at = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                match known.get(name) {
                    Some(schema) => find_unknown(inner, schema, &at, problems),
                    None => problems.push(Problem { path: at, message: unknown(name, known) }),
                }
            }
        }
        Value::Array(items) => {
            let Some(schema) = schema.get("items") else { return };
            for (i, item) in items.iter().enumerate() {
                find_unknown(item, schema, &format!("{path}[{i}]"), problems);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// `Option<T>` is `anyOf: [T, null]` in the schema.
fn unwrap_optional(schema: &Value) -> &Value {
    schema
        .get("anyOf")
        .and_then(Value::as_array)
        .and_then(|any| any.iter().find(|s| s.get("properties").is_some() || s.get("items").is_some()))
        .unwrap_or(schema)
}

fn unknown(name: &str, known: &Map<String, Value>) -> String {
    if let Some((_, why)) = LATER.iter().find(|(later, _)| *later == name) {
        return format!("is not supported yet: {why}");
    }
    let lower = name.to_lowercase();
    let near = known
        .keys()
        .map(|candidate| (strsim::osa_distance(&lower, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len().min(name.len()) / 4)
        .min();
    if let Some((_, candidate)) = near {
        format!("unknown field; did you mean '{candidate}'?")
    } else {
        let names: Vec<_> = known.keys().map(String::as_str).collect();
        format!("unknown field; known here: {}", names.join(", "))
    }
}

/// serde's words, made into a sentence that says what to write.
fn in_words(error: &str) -> String {
    if let Some(field) = error.strip_prefix("missing field `").and_then(|rest| rest.split('`').next()) {
        return format!("the field '{field}' is missing: add it");
    }
    if let Some(rest) = error.strip_prefix("unknown variant `") {
        let mut parts = rest.split('`');
        let found = parts.next().unwrap_or_default();
        let wanted: Vec<_> = parts.skip(1).step_by(2).collect();
        return format!("'{found}' is not a choice: write {}", wanted.join(", or "));
    }
    if let Some(rest) = error.strip_prefix("invalid type: ").or_else(|| error.strip_prefix("invalid value: "))
        && let Some((found, wanted)) = rest.split_once(", expected ")
    {
        let wanted = match wanted {
            "u32" => "a whole number from 0 up",
            "a string" => "text",
            "a boolean" => "true or false",
            other => other,
        };
        return format!("{} was found where {wanted} is expected", found.replace('`', "'"));
    }
    error.to_owned()
}
