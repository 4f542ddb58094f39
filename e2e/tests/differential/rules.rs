//! What counts as the same reply. This list is the whole difference that clients may see, apart from docs/limits.md.

use std::collections::BTreeMap;

use crate::resp::{Reply, Words, text};

/// How the two replies to a command are compared. Errors are always compared byte by byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Byte by byte.
    Exact,
    /// Redis promises no order.
    Unordered,
    /// Redis compares texts up to their first zero byte (`strcoll`), and those that are alike up to there come in any order.
    UpToZero,
    /// How Redis holds a value.
    Encoding,
    /// Pairs in no order.
    UnorderedPairs,
    /// The two servers are not asked at the same instant: numbers may differ by this much.
    Within(i64),
    /// About the server itself: only the type of the reply is the same.
    Shape,
    /// As `Shape`, and the value is kept for `RESTORE`. (Sets are dumped in the order of a hash table.)
    Dump,
    /// Plain Redis 7.0 does not have it: no error is expected.
    Own,
    /// Cursors differ: whole iterations are compared, in no order.
    Scan,
    /// Random picks: the same number of different members that are there.
    Picks,
    /// Random picks that are removed: as `Picks`, and then removed from plain Redis too.
    Pop,
    /// Decimals are added exactly here and as `long double` there (docs/limits.md). Where the last digits differ, plain Redis
    /// is given the exact sum, so that the two go on alike.
    Sum,
    /// Redis counts a key that was set with a time in the past until somebody asks for it: first all are asked for.
    Size,
    /// On a connection of its own, which is closed afterwards.
    Quit,
    /// The connection starts anew.
    Reset,
}

impl Rule {
    /// The rule of a command, by its name in the table.
    pub(crate) fn of(name: &str) -> Self {
        match name {
            "SMEMBERS" | "SINTER" | "SUNION" | "SDIFF" | "HKEYS" | "HVALS" | "KEYS" => Self::Unordered,
            "SORT" | "SORT_RO" => Self::UpToZero,
            "HGETALL" => Self::UnorderedPairs,
            "OBJECT|ENCODING" => Self::Encoding,
            "TTL" | "EXPIRETIME" => Self::Within(5),
            "PTTL" | "PEXPIRETIME" => Self::Within(5000),
            "DUMP" => Self::Dump,
            "RANDOMKEY" | "MEMORY|USAGE" | "OBJECT|IDLETIME" | "OBJECT|REFCOUNT" | "TIME" | "INFO"
            | "HELLO" | "CONFIG|GET" | "CLIENT|ID" | "CLIENT|INFO" | "CLIENT|LIST" | "COMMAND"
            | "COMMAND|COUNT" | "COMMAND|DOCS" | "COMMAND|INFO" | "COMMAND|LIST" => Self::Shape,
            "CLIENT|NO-TOUCH" | "CLIENT|SETINFO" => Self::Own,
            "SCAN" | "HSCAN" | "SSCAN" | "ZSCAN" => Self::Scan,
            "SRANDMEMBER" | "HRANDFIELD" | "ZRANDMEMBER" => Self::Picks,
            "SPOP" => Self::Pop,
            "INCRBYFLOAT" | "HINCRBYFLOAT" => Self::Sum,
            "DBSIZE" => Self::Size,
            "QUIT" => Self::Quit,
            "RESET" => Self::Reset,
            name if name.ends_with("|HELP") => Self::Shape,
            name if name.starts_with("MAS.") => Self::Own,
            _ => Self::Exact,
        }
    }

    /// Whether the runner has to look at it alone, and not in a pipeline.
    pub(crate) fn is_alone(self) -> bool {
        matches!(
            self,
            Self::Own
                | Self::Scan
                | Self::Picks
                | Self::Pop
                | Self::Sum
                | Self::Size
                | Self::Quit
                | Self::Reset
        )
    }
}

/// Errors that the store finds before Redis sees the request, which may complain of something else in it: sizes are checked
/// before anything is executed, and the keys are looked for before the request has a shard.
const OTHER_WORDS: [&[u8]; 3] = [
    b"ERR the write is too large",
    b"ERR numkeys should be",
    b"ERR wrong number of arguments: a key is missing",
];

/// Whether the replies are the same by `rule`.
pub(crate) fn same(rule: Rule, store: &Reply, plain: &Reply) -> bool {
    if store.is_error()
        && plain.is_error()
        && OTHER_WORDS.iter().any(|words| store.bytes().starts_with(words))
    {
        return true;
    }
    if store.is_error() || plain.is_error() {
        return store == plain;
    }
    match rule {
        // A number that came through the engine may be held as text.
        Rule::Encoding => store == plain || (plain.bytes() == b"int" && store.bytes() == b"embstr"),
        Rule::Unordered => kind(store) == kind(plain) && sorted(store.items()) == sorted(plain.items()),
        Rule::UpToZero => kind(store) == kind(plain) && up_to_zero(store) == up_to_zero(plain),
        Rule::UnorderedPairs => kind(store) == kind(plain) && pairs(store.items()) == pairs(plain.items()),
        Rule::Within(most) => match (store, plain) {
            // Negative: no key, or no time to live.
            (Reply::Int(one), Reply::Int(other)) if *one >= 0 && *other >= 0 => {
                one.abs_diff(*other) <= most.unsigned_abs()
            }
            _ => store == plain,
        },
        Rule::Shape | Rule::Dump => kind(store) == kind(plain),
        _ => store == plain,
    }
}

/// How far two sums may be apart, as a part of the sum or what was added: what `f64` can tell.
const SUM_ERROR: f64 = 1e-15;

/// Whether two sums differ at most by what `long double` cannot hold.
pub(crate) fn same_sum(store: &Reply, plain: &Reply, added: &[u8]) -> bool {
    let number = |bytes: &[u8]| text(bytes).parse::<f64>().ok().filter(|number| number.is_finite());
    match (store, plain) {
        (Reply::Bulk(store), Reply::Bulk(plain)) => {
            let (Some(one), Some(other), Some(added)) = (number(store), number(plain), number(added)) else {
                return false;
            };
            (one - other).abs() <= one.abs().max(added.abs()) * SUM_ERROR
        }
        _ => store == plain,
    }
}

/// Whether the picks have the same form, and are members of `there` (name and value or score, which may be empty).
pub(crate) fn same_picks(
    words: &Words,
    store: &Reply,
    plain: &Reply,
    there: &BTreeMap<Vec<u8>, Vec<u8>>,
) -> bool {
    if store.is_error() || plain.is_error() {
        return store == plain;
    }
    if kind(store) != kind(plain) || store.items().len() != plain.items().len() {
        return false;
    }
    let paired = words.len() > 3;
    let count = words.get(2).and_then(|word| std::str::from_utf8(word).ok()?.parse::<i64>().ok());
    [store, plain].into_iter().all(|reply| {
        let picks = flat(reply);
        let step = if paired { 2 } else { 1 };
        let names: Vec<_> = picks.iter().step_by(step).collect();
        let known = names.iter().all(|name| there.contains_key(*name));
        let valued =
            !paired || picks.chunks(2).all(|pair| pair.len() == 2 && there.get(&pair[0]) == Some(&pair[1]));
        let mut different = names.clone();
        different.sort();
        different.dedup();
        // A negative count asks for repetitions.
        known && valued && (count.is_some_and(|count| count < 0) || different.len() == names.len())
    })
}

/// The leaves of a reply, in order.
pub(crate) fn flat(reply: &Reply) -> Vec<Vec<u8>> {
    match reply {
        Reply::NullBulk | Reply::Null | Reply::NullArray => Vec::new(),
        Reply::Array(items) | Reply::Set(items) | Reply::Map(items) | Reply::Push(items) => {
            items.iter().flat_map(flat).collect()
        }
        leaf => vec![leaf.bytes()],
    }
}

fn up_to_zero(reply: &Reply) -> Vec<Vec<u8>> {
    flat(reply)
        .into_iter()
        .map(|text| text.split(|byte| *byte == 0).next().unwrap_or_default().to_vec())
        .collect()
}

fn kind(reply: &Reply) -> std::mem::Discriminant<Reply> {
    std::mem::discriminant(reply)
}

/// The items in an order of their own.
pub(crate) fn sorted(items: &[Reply]) -> Vec<Reply> {
    let mut items = items.to_vec();
    items.sort();
    items
}

fn pairs(items: &[Reply]) -> Vec<Vec<Reply>> {
    let mut pairs: Vec<_> = items.chunks(2).map(<[Reply]>::to_vec).collect();
    pairs.sort();
    pairs
}
