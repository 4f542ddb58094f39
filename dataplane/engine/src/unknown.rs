//! Commands that the table does not know: the server is asked once whether they write.

use std::collections::HashMap;
use std::sync::Mutex;

/// Most names that are remembered; beyond it the server is asked each time.
const NAMES_MAX: usize = 1024;

/// Longest name that a command may have, bytes.
const NAME_MAX: usize = 128;

static ASKED: Mutex<Option<HashMap<Vec<u8>, bool>>> = Mutex::new(None);

/// Whether the server says that this command may write. Names that it does not know do not.
pub(crate) fn may_write(name: &[u8]) -> bool {
    if name.len() > NAME_MAX {
        return false;
    }
    let name = name.to_ascii_lowercase();
    let Ok(mut asked) = ASKED.lock() else { return true };
    let asked = asked.get_or_insert_default();
    if let Some(&known) = asked.get(&name) {
        return known;
    }
    let Some(ctx) = crate::boundary::Ctx::detached() else { return false };
    let leaves = ctx.call("COMMAND", &[b"INFO", &name]).leaves();
    if leaves.len() < 2 {
        return false;
    }
    let writes = leaves.iter().any(|l| l.bytes().is_some_and(|b| b == b"write" || b == b"may_replicate"));
    if asked.len() < NAMES_MAX {
        asked.insert(name, writes);
    }
    writes
}
