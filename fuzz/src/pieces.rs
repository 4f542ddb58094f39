//! Several byte strings in one input, and long runs in a short one.

use bytes::Bytes;

/// Most bytes that [`unroll`] makes.
const UNROLLED_MAX: usize = 200 << 10;

/// Cuts an input into byte strings: a length of two bytes, then so many bytes (or what is left).
pub fn cut(mut data: &[u8]) -> Vec<Bytes> {
    let mut pieces = Vec::new();
    while let Some((len, rest)) = data.split_first_chunk() {
        let (piece, rest) = rest.split_at(usize::from(u16::from_le_bytes(*len)).min(rest.len()));
        pieces.push(Bytes::copy_from_slice(piece));
        data = rest;
    }
    pieces
}

/// The input that [`cut`] cuts into these. Longer ones are cut off.
pub fn join<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut data = Vec::new();
    for piece in pieces {
        let len = u16::try_from(piece.len()).unwrap_or(u16::MAX);
        data.extend_from_slice(&len.to_le_bytes());
        data.extend_from_slice(&piece[..usize::from(len)]);
    }
    data
}

/// Makes long lines out of short inputs: `\0 n` stands for 300 n more of the byte before, `\0 \0` for one zero.
pub fn unroll(data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len());
    let mut bytes = data.iter();
    while let Some(&byte) = bytes.next() {
        match (byte, out.last().copied()) {
            (0, Some(last)) => match bytes.next() {
                Some(&n) if n > 0 => {
                    let len = (out.len() + 300 * usize::from(n)).min(UNROLLED_MAX.max(out.len()));
                    out.resize(len, last);
                }
                _ => out.push(0),
            },
            _ => out.push(byte),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_joined_is_cut() {
        assert_eq!(cut(&join([&b"ab"[..], b"", b"c"])), ["ab", "", "c"]);
        assert_eq!(unroll(b"a\0\x01b\0\0").len(), 303);
    }
}
