//! A support bundle, unpacked, as whoever is given it reads it.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;

/// The texts of a bundle, by the names of their files.
pub fn unpack(file: &Path) -> Result<BTreeMap<String, String>> {
    let folder = tempfile::tempdir()?;
    let unpacked = Command::new("tar").arg("-xzf").arg(file).arg("-C").arg(folder.path()).status()?;
    ensure!(unpacked.success(), "{} cannot be unpacked", file.display());
    let mut texts = BTreeMap::new();
    let root = std::fs::read_dir(folder.path())?.next().context("an empty bundle")??.path();
    read(&root, &root, &mut texts)?;
    Ok(texts)
}

fn read(root: &Path, at: &Path, texts: &mut BTreeMap<String, String>) -> Result<()> {
    for entry in std::fs::read_dir(at)? {
        let path = entry?.path();
        if path.is_dir() {
            read(root, &path, texts)?;
        } else {
            let name = path.strip_prefix(root)?.display().to_string();
            texts.insert(name, std::fs::read_to_string(&path)?);
        }
    }
    Ok(())
}

/// None of the texts has one of the secrets in it, plain or in base64.
pub fn check_hidden(texts: &BTreeMap<String, String>, secrets: &[String]) -> Result<()> {
    ensure!(!secrets.is_empty(), "no secrets to look for");
    for secret in secrets {
        let encoded = base64::engine::general_purpose::STANDARD.encode(secret);
        for (name, text) in texts {
            ensure!(!text.contains(secret.as_str()), "{name} has a secret in it");
            ensure!(!text.contains(encoded.trim_end_matches('=')), "{name} has a secret in base64 in it");
        }
    }
    Ok(())
}
