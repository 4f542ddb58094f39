//! Control connections to the engines: the commands of docs/internals.md as typed calls, one shared connection an
//! engine, every call with a time limit. A call that was not answered may still have been carried out; every command
//! here is safe to repeat.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use mas_core::replication::heartbeat::Word;
use mas_core::replication::reader::Merge;
use mas_core::shard::Position;
use mas_core::stamp::{Hlc, Incarnation, RegionId};
use mas_core::transfer::{Cursor, Progress};
use mas_core::wire::Reader;
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{AsyncConnectionConfig, Cmd, ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo, Value};
use tokio::sync::Mutex;

/// How long a connection may take to be made.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// How long a reply may take. A merge may wait behind a long command.
const REPLY_LIMIT: Duration = Duration::from_secs(5);
/// Keys that one `MAS.COLLECT` looks at: some milliseconds of an engine at most.
const COLLECT_KEYS: u64 = 2000;
/// Most ranges that one `MAS.TRIM` names.
pub(crate) const TRIM_RANGES_MAX: usize = 512;

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EngineError {
    /// `MASPOSITION`.
    #[error("the engine has stored another position")]
    Position,
    /// `MASDECODE`.
    #[error("record {0} of the merge cannot be decoded")]
    Decode(usize),
    /// `MASINCARNATION`, `MASFENCED`, `MASREPLICA`, `MASRECOVERING`: not the master that was meant.
    #[error("the engine is not the master that was meant: {0}")]
    NotMaster(String),
    /// `MASGAPS`.
    #[error("too many gaps in the cover")]
    Gaps,
    /// `MASSKEW`, `MASHELD`: a clock is too far ahead.
    #[error("a clock is too far ahead: {0}")]
    Skew(String),
    /// `MASMEMBERS`: this proxy's list of regions is older than the engine's.
    #[error("the engine knows a newer list of regions")]
    OldMembers,
    /// The engine cannot take it now (memory).
    #[error("the engine cannot take it now: {0}")]
    Busy(String),
    /// No connection, or no answer.
    #[error("cannot reach the engine at {address}: {why}")]
    Unreachable {
        /// Its address.
        address: String,
        /// The cause.
        why: String,
    },
    /// An answer that no engine gives.
    #[error("the engine at {0} answers as no engine does: check versions")]
    Strange(String),
}

/// What an engine says about itself (`MAS.IDENTITY`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) store: String,
    pub(crate) shard: u16,
    pub(crate) master: bool,
    pub(crate) recovering: bool,
    pub(crate) serving: bool,
    pub(crate) recovered: bool,
    /// Its region joins: it must not serve yet.
    pub(crate) joining: bool,
    pub(crate) epoch: u64,
    pub(crate) incarnation: Incarnation,
    pub(crate) seq: u64,
    pub(crate) outbox_effects: u64,
    pub(crate) outbox_bytes: u64,
    pub(crate) outbox_max_bytes: u64,
    /// The smallest number waiting of each incarnation that has any in the outbox.
    pub(crate) outbox_first: Vec<(Incarnation, u64)>,
}

impl Identity {
    fn read(value: &Value) -> Option<Self> {
        let Value::Array(items) = value else { return None };
        let mut identity = Self::default();
        // An engine that does not tell must not be taken for one where nothing waits.
        let mut outbox_first = None;
        for pair in items.chunks_exact(2) {
            let (name, text) = (text_of(&pair[0])?, text_of(&pair[1])?);
            match name.as_str() {
                "store" => identity.store = text,
                "shard" => identity.shard = text.parse().ok()?,
                "joining" => identity.joining = !text.is_empty(),
                "role" => identity.master = text == "master",
                "state" => {
                    identity.recovering = text == "recovering";
                    identity.serving = text == "serving";
                }
                "recovered" => identity.recovered = text == "1",
                "epoch" => identity.epoch = text.parse().ok()?,
                "incarnation" => identity.incarnation = Incarnation::parse(&text)?,
                "seq" => identity.seq = text.parse().ok()?,
                "outbox-effects" => identity.outbox_effects = text.parse().ok()?,
                "outbox-bytes" => identity.outbox_bytes = text.parse().ok()?,
                "outbox-max-bytes" => identity.outbox_max_bytes = text.parse().ok()?,
                "outbox-first" => {
                    let read = |pair: &str| {
                        let (incarnation, seq) = pair.split_once(':')?;
                        Some((Incarnation::parse(incarnation)?, seq.parse().ok()?))
                    };
                    outbox_first = text.split(',').filter(|p| !p.is_empty()).map(read).collect();
                }
                _ => {}
            }
        }
        identity.outbox_first = outbox_first?;
        Some(identity)
    }
}

/// What one merge did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MergeCounts {
    pub(crate) merged: u64,
    pub(crate) duplicates: u64,
    pub(crate) overruled: u64,
    /// Pieces of state taken over, and refused.
    pub(crate) adopted: u64,
    pub(crate) refused: u64,
}

/// What one step of forgetting did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Collected {
    /// Keys of which something was forgotten.
    pub(crate) dropped: u64,
    /// Tombstones left in the slots that were looked at.
    pub(crate) held: u64,
    /// Where to go on; 0 after the last slot.
    pub(crate) next_slot: u16,
    /// What is stable in all regions.
    pub(crate) stable: Hlc,
    /// The region that holds it back; 0: none.
    pub(crate) held_by: RegionId,
}

type Slot = Rc<Mutex<Option<MultiplexedConnection>>>;

/// All engines that this proxy talks to, by address.
#[derive(Default)]
pub(crate) struct Engines {
    pool: RefCell<HashMap<String, Slot>>,
    password: RefCell<Option<String>>,
}

impl Engines {
    /// Reads the engines' password again; connections made before keep the one they used.
    pub(crate) fn set_password_file(&self, file: Option<&Path>) -> std::io::Result<()> {
        let password = file.map(std::fs::read_to_string).transpose()?;
        *self.password.borrow_mut() = password.map(|p| p.trim_end().to_owned());
        Ok(())
    }

    /// Forgets connections to engines that are no members any more.
    pub(crate) fn keep(&self, members: &dyn Fn(&str) -> bool) {
        self.pool.borrow_mut().retain(|address, _| members(address));
    }

    async fn connection(&self, address: &str) -> Result<MultiplexedConnection, EngineError> {
        let slot = Rc::clone(self.pool.borrow_mut().entry(address.to_owned()).or_default());
        let mut slot = slot.lock().await;
        if let Some(connection) = &*slot {
            return Ok(connection.clone());
        }
        let unreachable = |why: String| EngineError::Unreachable { address: address.to_owned(), why };
        let (host, port) = address.rsplit_once(':').ok_or_else(|| unreachable("not host:port".to_owned()))?;
        let port = port.parse().map_err(|_| unreachable("not host:port".to_owned()))?;
        let mut login = RedisConnectionInfo::default();
        if let Some(password) = &*self.password.borrow() {
            login = login.set_password(password);
        }
        let open = || {
            let info = ConnectionAddr::Tcp(host.to_owned(), port).into_connection_info()?;
            let info =
                info.set_tcp_settings(TcpSettings::default().set_nodelay(true)).set_redis_settings(login);
            redis::Client::open(info)
        };
        let client = open().map_err(|e| unreachable(e.to_string()))?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_LIMIT))
            .set_response_timeout(Some(REPLY_LIMIT));
        let connection = client
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .map_err(|e| unreachable(e.to_string()))?;
        *slot = Some(connection.clone());
        Ok(connection)
    }

    async fn call(&self, address: &str, command: &Cmd) -> Result<Value, EngineError> {
        let mut connection = self.connection(address).await?;
        let error = match connection.send_packed_command(command).await {
            Ok(Value::ServerError(error)) => {
                return Err(read_error(error.code(), error.details().unwrap_or("")));
            }
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        if let (Some(code), false) = (error.code(), error.is_io_error()) {
            return Err(read_error(code, error.detail().unwrap_or("")));
        }
        // A late reply on this connection must not be taken for another's.
        if let Some(slot) = self.pool.borrow().get(address)
            && let Ok(mut slot) = slot.try_lock()
        {
            *slot = None;
        }
        Err(EngineError::Unreachable { address: address.to_owned(), why: error.to_string() })
    }

    /// `MAS.IDENTITY`.
    pub(crate) async fn identity(&self, address: &str) -> Result<Identity, EngineError> {
        let value = self.call(address, &redis::cmd("MAS.IDENTITY")).await?;
        Identity::read(&value).ok_or_else(|| EngineError::Strange(address.to_owned()))
    }

    /// `MAS.COVER`.
    pub(crate) async fn cover(&self, address: &str) -> Result<Word, EngineError> {
        let value = self.call(address, &redis::cmd("MAS.COVER")).await?;
        let read = || {
            let Value::Array(items) = &value else { return None };
            let [cover, clock, incarnation, issued, merged_through, ended, transfer] = &items[..] else {
                return None;
            };
            let (Value::BulkString(cover), Value::BulkString(transfer)) = (cover, transfer) else {
                return None;
            };
            let transfer = match &transfer[..] {
                [] => None,
                bytes => Some(Progress::decode(Bytes::copy_from_slice(bytes)).ok()?),
            };
            let mut reader = Reader::new(Bytes::copy_from_slice(cover));
            let cover = reader.cover().ok()?;
            reader.end("cover").ok()?;
            Some(Word {
                cover,
                clock: Hlc(number_of(clock)?),
                incarnation: Incarnation::parse(&text_of(incarnation)?)?,
                issued: number_of(issued)?,
                merged_through: Hlc(number_of(merged_through)?),
                transfer,
                ended: text_of(ended)?
                    .split(',')
                    .filter(|name| !name.is_empty())
                    .map(Incarnation::parse)
                    .collect::<Option<_>>()?,
            })
        };
        read().ok_or_else(|| EngineError::Strange(address.to_owned()))
    }

    /// `MAS.POSITIONS`, of one region.
    pub(crate) async fn position(
        &self,
        address: &str,
        region: RegionId,
    ) -> Result<Option<Position>, EngineError> {
        let value = self.call(address, &redis::cmd("MAS.POSITIONS")).await?;
        let strange = || EngineError::Strange(address.to_owned());
        let Value::Array(items) = &value else { return Err(strange()) };
        for row in items.chunks_exact(3) {
            let read = || Some((number_of(&row[0])?, number_of(&row[1])?, number_of(&row[2])?));
            let (of, offset, record) = read().ok_or_else(strange)?;
            if of == u64::from(region.0) {
                return Ok(Some(Position { offset, record }));
            }
        }
        Ok(None)
    }

    /// `MAS.MERGE`.
    pub(crate) async fn merge(
        &self,
        address: &str,
        incarnation: Incarnation,
        region: RegionId,
        merge: &Merge,
    ) -> Result<MergeCounts, EngineError> {
        let mut command = redis::cmd("MAS.MERGE");
        command.arg(incarnation.to_string()).arg(region.0);
        match merge.expected {
            Some(at) => command.arg(at.offset).arg(at.record),
            None => command.arg("-1").arg("0"),
        };
        command.arg(merge.to.offset).arg(merge.to.record);
        for body in &merge.bodies {
            command.arg(&body[..]);
        }
        let value = self.call(address, &command).await?;
        let read = || {
            let Value::Array(items) = &value else { return None };
            let [merged, duplicates, overruled, adopted, refused] = &items[..] else { return None };
            Some(MergeCounts {
                merged: number_of(merged)?,
                duplicates: number_of(duplicates)?,
                overruled: number_of(overruled)?,
                adopted: number_of(adopted)?,
                refused: number_of(refused)?,
            })
        };
        read().ok_or_else(|| EngineError::Strange(address.to_owned()))
    }

    /// `MAS.OUTBOX`: effects older than `min_age` that no other proxy claims.
    pub(crate) async fn outbox(
        &self,
        address: &str,
        incarnation: Incarnation,
        proxy: u64,
        min_age: Duration,
        max_bytes: usize,
        claim: Duration,
    ) -> Result<Vec<(Incarnation, u64, Bytes)>, EngineError> {
        let mut command = redis::cmd("MAS.OUTBOX");
        command.arg(incarnation.to_string()).arg(proxy).arg(min_age.as_millis() as u64).arg(max_bytes);
        command.arg(claim.as_millis() as u64);
        let strange = || EngineError::Strange(address.to_owned());
        let Value::Array(items) = self.call(address, &command).await? else { return Err(strange()) };
        let mut effects = Vec::with_capacity(items.len() / 3);
        let mut items = items.into_iter();
        while let (Some(origin), Some(seq), Some(effect)) = (items.next(), items.next(), items.next()) {
            let origin = text_of(&origin).and_then(|t| Incarnation::parse(&t)).ok_or_else(strange)?;
            let Value::BulkString(effect) = effect else { return Err(strange()) };
            effects.push((origin, number_of(&seq).ok_or_else(strange)?, Bytes::from(effect)));
        }
        Ok(effects)
    }

    /// `MAS.TRIM`, of at most [`TRIM_RANGES_MAX`] ranges.
    pub(crate) async fn trim(
        &self,
        address: &str,
        incarnation: Incarnation,
        origin: Incarnation,
        ranges: &[(u64, u64)],
    ) -> Result<(), EngineError> {
        let mut command = redis::cmd("MAS.TRIM");
        command.arg(incarnation.to_string()).arg(origin.to_string());
        for (first, last) in ranges {
            command.arg(first).arg(last);
        }
        self.call(address, &command).await.map(drop)
    }

    /// `MAS.COLLECT`: one step of forgetting what is causally stable, from `slot` on.
    pub(crate) async fn collect(
        &self,
        address: &str,
        incarnation: Incarnation,
        slot: u16,
        membership: u64,
        members: impl Iterator<Item = RegionId>,
    ) -> Result<Collected, EngineError> {
        let mut command = redis::cmd("MAS.COLLECT");
        command.arg(incarnation.to_string()).arg(slot).arg(COLLECT_KEYS).arg(membership);
        for member in members {
            command.arg(member.0);
        }
        let value = self.call(address, &command).await?;
        let read = || {
            let Value::Array(items) = &value else { return None };
            let [dropped, held, next_slot, stable, held_by] = &items[..] else { return None };
            Some(Collected {
                dropped: number_of(dropped)?,
                held: number_of(held)?,
                next_slot: number_of(next_slot)?.try_into().ok()?,
                stable: Hlc(number_of(stable)?),
                held_by: RegionId(number_of(held_by)?.try_into().ok()?),
            })
        };
        read().ok_or_else(|| EngineError::Strange(address.to_owned()))
    }

    /// `MAS.STATE`: a piece of state, and where the next one begins.
    pub(crate) async fn state(
        &self,
        address: &str,
        incarnation: Incarnation,
        request: &[u8],
    ) -> Result<(Cursor, Bytes), EngineError> {
        let mut command = redis::cmd("MAS.STATE");
        command.arg(incarnation.to_string()).arg(request);
        let strange = || EngineError::Strange(address.to_owned());
        let Value::Array(items) = self.call(address, &command).await? else { return Err(strange()) };
        let Ok([Value::BulkString(next), Value::BulkString(piece)]) = <[Value; 2]>::try_from(items) else {
            return Err(strange());
        };
        let next = Cursor::read(&mut Reader::new(next.into())).map_err(|_| strange())?;
        Ok((next, piece.into()))
    }

    /// `MAS.CLAIM`: whether the duty is this proxy's now.
    pub(crate) async fn claim(
        &self,
        address: &str,
        incarnation: Incarnation,
        duty: &str,
        proxy: u64,
        ttl: Duration,
    ) -> Result<bool, EngineError> {
        let mut command = redis::cmd("MAS.CLAIM");
        command.arg(incarnation.to_string()).arg(duty).arg(proxy).arg(ttl.as_millis() as u64);
        let value = self.call(address, &command).await?;
        match &value {
            Value::Array(items) => items.first().and_then(number_of).map(|n| n == 1),
            _ => None,
        }
        .ok_or_else(|| EngineError::Strange(address.to_owned()))
    }

    /// `MAS.SERVE`.
    pub(crate) async fn serve(
        &self,
        address: &str,
        incarnation: Incarnation,
        full: bool,
        clock: Hlc,
    ) -> Result<(), EngineError> {
        let mut command = redis::cmd("MAS.SERVE");
        command.arg(incarnation.to_string()).arg(if full { "full" } else { "degraded" }).arg(clock.0);
        self.call(address, &command).await.map(drop)
    }
}

fn read_error(code: &str, detail: &str) -> EngineError {
    match code {
        "MASPOSITION" => EngineError::Position,
        "MASDECODE" => match detail.split(' ').next().and_then(|n| n.parse().ok()) {
            Some(index) => EngineError::Decode(index),
            None => EngineError::Busy(format!("{code} {detail}")),
        },
        "MASFENCED" | "MASRECOVERING" | "MASREPLICA" | "MASINCARNATION" | "MASEPOCH" | "READONLY" => {
            EngineError::NotMaster(format!("{code} {detail}"))
        }
        "MASSKEW" | "MASHELD" => EngineError::Skew(detail.to_owned()),
        "MASGAPS" => EngineError::Gaps,
        "MASMEMBERS" => EngineError::OldMembers,
        _ => EngineError::Busy(format!("{code} {detail}")),
    }
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes.clone()).ok(),
        Value::SimpleString(text) => Some(text.clone()),
        Value::Int(n) => Some(n.to_string()),
        _ => None,
    }
}

fn number_of(value: &Value) -> Option<u64> {
    match value {
        Value::Int(n) => u64::try_from(*n).ok(),
        _ => text_of(value)?.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn identities_are_read() {
        let fields = [
            ("store", "shop"),
            ("shard", "3"),
            ("role", "master"),
            ("state", "recovering"),
            ("recovered", "0"),
            ("epoch", "4"),
            ("incarnation", "00000000000000ff"),
            ("seq", "12"),
            ("outbox-effects", "5"),
            ("outbox-first", "00000000000000fe:3,00000000000000ff:9"),
            ("something-new", "x"),
        ];
        let value = Value::Array(fields.iter().flat_map(|(k, v)| [bulk(k), bulk(v)]).collect());
        let identity = Identity::read(&value).expect("complete");
        assert!(identity.master && identity.recovering && !identity.serving && !identity.recovered);
        assert_eq!((identity.shard, identity.epoch, identity.seq), (3, 4, 12));
        assert_eq!(identity.outbox_first, [(Incarnation(0xfe), 3), (Incarnation(0xff), 9)]);
        let without: Vec<(&str, &str)> =
            fields.into_iter().filter(|(name, _)| *name != "outbox-first").collect();
        let value = Value::Array(without.iter().flat_map(|(k, v)| [bulk(k), bulk(v)]).collect());
        assert!(Identity::read(&value).is_none(), "an engine that does not tell what waits");
    }

    #[test]
    fn errors_are_told_apart_by_their_first_word() {
        assert_eq!(read_error("MASPOSITION", "7 99"), EngineError::Position);
        assert_eq!(read_error("MASDECODE", "2 unknown kind"), EngineError::Decode(2));
        assert!(matches!(read_error("MASFENCED", ""), EngineError::NotMaster(_)));
        assert!(matches!(read_error("OOM", "too much"), EngineError::Busy(_)));
    }
}
