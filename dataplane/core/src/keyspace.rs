//! What the merge needs of the place where values live: native Redis keys in the engine, a map in tests.

use crate::effect::{Kind, Value};

/// Native values. Writers are told what to show; they never decide.
pub trait Keyspace {
    /// The value of a cell as it is shown now.
    fn read(&mut self, key: &[u8], kind: Kind, name: &[u8]) -> Option<Value>;

    /// Whether the key is shown now.
    fn exists(&mut self, key: &[u8]) -> bool;

    /// Shows a cell with this value. A string's native time-to-live is dropped; the merge sets it again.
    fn write(&mut self, key: &[u8], kind: Kind, name: &[u8], value: &Value);

    /// Shows a cell no more; with its last cell the key is gone.
    fn remove(&mut self, key: &[u8], kind: Kind, name: &[u8]);

    /// Removes the key, whatever its type.
    fn delete(&mut self, key: &[u8]);

    /// Sets or removes the native time-to-live, in unix milliseconds, also one in the past (the key then goes as
    /// Redis removes expired keys). Nothing happens when the key is not there.
    fn set_expiry(&mut self, key: &[u8], at_ms: Option<u64>);

    /// All keys in slots `first..=last`.
    fn keys_in_slots(&mut self, first: u16, last: u16) -> Vec<Vec<u8>>;

    /// Some of all keys, about `count`, in an order of the keyspace's own, and the cursor to go on with; empty at the start
    /// and at the end. A key that is there from start to end is given at least once, whatever changes meanwhile.
    fn scan(&mut self, cursor: &[u8], count: usize) -> (Vec<u8>, Vec<Vec<u8>>);
}
