//! What the module is told when it is loaded: `loadmodule mas_engine.so name value …`.

/// The module's arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Bound of the outbox, bytes of memory.
    pub(crate) outbox_max_bytes: u64,
    /// A clock further ahead is counted, milliseconds.
    pub(crate) max_skew_ms: u64,
    /// A clock further ahead is held back, milliseconds.
    pub(crate) hard_skew_ms: u64,
    /// How far merging may go beyond `maxmemory`, bytes.
    pub(crate) merge_headroom_bytes: u64,
    /// A name for logs.
    pub(crate) node: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            outbox_max_bytes: 64 << 20,
            max_skew_ms: 1000,
            hard_skew_ms: 3_600_000,
            merge_headroom_bytes: 64 << 20,
            node: String::new(),
        }
    }
}

/// An argument that cannot be understood.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SettingsError {
    /// A name without a value.
    #[error("argument '{0}' has no value: arguments are pairs of name and value")]
    NoValue(String),
    /// A name that does not exist.
    #[error(
        "unknown argument '{0}': there are outbox-max-bytes, max-skew-ms, hard-skew-ms, merge-headroom-bytes and node"
    )]
    Unknown(String),
    /// Not a number.
    #[error("argument '{0}' is not a number: '{1}'")]
    NotANumber(String, String),
}

impl Settings {
    /// Reads pairs of name and value.
    pub(crate) fn parse<'a>(words: impl Iterator<Item = &'a [u8]>) -> Result<Self, SettingsError> {
        let mut settings = Self::default();
        let text = |word: &[u8]| String::from_utf8_lossy(word).into_owned();
        let mut words = words.map(text);
        while let Some(name) = words.next() {
            let Some(value) = words.next() else { return Err(SettingsError::NoValue(name)) };
            let number =
                || value.parse::<u64>().map_err(|_| SettingsError::NotANumber(name.clone(), value.clone()));
            match name.as_str() {
                "outbox-max-bytes" => settings.outbox_max_bytes = number()?,
                "max-skew-ms" => settings.max_skew_ms = number()?,
                "hard-skew-ms" => settings.hard_skew_ms = number()?,
                "merge-headroom-bytes" => settings.merge_headroom_bytes = number()?,
                "node" => settings.node = value,
                _ => return Err(SettingsError::Unknown(name)),
            }
        }
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Result<Settings, SettingsError> {
        Settings::parse(words.split_whitespace().map(str::as_bytes))
    }

    #[test]
    fn pairs_are_read_and_mistakes_named() {
        let read = parse("outbox-max-bytes 10 node a-0 max-skew-ms 5").unwrap();
        assert_eq!((read.outbox_max_bytes, read.max_skew_ms, read.node.as_str()), (10, 5, "a-0"));
        assert_eq!(parse(""), Ok(Settings::default()));
        assert_eq!(parse("node"), Err(SettingsError::NoValue("node".into())));
        assert_eq!(parse("nodes a"), Err(SettingsError::Unknown("nodes".into())));
        assert_eq!(parse("max-skew-ms x"), Err(SettingsError::NotANumber("max-skew-ms".into(), "x".into())));
    }
}
