//! A client: one step after the other, through the proxies of one region, then of another with its token. What it is
//! told goes to the judge.

use std::collections::BTreeMap;
use std::rc::Rc;

use mas_core::replication::token::Token;
use mas_core::stamp::{Hlc, Incarnation};

use crate::checkers::session::Seen;
use crate::engine::{Engine, STORE};
use crate::executor::{Process, SEC, Time};
use crate::proxy::Proxy;
use crate::proxy::front::{Answer, Answered, shard_of};
use crate::proxy::tokens::Wrote;
use crate::workload::{Asked, Command, Operation, Step};
use crate::world::World;

/// How long a client waits for its token in the new region.
const AWAIT: Time = 4 * SEC;

/// See the module.
pub(crate) struct Client {
    world: Rc<World>,
    index: usize,
    region: u16,
    proxy: Option<Rc<Proxy>>,
    /// Its region has opened, and it went there.
    is_home: bool,
    wrote: BTreeMap<(u16, Incarnation), Wrote>,
    seen: Seen,
}

impl Client {
    /// Runs a session's steps.
    pub(crate) async fn run(world: Rc<World>, index: usize, steps: Vec<Operation>) {
        let region = world.schedule.sessions[index].region;
        let mut client = Self {
            world: Rc::clone(&world),
            index,
            region,
            proxy: None,
            is_home: false,
            wrote: BTreeMap::new(),
            seen: Seen::default(),
        };
        for operation in steps {
            world.sim.sleep_until(operation.at).await;
            if world.sim.now() > world.schedule.setup.duration + 2 * SEC {
                break;
            }
            // One whose region is not open yet, or not any more, goes to another one.
            let elsewhere = client.region % world.schedule.setup.regions.len() as u16 + 1;
            if !world.is_open(client.region) {
                client.change_region(elsewhere);
                continue;
            }
            if world.schedule.setup.regions[usize::from(region) - 1].joins > 0 && world.is_open(region) {
                client.come_home(region);
            }
            match &operation.step {
                Step::Do(command, asked) => client.execute(operation.number, command, *asked).await,
                Step::Move(region) => client.move_to(*region).await,
            }
        }
        world.client_ended();
    }

    /// Its region has opened.
    fn come_home(&mut self, region: u16) {
        if self.region != region && !self.is_home {
            self.is_home = true;
            self.change_region(region);
        }
    }

    fn change_region(&mut self, region: u16) {
        self.region = region;
        self.forget();
    }

    /// A connection that is new knows nothing.
    fn forget(&mut self) {
        self.proxy = None;
        self.wrote.clear();
        self.seen = Seen::default();
    }

    /// The proxy of its connection; another one, and a new session, when that is gone.
    fn connection(&mut self) -> Option<Rc<Proxy>> {
        if self.proxy.as_ref().is_some_and(|p| p.process.is_alive()) {
            return self.proxy.clone();
        }
        if self.proxy.is_some() {
            self.forget();
        }
        self.proxy = self.world.some_proxy(self.region);
        self.proxy.clone()
    }

    async fn execute(&mut self, number: usize, command: &Command, asked: Asked) {
        let Some(proxy) = self.connection() else { return };
        let answer = on(&self.world, &proxy.process, {
            let (proxy, command) = (Rc::clone(&proxy), command.clone());
            async move { proxy.execute(number, &command, asked).await }
        })
        .await
        .unwrap_or(Answer::Unknown(None));
        self.world.judge.note(|| {
            format!(
                "client {} at {}: #{number} {command:?} {asked:?} -> {answer:?}",
                self.index, proxy.node.name
            )
        });
        let shard = shard_of(command, self.world.schedule.setup.shards);
        match &answer {
            Answer::Written { reply, note, level } => {
                let engines = self.world.engines();
                let what = (self.region, shard, number);
                self.world.judge.answered(&engines, what, command, reply, note, *level);
                let local = if *level == Answered::Local { note.seq } else { 0 };
                let wrote = self.wrote.entry((shard, note.incarnation)).or_insert(Wrote {
                    shard,
                    incarnation: note.incarnation,
                    seq: 0,
                    hlc: Hlc::ZERO,
                    local_only: 0,
                });
                wrote.seq = wrote.seq.max(note.seq);
                wrote.hlc = wrote.hlc.max(Hlc(note.hlc));
                wrote.local_only = wrote.local_only.max(local);
                self.seen.wrote(&self.world.judge, shard, command, note);
            }
            Answer::Read(reply, incarnation) => {
                self.seen.read(&self.world.judge, shard, command, reply, *incarnation);
            }
            Answer::Unknown(_) | Answer::Refused => {}
        }
    }

    /// Takes its token to another region.
    async fn move_to(&mut self, region: u16) {
        if !self.world.is_open(region) {
            return;
        }
        let Some(old) = self.connection() else { return };
        let wrote: Vec<Wrote> = self.wrote.values().copied().collect();
        let asking = Rc::clone(&old);
        let named = wrote.clone();
        let token = on(&self.world, &old.process, async move { asking.token(&wrote).await }).await.flatten();
        let parsed = token.as_ref().and_then(|(text, _)| Token::parse(text.as_bytes(), STORE).ok());
        if let Some(parsed) = &parsed {
            self.world.judge.token(self.region, parsed, &named);
        }
        let Some(new) = self.world.some_proxy(region) else { return };
        let mut covered = None;
        if let Some((token, _)) = &token {
            let (asking, token) = (Rc::clone(&new), token.clone());
            covered = on(&self.world, &new.process, async move { asking.await_token(&token, AWAIT).await })
                .await
                .flatten();
        }
        self.world.judge.note(|| format!("client {} goes to {}: {covered:?}", self.index, new.node.name));
        if let (Some(parsed), Some(covered)) = (&parsed, &covered) {
            let engines = self.world.engines();
            for (shard, incarnation) in covered {
                let is = |e: &&Rc<Engine>| e.shard == *shard && e.is_incarnation(*incarnation);
                if let Some(engine) = engines.iter().find(is) {
                    self.world.judge.covered(engine, parsed);
                }
            }
        }
        self.region = region;
        self.proxy = Some(new);
        self.wrote.clear();
        match (token, covered) {
            (Some((_, told)), Some(covered)) => self.seen.moved(&told, &covered),
            _ => self.seen = Seen::default(),
        }
    }
}

/// Runs something in a process; `None` when that ends before.
pub(crate) async fn on<T: 'static>(
    world: &World,
    process: &Rc<Process>,
    work: impl Future<Output = T> + 'static,
) -> Option<T> {
    let promise = crate::executor::Promise::new();
    let done = promise.clone();
    world.sim.spawn(process, async move { done.give(Some(work.await)) });
    // A process that ends tells nobody: its clients see their connections break.
    let exit = world.on_exit(process, {
        let promise = promise.clone();
        move || promise.give(None)
    });
    let value = promise.await;
    world.forget_exit(exit);
    value
}
