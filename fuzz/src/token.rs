//! The text of a token around any content: with random bytes the checksum would never fit.

/// The store that the targets' tokens are of.
pub const STORE: &str = "shop";

/// FNV-1a of 32 bits.
fn checksum(bytes: &[u8]) -> [u8; 4] {
    let mut sum = 0x811c_9dc5_u32;
    for byte in bytes {
        sum = (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    }
    sum.to_le_bytes()
}

/// Base64 for URLs without padding, bit by bit.
fn text(bytes: &[u8]) -> Vec<u8> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bit = |at: usize| bytes.get(at / 8).map_or(0, |byte| byte >> (7 - at % 8) & 1);
    (0..bytes.len() * 8)
        .step_by(6)
        .map(|at| ALPHABET[usize::from((at..at + 6).fold(0, |six, at| six << 1 | bit(at)))])
        .collect()
}

/// A token with this content after version and store.
pub fn around(content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![1];
    bytes.extend(checksum(STORE.as_bytes()));
    bytes.extend_from_slice(content);
    let sum = checksum(&bytes);
    bytes.extend(sum);
    text(&bytes)
}

/// What a token holds between its store and its checksum.
pub fn content(text: &[u8]) -> Vec<u8> {
    let value = |c: u8| match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'-' => 62,
        _ => 63,
    };
    let bit = |at: usize| value(text[at / 6]) >> (5 - at % 6) & 1;
    let bytes: Vec<u8> =
        (0..text.len() * 6 / 8).map(|n| (n * 8..n * 8 + 8).fold(0, |byte, at| byte << 1 | bit(at))).collect();
    bytes[5..bytes.len() - 4].to_vec()
}
