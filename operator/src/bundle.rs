//! A support bundle: one compressed archive of texts that tell how a store is, and in which no password is. Every text goes through a
//! [`Redactor`]. What could not be read is told in the bundle's README; it never ends the bundle.

use std::fmt::{Display, Write as _};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use serde::Serialize;

/// Of each log the last so many lines ...
pub const LOG_LINES: usize = 5000;
/// ... and at most so many bytes.
pub const LOG_BYTES: usize = 2 << 20;
/// What stands where a password was.
const HIDDEN: &str = "***";
/// Base64 of a part of a text is looked for from this length on: shorter ones are found everywhere.
const BASE64_LEAST: usize = 8;

/// A bundle that cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("writing {path} failed: {source}; name another file with -o")]
pub struct BundleError {
    path: PathBuf,
    source: io::Error,
}

/// Takes known secrets out of texts: as they are, as JSON writes them, in base64, alone or within something; and every password in a URI.
#[derive(Debug, Default)]
pub struct Redactor {
    /// The longest first.
    needles: Vec<String>,
}

impl Redactor {
    /// From now on this is taken out.
    pub fn hide(&mut self, secret: &str) {
        let secret = secret.trim();
        if secret.is_empty() {
            return;
        }
        self.needles.push(secret.to_owned());
        let json = serde_json::Value::from(secret).to_string();
        self.needles.push(json[1..json.len() - 1].to_owned());
        self.needles.push(STANDARD.encode(secret));
        self.needles
            .extend((0..3).map(|offset| base64_within(secret, offset)).filter(|b| b.len() >= BASE64_LEAST));
        self.needles.sort_by(|a, b| (b.len(), a).cmp(&(a.len(), b)));
        self.needles.dedup();
    }

    /// The same for every text of a value.
    fn redact_all(&self, value: &mut serde_json::Value) {
        match value {
            serde_json::Value::String(text) => *text = self.redact(text),
            serde_json::Value::Array(items) => items.iter_mut().for_each(|item| self.redact_all(item)),
            serde_json::Value::Object(fields) => fields.values_mut().for_each(|field| self.redact_all(field)),
            serde_json::Value::Null | serde_json::Value::Bool(_) | serde_json::Value::Number(_) => {}
        }
    }

    /// The text without secrets.
    pub fn redact(&self, text: &str) -> String {
        let mut text = without_uri_passwords(text);
        for needle in &self.needles {
            if text.contains(needle.as_str()) {
                text = text.replace(needle.as_str(), HIDDEN);
            }
        }
        text
    }
}

/// What a secret looks like inside base64 of a longer text, in which it begins `offset` bytes after a multiple of three: the characters
/// that depend on nothing else.
fn base64_within(secret: &str, offset: usize) -> String {
    let mut bytes = vec![0; offset];
    bytes.extend(secret.as_bytes());
    let first = (offset * 8).div_ceil(6);
    let end = bytes.len() * 8 / 6;
    STANDARD_NO_PAD.encode(&bytes)[first..end].to_owned()
}

/// `redis://user:secret@host` without the secret.
fn without_uri_passwords(text: &str) -> String {
    let mut done = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        done.push_str(before);
        rest = after;
        let authority =
            after.split(|c: char| c.is_whitespace() || "/\"'<>".contains(c)).next().unwrap_or_default();
        if let Some((login, _)) = authority.rsplit_once('@')
            && let Some((user, _)) = login.split_once(':')
        {
            let _ = write!(done, "{user}:{HIDDEN}");
            rest = &after[login.len()..];
        }
    }
    done + rest
}

/// The end of a log: whole lines, [`LOG_LINES`] and [`LOG_BYTES`] at most.
pub fn tail(text: &str) -> &str {
    let mut start = text.len().saturating_sub(LOG_BYTES);
    if start > 0 {
        let cut = text.as_bytes()[start..].iter().position(|byte| *byte == b'\n');
        start = cut.map_or(text.len(), |newline| start + newline + 1);
    }
    let ends = text[start..].trim_end_matches('\n').rmatch_indices('\n');
    start += ends.map(|(at, _)| at + 1).nth(LOG_LINES - 1).unwrap_or(0);
    &text[start..]
}

/// A bundle that is being written.
pub struct Bundle {
    path: PathBuf,
    folder: String,
    archive: tar::Builder<GzEncoder<File>>,
    redactor: Redactor,
    time: Timestamp,
    files: Vec<(String, usize)>,
    missing: Vec<(String, String)>,
}

impl Bundle {
    /// A new file that only its owner can read; one that exists is left alone.
    pub fn create(path: &Path, store: &str) -> Result<Self, BundleError> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let file = file.map_err(|source| BundleError { path: path.to_owned(), source })?;
        Ok(Self {
            path: path.to_owned(),
            folder: format!("{store}-support"),
            archive: tar::Builder::new(GzEncoder::new(file, Compression::default())),
            redactor: Redactor::default(),
            time: Timestamp::now(),
            files: Vec::new(),
            missing: Vec::new(),
        })
    }

    /// From now on this is taken out of everything.
    pub fn hide(&mut self, secret: &str) {
        self.redactor.hide(secret);
    }

    /// Adds a file.
    pub fn text(&mut self, name: &str, text: &str) -> Result<(), BundleError> {
        let text = self.redactor.redact(text);
        self.append(name, &text)?;
        self.files.push((name.to_owned(), text.len()));
        Ok(())
    }

    /// Adds a file with the end of a log. (Secrets go first: where it is cut, half of one would be left.)
    pub fn log(&mut self, name: &str, text: &str) -> Result<(), BundleError> {
        let text = self.redactor.redact(text);
        self.text(name, tail(&text))
    }

    /// Adds a file with something as YAML. (What is secret goes before it is quoted in one of YAML's ways.)
    pub fn yaml(&mut self, name: &str, value: &impl Serialize) -> Result<(), BundleError> {
        let mut value = serde_json::json!(value);
        self.redactor.redact_all(&mut value);
        match serde_yaml::to_string(&value) {
            Ok(text) => self.text(name, &text),
            Err(error) => {
                self.missing(name, &error);
                Ok(())
            }
        }
    }

    /// Notes what could not be read.
    pub fn missing(&mut self, what: &str, why: &dyn Display) {
        self.missing.push((what.to_owned(), why.to_string()));
    }

    /// Adds the README and closes the file. `about`: of what the bundle tells. Returns how many files there are, and how many things
    /// could not be read.
    pub fn finish(mut self, about: &str) -> Result<(usize, usize), BundleError> {
        let readme = self.redactor.redact(&readme(about, self.time, &self.files, &self.missing));
        self.append("README.txt", &readme)?;
        let closed = self.archive.into_inner().and_then(GzEncoder::finish).and_then(|file| file.sync_all());
        closed.map_err(|source| BundleError { path: self.path, source })?;
        Ok((self.files.len(), self.missing.len()))
    }

    fn append(&mut self, name: &str, text: &str) -> Result<(), BundleError> {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(self.time.as_second().unsigned_abs());
        let name = format!("{}/{name}", self.folder);
        let added = self.archive.append_data(&mut header, name, text.as_bytes());
        added.map_err(|source| BundleError { path: self.path.clone(), source })
    }
}

fn readme(about: &str, time: Timestamp, files: &[(String, usize)], missing: &[(String, String)]) -> String {
    let mut text = format!(
        "A support bundle of {about}.\nMade by masctl {} at {time:.0}.\n\n\
         Passwords are not in it: where one was found, {HIDDEN} stands; of Secrets there are the names and sizes of what they hold.\n\
         Keys and values of the store are not in it either. Names of hosts, addresses and what servers have logged are: look through it\n\
         before you give it away.\n\nFiles, with their sizes in bytes:\n",
        env!("CARGO_PKG_VERSION"),
    );
    for (name, size) in files {
        let _ = writeln!(text, "{size:>9}  {name}");
    }
    text.push_str(if missing.is_empty() {
        "\nEverything could be read.\n"
    } else {
        "\nWhat could not be read, and why:\n"
    });
    for (what, why) in missing {
        let _ = writeln!(text, "  {what}: {}", why.replace('\n', " "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_found_in_every_dress() {
        let secret = "qU1te \"secret\" Password";
        let mut redactor = Redactor::default();
        redactor.hide(&format!("{secret}\n"));
        let json = serde_json::json!({"password": secret}).to_string();
        let mut texts = vec![secret.to_owned(), json, STANDARD.encode(secret)];
        texts.extend(
            ["", "x", "xx", "user:"].map(|before| STANDARD.encode(format!("{before}{secret} and more"))),
        );
        for text in texts {
            let clean = redactor.redact(&format!("before {text} after"));
            assert!(clean.contains(HIDDEN), "{clean}");
            for part in ["secret", "Password", &STANDARD.encode("secret")[..6]] {
                assert!(!clean.contains(part), "{part} in {clean}");
            }
        }
        assert_eq!(redactor.redact("nothing in it: a://b:c"), "nothing in it: a://b:c");
    }

    #[test]
    fn passwords_of_uris_need_not_be_known() {
        let text = "to redis://default:s3cr3t@shop--a:6379/0, \"amqp://u:p@ss@h\" and https://host:1/a@b:c";
        assert_eq!(
            Redactor::default().redact(text),
            "to redis://default:***@shop--a:6379/0, \"amqp://u:***@h\" and https://host:1/a@b:c"
        );
    }

    #[test]
    fn the_end_of_a_log_is_whole_lines() {
        assert_eq!(tail(""), "");
        assert_eq!(tail("a\nb\n"), "a\nb\n");
        let many: Vec<String> = (0..LOG_LINES + 2).map(|n| n.to_string()).collect();
        let many = many.join("\n") + "\n";
        assert!(tail(&many).starts_with("2\n") && tail(&many).ends_with("5001\n"));
        let long = format!("{}\nlast\n", "ä".repeat(LOG_BYTES));
        assert_eq!(tail(&long), "last\n");
    }

    proptest::proptest! {
        #[test]
        fn what_was_hidden_is_gone(secret in "[ -~]{4,40}", before in "[a-z ]{0,9}", after in "[a-z ]{0,9}") {
            proptest::prop_assume!(!secret.trim().is_empty() && !HIDDEN.contains(secret.trim()));
            let mut redactor = Redactor::default();
            redactor.hide(&secret);
            let text = format!("{before}{secret}{after} {}", STANDARD.encode(&secret));
            proptest::prop_assert!(!redactor.redact(&text).contains(secret.trim()));
        }
    }
}
