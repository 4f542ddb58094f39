//! Key to slot: CRC16 of the key, hash tags honoured, 16384 slots.
//! Source: Redis Cluster specification, "Key distribution model" and "Hash tags".

/// Number of slots.
pub const SLOTS: u16 = 16384;

/// CRC16/XMODEM: polynomial 0x1021, start 0.
const TABLE: [u16; 256] = {
    let mut table = [0u16; 256];
    let mut i = 0;
    while i < 256 {
        let mut crc = (i as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 != 0 { (crc << 1) ^ 0x1021 } else { crc << 1 };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
};

/// The slot of `key`: of the part between the first `{` and the next `}` if that is not empty, else of all of it.
pub fn slot_of(key: &[u8]) -> u16 {
    let tag = key
        .iter()
        .position(|&b| b == b'{')
        .and_then(|open| {
            let rest = &key[open + 1..];
            rest.iter().position(|&b| b == b'}').filter(|&len| len > 0).map(|len| &rest[..len])
        })
        .unwrap_or(key);
    tag.iter().fold(0u16, |crc, &b| (crc << 8) ^ TABLE[usize::from((crc >> 8) as u8 ^ b)]) % SLOTS
}

/// Inclusive slot ranges of `shard` when `shards` of them share all slots evenly.
pub fn even_ranges(shard: u16, shards: u16) -> Vec<(u16, u16)> {
    let edge = |n: u16| (u32::from(SLOTS) * u32::from(n) / u32::from(shards)) as u16;
    vec![(edge(shard), edge(shard + 1) - 1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_the_specification() {
        assert_eq!(slot_of(b"123456789"), 0x31c3 % SLOTS);
        assert_eq!(slot_of(b"foo"), 12182);
        assert_eq!(slot_of(b"{user1000}.following"), slot_of(b"{user1000}.followers"));
        assert_eq!(slot_of(b"foo{}{bar}"), 8363);
        assert_eq!(slot_of(b"foo{{bar}}zap"), slot_of(b"{bar"));
    }

    #[test]
    fn ranges_cover_every_slot_once() {
        for shards in 1..=64 {
            let mut next = 0;
            for shard in 0..shards {
                let (first, last) = even_ranges(shard, shards)[0];
                assert_eq!(first, next);
                next = last + 1;
            }
            assert_eq!(next, SLOTS);
        }
    }
}
