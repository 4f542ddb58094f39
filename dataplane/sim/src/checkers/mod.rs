//! The judge: hears everything that happens, at the moment it happens, and compares it with what SEMANTICS promises. It
//! shares no code with the core's merge; the first violation ends the run.

mod acks;
mod digest;
mod final_state;
pub(crate) mod ledger;
mod masters;
mod model;
mod procedures;
pub(crate) mod session;
mod stability;
mod steps;
mod stream;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use mas_core::cover::Cover;
use mas_core::stamp::Incarnation;

use self::acks::Acknowledged;
use self::ledger::{Ledger, Name, St};
use self::stream::Logged;
use crate::engine::Engine;
use crate::executor::{MS, Sim};
use crate::setup::Setup;

/// Lines of a timeline that are kept.
const LINES_MAX: usize = 200_000;

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    /// Which checker found it.
    pub(crate) checker: &'static str,
    pub(crate) text: String,
}

#[derive(Default)]
struct State {
    violation: Option<Violation>,
    lines: Vec<String>,
    checks: BTreeMap<&'static str, u64>,
    ledger: Ledger,
    logged: BTreeMap<(u16, u16), Logged>,
    acknowledged: Vec<Acknowledged>,
    /// Epochs and incarnations that were given, by region and shard.
    epochs: BTreeSet<(u16, u16, u64)>,
    incarnations: BTreeSet<u64>,
    /// How much the own stream held when an incarnation began.
    logged_before: BTreeMap<u64, usize>,
    /// What members held and then lost, by region, shard and member.
    held: BTreeMap<(u16, u16, usize), BTreeSet<Name>>,
    /// What was called durable, by region and shard, until some of it was lost.
    durable: BTreeMap<(u16, u16), Cover>,
    /// What was called stable, by region and shard.
    stable: BTreeMap<(u16, u16), u64>,
    /// Some value was lost to an expiry before its renewal: values of keys with times to live may differ.
    missing: bool,
    /// Something was held back for its clock: it may come as state before its time.
    held_back: bool,
    procedures: procedures::Procedures,
}

/// See the module.
pub(crate) struct Judge {
    sim: Sim,
    trace: bool,
    lossy: bool,
    engines: RefCell<Vec<std::rc::Weak<Engine>>>,
    state: RefCell<State>,
}

impl Judge {
    pub(crate) fn new(sim: &Sim, setup: &Setup, trace: bool) -> Rc<Self> {
        Rc::new(Self {
            sim: sim.clone(),
            trace,
            lossy: setup.situation.is_lossy(),
            engines: RefCell::default(),
            state: RefCell::default(),
        })
    }

    /// A line for the timeline, when there is one.
    pub(crate) fn note(&self, line: impl FnOnce() -> String) {
        if self.trace {
            let now = self.sim.now();
            let line = line();
            let mut state = self.state.borrow_mut();
            if state.lines.len() < LINES_MAX {
                state.lines.push(format!("{:>5}.{:03}ms  {line}", now / MS, now % MS));
            }
        }
    }

    /// A promise is broken; the run ends.
    pub(crate) fn violate(&self, checker: &'static str, text: String) {
        self.note(|| format!("VIOLATION ({checker}): {text}"));
        self.state.borrow_mut().violation.get_or_insert(Violation { checker, text });
        self.sim.stop();
    }

    pub(crate) fn violation(&self) -> Option<Violation> {
        self.state.borrow().violation.clone()
    }

    pub(crate) fn timeline(&self) -> Vec<String> {
        std::mem::take(&mut self.state.borrow_mut().lines)
    }

    /// A checker has looked at something.
    pub(crate) fn checked(&self, checker: &'static str) {
        *self.state.borrow_mut().checks.entry(checker).or_default() += 1;
    }

    pub(crate) fn checks(&self) -> BTreeMap<&'static str, u64> {
        self.state.borrow().checks.clone()
    }

    pub(crate) fn commits(&self) -> usize {
        self.state.borrow().ledger.commits.len()
    }

    /// A buffer is within its bound.
    pub(crate) fn bound(&self, buffer: &'static str, value: u64, most: u64) {
        self.checked("bounds");
        if value > most {
            self.violate("bounds", format!("{buffer} holds {value}, the bound is {most}"));
        }
    }

    /// The stamp of an effect of one's own region.
    pub(crate) fn stamp_of(&self, shard: u16, incarnation: Incarnation, seq: u64) -> Option<St> {
        let state = self.state.borrow();
        let commits = &state.ledger;
        // Incarnations are never reused, so any region's will do.
        (1..=8)
            .find_map(|region| commits.of_name(shard, (region, incarnation.0, seq)))
            .map(ledger::Commit::stamp)
    }

    /// When the last time-to-live ends that was ever given.
    pub(crate) fn last_expiry_ms(&self) -> u64 {
        let state = self.state.borrow();
        // Markers are left to themselves for a day.
        let marker = |key: &bytes::Bytes| key.starts_with(mas_core::procedures::marker::PREFIX.as_bytes());
        let of_clients = state.ledger.commits.iter().filter(|c| !c.key.as_ref().is_some_and(marker));
        let facts = of_clients.flat_map(|commit| &commit.facts);
        let ends = facts
            .filter_map(|fact| if let ledger::Fact::Expire { at_ms, .. } = fact { *at_ms } else { None });
        ends.max().unwrap_or(0)
    }

    /// The stamp of whatever may have taken away a key that is only ever set: a flush.
    pub(crate) fn stamp_of_nothing(&self, shard: u16) -> St {
        self.state.borrow().ledger.last_floor(shard)
    }

    /// The stamp of the effect of an operation.
    pub(crate) fn stamp_of_number(&self, number: usize) -> Option<St> {
        self.state.borrow().ledger.of_number(number).map(ledger::Commit::stamp)
    }
}
