//! The table of commands: what each one is, where its keys are, how it is served and captured, and why not.
//!
//! One data file (`commands.toml`) feeds the proxy's dispatch, the engine's capture and docs/commands.md.
//! A command that is not in it does not exist; one that is there without support is refused with its reason.

mod command;
pub mod doc;
mod hash;
mod keys;
mod table;

pub use command::{Command, Effect, Flags, Routing, Support};
pub use keys::{Args, KeyError, KeyIndices, KeySpec};
pub use table::{all, lookup, lookup_sub, resolve};
