//! The front of a proxy: finds masters, sends requests on, answers writes at their level.

use std::rc::Rc;

use mas_core::config::OnBrokerLoss;
use mas_core::replication::ack::{Level, Outcome};
use mas_core::slot::{SLOTS, slot_of};
use mas_core::stamp::Incarnation;

use super::{Master, Proxy, REPLY_LIMIT};
use crate::engine::commands::Reply;
use crate::engine::{Note, Phase, Refusal};
use crate::executor::{MS, SEC, Time};
use crate::network::FRONT;
use crate::workload::{Asked, Command};

/// How often members are asked who is master.
const LOOK: Time = 250 * MS;
/// How long a request waits for a master.
const PATIENCE: Time = 5 * SEC;

/// How a write was answered.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Answer {
    /// At the level that is named.
    Written { reply: Reply, note: Written, level: Answered },
    /// A read, by this incarnation.
    Read(Reply, Incarnation),
    /// Executed, but not acknowledged; or the connection to the engine broke.
    Unknown(Option<Written>),
    /// Not executed.
    Refused,
}

/// What a client is told about its write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) incarnation: Incarnation,
    pub(crate) seq: u64,
    pub(crate) hlc: u64,
    pub(crate) effect: bool,
}

/// The level at which it was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answered {
    Local,
    Queued,
    Remote(u16),
}

/// Which shard a command goes to.
pub(crate) fn shard_of(command: &Command, shards: u16) -> u16 {
    if let Command::Flush(shard) = command {
        return *shard;
    }
    let slot = u32::from(slot_of(command.key().unwrap_or_default().as_bytes()));
    (slot * u32::from(shards) / u32::from(SLOTS)) as u16
}

impl Proxy {
    /// Asks the members a few times a second, and on every error, who is master.
    pub(super) async fn discover(self: Rc<Self>, shard: u16) {
        let sim = self.world.sim.clone();
        loop {
            let words = self.ask_all(shard).await;
            let serving = words.iter().filter(|(_, a)| a.master && a.phase == Phase::Serving);
            let best = serving.max_by_key(|(_, a)| a.epoch);
            let master = best.map(|(member, a)| Master { member: *member, incarnation: a.incarnation });
            let moved = self.masters.borrow()[usize::from(shard)] != master;
            if moved {
                self.masters.borrow_mut()[usize::from(shard)] = master;
                self.shards[usize::from(shard)].pulse.notify();
            }
            // Several shards share the notification: each looks at its own members often enough by itself.
            self.ask_again.wait_until(&sim, sim.now() + LOOK).await;
            sim.sleep(MS).await;
        }
    }

    /// Executes a client's command.
    pub(crate) async fn execute(&self, number: usize, command: &Command, asked: Asked) -> Answer {
        let sim = &self.world.sim;
        let shard = Rc::clone(&self.shards[usize::from(shard_of(command, self.world.schedule.setup.shards))]);
        let deadline = sim.now() + PATIENCE;
        if self.is_away() {
            return Answer::Refused;
        }
        loop {
            let master = self.masters.borrow()[usize::from(shard.id)];
            if let Some(master) = master {
                let engine = self.world.engine(self.region, shard.id, master.member);
                let (node, seen) = (Rc::clone(&engine.node), self.clocks[usize::from(shard.id)].get());
                let sent = command.clone();
                if command.is_read() {
                    let read = self
                        .world
                        .network
                        .call(&self.node, &node, FRONT, REPLY_LIMIT, move || engine.read(&sent));
                    if let Ok(Ok((reply, incarnation))) = read.await {
                        return Answer::Read(reply, incarnation);
                    }
                } else {
                    let written = self.world.network.call(&self.node, &node, FRONT, REPLY_LIMIT, move || {
                        engine.exec(master.incarnation, seen, number, &sent)
                    });
                    match written.await {
                        Ok(Ok((reply, said))) => return self.acknowledge(&shard, reply, said, asked).await,
                        Ok(Err(Refusal::NotMaster)) => {}
                        Ok(Err(_)) => return Answer::Refused,
                        Err(_) => return Answer::Unknown(None),
                    }
                }
            }
            self.ask_again.notify();
            sim.sleep(30 * MS).await;
            if sim.now() > deadline {
                return Answer::Refused;
            }
        }
    }

    async fn acknowledge(&self, shard: &super::Shard, reply: Reply, note: Note, asked: Asked) -> Answer {
        self.observe(shard.id, note.hlc);
        let written = Written {
            incarnation: note.incarnation,
            seq: note.seq,
            hlc: note.hlc.0,
            effect: !note.effect.is_empty(),
        };
        let degrades = self.world.schedule.setup.on_loss == OnBrokerLoss::Degrade && self.degraded.get();
        let level = match asked {
            Asked::Local => None,
            Asked::Queued | Asked::Remote(_) if degrades => None,
            Asked::Queued => Some(Level::Queued),
            Asked::Remote(n) => Some(Level::Remote(n)),
        };
        let Some(waiting) = self.ship(shard, note, level) else {
            return Answer::Written { reply, note: written, level: Answered::Local };
        };
        match (waiting.await, asked) {
            (Outcome::Reached, Asked::Remote(n)) => {
                Answer::Written { reply, note: written, level: Answered::Remote(n) }
            }
            (Outcome::Reached, _) => Answer::Written { reply, note: written, level: Answered::Queued },
            (Outcome::Degraded, _) => Answer::Written { reply, note: written, level: Answered::Local },
            (Outcome::Unavailable | Outcome::Failed, _) => Answer::Unknown(Some(written)),
        }
    }
}
