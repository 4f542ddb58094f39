//! Saving and loading the shard's state beside the keys.

use crate::boundary::{Load, Save};

/// Writes the state (in the server's process or in its forked child).
pub(crate) fn save(sink: &mut Save) {
    sink.chunk(b"");
}

/// Replaces the state by what a file holds; `false` when it cannot be read.
pub(crate) fn load(source: &mut Load) -> bool {
    while let Some(chunk) = source.chunk() {
        if chunk.is_empty() {
            return true;
        }
    }
    false
}
