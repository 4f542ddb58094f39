//! The network: messages between nodes are delayed, cut off in one direction or both, and lost when a connection breaks.
//! On one lane between two nodes order holds, as on a TCP connection; between lanes it does not.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::executor::{MS, Process, Promise, Sim, Time};

/// A place in the network: where a process runs, one life after the other.
pub(crate) struct Node {
    pub(crate) index: usize,
    pub(crate) name: String,
    pub(crate) region: u16,
    process: RefCell<Rc<Process>>,
}

impl Node {
    /// A place where nothing runs yet.
    pub(crate) fn new(index: usize, name: String, region: u16) -> Rc<Self> {
        let process = Process::new();
        process.kill();
        Rc::new(Self { index, name, region, process: RefCell::new(process) })
    }

    pub(crate) fn process(&self) -> Rc<Process> {
        Rc::clone(&self.process.borrow())
    }

    pub(crate) fn is_up(&self) -> bool {
        self.process.borrow().is_alive()
    }

    /// A new process runs here.
    pub(crate) fn start(&self) -> Rc<Process> {
        let process = Process::new();
        *self.process.borrow_mut() = Rc::clone(&process);
        process
    }

    pub(crate) fn kill(&self) {
        self.process.borrow().kill();
    }
}

/// Which connection between two nodes.
pub(crate) type Lane = u8;
/// Requests of clients.
pub(crate) const FRONT: Lane = 0;
/// Control commands, merges.
pub(crate) const CONTROL: Lane = 1;
/// Publishing and confirms.
pub(crate) const PUBLISH: Lane = 2;
/// Deliveries.
pub(crate) const DELIVER: Lane = 3;
/// Redis replication.
pub(crate) const REPLICATE: Lane = 4;

/// No answer: the request may have been carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lost;

#[derive(Default)]
struct State {
    /// Directed cuts, counted: overlapping faults are lifted one by one.
    cuts: BTreeMap<(usize, usize), u32>,
    /// Messages lost, per mille.
    loss: BTreeMap<(usize, usize), u64>,
    /// Extra delay, microseconds.
    slow: BTreeMap<(usize, usize), Time>,
    /// When the last message of a lane arrives.
    last: BTreeMap<(usize, usize, Lane), Time>,
    /// One-way delay between regions, microseconds.
    distance: BTreeMap<(u16, u16), Time>,
}

/// See the module.
#[derive(Clone)]
pub(crate) struct Network {
    sim: Sim,
    state: Rc<RefCell<State>>,
}

impl Network {
    pub(crate) fn new(sim: Sim) -> Self {
        Self { sim, state: Rc::default() }
    }

    pub(crate) fn set_distance(&self, a: u16, b: u16, time: Time) {
        self.state.borrow_mut().distance.insert((a.min(b), a.max(b)), time);
    }

    pub(crate) fn cut(&self, from: usize, to: usize) {
        *self.state.borrow_mut().cuts.entry((from, to)).or_default() += 1;
    }

    pub(crate) fn heal(&self, from: usize, to: usize) {
        let mut state = self.state.borrow_mut();
        if let Some(count) = state.cuts.get_mut(&(from, to)) {
            *count -= 1;
            if *count == 0 {
                state.cuts.remove(&(from, to));
            }
        }
    }

    pub(crate) fn set_loss(&self, from: usize, to: usize, per_mille: u64) {
        self.state.borrow_mut().loss.insert((from, to), per_mille);
    }

    pub(crate) fn set_slow(&self, from: usize, to: usize, extra: Time) {
        self.state.borrow_mut().slow.insert((from, to), extra);
    }

    pub(crate) fn heal_all(&self) {
        let mut state = self.state.borrow_mut();
        state.cuts.clear();
        state.loss.clear();
        state.slow.clear();
    }

    pub(crate) fn is_cut(&self, from: &Node, to: &Node) -> bool {
        self.state.borrow().cuts.contains_key(&(from.index, to.index))
    }

    /// When a message that leaves now arrives; `None`: it does not.
    pub(crate) fn transit(&self, from: &Node, to: &Node, lane: Lane) -> Option<Time> {
        let pair = (from.index, to.index);
        let mut state = self.state.borrow_mut();
        if state.cuts.contains_key(&pair) {
            return None;
        }
        if let Some(&loss) = state.loss.get(&pair)
            && self.sim.random(|r| r.chance(loss))
        {
            return None;
        }
        let base = if from.region == to.region {
            self.sim.random(|r| if r.chance(10) { r.range(500, 5000) } else { r.range(40, 300) })
        } else {
            let key = (from.region.min(to.region), from.region.max(to.region));
            let distance = state.distance.get(&key).copied().unwrap_or(10 * MS);
            distance + self.sim.random(|r| r.below(distance / 4 + 1))
        };
        let extra = state.slow.get(&pair).copied().unwrap_or(0);
        let extra = if extra > 0 { self.sim.random(|r| r.range(extra / 2, extra)) } else { 0 };
        let now = self.sim.now();
        let last = state.last.entry((pair.0, pair.1, lane)).or_default();
        let at = (now + base + extra).max(*last + 1);
        *last = at;
        Some(at)
    }

    /// Asks `to` to do something and waits for the answer, at most `limit`. `handler` runs there, unless the process
    /// has ended meanwhile.
    pub(crate) fn call<T: 'static>(
        &self,
        from: &Rc<Node>,
        to: &Rc<Node>,
        lane: Lane,
        limit: Time,
        handler: impl FnOnce() -> T + 'static,
    ) -> Promise<Result<T, Lost>> {
        let promise = Promise::new();
        let deadline = self.sim.now() + limit;
        match self.transit(from, to, lane) {
            None => self.give_up(&promise, deadline),
            Some(at) => {
                let call = Call {
                    network: self.clone(),
                    from: Rc::clone(from),
                    to: Rc::clone(to),
                    process: to.process(),
                    lane,
                    deadline,
                    promise: promise.clone(),
                };
                self.sim.at(at, move || call.arrive(handler));
            }
        }
        promise
    }

    fn give_up<T: 'static>(&self, promise: &Promise<Result<T, Lost>>, at: Time) {
        let promise = promise.clone();
        self.sim.at(at, move || promise.give(Err(Lost)));
    }
}

struct Call<T> {
    network: Network,
    from: Rc<Node>,
    to: Rc<Node>,
    /// The process that the connection was made to.
    process: Rc<Process>,
    lane: Lane,
    deadline: Time,
    promise: Promise<Result<T, Lost>>,
}

impl<T: 'static> Call<T> {
    fn arrive(self, handler: impl FnOnce() -> T + 'static) {
        let sim = self.network.sim.clone();
        let process = Rc::clone(&self.process);
        if self.network.is_cut(&self.from, &self.to) {
            self.network.give_up(&self.promise, self.deadline);
            return;
        }
        if !process.is_alive() {
            // Refused at once, if the refusal gets through.
            match self.network.transit(&self.to, &self.from, self.lane) {
                Some(at) => self.network.give_up(&self.promise, at),
                None => self.network.give_up(&self.promise, self.deadline),
            }
            return;
        }
        let paused = process.paused_until();
        if paused > sim.now() {
            self.network.give_up(&self.promise, self.deadline);
            sim.at(paused, move || self.arrive(handler));
            return;
        }
        let value = handler();
        match self.network.transit(&self.to, &self.from, self.lane) {
            Some(at) if at <= self.deadline => {
                let promise = self.promise;
                sim.at(at, move || promise.give(Ok(value)));
            }
            Some(_) | None => self.network.give_up(&self.promise, self.deadline),
        }
    }
}
