//! The version metadata of one key: a floor, the time-to-live's history, and a cell a value.
//!
//! The state is a join of maxima, so merging is commutative, associative and idempotent:
//! * the floor is the greatest of all floors, and of the greatest stamps of all losing types;
//! * the type with the greatest stamp wins ([`KeyMeta::enter`]);
//! * a cell keeps its latest put, and each origin's latest total ([`Cell`]);
//! * a life keeps its latest register and latest kill ([`Ttl`]).
//!
//! What is shown is a function of that state alone. See docs/concepts.md, "How conflicts end".

use hashbrown::HashMap;

use crate::amount::Amount;
use crate::cover::Cover;
use crate::digest;
use crate::effect::Kind;
use crate::stamp::{Hlc, Origin, Stamp};

/// One origin's running total.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Total {
    /// When and by whom it was started: its rank, and what a put must reach to kill it.
    pub started: Stamp,
    /// When it last grew.
    pub latest: Hlc,
    /// The total.
    pub amount: Amount,
}

/// Increments of a cell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// The number set last; `None` when that is no number, or nothing is set.
    pub base: Option<Amount>,
    /// Something is set, but it had expired here when counting began: the base is not known.
    pub base_gone: bool,
    /// The live totals, in the order of their origins.
    pub totals: Vec<Total>,
}

/// A value's version: the latest put, and what was added since.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    /// Stamp of the latest put; zero when there was none.
    pub base: Stamp,
    /// Whether the latest put set a value (a removal leaves a tombstone).
    pub present: bool,
    /// Present once the cell was counted.
    pub counter: Option<Box<Counter>>,
}

impl Cell {
    /// The greatest stamp in it.
    pub fn rank(&self) -> Stamp {
        let totals = self.counter.iter().flat_map(|c| c.totals.iter().map(|t| t.started));
        totals.fold(self.base, Stamp::max)
    }

    /// Whether it shows a value when all at or below `death` is dead.
    pub fn is_live(&self, death: Stamp) -> bool {
        (self.present && self.base > death) || self.counted(death)
    }

    /// Whether a total of it is live.
    pub fn counted(&self, death: Stamp) -> bool {
        self.counter.as_ref().is_some_and(|c| c.totals.iter().any(|t| t.started > death))
    }

    /// The number that it shows, if a total is live: base and totals, added in the order of their origins.
    pub fn sum(&self, death: Stamp) -> Option<Amount> {
        let counter = self.counter.as_ref()?;
        let base = counter.base.filter(|_| self.present && self.base > death && !mutation!(SumWithoutBase));
        let live = counter.totals.iter().filter(|t| t.started > death).map(|t| t.amount);
        self.counted(death).then(|| base.into_iter().chain(live).reduce(Amount::plus)).flatten()
    }

    /// Whether what was set last is live, but was not here when counting began.
    pub fn lacks_base(&self, death: Stamp) -> bool {
        self.present && self.base > death && self.counter.as_ref().is_some_and(|c| c.base_gone)
    }

    /// Whether it only says that it was removed.
    pub fn is_tombstone(&self) -> bool {
        !self.present && self.counter.is_none()
    }

    /// This origin's total, if it is live.
    pub fn total_of(&self, origin: Origin, death: Stamp) -> Option<&Total> {
        let alive = death.max(self.base);
        self.counter.as_ref()?.totals.iter().find(|t| t.started.origin == origin && t.started > alive)
    }

    /// Totals of sealed incarnations that went over to another one ([`crate::folding`]), and that nobody can have otherwise.
    fn folded(&self, death: Stamp, stable: Hlc, cover: &Cover) -> impl Iterator<Item = Stamp> {
        let totals = self.counter.iter().flat_map(|c| &c.totals);
        let counts = |t: &Total| t.started > death && !t.amount.is_zero();
        let others = totals.clone().any(counts);
        let gone =
            move |t: &&Total| t.amount.is_zero() && t.latest <= stable && cover.is_sealed(t.started.origin);
        totals.filter(move |t| others && gone(t)).map(|t| t.started)
    }

    fn forget_folded(&mut self, death: Stamp, stable: Hlc, cover: &Cover) {
        let folded: Vec<Stamp> = self.folded(death, stable, cover).collect();
        if let Some(counter) = self.counter.as_mut().filter(|_| !folded.is_empty()) {
            counter.totals.retain(|t| !folded.contains(&t.started));
        }
    }

    /// Forgets what is at or below `floor` for good; `false` when nothing is left.
    pub fn prune(&mut self, floor: Stamp) -> bool {
        if self.base <= floor {
            self.base = Stamp::ZERO;
            self.present = false;
        }
        if let Some(counter) = &mut self.counter {
            if !self.present {
                (counter.base, counter.base_gone) = (None, false);
            }
            let alive = floor.max(self.base);
            counter.totals.retain(|t| t.started > alive);
            if counter.totals.is_empty() && !self.present {
                self.counter = None;
            }
        }
        !self.base.is_zero() || self.counter.is_some()
    }
}

/// An unbroken row of renewals of a time-to-live, named by the stamp of its first register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// Stamp of its first register.
    pub id: Stamp,
    /// Stamp of its latest register; zero when only a kill of it was seen yet.
    pub register: Stamp,
    /// When the key dies under it, unix milliseconds; `None`: never (`PERSIST`).
    pub at_ms: Option<u64>,
    /// The kill of its latest register that was found expired.
    pub kill: Option<Kill>,
}

/// A writer found the key expired, and began anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kill {
    /// The register that it expired under.
    pub register: Stamp,
    /// That register's time, unix milliseconds.
    pub until_ms: u64,
    /// When it was found: nobody who has seen it renews that life.
    pub at: Hlc,
}

impl Kill {
    /// Where the life ends. A clock that runs ahead of the wall may have issued the register itself after its time.
    fn end(&self) -> Stamp {
        self.register.max(Stamp { hlc: Hlc::from_millis(self.until_ms), ..Stamp::ZERO })
    }
}

/// The history of a key's time-to-live, as far as it still matters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ttl {
    /// Latest write that takes away any time-to-live (`SET`, a floor): registers and kills at or below are void.
    pub clear: Stamp,
    /// Lives above `clear`, in the order of their ids. Nearly always at most one.
    pub lives: Vec<Life>,
}

impl Ttl {
    /// Takes away every register at or below `stamp`.
    pub fn clear(&mut self, stamp: Stamp) {
        if stamp > self.clear {
            self.clear = stamp;
            self.lives.retain_mut(|life| {
                if life.register <= stamp {
                    (life.register, life.at_ms) = (Stamp::ZERO, None);
                }
                life.kill = life.kill.filter(|kill| kill.register > stamp);
                !life.register.is_zero() || life.kill.is_some()
            });
        }
    }

    fn life(&mut self, id: Stamp) -> &mut Life {
        let at = match self.lives.binary_search_by(|l| l.id.cmp(&id)) {
            Ok(at) => at,
            Err(at) => {
                self.lives.insert(at, Life { id, register: Stamp::ZERO, at_ms: None, kill: None });
                at
            }
        };
        &mut self.lives[at]
    }

    /// Merges a register; `false` when a later one is known.
    pub fn expire(&mut self, stamp: Stamp, id: Stamp, at_ms: Option<u64>) -> bool {
        if stamp <= self.clear {
            return false;
        }
        let newest = self.lives.iter().all(|l| l.register < stamp);
        let life = self.life(id);
        if stamp > life.register || mutation!(ExpiryByArrival) {
            life.register = stamp;
            life.at_ms = at_ms;
        }
        newest
    }

    /// Merges a kill; `false` when it is void already.
    pub fn kill(&mut self, id: Stamp, kill: Kill) -> bool {
        if kill.register <= self.clear {
            return false;
        }
        let life = self.life(id);
        if life.kill.is_none_or(|known| (kill.register, kill.at) > (known.register, known.at)) {
            life.kill = Some(kill);
        }
        !self.is_void(kill)
    }

    /// A kill of `register` at `until_ms` is void if the time-to-live was cleared after that register, or if a later register
    /// belongs to a life that had begun by then: the key was renewed by somebody who did not see it expire.
    fn is_void(&self, kill: Kill) -> bool {
        if mutation!(ExpiryOvertakesRenewal) {
            return false;
        }
        let end = kill.end();
        self.clear > kill.register || self.lives.iter().any(|l| l.register > kill.register && l.id <= end)
    }

    /// All below this stamp has expired, and somebody began anew. Falls again when a renewal arrives.
    pub fn death(&self) -> Stamp {
        let kills = self.lives.iter().filter_map(|l| l.kill);
        kills.filter(|kill| !self.is_void(*kill)).map(|kill| kill.end()).max().unwrap_or(Stamp::ZERO)
    }

    /// The life whose register is the latest, unless that was killed, or a later one that is not here yet: whoever knows of a
    /// kill and writes on begins a new life.
    pub fn current(&self) -> Option<&Life> {
        let life = self.lives.iter().max_by_key(|l| l.register)?;
        let mut kills = self.lives.iter().filter_map(|l| l.kill);
        let killed = kills.any(|kill| kill.register >= life.register && !self.is_void(kill));
        (!killed && !life.register.is_zero()).then_some(life)
    }

    /// Whether all of it is at or below `stable`.
    fn is_stable(&self, stable: Hlc) -> bool {
        let kill = |kill: Kill| kill.at <= stable && kill.register.hlc <= stable;
        self.lives.iter().all(|l| l.register.hlc <= stable && l.id.hlc <= stable && l.kill.is_none_or(kill))
    }

    /// When the key dies, unix milliseconds.
    pub fn at_ms(&self) -> Option<u64> {
        self.current().and_then(|l| l.at_ms)
    }
}

/// The cells of a key.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Cells {
    /// None.
    #[default]
    None,
    /// A string's only one.
    Str(Cell),
    /// One a field or member. Never of kind `Str`.
    Map(Kind, HashMap<Box<[u8]>, Cell>),
}

impl Cells {
    /// The key's type.
    pub fn kind(&self) -> Option<Kind> {
        match self {
            Self::None => None,
            Self::Str(_) => Some(Kind::Str),
            Self::Map(kind, _) => Some(*kind),
        }
    }

    /// No cells yet, of this type.
    pub fn empty(kind: Kind) -> Self {
        match kind {
            Kind::Str => Self::Str(Cell::default()),
            Kind::Hash | Kind::Set | Kind::Zset => Self::Map(kind, HashMap::new()),
        }
    }

    /// A cell.
    pub fn get(&self, name: &[u8]) -> Option<&Cell> {
        match self {
            Self::None => None,
            Self::Str(cell) => Some(cell),
            Self::Map(_, map) => map.get(name),
        }
    }

    /// All cells with their names.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &Cell)> {
        let (one, map) = match self {
            Self::None => (None, None),
            Self::Str(cell) => (Some((&[][..], cell)), None),
            Self::Map(_, map) => (None, Some(map.iter().map(|(name, cell)| (&name[..], cell)))),
        };
        one.into_iter().chain(map.into_iter().flatten())
    }
}

/// The version metadata of one key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KeyMeta {
    /// Everything at or below is dead.
    pub floor: Stamp,
    /// Its time-to-live.
    pub ttl: Ttl,
    /// The winning type's cells.
    pub cells: Cells,
    /// The greatest stamp that the winning type ever had, tombstones included.
    pub rank: Stamp,
    /// The sum of the live cells' elements ([`digest`]). It follows from the rest.
    pub(crate) sum: u64,
}

impl KeyMeta {
    /// What a plain string has that was set once, by a write that clears the time-to-live.
    pub fn plain(stamp: Stamp) -> Self {
        Self {
            floor: Stamp::ZERO,
            ttl: Ttl { clear: stamp, lives: Vec::new() },
            cells: Cells::Str(Cell { base: stamp, present: true, counter: None }),
            rank: stamp,
            sum: digest::string(stamp),
        }
    }

    /// What a key has of which nothing is known but its slot's floor: times to live at or below are void too.
    pub fn below(floor: Stamp) -> Self {
        Self { floor, ttl: Ttl { clear: floor, lives: Vec::new() }, ..Self::default() }
    }

    /// Whether [`KeyMeta::below`] says all that there is to say.
    pub fn says_no_more_than(&self, floor: Stamp) -> bool {
        self.cells == Cells::None
            && self.ttl.lives.is_empty()
            && self.floor <= floor
            && self.ttl.clear <= floor
    }

    /// The stamp, if [`KeyMeta::plain`] says all that there is to say: a floor below a live string is implied by it.
    pub fn as_plain(&self) -> Option<Stamp> {
        match &self.cells {
            Cells::Str(cell @ Cell { present: true, counter: None, .. })
                if self.ttl.lives.is_empty()
                    && self.ttl.clear == cell.base
                    && cell.base > self.floor
                    && self.rank == cell.base =>
            {
                Some(cell.base)
            }
            _ => None,
        }
    }

    /// Whether there is more of it than a floor.
    pub fn is_known(&self) -> bool {
        self.cells != Cells::None || !self.ttl.lives.is_empty()
    }

    /// Everything at or below is dead now, whether for good or not.
    pub fn death(&self) -> Stamp {
        self.floor.max(self.ttl.death())
    }

    /// Whether the key shows anything.
    pub fn is_live(&self) -> bool {
        let death = self.death();
        self.cells.iter().any(|(_, cell)| cell.is_live(death))
    }

    /// Raises the floor; forgets what is dead for good.
    pub fn raise_floor(&mut self, floor: Stamp) {
        if floor <= self.floor {
            return;
        }
        self.floor = floor;
        self.prune();
    }

    fn prune(&mut self) {
        let floor = self.floor;
        let keep = match &mut self.cells {
            Cells::None => false,
            Cells::Str(cell) => cell.prune(floor),
            Cells::Map(_, map) => {
                map.retain(|_, cell| cell.prune(floor));
                !map.is_empty()
            }
        };
        if !keep {
            self.cells = Cells::None;
            self.rank = Stamp::ZERO;
        }
    }

    /// How much of it only guards against late effects: removed cells, a floor, times to live (which end as such), a
    /// key of which nothing else is left.
    pub fn tombstones(&self) -> u64 {
        let cells = match &self.cells {
            Cells::None => 0,
            Cells::Str(cell) => u64::from(cell.is_tombstone()),
            Cells::Map(_, map) => map.values().filter(|cell| cell.is_tombstone()).count() as u64,
        };
        let ended = self.ttl.lives.iter().filter(|life| life.kill.is_some()).count() as u64;
        cells + ended + u64::from(self.cells == Cells::None || !self.floor.is_zero())
    }

    /// Whether [`KeyMeta::collect`] would change anything.
    pub fn is_collectible(&self, stable: Hlc, wall_ms: u64, cover: &Cover) -> bool {
        let old = |stamp: Stamp| !stamp.is_zero() && stamp.hlc <= stable;
        let (ttl, death) = (&self.ttl, self.death());
        old(self.floor)
            || self.cells.iter().any(|(_, cell)| {
                (cell.is_tombstone() && old(cell.base)) || cell.folded(death, stable, cover).next().is_some()
            })
            || (self.cells == Cells::None && ttl.lives.is_empty() && ttl.clear.hlc <= stable)
            || (ttl.is_stable(stable)
                && (ttl.lives.len() > 1 || ttl.lives.iter().any(|l| l.kill.is_some() || l.at_ms.is_none())))
            || (mutation!(KillForgotten) && ttl.lives.iter().any(|l| l.kill.is_some()))
            || self.has_expired_for_good(stable, wall_ms)
    }

    /// Forgets what is causally stable: all effects up to `stable` are here and everywhere, and whoever writes later has
    /// seen them. By `wall_ms`, the master's wall clock, Redis itself has let go of what expired. Nothing that is shown changes.
    /// Returns whether a time-to-live went that had passed: others may still have it.
    pub fn collect(&mut self, stable: Hlc, wall_ms: u64, cover: &Cover) -> bool {
        if self.ttl.is_stable(stable) || mutation!(KillForgotten) {
            self.raise_floor(self.ttl.death());
            // Without a time it says that there is none, which nothing says as well.
            let current = self.ttl.current().filter(|life| life.at_ms.is_some());
            self.ttl.lives = current.map(|life| Life { kill: None, ..*life }).into_iter().collect();
        }
        let keep = match &mut self.cells {
            Cells::None => false,
            Cells::Str(cell) => !cell.is_tombstone() || cell.base.hlc > stable,
            Cells::Map(_, map) => {
                map.retain(|_, cell| !cell.is_tombstone() || cell.base.hlc > stable);
                !map.is_empty()
            }
        };
        let death = self.death();
        match &mut self.cells {
            Cells::None => {}
            Cells::Str(cell) => cell.forget_folded(death, stable, cover),
            Cells::Map(_, map) => map.values_mut().for_each(|cell| cell.forget_folded(death, stable, cover)),
        }
        if !keep && self.rank.hlc <= stable {
            self.cells = Cells::None;
            self.rank = Stamp::ZERO;
            if self.ttl.clear.hlc <= stable {
                self.ttl.clear = Stamp::ZERO;
            }
        }
        if self.floor.hlc <= stable {
            self.floor = Stamp::ZERO;
        }
        let expired = self.has_expired_for_good(stable, wall_ms);
        if expired {
            *self = Self::default();
        }
        expired
    }

    /// Whether the key died under its time-to-live, so long ago that everybody who still writes to it has seen that, and with
    /// nothing in it that was written later.
    fn has_expired_for_good(&self, stable: Hlc, wall_ms: u64) -> bool {
        let Some((life, at_ms)) = self.ttl.current().and_then(|life| Some((life, life.at_ms?))) else {
            return false;
        };
        let end = Kill { register: life.register, until_ms: at_ms, at: Hlc::ZERO }.end();
        let later = [self.rank, self.floor, self.ttl.clear].into_iter().any(|stamp| stamp > end);
        let passed = end.hlc.millis() < stable.millis() || mutation!(ExpiredForgottenEarly);
        at_ms < wall_ms && passed && self.ttl.is_stable(stable) && !later
    }

    /// A write of `kind` with this rank arrives. Says whether that type wins the key: the one with the greatest stamp does,
    /// and the greatest stamp of the loser becomes the floor.
    pub fn enter(&mut self, kind: Kind, rank: Stamp) -> bool {
        match self.cells.kind() {
            Some(mine) if mine == kind => self.rank = self.rank.max(rank),
            None => {
                self.rank = rank;
                self.cells = Cells::empty(kind);
            }
            Some(_) if rank > self.rank => {
                let loser = self.rank;
                self.cells = Cells::empty(kind);
                self.sum = 0;
                self.rank = rank;
                if !mutation!(LoserLeavesNoFloor) {
                    self.floor = self.floor.max(loser);
                }
            }
            Some(_) => {
                self.raise_floor(rank);
                return false;
            }
        }
        true
    }

    /// Forgets a cell's counter that has no totals: it says nothing.
    pub fn drop_idle_counter(&mut self, name: &[u8]) {
        if self.cells.get(name).is_some()
            && let Some(cell) = self.cell_mut(name)
            && cell.counter.as_ref().is_some_and(|counter| counter.totals.is_empty())
        {
            cell.counter = None;
        }
    }

    /// The cell of this name; it must be entered before.
    pub fn cell_mut(&mut self, name: &[u8]) -> Option<&mut Cell> {
        match &mut self.cells {
            Cells::None => None,
            Cells::Str(cell) => Some(cell),
            Cells::Map(_, map) => {
                if !map.contains_key(name) {
                    map.insert(name.into(), Cell::default());
                }
                map.get_mut(name)
            }
        }
    }
}
