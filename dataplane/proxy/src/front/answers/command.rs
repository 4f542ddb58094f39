//! `COMMAND` and `CONFIG GET`: what clients ask about the server's abilities. Answered from the table.

use mas_commands::{Command, KeySpec, Support};

use super::Ask;
use crate::front::dispatch::Flow;
use crate::resp::encode;

impl Ask<'_, '_> {
    pub(super) fn command_all(&mut self) -> Flow {
        let resp3 = self.resp3();
        let commands: Vec<&Command> = served().collect();
        self.write(|out| {
            encode::array(out, commands.len());
            for command in commands {
                describe(out, resp3, command);
            }
        })
    }

    pub(super) fn command_count(&mut self) -> Flow {
        self.write(|out| encode::integer(out, served().count() as i64))
    }

    pub(super) fn command_list(&mut self) -> Flow {
        if self.count() > 2 {
            return self.refuse_filter(&[b"FILTERBY"], "COMMAND LIST");
        }
        self.write(|out| {
            encode::array(out, served().count());
            for command in served() {
                encode::bulk(out, command.name.to_ascii_lowercase().as_bytes());
            }
        })
    }

    /// The answer to a command that lists something, if it came with arguments: those that begin with one of `known` would
    /// be right in Redis.
    pub(super) fn refuse_filter(&mut self, known: &[&[u8]], name: &str) -> Flow {
        if self.count() > 3 && known.iter().any(|word| self.arg(2).eq_ignore_ascii_case(word)) {
            self.error(&format!(
                "ERR filters of {name} are not supported by a multi-active store: ask for all"
            ))
        } else {
            self.error("ERR syntax error")
        }
    }

    pub(super) fn command_info(&mut self) -> Flow {
        if self.count() == 2 {
            return self.command_all();
        }
        let resp3 = self.resp3();
        let found: Vec<_> = (2..self.count()).map(|i| find(self.arg(i))).collect();
        self.write(|out| {
            encode::array(out, found.len());
            for command in found {
                match command {
                    Some(command) => describe(out, resp3, command),
                    None if resp3 => encode::null(out, true),
                    None => out.extend_from_slice(b"*-1\r\n"),
                }
            }
        })
    }

    pub(super) fn command_docs(&mut self) -> Flow {
        let resp3 = self.resp3();
        let found: Vec<&Command> = if self.count() == 2 {
            served().collect()
        } else {
            (2..self.count()).filter_map(|i| find(self.arg(i))).collect()
        };
        self.write(|out| {
            encode::map(out, resp3, found.len());
            for command in found {
                encode::bulk(out, command.name.to_ascii_lowercase().as_bytes());
                let since = if command.since.is_empty() { "7.0.0" } else { command.since };
                encode::map(out, resp3, 2);
                for (field, value) in [("since", since), ("group", command.group)] {
                    encode::bulk(out, field.as_bytes());
                    encode::bulk(out, value.as_bytes());
                }
            }
        })
    }

    pub(super) fn command_getkeys(&mut self) -> Flow {
        let words: Vec<&[u8]> = (2..self.count()).map(|i| self.arg(i)).collect();
        let Some(command) = mas_commands::resolve(&words[..]) else {
            return self.error("ERR Invalid command specified");
        };
        if !command.arity_fits(words.len()) {
            return self.error("ERR Invalid number of arguments specified for command");
        }
        if command.keys == KeySpec::None {
            return self.error("ERR The command has no key arguments");
        }
        let mut out = Vec::new();
        match command.keys(&words[..]) {
            Err(_) => return self.error("ERR Invalid arguments specified for command"),
            Ok(keys) => {
                encode::array(&mut out, keys.clone().count());
                for key in keys {
                    encode::bulk(&mut out, words[key]);
                }
            }
        }
        self.state.reply(self.key, &out)
    }

    /// The few parameters that clients and tools ask for at their start.
    pub(super) fn config_get(&mut self) -> Flow {
        let resp3 = self.resp3();
        let most = self.state.settings.config.max_connections.to_string();
        let known = [
            ("appendonly", "yes"),
            ("databases", "1"),
            ("maxclients", most.as_str()),
            ("maxmemory", "0"),
            ("maxmemory-policy", "noeviction"),
            ("notify-keyspace-events", ""),
            ("proto-max-bulk-len", "67108864"),
            ("save", ""),
            ("timeout", "0"),
        ];
        let matching: Vec<_> = known
            .iter()
            .filter(|(name, _)| {
                (2..self.count()).any(|i| matches(&self.arg(i).to_ascii_lowercase(), name.as_bytes()))
            })
            .collect();
        self.write(|out| {
            encode::map(out, resp3, matching.len());
            for (name, value) in matching {
                encode::bulk(out, name.as_bytes());
                encode::bulk(out, value.as_bytes());
            }
        })
    }
}

/// Commands that are served, without subcommands.
fn served() -> impl Iterator<Item = &'static Command> {
    mas_commands::all().iter().filter(|c| matches!(c.support, Support::Yes) && !c.name.contains('|'))
}

/// A served command or subcommand (`client|id`) by name.
fn find(name: &[u8]) -> Option<&'static Command> {
    let command = match name.iter().position(|b| *b == b'|') {
        Some(bar) => mas_commands::lookup_sub(mas_commands::lookup(&name[..bar])?, &name[bar + 1..])?,
        None => mas_commands::lookup(name)?,
    };
    matches!(command.support, Support::Yes).then_some(command)
}

/// One entry of `COMMAND INFO`: the six fields of old, then categories, tips, key specifications, subcommands.
fn describe(out: &mut Vec<u8>, resp3: bool, command: &Command) {
    encode::array(out, 10);
    encode::bulk(out, command.name.to_ascii_lowercase().as_bytes());
    encode::integer(out, i64::from(command.arity));
    let flags: Vec<&str> = command.flags.names().collect();
    encode::set(out, resp3, flags.len());
    for flag in &flags {
        encode::simple(out, flag);
    }
    let (first, last, step) = match command.keys {
        KeySpec::Range { first, last, step } => (i64::from(first), i64::from(last), i64::from(step)),
        KeySpec::NumKeys { also: Some(also), .. } | KeySpec::Store { also: Some(also), .. } => {
            (i64::from(also), i64::from(also), 1)
        }
        KeySpec::None | KeySpec::NumKeys { .. } | KeySpec::Store { .. } => (0, 0, 0),
    };
    for number in [first, last, step] {
        encode::integer(out, number);
    }
    let kind = if command.flags.has("write") {
        "@write"
    } else if command.flags.has("readonly") {
        "@read"
    } else {
        "@connection"
    };
    encode::set(out, resp3, 1);
    encode::simple(out, kind);
    for _ in 0..3 {
        encode::array(out, 0);
    }
}

/// Glob matching with `*` and `?`, without recursion.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(b'?') => (p, t) = (p + 1, t + 1),
            Some(b) if *b == text[t] => (p, t) = (p + 1, t + 1),
            _ => match star {
                Some((at, tried)) => {
                    (p, t) = (at + 1, tried + 1);
                    star = Some((at, tried + 1));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        for (pattern, text, fits) in [
            ("*", "save", true),
            ("max*", "maxmemory", true),
            ("*memory", "maxmemory", true),
            ("s?ve", "save", true),
            ("save", "saved", false),
            ("*x*y*", "axbyc", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), fits, "{pattern} {text}");
        }
    }

    #[test]
    fn only_what_is_served_is_shown() {
        assert!(find(b"get").is_some());
        assert!(find(b"client|id").is_some());
        assert!(find(b"lpush").is_none());
        assert!(find(b"mas.exec").is_none());
        assert!(served().all(|c| c.name != "LPUSH"));
    }
}
