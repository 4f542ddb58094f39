//! The engine: a Redis module that makes one stock Redis server multi-active. It runs write commands natively, turns
//! what they changed into stamped effects, and merges the effects of others, each in one atomic step. All decisions are
//! [`mas_core`]'s; here are the commands, the capture of native results, and the boundary to the server.
#![deny(unsafe_code)]

mod boundary;
mod capture;
mod commands;
mod engine;
mod events;
mod gate;
mod node;
mod persistence;
mod refusal;
mod settings;
mod unknown;

pub use boundary::RedisModule_OnLoad;
