//! The bounds of a proxy's front, in one place. Each says what happens there.

use std::time::Duration;

/// Replies that one client may be owed; at the bound its requests are read no further.
pub const OWED_MAX: usize = 2048;
/// Replies that one client may be owed, in bytes, as far as their size can be guessed from those before.
pub const OWED_BYTES: usize = 32 * 1024 * 1024;
/// Replies that a client may be owed at first; each reply that is not large allows one more, up to [`OWED_MAX`].
pub const OWED_AT_FIRST: usize = 64;
/// A reply that counts as large for that guess.
pub const LARGE_REPLY_BYTES: usize = 16 * 1024;
/// Output waiting for one client; above it its requests are read no further.
pub const OUTPUT_PAUSE_BYTES: usize = 1024 * 1024;
/// A client that takes nothing of its output for so long is closed.
pub const OUTPUT_STUCK: Duration = Duration::from_mins(1);
/// Requests of one worker under way to one engine; above it clients are read no further.
pub const PIPE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Partly arrived requests of all clients of one worker; who goes beyond it is closed.
pub const INPUT_BYTES_MAX: usize = 1024 * 1024 * 1024;
/// Requests of one worker that wait for one shard to get a master; at the bound new ones are refused.
pub const HELD_MAX: usize = 10_000;
/// Their bytes.
pub const HELD_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long a request waits for its shard to get a master.
pub const HELD_FOR: Duration = Duration::from_secs(5);
/// How much longer a request waits that can go to another region, until that has what its client wrote.
pub const DETOUR_FOR: Duration = Duration::from_secs(5);
/// Requests of one worker under way to another region for one shard; at the bound the next ones wait here.
pub const DETOUR_MAX: usize = 4096;
/// Their bytes.
pub const DETOUR_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How often a request is sent again after refusals.
pub const ATTEMPTS_MAX: u8 = 20;
/// Effects are cut out of blocks of this size.
pub const EFFECT_BLOCK_BYTES: usize = 64 * 1024;
/// How long a write waits for its acknowledgement.
pub const ACK_WAIT: Duration = Duration::from_secs(10);
/// An engine that owes replies and sends nothing for so long is given up.
pub const ENGINE_STUCK: Duration = Duration::from_secs(30);
/// How long connecting to an engine may take, greeting included.
pub const CONNECT: Duration = Duration::from_secs(1);
/// After a change of master, how long the old one may still answer what it was asked.
pub const HANDOVER: Duration = Duration::from_millis(500);
/// After SIGTERM, how long requests under way may take.
pub const DRAIN: Duration = Duration::from_secs(10);
/// How often a worker looks at its deadlines and publishes its counters.
pub const TICK: Duration = Duration::from_millis(100);
/// The longest timeout that a client may give to `MAS.AWAIT` and `MAS.WAIT`.
pub const CLIENT_TIMEOUT_MAX: Duration = Duration::from_hours(1);
/// Size of each worker's buffer for reading from clients.
pub const READ_BYTES: usize = 64 * 1024;
/// Size of the first buffer for reading from an engine; it grows with the replies.
pub const REPLY_BYTES: usize = 128 * 1024;
/// Reads in a row of one connection before the others get their turn.
pub const READS_IN_A_ROW: usize = 8;

/// Bounds on output that clients do not take. A proxy has those of [`OutputBounds::default`]; tests have smaller ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputBounds {
    /// Bytes that wait for one client; above it the connection is closed.
    pub one_client: usize,
    /// Bytes that wait for all clients of one worker; above it the client with the most is closed.
    pub all_clients: usize,
}

impl Default for OutputBounds {
    fn default() -> Self {
        Self { one_client: 256 * 1024 * 1024, all_clients: 512 * 1024 * 1024 }
    }
}

/// A duration on a worker's clock, which counts microseconds.
pub fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}
