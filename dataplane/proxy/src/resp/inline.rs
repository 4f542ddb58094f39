//! Inline requests: a line of words, as people type them into telnet. Quoting as in Redis.

use super::request::ProtocolError;

/// Splits a line into words.
pub fn split(line: &[u8]) -> Result<Vec<Vec<u8>>, ProtocolError> {
    let mut words = Vec::new();
    let mut rest = line;
    loop {
        while let [b' ' | b'\t' | b'\r' | b'\n' | 0, tail @ ..] = rest {
            rest = tail;
        }
        if rest.is_empty() {
            return Ok(words);
        }
        let (word, tail) = word(rest)?;
        words.push(word);
        rest = tail;
    }
}

/// One word, which may have quoted parts in it. A closing quote must end the word.
fn word(mut rest: &[u8]) -> Result<(Vec<u8>, &[u8]), ProtocolError> {
    let mut word = Vec::new();
    loop {
        match rest {
            [] | [b' ' | b'\t' | b'\r' | b'\n' | 0, ..] => return Ok((word, rest)),
            [b'"', tail @ ..] => {
                rest = double_quoted(tail, &mut word)?;
                return closed(word, rest);
            }
            [b'\'', tail @ ..] => {
                rest = single_quoted(tail, &mut word)?;
                return closed(word, rest);
            }
            [byte, tail @ ..] => {
                word.push(*byte);
                rest = tail;
            }
        }
    }
}

fn closed(word: Vec<u8>, rest: &[u8]) -> Result<(Vec<u8>, &[u8]), ProtocolError> {
    match rest {
        [] | [b' ' | b'\t' | b'\r' | b'\n' | 0, ..] => Ok((word, rest)),
        _ => Err(ProtocolError::Quotes),
    }
}

fn double_quoted<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    loop {
        match rest {
            [] => return Err(ProtocolError::Quotes),
            [b'"', tail @ ..] => return Ok(tail),
            [b'\\', b'x', high, low, tail @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                word.push(hex(*high) << 4 | hex(*low));
                rest = tail;
            }
            [b'\\', escaped, tail @ ..] => {
                word.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => *other,
                });
                rest = tail;
            }
            [byte, tail @ ..] => {
                word.push(*byte);
                rest = tail;
            }
        }
    }
}

fn single_quoted<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    loop {
        match rest {
            [] => return Err(ProtocolError::Quotes),
            [b'\'', tail @ ..] => return Ok(tail),
            [b'\\', b'\'', tail @ ..] => {
                word.push(b'\'');
                rest = tail;
            }
            [byte, tail @ ..] => {
                word.push(*byte);
                rest = tail;
            }
        }
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Result<Vec<String>, ProtocolError> {
        Ok(split(line.as_bytes())?.into_iter().map(|w| String::from_utf8_lossy(&w).into_owned()).collect())
    }

    #[test]
    fn words_and_quotes() {
        assert_eq!(words("SET a  b\r\n"), Ok(vec!["SET".into(), "a".into(), "b".into()]));
        assert_eq!(
            words(r#"SET a "b \"c\" \x41\n""#),
            Ok(vec!["SET".into(), "a".into(), "b \"c\" A\n".into()])
        );
        assert_eq!(words(r"ECHO 'it\'s'"), Ok(vec!["ECHO".into(), "it's".into()]));
        assert_eq!(words("ECHO \"\""), Ok(vec!["ECHO".into(), String::new()]));
        assert_eq!(words("  \r\n"), Ok(vec![]));
    }

    #[test]
    fn open_quotes_are_errors() {
        for line in ["\"a", "'a", "\"a\"b", "'a'b", "\"a\\"] {
            assert_eq!(words(line), Err(ProtocolError::Quotes), "{line}");
        }
    }
}
