//! The static table and its lookup, without regard to case and without allocating.

use crate::hash::hash;
use crate::{Args, Command};

#[allow(clippy::unreadable_literal)] // bits and indices that nobody reads
mod generated {
    use crate::{Command, Effect, Flags, KeySpec, Routing, Support};

    include!(concat!(env!("OUT_DIR"), "/table.rs"));
}

/// All records, subcommands included, sorted by name.
pub fn all() -> &'static [Command] {
    &generated::COMMANDS
}

/// The command of that name, if it is known at all. Subcommands are not found by their joint name;
/// see [`lookup_sub`].
pub fn lookup(name: &[u8]) -> Option<&'static Command> {
    probe(hash(name), |candidate| candidate.as_bytes().eq_ignore_ascii_case(name))
        .filter(|command| !command.name.contains('|'))
}

/// The subcommand `sub` of the container `command`.
pub fn lookup_sub(command: &Command, sub: &[u8]) -> Option<&'static Command> {
    let start = generated::COMMANDS.partition_point(|c| c.name <= command.name);
    generated::COMMANDS[start..].iter().take_while(|c| c.name.starts_with(command.name)).find(|c| {
        c.name.as_bytes().get(command.name.len()) == Some(&b'|')
            && c.name.as_bytes()[command.name.len() + 1..].eq_ignore_ascii_case(sub)
    })
}

/// The record that applies to a whole request: the subcommand where the first word is a container
/// and the second names one of its subcommands, else the command.
pub fn resolve<A: Args + ?Sized>(args: &A) -> Option<&'static Command> {
    if args.count() == 0 {
        return None;
    }
    let command = lookup(args.arg(0))?;
    if command.container && args.count() > 1 {
        return Some(lookup_sub(command, args.arg(1)).unwrap_or(command));
    }
    Some(command)
}

/// Linear probing in the table that the build script filled by the same hash.
fn probe(hash: u32, is_it: impl Fn(&str) -> bool) -> Option<&'static Command> {
    let mask = generated::BUCKETS.len() - 1;
    let mut at = hash as usize & mask;
    loop {
        let index = generated::BUCKETS[at];
        if index == u16::MAX {
            return None;
        }
        let command = &generated::COMMANDS[usize::from(index)];
        if is_it(command.name) {
            return Some(command);
        }
        at = (at + 1) & mask;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Effect, KeySpec, Routing, Support};

    #[test]
    fn every_record_is_found_by_its_name_in_any_case() {
        for (index, command) in all().iter().enumerate() {
            assert_eq!(usize::from(command.index), index);
            match command.name.split_once('|') {
                None => {
                    assert_eq!(lookup(command.name.as_bytes()), Some(command));
                    assert_eq!(lookup(command.name.to_lowercase().as_bytes()), Some(command));
                }
                Some((container, sub)) => {
                    let container = lookup(container.as_bytes()).expect("container");
                    assert!(container.container);
                    assert_eq!(lookup_sub(container, sub.to_lowercase().as_bytes()), Some(command));
                    assert_eq!(lookup(command.name.as_bytes()), None);
                }
            }
        }
    }

    #[test]
    fn records_are_sorted_and_distinct() {
        assert!(all().windows(2).all(|w| w[0].name < w[1].name));
    }

    #[test]
    fn what_is_unknown_is_not_found() {
        for name in [&b""[..], b"NOPE", b"GETT", b"MAS.EXEC", b"MAS.MERGE", b"\xff\x00", &[b'a'; 1000]] {
            assert_eq!(lookup(name), None);
        }
        assert_eq!(resolve::<[&[u8]]>(&[]), None);
    }

    #[test]
    fn records_agree_with_themselves() {
        for c in all() {
            let name = c.name;
            let served = matches!(c.support, Support::Yes);
            assert_eq!(served, c.routing != Routing::Refused, "{name}: refused if and only if unsupported");
            assert_eq!(
                c.is_write(),
                c.written != KeySpec::None || c.effect == Effect::Flush,
                "{name}: written keys"
            );
            assert!(!c.is_write() || c.flags.has("write"), "{name}: effects come from writes");
            assert!(!c.is_write() || served, "{name}: what is not served has no effect");
            if served && c.flags.has("write") && !c.is_write() {
                assert!(
                    c.refused_options.iter().any(|(o, _)| *o == "STORE"),
                    "{name}: a write without effect"
                );
            }
            if let Support::No(reason) = c.support {
                assert!(!reason.is_empty() && !reason.ends_with('.'), "{name}: reasons end a sentence");
            }
        }
    }
}
