//! Writes docs/commands.md from the table.

use std::fmt::Write as _;

use crate::{Command, Effect, KeySpec, Routing, Support, all};

/// Groups in the order of the page, with their headings.
const GROUPS: [(&str, &str); 17] = [
    ("generic", "Keys"),
    ("string", "Strings and counters"),
    ("bitmap", "Bitmaps"),
    ("hash", "Hashes"),
    ("set", "Sets"),
    ("sorted-set", "Sorted sets"),
    ("geo", "Geo"),
    ("connection", "Connection"),
    ("server", "Server"),
    ("multi-active", "Multi-active"),
    ("list", "Lists"),
    ("stream", "Streams"),
    ("hyperloglog", "HyperLogLog"),
    ("scripting", "Scripts and functions"),
    ("transactions", "Transactions"),
    ("pubsub", "Publish and subscribe"),
    ("cluster", "Cluster"),
];

/// The whole page.
pub fn markdown() -> String {
    let (served, refused) =
        all().iter().filter(|c| !c.container).fold((0, 0), |(yes, no), c| match c.support {
            Support::Yes => (yes + 1, no),
            Support::No(_) => (yes, no + 1),
        });
    let mut out = format!(
        "# Commands\n\nGenerated from `dataplane/commands/commands.toml`; do not edit. \
         {served} commands and subcommands are served, {refused} are refused in words. \
         What is not in these tables is unknown to the store.\n\n\
         Commands and replies are those of Redis 7.0. The column *across shards* says what happens when the keys of one \
         request are in several shards: where it says *one slot*, all keys must be in one hash slot (use hash tags, \
         `{{user1}}:cart` and `{{user1}}:name`), else the answer is `CROSSSLOT`. The column *replicated as* says what \
         travels to the other regions.\n"
    );
    for (group, heading) in GROUPS {
        let commands: Vec<&Command> = all().iter().filter(|c| c.group == group && !c.container).collect();
        let (served, refused): (Vec<&Command>, Vec<&Command>) =
            commands.into_iter().partition(|c| matches!(c.support, Support::Yes));
        let _ = write!(out, "\n## {heading}\n");
        if !served.is_empty() {
            let _ = write!(out, "\n| command | across shards | replicated as |\n| --- | --- | --- |\n");
            for command in served {
                let _ = writeln!(
                    out,
                    "| `{}` | {} | {} |",
                    title(command),
                    across(command),
                    format!("{}{}", effect(command.effect), options(command)).trim_start()
                );
            }
        }
        write_refused(&mut out, &refused);
    }
    out
}

/// One paragraph a reason, so that the same words are not repeated for every list command.
fn write_refused(out: &mut String, refused: &[&Command]) {
    let mut reasons: Vec<(&str, Vec<String>)> = Vec::new();
    for command in refused {
        let Support::No(why) = command.support else { continue };
        let name = format!("`{}`", title(command));
        match reasons.iter_mut().find(|(reason, _)| *reason == why) {
            Some((_, names)) => names.push(name),
            None => reasons.push((why, vec![name])),
        }
    }
    for (why, names) in reasons {
        let _ = write!(out, "\nNot supported, because {why}: {}.\n", names.join(", "));
    }
}

fn title(command: &Command) -> String {
    command.name.replace('|', " ")
}

fn across(command: &Command) -> &'static str {
    match command.routing {
        Routing::Slot if single_key(command.keys) => "one key",
        Routing::Slot => "one slot",
        Routing::SplitSum => "split by shard, results added; each part is atomic, the whole is not",
        Routing::SplitValues => "split by shard, values in the order of the keys",
        Routing::SplitPairs => "split by shard; each part is atomic, the whole is not",
        Routing::FanOutSum => "asked of every shard, results added",
        Routing::FanOutJoin => "asked of every shard, results joined",
        Routing::FanOutOk => "done in every shard, one after the other visible",
        Routing::FanOutPick => "asked of every shard, one result picked",
        Routing::Scan => "one shard after the other; the cursor says where",
        Routing::Proxy | Routing::Refused => "answered by the proxy",
    }
}

fn single_key(keys: KeySpec) -> bool {
    matches!(keys, KeySpec::Range { first, last, .. } if i16::from(first) == i16::from(last))
}

fn effect(effect: Effect) -> &'static str {
    match effect {
        Effect::None => "",
        Effect::StringSet | Effect::StringEdit => "the whole value; the later write wins",
        Effect::Count => "an increment; increments of all regions add up",
        Effect::Delete => "a delete of the key",
        Effect::Expire => "the time of expiry; the later write wins",
        Effect::HashSet => "the fields; the later write wins, field by field",
        Effect::HashDelete => "a delete of the fields",
        Effect::HashCount => "an increment of the field; increments of all regions add up",
        Effect::SetAdd => "the members; the later of add and remove wins",
        Effect::SetRemove | Effect::ZRemove => "a removal of the members",
        Effect::SetPop | Effect::ZPop => "a removal of the members that were picked",
        Effect::SetMove => "a removal here and an addition there",
        Effect::ZAdd => "the members with their scores; the later write wins (with INCR: an increment)",
        Effect::ZCount => "an increment of the score; increments of all regions add up",
        Effect::ZRemoveRange => "a removal of the members that were in the range",
        Effect::GeoAdd => "the members with their positions; the later write wins",
        Effect::Rewrite => "the whole result, in place of what the key held",
        Effect::Rename => "a delete of the old key, the whole value under the new one",
        Effect::Flush => "a delete of everything written before",
    }
}

fn options(command: &Command) -> String {
    command.refused_options.iter().fold(String::new(), |mut text, (option, why)| {
        let dot = if text.is_empty() && command.effect != Effect::None { "." } else { "" };
        let _ = write!(text, "{dot} Not with `{option}`: {why}.");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Run with `BLESS=1` to write the page.
    #[test]
    fn the_committed_page_is_up_to_date() {
        // Where the tree is now, and not where it was built.
        let package = std::env::var("CARGO_MANIFEST_DIR").expect("cargo runs the tests");
        let path = std::path::Path::new(&package).join("../../docs/commands.md");
        let now = markdown();
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&path, &now).expect("docs/ is writable");
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(committed == now, "docs/commands.md is out of date: run BLESS=1 cargo test -p mas-commands");
    }

    #[test]
    fn every_group_has_a_heading() {
        for command in all() {
            assert!(GROUPS.iter().any(|(group, _)| *group == command.group), "{}", command.group);
        }
    }
}
