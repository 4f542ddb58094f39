//! Manifests: refusals are never without words, and what is read is written and read to the same.

#![no_main]

use crds::{Ack, Invalid, Manifest, Quantity, Span, Validated};
use fuzz::bounded::bounded;
use libfuzzer_sys::fuzz_target;

/// What the schema and the reader take, however short the manifest is, bytes.
const BASE: usize = 8 << 20;

fn check_words(invalid: &Invalid) {
    assert!(!invalid.problems.is_empty());
    for problem in &invalid.problems {
        assert!(!problem.message.trim().is_empty(), "{problem:?}");
        assert!(problem.to_string().ends_with(&problem.message));
    }
}

fn check_written(store: &Manifest) {
    let json = serde_json::to_string(store).expect("JSON");
    assert_eq!(serde_json::from_str::<Manifest>(&json).as_ref().ok(), Some(store), "{json}");
    let yaml = serde_yaml::to_string(store).expect("YAML");
    assert_eq!(crds::parse(&yaml).as_ref(), Ok(store), "{yaml}");
}

fn check_validated(store: &Manifest, checked: &Validated) {
    assert!((1..=64).contains(&checked.shards) && (1..=16).contains(&checked.regions.len()));
    assert_eq!(checked.regions.len(), store.spec.regions.len());
    let mut names: Vec<&str> = checked.regions.iter().map(|region| &region.name[..]).collect();
    names.push(&checked.name);
    for name in &names {
        assert!((1..=24).contains(&name.len()) && !name.contains("--"));
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
    }
    let others = checked.regions.len() - 1;
    let acks = usize::from(checked.replication.remote_acks);
    assert!(checked.replication.ack != Ack::Remote || (1..=others).contains(&acks));
    assert!(checked.redis.max_memory >= Quantity::mib(16) && checked.max_skew > Span::millis(0));
    let streams = u64::from(checked.shards) * checked.replication.retention_bytes.as_bytes();
    assert!(streams <= checked.broker.storage.as_bytes());
}

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let store = match bounded(BASE + 65536 * text.len(), || crds::parse(text)) {
        Ok(store) => store,
        Err(invalid) => {
            check_words(&invalid);
            return assert_eq!(crds::load(text), Err(invalid));
        }
    };
    check_written(&store);
    let checked = crds::validate(&store);
    assert_eq!(crds::load(text), checked);
    match checked {
        Ok(checked) => check_validated(&store, &checked),
        Err(invalid) => check_words(&invalid),
    }
});
