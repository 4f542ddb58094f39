//! What each step of a rebuild is for. What it shares with a scale-out is tested there; here is what differs.

use super::operation::{Operation, Phase};
use super::rebuild::STEPS;
use super::scale_out::{Action, Copy, Observed, SYNC, Verification};
use super::scale_out_tests::{A, B, at_of, copied, from_of, master, replaying, world};
use crate::stamp::Incarnation;

/// Shard 3 of a region that is a member all the time.
fn lost() -> Observed {
    let mut world = world();
    world.shards[0].number = 3;
    world
}

fn from(step: &str, world: &Observed) -> (Operation, Vec<Action>) {
    from_of(&STEPS, step, world)
}

fn at(operation: &Operation) -> &'static str {
    at_of(&STEPS, operation)
}

#[test]
fn what_is_in_the_way_is_set_aside_before_anything_is_copied() {
    let mut damaged = lost();
    damaged.shards[0].in_the_way = vec![0, 1];
    damaged.missing = vec!["redis-0".into()];
    let (operation, actions) = from("Clear", &damaged);
    let aside = |member| Action::SetAside { shard: 0, member };
    assert_eq!((at(&operation), actions), ("Clear", vec![aside(0), aside(1)]));
    damaged.missing.clear();
    assert_eq!(at(&from("Clear", &damaged).0), "Clear", "it has to be gone");
    damaged.missing = vec!["redis-0".into()];
    damaged.shards[0].in_the_way.clear();
    let (operation, actions) = from("Clear", &damaged);
    assert_eq!((at(&operation), actions), ("Clear", vec![]), "its server has to run");
    assert_eq!(from("Clear", &lost()).1, [Action::Follow { shard: 0, source: A }]);
}

#[test]
fn nothing_is_announced_for_the_region_was_a_member_all_the_time() {
    let mut busy = lost();
    busy.members[0].told = false;
    let (operation, actions) = from("Clear", &busy);
    assert_eq!((at(&operation), actions), (SYNC, vec![Action::Follow { shard: 0, source: A }]));
}

#[test]
fn a_source_is_chosen_by_health_and_named_by_its_shard() {
    let mut recovering = lost();
    master(&mut recovering, 0).recovered = false;
    assert_eq!(from("Clear", &recovering).1, [Action::Follow { shard: 0, source: B }]);
    recovering.members[1].shards[0] = None;
    let (operation, _) = from("Clear", &recovering);
    let (obstacle, _) = operation.blocked.unwrap();
    assert_eq!(obstacle.reason, "NoSource");
    assert!(obstacle.message.contains("shard 3 of b has no master"), "{}", obstacle.message);
}

#[test]
fn every_member_marks_it_before_it_is_promoted() {
    let (operation, actions) = from(SYNC, &copied(lost()));
    assert_eq!((at(&operation), &actions[..]), ("Mark", &[Action::Mark { shard: 0, member: A }][..]));
}

#[test]
fn what_it_brought_must_be_safe_at_its_source_before_it_serves() {
    let mut waits = replaying(lost());
    master(&mut waits, 0).waiting = vec![(Incarnation(10), 100)];
    assert_eq!(at(&from("Replay", &waits).0), "Replay");
    let differs = Observed { verification: Verification::Differs("1 key".into()), ..replaying(lost()) };
    assert_eq!(at(&from("Verify", &differs).0), SYNC);
}

#[test]
fn what_is_lost_again_while_it_is_compared_is_copied_again() {
    let mut lost = replaying(lost());
    lost.shards[0].copy = Copy::Blank { received: 0 };
    assert_eq!(at(&from("Verify", &lost).0), SYNC);
}

#[test]
fn it_is_done_when_its_own_stream_was_read_back_and_the_loss_is_measured() {
    let mut opened = Observed { verification: Verification::Equal, ..replaying(lost()) };
    assert_eq!(from("Serve", &opened).1, [Action::Open { shard: 0 }]);
    let own =
        |serving| Copy::Own { ticket: opened.ticket, joining: None, promoted: true, serving, saved: true };
    let (reading, read) = (own(false), own(true));
    opened.shards[0].copy = reading;
    assert_eq!(
        from("Serve", &opened).1,
        [],
        "what was published and its source had not read is still missing"
    );
    opened.shards[0].copy = read;
    assert_eq!(from("Serve", &opened).1, [Action::Finish]);
    opened.joined = true;
    assert_eq!(from("Serve", &opened).0.phase, Phase::Succeeded);
    opened.shards[0].copy = Copy::Blank { received: 0 };
    opened.joined = false;
    assert_eq!(at(&from("Serve", &opened).0), SYNC, "lost again");
}
