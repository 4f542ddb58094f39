//! The replication logic as state machines: messages and time in, actions out.
