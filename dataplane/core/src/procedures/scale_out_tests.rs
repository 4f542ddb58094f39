//! What each step of a scale-out is for: the procedure waits, or goes back, where leaving it out would lose something.

use super::marker::Marker;
use super::operation::{Operation, Phase, Step};
use super::scale_out::*;
use crate::cover::{Cover, SeqSet};
use crate::joining::Joining;
use crate::stamp::{Incarnation, Origin, RegionId};

pub(super) const A: RegionId = RegionId(1);
pub(super) const B: RegionId = RegionId(2);
const NEW: RegionId = RegionId(3);
const TICKET: u64 = 7;

fn cover(of: &[(RegionId, u64, u64)]) -> Cover {
    let mut cover = Cover::default();
    for (region, incarnation, last) in of {
        cover.set(Origin { region: *region, incarnation: Incarnation(*incarnation) }, SeqSet::up_to(*last));
    }
    cover
}

fn member(id: RegionId, name: &str, incarnation: u64) -> Member {
    let master = Master {
        incarnation: Incarnation(incarnation),
        recovered: true,
        membership: 2,
        cover: cover(&[(A, 10, 100), (B, 20, 50)]),
        waiting: Vec::new(),
        marker: None,
        bytes: 1000,
    };
    Member { id, name: name.into(), told: true, behind: Vec::new(), shards: vec![Some(master)] }
}

/// Two members, and a region that is provisioned and holds nothing.
pub(super) fn world() -> Observed {
    let shard = Shard {
        number: 0,
        in_the_way: Vec::new(),
        copy: Copy::Blank { received: 0 },
        cover: Cover::default(),
        markers: Vec::new(),
        links: Vec::new(),
    };
    Observed {
        region: NEW,
        ticket: TICKET,
        membership: 2,
        missing: Vec::new(),
        members: vec![member(A, "a", 10), member(B, "b", 20)],
        shards: vec![shard],
        wanted_source: None,
        verification: Verification::None,
        joined: false,
    }
}

pub(super) fn master(world: &mut Observed, member: usize) -> &mut Master {
    world.members[member].shards[0].as_mut().unwrap()
}

/// The shard is a copy of A, in sync.
pub(super) fn copied(mut world: Observed) -> Observed {
    world.shards[0].copy = Copy::Foreign {
        region: A,
        incarnation: Incarnation(10),
        seq: 100,
        epoch: 4,
        in_sync: true,
        received: 0,
    };
    world.shards[0].cover = cover(&[(A, 10, 100), (B, 20, 50)]);
    world
}

/// The markers were written and have arrived with all that they name.
fn marked(world: Observed) -> Observed {
    let mut world = copied(world);
    for (at, member, incarnation) in [(0, A, 10), (1, B, 20)] {
        let marker =
            Marker { incarnation: Incarnation(incarnation), cover: cover(&[(A, 10, 90), (B, 20, 50)]) };
        world.shards[0].markers.push((member, marker.clone()));
        master(&mut world, at).marker = Some(marker);
    }
    world
}

/// The shard has an identity of its own, reads everybody, and is not opened.
pub(super) fn replaying(world: Observed) -> Observed {
    let mut world = marked(world);
    let joining = Some(Joining { ticket: TICKET, source: A, brought: cover(&[(A, 10, 100)]) });
    world.shards[0].copy = Copy::Own { ticket: TICKET, joining, promoted: true, serving: false, saved: true };
    for peer in ["a", "b"] {
        let link = Link {
            peer: peer.into(),
            connected: true,
            ran_out: false,
            lag_effects: 0,
            state: "Connected".into(),
        };
        world.shards[0].links.push(link);
    }
    world
}

/// As far as it gets by one look.
fn look(world: &Observed) -> (Operation, Vec<Action>) {
    let mut operation = Operation::default();
    let actions = operation.advance(&STEPS, world, 1000);
    (operation, actions)
}

/// The step that an operation that was at `from` is at after one look.
fn from(from: &str, world: &Observed) -> (Operation, Vec<Action>) {
    from_of(&STEPS, from, world)
}

/// The same of any procedure over this world.
pub(super) fn from_of(
    steps: &[Step<Observed, Action>],
    from: &str,
    world: &Observed,
) -> (Operation, Vec<Action>) {
    let step = steps.iter().position(|step| step.name == from).unwrap();
    let mut operation = Operation { phase: Phase::Running, step, moved_at: 1000, ..Operation::default() };
    operation.steps.resize_with(steps.len(), Default::default);
    let actions = operation.advance(steps, world, 1000);
    (operation, actions)
}

fn at(operation: &Operation) -> &'static str {
    at_of(&STEPS, operation)
}

pub(super) fn at_of(steps: &[Step<Observed, Action>], operation: &Operation) -> &'static str {
    steps.get(operation.step).map_or("end", |step| step.name)
}

fn blocked(operation: &Operation) -> &'static str {
    operation.blocked.as_ref().map_or("not blocked", |(obstacle, _)| obstacle.reason)
}

#[test]
fn nothing_is_copied_before_every_member_counts_the_region() {
    let mut old = world();
    master(&mut old, 1).membership = 1;
    let (operation, actions) = look(&old);
    assert_eq!(
        (at(&operation), blocked(&operation), actions.len()),
        ("Announce", "MembershipNotConfirmed", 0)
    );
    let mut untold = world();
    untold.members[0].told = false;
    assert_eq!(at(&look(&untold).0), "Announce");
    let (operation, actions) = look(&world());
    assert_eq!((at(&operation), actions), (SYNC, vec![Action::Follow { shard: 0, source: A }]));
}

#[test]
fn a_source_can_read_everybody_and_serves() {
    let mut cut = world();
    cut.members[0].behind = vec!["cannot read b (Disconnected)".into()];
    assert_eq!(look(&cut).1, [Action::Follow { shard: 0, source: B }]);
    cut.members[1].shards[0] = None;
    let (operation, _) = look(&cut);
    assert_eq!(blocked(&operation), "MembershipNotConfirmed", "who does not answer confirms nothing");
    let (operation, actions) = from("HoldLogs", &cut);
    assert_eq!((blocked(&operation), actions.len()), ("NoSource", 0));
    let mut recovering = world();
    master(&mut recovering, 0).recovered = false;
    assert_eq!(look(&recovering).1, [Action::Follow { shard: 0, source: B }]);
    recovering.wanted_source = Some(A);
    assert_eq!(
        blocked(&from("HoldLogs", &recovering).0),
        "NoSource",
        "no other than the one that was asked for"
    );
}

#[test]
fn nobody_is_promoted_before_every_marker_has_come_with_all_that_it_names() {
    let (operation, actions) = from(SYNC, &copied(world()));
    assert_eq!((at(&operation), &actions[..]), ("Mark", &[Action::Mark { shard: 0, member: A }][..]));
    let mut under_way = marked(world());
    under_way.shards[0].markers.pop();
    let (operation, actions) = from("Mark", &under_way);
    assert_eq!(
        (blocked(&operation), actions.len()),
        ("MarkerUnderWay", 0),
        "it was written, and is waited for"
    );
    let mut behind = marked(world());
    behind.shards[0].cover = cover(&[(A, 10, 100), (B, 20, 49)]);
    assert_eq!(at(&from("Mark", &behind).0), "Mark", "the marker overtook what it names");
    assert_eq!(from("Promote", &behind).1, [], "nor later");
    let join = Action::Join { shard: 0, source: A, incarnation: Incarnation(10), seq: 100, epoch: 4 };
    assert_eq!(from("Mark", &marked(world())).1, [join]);
}

#[test]
fn a_member_that_fails_over_is_marked_again_and_a_source_is_followed_anew() {
    let mut moved = marked(world());
    master(&mut moved, 1).incarnation = Incarnation(21);
    assert_eq!(from("Promote", &moved).1, [Action::Mark { shard: 0, member: B }]);
    let mut source = marked(world());
    master(&mut source, 0).incarnation = Incarnation(11);
    assert_eq!(from("Promote", &source).1, [Action::Follow { shard: 0, source: A }]);
}

#[test]
fn what_it_brought_must_be_safe_at_its_source() {
    let (operation, actions) = from("Replay", &replaying(world()));
    assert_eq!((at(&operation), actions), ("Verify", vec![Action::Verify]));
    let mut waits = replaying(world());
    master(&mut waits, 0).waiting = vec![(Incarnation(10), 100)];
    assert_eq!(at(&from("Replay", &waits).0), "Replay", "the broker has not confirmed it yet");
    master(&mut waits, 0).waiting = vec![(Incarnation(10), 101)];
    assert_eq!(at(&from("Replay", &waits).0), "Verify", "what came later is its source's own affair");
    let mut lost = replaying(world());
    master(&mut lost, 0).cover = cover(&[(A, 10, 99), (A, 11, 1)]);
    assert_eq!(blocked(&from("Replay", &lost).0), "SourceHasLess");
    let sealed = Origin { region: A, incarnation: Incarnation(10) };
    master(&mut lost, 0).cover.seal(sealed);
    let (operation, _) = from("Replay", &lost);
    assert_eq!((at(&operation), operation.steps[3].repeats), (SYNC, 1), "void: it is copied anew");
}

#[test]
fn it_serves_when_it_has_read_everybody_is_saved_and_compared() {
    let mut reads = replaying(world());
    reads.shards[0].links[1].connected = false;
    assert_eq!(at(&from("Replay", &reads).0), "Replay");
    reads.shards[0].links[1].ran_out = true;
    assert_eq!(blocked(&from("Replay", &reads).0), "LogRanOut");
    let mut unsaved = replaying(world());
    if let Copy::Own { saved, .. } = &mut unsaved.shards[0].copy {
        *saved = false;
    }
    assert_eq!(at(&from("Replay", &unsaved).0), "Replay");
    let differs = Observed { verification: Verification::Differs("1 key".into()), ..replaying(world()) };
    assert_eq!(at(&from("Verify", &differs).0), SYNC);
    let equal = Observed { verification: Verification::Equal, ..replaying(world()) };
    let (operation, actions) = from("Verify", &equal);
    assert_eq!((at(&operation), actions), ("Serve", vec![Action::Open { shard: 0 }]));
    let mut restored = replaying(world());
    master(&mut restored, 0).membership = 1;
    let (operation, actions) = from("Serve", &restored);
    assert_eq!((blocked(&operation), actions.len()), ("MembershipNotConfirmed", 0));
    let mut open = replaying(world());
    open.shards[0].copy =
        Copy::Own { ticket: TICKET, joining: None, promoted: true, serving: true, saved: true };
    assert_eq!(from("Serve", &open).1, [Action::Finish]);
    open.joined = true;
    assert_eq!(from("Serve", &open).0.phase, Phase::Succeeded);
}

#[test]
fn what_an_earlier_attempt_left_is_copied_anew() {
    let again = Observed { ticket: TICKET + 1, ..replaying(world()) };
    assert_eq!(at(&from("Replay", &again).0), SYNC);
    assert_eq!(from(SYNC, &again).1, [Action::Follow { shard: 0, source: A }]);
}
