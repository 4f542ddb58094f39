//! Rebuild: shards of a region of which no copy is left, or none that can be used, while other regions have them. It is a
//! [scale-out](super::scale_out) of these shards alone. The region is a member all the time, so that nothing has to be announced, and nobody has forgotten
//! what it lacks; its clients are served by another region meanwhile.
//!
//! 1. **Clear**: the shard's servers run, and hold nothing that is in the way.
//! 2. **Hold** the logs, **sync**, **mark**, **promote**, **replay**, **verify**: as a region that joins.
//! 3. **Serve**: the copy reads its own region's stream, from where its source had read it, to the end, as after every promotion. So
//!    what the lost copies had published comes back, though its source may not have read it yet. What was lost is measured then.

use crate::procedures::operation::{Look, Step, Verdict};
use crate::procedures::scale_out::{
    Action, Observed, PROVISION_MS, SERVE_MS, STEP_MS, SYNC, SYNC_MS, hold_logs, mark, promote, provision,
    replay, serve, sync, verify,
};

/// The steps.
pub const STEPS: [Step<Observed, Action>; 8] = [
    Step { name: "Clear", patience_ms: PROVISION_MS, look: clear },
    Step { name: "HoldLogs", patience_ms: STEP_MS, look: hold_logs },
    Step { name: SYNC, patience_ms: SYNC_MS, look: sync },
    Step { name: "Mark", patience_ms: STEP_MS, look: mark },
    Step { name: "Promote", patience_ms: STEP_MS, look: promote },
    Step { name: "Replay", patience_ms: STEP_MS, look: replay },
    Step { name: "Verify", patience_ms: STEP_MS, look: verify },
    Step { name: "Serve", patience_ms: SERVE_MS, look: serve },
];

fn clear(o: &Observed) -> Look<Action> {
    let of_shard = |(shard, of): (usize, &super::scale_out::Shard)| {
        of.in_the_way
            .iter()
            .map(move |member| Action::SetAside { shard, member: *member })
            .collect::<Vec<_>>()
    };
    let actions: Vec<_> = o.shards.iter().enumerate().flat_map(of_shard).collect();
    let look = provision(o);
    if actions.is_empty() || look.verdict != Verdict::Done {
        return Look { actions, ..look };
    }
    Look { verdict: Verdict::wait("what cannot be used is put out of the way"), actions }
}
