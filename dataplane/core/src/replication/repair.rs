//! Asking another region for state that is missing here and will not come through its stream any more, piece by piece
//! ([`crate::transfer`]). What was taken over is remembered by the engine; this only asks for the next piece, again when nothing
//! comes, and from the start when nothing keeps coming.

use crate::stamp::{Hlc, RegionId};
use crate::transfer::{Cursor, Progress, Want};

/// Asked for again after this time, milliseconds; twice as long each time, up to [`AGAIN_MAX_MS`].
pub const AGAIN_MS: u64 = 2000;
/// See [`AGAIN_MS`].
pub const AGAIN_MAX_MS: u64 = 60_000;
/// So many times for one piece; then from the start, for the source may have another master.
const TRIES: u32 = 3;
/// A transfer that was sent wholly is settled as soon as streams bring what the source got meanwhile. If that takes longer than
/// this, milliseconds, the source may have lacked at the start what is missing: another one follows.
pub const SETTLE_MS: u64 = 10_000;
/// A transfer from another region that has not moved for so long, milliseconds, is given up.
const STUCK_MS: u64 = 60_000;

/// What is known when the next step is decided.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Something that the peer has is missing here.
    pub missing: bool,
    /// What this region has merged through.
    pub since: Hlc,
    /// The transfer that the engine receives.
    pub transfer: Option<&'a Progress>,
}

/// See the module. One for each peer and shard, at the proxy that reads that peer's stream.
#[derive(Clone, Debug)]
pub struct Repair {
    peer: RegionId,
    /// What was asked for last, how often, and when.
    asked: Option<(Cursor, u32, u64)>,
    /// The engine's transfer, and since when it stands where it stands.
    standing: Option<(Progress, u64)>,
}

impl Repair {
    /// Nothing was asked for yet.
    pub fn new(peer: RegionId) -> Self {
        Self { peer, asked: None, standing: None }
    }

    /// What to ask for now, if anything. `new_id` is random and not 0.
    pub fn step(&mut self, seen: Seen<'_>, now_ms: u64, new_id: u64) -> Option<Want> {
        let stood_ms = self.stand(seen.transfer, now_ms);
        match seen.transfer {
            Some(t) if t.source == self.peer && t.next != Cursor::Done => {
                let (tries, due) = self.due(&t.next, now_ms);
                if !due {
                    None
                } else if tries >= TRIES {
                    self.begin(seen, now_ms, new_id)
                } else {
                    self.asked = Some((t.next.clone(), tries + 1, now_ms));
                    let (transfer, since, cursor) = (t.id, t.since, t.next.clone());
                    Some(Want { of: self.peer, transfer, since, cursor })
                }
            }
            Some(t) if t.next == Cursor::Done && stood_ms < SETTLE_MS => None,
            Some(t) if t.next != Cursor::Done && stood_ms < STUCK_MS => None,
            Some(_) | None => self.begin(seen, now_ms, new_id),
        }
    }

    fn begin(&mut self, seen: Seen<'_>, now_ms: u64, new_id: u64) -> Option<Want> {
        if !seen.missing {
            self.asked = None;
            return None;
        }
        let (tries, due) = self.due(&Cursor::START, now_ms);
        due.then(|| {
            self.asked = Some((Cursor::START, tries + 1, now_ms));
            Want { of: self.peer, transfer: new_id, since: seen.since, cursor: Cursor::START }
        })
    }

    /// How often this was asked for, and whether it is time to do it (again).
    fn due(&self, cursor: &Cursor, now_ms: u64) -> (u32, bool) {
        match &self.asked {
            Some((asked, tries, at)) if asked == cursor => {
                let wait = (AGAIN_MS << (*tries).saturating_sub(1).min(8)).min(AGAIN_MAX_MS);
                (*tries, now_ms >= at + wait)
            }
            Some(_) | None => (0, true),
        }
    }

    /// For how long the engine's transfer has not moved, milliseconds.
    fn stand(&mut self, transfer: Option<&Progress>, now_ms: u64) -> u64 {
        match (&self.standing, transfer) {
            (Some((known, since)), Some(transfer)) if known == transfer => now_ms.saturating_sub(*since),
            (_, transfer) => {
                self.standing = transfer.map(|t| (t.clone(), now_ms));
                0
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: RegionId = RegionId(2);

    fn progress(next: Cursor) -> Progress {
        Progress { id: 7, source: PEER, since: Hlc(5), next }
    }

    fn seen(transfer: Option<&Progress>) -> Seen<'_> {
        Seen { missing: true, since: Hlc(9), transfer }
    }

    #[test]
    fn one_piece_after_the_other() {
        let mut r = Repair::new(PEER);
        let first = r.step(seen(None), 0, 1).unwrap();
        assert_eq!((first.transfer, first.since, first.cursor), (1, Hlc(9), Cursor::START));
        assert_eq!(r.step(seen(None), 100, 2), None, "under way");
        let at = progress(Cursor::Values("x".into()));
        let second = r.step(seen(Some(&at)), 200, 3).unwrap();
        assert_eq!((second.transfer, second.since, second.cursor), (7, Hlc(5), at.next.clone()));
        assert_eq!(r.step(seen(Some(&at)), 300, 4), None);
        let done = progress(Cursor::Done);
        assert_eq!(r.step(seen(Some(&done)), 400, 5), None, "it settles by itself");
        assert_eq!(r.step(Seen { missing: false, ..seen(None) }, 500, 6), None);
    }

    #[test]
    fn what_does_not_come_is_asked_for_again_and_at_last_from_the_start() {
        let mut r = Repair::new(PEER);
        let at = progress(Cursor::Values("x".into()));
        let mut asked = Vec::new();
        for now in (0..60_000).step_by(500) {
            asked.extend(r.step(seen(Some(&at)), now, 1).map(|want| (now, want.cursor)));
        }
        assert_eq!(asked[0], (0, at.next.clone()));
        assert_eq!(asked[1], (AGAIN_MS, at.next.clone()));
        assert_eq!(asked[2], (AGAIN_MS * 3, at.next.clone()));
        assert_eq!(asked[3], (AGAIN_MS * 7, Cursor::START));
    }

    #[test]
    fn another_follows_one_that_cannot_settle() {
        let mut r = Repair::new(PEER);
        let done = progress(Cursor::Done);
        assert_eq!(r.step(seen(Some(&done)), 0, 1), None);
        assert_eq!(r.step(seen(Some(&done)), SETTLE_MS - 1, 2), None);
        assert_eq!(r.step(seen(Some(&done)), SETTLE_MS, 3).unwrap().cursor, Cursor::START);
    }

    #[test]
    fn one_at_a_time() {
        let mut r = Repair::new(RegionId(3));
        let other = progress(Cursor::Values("x".into()));
        assert_eq!(r.step(seen(Some(&other)), 0, 1), None);
        assert_eq!(r.step(seen(Some(&other)), STUCK_MS - 1, 2), None);
        assert!(r.step(seen(Some(&other)), STUCK_MS, 3).is_some(), "given up");
    }
}
