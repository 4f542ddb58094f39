//! State that streams have lost: asking another region for what is missing here, and answering those who ask. The decisions are
//! `mas_core::replication::repair`'s; the rules are `mas_core::transfer`'s.

use std::rc::Rc;

use mas_core::record::{Body, Record};
use mas_core::replication::heartbeat::Word;
use mas_core::replication::repair::{Repair, Seen};
use mas_core::stamp::{Origin, RegionId};
use mas_core::transfer::{Cursor, State, Want};

use super::engine::EngineError;
use super::hub::{Hub, Seat, Shard, new_id};
use super::metrics::OfLink;

/// Pieces that travel together, if they are small: an engine looks at many keys for one that has changed.
const PIECES_MAX: usize = 64;
/// Bytes of them after which no other follows.
const BYTES_MAX: usize = 256 << 10;

/// Asks for the next piece of what is missing here and `peer` has, if it is time to.
pub(crate) fn ask(
    hub: &Hub,
    shard: &Shard,
    seat: &Seat,
    peer: &mut Repair,
    of: &OfLink,
    word: &Word,
    missing: bool,
) {
    let recovered = shard.seat().is_some_and(|seat| seat.recovered);
    if word.incarnation != seat.incarnation || !recovered {
        return;
    }
    let seen = Seen { missing, since: word.merged_through, transfer: word.transfer.as_ref() };
    let Some(want) = peer.step(seen, hub.now_ms(), new_id()) else { return };
    if want.cursor == Cursor::START {
        tracing::warn!(peer = %of.peer, shard = of.shard, since_ms = want.since.millis(), "effects are missing: asks for state");
    }
    let record = record_of(hub, shard, seat, Body::Want(want));
    shard.batcher.borrow_mut().push_want(&record);
    hub.pump.notify_one();
}

fn record_of(hub: &Hub, shard: &Shard, seat: &Seat, body: Body) -> Record {
    let origin = Origin { region: hub.region(), incarnation: seat.incarnation };
    Record { id: new_id(), shard: shard.id, origin, body }
}

/// Answers a region that asked, unless it is being answered.
pub(crate) fn serve(hub: &Rc<Hub>, shard: &Rc<Shard>, seat: &Seat, to: RegionId, of: &OfLink, want: Want) {
    if !shard.answering.borrow_mut().insert(to) {
        return;
    }
    let (hub, shard, seat, of) = (Rc::clone(hub), Rc::clone(shard), seat.clone(), of.clone());
    tokio::task::spawn_local(async move {
        match gather(&hub, &shard, &seat, to, want).await {
            Ok(records) => {
                shard.batcher.borrow_mut().push_state(&records);
                hub.metrics.state_sent.get_or_create(&of).inc();
                hub.pump.notify_one();
            }
            Err(error) => tracing::debug!(peer = %of.peer, shard = of.shard, %error, "no state was sent"),
        }
        shard.answering.borrow_mut().remove(&to);
    });
}

async fn gather(
    hub: &Hub,
    shard: &Shard,
    seat: &Seat,
    to: RegionId,
    mut want: Want,
) -> Result<Vec<Record>, EngineError> {
    let (mut pieces, mut bytes) = (Vec::new(), 0);
    while pieces.len() < PIECES_MAX && bytes < BYTES_MAX && want.cursor != Cursor::Done {
        let request = record_of(hub, shard, seat, Body::Want(want.clone())).encode();
        let (next, piece) = hub.engines.state(&seat.address, seat.incarnation, &request).await?;
        bytes += piece.len();
        pieces.push(piece);
        want.cursor = next;
    }
    let parts = State::parts(to, &pieces);
    Ok(parts.into_iter().map(|part| record_of(hub, shard, seat, Body::State(part))).collect())
}
