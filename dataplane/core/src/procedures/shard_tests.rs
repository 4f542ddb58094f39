//! Examples and properties of the choice of a master.

use proptest::prelude::*;

use super::identity::{EngineState, Identity, Role};
use super::shard::*;

pub(super) fn place() -> Place {
    Place { store: "shop".into(), region: 1, shard: 0 }
}

pub(super) fn engine(role: Role, state: EngineState, epoch: u64, incarnation: &str, seq: u64) -> Identity {
    Identity {
        store: if epoch > 0 { "shop".into() } else { String::new() },
        region: u16::from(epoch > 0),
        shard: 0,
        role,
        state,
        recovered: state == EngineState::Serving,
        epoch,
        incarnation: incarnation.into(),
        seq,
        clock: 0,
        outbox_effects: 0,
        outbox_bytes: 0,
        master_link_up: role == Role::Replica,
        offset: seq,
        paused_ms: 0,
        keys: seq,
        waiting: Vec::new(),
        membership: 0,
        joining: None,
        empty: seq == 0,
    }
}

pub(super) fn fenced(epoch: u64, incarnation: &str, seq: u64) -> Seen {
    answers(engine(Role::Master, EngineState::Fenced, epoch, incarnation, seq), None)
}

pub(super) fn serving(epoch: u64, incarnation: &str, seq: u64) -> Seen {
    answers(engine(Role::Master, EngineState::Serving, epoch, incarnation, seq), None)
}

pub(super) fn replica(of: usize, epoch: u64, incarnation: &str, seq: u64) -> Seen {
    answers(engine(Role::Replica, EngineState::Fenced, epoch, incarnation, seq), Some(of))
}

pub(super) fn answers(identity: Identity, follows: Option<usize>) -> Seen {
    Seen::Answers { identity: Box::new(identity), follows, subsumed: false }
}

pub(super) fn record(epoch: u64, master: usize) -> Record {
    let basis = Some(Basis { incarnation: "a".into(), seq: 10 });
    Record { epoch, master: Some(master), basis, served: true, rebuilt: false }
}

fn look(record: &Record, members: &[Seen]) -> Plan {
    step(&mut Control::default(), &place(), record, members, 0)
}

/// Looks until patience is over, or something is done.
fn look_long(record: &Record, members: &[Seen]) -> Plan {
    let mut control = Control::default();
    step(&mut control, &place(), record, members, 0);
    step(&mut control, &place(), record, members, LOADING_PATIENCE_MS + DRAIN_MS)
}

pub(super) fn promoted(plan: &Plan) -> Option<(usize, u64, bool)> {
    plan.actions.iter().find_map(|action| match action {
        Action::Promote { member, epoch, was_replica, .. } => Some((*member, *epoch, *was_replica)),
        Action::Follow { .. } | Action::Fence { .. } | Action::Pause { .. } | Action::SetAside { .. } => None,
    })
}

pub(super) fn reasons(plan: &Plan) -> Vec<&'static str> {
    plan.notices.iter().map(|n| n.reason).collect()
}

#[test]
fn a_new_shard_gets_epoch_one() {
    assert_eq!(
        promoted(&look(&Record::default(), &[fenced(0, "0", 0), fenced(0, "0", 0)])),
        Some((0, 1, false))
    );
}

#[test]
fn founding_waits_for_every_engine_and_refuses_strange_data() {
    let all = |seen: &[Seen]| {
        bootstrap_obstacles(seen.iter().enumerate().map(|(i, s)| (format!("redis-{i}"), s)))
            .iter()
            .map(|n| n.reason)
            .collect::<Vec<_>>()
    };
    assert!(all(&[fenced(0, "0", 0), fenced(0, "0", 0)]).is_empty());
    assert_eq!(all(&[fenced(0, "0", 0), Seen::Silent]), ["Starting"]);
    assert_eq!(all(&[fenced(3, "a", 4)]), ["RetainedDataMismatch"]);
}

#[test]
fn others_follow_a_proved_master_only() {
    let plan = look(&record(3, 0), &[serving(3, "a", 5), fenced(3, "a", 5)]);
    assert_eq!((plan.master, plan.actions), (Some(0), vec![Action::Follow { member: 1, master: 0 }]));
    let quiet = look(&record(3, 0), &[serving(3, "a", 5), replica(0, 3, "a", 5)]);
    assert_eq!(quiet, Plan { master: Some(0), ..Plan::default() });
    // A master that was reborn empty is not followed, it is replaced by what its replica has.
    let reborn = look(&record(3, 0), &[fenced(0, "0", 0), replica(0, 3, "a", 5)]);
    assert_eq!(promoted(&reborn), Some((1, 4, true)));
    assert_eq!(reborn.actions.len(), 1);
}

#[test]
fn a_master_that_died_is_promoted_again_in_place() {
    let members = [fenced(3, "a", 5), replica(0, 3, "a", 5)];
    assert_eq!(promoted(&look(&record(3, 0), &members)), Some((0, 4, false)));
    let members = [replica(1, 3, "a", 5), fenced(3, "a", 5)];
    assert_eq!(promoted(&look(&record(3, 1), &members)), Some((1, 4, false)));
}

#[test]
fn its_replica_is_promoted_where_that_has_more() {
    assert_eq!(
        promoted(&look(&record(3, 0), &[fenced(3, "a", 5), replica(0, 3, "a", 6)])),
        Some((1, 4, true))
    );
    // A higher epoch beats a longer incarnation.
    assert_eq!(
        promoted(&look(&record(3, 0), &[fenced(2, "z", 99), replica(0, 3, "a", 6)])),
        Some((1, 4, true))
    );
}

#[test]
fn a_dead_master_is_waited_for_then_replaced() {
    let members = [Seen::Absent, replica(0, 3, "a", 6)];
    let mut control = Control::default();
    assert_eq!(reasons(&step(&mut control, &place(), &record(3, 0), &members, 0)), ["ComparingMembers"]);
    assert_eq!(
        reasons(&step(&mut control, &place(), &record(3, 0), &members, PATIENCE_MS - 1)),
        ["ComparingMembers"]
    );
    let plan = step(&mut control, &place(), &record(3, 0), &members, PATIENCE_MS);
    assert_eq!(promoted(&plan), Some((1, 4, true)));
    // And not again at once when that did not work.
    assert_eq!(promoted(&step(&mut control, &place(), &record(4, 1), &members, PATIENCE_MS + 1)), None);
    assert_eq!(
        promoted(&step(&mut control, &place(), &record(3, 0), &members, PATIENCE_MS + RETRY_MS)),
        Some((1, 4, true))
    );
}

#[test]
fn unreachable_is_unknown_and_never_gone() {
    let members = [Seen::Silent, replica(0, 3, "a", 6)];
    assert_eq!(promoted(&look_long(&record(3, 0), &members)), None);
    // A replica that does not answer does not keep the master from coming back.
    let members = [fenced(3, "a", 6), Seen::Silent];
    assert_eq!(promoted(&look_long(&record(3, 0), &members)), Some((0, 4, false)));
    // A person's pause is evidence.
    let members = [Seen::Paused, replica(0, 3, "a", 6)];
    assert_eq!(promoted(&look(&record(3, 0), &members)), Some((1, 4, true)));
}

#[test]
fn one_that_lacks_something_is_promoted_only_if_all_answer() {
    let behind = [fenced(2, "z", 50), Seen::Absent];
    assert_eq!(reasons(&look_long(&record(3, 1), &behind)), ["MayHaveMore"]);
    let empty = [fenced(0, "0", 0), Seen::Absent];
    assert_eq!(reasons(&look_long(&record(3, 1), &empty)), ["MayHaveMore"]);
    let all_answer = [fenced(0, "0", 0), fenced(2, "z", 50)];
    assert_eq!(promoted(&look(&record(3, 0), &all_answer)), Some((1, 4, false)));
    let all_empty = [fenced(0, "0", 0), fenced(0, "0", 0)];
    assert_eq!(promoted(&look(&record(3, 1), &all_empty)), Some((1, 4, false)));
}

#[test]
fn where_others_have_the_shard_nothing_is_made_of_nothing() {
    let record = Record { rebuilt: true, ..record(3, 1) };
    let all_empty = [fenced(0, "0", 0), fenced(0, "0", 0)];
    let plan = look_long(&record, &all_empty);
    assert_eq!((promoted(&plan), reasons(&plan)), (None, vec!["AllCopiesLost"]));
    assert!(record.is_lost(&all_empty));
    let behind = [fenced(2, "z", 50), fenced(0, "0", 0)];
    assert_eq!(promoted(&look_long(&record, &behind)), Some((0, 4, false)), "some is more than nothing");
    assert!(!record.is_lost(&behind));
    assert!(!record.is_lost(&[fenced(0, "0", 0), Seen::Absent]), "who does not answer may have it");
    let begun = Record { served: false, ..record };
    assert!(!begun.is_lost(&all_empty), "whoever was to be promoted first may never have been told");
    assert_eq!(promoted(&look(&begun, &all_empty)), Some((1, 4, false)));
    let new = Record { epoch: 0, master: None, ..begun };
    assert_eq!(promoted(&look(&new, &all_empty)), Some((0, 1, false)));
}

#[test]
fn a_superseded_master_is_fenced_and_exported_before_it_follows() {
    let mut old = engine(Role::Master, EngineState::Serving, 3, "a", 14);
    old.outbox_effects = 4;
    let mut control = Control::default();
    let record = record(4, 1);
    let members = [answers(old.clone(), None), serving(4, "b", 0)];
    assert_eq!(step(&mut control, &place(), &record, &members, 0).actions, [Action::Fence { member: 0 }]);
    old.state = EngineState::Fenced;
    let members = [answers(old.clone(), None), serving(4, "b", 0)];
    let plan = step(&mut control, &place(), &record, &members, 100);
    assert_eq!((plan.actions.len(), reasons(&plan)), (0, vec!["ExportingSuperseded"]));
    let plan = step(&mut control, &place(), &record, &members, 100 + DRAIN_MS);
    assert_eq!(plan.actions, [Action::SetAside { member: 0, master: 1 }]);
    // Published, and read back by the new master.
    assert_eq!(members_to_compare(&record, &members), Some((1, vec![0])));
    let mut compared = members.clone();
    if let Seen::Answers { subsumed, .. } = &mut compared[0] {
        *subsumed = true;
    }
    assert_eq!(
        step(&mut control, &place(), &record, &compared, 150).actions,
        [Action::Follow { member: 0, master: 1 }]
    );
    // Published in time.
    old.outbox_effects = 0;
    let members = [answers(old.clone(), None), serving(4, "b", 0)];
    assert_eq!(
        step(&mut control, &place(), &record, &members, 200).actions,
        [Action::Follow { member: 0, master: 1 }]
    );
    // All that it has was in the promoted one.
    old.outbox_effects = 4;
    old.seq = 10;
    let members = [answers(old, None), serving(4, "b", 0)];
    assert_eq!(
        step(&mut control, &place(), &record, &members, 200).actions,
        [Action::Follow { member: 0, master: 1 }]
    );
}

#[test]
fn when_record_and_engines_disagree_nothing_is_done() {
    assert_eq!(reasons(&look_long(&record(3, 0), &[fenced(7, "q", 5)])), ["RecordMismatch"]);
    assert_eq!(
        reasons(&look_long(&record(3, 0), &[fenced(3, "a", 5), serving(3, "a", 5)])),
        ["RecordMismatch"]
    );
    let mut other = engine(Role::Master, EngineState::Fenced, 3, "a", 5);
    other.store = "bank".into();
    assert_eq!(reasons(&look_long(&record(3, 0), &[answers(other, None)])), ["RetainedDataMismatch"]);
}

fn any_seen(members: usize) -> impl Strategy<Value = Seen> {
    let identity = (0u64..5, 0u64..4, any::<bool>(), 0u8..3, 0u64..3, 0..members);
    prop_oneof![
        1 => Just(Seen::Absent),
        1 => Just(Seen::Paused),
        1 => Just(Seen::Silent),
        1 => Just(Seen::Loading),
        6 => identity.prop_map(|(epoch, seq, is_master, state, outbox, of)| {
            let state = [EngineState::Fenced, EngineState::Recovering, EngineState::Serving][usize::from(state)];
            let role = if is_master { Role::Master } else { Role::Replica };
            let state = if is_master && epoch > 0 { state } else { EngineState::Fenced };
            let mut id = engine(role, state, epoch, &format!("inc{epoch}"), seq);
            id.outbox_effects = outbox;
            answers(id, (!is_master).then_some(of))
        }),
    ]
}

proptest! {
    #[test]
    fn the_rule_holds_in_every_world(
        members in (1usize..4).prop_flat_map(|n| prop::collection::vec(any_seen(n), n)),
        epoch in 1u64..5,
        master in 0usize..3,
        times in prop::collection::vec(0u64..200_000, 1..6),
    ) {
        let record = Record { epoch, master: Some(master.min(members.len() - 1)), ..Record::default() };
        let mut control = Control::default();
        let mut times = times;
        times.sort_unstable();
        for now in times {
            let plan = step(&mut control, &place(), &record, &members, now);
            let id = |m: usize| match &members[m] {
                Seen::Answers { identity, .. } => Some(identity.as_ref()),
                _ => None,
            };
            let unheard = (0..members.len()).any(|m| id(m).is_none());
            let promotions: Vec<_> = plan.actions.iter().filter(|a| matches!(a, Action::Promote { .. })).collect();
            prop_assert!(promotions.len() <= 1);
            for action in &plan.actions {
                match action {
                    Action::Promote { member, epoch, .. } => {
                        prop_assert_eq!(*epoch, record.epoch + 1);
                        prop_assert!(plan.master.is_none());
                        let chosen = id(*member).expect("only one that answers is promoted");
                        for other in (0..members.len()).filter_map(id) {
                            prop_assert!(chosen.empty == other.empty || !chosen.empty);
                            if chosen.empty == other.empty {
                                prop_assert!((chosen.epoch, chosen.seq) >= (other.epoch, other.seq));
                            }
                        }
                        if chosen.empty || chosen.epoch < record.epoch {
                            prop_assert!(!unheard, "promoted one that lacks something while another may have more");
                        }
                        prop_assert!(members[record.master.unwrap()] != Seen::Silent);
                    }
                    Action::Follow { member, master } | Action::SetAside { member, master } => {
                        prop_assert_ne!(member, master);
                        let proved = id(*master).expect("a proved master answers");
                        prop_assert_eq!(proved.epoch, record.epoch);
                        prop_assert!(proved.state != EngineState::Fenced && proved.role == Role::Master);
                        let one = id(*member).expect("it answers");
                        let only_its = one.outbox_effects > 0 && !one.empty;
                        let set_aside = matches!(action, Action::SetAside { .. });
                        prop_assert!(!only_its || set_aside, "discarded what may be nowhere else");
                    }
                    Action::Pause { .. } => prop_assert!(false, "nobody asked for another master"),
                    Action::Fence { member } => prop_assert!(id(*member).expect("it answers").epoch < record.epoch),
                }
            }
        }
    }
}

#[test]
fn a_lost_record_is_taken_from_who_serves_under_the_highest_epoch() {
    let members = [fenced(3, "a", 7), serving(4, "b", 9)];
    let record = reconstruct(4, &members);
    assert_eq!(record, Record { epoch: 4, master: Some(1), served: true, ..Record::default() });
    assert_eq!(look(&record, &members).master, Some(1), "and it goes on serving");
    assert_eq!(reconstruct(5, &members).master, None, "5 was issued and not used");
    assert_eq!(reconstruct(0, &[fenced(0, "", 0)]), Record::default());
}
