//! The API reference, as text, from the definitions: every field with its type, default, and what it means.

use std::fmt::Write as _;

use serde_json::Value;

/// Fields of Kubernetes' own types, which its own documentation explains: their inner fields are left out.
const EXPLAINED_ELSEWHERE: [&str; 5] =
    ["affinity", "tolerations", "topologySpreadConstraints", "conditions", "requests"];

/// docs/api.md.
pub fn reference() -> String {
    let mut text = String::from(
        "# API reference\n\nGenerated from the types in `crds/src` (`make generate`). Group `multiactive.dev`, version `v1alpha1`.\n\
         The same manifest runs on a laptop (`masctl up -f FILE`) and in a cluster (`kubectl apply -f FILE`).\n",
    );
    for definition in crate::definitions() {
        let names = &definition.spec.names;
        let version = &definition.spec.versions[0];
        let schema = serde_json::json!(version.schema.as_ref().and_then(|s| s.open_api_v3_schema.clone()));
        let short = names.short_names.clone().unwrap_or_default().join(", ");
        let _ = write!(text, "\n## {} (`{short}`)\n\n", names.kind);
        let about = &schema["properties"]["spec"]["description"];
        let about = about.as_str().or(schema["description"].as_str()).unwrap_or_default();
        let _ = writeln!(text, "{about}\n");
        let columns = version.additional_printer_columns.iter().flatten();
        let columns: Vec<String> = columns
            .map(|column| match column.priority {
                Some(1..) => format!("{} (`-o wide`)", column.name),
                _ => column.name.clone(),
            })
            .collect();
        let _ = writeln!(text, "`kubectl get {short}` shows: {}.\n", columns.join(", "));
        for part in ["spec", "status"] {
            text.push_str("| field | type | default | what it is |\n| --- | --- | --- | --- |\n");
            rows(&schema["properties"][part], part, &mut text);
            text.push('\n');
        }
        rules(&schema, &mut text);
    }
    while text.ends_with("\n\n") {
        text.pop();
    }
    text
}

fn rows(schema: &Value, path: &str, text: &mut String) {
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let at = format!("{path}.{name}");
        let default = match field.get("default") {
            // The defaults of its fields are in their own rows.
            Some(Value::Object(_)) => String::new(),
            Some(default) => {
                format!("`{}`", default.as_str().map_or_else(|| default.to_string(), ToOwned::to_owned))
            }
            None if required.contains(&name.as_str()) => "required".into(),
            None => String::new(),
        };
        let about = field["description"].as_str().unwrap_or_default().replace('\n', " ").replace('|', "\\|");
        let _ = writeln!(text, "| `{at}` | {} | {default} | {about} |", kind(field));
        if !EXPLAINED_ELSEWHERE.contains(&name.as_str()) {
            rows(field, &at, text);
            rows(&field["items"], &format!("{at}[]"), text);
        }
    }
}

fn kind(field: &Value) -> String {
    if field["x-kubernetes-int-or-string"] == true {
        return "quantity".into();
    }
    if let Some(choices) = field["enum"].as_array() {
        let choices: Vec<String> =
            choices.iter().filter_map(Value::as_str).map(|c| format!("`{c}`")).collect();
        return choices.join(" \\| ");
    }
    match field["type"].as_str().unwrap_or("object") {
        "array" => format!("list of {}", field["items"]["type"].as_str().unwrap_or("object")),
        "object" if field.get("additionalProperties").is_some() => "map".into(),
        "string" if field["pattern"].as_str().is_some_and(|pattern| pattern.contains("ms)?")) => {
            "duration".into()
        }
        other => other.into(),
    }
}

fn rules(schema: &Value, text: &mut String) {
    let mut found = Vec::new();
    collect(schema, "", &mut found);
    if found.is_empty() {
        return;
    }
    text.push_str("The API server refuses a manifest where\n\n");
    for (path, message) in found {
        let _ = writeln!(
            text,
            "* {}{message}",
            if path.is_empty() { String::new() } else { format!("`{path}` ") }
        );
    }
}

fn collect(schema: &Value, path: &str, found: &mut Vec<(String, String)>) {
    for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
        let field = rule["fieldPath"].as_str().unwrap_or_default();
        let at = format!("{path}{field}");
        found.push((
            at.trim_start_matches('.').to_owned(),
            rule["message"].as_str().unwrap_or_default().to_owned(),
        ));
    }
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let at = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        collect(field, &at, found);
        collect(&field["items"], &format!("{at}[]"), found);
    }
}
