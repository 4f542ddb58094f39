//! Records: what one message of a shard's stream holds. Written once by the origin's region, read by every peer.

use bytes::Bytes;

use crate::cover::Cover;
use crate::stamp::{Hlc, Incarnation, Origin, RegionId, ShardId};
use crate::transfer::{Cursor, State, Want};
use crate::wire::{Reader, WireError, Writer};

/// First bytes of every record.
const MAGIC: [u8; 3] = *b"MAS";
/// Version of the format; another one is refused.
pub const VERSION: u8 = 1;
/// Effects beyond this size travel in parts of at most this size, bytes. A broker's default bound on a message is 16 MiB.
pub const PART_BYTES: usize = 1 << 20;
/// A batch is closed at this size, bytes.
pub const BATCH_BYTES: usize = 256 << 10;
/// Bytes before the body: magic, version, kind, id, origin region, shard, incarnation.
const HEAD_BYTES: usize = 3 + 1 + 1 + 8 + 2 + 2 + 8;

/// One message of a stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Random; names this record, so that a reader can tell whether a log is the one that it knew.
    pub id: u64,
    /// The shard.
    pub shard: ShardId,
    /// Who numbered the effects in it.
    pub origin: Origin,
    /// What it holds.
    pub body: Body,
}

/// What a record holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// Encoded effects ([`crate::wire::encode_effect`]) of the record's origin.
    Effects(Vec<Bytes>),
    /// A piece of an effect too large for one message.
    Part {
        /// The effect's number.
        seq: u64,
        /// Which piece, from 0.
        index: u32,
        /// How many there are.
        count: u32,
        /// The piece.
        bytes: Bytes,
    },
    /// The state of the shard in the region that owns the stream. Sent several times a second.
    Heartbeat(Heartbeat),
    /// Written by a new master and read back: everything before it has been read.
    Nonce(u64),
    /// Nothing more of this earlier incarnation counts: what comes behind this record is ignored by everybody.
    Sealed(Incarnation),
    /// The region that owns the stream asks another one for state that it lacks.
    Want(Want),
    /// State of the region that owns the stream, for one that asked.
    State(State),
}

/// See [`Body::Heartbeat`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heartbeat {
    /// Epoch of the master that it speaks for; those of lower epochs are ignored.
    pub epoch: u64,
    /// The master's clock: at least every stamp in `cover`.
    pub clock: Hlc,
    /// The last number that the record's incarnation has issued.
    pub issued: u64,
    /// What the region has merged through, and will still have after any failover inside it: every effect of every
    /// region up to this clock ([`crate::stability`]).
    pub stable: Hlc,
    /// What the shard has, and will still have after any failover inside the region.
    pub cover: Cover,
}

impl Record {
    /// About how many bytes it takes.
    pub fn size_hint(&self) -> usize {
        HEAD_BYTES
            + match &self.body {
                Body::Effects(effects) => effects.iter().map(|e| e.len() + 5).sum(),
                Body::Part { bytes, .. } => bytes.len() + 24,
                Body::State(state) => state.bytes.len() + 24,
                Body::Heartbeat(_) | Body::Nonce(_) | Body::Want(_) | Body::Sealed(_) => 128,
            }
    }

    /// Encodes it.
    pub fn encode(&self) -> Bytes {
        let mut w = Writer::with_capacity(self.size_hint());
        w.raw(&MAGIC);
        w.u8(VERSION);
        w.u8(match self.body {
            Body::Effects(_) => 0,
            Body::Part { .. } => 1,
            Body::Heartbeat(_) => 2,
            Body::Nonce(_) => 3,
            Body::Want(_) => 4,
            Body::State(_) => 5,
            Body::Sealed(_) => 6,
        });
        w.u64(self.id);
        w.u16(self.shard.0);
        w.origin(self.origin);
        match &self.body {
            Body::Effects(effects) => {
                for effect in effects {
                    w.bytes(effect);
                }
            }
            Body::Part { seq, index, count, bytes } => {
                w.varint(*seq);
                w.varint(u64::from(*index));
                w.varint(u64::from(*count));
                w.raw(bytes);
            }
            Body::Heartbeat(beat) => {
                w.varint(beat.epoch);
                w.u64(beat.clock.0);
                w.varint(beat.issued);
                w.u64(beat.stable.0);
                w.cover(&beat.cover);
            }
            Body::Nonce(nonce) => w.u64(*nonce),
            Body::Sealed(incarnation) => w.u64(incarnation.0),
            Body::Want(Want { of, transfer, since, cursor }) => {
                w.u16(of.0);
                w.u64(*transfer);
                w.u64(since.0);
                cursor.write(&mut w);
            }
            Body::State(State { to, index, count, bytes }) => {
                w.u16(to.0);
                w.varint(u64::from(*index));
                w.varint(u64::from(*count));
                w.raw(bytes);
            }
        }
        w.finish()
    }

    /// Decodes it; effects stay encoded and share the buffer.
    pub fn decode(bytes: Bytes) -> Result<Self, WireError> {
        let mut r = Reader::new(bytes);
        for expected in MAGIC {
            if r.u8("record")? != expected {
                return Err(WireError::Unknown("magic"));
            }
        }
        if r.u8("record")? != VERSION {
            return Err(WireError::Unknown("version"));
        }
        let kind = r.u8("record")?;
        let id = r.u64("record")?;
        let shard = ShardId(r.u16("record")?);
        let origin = r.origin("record")?;
        let narrow = |n: u64| u32::try_from(n).map_err(|_| WireError::TooLarge("part"));
        let body = match kind {
            0 => {
                let mut effects = Vec::new();
                while r.remaining() > 0 {
                    effects.push(r.bytes("effect")?);
                }
                Body::Effects(effects)
            }
            1 => {
                let seq = r.varint("part")?;
                let index = narrow(r.varint("part")?)?;
                let count = narrow(r.varint("part")?)?;
                if index >= count {
                    return Err(WireError::TooLarge("part"));
                }
                Body::Part { seq, index, count, bytes: r.rest() }
            }
            2 => {
                let beat = Heartbeat {
                    epoch: r.varint("heartbeat")?,
                    clock: Hlc(r.u64("heartbeat")?),
                    issued: r.varint("heartbeat")?,
                    stable: Hlc(r.u64("heartbeat")?),
                    cover: r.cover()?,
                };
                r.end("heartbeat")?;
                Body::Heartbeat(beat)
            }
            3 => {
                let nonce = r.u64("nonce")?;
                r.end("nonce")?;
                Body::Nonce(nonce)
            }
            4 => {
                let of = RegionId(r.u16("request")?);
                let (transfer, since) = (r.u64("request")?, Hlc(r.u64("request")?));
                let cursor = Cursor::read(&mut r)?;
                r.end("request")?;
                Body::Want(Want { of, transfer, since, cursor })
            }
            5 => {
                let to = RegionId(r.u16("state")?);
                let (index, count) = (narrow(r.varint("state")?)?, narrow(r.varint("state")?)?);
                if index >= count {
                    return Err(WireError::TooLarge("state"));
                }
                Body::State(State { to, index, count, bytes: r.rest() })
            }
            6 => {
                let incarnation = Incarnation(r.u64("seal")?);
                r.end("seal")?;
                Body::Sealed(incarnation)
            }
            _ => return Err(WireError::Unknown("kind of record")),
        };
        Ok(Self { id, shard, origin, body })
    }

    /// Who numbered the effects (or the part of one) in an encoded record; `None` for other kinds and for what is no
    /// record of this version. Reads nothing beyond the head.
    pub fn peek_effects_of(bytes: &[u8]) -> Option<Origin> {
        let head = bytes.get(..HEAD_BYTES)?;
        if head[..3] != MAGIC || head[3] != VERSION || head[4] > 1 {
            return None;
        }
        let region = u16::from_le_bytes(head[15..17].try_into().ok()?);
        let incarnation = u64::from_le_bytes(head[17..25].try_into().ok()?);
        Some(Origin { region: RegionId(region), incarnation: Incarnation(incarnation) })
    }

    /// The record's id, from its encoded form, if that is a record at all.
    pub fn peek_id(bytes: &[u8]) -> Option<u64> {
        let id = bytes.get(5..13)?;
        (bytes.get(..3)? == MAGIC).then(|| id.try_into().ok().map(u64::from_le_bytes)).flatten()
    }
}
