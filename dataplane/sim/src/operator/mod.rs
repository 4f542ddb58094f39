//! The operator: carries out operations by the production procedures, one after the other. It keeps an operation's state before it
//! does what that announces, so it may die at any moment. The counterpart of `operator/src/platform/local/operations.rs`.

mod copying;
mod ground;
mod links;
mod rebuild;
mod removal;
mod verify;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use mas_core::procedures::operation::{Operation, Phase, Step};
use mas_core::procedures::rebuild as rebuilding;
use mas_core::procedures::scale_out::{self, SYNC, Verification};

use crate::engine::Engine;
use crate::executor::{MS, SEC, Time};
use crate::network::{CONTROL, Lost, Node};
use crate::registry::{Row, Work};
use crate::world::World;

/// How often an operation is looked at.
const TICK: Time = 200 * MS;
/// How long an engine or a proxy may take to answer.
const CALL: Time = SEC;
/// A person tries a failed operation again after so long.
const AGAIN: Time = 3 * SEC;
/// Operations of the workload have smaller numbers.
const FIRST_NUMBER: usize = 1_000_000;

/// See the module.
pub(crate) struct Operator {
    pub(crate) node: Rc<Node>,
    /// Actions before which it dies: after how many from now, and for how long.
    crashes: RefCell<VecDeque<(u64, Time)>>,
    /// How the comparison of an attempt stands. It dies with the process.
    verifying: Rc<RefCell<(u64, Verification)>>,
    /// The last operation of its own that went through a front door.
    number: Cell<usize>,
    /// The step that the operation under way is at.
    at: Cell<Option<&'static str>>,
    /// Since when nothing is left of a shard. It dies with the process.
    lost: RefCell<BTreeMap<(u16, u16), Time>>,
    /// The region whose servers it has stopped, and nothing was kept of that yet.
    holding: Cell<Option<u16>>,
}

impl Operator {
    pub(crate) fn new(node: Rc<Node>) -> Rc<Self> {
        Rc::new(Self {
            node,
            crashes: RefCell::default(),
            verifying: Rc::default(),
            number: Cell::new(FIRST_NUMBER),
            at: Cell::new(None),
            lost: RefCell::default(),
            holding: Cell::new(None),
        })
    }

    /// A new process begins, if none runs.
    pub(crate) fn start(self: &Rc<Self>, world: &Rc<World>) {
        if self.node.is_up() {
            return;
        }
        let process = self.node.start();
        *self.verifying.borrow_mut() = Default::default();
        self.lost.borrow_mut().clear();
        // What was stopped, and nothing was kept of it, is started with everything else.
        self.holding.set(None);
        let leaving = world.registry.borrow().leaving();
        for region in leaving {
            world.resume_servers(region);
        }
        world.sim.spawn(&process, Rc::clone(self).run(Rc::clone(world)));
    }

    /// It will die right before an action.
    pub(crate) fn dies_before(&self, action: u64, down: Time) {
        self.crashes.borrow_mut().push_back((action, down));
    }

    /// It keeps a region's servers from being started.
    pub(crate) fn holds(&self, region: u16) -> bool {
        self.holding.get() == Some(region)
    }

    /// It dies no more.
    pub(crate) fn heal(&self) {
        self.crashes.borrow_mut().clear();
    }

    /// The step that it is at.
    pub(crate) fn step(&self) -> Option<&'static str> {
        self.at.get()
    }

    /// Why an operation is not over, for the text of a violation.
    pub(crate) fn words(&self, row: &Row) -> String {
        let operation = &row.operation;
        let said = operation.steps.get(operation.step).map_or("", |step| step.message.as_str());
        let step = self.at.get().unwrap_or("its beginning");
        format!("{} is at {step} ({:?}): {said}", row.name(), operation.phase)
    }

    async fn run(self: Rc<Self>, world: Rc<World>) {
        loop {
            world.sim.sleep(world.sim.random(|r| r.range(TICK / 2, TICK))).await;
            self.watch(&world);
            let first = world.registry.borrow().first().map(|(at, row)| (at, row.clone()));
            let Some((at, row)) = first else {
                self.at.set(None);
                continue;
            };
            match row.work {
                Work::ScaleOut => self.copy(&world, at, &row, &scale_out::STEPS).await,
                Work::Rebuild => self.copy(&world, at, &row, &rebuilding::STEPS).await,
                Work::Remove => self.remove(&world, at, &row).await,
            }
            let failed = world.registry.borrow().operations[at].operation.phase == Phase::Failed;
            if failed {
                world.judge.checked("operation failed");
                world.sim.sleep(AGAIN).await;
                let row = &mut world.registry.borrow_mut().operations[at];
                row.attempt += 1;
                row.operation.retry();
            }
        }
    }

    /// Keeps the new state, and says what has changed.
    fn keep<O, A>(&self, world: &World, at: usize, row: &Row, next: &Operation, steps: &[Step<O, A>]) {
        world.registry.borrow_mut().operations[at].operation = next.clone();
        let name = |operation: &Operation| steps.get(operation.step).map(|step| step.name);
        self.at.set(name(next).filter(|_| !next.phase.is_final()));
        let before = &row.operation;
        if (before.phase, before.step) != (next.phase, next.step) {
            world
                .judge
                .note(|| format!("{}: {:?}, {:?} {}", row.name(), next.phase, name(next), next.message));
            if next.step < before.step {
                world.judge.checked("operation: a step back");
            }
            if next.phase == Phase::Succeeded {
                world.judge.checked("operation done");
            }
        }
    }

    /// It dies here, if it is time to.
    async fn before_action(self: &Rc<Self>, world: &Rc<World>, words: impl std::fmt::Debug) {
        world.judge.note(|| format!("operator: {words:?}"));
        let due = {
            let mut crashes = self.crashes.borrow_mut();
            match crashes.front_mut() {
                Some((0, _)) => crashes.pop_front(),
                Some((left, _)) => {
                    *left -= 1;
                    None
                }
                None => None,
            }
        };
        if let Some((_, down)) = due {
            world.judge.note(|| "the operator dies".to_owned());
            self.node.kill();
            let (operator, again) = (Rc::clone(self), Rc::clone(world));
            world.sim.at(world.sim.now() + down, move || operator.start(&again));
            // Nothing of this process runs any more.
            world.sim.sleep(1).await;
        }
    }

    /// Asks an engine.
    async fn ask<T: 'static>(
        &self,
        world: &World,
        engine: &Rc<Engine>,
        f: impl FnOnce(&Rc<Engine>) -> T + 'static,
    ) -> Result<T, Lost> {
        self.asked(world, engine, f).await
    }

    /// The same, under way.
    fn asked<T: 'static>(
        &self,
        world: &World,
        engine: &Rc<Engine>,
        f: impl FnOnce(&Rc<Engine>) -> T + 'static,
    ) -> crate::executor::Promise<Result<T, Lost>> {
        let (engine, node) = (Rc::clone(engine), Rc::clone(&engine.node));
        world.network.call(&self.node, &node, CONTROL, CALL, move || f(&engine))
    }
}

/// Names an attempt: what an earlier one has left does not count. A sync that has to begin anew makes a new one.
fn ticket(row: &Row, sync: usize) -> u64 {
    let repeats = row.operation.steps.get(sync).map_or(0, |step| step.repeats);
    let epoch = row.lost.map_or(0, |(_, epoch)| epoch);
    (u64::from(row.region) << 48) | (epoch << 40) | (row.attempt << 32) | (u64::from(repeats) + 1)
}

/// The step that a procedure goes back to.
fn sync_step<O, A>(steps: &[Step<O, A>]) -> usize {
    steps.iter().position(|step| step.name == SYNC).unwrap_or_default()
}
