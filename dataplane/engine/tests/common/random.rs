//! Random write commands over few keys and fields, so that they meet.

use rand::Rng;
use rand::rngs::StdRng;

/// Absolute times to live are from here on, unix milliseconds.
pub const FAR_FUTURE_MS: u64 = 4_000_000_000_000;

/// `MAS_SEED` where it is set, else a random one; printed, so that a failure can be repeated.
pub fn seed() -> u64 {
    let seed = std::env::var("MAS_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    println!("MAS_SEED={seed}");
    seed
}

/// A random line; every supported write command is among them. Times to live are in the past or last longer than a test.
pub fn line(rng: &mut StdRng) -> String {
    let (k, k2) = (key(rng), key(rng));
    let (f, f2) = (field(rng), field(rng));
    let n = rng.random_range(-20..20i64);
    let x = f64::from(rng.random_range(-40..40i32)) / 8.0;
    let at = FAR_FUTURE_MS + rng.random_range(0..1000u64);
    let lines = [
        format!("SET {k} v{n}"),
        format!("SET {k} {n}"),
        format!("SET {k} {x} EX 1000"),
        format!("SET {k} {n} KEEPTTL"),
        format!("SET {k} {n} NX"),
        format!("SET {k} {n} XX GET"),
        format!("SET {k} {n} NX GET"),
        format!("SET {k} {n} GET"),
        format!("SET {k} {n} PXAT {at}"),
        format!("SET {k} {n} PXAT 5"),
        format!("SETNX {k} {n}"),
        format!("SETEX {k} 1000 {n}"),
        format!("PSETEX {k} 1000000 {n}"),
        format!("MSET {k} {n} {k2} {f}"),
        format!("MSETNX {k} {n} {k2} {f}"),
        format!("GETSET {k} {n}"),
        format!("GETDEL {k}"),
        format!("GETEX {k} PXAT {at}"),
        format!("GETEX {k} PERSIST"),
        format!("GETEX {k}"),
        format!("APPEND {k} {f}"),
        format!("SETRANGE {k} 3 {f}"),
        format!("SETBIT {k} 7 1"),
        format!("BITFIELD {k} SET u8 0 {} INCRBY i5 4 {n}", n.unsigned_abs()),
        format!("BITFIELD {k} OVERFLOW FAIL INCRBY u2 0 3"),
        format!("BITFIELD {k} GET u8 0"),
        format!("BITOP OR {k} {k2} {}", key(rng)),
        format!("BITOP NOT {k} {k2}"),
        format!("INCR {k}"),
        format!("DECR {k}"),
        format!("INCRBY {k} {n}"),
        format!("DECRBY {k} {n}"),
        format!("INCRBYFLOAT {k} {x}"),
        format!("INCRBYFLOAT {k} 0.1"),
        format!("DEL {k}"),
        format!("DEL {k} {k2} {k}"),
        format!("UNLINK {k}"),
        format!("EXPIRE {k} 1000"),
        format!("PEXPIREAT {k} {at}"),
        format!("EXPIREAT {k} 1"),
        format!("PEXPIRE {k} -1"),
        format!("EXPIRE {k} 1000 NX"),
        format!("PERSIST {k}"),
        format!("RENAME {k} {k2}"),
        format!("RENAMENX {k} {k2}"),
        format!("COPY {k} {k2}"),
        format!("COPY {k} {k2} REPLACE"),
        format!("HSET {k} {f} {n} {f2} v{n}"),
        format!("HSET {k} {f} {n}"),
        format!("HMSET {k} {f} {n}"),
        format!("HSETNX {k} {f} {n}"),
        format!("HDEL {k} {f}"),
        format!("HDEL {k} {f} {f2}"),
        format!("HINCRBY {k} {f} {n}"),
        format!("HINCRBYFLOAT {k} {f} {x}"),
        format!("SADD {k} {f}"),
        format!("SADD {k} {f} {f2} {n}"),
        format!("SREM {k} {f}"),
        format!("SREM {k} {f} {f2}"),
        format!("SPOP {k}"),
        format!("SPOP {k} 2"),
        format!("SMOVE {k} {k2} {f}"),
        format!("SUNIONSTORE {k} {k} {k2}"),
        format!("SINTERSTORE {k} {k} {k2}"),
        format!("SDIFFSTORE {k} {k} {k2}"),
        format!("ZADD {k} {n} {f} {x} {f2}"),
        format!("ZADD {k} GT CH {n} {f}"),
        format!("ZADD {k} LT {n} {f}"),
        format!("ZADD {k} XX {n} {f}"),
        format!("ZADD {k} NX {n} {f} {x} {f2}"),
        format!("ZADD {k} INCR {x} {f}"),
        format!("ZADD {k} XX INCR {x} {f}"),
        format!("ZINCRBY {k} {x} {f}"),
        format!("ZREM {k} {f}"),
        format!("ZREM {k} {f} {f2}"),
        format!("ZPOPMIN {k}"),
        format!("ZPOPMAX {k} 2"),
        format!("ZMPOP 2 {k} {k2} MIN COUNT 2"),
        format!("ZREMRANGEBYSCORE {k} -1 {n}"),
        format!("ZREMRANGEBYRANK {k} 0 1"),
        format!("ZREMRANGEBYLEX {k} [f1 [f2"),
        format!("ZUNIONSTORE {k} 2 {k} {k2} WEIGHTS 2 1"),
        format!("ZINTERSTORE {k} 2 {k} {k2}"),
        format!("ZDIFFSTORE {k} 2 {k} {k2}"),
        format!("ZRANGESTORE {k} {k2} 0 1"),
        format!("GEOADD {k} 13.361389 38.115556 {f} 15.087269 37.502669 {f2}"),
        format!("GEOADD {k} NX 2.35 48.85 {f}"),
        format!("GEOSEARCHSTORE {k} {k2} FROMLONLAT 15 37 BYRADIUS 200 km"),
        format!("GEORADIUS {k2} 15 37 200 km STORE {k}"),
        format!("INCR {k} surplus"),
        format!("HINCRBY {k} {f} notanumber"),
        format!("HINCRBYFLOAT {k} {f} notanumber"),
        format!("INCRBY {k} notanumber"),
        format!("INCRBYFLOAT {k} notanumber"),
        format!("ZADD {k} nan {f}"),
        format!("ZADD {k} INCR nan {f}"),
        format!("ZADD {k} GT NX INCR nan {f}"),
        format!("SETRANGE {k} 9223372036854775807 "),
        format!("SET {k}"),
    ];
    if rng.random_range(0..400) == 0 {
        return "FLUSHALL".into();
    }
    lines[rng.random_range(0..lines.len())].clone()
}

fn key(rng: &mut StdRng) -> String {
    format!("k{}", rng.random_range(0..5))
}

fn field(rng: &mut StdRng) -> String {
    format!("f{}", rng.random_range(0..4))
}
