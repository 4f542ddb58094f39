//! What an engine's reply means for the request: an answer, an executed write with its note, or a refusal.

use mas_core::stamp::Hlc;

use crate::resp::reply;

/// The meaning of one reply.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome<'a> {
    /// To be passed on as it is.
    Answer(&'a [u8]),
    /// A write was executed.
    Applied {
        /// The reply for the client.
        native: &'a [u8],
        /// The effect's number, or the last one issued before.
        seq: u64,
        /// The engine's clock.
        hlc: Hlc,
        /// The encoded effect; empty: nothing changed.
        effect: &'a [u8],
    },
    /// The request was certainly not executed, and another engine (or the same a little later) may execute it.
    Refused,
    /// Not what an engine would say.
    Nonsense,
}

/// First words of errors that say: not me, or not now.
const REFUSALS: [&[u8]; 7] =
    [b"MASFENCED", b"MASRECOVERING", b"MASPAUSED", b"MASREPLICA", b"MASINCARNATION", b"LOADING", b"READONLY"];

/// Reads a reply. `write`: the request went through `MAS.EXEC`.
pub fn classify(bytes: &[u8], write: bool) -> Outcome<'_> {
    match bytes.first() {
        Some(b'-') => {
            let word = bytes[1..].split(|b| matches!(b, b' ' | b'\r')).next().unwrap_or_default();
            if REFUSALS.contains(&word) { Outcome::Refused } else { Outcome::Answer(bytes) }
        }
        Some(_) if !write => Outcome::Answer(bytes),
        _ => applied(bytes).unwrap_or(Outcome::Nonsense),
    }
}

fn applied(bytes: &[u8]) -> Option<Outcome<'_>> {
    let (native, note) = reply::native_and_note(bytes)?;
    let (seq, rest) = note.split_first_chunk()?;
    let (hlc, effect) = rest.split_first_chunk()?;
    Some(Outcome::Applied {
        native,
        seq: u64::from_le_bytes(*seq),
        hlc: Hlc(u64::from_le_bytes(*hlc)),
        effect,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_and_refusals() {
        assert_eq!(classify(b"$1\r\na\r\n", false), Outcome::Answer(b"$1\r\na\r\n"));
        assert_eq!(classify(b"-ERR x\r\n", true), Outcome::Answer(b"-ERR x\r\n"));
        assert_eq!(classify(b"-OUTBOXFULL x\r\n", true), Outcome::Answer(b"-OUTBOXFULL x\r\n"));
        for word in ["MASFENCED", "MASPAUSED", "MASINCARNATION 00000000000000ff", "LOADING Redis is loading"]
        {
            assert_eq!(classify(format!("-{word}\r\n").as_bytes(), true), Outcome::Refused);
        }
    }

    #[test]
    fn notes_are_taken_apart() {
        let mut note = 5u64.to_le_bytes().to_vec();
        note.extend_from_slice(&9u64.to_le_bytes());
        note.extend_from_slice(b"effect");
        let mut bytes = b"*2\r\n+OK\r\n".to_vec();
        crate::resp::encode::bulk(&mut bytes, &note);
        let expected = Outcome::Applied { native: b"+OK\r\n", seq: 5, hlc: Hlc(9), effect: b"effect" };
        assert_eq!(classify(&bytes, true), expected);
        assert_eq!(classify(b"*2\r\n+OK\r\n$3\r\nabc\r\n", true), Outcome::Nonsense);
        assert_eq!(classify(b"+OK\r\n", true), Outcome::Nonsense);
    }
}
