//! The only place that knows YAML, so that the archived `serde_yaml` can be exchanged in one file.

use serde_json::{Map, Number, Value};
use serde_yaml::Value as Yaml;

/// Why a text is no document.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotADocument {
    /// The parser's own words, with line and column.
    #[error("the file is not YAML: {0}")]
    Syntax(String),
    /// Something that JSON cannot say.
    #[error("{0}")]
    Unsupported(String),
}

/// Deepest nesting that a manifest may have.
const MAX_DEPTH: usize = 64;

/// Parses the one YAML (or JSON) document in `text`.
pub(crate) fn parse(text: &str) -> Result<Value, NotADocument> {
    let mut documents = Vec::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        let yaml = <Yaml as serde::Deserialize>::deserialize(document)
            .map_err(|error| NotADocument::Syntax(error.to_string()))?;
        if !yaml.is_null() {
            documents.push(yaml);
        }
        if documents.len() > 1 {
            return Err(NotADocument::Unsupported(
                "the file holds more than one document: put each store into a file of its own".into(),
            ));
        }
    }
    let yaml = documents.pop().ok_or_else(|| {
        NotADocument::Unsupported("the file is empty: start from examples/minimal.yaml".into())
    })?;
    to_json(yaml, "", 0)
}

fn to_json(yaml: Yaml, path: &str, depth: usize) -> Result<Value, NotADocument> {
    if depth > MAX_DEPTH {
        return Err(NotADocument::Unsupported(format!("the file is nested deeper than {MAX_DEPTH} levels")));
    }
    Ok(match yaml {
        Yaml::Null => Value::Null,
        Yaml::Bool(b) => Value::Bool(b),
        Yaml::String(s) => Value::String(s),
        Yaml::Number(n) => match (n.as_u64(), n.as_i64()) {
            (Some(n), _) => Value::Number(n.into()),
            (_, Some(n)) => Value::Number(n.into()),
            _ => n.as_f64().and_then(Number::from_f64).map(Value::Number).ok_or_else(|| {
                NotADocument::Unsupported(format!("{path}: {n} is no number that a manifest can hold"))
            })?,
        },
        Yaml::Sequence(items) => items
            .into_iter()
            .enumerate()
            .map(|(i, item)| to_json(item, &format!("{path}[{i}]"), depth + 1))
            .collect::<Result<_, _>>()?,
        Yaml::Mapping(entries) => {
            let mut map = Map::new();
            for (key, value) in entries {
                let Yaml::String(key) = key else {
                    return Err(NotADocument::Unsupported(format!(
                        "{path}: field names are text; put {} into quotes",
                        serde_yaml::to_string(&key).unwrap_or_default().trim()
                    )));
                };
                let at = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                map.insert(key, to_json(value, &at, depth + 1)?);
            }
            Value::Object(map)
        }
        Yaml::Tagged(tagged) => {
            return Err(NotADocument::Unsupported(format!(
                "{path}: YAML tags ({}) are not used here",
                tagged.tag
            )));
        }
    })
}
