//! Sessions. Whoever reads must not see less than it wrote and saw before, on one connection, or on another one once
//! `MAS.AWAIT` has confirmed the first one's token there.
//!
//! A reading is wrong if whatever may have made it is older (see [`super::order`]) than a write of which the session knew, and
//! which was acknowledged before the reading was asked. Excepted are writes of other regions if an engine of the reading's region was
//! in trouble since (it reads them again from the stream, but may serve before), and writes of the region itself if its
//! broker was away as well: a new master then serves before it has read back its own stream, and shows so.
//! Besides, what is read must have been sent by somebody by then.

use std::collections::BTreeMap;

use super::Verdict;
use super::order::{Cell, Order, Write, cells_of, reading};
use crate::history::{History, Micros, Op, Reply};

/// Writes (as places among their cell's) that a session knows, and since when.
type Knowledge = BTreeMap<Cell, BTreeMap<usize, Micros>>;

/// Follows every connection.
pub(crate) fn check(history: &History, order: &Order<'_>) -> Verdict {
    let mut verdict = Verdict::new("sessions");
    let mut sessions: BTreeMap<u32, Knowledge> = BTreeMap::new();
    let mut tokens: BTreeMap<&str, Knowledge> = BTreeMap::new();
    let mut writes: BTreeMap<usize, Vec<(&Cell, usize)>> = BTreeMap::new();
    for (cell, all) in &order.cells {
        for (number, write) in all.iter().enumerate() {
            writes.entry(write.op).or_default().push((cell, number));
        }
    }
    for (place, op) in history.ops.iter().enumerate() {
        let Some(reply) = op.reply() else { continue };
        let known = sessions.entry(op.session).or_default();
        match (op.words()[0], reply) {
            ("MAS.TOKEN", Reply::Text(token)) => drop(tokens.insert(token, known.clone())),
            ("MAS.AWAIT", _) => {
                for (cell, numbers) in tokens.get(op.words[1].as_str()).into_iter().flatten() {
                    let own = known.entry(cell.clone()).or_default();
                    for number in numbers.keys() {
                        own.entry(*number).or_insert(op.start);
                    }
                }
            }
            _ => {}
        }
        for (cell, number) in writes.get(&place).into_iter().flatten() {
            known.entry((*cell).clone()).or_default().entry(*number).or_insert(op.end);
        }
        let Some((key, values)) = reading(op) else { continue };
        for (cell, number, time) in read(history, order, (place, op), known, (key, &values), &mut verdict) {
            known.entry(cell).or_default().entry(number).or_insert(time);
        }
    }
    verdict
}

/// Judges one reading, and says which writes it has shown.
fn read(
    history: &History,
    order: &Order<'_>,
    (place, op): (usize, &Op),
    known: &Knowledge,
    (key, values): (&str, &BTreeMap<&str, &str>),
    verdict: &mut Verdict,
) -> Vec<(Cell, usize, Micros)> {
    let mut shown = Vec::new();
    for field in values.keys() {
        if !order.cells.contains_key(&(key.to_owned(), (*field).to_owned())) {
            verdict.violation(format!("{key} {field}: was read, but nobody wrote it"), [place]);
        }
    }
    for (cell, writes) in order.cells.range(cells_of(key)) {
        let value = values.get(cell.1.as_str()).copied();
        let makers =
            || writes.iter().enumerate().filter(|(_, w)| w.value.as_deref() == value && w.start < op.end);
        if value.is_some() {
            verdict.checked += 1;
            if makers().next().is_none() {
                verdict
                    .violation(format!("{key} {}: {value:?} was read before it was sent", cell.1), [place]);
            }
            shown.extend(makers().map(|(number, _)| (cell.clone(), number, op.start)));
        }
        for (number, since) in known.get(cell).into_iter().flatten() {
            let newer = &writes[*number];
            if newer.value.as_deref() == value || !counts(history, op, newer, *since) {
                continue;
            }
            verdict.checked += 1;
            // Without any maker it is what was there before the first write.
            if !makers().any(|(_, write)| !order.older(cell, write, newer)) {
                verdict.violation(
                    format!(
                        "{key} {}: {} was read by session {}, which knew of {}",
                        cell.1,
                        value.unwrap_or("nothing"),
                        op.session,
                        newer.value.as_deref().unwrap_or("its removal"),
                    ),
                    makers().map(|(_, write)| write.op).chain([newer.op, place]),
                );
            }
        }
    }
    shown
}

/// Whether the reading has to show that write, or a later one.
fn counts(history: &History, op: &Op, write: &Write, since: Micros) -> bool {
    let own = history.ops[write.op].region == op.region;
    let engine = history.engine_trouble(op.region, since, op.end);
    let broker = history.broker_trouble(op.region, since, op.end);
    write.settled && write.end < op.start && (!engine || (own && !broker))
}
