//! The engine's commands, as docs/internals.md lists them. Each reads its words, asks the node whether it may, takes a
//! step of the shard, and answers.

pub(crate) mod control;
pub(crate) mod digest;
pub(crate) mod exec;
pub(crate) mod merge;
pub(crate) mod outbox;
pub(crate) mod report;
pub(crate) mod stability;
pub(crate) mod state;
pub(crate) mod verify;
