//! Files of members that are superseded, or cannot be used: what only they may have can be looked at later.

use std::path::{Path, PathBuf};

use super::Component;
use super::layout::{Layout, LayoutError, io_error, make_private_folder};

/// Most copies that are kept of one member.
const MAX_COPIES: usize = 3;
/// What a Redis server cannot start without.
pub(super) const CONFIGURATION: &str = "redis.conf";

/// Why no copy was made.
#[derive(Debug, thiserror::Error)]
pub(super) enum SetAsideError {
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error(
        "{component} holds effects that may be nowhere else and cannot be resynced: {} already holds {MAX_COPIES} copies; look at them and delete them",
        .kept.display()
    )]
    Full { component: String, kept: PathBuf },
}

/// Where a member's files were set aside, if they were.
pub(super) fn find_set_aside(layout: &Layout, component: &Component) -> Option<PathBuf> {
    let kept = folder_for_copies(layout, component);
    kept.is_dir().then_some(kept)
}

fn folder_for_copies(layout: &Layout, component: &Component) -> PathBuf {
    layout.set_aside().join(component.to_string().replace('/', "."))
}

/// Where a member's files go, if there is room.
fn target(layout: &Layout, component: &Component, label: &str) -> Result<PathBuf, SetAsideError> {
    let kept = folder_for_copies(layout, component);
    make_private_folder(&kept)?;
    let count = std::fs::read_dir(&kept).map_err(|e| io_error("reading", &kept, e))?.count();
    let target = kept.join(label);
    if count >= MAX_COPIES && !target.exists() {
        return Err(SetAsideError::Full { component: component.to_string(), kept });
    }
    Ok(target)
}

/// Moves the files of a member that does not run, so that it begins with nothing. Its configuration stays.
pub(super) fn move_aside(layout: &Layout, component: &Component, label: &str) -> Result<(), SetAsideError> {
    let target = target(layout, component, label)?;
    let folder = layout.component(component);
    tracing::warn!(component = %component, copy = %target.display(), "set aside what cannot be used");
    std::fs::rename(&folder, &target).map_err(|e| io_error("moving", &folder, e))?;
    make_private_folder(&folder)?;
    let configuration = target.join(CONFIGURATION);
    std::fs::copy(&configuration, folder.join(CONFIGURATION))
        .map_err(|e| io_error("copying", &configuration, e))?;
    Ok(())
}

/// Copies a member's files, so that what only it has can be looked at later.
pub(super) fn set_aside(layout: &Layout, component: &Component, label: &str) -> Result<(), SetAsideError> {
    let target = target(layout, component, label)?;
    tracing::warn!(component = %component, copy = %target.display(), "set aside what a superseded member alone may have");
    Ok(copy_folder(&layout.component(component), &target)?)
}

fn copy_folder(from: &Path, to: &Path) -> Result<(), LayoutError> {
    make_private_folder(to)?;
    for entry in std::fs::read_dir(from).map_err(|e| io_error("reading", from, e))? {
        let entry = entry.map_err(|e| io_error("reading", from, e))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().map_err(|e| io_error("reading", &source, e))?;
        if kind.is_dir() {
            copy_folder(&source, &target)?;
        } else if kind.is_file() {
            std::fs::copy(&source, &target).map_err(|e| io_error("copying", &source, e))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_moved_is_there_and_the_configuration_stays() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path()).unwrap();
        let component: Component = "a/shard-0/redis-0".parse().unwrap();
        let data = layout.component(&component);
        std::fs::create_dir_all(&data).unwrap();
        std::fs::write(data.join(CONFIGURATION), "port 1").unwrap();
        std::fs::write(data.join("dump.rdb"), "damaged").unwrap();
        move_aside(&layout, &component, "before-rebuild-4").unwrap();
        assert_eq!(std::fs::read_to_string(data.join(CONFIGURATION)).unwrap(), "port 1");
        assert!(!data.join("dump.rdb").exists());
        let kept = layout.set_aside().join("a.shard-0.redis-0/before-rebuild-4/dump.rdb");
        assert_eq!(std::fs::read_to_string(kept).unwrap(), "damaged");
        assert!(move_aside(&layout, &component, "before-rebuild-4").is_err(), "nothing is replaced");
    }

    #[test]
    fn copies_are_made_up_to_a_bound_and_never_replaced_in_silence() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path()).unwrap();
        let component: Component = "a/shard-0/redis-1".parse().unwrap();
        let data = layout.component(&component).join("appendonlydir");
        std::fs::create_dir_all(&data).unwrap();
        std::fs::write(data.join("log"), "x").unwrap();
        for epoch in 2..5 {
            set_aside(&layout, &component, &format!("before-epoch-{epoch}")).unwrap();
        }
        let copy = layout.set_aside().join("a.shard-0.redis-1/before-epoch-4/appendonlydir/log");
        assert_eq!(std::fs::read_to_string(copy).unwrap(), "x");
        let error = set_aside(&layout, &component, "before-epoch-5").unwrap_err().to_string();
        assert!(error.contains("already holds 3 copies"), "{error}");
    }
}
