//! How Redis 7.0 reads a request (`processMultibulkBuffer`, `string2ll`), written down once more: what a proxy hands to an
//! engine has to mean to the engine what it meant to the proxy.

/// The words of the request at the start of `bytes`, and the rest. `None`: a protocol error, or not all of it.
pub fn request(bytes: &[u8]) -> Option<(Vec<&[u8]>, &[u8])> {
    let (count, mut rest) = head(bytes, b'*')?;
    let mut words = Vec::new();
    for _ in 0..count {
        let (len, tail) = head(rest, b'$')?;
        let len = usize::try_from(len).ok()?;
        words.push(tail.get(..len)?);
        // The two bytes after a word are skipped unread.
        rest = tail.get(len + 2..)?;
    }
    Some((words, rest))
}

/// A head's number and what follows its line. The byte after `\r` is skipped unread.
fn head(bytes: &[u8], kind: u8) -> Option<(i64, &[u8])> {
    if bytes.first() != Some(&kind) {
        return None;
    }
    let end = bytes.iter().position(|b| *b == b'\r')?;
    Some((integer(&bytes[1..end])?, bytes.get(end + 2..)?))
}

/// `string2ll`: no plus sign, no leading zeros, no `-0`.
fn integer(text: &[u8]) -> Option<i64> {
    let number: i64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    (number.to_string().as_bytes() == text).then_some(number)
}

/// The slot of a key, bit by bit.
pub fn slot(key: &[u8]) -> u16 {
    let tag = key.iter().position(|b| *b == b'{').and_then(|open| {
        let inner = &key[open + 1..];
        let close = inner.iter().position(|b| *b == b'}')?;
        (close > 0).then(|| &inner[..close])
    });
    let mut crc = 0u16;
    for byte in tag.unwrap_or(key) {
        crc ^= u16::from(*byte) << 8;
        for _ in 0..8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 };
        }
    }
    crc & 16383
}
