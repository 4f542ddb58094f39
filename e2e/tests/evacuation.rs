//! All copies of a shard of one region are killed and stay away: its proxies send the shard's requests to the other region, by
//! themselves, until a copy is back and has everything.
//!
//! The supervisor has no part in it; but it cannot be killed here, for it carries the network between the regions. Without one:
//! `dataplane/proxy/tests/replication/evacuation.rs`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use e2e::load::{Load, Plan};
use e2e::{Store, keyspace, manifest, one_at_a_time, wait_for, wait_until};
use redis::{Commands, Connection};

const SPEC: &str =
    "  shards: 2\n  redis: {replicas: 1, maxMemory: 128Mi}\n  broker: {replicas: 1}\n  proxy: {replicas: 2}";
const REGIONS: [&str; 2] = ["east", "west"];
const MEMBERS: [&str; 2] = ["east/shard-0/redis-0", "east/shard-0/redis-1"];
const LIMIT: Duration = Duration::from_mins(2);
const SESSIONS: usize = 6;

/// A connection that knows what it wrote last, to a key of the shard that is evacuated (slots of `b`), and to one of the other.
struct Session {
    connection: Connection,
    keys: [String; 2],
    wrote: u64,
}

impl Session {
    fn open(store: &Store, n: usize) -> Self {
        let keys = [format!("session:{{b}}:{n}"), format!("session:{{a}}:{n}")];
        Self { connection: store.connect("east").unwrap(), keys, wrote: 0 }
    }

    /// Writes to both shards; gives errors, after which nothing is known of this write.
    fn write(&mut self) -> redis::RedisResult<()> {
        self.wrote += 1;
        self.keys.iter().try_for_each(|key| self.connection.set(key, self.wrote))
    }

    /// Reads what it wrote, or panics.
    fn check(&mut self) {
        for key in &self.keys {
            let read: Option<u64> = self.connection.get(key).unwrap();
            assert_eq!(read, Some(self.wrote), "{key} is not what this connection wrote");
        }
    }
}

fn info(connection: &mut Connection) -> String {
    redis::cmd("INFO").arg("multiactive").query(connection).unwrap()
}

fn is_evacuated(connection: &mut Connection) -> bool {
    info(connection).contains("shard0_evacuated_to:west")
}

fn sum(store: &Store, region: &str, metric: &str) -> f64 {
    store.proxies(region).unwrap().iter().map(|proxy| store.metric(proxy, metric).unwrap()).sum()
}

#[test]
fn a_shard_without_copies_is_served_by_the_other_region() {
    let _alone = one_at_a_time();
    let store = Store::start(&manifest("evacuation", &REGIONS, SPEC)).unwrap();
    let pace = Duration::from_millis(4);
    let plan = Plan { regions: &REGIONS, writers: 4, prefix: "load", level: &["QUEUED"], pace };
    let load = Load::start(&store, &plan).unwrap();
    load.wait_for_more(500, LIMIT).unwrap();
    let mut sessions: Vec<Session> = (0..SESSIONS).map(|n| Session::open(&store, n)).collect();
    for session in &mut sessions {
        session.write().unwrap();
    }

    let killed = Instant::now();
    for member in MEMBERS {
        store.hold(member).unwrap();
    }
    // Read your writes, from before.
    sessions.iter_mut().for_each(Session::check);
    println!("all sessions read what they wrote {:.1} s after the kill", killed.elapsed().as_secs_f64());
    assert!(is_evacuated(&mut sessions[0].connection), "{}", info(&mut sessions[0].connection));
    for _ in 0..20 {
        for session in &mut sessions {
            session.write().unwrap();
            session.check();
        }
    }
    load.wait_for_more(500, LIMIT).unwrap();
    let status = wait_until("the region to be shown as evacuated", LIMIT, || {
        let status = store.status().map_err(|error| error.to_string())?;
        let phase = status.region("east").map(|region| region.phase.clone());
        if phase.as_deref() == Some("Evacuated") { Ok(status) } else { Err(status.summary()) }
    });
    status.unwrap();
    let shown = store.masctl(&["status"]).unwrap();
    assert!(shown.contains("(served by west)") && shown.contains("Evacuated"), "{shown}");

    // What it wrote there, a session finds in any region by its token, and west itself has it durably.
    let token: String = redis::cmd("MAS.TOKEN").query(&mut sessions[0].connection).unwrap();
    let mut west = store.connect("west").unwrap();
    let () = redis::cmd("MAS.AWAIT").arg(&token).arg(10_000).query(&mut west).unwrap();
    assert_eq!(west.get::<_, u64>(&sessions[0].keys[0]).unwrap(), sessions[0].wrote);
    let reached: u64 = redis::cmd("MAS.WAIT").arg(1).arg(10_000).query(&mut sessions[0].connection).unwrap();
    assert_eq!(reached, 1);

    // The other region is cut off, too: the shard answers with errors that say so, the other shard as before.
    store.cut("east", "west").unwrap();
    let mut lone = store.connect("east").unwrap();
    let error = wait_for("an error", LIMIT, || lone.get::<_, Option<u64>>("{b}").err()).unwrap();
    assert!(error.to_string().contains("MASNOMASTER"), "{error}");
    let () = lone.set("{a}:cut", 1).unwrap();
    store.heal("east", "west").unwrap();
    wait_until("the shard to be served again", LIMIT, || {
        lone.set::<_, _, ()>("{b}:healed", 1).map_err(|error| error.to_string())
    })
    .unwrap();
    sessions.iter_mut().for_each(Session::check);

    // And back: no session misses what it wrote, at any time.
    for member in MEMBERS {
        store.resume(member).unwrap();
    }
    let mut rounds = 0;
    wait_until("requests to come back", LIMIT, || {
        for session in &mut sessions {
            session.write().map_err(|error| error.to_string())?;
            session.check();
        }
        rounds += 1;
        let away = sessions.iter_mut().filter_map(|s| is_evacuated(&mut s.connection).then_some(())).count();
        if away == 0 && store.master("east", 0).is_ok() { Ok(()) } else { Err(format!("{away} are away")) }
    })
    .unwrap();
    for session in &mut sessions {
        session.write().unwrap();
        session.check();
    }
    store.wait_active().unwrap();
    load.wait_for_more(500, LIMIT).unwrap();

    let report = load.stop().unwrap();
    let space = keyspace::wait_equal(&store, "*", LIMIT).unwrap();
    for session in &sessions {
        for key in &session.keys {
            assert_eq!(west.get::<_, u64>(key).unwrap(), session.wrote);
        }
    }
    let findings = report.ledger.check(&space);
    let [sent, received] = [
        sum(&store, "east", "mas_proxy_requests_forwarded_total"),
        sum(&store, "west", "mas_proxy_requests_forwarded_here_total"),
    ];
    println!(
        "{} acknowledged, {} unknown, {findings}; {sent} requests sent to west, {received} taken there, {rounds} rounds on the way \
         back; longest wait of a writer {:.1} s; {:?}",
        report.ledger.acknowledged(),
        report.ledger.unknown(),
        report.longest_gap.as_secs_f64(),
        report.errors,
    );
    assert_eq!((findings.missing, findings.surplus), (0, 0), "{findings}");
    assert!(sent > 0.0 && received > 0.0);
    store.finish().unwrap();
}
