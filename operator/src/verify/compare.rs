//! What counts as a difference between regions, and how it is repaired. Pure.
//!
//! Writes go on meanwhile, so what is seen of two regions is never of one moment. An element counts as different only when every region has
//! merged through the latest clock that any of them knows of it, and of what decides about the whole key, and through all that
//! any of them has forgotten: then each side has been told all that the other one was. Else it is open, and looked at again.

use std::collections::{BTreeMap, BTreeSet};

/// What one region says of a key: some of its elements, in the order of their names.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Look {
    /// What the region has merged through, and forgotten tombstones up to.
    pub(super) merged: u64,
    pub(super) collected: u64,
    /// There are elements behind the last one.
    pub(super) more: bool,
    pub(super) kind: String,
    /// Elements that are shown, of all.
    pub(super) shown_elements: u64,
    pub(super) shown_at_ms: Option<u64>,
    /// The time-to-live: its digest (0: none) and time.
    pub(super) ttl: u64,
    pub(super) at_ms: Option<u64>,
    /// The latest clock of what decides about the whole key; and of its type.
    pub(super) latest: u64,
    pub(super) rank: u64,
    pub(super) elements: Vec<Element>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Element {
    pub(super) name: Vec<u8>,
    /// 0: it is not live.
    pub(super) digest: u64,
    /// Who wrote it last, and when.
    pub(super) latest: u64,
    pub(super) region: u16,
    pub(super) incarnation: String,
    /// Hash and size of what is shown.
    pub(super) shown: Option<(u64, u64)>,
    pub(super) fits: bool,
}

/// How something differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    /// One region has a write that another one has not.
    Metadata,
    /// Another value under the same stamp.
    Value,
    /// What a region shows is not what its own metadata says.
    Shown,
    /// When the key dies.
    Expiry,
    /// A region shows elements that its metadata does not know.
    Unknown,
}

impl What {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Metadata => "metadata",
            Self::Value => "value",
            Self::Shown | Self::Unknown => "shown",
            Self::Expiry => "expiry",
        }
    }
}

/// One thing that differs.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Difference {
    /// The element; `None`: the key as a whole.
    pub(super) name: Option<Vec<u8>>,
    pub(super) what: What,
    /// As each region holds it.
    pub(super) held: Vec<String>,
    /// The region whose value is shipped, where stamps do not decide.
    pub(super) from: Option<usize>,
}

/// What was found of a key so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Found {
    pub(super) kind: String,
    pub(super) differences: Vec<Difference>,
    /// Differences beyond [`DIFFERENCES_MAX`].
    pub(super) unlisted: u64,
    /// Something could not be decided.
    pub(super) open: bool,
    /// By region: what it has merged through, at least.
    pub(super) merged: Vec<u64>,
}

/// Differences of one key that are held at a time; repair of the others follows with the next look.
pub(super) const DIFFERENCES_MAX: usize = 1000;

impl Found {
    pub(super) fn differs(&self) -> bool {
        !self.differences.is_empty()
    }

    fn add(&mut self, difference: Difference) {
        if self.differences.len() < DIFFERENCES_MAX {
            self.differences.push(difference);
        } else {
            self.unlisted += 1;
        }
    }
}

/// Compares one key in all regions, piece by piece.
pub(super) struct Comparison {
    beyond_ms: u64,
    found: Found,
    /// By region: shown elements that metadata knows.
    known: Vec<u64>,
    /// By region: shown elements of all, at the first look.
    first: Option<Vec<u64>>,
}

/// What to ask next.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    /// For elements behind this one, in all regions.
    Behind(Vec<u8>),
    /// Nothing more.
    Done(Found),
}

impl Comparison {
    /// `beyond_ms`: keys that expire by then are forgotten by each region in its own time.
    pub(super) fn new(regions: usize, beyond_ms: u64) -> Self {
        let found = Found { merged: vec![u64::MAX; regions], ..Found::default() };
        Self { beyond_ms, found, known: vec![0; regions], first: None }
    }

    /// Takes the next look of each region. `regions`: their names by id, for words.
    pub(super) fn feed(mut self, looks: &[Look], regions: &BTreeMap<u16, String>) -> (Option<Self>, Next) {
        let upto =
            looks.iter().filter(|look| look.more).filter_map(|look| Some(&look.elements.last()?.name)).min();
        let within = |element: &&Element| upto.is_none_or(|upto| element.name <= *upto);
        let page: Vec<BTreeMap<&[u8], &Element>> = looks
            .iter()
            .map(|look| look.elements.iter().filter(within).map(|e| (&e.name[..], e)).collect())
            .collect();
        for (merged, look) in self.found.merged.iter_mut().zip(looks) {
            *merged = look.merged.min(*merged);
        }
        for (known, page) in self.known.iter_mut().zip(&page) {
            *known += page.values().filter(|element| element.shown.is_some()).count() as u64;
        }
        if self.found.kind.is_empty() || self.found.kind == "none" {
            let kind = looks.iter().map(|look| &look.kind).find(|kind| *kind != "none");
            self.found.kind = kind.cloned().unwrap_or_else(|| "none".to_owned());
        }
        let judge = Judge::new(looks, self.beyond_ms, regions);
        let empty = |(look, page): (&Look, &BTreeMap<&[u8], &Element>)| {
            look.ttl == 0 && page.values().all(|element| element.digest == 0)
        };
        let nothing = looks.iter().zip(&page).enumerate().all(|(at, of)| judge.expires[at] || empty(of));
        if !nothing {
            if self.first.is_none() {
                judge.expiry(&mut self.found);
            }
            let names: BTreeSet<&[u8]> = page.iter().flat_map(|page| page.keys().copied()).collect();
            for name in names {
                let held: Vec<Option<&Element>> = page.iter().map(|page| page.get(name).copied()).collect();
                judge.element(name, &held, &mut self.found);
            }
        }
        let shown: Vec<u64> = looks.iter().map(|look| look.shown_elements).collect();
        let stands = *self.first.get_or_insert_with(|| shown.clone()) == shown;
        if let Some(upto) = upto {
            let upto = upto.clone();
            return (Some(self), Next::Behind(upto));
        }
        if stands {
            judge.unknown(&self.known, &mut self.found);
        }
        (None, Next::Done(self.found))
    }
}

/// What all looks of one page say together.
struct Judge<'a> {
    looks: &'a [Look],
    regions: &'a BTreeMap<u16, String>,
    expires: Vec<bool>,
    /// All have merged through it; 0 if one has not merged through what another one has forgotten.
    merged: u64,
    /// The latest clock of what decides about the whole key.
    whole: u64,
}

impl<'a> Judge<'a> {
    fn new(looks: &'a [Look], beyond_ms: u64, regions: &'a BTreeMap<u16, String>) -> Self {
        let merged = looks.iter().map(|look| look.merged).min().unwrap_or(0);
        let collected = looks.iter().map(|look| look.collected).max().unwrap_or(0);
        let mut kinds = looks.iter().map(|look| &look.kind);
        let first = kinds.next();
        let same = kinds.all(|kind| Some(kind) == first);
        let whole = looks.iter().map(|look| if same { look.latest } else { look.latest.max(look.rank) });
        Self {
            looks,
            regions,
            expires: looks.iter().map(|look| look.at_ms.is_some_and(|at| at <= beyond_ms)).collect(),
            merged: if collected <= merged { merged } else { 0 },
            whole: whole.max().unwrap_or(0),
        }
    }

    fn expiry(&self, found: &mut Found) {
        let held = || {
            let words = |at: Option<u64>| at.map_or_else(|| "none".to_owned(), |at| format!("{at} ms"));
            let of = |look: &Look| match (look.at_ms, look.shown_at_ms) {
                (said, shown) if said == shown || look.shown_elements == 0 => words(said),
                (said, shown) => format!("{}, and Redis has {}", words(said), words(shown)),
            };
            self.looks.iter().map(of).collect()
        };
        let differs = self.looks.iter().any(|look| look.ttl != self.looks[0].ttl);
        if differs && self.whole > self.merged {
            found.open = true;
        } else if differs {
            found.add(Difference { name: None, what: What::Expiry, held: held(), from: None });
        } else {
            // Its own metadata says something else.
            let odd = |(at, look): (usize, &Look)| {
                !self.expires[at] && look.shown_elements > 0 && look.at_ms != look.shown_at_ms
            };
            if let Some(at) = self.looks.iter().enumerate().position(odd) {
                let from =
                    (0..self.looks.len()).find(|other| !odd((*other, &self.looks[*other]))).unwrap_or(at);
                found.add(Difference { name: None, what: What::Expiry, held: held(), from: Some(from) });
            }
        }
    }

    fn element(&self, name: &[u8], held: &[Option<&Element>], found: &mut Found) {
        let digest = |element: Option<&Element>| element.map_or(0, |element| element.digest);
        let latest = held.iter().flatten().map(|element| element.latest).max().unwrap_or(0).max(self.whole);
        let one = digest(held[0]);
        let words =
            || held.iter().zip(self.looks).map(|(element, look)| self.words(*element, look)).collect();
        let named = (found.kind != "string" || !name.is_empty()).then(|| name.to_vec());
        if held.iter().any(|element| digest(*element) != one) {
            if latest > self.merged {
                found.open = true;
            } else {
                found.add(Difference { name: named, what: What::Metadata, held: words(), from: None });
            }
            return;
        }
        let live = |at: &usize| !self.expires[*at] && held[*at].is_some();
        let odd = |at: &usize| live(at) && held[*at].is_some_and(|element| !element.fits);
        let shown = |at: usize| held[at].and_then(|element| element.shown);
        let values: BTreeSet<_> =
            (0..held.len()).filter(live).map(|at| shown(at).map(|(hash, _)| hash)).collect();
        let what = if (0..held.len()).any(|at| odd(&at)) {
            What::Shown
        } else if one != 0 && values.len() > 1 {
            What::Value
        } else {
            return;
        };
        let from = winner(one != 0, held, &odd, self.regions, self.looks.len());
        found.add(Difference { name: named, what, held: words(), from: Some(from) });
    }

    fn unknown(&self, known: &[u64], found: &mut Found) {
        let more = |at: usize| {
            let look = &self.looks[at];
            if self.expires[at] { 0 } else { look.shown_elements.saturating_sub(known[at]) }
        };
        if (0..known.len()).all(|at| more(at) == 0) || found.open {
            return;
        }
        let held = (0..known.len()).map(|at| match more(at) {
            0 => "as its metadata says".to_owned(),
            more => format!(
                "shows {more} of {} elements that its metadata does not know",
                self.looks[at].shown_elements
            ),
        });
        found.add(Difference { name: None, what: What::Unknown, held: held.collect(), from: None });
    }

    fn words(&self, element: Option<&Element>, look: &Look) -> String {
        let Some(element) = element else { return "not there".to_owned() };
        let by = self.regions.get(&element.region).map_or("an unknown region", String::as_str);
        let at = i64::try_from(element.latest >> 16).ok();
        let at = at.and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
        let at = at.map_or_else(|| "at no time".to_owned(), |at| at.to_string());
        let state = if element.digest == 0 { "removed or dead" } else { "live" };
        let shows = match element.shown {
            None => "shows nothing".to_owned(),
            Some((_, 0)) if look.kind == "set" => "is shown".to_owned(),
            Some((hash, size)) => format!("shows {size} bytes (hash {:08x})", hash as u32),
        };
        let odd = if element.fits { "" } else { ", which is not what its metadata says" };
        format!("{state}, written by {by} at {at}, {shows}{odd}")
    }
}

/// Whose value is shipped where stamps do not decide: what most regions show; among equally many what the region shows that wrote it; else the
/// first. Never nothing, where something is live; and of regions that differ from their own metadata only if there is no other.
fn winner(
    live: bool,
    held: &[Option<&Element>],
    odd: &impl Fn(&usize) -> bool,
    regions: &BTreeMap<u16, String>,
    all: usize,
) -> usize {
    let shown = |at: usize| held[at].and_then(|element| element.shown).map(|(hash, _)| hash);
    let may = |at: &usize| held[*at].is_some() && !odd(at) && (!live || shown(*at).is_some());
    let votes = |at: usize| (0..all).filter(may).filter(|other| shown(*other) == shown(at)).count();
    let writer = held.iter().flatten().max_by_key(|element| element.latest).map(|element| element.region);
    // Regions are asked in the order of their ids.
    let wrote = |at: usize| regions.keys().nth(at).copied() == writer;
    let best = (0..all).filter(may).max_by_key(|at| (votes(*at), wrote(*at), std::cmp::Reverse(*at)));
    best.or_else(|| (0..all).find(|at| held[*at].is_some())).unwrap_or(0)
}

/// One step of a repair: what `from` holds goes to `to`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Step {
    pub(super) from: usize,
    pub(super) to: usize,
    /// These elements; empty: all.
    pub(super) only: Vec<Vec<u8>>,
}

/// How a key is repaired: first what stamps do not decide, each element from its winner to all (itself too: what is shown is then made
/// from the metadata anew). Then all to one region, whose state is the join of all, and from there to all; what that region
/// holds goes to the others first, so that whatever has one stamp is the same before it comes back.
pub(super) fn plan(found: &Found, regions: usize) -> Vec<Step> {
    let mut directed: BTreeMap<usize, Vec<Vec<u8>>> = BTreeMap::new();
    for difference in &found.differences {
        if let Some(from) = difference.from {
            directed.entry(from).or_default().push(difference.name.clone().unwrap_or_default());
        }
    }
    let mut steps = Vec::new();
    for (from, only) in directed {
        for chunk in only.chunks(ONLY_MAX) {
            steps.extend((0..regions).map(|to| Step { from, to, only: chunk.to_vec() }));
        }
    }
    let stamped = |what| matches!(what, What::Metadata | What::Expiry);
    if found.differences.iter().any(|difference| stamped(difference.what)) {
        let all = |from, to| Step { from, to, only: Vec::new() };
        steps.extend((1..regions).map(|to| all(0, to)));
        steps.extend((1..regions).map(|from| all(from, 0)));
        if regions > 2 {
            steps.extend((1..regions).map(|to| all(0, to)));
        }
    }
    steps
}

/// Elements in one step.
const ONLY_MAX: usize = 100;

/// Why a repair that was carried out has left this difference.
pub(super) fn why_left(found: &Found) -> String {
    let whats: BTreeSet<What> = found.differences.iter().map(|difference| difference.what).collect();
    let of = |what: &What| match what {
        What::Metadata => {
            "the merge does not make them equal: what is left counts in a sealed incarnation, or has one stamp and two contents"
        }
        What::Value | What::Shown => "no region has the value any more: write the element, or delete it",
        What::Expiry => "the time-to-live stays different: write it anew (EXPIRE, PERSIST)",
        What::Unknown => {
            "what no metadata knows has no stamp and cannot be shipped: write the key, or delete it"
        }
    };
    whats.iter().map(of).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests;
