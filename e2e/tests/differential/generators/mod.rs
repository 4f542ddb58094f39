//! One generator of random requests for every supported command.

mod generic;
mod geo;
mod hashes;
mod server;
mod sets;
mod sorted;
mod strings;

use crate::dice::Dice;
use crate::resp::Words;

/// Makes one request.
pub(crate) type Make = fn(&mut Dice) -> Words;

/// A command's name as in the table of commands, how often it comes, and how it is made.
pub(crate) type Entry = (&'static str, u32, Make);

/// All of them.
pub(crate) fn all() -> impl Iterator<Item = &'static Entry> {
    [generic::ALL, strings::ALL, hashes::ALL, sets::ALL, sorted::ALL, geo::ALL, server::ALL]
        .into_iter()
        .flatten()
}

/// `words` with more behind them.
fn with(mut words: Words, more: impl IntoIterator<Item = impl Into<Vec<u8>>>) -> Words {
    words.extend(more.into_iter().map(Into::into));
    words
}
