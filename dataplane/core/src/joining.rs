//! A region that joins, or of which a shard is rebuilt: a copy of another region's shard becomes a shard of its own.
//!
//! The copy is made by Redis replication, so it has everything that its source had, in the source's name: cover, positions in every stream,
//! tombstones, totals, and the effects that waited in the source's outbox. What it *brought* of the source's own effects may be nowhere
//! else yet: a source that fails over to a copy that has less never publishes them. So the new shard serves only when the source has shown that all of
//! them are in its stream ([`crate::procedures::scale_out`]); until then it is *joining*, across restarts and promotions.

use bytes::Bytes;

use crate::cover::{Cover, SeqSet};
use crate::outbox::Outbox;
use crate::shard::{Identity, Shard, entry};
use crate::stability::Told;
use crate::stamp::{Hlc, Incarnation, RegionId, ShardId};
use crate::wire::{Reader, WireError, Writer};

/// What a joining shard brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joining {
    /// The attempt that made it.
    pub ticket: u64,
    /// The region that it was copied from.
    pub source: RegionId,
    /// What it had then of that region's own effects.
    pub brought: Cover,
}

impl Joining {
    pub(crate) fn write(&self, w: &mut Writer) {
        w.u16(self.source.0);
        w.u64(self.ticket);
        w.cover(&self.brought);
    }

    pub(crate) fn read(r: &mut Reader) -> Result<Option<Self>, WireError> {
        let source = RegionId(r.u16("joining")?);
        if source == RegionId(0) {
            return Ok(None);
        }
        Ok(Some(Self { source, ticket: r.u64("joining")?, brought: r.cover()? }))
    }

    /// As `MAS.IDENTITY` gives it.
    pub fn encode(&self) -> Bytes {
        let mut w = Writer::with_capacity(64);
        self.write(&mut w);
        w.finish()
    }

    /// Reads it; `None` also when it cannot be read.
    pub fn decode(bytes: Bytes) -> Option<Self> {
        let mut r = Reader::new(bytes);
        let joining = Self::read(&mut r).ok()??;
        r.end("joining").ok()?;
        Some(joining)
    }
}

impl Shard {
    /// What it brought, while it joins.
    pub fn joining(&self) -> Option<&Joining> {
        self.joining.as_ref()
    }

    /// This copy of another region's shard becomes the shard of region `to.region`. The caller has checked that it is the copy that
    /// was meant and that the epoch is above the one seen, and draws the incarnation from a random source. Returns the log entry.
    pub fn join(&mut self, to: Identity, ticket: u64, wall_ms: u64) -> Bytes {
        let mut w = Writer::with_capacity(64);
        w.u8(entry::JOINING);
        w.u16(to.region.0);
        w.u64(to.epoch);
        w.u64(to.incarnation.0);
        w.u64(wall_ms);
        w.u64(ticket);
        self.begin_region(to, ticket, wall_ms);
        w.finish()
    }

    pub(crate) fn apply_join(&mut self, r: &mut Reader) -> Result<(), WireError> {
        let to = Identity {
            store: self.identity.store.clone(),
            region: RegionId(r.u16("region")?),
            shard: ShardId(self.identity.shard.0),
            epoch: r.u64("epoch")?,
            incarnation: Incarnation(r.u64("incarnation")?),
            previous: Incarnation::NONE,
        };
        let (at, ticket) = (r.u64("clock")?, r.u64("ticket")?);
        self.begin_region(to, ticket, at);
        Ok(())
    }

    fn begin_region(&mut self, to: Identity, ticket: u64, wall_ms: u64) {
        let source = self.identity.origin();
        // What this copy lacks of the source was issued later than all that it has.
        let told = Told { clock: self.clock(), issued: self.seq, stable: self.merged_through().hlc };
        self.cover.set(source, SeqSet::up_to(self.seq));
        self.stability.ended(source, told);
        if mutation!(PositionsNotCarried) {
            self.positions.clear();
        }
        let mut brought = Cover::default();
        for (origin, seqs) in self.cover.iter().filter(|(origin, _)| origin.region == source.region) {
            if !mutation!(BroughtForgotten) {
                brought.set(origin, seqs.clone());
            }
        }
        self.joining = Some(Joining { ticket, source: source.region, brought });
        // The source publishes what is its own.
        if !mutation!(OutboxCarried) {
            self.outbox = Outbox::default();
        }
        // The position in its own stream, of a shard that is rebuilt, stays: up to there its source had read it, and has all.
        self.identity = Identity { previous: Incarnation::NONE, ..to };
        self.seq = 0;
        self.clock.observe(Hlc::from_millis(wall_ms));
    }

    /// It may serve from now on. Returns the log entry, if it was joining.
    pub fn joined(&mut self) -> Option<Bytes> {
        self.joining.take()?;
        Some(Bytes::from_static(&[entry::JOINED]))
    }
}
