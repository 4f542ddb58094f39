//! Folding of counters: what sealed incarnations of this region have added to a counter goes over to the live one, so that a
//! counter does not grow by a total with every failover.
//!
//! It is an ordinary effect of the live incarnation: the old total becomes zero, the live one takes it over. Never done by each
//! region on its own: one that folds and one that does not yet would count the same increments twice. Both totals must have been
//! started before what is stable: then no set or removal is unknown here that would end one of them and not the other.

use bytes::Bytes;

use crate::amount::{Amount, Decimal};
use crate::effect::{Change, Effect, Kind, Op};
use crate::keyspace::Keyspace;
use crate::meta::{Cell, KeyMeta, Total};
use crate::shard::Shard;
use crate::stamp::{Hlc, Stamp};
use crate::wire;

/// Most keys that one step folds.
const KEYS_MAX: usize = 256;

impl Shard {
    /// Folds counters in slots `first..end`. Returns the encoded effects; they are in the outbox, and the log entry of each is
    /// [`crate::shard::local_entry`] of it.
    pub fn fold(&mut self, first: u16, end: u16, wall_ms: u64, ks: &mut dyn Keyspace) -> Vec<Bytes> {
        let own = self.identity.origin();
        if !self.cover.sealed().any(|origin| origin.region == own.region) {
            return Vec::new();
        }
        let stable = if mutation!(FoldedUnstable) { self.clock() } else { self.stable().hlc };
        let named = (first..end).flat_map(|slot| self.table.slot_contents(slot).2);
        let folds = named.map(|(key, meta)| (key, self.folds(meta, stable)));
        let due: Vec<(Bytes, Vec<Fold>)> = folds
            .filter(|(_, folds)| !folds.is_empty())
            .take(KEYS_MAX)
            .map(|(key, folds)| (Bytes::copy_from_slice(key), folds))
            .collect();
        due.into_iter().map(|(key, folds)| self.fold_key(key, folds, wall_ms, ks)).collect()
    }

    fn fold_key(&mut self, key: Bytes, folds: Vec<Fold>, wall_ms: u64, ks: &mut dyn Keyspace) -> Bytes {
        let now = self.tick(wall_ms);
        let mut ops = Vec::new();
        for Fold { kind, name, old, live } in folds {
            let count = |total: Total, amount| Op::Count {
                kind,
                name: name.clone(),
                started: total.started,
                latest: now,
                amount,
            };
            ops.extend(old.iter().map(|total| count(*total, zero(total.amount))));
            ops.push(count(live, live.amount));
        }
        self.seq += 1;
        let origin = self.identity.origin();
        let effect = Effect { seq: self.seq, hlc: now, changes: vec![Change::Key { key, ops }] };
        self.merge_effect(&effect, ks);
        let told = if mutation!(FoldedByEach) { Effect { changes: Vec::new(), ..effect } } else { effect };
        let bytes = wire::encode_effect(&told, origin);
        self.outbox.push(origin.incarnation, self.seq, bytes.clone(), wall_ms);
        bytes
    }

    /// What there is to fold in a key. One with a time-to-live waits until that is over.
    fn folds(&self, meta: &KeyMeta, stable: Hlc) -> Vec<Fold> {
        let death = meta.death();
        let Some(kind) = meta.cells.kind().filter(|_| meta.ttl.lives.is_empty()) else { return Vec::new() };
        let fold = |(name, cell): (&[u8], &Cell)| self.fold_cell(kind, name, cell, death, stable);
        meta.cells.iter().filter_map(fold).collect()
    }

    fn fold_cell(&self, kind: Kind, name: &[u8], cell: &Cell, death: Stamp, stable: Hlc) -> Option<Fold> {
        let counter = cell.counter.as_ref()?;
        let own = self.identity.origin();
        let alive = death.max(cell.base);
        let old: Vec<Total> = counter
            .totals
            .iter()
            .filter(|t| t.started > alive && t.latest <= stable && t.amount != zero(t.amount))
            .filter(|t| t.started.origin.region == own.region && self.cover.is_sealed(t.started.origin))
            .copied()
            .collect();
        let latest = old.iter().map(|t| t.started.hlc).max()?;
        let known = cell.total_of(own, death);
        if known.is_some_and(|live| live.started.hlc > stable) {
            return None;
        }
        let started = known.map_or(Stamp::new(latest, own), |live| live.started);
        let amounts = known.into_iter().chain(&old).map(|t| t.amount);
        let amount = amounts.map(Some).reduce(|a, b| sum(a?, b?))??;
        let live = Total { started, latest, amount };
        (started > alive).then(|| Fold { kind, name: Bytes::copy_from_slice(name), old, live })
    }
}

/// What becomes of one cell.
struct Fold {
    kind: Kind,
    name: Bytes,
    old: Vec<Total>,
    live: Total,
}

fn zero(amount: Amount) -> Amount {
    match amount {
        Amount::Decimal(number) => Amount::Decimal(Decimal { units: 0, ..number }),
        Amount::Score(_) => Amount::Score(0.0),
    }
}

/// `None`: beyond the range, so that it stays as it is.
fn sum(a: Amount, b: Amount) -> Option<Amount> {
    match (a, b) {
        (Amount::Decimal(a), Amount::Decimal(b)) => Decimal::checked_add(a, b).map(Amount::Decimal),
        (Amount::Score(a), Amount::Score(b)) => Some(a + b).filter(|sum| sum.is_finite()).map(Amount::Score),
        _ => None,
    }
}
