//! Who is master of each shard: a decision over what the members say, without I/O.
//!
//! The one rule: the unfenced master with the highest epoch, and never one below an epoch that any member of the
//! shard has told of. A stale master that still answers is passed over even when nobody else is left.

use std::collections::BTreeMap;
use std::fmt;

use mas_core::stamp::{Incarnation, ShardId};
use serde::Serialize;

/// How long a member that does not answer in time still counts as it was, in milliseconds. An engine in the
/// middle of a long command is no dead engine; a refused connection counts at once.
pub const SILENCE_MS: u64 = 2000;

/// What a member said about itself (`MAS.IDENTITY`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The store's name; empty on an engine that was never promoted.
    pub store: String,
    /// The region's id.
    pub region: u16,
    /// The shard.
    pub shard: u16,
    /// Whether it is a master.
    pub master: bool,
    /// Whether it serves clients.
    pub state: State,
    /// The order of masters.
    pub epoch: u64,
    /// Its incarnation.
    pub incarnation: Incarnation,
}

/// A member's own word on whether it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum State {
    /// Just started, or superseded.
    Fenced,
    /// Promoted, reading its own stream.
    Recovering,
    /// Open for clients.
    Serving,
    /// About to hand over to another member.
    Paused,
}

impl Identity {
    /// Reads the flat array of field and value that the engine sends.
    pub fn from_fields<'a>(fields: impl Iterator<Item = (&'a str, &'a str)>) -> Option<Self> {
        let fields: BTreeMap<&str, &str> = fields.collect();
        Some(Self {
            store: (*fields.get("store")?).to_owned(),
            region: fields.get("region")?.parse().ok()?,
            shard: fields.get("shard")?.parse().ok()?,
            master: *fields.get("role")? == "master",
            state: match *fields.get("state")? {
                "serving" if fields.get("paused-ms").is_none_or(|ms| *ms == "0") => State::Serving,
                "serving" => State::Paused,
                "recovering" => State::Recovering,
                _ => State::Fenced,
            },
            epoch: fields.get("epoch")?.parse().ok()?,
            incarnation: Incarnation::parse(fields.get("incarnation")?)?,
        })
    }
}

/// A serving master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Master {
    /// `host:port`.
    pub address: String,
    /// The incarnation that requests have to mean.
    pub incarnation: Incarnation,
    /// Its epoch.
    pub epoch: u64,
}

/// The masters of all shards, by number of shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Masters {
    /// One entry a shard.
    pub shards: Vec<ShardMaster>,
}

impl Masters {
    /// The master of a shard, if it has one.
    pub fn master(&self, shard: ShardId) -> Option<&Master> {
        self.shards.get(usize::from(shard.0))?.master.as_ref()
    }

    /// The round of words on a shard.
    pub fn round(&self, shard: ShardId) -> u64 {
        self.shards.get(usize::from(shard.0)).map_or(0, |s| s.round)
    }
}

/// One shard's master, or why it has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardMaster {
    /// Raised when all members have answered a request to ask again, so that who was refused by a master can tell
    /// a fresh word on it from the one it already had.
    pub round: u64,
    /// The one to send requests to.
    pub master: Option<Master>,
    /// Without a master: what its members said, for the error that clients get.
    pub why: String,
    /// Members that nothing was heard of for a while.
    pub unreachable: Vec<String>,
}

/// What is known of one member.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Word {
    Unasked,
    Said {
        identity: Identity,
        at_ms: u64,
    },
    /// What answers is no engine of this shard, or one that cannot say yet who it is.
    Useless(String),
    Unreachable(String),
}

/// The decision's memory for one shard.
#[derive(Clone, Debug)]
pub struct ShardRouting {
    store: String,
    region: u16,
    shard: u16,
    members: BTreeMap<String, Member>,
    highest_epoch: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Member {
    word: Word,
    /// The last request to ask that it was asked after.
    asked: u64,
}

impl Member {
    const UNASKED: Self = Self { word: Word::Unasked, asked: 0 };
}

/// What asking a member came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// It answered.
    Answer(Identity),
    /// It did not answer in time.
    Silence,
    /// It cannot be reached.
    Unreachable(String),
    /// It answers something else than an engine of this shard would.
    Error(String),
}

impl ShardRouting {
    /// Nothing is known yet.
    pub fn new(store: &str, region: u16, shard: u16, members: &[String]) -> Self {
        let members = members.iter().map(|m| (m.clone(), Member::UNASKED)).collect();
        Self { store: store.to_owned(), region, shard, members, highest_epoch: 0 }
    }

    /// Takes over a new list of members; what is known of those that stay is kept.
    pub fn set_members(&mut self, members: &[String]) {
        self.members.retain(|name, _| members.contains(name));
        for member in members {
            self.members.entry(member.clone()).or_insert(Member::UNASKED);
        }
    }

    /// Notes what asking `member` came to, after request `asked` to ask.
    pub fn hear(&mut self, member: &str, report: Report, asked: u64, now_ms: u64) {
        let Some(member) = self.members.get_mut(member) else { return };
        member.asked = member.asked.max(asked);
        let word = &mut member.word;
        match report {
            Report::Answer(identity) => {
                let ours = (identity.store == self.store || identity.store.is_empty())
                    && (identity.region == self.region || identity.region == 0)
                    && (identity.shard == self.shard || identity.store.is_empty());
                if ours {
                    self.highest_epoch = self.highest_epoch.max(identity.epoch);
                    *word = Word::Said { identity, at_ms: now_ms };
                } else {
                    *word = Word::Useless(format!(
                        "belongs to store {:?} region {} shard {}",
                        identity.store, identity.region, identity.shard
                    ));
                }
            }
            Report::Silence => match word {
                Word::Said { at_ms, .. } if now_ms.saturating_sub(*at_ms) <= SILENCE_MS => {}
                _ => *word = Word::Unreachable("does not answer".to_owned()),
            },
            Report::Unreachable(why) => *word = Word::Unreachable(why),
            Report::Error(why) => *word = Word::Useless(why),
        }
    }

    /// Whether another answer may be expected any moment.
    pub fn is_changing(&self) -> bool {
        self.members.values().any(|member| match &member.word {
            Word::Said { identity, .. } => {
                identity.master && matches!(identity.state, State::Paused | State::Recovering)
            }
            Word::Unasked | Word::Useless(_) | Word::Unreachable(_) => false,
        })
    }

    /// The master to use now, or why there is none.
    pub fn decide(&self) -> ShardMaster {
        let best = self
            .members
            .iter()
            .filter_map(|(address, member)| match &member.word {
                Word::Said { identity, .. } => Some((address, identity)),
                Word::Unasked | Word::Useless(_) | Word::Unreachable(_) => None,
            })
            .filter(|(_, id)| id.master && id.state == State::Serving && id.epoch >= self.highest_epoch)
            .max_by_key(|(_, id)| id.epoch);
        let silent = self.members.iter().filter(|(_, member)| matches!(member.word, Word::Unreachable(_)));
        let unreachable = silent.map(|(address, _)| address.clone()).collect();
        let round = self.members.values().map(|member| member.asked).min().unwrap_or(0);
        match best {
            Some((address, id)) => ShardMaster {
                round,
                master: Some(Master {
                    address: address.clone(),
                    incarnation: id.incarnation,
                    epoch: id.epoch,
                }),
                why: String::new(),
                unreachable,
            },
            None => ShardMaster { round, master: None, why: self.to_string(), unreachable },
        }
    }
}

/// What each member said, as the error for clients ends.
impl fmt::Display for ShardRouting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.members.is_empty() {
            return f.write_str("it has no members in the configuration");
        }
        for (n, (address, member)) in self.members.iter().enumerate() {
            let comma = if n == 0 { "" } else { ", " };
            match &member.word {
                Word::Unasked => write!(f, "{comma}{address} was not asked yet")?,
                Word::Useless(why) | Word::Unreachable(why) => write!(f, "{comma}{address} {why}")?,
                Word::Said { identity: id, .. } if !id.master => write!(f, "{comma}{address} is a replica")?,
                Word::Said { identity: id, .. } => {
                    let state = match id.state {
                        State::Fenced => "is fenced",
                        State::Recovering => "is recovering",
                        State::Paused => "is handing over",
                        State::Serving => "serves an epoch that is over",
                    };
                    write!(f, "{comma}{address} {state}")?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(master: bool, state: State, epoch: u64) -> Report {
        let incarnation = Incarnation(epoch + 100);
        Report::Answer(Identity {
            store: "shop".into(),
            region: 1,
            shard: 0,
            master,
            state,
            epoch,
            incarnation,
        })
    }

    fn shard() -> ShardRouting {
        ShardRouting::new("shop", 1, 0, &["a:1".into(), "b:1".into()])
    }

    fn master(routing: &ShardRouting) -> Option<String> {
        routing.decide().master.map(|m| m.address)
    }

    #[test]
    fn the_serving_master_with_the_highest_epoch_wins() {
        let mut r = shard();
        assert_eq!(master(&r), None);
        r.hear("a:1", id(true, State::Serving, 1), 0, 0);
        assert_eq!(master(&r).as_deref(), Some("a:1"));
        r.hear("b:1", id(true, State::Serving, 2), 0, 0);
        assert_eq!(master(&r).as_deref(), Some("b:1"));
        assert_eq!(r.decide().master.map(|m| m.incarnation), Some(Incarnation(102)));
    }

    #[test]
    fn a_stale_master_is_never_used_once_a_higher_epoch_was_heard_of() {
        let mut r = shard();
        r.hear("a:1", id(true, State::Serving, 1), 0, 0);
        r.hear("b:1", id(true, State::Recovering, 2), 0, 0);
        assert_eq!(master(&r), None);
        r.hear("b:1", Report::Error("refused".into()), 0, 1);
        assert_eq!(master(&r), None, "the word about epoch 2 is remembered");
        assert!(r.decide().why.contains("a:1 serves an epoch that is over"), "{}", r.decide().why);
    }

    #[test]
    fn replicas_and_fenced_engines_are_not_used() {
        let mut r = shard();
        r.hear("a:1", id(true, State::Fenced, 1), 0, 0);
        r.hear("b:1", id(false, State::Serving, 1), 0, 0);
        assert_eq!(r.decide().why, "a:1 is fenced, b:1 is a replica");
    }

    #[test]
    fn who_hands_over_is_not_used_until_it_says_that_it_goes_on() {
        let mut r = shard();
        r.hear("a:1", id(true, State::Paused, 1), 0, 0);
        r.hear("b:1", id(false, State::Fenced, 1), 0, 0);
        assert_eq!(
            (r.decide().why.as_str(), r.is_changing()),
            ("a:1 is handing over, b:1 is a replica", true)
        );
        r.hear("a:1", id(true, State::Serving, 1), 0, 0);
        assert_eq!((master(&r).as_deref(), r.is_changing()), (Some("a:1"), false));
    }

    #[test]
    fn silence_is_forgiven_for_a_while_errors_are_not() {
        let mut r = shard();
        r.hear("a:1", id(true, State::Serving, 1), 0, 1000);
        r.hear("a:1", Report::Silence, 0, 1000 + SILENCE_MS);
        assert!(master(&r).is_some());
        r.hear("a:1", Report::Silence, 0, 1001 + SILENCE_MS);
        assert!(master(&r).is_none());
        r.hear("a:1", id(true, State::Serving, 1), 0, 9000);
        r.hear("a:1", Report::Error("refused the connection".into()), 0, 9001);
        assert!(master(&r).is_none());
    }

    #[test]
    fn an_engine_of_another_store_is_not_used() {
        let mut r = ShardRouting::new("other", 1, 0, &["a:1".into()]);
        r.hear("a:1", id(true, State::Serving, 5), 0, 0);
        assert_eq!(r.decide().why, "a:1 belongs to store \"shop\" region 1 shard 0");
    }

    #[test]
    fn members_come_and_go() {
        let mut r = shard();
        r.hear("a:1", id(true, State::Serving, 1), 0, 0);
        r.set_members(&["a:1".into(), "c:1".into()]);
        assert!(master(&r).is_some());
        r.set_members(&["c:1".into()]);
        assert!(master(&r).is_none());
        r.hear("a:1", id(true, State::Serving, 1), 0, 0);
        assert!(master(&r).is_none(), "who is no member is not heard");
    }

    #[test]
    fn a_round_is_over_when_all_members_were_asked() {
        let mut r = shard();
        r.hear("a:1", id(true, State::Serving, 1), 3, 0);
        assert_eq!(r.decide().round, 0);
        r.hear("b:1", Report::Silence, 2, 0);
        assert_eq!(r.decide().round, 2);
    }

    #[test]
    fn identities_are_read_from_flat_fields() {
        let fields = [
            ("store", "shop"),
            ("region", "1"),
            ("shard", "0"),
            ("role", "master"),
            ("state", "serving"),
            ("epoch", "3"),
            ("incarnation", "00000000000000ff"),
            ("new-field", "x"),
        ];
        let paused = fields.into_iter().chain([("paused-ms", "7")]);
        assert_eq!(Identity::from_fields(paused).map(|id| id.state), Some(State::Paused));
        let read = Identity::from_fields(fields.into_iter().chain([("paused-ms", "0")])).expect("complete");
        assert_eq!((read.epoch, read.incarnation, read.state), (3, Incarnation(255), State::Serving));
        assert_eq!(Identity::from_fields(fields.into_iter().skip(1)), None);
    }
}
