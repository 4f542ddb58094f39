//! Registers, sets, hashes and leaderboards at the end.
//!
//! What a cell holds must have been put there by a write that was acknowledged or is unknown, and that is not older
//! (see [`super::order`]) than another write that was acknowledged and must stay. A cell that holds nothing must never
//! have been written, or have been removed, by the same rule. So an acknowledged write that is lost, a removed member that
//! is back and a value that came from nowhere are all found; two writes in two regions that knew nothing of each other may end
//! either way.

use std::collections::BTreeMap;

use super::order::{Cell, Order, Write, is_cells};
use super::{Verdict, ends};
use crate::history::History;

/// Looks at every cell that was written or is there.
pub(crate) fn check(history: &History, order: &Order<'_>) -> Verdict {
    let mut verdict = Verdict::new("cells");
    let mut held: BTreeMap<Cell, &str> = BTreeMap::new();
    for (key, end) in ends(history).into_iter().filter(|(key, _)| is_cells(key)) {
        let parts = end.parts.iter();
        held.extend(parts.map(|(name, value)| ((key.to_owned(), name.clone()), value.as_str())));
    }
    for (cell, value) in &held {
        if !order.cells.contains_key(cell) {
            verdict.violation(format!("{}: holds {value}, which nobody wrote", shown(cell)), []);
        }
    }
    for (cell, writes) in &order.cells {
        verdict.checked += 1;
        let value = held.get(cell).copied();
        if let Some(why) = judge(order, cell, writes, value) {
            verdict.violation(
                format!("{}: holds {}; {why}", shown(cell), value.unwrap_or("nothing")),
                writes.iter().map(|write| write.op),
            );
        }
    }
    verdict
}

/// Why `value` cannot be what is left of these writes.
fn judge(order: &Order<'_>, cell: &Cell, writes: &[Write], value: Option<&str>) -> Option<&'static str> {
    let overrules = |b: &&Write| b.value.as_deref() != value;
    let stands = |a: &Write| !writes.iter().filter(overrules).any(|b| order.older(cell, a, b));
    let makers: Vec<&Write> = writes.iter().filter(|write| write.value.as_deref() == value).collect();
    // What was there before the first write is nothing.
    let still_empty = value.is_none() && !writes.iter().filter(overrules).any(|write| write.settled);
    match makers.is_empty() {
        _ if still_empty || makers.iter().any(|write| stands(write)) => None,
        true if value.is_none() => Some("an acknowledged write is lost"),
        true => Some("nobody wrote that"),
        false => Some("a later write was acknowledged"),
    }
}

fn shown((key, field): &Cell) -> String {
    if field.is_empty() { key.clone() } else { format!("{key} {field}") }
}
