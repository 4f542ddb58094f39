//! Examples and properties of planned handovers.

use proptest::prelude::*;

use super::handover::*;
use super::identity::{EngineState, Identity, Role};
use super::shard::*;
use super::shard_tests::*;

fn wish(to: Option<usize>) -> Wish {
    Wish { to, from: 0, reason: "a test".into() }
}

/// The master at `seq`, which takes no writes for `paused_ms` yet.
fn paused(seq: u64, paused_ms: u64) -> Seen {
    let identity = engine(Role::Master, EngineState::Serving, 3, "a", seq);
    answers(Identity { paused_ms, ..identity }, None)
}

/// A shard that is looked at again and again.
struct Shard {
    control: Control,
    record: Record,
}

impl Shard {
    fn asked(to: Option<usize>) -> Self {
        let mut control = Control::default();
        control.wish(wish(to), 0).unwrap();
        Self { control, record: record(3, 0) }
    }

    fn look(&mut self, members: &[Seen], now: u64) -> Plan {
        step(&mut self.control, &place(), &self.record, members, now)
    }
}

fn pauses(plan: &Plan) -> Option<u64> {
    plan.actions.iter().find_map(|action| match action {
        Action::Pause { member: 0, incarnation, ms } if incarnation == "a" => Some(*ms),
        _ => None,
    })
}

#[test]
fn the_master_pauses_its_replica_catches_up_and_takes_over() {
    let mut shard = Shard::asked(None);
    let plan = shard.look(&[serving(3, "a", 20), replica(0, 3, "a", 17)], 0);
    assert_eq!((pauses(&plan), promoted(&plan)), (Some(PAUSE_MS), None));
    let plan = shard.look(&[paused(21, 2400), replica(0, 3, "a", 17)], 100);
    assert_eq!((promoted(&plan), reasons(&plan)), (None, vec!["HandingOver"]));
    // As far as it was when it was not paused yet is not enough.
    let plan = shard.look(&[serving(3, "a", 21), replica(0, 3, "a", 21)], 150);
    assert_eq!(promoted(&plan), None);
    let plan = shard.look(&[paused(21, 2300), replica(0, 3, "a", 21)], 200);
    assert_eq!((promoted(&plan), plan.handover), (Some((1, 4, true)), None));
    shard.record = Record {
        epoch: 4,
        master: Some(1),
        basis: Some(Basis { incarnation: "a".into(), seq: 21 }),
        served: true,
        rebuilt: false,
    };
    let plan = shard.look(&[paused(21, 2200), serving(4, "b", 0)], 300);
    assert_eq!(plan.actions, [Action::Fence { member: 0 }]);
    assert_eq!(plan.handover, Some(Outcome::Done { from: 0, to: 1, pause_ms: 300 }));
    let plan = shard.look(&[fenced(3, "a", 21), serving(4, "b", 0)], 400);
    assert_eq!((plan.actions, plan.handover), (vec![Action::Follow { member: 0, master: 1 }], None));
}

#[test]
fn a_replica_that_does_not_get_there_ends_the_pause() {
    let mut shard = Shard::asked(None);
    shard.look(&[serving(3, "a", 20), replica(0, 3, "a", 17)], 0);
    let members = [paused(21, 2000), replica(0, 3, "a", 20)];
    assert_eq!(shard.look(&members, LEVEL_MS - 1).handover, None);
    let plan = shard.look(&members, LEVEL_MS);
    assert_eq!((pauses(&plan), promoted(&plan)), (Some(0), None));
    assert!(matches!(plan.handover, Some(Outcome::Abandoned { .. })));
    assert_eq!(
        shard.look(&members, LEVEL_MS + 100),
        Plan { master: Some(0), ..Plan::default() },
        "and that is all"
    );
}

#[test]
fn nobody_is_paused_while_nobody_could_take_over() {
    let mut far = engine(Role::Master, EngineState::Serving, 3, "a", 20);
    far.offset = BEHIND_MAX + 21;
    let mut unread = engine(Role::Master, EngineState::Serving, 3, "a", 20);
    unread.recovered = false;
    let mut cut = engine(Role::Replica, EngineState::Fenced, 3, "a", 20);
    cut.master_link_up = false;
    let worlds = [
        vec![serving(3, "a", 20)],
        vec![serving(3, "a", 20), Seen::Absent],
        vec![serving(3, "a", 20), Seen::Loading],
        vec![serving(3, "a", 20), replica(0, 2, "z", 20)],
        vec![serving(3, "a", 20), answers(cut, Some(0))],
        vec![answers(far, None), replica(0, 3, "a", 20)],
        vec![answers(unread, None), replica(0, 3, "a", 20)],
    ];
    for members in worlds {
        let mut shard = Shard::asked(None);
        let plan = shard.look(&members, PREPARE_MS - 1);
        assert_eq!((pauses(&plan), plan.handover.as_ref()), (None, None), "{members:?}");
        assert!(reasons(&plan).contains(&"HandoverWaits"));
        assert!(matches!(shard.look(&members, PREPARE_MS).handover, Some(Outcome::Abandoned { .. })));
    }
}

#[test]
fn a_named_member_and_no_other_takes_over() {
    let members = [serving(3, "a", 20), replica(0, 3, "a", 20), replica(0, 3, "a", 19)];
    let mut shard = Shard::asked(Some(2));
    shard.look(&members, 0);
    let level = [paused(20, 2000), replica(0, 3, "a", 20), replica(0, 3, "a", 20)];
    assert_eq!(promoted(&shard.look(&level, 100)), Some((2, 4, true)));
    let mut shard = Shard::asked(Some(0));
    assert_eq!(shard.look(&members, 0).handover, Some(Outcome::Done { from: 0, to: 0, pause_ms: 0 }));
    let mut shard = Shard::asked(Some(7));
    assert!(pauses(&shard.look(&members, 0)).is_none());
    // A failover came first.
    let mut shard = Shard::asked(Some(2));
    shard.record = record(4, 1);
    let members = [fenced(3, "a", 20), serving(4, "b", 0), fenced(3, "a", 20)];
    assert!(matches!(shard.look(&members, 100).handover, Some(Outcome::Abandoned { .. })));
}

#[test]
fn one_wish_at_a_time() {
    let mut shard = Shard::asked(None);
    assert_eq!(shard.control.wish(wish(Some(1)), 5), Err(wish(Some(1))));
}

#[test]
fn a_wish_ends_whatever_happens() {
    for members in [
        vec![fenced(3, "a", 20), Seen::Silent],
        vec![fenced(9, "q", 20), replica(0, 3, "a", 20)],
        vec![Seen::Silent, Seen::Silent],
        vec![serving(3, "a", 20), Seen::Silent],
    ] {
        let mut shard = Shard::asked(None);
        shard.look(&members, HANDOVER_MS - 1);
        let plan = shard.look(&members, HANDOVER_MS);
        let before = matches!(members[0], Seen::Answers { ref identity, .. } if identity.state == EngineState::Serving);
        assert!(before || matches!(plan.handover, Some(Outcome::Abandoned { .. })), "{members:?}");
        assert!(shard.control.wish(wish(None), HANDOVER_MS).is_ok(), "and another one may be made");
    }
}

fn any_member(master: bool) -> impl Strategy<Value = Seen> {
    let identity = (2u64..5, 0u64..4, 0u64..4, 0u64..3, any::<bool>(), 0usize..3);
    prop_oneof![
        1 => Just(Seen::Absent),
        1 => Just(Seen::Silent),
        8 => identity.prop_map(move |(epoch, seq, offset, paused_ms, usual, of)| {
            let is_master = master == usual;
            let role = if is_master { Role::Master } else { Role::Replica };
            let state = if is_master { EngineState::Serving } else { EngineState::Fenced };
            let id = engine(role, state, if usual { 3 } else { epoch }, if usual { "a" } else { "b" }, seq);
            answers(Identity { offset, paused_ms, ..id }, (!is_master).then_some(if usual { 0 } else { of }))
        }),
    ]
}

proptest! {
    /// Whatever is seen, in whatever order: who is promoted beside a living master has all that it has, which takes no writes;
    /// and no pause is asked for that is longer than the engine's own bound.
    #[test]
    fn a_handover_promotes_who_has_all(
        looks in prop::collection::vec((any_member(true), any_member(false), any_member(false), 0u64..700), 1..12),
        to in prop::option::of(0usize..4),
    ) {
        let mut shard = Shard::asked(to);
        let (mut now, mut asked_at) = (0, None);
        for (first, second, third, later) in looks {
            now += later;
            let members = [first, second, third];
            let plan = shard.look(&members, now);
            for action in &plan.actions {
                if let Action::Pause { ms, .. } = action {
                    prop_assert!(*ms <= PAUSE_MS);
                    asked_at = asked_at.or(Some(now));
                }
            }
            let (Some((member, ..)), Some(master)) = (promoted(&plan), plan.master) else { continue };
            let id = |member: usize| match &members[member] {
                Seen::Answers { identity, .. } => identity.as_ref().clone(),
                _ => panic!("it does not answer"),
            };
            let (old, new) = (id(master), id(member));
            prop_assert!(old.paused_ms > 0 && new.role == Role::Replica && new.master_link_up);
            prop_assert!(new.incarnation == old.incarnation && new.seq == old.seq && new.offset >= old.offset);
            prop_assert!(to.is_none_or(|to| to == member));
            prop_assert!(now - asked_at.expect("it was paused") < LEVEL_MS, "the pause may be over");
        }
    }
}
