//! The command line. By hand: a probe is started often, and this is all that it takes.

use std::ffi::OsString;
use std::time::Duration;

/// What `--help` prints.
pub(crate) const HELP: &str = "\
Asks the Redis server on this host (127.0.0.1) how it is: what the probes of a shard's pods run.

Usage: mas-probe <COMMAND> [OPTIONS]

Commands:
  redis-live   It answers at all: errors count too, that it is loading and that it wants a password among them
  redis-ready  It has loaded its data and answers, whatever its role, fenced or not. Logs in as the user 'probe',
               who needs no password and may do nothing but PING

Options:
  --port N        The server's port [default: 6379]
  --timeout-ms N  How long all of it may take, milliseconds [default: 1500]
  -h, --help      Print this
  -V, --version   Print the version

Exit code: 0 yes, 1 no, 2 this command line cannot be used. One line on stderr says why.
";

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    /// Does it answer at all?
    Live,
    /// Has it loaded, and does it answer?
    Ready,
}

/// Who is asked what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Probe {
    /// The question.
    pub(crate) question: Question,
    /// The server's port.
    pub(crate) port: u16,
    /// How long all of it may take.
    pub(crate) timeout: Duration,
}

/// What the command line wants.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// The help text.
    Help,
    /// The version.
    Version,
    /// An answer.
    Probe(Probe),
}

/// A command line that cannot be used; the words say what to write instead.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BadUsage(String);

impl std::fmt::Display for BadUsage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Reads the words after the program's name.
pub(crate) fn parse(words: impl Iterator<Item = OsString>) -> Result<Wanted, BadUsage> {
    let bad = |why: String| Err(BadUsage(format!("{why}; mas-probe --help shows what there is")));
    let (mut question, mut port, mut timeout) = (None, 6379, 1500);
    let mut words = words.map(|word| word.to_string_lossy().into_owned());
    while let Some(word) = words.next() {
        let (name, given) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (word.as_str(), None),
        };
        let asked = match name {
            "-h" | "--help" => return Ok(Wanted::Help),
            "-V" | "--version" => return Ok(Wanted::Version),
            "--port" | "--timeout-ms" => {
                let Some(value) = given.or_else(|| words.next()) else {
                    return bad(format!("{name} needs a number after it"));
                };
                let most = if name == "--port" { u64::from(u16::MAX) } else { 3_600_000 };
                match value.parse::<u64>() {
                    Ok(number) if (1..=most).contains(&number) && name == "--port" => port = number as u16,
                    Ok(number) if (1..=most).contains(&number) => timeout = number,
                    _ => return bad(format!("{name} is a number from 1 to {most}, not '{value}'")),
                }
                continue;
            }
            "redis-live" => Question::Live,
            "redis-ready" => Question::Ready,
            other => return bad(format!("'{other}' is neither a command nor an option")),
        };
        if question.replace(asked).is_some() {
            return bad(format!("'{word}' is a second command: one at a time"));
        }
    }
    match question {
        Some(question) => {
            Ok(Wanted::Probe(Probe { question, port, timeout: Duration::from_millis(timeout) }))
        }
        None => bad("a command is missing: redis-live or redis-ready".into()),
    }
}

#[cfg(test)]
mod tests {
    //! No server is started here.

    use super::*;

    fn parsed(line: &str) -> Result<Wanted, BadUsage> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn defaults_and_options() {
        let probe = |question, port, ms| {
            Ok(Wanted::Probe(Probe { question, port, timeout: Duration::from_millis(ms) }))
        };
        assert_eq!(parsed("redis-live"), probe(Question::Live, 6379, 1500));
        assert_eq!(parsed("--port 7000 redis-ready --timeout-ms=20"), probe(Question::Ready, 7000, 20));
        assert_eq!(parsed("redis-ready --help"), Ok(Wanted::Help));
        assert_eq!(parsed("-V"), Ok(Wanted::Version));
    }

    #[test]
    fn what_cannot_be_used_is_said_in_words() {
        for (line, said) in [
            ("", "a command is missing: redis-live or redis-ready"),
            ("redis-live redis-ready", "'redis-ready' is a second command"),
            ("redis", "'redis' is neither a command nor an option"),
            ("redis-live --port", "--port needs a number after it"),
            ("redis-live --port 0", "--port is a number from 1 to 65535, not '0'"),
            ("redis-live --port 65536", "--port is a number from 1 to 65535, not '65536'"),
            ("redis-live --timeout-ms soon", "--timeout-ms is a number from 1 to 3600000, not 'soon'"),
        ] {
            let why = parsed(line).expect_err(line).to_string();
            assert!(why.starts_with(said), "{line}: {why}");
            assert!(why.ends_with("mas-probe --help shows what there is"), "{line}: {why}");
        }
    }
}
