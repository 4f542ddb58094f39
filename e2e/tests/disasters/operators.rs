//! Operators that die.

use std::time::Instant;

use e2e::cluster::chart::{EXAMPLE, FOUNDING, Installation, RECOVERY};
use e2e::load::Load;

/// Whenever the store is further than it was, all operators are killed.
pub(crate) fn one_that_dies_in_every_phase_founds_the_store(place: &Installation) {
    place.namespace.apply(EXAMPLE).unwrap();
    let (started, mut phases) = (Instant::now(), Vec::new());
    loop {
        let store = place.namespace.get("mas", "shop").unwrap();
        let status = &store["status"];
        if status["regionsActive"] == "2/2" {
            break;
        }
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        let reasons: Vec<_> = conditions.iter().map(|condition| condition["reason"].to_string()).collect();
        // Numbers and names of pods aside: what is waited for, and by whom.
        let phase = format!("{} {} {}", status["regionsActive"], reasons.join(" "), status["why"]);
        if !phases.contains(&phase) {
            place.chart.kill_operators().unwrap();
            phases.push(phase);
        }
        assert!(started.elapsed() < FOUNDING * 2, "not founded: {phases:#?}\n{}", place.picture());
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
    assert!(phases.len() >= 3, "{phases:#?}");
    place.step(&format!("the operators were killed {} times", phases.len()));
}

pub(crate) fn a_master_and_the_operators_die_together(place: &Installation, _: &Load) {
    let store = place.store();
    let before = store.epoch("east", 0).unwrap();
    let master = store.master("east", 0).unwrap();
    place.chart.kill_operators().unwrap();
    store.kill(&master, "redis").unwrap();
    store
        .wait_epoch_above(before, "east", 0, RECOVERY)
        .unwrap_or_else(|error| panic!("{error:#}\n{}", place.picture()));
}
