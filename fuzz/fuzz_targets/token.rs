//! Tokens, as clients send them: strictly read, bounded, written again to the same need, and told what is missing.

#![no_main]

use fuzz::bounded::bounded;
use fuzz::token::{STORE, around};
use libfuzzer_sys::fuzz_target;
use mas_core::cover::Cover;
use mas_core::replication::token::{TOKEN_BYTES_MAX, Token, add_written};

fn check_against(token: &Token, have: &Cover) {
    for need in &token.shards {
        let missing = need.first_missing(have);
        assert_eq!(need.covered_by(have), missing.is_none(), "{:?} in {have:?}", need.cover);
        if let Some((origin, seq)) = missing {
            assert!(need.cover.contains(origin, seq) && !have.contains(origin, seq));
        }
    }
}

fuzz_target!(|data: &[u8]| {
    // The first byte says whether it is the text of a token, or the content of one.
    let Some((is_text, data)) = data.split_first() else { return };
    let text = if is_text & 1 == 1 { data.to_vec() } else { around(data) };
    let token = match bounded(4096 + 512 * text.len(), || Token::parse(&text, STORE)) {
        Ok(token) => token,
        Err(why) => return assert!(!why.to_string().is_empty()),
    };
    assert!(text.len() <= TOKEN_BYTES_MAX && text.is_ascii());
    assert!(Token::parse(&text, "other").is_err());
    check_against(&token, &Cover::default());
    for need in &token.shards {
        check_against(&token, &need.cover);
        let mut cover = need.cover.clone();
        for (origin, set) in need.cover.iter() {
            add_written(&mut cover, origin, set.last() / 2);
        }
        assert!(need.covered_by(&cover));
    }
    // Sets with many gaps are rounded up, once.
    let written = token.encode(STORE).expect("it is not longer than what was read");
    let rounded = Token::parse(written.as_bytes(), STORE).expect("what was written is read");
    assert_eq!(rounded.shards.len(), token.shards.len());
    for (new, old) in rounded.shards.iter().zip(&token.shards) {
        assert_eq!((new.shard, new.hlc, new.local_only), (old.shard, old.hlc, old.local_only));
        assert!(new.cover.includes(&old.cover));
        assert!(new.cover.iter().all(|(o, set)| old.cover.of(o).is_some_and(|old| old.last() == set.last())));
    }
    assert_eq!(rounded.encode(STORE).as_deref(), Ok(&written[..]));
});
