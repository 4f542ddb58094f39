//! The merge of one key: operations in, metadata changed, native values shown. The only one there is: replicas,
//! the AOF, peers and repair all come through here.

use bytes::Bytes;

use crate::amount::{Amount, Decimal};
use crate::digest::Place;
use crate::effect::{Kind, Op, Value};
use crate::keyspace::Keyspace;
use crate::meta::{Cell, Cells, Counter, KeyMeta, Kill, Total};
use crate::stamp::Stamp;

/// What became of some operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Operations that took effect.
    pub applied: u64,
    /// Operations that a later stamp had overruled.
    pub overruled: u64,
    /// Values that should be shown again but are not here any more: their key expired here before its renewal arrived,
    /// and the renewal did not carry them. A hole that state repair fills.
    pub missing: u64,
}

impl Outcome {
    /// Adds up.
    pub fn add(&mut self, other: Self) {
        self.applied += other.applied;
        self.overruled += other.overruled;
        self.missing += other.missing;
    }
}

/// Merges `ops` into `meta` and shows what changed in `ks`.
pub fn merge_key(meta: &mut KeyMeta, key: &[u8], ops: &[Op], ks: &mut dyn Keyspace) -> Outcome {
    let mut outcome = Outcome::default();
    let had_ttl = !meta.ttl.lives.is_empty();
    let had_at = meta.ttl.at_ms();
    for op in ops {
        let before = View::of(meta);
        let applied = merge_op(meta, key, op, ks, &mut outcome);
        outcome.applied += u64::from(applied);
        outcome.overruled += u64::from(!applied);
        before.sweep(meta, key, ks, &mut outcome);
    }
    if had_at.is_some() && had_at != meta.ttl.at_ms() {
        outcome.missing += restore(meta, key, ks);
    }
    if had_ttl || !meta.ttl.lives.is_empty() {
        ks.set_expiry(key, meta.ttl.at_ms());
    }
    outcome
}

/// The key may have expired here before this change of its time-to-live arrived: shows again what the metadata knows the value of,
/// and counts what it does not.
fn restore(meta: &KeyMeta, key: &[u8], ks: &mut dyn Keyspace) -> u64 {
    let Some(kind) = meta.cells.kind() else { return 0 };
    let death = meta.death();
    let mut missing = 0;
    for (name, cell) in meta.cells.iter().filter(|(_, cell)| cell.is_live(death)) {
        if ks.read(key, kind, name).is_none() || cell.lacks_base(death) {
            missing += u64::from(!show_known(cell, key, kind, name, death, ks));
        }
    }
    missing
}

/// Shows what the metadata knows of a live cell: a sum, or a set's member. `false`: its value, or a part of it, is gone.
fn show_known(cell: &Cell, key: &[u8], kind: Kind, name: &[u8], death: Stamp, ks: &mut dyn Keyspace) -> bool {
    match cell.sum(death) {
        Some(sum) => {
            ks.write(key, kind, name, &shown(sum));
            !cell.lacks_base(death)
        }
        None if kind == Kind::Set => {
            ks.write(key, kind, name, &Value::Member);
            true
        }
        None => ks.read(key, kind, name).is_some(),
    }
}

/// What decided about all cells before an operation.
struct View {
    death: Stamp,
    kind: Option<Kind>,
}

impl View {
    fn of(meta: &KeyMeta) -> Self {
        Self { death: meta.death(), kind: meta.cells.kind() }
    }

    /// Shows what the operation changed beyond its own cell: a new type, a higher floor, a kill, a kill made void.
    fn sweep(self, meta: &mut KeyMeta, key: &[u8], ks: &mut dyn Keyspace, outcome: &mut Outcome) {
        let now = Self::of(meta);
        if now.death == self.death {
            return;
        }
        if !mutation!(DigestForgetsKills) {
            meta.sum = meta.sum_of_cells(key);
        }
        let Some(kind) = now.kind else {
            if self.kind.is_some() {
                ks.delete(key);
            }
            return;
        };
        if self.kind == now.kind && now.death > self.death && !meta.is_live() {
            ks.delete(key);
            return;
        }
        for (name, cell) in meta.cells.iter() {
            let (was, is) = (cell.is_live(self.death), cell.is_live(now.death));
            if was && !is {
                ks.remove(key, kind, name);
            } else if is && (!was || cell.counter.is_some()) {
                outcome.missing += u64::from(!show_known(cell, key, kind, name, now.death, ks));
            }
        }
    }
}

/// A number as a native value.
pub(crate) fn shown(amount: Amount) -> Value {
    match amount {
        Amount::Decimal(number) => Value::Bytes(Bytes::from(number.format())),
        Amount::Score(score) => Value::Score(score),
    }
}

/// The number in a native value, if it is one.
pub fn number_in(value: &Value) -> Option<Amount> {
    match value {
        Value::Bytes(bytes) => Decimal::parse(bytes).map(Amount::Decimal),
        Value::Score(score) => Some(Amount::Score(*score)),
        Value::Member | Value::Gone => None,
    }
}

/// Returns whether the operation took effect.
fn merge_op(meta: &mut KeyMeta, key: &[u8], op: &Op, ks: &mut dyn Keyspace, outcome: &mut Outcome) -> bool {
    match op {
        Op::Floor(stamp) => {
            let applied = *stamp > meta.floor;
            if !mutation!(FloorKeepsTtl) {
                meta.ttl.clear(*stamp);
            }
            // Cells that go for good here are taken from view by name; the sweep only sees those that stay.
            hide_pruned(meta, key, *stamp, ks);
            applied
        }
        Op::Put { kind, name, stamp, value, keep_ttl } => {
            if *kind == Kind::Str && !keep_ttl && !mutation!(SetKeepsTtl) {
                meta.ttl.clear(*stamp);
            }
            if !enter(meta, key, *kind, *stamp, ks) {
                return false;
            }
            let applied = put(meta, key, *kind, name, *stamp, value.as_ref(), ks);
            if applied && *value == Some(Value::Gone) {
                let death = meta.death();
                outcome.missing += u64::from(meta.cells.get(name).is_some_and(|cell| cell.is_live(death)));
            }
            applied
        }
        Op::Count { kind, name, started, latest, amount } => {
            let total = Total { started: *started, latest: *latest, amount: *amount };
            if !enter(meta, key, *kind, *started, ks) {
                return false;
            }
            outcome.missing += u64::from(!start_counting(meta, key, *kind, name, ks));
            count(meta, key, *kind, name, total, ks)
        }
        Op::ValuesFloor(stamp) => {
            let applied = *stamp > meta.floor;
            hide_pruned(meta, key, *stamp, ks);
            applied
        }
        Op::ClearTtl(stamp) => {
            let applied = *stamp > meta.ttl.clear;
            meta.ttl.clear(*stamp);
            applied
        }
        Op::Expire { stamp, life, at_ms } => meta.ttl.expire(*stamp, *life, *at_ms),
        Op::Kill { life, register, until_ms, at } => {
            meta.ttl.kill(*life, Kill { register: *register, until_ms: *until_ms, at: *at })
        }
    }
}

/// Raises the floor, and takes from view what dies by it.
fn hide_pruned(meta: &mut KeyMeta, key: &[u8], floor: Stamp, ks: &mut dyn Keyspace) {
    if floor <= meta.floor {
        return;
    }
    let death = meta.death();
    let Some(kind) = meta.cells.kind() else {
        meta.raise_floor(floor);
        return;
    };
    let dying = |cell: &Cell| cell.is_live(death) && !cell.is_live(death.max(floor));
    let dead: Vec<Box<[u8]>> = match &meta.cells {
        Cells::Map(_, map) if meta.rank > floor => {
            map.iter().filter(|(_, cell)| dying(cell)).map(|(name, _)| name.clone()).collect()
        }
        Cells::None | Cells::Str(_) | Cells::Map(..) => Vec::new(),
    };
    let was_live = meta.is_live();
    meta.raise_floor(floor);
    if mutation!(FloorIsForgotten) {
        meta.floor = Stamp::ZERO;
    }
    if was_live && !meta.is_live() {
        ks.delete(key);
    } else {
        for name in dead {
            ks.remove(key, kind, &name);
        }
    }
}

/// Whether a write of `kind` and `rank` may go into the key; settles which type wins.
fn enter(meta: &mut KeyMeta, key: &[u8], kind: Kind, rank: Stamp, ks: &mut dyn Keyspace) -> bool {
    if rank <= meta.floor {
        return false;
    }
    match meta.cells.kind() {
        Some(mine) if mine != kind => {
            if rank > meta.rank {
                ks.delete(key);
            } else {
                hide_pruned(meta, key, rank, ks);
                return false;
            }
        }
        Some(_) | None => {}
    }
    meta.enter(kind, rank)
}

fn put(
    meta: &mut KeyMeta,
    key: &[u8],
    kind: Kind,
    name: &[u8],
    stamp: Stamp,
    value: Option<&Value>,
    ks: &mut dyn Keyspace,
) -> bool {
    let (death, place) = (meta.death(), Place::new(key, kind, name));
    let Some(cell) = meta.cell_mut(name) else { return false };
    let older = if mutation!(WrongTieBreak) { stamp.hlc < cell.base.hlc } else { stamp < cell.base };
    if older && !mutation!(ArrivalOrder) {
        return false;
    }
    let gone = value == Some(&Value::Gone);
    if gone && cell.present && stamp == cell.base {
        return false;
    }
    let was = if mutation!(DigestForgetsRemoval) && value.is_none() { 0 } else { place.cell(cell, death) };
    cell.base = if mutation!(NoTombstone) && value.is_none() { Stamp::ZERO } else { stamp };
    cell.present = value.is_some();
    if let Some(counter) = &mut cell.counter {
        counter.totals.retain(|t| t.started > stamp || mutation!(DeadTotalsCount));
        if counter.totals.is_empty() {
            cell.counter = None;
        } else {
            (counter.base, counter.base_gone) = (value.and_then(number_in), gone);
        }
    }
    match (cell.sum(death), value) {
        (Some(sum), _) => ks.write(key, kind, name, &shown(sum)),
        (None, Some(value)) if cell.is_live(death) && !gone => ks.write(key, kind, name, value),
        (None, _) => ks.remove(key, kind, name),
    }
    let is = place.cell(cell, death);
    meta.sum = meta.sum.wrapping_sub(was).wrapping_add(is);
    true
}

/// Makes sure that a cell has a counter, with the number that is set now as its base. `false`: the cell's value is
/// not here any more.
pub fn start_counting(
    meta: &mut KeyMeta,
    key: &[u8],
    kind: Kind,
    name: &[u8],
    ks: &mut dyn Keyspace,
) -> bool {
    let death = meta.death();
    let Some(cell) = meta.cell_mut(name) else { return true };
    if cell.counter.is_some() {
        return true;
    }
    let live = cell.is_live(death);
    let base = if live { ks.read(key, kind, name) } else { None };
    let base_gone = cell.present && base.is_none();
    let counter = Counter { base: base.as_ref().and_then(number_in), base_gone, totals: Vec::new() };
    cell.counter = Some(Box::new(counter));
    !(live && base_gone)
}

fn count(
    meta: &mut KeyMeta,
    key: &[u8],
    kind: Kind,
    name: &[u8],
    total: Total,
    ks: &mut dyn Keyspace,
) -> bool {
    let (death, place) = (meta.death(), Place::new(key, kind, name));
    let Some(cell) = meta.cell_mut(name) else { return false };
    let was = place.cell(cell, death);
    let base = cell.base;
    let Some(counter) = &mut cell.counter else { return false };
    if total.started <= base && !mutation!(DeadTotalsCount) {
        if counter.totals.is_empty() {
            cell.counter = None;
        }
        return false;
    }
    let origin = total.started.origin;
    let by_region = mutation!(TotalsByRegion);
    match counter.totals.binary_search_by(|t| {
        if by_region { t.started.origin.region.cmp(&origin.region) } else { t.started.origin.cmp(&origin) }
    }) {
        Ok(at) => {
            let known = &mut counter.totals[at];
            if (total.started, total.latest) < (known.started, known.latest) && !mutation!(StaleTotalWins) {
                return false;
            }
            *known = total;
        }
        Err(at) => counter.totals.insert(at, total),
    }
    if let Some(sum) = cell.sum(death) {
        ks.write(key, kind, name, &shown(sum));
    }
    let is = place.cell(cell, death);
    meta.sum = meta.sum.wrapping_sub(was).wrapping_add(is);
    true
}

/// All of a key's state as operations with their own stamps, for a renewal or a transfer. `None` when a value is not
/// here, or when the values together exceed `limit` bytes.
pub fn state_ops(meta: &KeyMeta, key: &[u8], limit: usize, ks: &mut dyn Keyspace) -> Option<Vec<Op>> {
    let mut ops = Vec::new();
    let mut size = 0;
    let death = meta.death();
    let kind = meta.cells.kind()?;
    for (name, cell) in meta.cells.iter() {
        if !cell.is_live(death) {
            continue;
        }
        let name = Bytes::copy_from_slice(name);
        size += name.len() + 32;
        if cell.present && cell.base > death {
            // Beside live totals only the number below them counts; without one, what is shown is what was set.
            let value = match &cell.counter {
                Some(counter) if cell.counted(death) => {
                    counter.base.map_or(Value::Bytes(Bytes::new()), shown)
                }
                Some(_) | None => ks.read(key, kind, &name)?,
            };
            size += if let Value::Bytes(bytes) = &value { bytes.len() } else { 8 };
            ops.push(Op::Put {
                kind,
                name: name.clone(),
                stamp: cell.base,
                value: Some(value),
                keep_ttl: true,
            });
        }
        for total in cell.counter.iter().flat_map(|c| &c.totals).filter(|t| t.started > death) {
            size += 40;
            let Total { started, latest, amount } = *total;
            ops.push(Op::Count { kind, name: name.clone(), started, latest, amount });
        }
        if size > limit {
            return None;
        }
    }
    Some(ops)
}
