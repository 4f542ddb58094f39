use super::*;

const NOW: u64 = 1000;

fn element(name: &str, digest: u64, latest: u64, shown: Option<u64>) -> Element {
    let shown = shown.map(|hash| (hash, 5));
    Element {
        name: name.into(),
        digest,
        latest,
        region: 1,
        incarnation: "1".into(),
        shown,
        fits: (digest != 0) == shown.is_some(),
    }
}

/// A hash that shows what its elements show, in a region that has merged through 500.
fn hash(elements: Vec<Element>) -> Look {
    let shown_elements = elements.iter().filter(|element| element.shown.is_some()).count() as u64;
    Look { merged: 500, kind: "hash".into(), shown_elements, latest: 1, rank: 1, elements, ..Look::default() }
}

fn names(regions: usize) -> BTreeMap<u16, String> {
    (1..=regions as u16).map(|id| (id, format!("r{id}"))).collect()
}

fn judge(looks: &[Look]) -> Found {
    match Comparison::new(looks.len(), NOW).feed(looks, &names(looks.len())) {
        (None, Next::Done(found)) => found,
        (_, next) => panic!("{next:?}"),
    }
}

/// What differs, by element.
fn seen(found: &Found) -> Vec<(String, What)> {
    let name = |of: &Difference| String::from_utf8(of.name.clone().unwrap_or_default()).unwrap();
    found.differences.iter().map(|of| (name(of), of.what)).collect()
}

#[test]
fn what_is_equal_is_equal_whatever_was_forgotten() {
    let mine = hash(vec![element("a", 7, 100, Some(3)), element("gone", 0, 90, None)]);
    let theirs = hash(vec![element("a", 7, 100, Some(3))]);
    let found = judge(&[mine, theirs]);
    assert!(!found.differs() && !found.open, "{found:?}");
    assert_eq!((found.kind.as_str(), &found.merged[..]), ("hash", &[500, 500][..]));
}

#[test]
fn what_one_region_lacks_counts_only_if_it_was_told() {
    let there = hash(vec![element("a", 7, 100, Some(3))]);
    let found = judge(&[there.clone(), hash(vec![])]);
    assert_eq!(seen(&found), [("a".to_owned(), What::Metadata)]);
    assert_eq!(found.differences[0].held[1], "not there");
    // Its effect is under way; or what decides about the whole key is; or one has forgotten what the other has not merged through.
    let late = hash(vec![element("a", 7, 501, Some(3))]);
    let floor = Look { latest: 501, ..hash(vec![]) };
    let forgotten = Look { collected: 501, ..hash(vec![]) };
    for looks in [[late, hash(vec![])], [there.clone(), floor], [there.clone(), forgotten]] {
        let found = judge(&looks);
        assert!(!found.differs() && found.open, "{found:?}");
    }
    // The type of the key has just changed.
    let other = Look { kind: "set".into(), rank: 600, ..hash(vec![]) };
    assert!(judge(&[there.clone(), other]).open);
    let other = Look { kind: "set".into(), rank: 400, ..hash(vec![]) };
    assert!(judge(&[there, other]).differs());
}

#[test]
fn a_hot_element_does_not_hide_another_one() {
    let mine = hash(vec![element("cold", 7, 100, Some(3)), element("hot", 1, 900, Some(1))]);
    let theirs = hash(vec![element("cold", 8, 50, Some(3)), element("hot", 2, 901, Some(1))]);
    let found = judge(&[mine, theirs]);
    assert_eq!(seen(&found), [("cold".to_owned(), What::Metadata)]);
    assert!(found.open);
}

#[test]
fn values_under_one_stamp_are_compared_and_a_winner_is_named() {
    let with = |value| hash(vec![element("a", 7, 100, value)]);
    let found = judge(&[with(Some(3)), with(Some(4)), with(Some(4))]);
    assert_eq!(seen(&found), [("a".to_owned(), What::Value)]);
    assert_eq!(found.differences[0].from, Some(1), "most");
    let found = judge(&[with(Some(3)), with(Some(4))]);
    assert_eq!(found.differences[0].from, Some(0), "who wrote it");
    let found = judge(&[with(None), with(Some(4))]);
    assert_eq!((seen(&found)[0].1, found.differences[0].from), (What::Shown, Some(1)), "who has it");
    let only: Vec<Step> = plan(&found, 2);
    let step = |to| Step { from: 1, to, only: vec![b"a".to_vec()] };
    assert_eq!(only, [step(0), step(1)]);
}

#[test]
fn what_is_shown_and_should_not_be_is_seen() {
    let dead = hash(vec![element("a", 0, 100, Some(3))]);
    let found = judge(&[hash(vec![element("a", 0, 100, None)]), dead.clone()]);
    assert!(!found.differs(), "nothing of it is live anywhere: {found:?}");
    let b = element("b", 9, 100, Some(1));
    let mine = hash(vec![element("a", 0, 100, None), b.clone()]);
    let theirs = hash(vec![element("a", 0, 100, Some(3)), b.clone()]);
    let found = judge(&[mine, theirs]);
    assert_eq!((seen(&found), found.differences[0].from), (vec![("a".to_owned(), What::Shown)], Some(0)));
    let unknown = Look { shown_elements: 3, ..hash(vec![b.clone()]) };
    let found = judge(&[hash(vec![b]), unknown]);
    assert_eq!(seen(&found), [(String::new(), What::Unknown)]);
    assert!(found.differences[0].held[1].starts_with("shows 2 of 3"), "{found:?}");
    assert!(plan(&found, 2).is_empty());
}

#[test]
fn times_to_live_are_compared_unless_all_end_soon() {
    let a = || vec![element("a", 7, 100, Some(3))];
    let until = |ttl, at: u64| Look { ttl, at_ms: Some(at), shown_at_ms: Some(at), ..hash(a()) };
    assert!(!judge(&[until(1, 5000), until(1, 5000)]).differs());
    let found = judge(&[until(1, 5000), hash(a())]);
    assert_eq!(seen(&found), [(String::new(), What::Expiry)]);
    assert!(!judge(&[until(1, 900), until(2, 800)]).differs(), "both go in their own time");
    let found = judge(&[until(1, 900), hash(a())]);
    assert_eq!(seen(&found), [(String::new(), What::Expiry)], "one would go and the other stay");
    assert!(!judge(&[until(1, 900), Look::default()]).differs(), "gone already");
    let odd = Look { shown_at_ms: None, ..until(1, 5000) };
    let found = judge(&[odd, until(1, 5000)]);
    assert_eq!((seen(&found)[0].1, found.differences[0].from), (What::Expiry, Some(1)));
}

#[test]
fn large_keys_are_compared_in_pieces_that_fit() {
    let page = |names: &[&str], more| Look {
        more,
        shown_elements: 4,
        ..hash(names.iter().map(|name| element(name, 7, 100, Some(3))).collect())
    };
    let names = names(2);
    let (next, asked) =
        Comparison::new(2, NOW).feed(&[page(&["a", "b", "c"], true), page(&["a", "c"], true)], &names);
    assert_eq!(asked, Next::Behind(b"c".to_vec()));
    let (next, asked) = next.unwrap().feed(&[page(&["d"], false), page(&["d", "e"], false)], &names);
    assert!(next.is_none());
    let Next::Done(found) = asked else { panic!("{asked:?}") };
    let differ: Vec<String> = seen(&found).into_iter().map(|(name, _)| name).collect();
    assert_eq!(differ, ["b", "e"]);
}

#[test]
fn a_repair_ships_what_one_region_has_before_anything_comes_back() {
    let looks = [hash(vec![element("a", 7, 100, Some(3))]), hash(vec![]), hash(vec![])];
    let steps = plan(&judge(&looks), 3);
    let ways: Vec<(usize, usize)> = steps.iter().map(|step| (step.from, step.to)).collect();
    assert_eq!(ways, [(0, 1), (0, 2), (1, 0), (2, 0), (0, 1), (0, 2)]);
    assert!(steps.iter().all(|step| step.only.is_empty()));
}
