//! A Redis server's AOF: a snapshot and the steps since. A kill keeps what was handed to the system; a power loss keeps
//! at least what was fsynced, and of the rest some prefix.

use bytes::Bytes;
use mas_core::keyspace::Keyspace;
use mas_core::save::Loader;
use mas_core::shard::Shard;

use crate::keyspace::Keys;
use crate::rng::Rng;
use crate::setup::Fsync;

/// One entry of the AOF, and of the replication stream.
#[derive(Clone, Debug)]
pub(crate) enum Entry {
    /// `MAS.APPLY`.
    Step(Bytes),
    /// Redis' own `DEL` of a key that expired.
    Del(Bytes),
}

impl Entry {
    /// Applies it, as a replica and the loading of an AOF do. `false`: it cannot be read.
    pub(crate) fn apply(&self, shard: &mut Shard, keys: &mut Keys, wall_ms: u64) -> bool {
        match self {
            Self::Step(entry) => shard.apply(entry.clone(), wall_ms, keys).is_ok(),
            Self::Del(key) => {
                keys.delete(key);
                true
            }
        }
    }
}

/// The whole state at one moment: an RDB file, or a full sync.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    chunks: Vec<Bytes>,
    keys: Keys,
}

impl Snapshot {
    pub(crate) fn take(shard: &Shard, keys: &Keys) -> Self {
        let mut chunks = Vec::new();
        shard.save(&mut |chunk| chunks.push(Bytes::copy_from_slice(chunk)));
        Self { chunks, keys: keys.clone() }
    }

    /// `None`: it cannot be read.
    pub(crate) fn load(&self) -> Option<(Shard, Keys)> {
        let mut loader = Loader::default();
        for chunk in &self.chunks {
            loader.chunk(chunk.clone()).ok()?;
        }
        Some((loader.finish().ok()?, self.keys.clone()))
    }
}

/// See the module.
pub(crate) struct Disk {
    fsync: Fsync,
    base: Option<Snapshot>,
    entries: Vec<Entry>,
    synced: usize,
    /// What the server has is not in its files: it copied it, and they are written in the background.
    behind: bool,
}

impl Disk {
    pub(crate) fn new(fsync: Fsync) -> Self {
        Self { fsync, base: None, entries: Vec::new(), synced: 0, behind: false }
    }

    pub(crate) fn append(&mut self, entry: Entry) {
        if self.fsync == Fsync::Off || self.behind {
            return;
        }
        self.entries.push(entry);
        if self.fsync == Fsync::Always {
            self.synced = self.entries.len();
        }
    }

    /// Everything so far is on the disk.
    pub(crate) fn sync(&mut self) {
        self.synced = self.entries.len();
    }

    /// A snapshot takes the place of everything.
    pub(crate) fn rewrite(&mut self, snapshot: Snapshot) {
        if self.fsync != Fsync::Off {
            self.base = Some(snapshot);
            self.entries.clear();
            self.synced = 0;
            self.behind = false;
        }
    }

    /// From now on the server has something else than its files, until they are rewritten.
    pub(crate) fn fall_behind(&mut self) {
        self.behind = self.fsync != Fsync::Off;
    }

    pub(crate) fn is_behind(&self) -> bool {
        self.behind
    }

    /// A new process has loaded what is in the files.
    pub(crate) fn reopened(&mut self) {
        self.behind = false;
    }

    /// The files are gone.
    pub(crate) fn wipe(&mut self) {
        *self = Self::new(self.fsync);
    }

    /// What a power loss leaves. Returns how many entries are gone.
    pub(crate) fn lose_power(&mut self, rng: &mut Rng) -> usize {
        let kept = rng.range(self.synced as u64, self.entries.len() as u64) as usize;
        let lost = self.entries.len() - kept;
        self.entries.truncate(kept);
        lost
    }

    /// Loads what is there; `None`: it cannot be read.
    pub(crate) fn load(&self, hash_key: (u64, u64), wall_ms: u64) -> Option<(Shard, Keys)> {
        let (mut shard, mut keys) = match &self.base {
            Some(base) => base.load()?,
            None => (Shard::new(hash_key), Keys::default()),
        };
        for entry in &self.entries {
            if !entry.apply(&mut shard, &mut keys, wall_ms) {
                return None;
            }
        }
        Some((shard, keys))
    }
}
