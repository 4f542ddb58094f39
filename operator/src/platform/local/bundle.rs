//! What a support bundle tells of a store on this machine: status, record, configuration, ends of logs, metrics.

use std::fs;
use std::path::Path;

use futures_util::future::join_all;

use super::control::Client;
use super::layout::Layout;
use crate::bundle::{Bundle, BundleError, LOG_BYTES};
use crate::health::http;

/// Names of files that are shown, or ends of names. What servers keep data in is not.
const SHOWN: [&str; 7] = [".conf", ".json", ".yaml", "enabled_plugins", "log", ".log", ".1"];
/// Folders of data and of secrets.
const HIDDEN: [&str; 4] = ["secrets", "data", "home", "set-aside"];
/// How deep the components' folders lie: `beijing/shard-0/redis-0`.
const DEPTH: usize = 4;

/// Puts all of it into the bundle.
pub async fn collect(layout: &Layout, bundle: &mut Bundle) -> Result<(), BundleError> {
    match fs::read_dir(layout.secrets()) {
        Ok(entries) => {
            for entry in entries.flatten() {
                match fs::read_to_string(entry.path()) {
                    Ok(secret) => bundle.hide(&secret),
                    Err(error) => {
                        bundle.missing(&format!("{} (to take it out)", entry.path().display()), &error);
                    }
                }
            }
        }
        Err(error) => bundle.missing("secrets (to take them out)", &error),
    }
    match Client::new(layout).status().await {
        Ok(status) => {
            bundle.yaml("status.yaml", &status)?;
            let proxies = status.processes.iter().filter(|row| row.component.contains("/proxy-"));
            let asked = proxies.flat_map(|row| {
                [("/status", "status.json"), ("/metrics", "metrics.txt")].map(|of| (row, of))
            });
            let answers = join_all(asked.map(async |(row, (path, file))| {
                let answer = match row.port {
                    Some(port) => http::get(&format!("127.0.0.1:{port}"), path).await,
                    None => None,
                };
                (format!("proxies/{}/{file}", row.component), answer)
            }));
            for (file, answer) in answers.await {
                match answer {
                    Some((200, text)) => bundle.text(&file, &text)?,
                    Some((code, _)) => bundle.missing(&file, &format!("it answered {code}")),
                    None => bundle.missing(&file, &"no answer within a second"),
                }
            }
        }
        Err(error) => bundle.missing("status", &error),
    }
    folder(layout.root(), layout.root(), DEPTH, bundle)
}

fn folder(root: &Path, at: &Path, depth: usize, bundle: &mut Bundle) -> Result<(), BundleError> {
    let shown = |path: &Path| path.strip_prefix(root).unwrap_or(path).display().to_string();
    let mut entries: Vec<_> = match fs::read_dir(at) {
        Ok(entries) => entries.flatten().collect(),
        Err(error) => {
            bundle.missing(&shown(at), &error);
            return Ok(());
        }
    };
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            if depth > 1 && !HIDDEN.contains(&name.as_str()) {
                folder(root, &path, depth - 1, bundle)?;
            }
        } else if kind.is_file() && SHOWN.iter().any(|end| name.ends_with(end)) {
            match read_end(&path) {
                Ok(text) => bundle.log(&format!("files/{}", shown(&path)), &text)?,
                Err(error) => bundle.missing(&shown(&path), &error),
            }
        }
    }
    Ok(())
}

/// The end of a file: twice what is kept, so that no secret is halved where that begins.
fn read_end(path: &Path) -> std::io::Result<String> {
    use std::io::{Read as _, Seek as _, SeekFrom};
    let mut file = fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(2 * LOG_BYTES as u64)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::GzDecoder;

    use super::*;

    #[tokio::test]
    async fn a_store_that_does_not_run_gives_a_bundle_without_its_passwords() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(&folder.path().join("shop")).unwrap();
        let at = |name: &str| layout.root().join(name);
        let shard = at("a/shard-0/redis-0");
        fs::create_dir_all(&shard).unwrap();
        fs::create_dir_all(shard.join("data")).unwrap();
        fs::create_dir_all(layout.secrets()).unwrap();
        fs::write(layout.secrets().join("engine"), "p4ssw0rd").unwrap();
        fs::write(at("state.json"), "{}").unwrap();
        fs::write(shard.join("redis.conf"), "user default on \">p4ssw0rd\"\nport 1\n").unwrap();
        fs::write(shard.join("data/appendonly.aof"), "value").unwrap();
        let file = folder.path().join("b.tar.gz");
        let mut bundle = Bundle::create(&file, "shop").unwrap();
        collect(&layout, &mut bundle).await.unwrap();
        assert_eq!(bundle.finish("the store shop").unwrap(), (2, 1));
        assert!(Bundle::create(&file, "shop").is_err(), "what exists is left alone");

        let mut archive = tar::Archive::new(GzDecoder::new(fs::File::open(&file).unwrap()));
        let mut texts = std::collections::BTreeMap::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            texts.insert(entry.path().unwrap().display().to_string(), text);
        }
        assert_eq!(
            texts["shop-support/files/a/shard-0/redis-0/redis.conf"],
            "user default on \">***\"\nport 1\n"
        );
        let readme = &texts["shop-support/README.txt"];
        assert!(readme.contains("status: the store in") && readme.contains("is not running"), "{readme}");
        assert_eq!(texts.len(), 3);
    }
}
