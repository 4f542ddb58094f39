//! The release catalog: which images, of which versions, a store's `release` means. A ConfigMap that the chart installs, or
//! this built-in one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// One image.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CatalogImage {
    /// Its reference.
    pub reference: String,
    /// The version of the server in it.
    pub version: String,
}

/// What one release is made of.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Release {
    /// Redis with the engine.
    pub redis: CatalogImage,
    /// RabbitMQ.
    pub broker: CatalogImage,
    /// The proxy.
    pub proxy: CatalogImage,
}

/// All releases, and the one that a new store gets.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Catalog {
    /// The release that a store gets that names none.
    pub default: String,
    /// By name.
    pub releases: BTreeMap<String, Release>,
}

/// A catalog that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// It cannot be read.
    #[error("reading the release catalog {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It is not what is expected.
    #[error("the release catalog {path} cannot be used: {why}")]
    Bad {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl Default for Catalog {
    fn default() -> Self {
        let image = |name: &str, version: &str| CatalogImage {
            reference: format!("multiactive/{name}:{}", env!("CARGO_PKG_VERSION")),
            version: version.to_owned(),
        };
        let first = Release {
            redis: image("redis", "7.0.15"),
            broker: image("broker", "3.10.8"),
            proxy: image("proxy", env!("CARGO_PKG_VERSION")),
        };
        Self { default: "1".into(), releases: BTreeMap::from([("1".into(), first)]) }
    }
}

impl Catalog {
    /// Reads it from a file.
    pub fn read(path: &Path) -> Result<Self, CatalogError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| CatalogError::Read { path: path.to_owned(), source })?;
        let bad = |why: String| CatalogError::Bad { path: path.to_owned(), why };
        let catalog: Self = serde_yaml::from_str(&text).map_err(|error| bad(error.to_string()))?;
        if !catalog.releases.contains_key(&catalog.default) {
            return Err(bad(format!("the default '{}' is none of its releases", catalog.default)));
        }
        Ok(catalog)
    }
}

#[cfg(test)]
mod tests {
    use super::Catalog;

    #[test]
    fn the_charts_catalog_is_the_built_in_one() {
        let package = std::env::var("CARGO_MANIFEST_DIR").unwrap();
        let path = std::path::Path::new(&package).join("../charts/multiactive/values.yaml");
        let values = std::fs::read_to_string(path).unwrap();
        let values: serde_yaml::Value = serde_yaml::from_str(&values).unwrap();
        let charts: Catalog = serde_yaml::from_value(values["catalog"].clone()).unwrap();
        assert_eq!(charts, Catalog::default());
    }
}
