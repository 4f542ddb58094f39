//! Operations that belong together, about keys that nobody else touches: what becomes of a key that is left alone is seen only
//! where it is left alone.

use crate::executor::{MS, SEC, Time};
use crate::rng::Rng;
use crate::setup::Setup;
use crate::situation::{About, Situation};
use crate::workload::{Command, Operation, SessionPlan, Step, asked};

/// Draws them.
pub(crate) fn draw(rng: &mut Rng, setup: &Setup, sessions: &[SessionPlan]) -> Vec<Operation> {
    let Situation { about, region, other, at, .. } = setup.situation;
    let mut teller = Teller { rng, sessions, operations: Vec::new() };
    match about {
        // Who forgets has taken away what others made.
        About::Oblivion => {
            for key in 0..teller.rng.range(30, 60) {
                let at = teller.rng.below(at);
                teller.passing_key(key, at, other, Some(region));
            }
        }
        // Some of what is to be fetched is still there when it is.
        About::Replacement | About::Overtaking | About::Handover => {
            for key in 0..teller.rng.range(10, 40) {
                let at = at + teller.rng.below(2 * SEC);
                let taker = any_region(teller.rng, setup);
                let is_taken = about == About::Overtaking && teller.rng.chance(400);
                teller.passing_key(key, at, region, is_taken.then_some(taker));
            }
        }
        About::Estrangement => {
            for counter in 0..teller.rng.range(2, 6) {
                teller.estranged_counter(&format!("c{}", counter + 2), setup);
            }
        }
        About::Freezing | About::Blinking => teller.last_words(setup),
        About::Nothing
        | About::Losses
        | About::Succession
        | About::Switchover
        | About::Joining
        | About::Rebuilding
        | About::Leaving => {}
    }
    for key in 100..100 + teller.rng.below(8) {
        let at = teller.rng.below(setup.duration);
        let (maker, taker) = (any_region(teller.rng, setup), any_region(teller.rng, setup));
        teller.passing_key(key, at, maker, Some(taker));
    }
    teller.operations
}

fn any_region(rng: &mut Rng, setup: &Setup) -> u16 {
    rng.below(setup.regions.len() as u64) as u16 + 1
}

struct Teller<'a> {
    rng: &'a mut Rng,
    sessions: &'a [SessionPlan],
    operations: Vec<Operation>,
}

impl Teller<'_> {
    fn plan(&mut self, at: Time, region: u16, command: Command) {
        let count = self.sessions.len();
        let skip = self.rng.below(count as u64) as usize;
        let mut all = (0..count).map(|n| (skip + n) % count);
        if let Some(session) = all.find(|session| self.sessions[*session].region == region) {
            let step = Step::Do(command, asked(self.rng));
            self.operations.push(Operation { number: 0, at, session, step });
        }
    }

    /// It is made in one region and, maybe, taken away in another, for good; sometimes somebody looks afterwards.
    fn passing_key(&mut self, number: u64, at: Time, maker: u16, taker: Option<u16>) {
        let name = || format!("p{number}");
        let (make, take, look) = match self.rng.range(0, 4) {
            0 => (
                Command::Set { key: name(), number: false, bytes: 0 },
                Command::Del(name()),
                Command::Get(name()),
            ),
            1 => (Command::Incr(name(), 7), Command::Del(name()), Command::Get(name())),
            2 => (Command::SAdd(name(), 0), Command::SRem(name(), 0), Command::SMembers(name())),
            3 => (Command::HSet(name(), 0), Command::HDel(name(), 0), Command::HGetAll(name())),
            _ => (Command::ZAdd(name(), 0), Command::Del(name()), Command::ZRange(name())),
        };
        self.plan(at, maker, make);
        let later = at + self.rng.range(200, 1500) * MS;
        if let Some(taker) = taker {
            self.plan(later, taker, take);
        }
        if self.rng.chance(300) {
            let later = later + self.rng.range(0, 15 * SEC);
            self.plan(later, maker, look);
        }
    }

    /// Everybody in a region writes once more before one of its proxies freezes.
    fn last_words(&mut self, setup: &Setup) {
        let Situation { region, at, .. } = setup.situation;
        for session in (0..self.sessions.len()).filter(|session| self.sessions[*session].region == region) {
            let at = at - self.rng.range(20, 300) * MS;
            let step = Step::Do(Command::Incr("c2".to_owned(), 1), asked(self.rng));
            self.operations.push(Operation { number: 0, at, session, step });
        }
    }

    /// It is counted up in one region, which begins a new incarnation; it is set in another that does not hear of that; it is
    /// counted up again where it began.
    fn estranged_counter(&mut self, key: &str, setup: &Setup) {
        let situation = setup.situation;
        for _ in 0..self.rng.range(1, 3) {
            let at = self.rng.range(500 * MS, situation.at - 3 * SEC);
            self.plan(at, situation.region, Command::Incr(key.to_owned(), 3));
        }
        let set = situation.at + self.rng.range(SEC, 12 * SEC);
        let command = if self.rng.chance(500) {
            Command::Del(key.to_owned())
        } else {
            Command::Set { key: key.to_owned(), number: true, bytes: 0 }
        };
        self.plan(set, situation.other, command);
        for _ in 0..self.rng.range(1, 3) {
            let at = set + self.rng.range(SEC, 12 * SEC);
            self.plan(at, situation.region, Command::Incr(key.to_owned(), 5));
        }
    }
}
