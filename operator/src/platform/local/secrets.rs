//! Passwords of a local store: random, made once, each in a file that only the owner can read.

use std::fs;
use std::path::PathBuf;

use rand::{Rng, distr::Alphanumeric};

use super::layout::{Layout, LayoutError, io_error, make_private_folder, write_private};

/// Characters of a password: about 190 bits.
const LENGTH: usize = 32;

/// A password and the file that holds it.
#[derive(Clone)]
pub(super) struct Secret {
    pub(super) value: String,
    pub(super) file: PathBuf,
}

/// Reads the password called `name`, or makes it.
pub(super) fn ensure(layout: &Layout, name: &str) -> Result<Secret, LayoutError> {
    let folder = layout.secrets();
    make_private_folder(&folder)?;
    let file = folder.join(name);
    if file.exists() {
        let value = fs::read_to_string(&file).map_err(|e| io_error("reading", &file, e))?;
        return Ok(Secret { value: value.trim().to_owned(), file });
    }
    let value: String = rand::rng().sample_iter(Alphanumeric).take(LENGTH).map(char::from).collect();
    write_private(&file, value.as_bytes(), true)?;
    Ok(Secret { value, file })
}
