//! Finds the store on this machine that a command means.

use std::fs;
use std::path::PathBuf;

use operator::platform::local::Layout;

use crate::args::Place;
use crate::failure::Failure;

/// Where the store called `name` is kept.
pub(crate) fn for_store(place: &Place, name: &str) -> Result<Layout, Failure> {
    check_name(place, name)?;
    let root = match &place.state_dir {
        Some(folder) => folder.clone(),
        None => Layout::default_root()?.join(name),
    };
    Ok(Layout::new(&root)?)
}

/// A manifest is of the store that was named, if one was.
pub(crate) fn check_name(place: &Place, name: &str) -> Result<(), Failure> {
    match &place.store {
        Some(wanted) if wanted != name => Err(Failure::usage(format!(
            "--store {wanted} was given, but the manifest is of '{name}': leave it out"
        ))),
        _ => Ok(()),
    }
}

/// The store that is meant without a manifest at hand: the named one, else the only one that runs, else the only one.
pub(crate) fn existing(place: &Place) -> Result<Layout, Failure> {
    if let Some(folder) = &place.state_dir {
        return Ok(Layout::new(folder)?);
    }
    let root = Layout::default_root()?;
    if let Some(name) = &place.store {
        return Ok(Layout::new(&root.join(name))?);
    }
    let kept: Vec<PathBuf> = fs::read_dir(&root)
        .map(|entries| {
            entries.flatten().map(|entry| entry.path()).filter(|p| p.join("state.json").exists()).collect()
        })
        .unwrap_or_default();
    let layouts = kept.iter().map(|path| Layout::new(path)).collect::<Result<Vec<_>, _>>()?;
    let running: Vec<_> = layouts.iter().filter(|layout| layout.is_running()).collect();
    match (running.as_slice(), layouts.as_slice()) {
        ([only], _) => Ok((*only).clone()),
        ([], [only]) => Ok(only.clone()),
        ([], []) => Err(Failure::failed(format!(
            "there is no store in {}: start one with `masctl up -f FILE`, or name its folder with --state-dir",
            root.display()
        ))),
        ([], many) => Err(Failure::usage(format!(
            "several stores are kept: name one with --store ({})",
            names(many.iter())
        ))),
        (many, _) => Err(Failure::usage(format!(
            "several stores are running: name one with --store ({})",
            names(many.iter().copied())
        ))),
    }
}

fn names<'a>(layouts: impl Iterator<Item = &'a Layout>) -> String {
    let mut names: Vec<_> =
        layouts.filter_map(|l| Some(l.root().file_name()?.to_string_lossy().into_owned())).collect();
    names.sort();
    names.join(", ")
}
