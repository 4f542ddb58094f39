//! The only module with unsafe code: everything that crosses between Rust and the server's C API. The rest of the crate
//! sees [`Ctx`] (the command at hand), [`Words`] (its words), [`Reply`] and [`Native`] (the keys).
//!
//! What makes it sound: the server runs commands, filters, events and persistence callbacks on one thread (persistence
//! also in a forked child, which is alone in its process), and no pointer outlives the callback that it came with.
#![allow(unsafe_code)]
#![allow(clippy::similar_names)] // argc and argv are what everybody calls them

mod alloc;
mod ctx;
mod filter;
mod keys;
mod load;
mod persist;
mod reply;
mod single;
mod words;

pub(crate) use ctx::{Ctx, Rights};
pub(crate) use filter::Filtered;
pub(crate) use keys::{KeyType, Native};
pub use load::RedisModule_OnLoad;
pub(crate) use persist::{Load, Save};
pub(crate) use reply::{Leaf, Reply, ReplyKind};
pub(crate) use single::Single;
pub(crate) use words::Words;

/// Calls a function of the server's API. All that are used are in Redis 7.0; one that is missing is a server that
/// [`load`] must not have accepted.
macro_rules! server {
    ($name:ident($($arg:expr),* $(,)?)) => {
        match redis_module::raw::$name {
            Some(function) => function($($arg),*),
            None => $crate::boundary::missing(stringify!($name)),
        }
    };
}
pub(crate) use server;

/// The server lacks a function that this module cannot do without.
#[cold]
fn missing(name: &str) -> ! {
    eprintln!("mas_engine: this server has no {name}; Redis 7.0 or later is needed");
    std::process::abort()
}
