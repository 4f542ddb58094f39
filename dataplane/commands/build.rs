//! Turns `commands.toml` into a static table, sorted by name, and the buckets of its lookup.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::{env, fs, path::Path};

use serde::Deserialize;

#[path = "src/hash.rs"]
mod hash;

#[derive(Deserialize)]
struct File {
    command: Vec<Record>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Record {
    name: String,
    group: String,
    #[serde(default)]
    since: String,
    arity: i16,
    #[serde(default)]
    container: bool,
    flags: Vec<String>,
    keys: Option<String>,
    written: Option<String>,
    effect: Option<String>,
    routing: Option<String>,
    #[serde(default)]
    options_from: u8,
    #[serde(default)]
    refused_options: BTreeMap<String, String>,
    refused: Option<String>,
}

/// The same names in the same order as `Flags::NAMES`.
const FLAGS: &[&str] = &[
    "write",
    "readonly",
    "denyoom",
    "admin",
    "pubsub",
    "noscript",
    "blocking",
    "loading",
    "stale",
    "skip_monitor",
    "skip_slowlog",
    "asking",
    "fast",
    "no_auth",
    "no_mandatory_keys",
    "no_async_loading",
    "no_multi",
    "movablekeys",
    "allow_busy",
];

fn main() {
    println!("cargo::rerun-if-changed=commands.toml");
    let text = fs::read_to_string("commands.toml").expect("commands.toml is beside build.rs");
    let mut records = toml::from_str::<File>(&text).expect("commands.toml is well formed").command;
    records.sort_by(|a, b| a.name.cmp(&b.name));

    let mut out = format!("pub(super) static COMMANDS: [Command; {}] = [\n", records.len());
    for (index, record) in records.iter().enumerate() {
        write_record(&mut out, index, record);
    }
    out.push_str("];\n");

    let buckets = buckets(&records);
    let _ = writeln!(out, "pub(super) static BUCKETS: [u16; {}] = {buckets:?};", buckets.len());
    let dir = env::var_os("OUT_DIR").expect("cargo sets OUT_DIR");
    fs::write(Path::new(&dir).join("table.rs"), out).expect("OUT_DIR is writable");
}

fn write_record(out: &mut String, index: usize, r: &Record) {
    let flags = r.flags.iter().fold(0u32, |bits, flag| {
        let bit =
            FLAGS.iter().position(|f| f == flag).unwrap_or_else(|| panic!("{}: unknown flag {flag}", r.name));
        bits | 1 << bit
    });
    let routing = match (&r.refused, &r.routing) {
        (None, Some(routing)) => variant(routing),
        (Some(_), None) => "Refused".to_owned(),
        _ => panic!("{}: needs either `routing` or `refused`", r.name),
    };
    let support = r.refused.as_ref().map_or("Support::Yes".to_owned(), |why| format!("Support::No({why:?})"));
    let options: Vec<(&String, &String)> = r.refused_options.iter().collect();
    let _ = writeln!(
        out,
        "Command {{ name: {:?}, index: {index}, arity: {}, flags: Flags({flags}), keys: {}, written: {}, \
         effect: Effect::{}, routing: Routing::{routing}, support: {support}, refused_options: &{options:?}, \
         options_from: {}, container: {}, group: {:?}, since: {:?} }},",
        r.name,
        r.arity,
        key_spec(&r.name, r.keys.as_deref()),
        key_spec(&r.name, r.written.as_deref()),
        variant(r.effect.as_deref().unwrap_or("none")),
        r.options_from,
        r.container,
        r.group,
        r.since,
    );
}

/// `split-sum` to `SplitSum`; a name that the enum lacks fails when the table is compiled.
fn variant(kebab: &str) -> String {
    kebab.split('-').map(|part| part[..1].to_uppercase() + &part[1..]).collect()
}

/// Reads the notation that the head of `commands.toml` describes.
fn key_spec(name: &str, text: Option<&str>) -> String {
    let Some(text) = text else { return "KeySpec::None".to_owned() };
    let number =
        |text: &str| -> i8 { text.parse().unwrap_or_else(|_| panic!("{name}: bad key position {text:?}")) };
    let (also, rule) = match text.split_once('+') {
        Some((also, rule)) => (format!("Some({})", number(also)), rule),
        None => ("None".to_owned(), text),
    };
    if let Some(at) = rule.strip_prefix("numkeys@") {
        return format!("KeySpec::NumKeys {{ at: {}, also: {also} }}", number(at));
    }
    if let Some(from) = rule.strip_prefix("store@") {
        return format!("KeySpec::Store {{ also: {also}, from: {} }}", number(from));
    }
    let (range, step) = rule.split_once('/').unwrap_or((rule, "1"));
    let (first, last) = range.split_once("..").unwrap_or((range, range));
    format!("KeySpec::Range {{ first: {}, last: {}, step: {} }}", number(first), number(last), number(step))
}

/// Open addressing, four times as many buckets as top-level commands, so that most lookups are one probe.
fn buckets(records: &[Record]) -> Vec<u16> {
    let mut buckets = vec![u16::MAX; 1024];
    for (index, record) in records.iter().enumerate().filter(|(_, r)| !r.name.contains('|')) {
        let mut at = hash::hash(record.name.as_bytes()) as usize % buckets.len();
        while buckets[at] != u16::MAX {
            assert_ne!(records[usize::from(buckets[at])].name, record.name, "a command is there twice");
            at = (at + 1) % buckets.len();
        }
        buckets[at] = u16::try_from(index).expect("few commands");
    }
    buckets
}
