//! Where the network of a local store is cut, as its status shows it. Pure.

use std::collections::BTreeSet;

use crate::view::CutStatus;

/// The cuts, each once, from the ways (reader, writer) that are closed.
pub(super) fn build_cuts<'a>(closed: impl Iterator<Item = &'a (String, String)>) -> Vec<CutStatus> {
    let closed: BTreeSet<&(String, String)> = closed.collect();
    let cut = |(reader, writer): &&(String, String)| {
        let one_way = !closed.contains(&(writer.clone(), reader.clone()));
        let shown = one_way || writer < reader;
        shown.then(|| CutStatus { from: writer.clone(), to: reader.clone(), one_way })
    };
    closed.iter().filter_map(cut).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_of_both_ways_is_shown_once() {
        let way = |reader: &str, writer: &str| (reader.to_owned(), writer.to_owned());
        let cut = |from: &str, to: &str, one_way| CutStatus { from: from.into(), to: to.into(), one_way };
        let closed = [way("b", "a"), way("a", "b"), way("a", "c")];
        assert_eq!(build_cuts(closed.iter()), [cut("c", "a", true), cut("a", "b", false)]);
    }
}
