//! What an engine says about itself: the reply to `MAS.IDENTITY` as a type.

use std::collections::HashMap;

use bytes::Bytes;

use crate::joining::Joining;
use crate::stamp::Incarnation;

/// Whether an engine is Redis' master or replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Nobody's replica. Says nothing about whether it may serve.
    Master,
    /// Replicates from a master.
    Replica,
}

/// What an engine may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineState {
    /// Nothing: just started, or superseded.
    Fenced,
    /// Promoted; a proxy is reading its own stream back.
    Recovering,
    /// Everything.
    Serving,
}

/// One engine's identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The store it belongs to; empty before its first promotion.
    pub store: String,
    /// Its region's id; 0 before its first promotion.
    pub region: u16,
    /// Its shard.
    pub shard: u16,
    /// Master or replica.
    pub role: Role,
    /// What it may do.
    pub state: EngineState,
    /// Its own stream was read back to the end.
    pub recovered: bool,
    /// Highest epoch that its data has seen.
    pub epoch: u64,
    /// The incarnation of its data, 16 hex digits; all zero: none.
    pub incarnation: String,
    /// Highest number of that incarnation that it holds.
    pub seq: u64,
    /// Its clock (hybrid logical).
    pub clock: u64,
    /// Effects that no broker has confirmed yet.
    pub outbox_effects: u64,
    /// The same in bytes.
    pub outbox_bytes: u64,
    /// A replica whose link to its master is up.
    pub master_link_up: bool,
    /// Keys it holds.
    pub keys: u64,
    /// It holds neither keys nor metadata.
    pub empty: bool,
    /// The smallest number waiting of each incarnation that has any in the outbox.
    pub waiting: Vec<(Incarnation, u64)>,
    /// The epoch of the store's membership that it knows; 0: none.
    pub membership: u64,
    /// What it brought, while its region joins the store.
    pub joining: Option<Joining>,
}

/// A reply that is no identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "reading MAS.IDENTITY failed: field '{field}' is missing or not understood ('{value}'): is the engine module of this version?"
)]
pub struct BadIdentity {
    field: &'static str,
    value: String,
}

impl Identity {
    /// Reads the flat list of fields and values. Unknown fields are ignored: a newer engine may say more.
    pub fn parse(flat: &[String]) -> Result<Self, BadIdentity> {
        let map: HashMap<&str, &str> =
            flat.chunks_exact(2).map(|pair| (pair[0].as_str(), pair[1].as_str())).collect();
        let text = |field: &'static str| {
            map.get(field).copied().ok_or_else(|| BadIdentity { field, value: String::new() })
        };
        let bad = |field: &'static str, value: &str| BadIdentity { field, value: value.to_owned() };
        let number = |field: &'static str| {
            text(field).and_then(|value| value.parse::<u64>().map_err(|_| bad(field, value)))
        };
        let small = |field: &'static str| {
            text(field).and_then(|value| value.parse::<u16>().map_err(|_| bad(field, value)))
        };
        Ok(Self {
            store: text("store")?.to_owned(),
            region: small("region")?,
            shard: small("shard")?,
            role: match text("role")? {
                "master" => Role::Master,
                "replica" => Role::Replica,
                other => return Err(bad("role", other)),
            },
            state: match text("state")? {
                "fenced" => EngineState::Fenced,
                "recovering" => EngineState::Recovering,
                "serving" => EngineState::Serving,
                other => return Err(bad("state", other)),
            },
            recovered: text("recovered")? == "1",
            epoch: number("epoch")?,
            incarnation: text("incarnation")?.to_owned(),
            seq: number("seq")?,
            clock: number("clock")?,
            outbox_effects: number("outbox-effects")?,
            outbox_bytes: number("outbox-bytes")?,
            master_link_up: map.get("master-link").is_some_and(|link| *link == "up"),
            keys: number("keys")?,
            empty: text("empty")? == "1",
            waiting: waiting(map.get("outbox-first").copied().unwrap_or_default())
                .ok_or_else(|| bad("outbox-first", map.get("outbox-first").copied().unwrap_or_default()))?,
            membership: map.get("membership").and_then(|value| value.parse().ok()).unwrap_or_default(),
            joining: map.get("joining").and_then(|hex| Joining::decode(unhex(hex)?)),
        })
    }
}

/// `<incarnation>:<number>`, joined by commas.
fn waiting(text: &str) -> Option<Vec<(Incarnation, u64)>> {
    let each = |word: &str| {
        let (incarnation, seq) = word.split_once(':')?;
        Some((Incarnation::parse(incarnation)?, seq.parse().ok()?))
    };
    text.split(',').filter(|word| !word.is_empty()).map(each).collect()
}

fn unhex(text: &str) -> Option<Bytes> {
    let digits = text.as_bytes().chunks_exact(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.map(byte).collect::<Option<Vec<u8>>>().map(Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat(text: &str) -> Vec<String> {
        text.split_whitespace().map(|word| word.replace('_', "")).collect()
    }

    #[test]
    fn reads_what_the_contract_lists() {
        let identity = Identity::parse(&flat(
            "store shop region 1 shard 0 node n version 1 role master state serving recovered 1 epoch 3 incarnation 00000000000000ff \
             seq 12 clock 99 outbox-effects 2 outbox-bytes 100 outbox-max-bytes 1000 master-link down repl-offset 5 keys 7 empty 0 previous _",
        ));
        let identity = identity.unwrap();
        assert_eq!((identity.role, identity.state, identity.epoch), (Role::Master, EngineState::Serving, 3));
        assert_eq!((identity.seq, identity.outbox_effects, identity.empty), (12, 2, false));
    }

    #[test]
    fn says_which_field_is_missing() {
        let error = Identity::parse(&flat("store shop region 1 shard 0 role king")).unwrap_err();
        assert_eq!(error, BadIdentity { field: "role", value: "king".into() });
        assert_eq!(Identity::parse(&[]).unwrap_err().field, "store");
    }
}
