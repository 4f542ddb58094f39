//! Hand-made histories: a sound one passes every checker, and every checker finds what was planted for it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::{Verdict, all};
use crate::history::{AFTERMATH, End, Fault, History, Level, Micros, Op, Outcome, Reply, Run};

const EAST: usize = 0;
const WEST: usize = 1;

/// Builds a history; times are given in seconds, and every request takes one.
struct Made(History);

impl Made {
    fn new() -> Self {
        let regions = ["east", "west"].map(str::to_owned).to_vec();
        Self(History { run: Run { regions, seconds: 100, ..Run::default() }, ..History::default() })
    }

    fn op(mut self, session: u32, region: usize, second: u64, line: &str, outcome: Outcome) -> Self {
        let words = line.split(' ').map(str::to_owned).collect();
        let (start, end) = (second * 1_000_000, (second + 1) * 1_000_000);
        let level = Level::Queued;
        self.0.ops.push(Op { process: session, session, region, level, words, start, end, outcome });
        self
    }

    fn ok(self, session: u32, region: usize, second: u64, line: &str) -> Self {
        self.op(session, region, second, line, text("OK"))
    }

    fn int(self, session: u32, region: usize, second: u64, line: &str, answer: i64) -> Self {
        self.op(session, region, second, line, Outcome::Ok(Reply::Int(answer)))
    }

    fn unknown(self, session: u32, region: usize, second: u64, line: &str) -> Self {
        self.op(session, region, second, line, Outcome::Unknown("gone".into()))
    }

    fn failed(self, session: u32, region: usize, second: u64, line: &str) -> Self {
        self.op(session, region, second, line, Outcome::Failed("MASNOMASTER".into()))
    }

    fn local(mut self) -> Self {
        self.0.ops.last_mut().unwrap().level = Level::Local;
        self
    }

    fn fault(mut self, region: usize, second: u64) -> Self {
        let (start, end) = (second * 1_000_000, second * 1_000_000);
        let (kind, target) = ("master killed".into(), "redis-0".into());
        self.0.faults.push(Fault { kind, target, region: Some(region), engine: true, start, end });
        self
    }

    /// Both regions hold it at the end.
    fn end(mut self, key: &str, parts: &[(&str, &str)]) -> Self {
        for region in [EAST, WEST] {
            self.0.ends.push(end(region, key, parts, None));
        }
        self
    }

    /// The same, until then.
    fn end_until(mut self, key: &str, value: &str, at: i64) -> Self {
        for region in [EAST, WEST] {
            self.0.ends.push(end(region, key, &[("", value)], Some(at)));
        }
        self
    }

    /// Nobody complains.
    fn sound(mut self) {
        self.0.sort();
        for verdict in all(&self.0) {
            assert!(verdict.violations.is_empty(), "{verdict:?}");
        }
    }

    /// This checker complains, in such words, and no other.
    fn broken(mut self, checker: &str, words: &str) {
        self.0.sort();
        for Verdict { checker: name, violations, .. } in all(&self.0) {
            if name == checker {
                let found = violations.iter().any(|violation| violation.what.contains(words));
                assert!(found, "{checker} should say {words:?} and says {violations:?}");
            } else {
                assert!(violations.is_empty(), "{name} should have nothing to say: {violations:?}");
            }
        }
    }
}

fn text(text: &str) -> Outcome {
    Outcome::Ok(Reply::Text(text.into()))
}

fn list(items: &[&str]) -> Outcome {
    Outcome::Ok(Reply::List(items.iter().map(ToString::to_string).collect()))
}

fn end(region: usize, key: &str, parts: &[(&str, &str)], expires_at: Option<i64>) -> End {
    let parts = parts.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    End { region, key: key.into(), kind: "string".into(), parts, expires_at }
}

const LATER_THAN_AFTERMATH: u64 = AFTERMATH / 1_000_000 + 5;
const LONG_LIFE: &str = "7200000";
const IN_TWO_HOURS: i64 = 7_200_000;

#[test]
fn regions_that_differ_are_found() {
    let made = || Made::new().ok(1, EAST, 1, "SET reg:1 a").end("reg:1", &[("", "a")]);
    made().sound();
    let mut other = made();
    other.0.ends[1].parts[0].1 = "b".into();
    other.broken("convergence", "reg:1: east holds");
    let mut gone = made();
    gone.0.ends.pop();
    gone.broken("convergence", "west holds nothing");
    let mut expiry = made();
    expiry.0.ends[1].expires_at = Some(5);
    expiry.broken("convergence", "until Some(5)");
    let mut never = made();
    never.0.run.unsettled = Some("3 keys differ".into());
    never.broken("convergence", "3 keys differ");
}

#[test]
fn a_lost_write_is_found() {
    Made::new().ok(1, EAST, 1, "SET reg:1 a").broken("cells", "an acknowledged write is lost");
    Made::new().unknown(1, EAST, 1, "SET reg:1 a").sound();
    Made::new().unknown(1, EAST, 1, "SET reg:1 a").end("reg:1", &[("", "a")]).sound();
    Made::new().ok(1, EAST, 1, "SET reg:1 a").local().fault(EAST, 5).sound();
    Made::new().ok(1, EAST, 1, "SET reg:1 a").local().fault(WEST, 5).broken("cells", "is lost");
    Made::new()
        .ok(1, EAST, LATER_THAN_AFTERMATH, "SET reg:1 a")
        .local()
        .fault(EAST, 1)
        .broken("cells", "is lost");
}

#[test]
fn an_older_write_that_wins_is_found() {
    let two = |region: usize| Made::new().ok(1, EAST, 1, "SET reg:1 a").ok(2, region, 3, "SET reg:1 b");
    two(EAST).end("reg:1", &[("", "b")]).sound();
    two(EAST).end("reg:1", &[("", "a")]).broken("cells", "a later write was acknowledged");
    // Nobody had seen it there: clocks may be off.
    two(WEST).end("reg:1", &[("", "a")]).sound();
    let seen = || two(WEST).op(3, WEST, 2, "GET reg:1", text("a"));
    let seen = || {
        let mut made = seen();
        made.0.ops.last_mut().unwrap().end -= 1;
        made.end("reg:1", &[("", "a")])
    };
    seen().broken("cells", "a later write was acknowledged");
    seen().fault(WEST, 2).sound();
    // At the same time either may win.
    let mut together = two(EAST).end("reg:1", &[("", "a")]);
    together.0.ops[1].start = together.0.ops[0].start;
    together.sound();
}

#[test]
fn a_value_from_nowhere_is_found() {
    Made::new().ok(1, EAST, 1, "SET reg:1 a").end("reg:1", &[("", "x")]).broken("cells", "nobody wrote");
    Made::new().failed(1, EAST, 1, "SET reg:1 a").end("reg:1", &[("", "a")]).broken("cells", "nobody wrote");
    Made::new().end("set:1", &[("m", "")]).broken("cells", "nobody wrote");
}

#[test]
fn members_that_are_lost_or_back_are_found() {
    let added = || Made::new().int(1, EAST, 1, "SADD set:1 m", 1);
    added().end("set:1", &[("m", "")]).sound();
    added().broken("cells", "is lost");
    // Removed where it was seen, in another region.
    let removed = || added().int(2, WEST, 1, "SREM set:1 m", 1);
    removed().sound();
    removed().end("set:1", &[("m", "")]).broken("cells", "a later write was acknowledged");
    // Removed where it was not there yet: nothing was done.
    added().int(2, WEST, 3, "SREM set:1 m", 0).broken("cells", "is lost");
    added().unknown(2, WEST, 3, "SREM set:1 m").sound();
    added().unknown(2, WEST, 3, "SREM set:1 m").end("set:1", &[("m", "")]).sound();
}

#[test]
fn fields_scores_and_deleted_keys_are_looked_at() {
    let hash = || Made::new().int(1, EAST, 1, "HSET dhash:1 f a", 1);
    hash().int(1, EAST, 3, "DEL dhash:1", 1).sound();
    hash().int(1, EAST, 3, "DEL dhash:1", 1).end("dhash:1", &[("f", "a")]).broken("cells", "later write");
    hash().int(1, EAST, 3, "HDEL dhash:1 f", 1).end("dhash:1", &[("f", "a")]).broken("cells", "later");
    let board = |score: &str| {
        Made::new()
            .int(1, EAST, 1, "ZADD board:1 10 f", 1)
            .int(1, EAST, 3, "ZADD board:1 20 f", 0)
            .end("board:1", &[("f", score)])
    };
    board("20").sound();
    board("10").broken("cells", "later write");
    board("30").broken("cells", "nobody wrote");
}

#[test]
fn wrong_sums_are_found() {
    let made = |sum: &str| {
        Made::new()
            .int(1, EAST, 1, "INCRBY count:1 5", 5)
            .int(2, WEST, 1, "INCRBY count:1 3", 3)
            .unknown(2, WEST, 3, "INCRBY count:1 7")
            .end("count:1", &[("", sum)])
    };
    made("8").sound();
    made("15").sound();
    for sum in ["5", "12", "16", "22", "8.5", "x"] {
        made(sum).broken("counters", "count:1: is");
    }
    let other = |line: &str, sum: &str| Made::new().int(1, EAST, 1, line, 4).end(&line[8..16], &[("n", sum)]);
    other("HINCRBY hcount:1 n 4", "4").sound();
    other("HINCRBY hcount:1 n 4", "5").broken("counters", "hcount:1");
    other("ZINCRBY zcount:1 4 n", "3").broken("counters", "zcount:1");
    Made::new().end("count:9", &[("", "1")]).broken("counters", "which nobody counted");
    let float = |sum| {
        Made::new().op(1, EAST, 1, "INCRBYFLOAT fcount:1 0.25", text("0.25")).end("fcount:1", &[("", sum)])
    };
    float("0.25").sound();
    float("0.5").broken("counters", "fcount:1");
    let local = || Made::new().int(1, EAST, 1, "INCRBY count:1 5", 5).local().end("count:1", &[("", "0")]);
    local().fault(EAST, 5).sound();
    local().broken("counters", "count:1");
}

#[test]
fn every_set_of_unknown_increments_is_tried() {
    for sum in 0..=120 {
        let mut made = Made::new().end("count:1", &[("", &sum.to_string())]);
        for (second, by) in [1, 3, 26, 60].into_iter().enumerate() {
            made = made.unknown(1, EAST, second as u64, &format!("INCRBY count:1 {by}"));
        }
        let possible =
            (0..16).map(|set| [1, 3, 26, 60].iter().enumerate().map(|(n, by)| (set >> n & 1) * by).sum());
        if possible.into_iter().any(|possible: i32| possible == sum) {
            made.sound();
        } else {
            made.broken("counters", "count:1");
        }
    }
}

#[test]
fn impossible_answers_of_counters_are_found() {
    let made = |answer: i64| {
        Made::new()
            .int(1, EAST, 1, "INCRBY count:1 5", 5)
            .int(1, EAST, 3, "INCRBY count:1 1", answer)
            .end("count:1", &[("", "6")])
    };
    made(6).sound();
    made(5).broken("counters", "answered 5");
    made(7).broken("counters", "answered 7");
}

#[test]
fn times_to_live_are_followed() {
    let set = || Made::new().ok(1, EAST, 1, "SET exp:1 100 PX 500");
    set().sound();
    set().end_until("exp:1", "100", 500).broken("expiry", "at the end");
    let renewed = || set().int(1, EAST, 3, &format!("PEXPIRE exp:1 {LONG_LIFE}"), 1);
    renewed().end_until("exp:1", "100", IN_TWO_HOURS).sound();
    renewed().broken("expiry", "at the end");
    renewed().end("exp:1", &[("", "100")]).broken("expiry", "at the end");
    renewed().end_until("exp:1", "99", IN_TWO_HOURS).broken("expiry", "at the end");
    let late = || set().int(1, EAST, 3, &format!("PEXPIRE exp:1 {LONG_LIFE}"), 0);
    late().sound();
    late().end_until("exp:1", "100", IN_TWO_HOURS).broken("expiry", "at the end");
    let unknown = || set().unknown(1, EAST, 3, &format!("PEXPIRE exp:1 {LONG_LIFE}"));
    unknown().sound();
    unknown().end_until("exp:1", "100", IN_TWO_HOURS).sound();
    set().int(1, EAST, 3, "PERSIST exp:1", 1).end("exp:1", &[("", "100")]).sound();
    set().int(1, EAST, 3, "PERSIST exp:1", 1).broken("expiry", "at the end");
    Made::new().end_until("exp:1", "1", 5).broken("expiry", "nobody wrote");
}

#[test]
fn who_counts_on_what_has_ended_begins_anew() {
    let counted = |answer: i64| {
        Made::new().ok(1, EAST, 1, "SET exp:1 100 PX 500").int(1, EAST, 3, "INCRBY exp:1 1", answer)
    };
    counted(1).end("exp:1", &[("", "1")]).sound();
    counted(1).broken("expiry", "at the end");
    counted(101).sound();
    counted(101).end("exp:1", &[("", "101")]).broken("expiry", "at the end");
    counted(7).broken("expiry", "cannot have been answered");
}

#[test]
fn lives_in_two_regions_are_left_open_when_an_engine_was_in_trouble() {
    let made = || {
        Made::new().ok(1, EAST, 1, "SET exp:1 100 PX 500").int(
            2,
            WEST,
            3,
            &format!("PEXPIRE exp:1 {LONG_LIFE}"),
            1,
        )
    };
    made().broken("expiry", "at the end");
    made().fault(EAST, 2).broken("expiry", "at the end");
    made().fault(WEST, 2).sound();
}

#[test]
fn a_session_that_forgets_is_found() {
    let own = |read: &str| {
        Made::new()
            .ok(1, EAST, 1, "SET reg:1 a")
            .ok(1, EAST, 3, "SET reg:1 b")
            .op(1, EAST, 5, "GET reg:1", text(read))
            .end("reg:1", &[("", "b")])
    };
    own("b").sound();
    own("a").broken("sessions", "a was read by session 1, which knew of b");
    own("x").broken("sessions", "before it was sent");
    let nothing = || {
        Made::new()
            .ok(1, EAST, 1, "SET reg:1 a")
            .op(1, EAST, 5, "GET reg:1", Outcome::Ok(Reply::Nil))
            .end("reg:1", &[("", "a")])
    };
    nothing().broken("sessions", "nothing was read");
    nothing().fault(EAST, 3).broken("sessions", "nothing was read");
    let mut both = nothing().fault(EAST, 3).fault(EAST, 3);
    both.0.faults[1].kind = "broker killed".into();
    both.sound();
}

#[test]
fn a_session_that_sees_less_than_before_is_found() {
    let seen = |first: &[&str], second: &[&str]| {
        Made::new()
            .int(1, EAST, 1, "SADD set:1 m", 1)
            .op(2, EAST, 3, "SMEMBERS set:1", list(first))
            .op(2, EAST, 5, "SMEMBERS set:1", list(second))
            .end("set:1", &[("m", "")])
    };
    seen(&["m"], &["m"]).sound();
    seen(&[], &["m"]).sound();
    seen(&["m"], &[]).broken("sessions", "nothing was read by session 2");
    seen(&["m"], &["m", "x"]).broken("sessions", "nobody wrote it");
}

#[test]
fn a_token_that_does_not_hold_is_found() {
    let travelled = |second: u64| {
        Made::new()
            .ok(1, EAST, 1, "SET tok:1 a")
            .op(1, EAST, 3, "MAS.TOKEN", text("t"))
            .ok(2, WEST, 5, "MAS.AWAIT t 100")
            .op(2, WEST, second, "GET tok:1", Outcome::Ok(Reply::Nil))
            .end("tok:1", &[("", "a")])
    };
    travelled(7).broken("sessions", "session 2, which knew of a");
    travelled(4).sound();
    travelled(7).fault(WEST, 6).sound();
    travelled(7).fault(EAST, 6).broken("sessions", "session 2, which knew of a");
}

#[test]
fn a_saved_history_is_the_same() {
    let made = Made::new().ok(1, EAST, 1, "SET reg:1 a").fault(WEST, 2).end("reg:1", &[("", "a")]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history");
    made.0.save(&path).unwrap();
    let read = History::load(&path).unwrap();
    assert_eq!((read.ops, read.faults, read.ends), (made.0.ops, made.0.faults, made.0.ends));
    assert_eq!(read.run.regions, made.0.run.regions);
    let _: Micros = read.run.seconds;
}
