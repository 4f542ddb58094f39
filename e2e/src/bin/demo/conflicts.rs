//! What both sides do to the same keys while they cannot hear each other, and what must come of it.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};
use e2e::keyspace::{Entry, Keyspace};
use redis::Connection;

/// Who is first; the other follows some milliseconds later.
#[derive(Clone, Copy, PartialEq, Eq)]
enum First {
    Here,
    There,
}

/// One conflict over one key.
pub(crate) struct Scene {
    pub(crate) key: &'static str,
    /// Before the cut, in the first region.
    before: &'static [&'static str],
    first: First,
    pub(crate) here: &'static [&'static str],
    pub(crate) there: &'static [&'static str],
    /// What both must hold in the end, as [`Entry`]'s content shows it.
    pub(crate) outcome: &'static str,
    pub(crate) why: &'static str,
}

/// How long a session of the scenes lives if nobody renews it.
pub(crate) const SHORT_SESSION: Duration = Duration::from_secs(4);
/// Apart by more than a clock tick, so that "later" is what a person would say.
const PAUSE: Duration = Duration::from_millis(5);

/// All conflicts. `here` is the first region, `there` the second.
pub(crate) const SCENES: &[Scene] = &[
    Scene {
        key: "tickets",
        before: &["SET tickets 100"],
        first: First::Here,
        here: &["DECRBY tickets 30"],
        there: &["DECRBY tickets 25"],
        outcome: "45",
        why: "a counter: both count, none is lost",
    },
    Scene {
        key: "price:tea",
        before: &["SET price:tea 10"],
        first: First::Here,
        here: &["SET price:tea 12"],
        there: &["SET price:tea 14"],
        outcome: "14",
        why: "the later SET wins, in both regions alike",
    },
    Scene {
        key: "price:silk",
        before: &["SET price:silk 80"],
        first: First::There,
        here: &["SET price:silk 85"],
        there: &["SET price:silk 90"],
        outcome: "85",
        why: "the same, the other way round",
    },
    Scene {
        key: "cart:alice",
        before: &["HSET cart:alice fan 1"],
        first: First::Here,
        here: &["HSET cart:alice tea 2"],
        there: &["HSET cart:alice silk 1", "HDEL cart:alice fan"],
        outcome: "{silk 1, tea 2}",
        why: "a hash is merged field by field",
    },
    Scene {
        key: "cart:bob",
        before: &["HSET cart:bob tea 1"],
        first: First::Here,
        here: &["HINCRBY cart:bob tea 1"],
        there: &["HINCRBY cart:bob tea 2"],
        outcome: "{tea 4}",
        why: "a counter in a field: 1 + 1 + 2",
    },
    Scene {
        key: "cart:carol",
        before: &["HSET cart:carol tea 1"],
        first: First::Here,
        here: &["DEL cart:carol"],
        there: &["HSET cart:carol silk 3"],
        outcome: "{silk 3}",
        why: "DEL ends what is older than itself; the silk came later and stays, the tea is gone",
    },
    Scene {
        key: "cart:dora",
        before: &["HSET cart:dora tea 1"],
        first: First::There,
        here: &["DEL cart:dora"],
        there: &["HSET cart:dora silk 3"],
        outcome: "nothing",
        why: "this DEL is the later one, so the silk is gone too",
    },
    Scene {
        key: "wishes:erin",
        before: &["SADD wishes:erin kite jade"],
        first: First::Here,
        here: &["SREM wishes:erin kite jade"],
        there: &["SREM wishes:erin kite", "SADD wishes:erin kite ink"],
        outcome: "(ink, kite)",
        why: "a set is merged member by member: the kite was added after its removal, the jade was not",
    },
    Scene {
        key: "session:frank",
        before: &["SET session:frank beijing EX 4"],
        first: First::There,
        here: &[],
        there: &["EXPIRE session:frank 1800"],
        outcome: "beijing",
        why: "it expired here, but had been renewed there in time: the renewal brings it back",
    },
    Scene {
        key: "session:grace",
        before: &["SET session:grace beijing EX 4"],
        first: First::Here,
        here: &[],
        there: &[],
        outcome: "nothing",
        why: "nobody renewed it: it expired on both sides",
    },
    Scene {
        key: "players",
        before: &["ZADD players 10 heidi 20 ivan"],
        first: First::Here,
        here: &["ZINCRBY players 5 heidi", "ZADD players 1 ivan"],
        there: &["ZINCRBY players 7 heidi", "ZADD players 2 ivan"],
        outcome: "[heidi 22, ivan 2]",
        why: "increments add up, set scores: the later wins",
    },
    Scene {
        key: "note:judy",
        before: &["SET note:judy old"],
        first: First::There,
        here: &["DEL note:judy", "SET note:judy anew"],
        there: &["SET note:judy changed"],
        outcome: "anew",
        why: "deleted and written again, later than the change there",
    },
    Scene {
        key: "coupon:5",
        before: &["SET coupon:5 unused"],
        first: First::Here,
        here: &["SET coupon:5 used"],
        there: &["DEL coupon:5", "HSET coupon:5 by kim"],
        outcome: "{by kim}",
        why: "two types: the type written last wins whole",
    },
];

/// What is there before the cut.
pub(crate) fn prepare(connection: &mut Connection) -> Result<()> {
    SCENES.iter().flat_map(|scene| scene.before).try_for_each(|line| send(connection, line))
}

/// Both sides act.
pub(crate) fn play(here: &mut Connection, there: &mut Connection) -> Result<usize> {
    let mut sent = 0;
    for scene in SCENES {
        let (first, second): (_, _) = match scene.first {
            First::Here => ((&mut *here, scene.here), (&mut *there, scene.there)),
            First::There => ((&mut *there, scene.there), (&mut *here, scene.here)),
        };
        for (connection, lines) in [first, second] {
            for line in lines {
                send(connection, line)?;
                sent += 1;
            }
            sleep(PAUSE);
        }
    }
    Ok(sent)
}

/// What a region holds under `key`, in words.
pub(crate) fn outcome(space: &Keyspace, key: &str) -> String {
    let content = |entry: &Entry| entry.content.to_string();
    space.get(key.as_bytes()).map_or("nothing".into(), content)
}

fn send(connection: &mut Connection, line: &str) -> Result<()> {
    let mut words = line.split(' ');
    let mut command = redis::cmd(words.next().unwrap_or_default());
    for word in words {
        command.arg(word);
    }
    command.exec(connection).with_context(|| format!("{line} failed"))
}
