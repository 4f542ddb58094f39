//! Small disks of single parts: a tmpfs each, mounted before the store is started. Needs root and a mount namespace of this
//! program's own, so that nothing stays mounted whatever happens to it.

use std::fs::{self, DirBuilder};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

const INSIDE: &str = "MAS_JEPSEN_INSIDE";
const BLOCK: usize = 1 << 20;

/// A mounted disk.
pub(crate) struct Disk {
    /// Of this part.
    pub(crate) component: String,
    folder: PathBuf,
    /// So many bytes stay free when it is filled.
    leave_free: u64,
}

/// Goes on in a mount namespace of its own, if this user may have one.
pub(crate) fn isolate() {
    if std::env::var_os(INSIDE).is_some() {
        return;
    }
    let may = |program: &mut Command| program.output().is_ok_and(|output| output.status.success());
    if may(Command::new("unshare").args(["--mount", "true"]))
        && let Ok(program) = std::env::current_exe()
    {
        let mut again = Command::new("unshare");
        again.args(["--mount", "--propagation", "private", "--"]).arg(program);
        let error = again.args(std::env::args_os().skip(1)).env(INSIDE, "yes").exec();
        eprintln!("unshare failed: {error}");
    }
}

/// Mounts `folder`, which is made, with a disk of `mebibytes`.
pub(crate) fn mount(component: &str, folder: &Path, mebibytes: u64, leave_free: u64) -> Result<Disk> {
    if std::env::var_os(INSIDE).is_none() {
        bail!("mounting needs root (unshare --mount is not permitted)");
    }
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    run(Command::new("mount")
        .args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m,mode=0700"), "jepsen"])
        .arg(folder))?;
    Ok(Disk { component: component.to_owned(), folder: folder.to_owned(), leave_free })
}

impl Disk {
    /// Writes until nothing more fits; what was to be left free is left then.
    pub(crate) fn fill(&self) -> Result<()> {
        let mut file = fs::File::create(self.filler()).context("creating the filler failed")?;
        let block = vec![0_u8; BLOCK];
        let mut length = 0;
        while file.write_all(&block).is_ok() {
            length += BLOCK as u64;
        }
        if self.leave_free > 0 {
            return file.set_len(length.saturating_sub(self.leave_free)).context("cutting the filler failed");
        }
        while file.write_all(&block[..512]).is_ok() {}
        Ok(())
    }

    /// Gives the space back.
    pub(crate) fn free(&self) -> Result<()> {
        fs::remove_file(self.filler()).context("removing the filler failed")
    }

    /// Unmounts it once the store is down; `keep`: its files go to the folder below.
    pub(crate) fn unmount(&self, keep: bool) -> Result<()> {
        let _ = self.free();
        let aside = self.folder.with_extension("kept");
        if keep {
            run(Command::new("cp").arg("-a").args([&self.folder, &aside]))?;
        }
        run(Command::new("umount").arg("-l").arg(&self.folder))?;
        if keep {
            fs::remove_dir(&self.folder)?;
            fs::rename(&aside, &self.folder)?;
        }
        Ok(())
    }

    fn filler(&self) -> PathBuf {
        self.folder.join("filler")
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("running {command:?} failed"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
