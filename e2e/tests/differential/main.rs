//! The same random requests to a region's endpoint and to a plain `redis-server`: the same replies, byte by byte but
//! for the rules in `rules.rs`, and the same data at the end. RESP2 and RESP3, pipelined, both acknowledgement levels.
//!
//! `MAS_COMMANDS` says how many requests (30,000), `MAS_SEED` which; the seeds of a difference are printed with it.

mod dice;
mod finish;
mod generators;
mod plain;
mod resp;
mod rules;
mod run;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use e2e::{Store, manifest};
use mas_commands::Support;

use crate::plain::Plain;
use crate::resp::{Raw, Reply, text};
use crate::run::{Sequence, Sides, run};

/// So many requests, then everything is compared and a new sequence begins.
const REQUESTS_OF_A_SEQUENCE: usize = 1000;
/// A sequence ends with its first difference, the test with so many.
const DIFFERENCES_AT_MOST: usize = 10;
/// What proxies say to each other: no client sends it (tests/evacuation.rs).
const BETWEEN_PROXIES: [&str; 1] = ["MAS.FORWARD"];

#[test]
fn every_supported_command_has_a_generator_and_no_other_has() {
    let wanted: Vec<_> = mas_commands::all()
        .iter()
        .filter(|command| {
            command.support == Support::Yes
                && !(command.container && command.name != "COMMAND")
                && !BETWEEN_PROXIES.contains(&command.name)
        })
        .map(|command| command.name)
        .collect();
    let made: Vec<_> = generators::all().map(|(name, _, _)| *name).collect();
    let missing: Vec<_> = wanted.iter().filter(|name| !made.contains(name)).collect();
    let surplus: Vec<_> = made.iter().filter(|name| !wanted.contains(name)).collect();
    assert!(missing.is_empty(), "no generator for {missing:?}: add one in tests/differential/generators");
    assert!(surplus.is_empty(), "generators for commands that are not served: {surplus:?}");
    for (name, _, make) in generators::all() {
        let words = make(&mut dice::Dice::new(1, 2));
        let found = mas_commands::resolve(&words[..]).expect("the generated name is known");
        assert_eq!(found.name, *name, "{}", resp::show(&words));
    }
}

#[test]
fn two_plain_servers_do_not_differ_by_these_rules() {
    let (one, other) = (Plain::start(), Plain::start());
    let sides = Sides { store: one.address.clone(), plain: other.address.clone() };
    let seed = number("MAS_SEED").unwrap_or_else(rand::random::<u64>) >> 16 << 16;
    for n in 0..6 {
        let sequence = Sequence { seed: seed + n, protocol: 2 + (n % 2) as u8, requests: 1000, level: None };
        if let Err(difference) = run(&sides, sequence) {
            panic!("the test itself is wrong; run again with MAS_SEED={seed}\n{difference}");
        }
    }
}

#[test]
fn a_region_answers_as_plain_redis_does() {
    let requests = number("MAS_COMMANDS").unwrap_or(30_000) as usize;
    let first = number("MAS_SEED").unwrap_or_else(rand::random::<u64>) >> 16 << 16;
    println!("MAS_SEED={first} MAS_COMMANDS={requests}");

    let plain = Plain::start();
    // Somebody else's store may serve as well.
    let given = std::env::var("MAS_ENDPOINT").ok();
    let rest = "  shards: 2\n  redis: {replicas: 0, appendOnly: Always}\n  broker: {replicas: 1}\n  proxy: {replicas: 1}";
    let store =
        given.is_none().then(|| Store::start(&manifest("diff", &["here"], rest)).expect("the store starts"));
    let endpoint = given.or_else(|| Some(store.as_ref()?.endpoint("here").to_owned())).expect("an endpoint");
    let sides = Sides { store: endpoint, plain: plain.address.clone() };

    refuses_what_it_does_not_serve(&sides);
    adds_fractions_as_plain_redis_does_but_for_the_last_digits(&sides);
    waits_in_vain_for_regions_that_are_not_there(&sides);

    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut errors = 0;
    let mut differences = Vec::new();
    let sequences = requests.div_ceil(REQUESTS_OF_A_SEQUENCE);
    for n in 0..sequences {
        let sequence = Sequence {
            seed: first + n as u64,
            protocol: if n % 2 == 0 { 2 } else { 3 },
            requests: REQUESTS_OF_A_SEQUENCE.min(requests),
            level: Some(if n % 4 < 2 { "QUEUED" } else { "LOCAL" }),
        };
        match run(&sides, sequence) {
            Ok(summary) => {
                errors += summary.errors;
                for (name, count) in summary.requests {
                    *counts.entry(name).or_default() += count;
                }
            }
            Err(difference) => differences.push(difference),
        }
        if differences.len() == DIFFERENCES_AT_MOST {
            break;
        }
    }
    let seen = differences.len();
    assert!(
        seen == 0,
        "{seen} sequences differ; run again with MAS_SEED={first}\n{}",
        differences.join("\n\n")
    );
    let total: usize = counts.values().sum();
    println!(
        "{total} requests of {} commands in {sequences} sequences, {errors} errors, no difference",
        counts.len()
    );
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Everything that is not served is refused in words, and the connection goes on.
fn refuses_what_it_does_not_serve(sides: &Sides) {
    let mut raw = Raw::connect(&sides.store).expect("connects");
    for command in mas_commands::all().iter().filter(|command| command.support != Support::Yes) {
        let mut words: resp::Words = command.name.split('|').map(|word| word.as_bytes().to_vec()).collect();
        while words.len() < usize::from(command.arity.unsigned_abs()) {
            words.push(b"1".to_vec());
        }
        match raw.ask(&words).expect("a reply") {
            Reply::Error(error) => {
                let error = text(&error);
                assert!(
                    error.contains("not supported") || error.contains("unknown"),
                    "{}: {error}",
                    command.name
                );
            }
            other => panic!("{} is answered with {other}", command.name),
        }
    }
    assert_eq!(raw.ask(&words!["PING"]).expect("a reply"), Reply::Simple(b"PONG".to_vec()));
    let crossing = raw.ask(&words!["RENAME", "{a}x", "{b}x"]).expect("a reply");
    assert!(matches!(&crossing, Reply::Error(error) if error.starts_with(b"CROSSSLOT")), "{crossing}");
}

/// Without a peer `MAS.WAIT` answers 0 after its time, whether or not the connection has written.
fn waits_in_vain_for_regions_that_are_not_there(sides: &Sides) {
    let mut raw = Raw::connect(&sides.store).expect("connects");
    for wrote in [false, true] {
        if wrote {
            assert_eq!(raw.ask(&words!["SET", "k", "v"]).expect("a reply"), Reply::Simple(b"OK".to_vec()));
        }
        let started = Instant::now();
        assert_eq!(raw.ask(&words!["MAS.WAIT", "1", "100"]).expect("a reply"), Reply::Int(0));
        assert!(started.elapsed() >= Duration::from_millis(100), "{:?}", started.elapsed());
        assert_eq!(raw.ask(&words!["MAS.WAIT", "0", "100"]).expect("a reply"), Reply::Int(0));
        assert_eq!(
            raw.ask(&words!["PING"]).expect("the connection goes on"),
            Reply::Simple(b"PONG".to_vec())
        );
    }
}

/// See docs/limits.md: decimals are added exactly here, as `long double` there.
fn adds_fractions_as_plain_redis_does_but_for_the_last_digits(sides: &Sides) {
    let mut store = Raw::connect(&sides.store).expect("connects");
    let mut plain = Raw::connect(&sides.plain).expect("connects");
    for raw in [&mut store, &mut plain] {
        raw.ask(&words!["FLUSHALL"]).expect("a reply");
    }
    for n in 0..200 {
        let step = format!("{}.{}", n % 7, n % 10);
        for request in [
            words!["INCRBYFLOAT", "f", step.clone()],
            words!["HINCRBYFLOAT", "fh", "f", step.clone()],
            words!["ZINCRBY", "fz", step.clone(), "m"],
        ] {
            let replies = [&mut store, &mut plain].map(|raw| raw.ask(&request).expect("a reply"));
            let values =
                replies.each_ref().map(|reply| text(&reply.bytes()).parse::<f64>().expect("a number"));
            let off = (values[0] - values[1]).abs() / values[1].abs().max(1.0);
            assert!(off < 1e-12, "{}: {} and {}", resp::show(&request), replies[0], replies[1]);
        }
    }
}
