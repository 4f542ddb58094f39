//! The hash that the build script and the lookup share: FNV-1a over upper-cased bytes.

/// Hashes `name` without regard to ASCII case.
pub(crate) fn hash(name: &[u8]) -> u32 {
    name.iter()
        .fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b.to_ascii_uppercase())).wrapping_mul(0x0100_0193))
}
