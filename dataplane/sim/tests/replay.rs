//! A seed is a run: the same twice, and well. Starts no server.

use std::process::Command;

fn sim(args: &[&str]) -> (bool, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_sim")).args(args).output().expect("the simulator runs");
    (out.status.success(), String::from_utf8_lossy(&out.stdout).into_owned())
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in ["3", "17"] {
        let (well, first) = sim(&["--seed", seed, "--trace"]);
        assert!(well, "{first}");
        assert!(first.lines().count() > 100, "a timeline");
        let (_, second) = sim(&["--seed", seed, "--trace"]);
        assert_eq!(first, second);
    }
}

#[test]
fn some_seeds_go_well() {
    let (well, out) = sim(&["--seeds", "1..16"]);
    assert!(well, "{out}");
}

#[cfg(feature = "mutations")]
#[test]
fn a_planted_bug_is_found_made_small_and_told() {
    let (well, out) = sim(&["--seeds", "1..20", "--mutation", "AckBeforeConfirm"]);
    assert!(!well);
    for part in ["VIOLATION (acknowledgement)", "replay: ", "shortest schedule found", "timeline"] {
        assert!(out.contains(part), "{part} is missing in:\n{out}");
    }
}
