//! Where the keys of a command are among its words. Nothing here allocates.

use crate::Command;

/// The rule that finds a command's keys. Positions count from 0, the name included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeySpec {
    /// It has none.
    None,
    /// From `first` to `last` in steps; a negative `last` counts from the end (-1: the last word).
    Range {
        /// The first key.
        first: u8,
        /// The last key.
        last: i8,
        /// Distance between keys.
        step: u8,
    },
    /// The word at `at` says how many keys follow it; `also` is one more key.
    NumKeys {
        /// Where the number is.
        at: u8,
        /// A key before the number (a destination).
        also: Option<u8>,
    },
    /// The key at `also`, and the one after the last `STORE` or `STOREDIST` at or beyond `from`.
    Store {
        /// The first key, if it counts.
        also: Option<u8>,
        /// Where options begin.
        from: u8,
    },
}

/// Why the keys of a request cannot be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// Too few words for the command.
    Missing,
    /// The number of keys is not a number, not positive, or larger than what follows.
    BadCount,
}

impl std::fmt::Display for KeyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Missing => "wrong number of arguments: a key is missing",
            Self::BadCount => "numkeys should be greater than 0 and not more than the keys that follow",
        })
    }
}

impl std::error::Error for KeyError {}

/// The words of a request, the name first.
pub trait Args {
    /// How many words there are.
    fn count(&self) -> usize;
    /// Word number `i`, which is below [`Args::count`].
    fn arg(&self, i: usize) -> &[u8];
}

impl<A: AsRef<[u8]>> Args for [A] {
    fn count(&self) -> usize {
        self.len()
    }

    fn arg(&self, i: usize) -> &[u8] {
        self[i].as_ref()
    }
}

/// Positions of keys, in order.
#[derive(Clone, Debug)]
pub struct KeyIndices {
    extra: Option<usize>,
    next: usize,
    end: usize,
    step: usize,
}

impl KeyIndices {
    const EMPTY: Self = Self { extra: None, next: 0, end: 0, step: 1 };
}

impl Iterator for KeyIndices {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        if let Some(extra) = self.extra.take() {
            return Some(extra);
        }
        if self.next >= self.end {
            return None;
        }
        let at = self.next;
        self.next += self.step;
        Some(at)
    }
}

impl KeySpec {
    /// Finds the keys among `args`.
    pub fn find<A: Args + ?Sized>(self, args: &A) -> Result<KeyIndices, KeyError> {
        let count = args.count();
        match self {
            Self::None => Ok(KeyIndices::EMPTY),
            Self::Range { first, last, step } => {
                let first = usize::from(first);
                let last = if last < 0 {
                    count.checked_sub(usize::from(last.unsigned_abs())).ok_or(KeyError::Missing)?
                } else {
                    usize::from(last.unsigned_abs())
                };
                if first >= count || last >= count || last < first {
                    return Err(KeyError::Missing);
                }
                Ok(KeyIndices { extra: None, next: first, end: last + 1, step: usize::from(step.max(1)) })
            }
            Self::NumKeys { at, also } => {
                let at = usize::from(at);
                if at >= count {
                    return Err(KeyError::Missing);
                }
                let keys = parse_count(args.arg(at)).ok_or(KeyError::BadCount)?;
                if keys == 0 || keys > count - at - 1 {
                    return Err(KeyError::BadCount);
                }
                Ok(KeyIndices { extra: also.map(usize::from), next: at + 1, end: at + 1 + keys, step: 1 })
            }
            Self::Store { also, from } => {
                let extra = also.map(usize::from);
                if extra.is_some_and(|also| also >= count) {
                    return Err(KeyError::Missing);
                }
                let stored = (usize::from(from)..count.saturating_sub(1)).rev().find(|&i| {
                    let word = args.arg(i);
                    word.eq_ignore_ascii_case(b"STORE") || word.eq_ignore_ascii_case(b"STOREDIST")
                });
                Ok(stored.map_or(KeyIndices { extra, ..KeyIndices::EMPTY }, |i| KeyIndices {
                    extra,
                    next: i + 1,
                    end: i + 2,
                    step: 1,
                }))
            }
        }
    }
}

impl Command {
    /// Positions of all keys of a request, the name being word 0.
    pub fn keys<A: Args + ?Sized>(&self, args: &A) -> Result<KeyIndices, KeyError> {
        self.keys.find(args)
    }

    /// Positions of the keys that a request may change.
    pub fn written_keys<A: Args + ?Sized>(&self, args: &A) -> Result<KeyIndices, KeyError> {
        self.written.find(args)
    }

    /// The first option in the request that is refused, with the reason.
    pub fn refused_option<A: Args + ?Sized>(&self, args: &A) -> Option<(&'static str, &'static str)> {
        if self.refused_options.is_empty() {
            return None;
        }
        (usize::from(self.options_from)..args.count()).find_map(|i| {
            self.refused_options
                .iter()
                .find(|(name, _)| args.arg(i).eq_ignore_ascii_case(name.as_bytes()))
                .copied()
        })
    }
}

/// A positive decimal number, as Redis reads `numkeys`.
fn parse_count(text: &[u8]) -> Option<usize> {
    if text.is_empty() || text.len() > 9 || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(text.iter().fold(0, |n, b| n * 10 + usize::from(b - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(words: &str) -> Result<Vec<usize>, KeyError> {
        let args: Vec<&[u8]> = words.split(' ').map(str::as_bytes).collect();
        let command = crate::resolve(&args[..]).expect("known");
        command.keys(&args[..]).map(Iterator::collect)
    }

    #[test]
    fn ranges_and_steps() {
        assert_eq!(keys("GET a"), Ok(vec![1]));
        assert_eq!(keys("mset a 1 b 2"), Ok(vec![1, 3]));
        assert_eq!(keys("DEL a b c"), Ok(vec![1, 2, 3]));
        assert_eq!(keys("BITOP AND d a b"), Ok(vec![2, 3, 4]));
        assert_eq!(keys("PING"), Ok(vec![]));
        assert_eq!(keys("OBJECT ENCODING a"), Ok(vec![2]));
        assert_eq!(keys("GET"), Err(KeyError::Missing));
        assert_eq!(keys("RENAME a"), Err(KeyError::Missing));
    }

    #[test]
    fn counted_keys() {
        assert_eq!(keys("ZUNIONSTORE d 2 a b WEIGHTS 1 2"), Ok(vec![1, 3, 4]));
        assert_eq!(keys("SINTERCARD 2 a b LIMIT 1"), Ok(vec![2, 3]));
        for bad in
            ["ZMPOP 3 a MIN", "ZMPOP 0 MIN", "ZMPOP -1 a MIN", "ZMPOP x a MIN", "ZMPOP 99999999999 a MIN"]
        {
            assert_eq!(keys(bad), Err(KeyError::BadCount), "{bad}");
        }
        assert_eq!(keys("ZMPOP"), Err(KeyError::Missing));
    }

    #[test]
    fn stored_results() {
        assert_eq!(keys("GEORADIUS a 1 2 3 km"), Ok(vec![1]));
        assert_eq!(keys("GEORADIUS a 1 2 3 km ASC STORE b"), Ok(vec![1, 8]));
        assert_eq!(keys("GEORADIUSBYMEMBER a m 3 km storedist b"), Ok(vec![1, 6]));
    }

    #[test]
    fn written_keys_are_the_destinations() {
        let written = |words: &str| {
            let args: Vec<&[u8]> = words.split(' ').map(str::as_bytes).collect();
            let command = crate::resolve(&args[..]).expect("known");
            command.written_keys(&args[..]).expect("keys").collect::<Vec<_>>()
        };
        assert_eq!(written("SINTERSTORE d a b"), vec![1]);
        assert_eq!(written("COPY a d"), vec![2]);
        assert_eq!(written("GEORADIUS a 1 2 3 km"), Vec::<usize>::new());
        assert_eq!(written("GEORADIUS a 1 2 3 km STORE b"), vec![7]);
        assert_eq!(written("SMOVE a b m"), vec![1, 2]);
        assert_eq!(written("MSET a 1 b 2"), vec![1, 3]);
    }

    #[test]
    fn refused_options_are_found() {
        let refused = |words: &str| {
            let args: Vec<&[u8]> = words.split(' ').map(str::as_bytes).collect();
            crate::resolve(&args[..]).expect("known").refused_option(&args[..]).map(|(name, _)| name)
        };
        assert_eq!(refused("SORT a ALPHA"), None);
        assert_eq!(refused("SORT a alpha store b"), Some("STORE"));
        assert_eq!(refused("COPY a b DB 1"), Some("DB"));
        assert_eq!(refused("COPY DB b"), None);
    }
}
