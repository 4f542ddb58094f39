//! Regions that differ in a cluster: found on schedule, told, repaired.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use bytes::Bytes;
use e2e::load::Endpoints as _;
use e2e::wait::wait_until;
use mas_core::effect::{Kind, Value};
use mas_core::keyspace::Keyspace;
use mas_core::reship::Which;
use mas_core::shard::{Identity, Shard};
use mas_core::stamp::{Hlc, Incarnation, RegionId};
use redis::{Commands as _, Connection, cmd};

use crate::{Place, RECOVERY};

/// A keyspace of one string.
struct One;

impl Keyspace for One {
    fn read(&mut self, _: &[u8], _: Kind, _: &[u8]) -> Option<Value> {
        Some(Value::Bytes(Bytes::from_static(b"forged")))
    }
    fn exists(&mut self, _: &[u8]) -> bool {
        true
    }
    fn write(&mut self, _: &[u8], _: Kind, _: &[u8], _: &Value) {}
    fn remove(&mut self, _: &[u8], _: Kind, _: &[u8]) {}
    fn delete(&mut self, _: &[u8]) {}
    fn set_expiry(&mut self, _: &[u8], _: Option<u64>) {}
    fn keys_in_slots(&mut self, _: u16, _: u16) -> Vec<Vec<u8>> {
        Vec::new()
    }
    fn scan(&mut self, _: &[u8], _: usize) -> (Vec<u8>, Vec<Vec<u8>>) {
        (Vec::new(), Vec::new())
    }
}

fn field(engine: &mut Connection, command: &[&str], name: &str) -> String {
    let all: std::collections::BTreeMap<String, String> =
        cmd(command[0]).arg(&command[1..]).query(engine).unwrap();
    all[name].clone()
}

/// The master of a region, as only those reach who have the engines' password.
fn engine(place: &Place, region: &str) -> Connection {
    let pod = place.store().master(region, 0).unwrap();
    let pod = place.namespace.get("pod", &pod).unwrap();
    let address = pod["status"]["podIP"].as_str().unwrap().to_owned();
    let secret = place.namespace.get("secret", "shop--credentials").unwrap();
    let password = e2e::cluster::decode(secret["data"]["engine"].as_str().unwrap()).unwrap();
    let client = redis::Client::open(format!("redis://:{password}@{address}:6379/")).unwrap();
    client.get_connection_with_timeout(Duration::from_secs(10)).unwrap()
}

/// Makes the master of `region` hold a string that nobody wrote, under the stamp of `known`, which everybody has merged through.
fn plant(place: &Place, region: &str, known: &str, key: &str) {
    let mut engine = engine(place, region);
    let number = |text: String| text.parse::<u64>().unwrap();
    let hlc = Hlc(number(field(&mut engine, &["MAS.STAMP", known], "hlc")));
    let clock = Hlc(number(field(&mut engine, &["MAS.IDENTITY"], "clock")));
    let incarnation = field(&mut engine, &["MAS.STAMP", known], "incarnation");
    let writer = RegionId(number(field(&mut engine, &["MAS.STAMP", known], "region")) as u16);
    let mut forger = Shard::new((1, 2));
    let to = Identity {
        region: writer,
        incarnation: Incarnation::parse(&incarnation).unwrap(),
        epoch: 1,
        ..Identity::default()
    };
    forger.promote(to, 0);
    forger.set_members(1, [writer].into()).unwrap();
    forger.commit_plain_set(hlc, key.as_bytes(), b"forged", 0, &mut One, &mut Vec::new());
    forger.observe(clock);
    let (_, piece) = forger.reship(key.as_bytes(), Which::After(None), hlc, &mut One);
    wait_until("the engine to have merged through that", RECOVERY, || {
        let live = field(&mut engine, &["MAS.IDENTITY"], "incarnation");
        let done: Result<Vec<i64>, _> = cmd("MAS.REPAIR").arg(live).arg(&piece[..]).query(&mut engine);
        done.map(drop).map_err(|error| error.to_string())
    })
    .unwrap();
}

fn metric(port: u16, name: &str) -> Option<f64> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let line = text.lines().find(|line| line.starts_with(name) && line.contains("store=\"shop\""))?;
    line.rsplit(' ').next()?.parse().ok()
}

fn settings(place: &Place, settings: &str) {
    let patch = format!("{{\"spec\": {{\"verification\": {settings}}}}}");
    place.namespace.kubectl(&["patch", "mas", "shop", "--type", "merge", "-p", &patch]).unwrap();
}

/// Waits for the condition `Verified` to have this reason.
fn verified(place: &Place, wanted: &str) -> serde_json::Value {
    let told = |store: &serde_json::Value| {
        let conditions = store["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|c| c["type"] == "Verified" && c["reason"] == wanted)
    };
    place.namespace.wait("mas", "shop", RECOVERY, told).unwrap();
    place.namespace.get("mas", "shop").unwrap()["status"]["verification"].clone()
}

pub(crate) fn what_differs_is_found_on_schedule_told_and_repaired(place: &mut Place) {
    place.operator.terminate().unwrap();
    assert!(place.operator.wait_end(RECOVERY).unwrap(), "{}", place.operator.log());
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let listen = format!("127.0.0.1:{free}");
    place.operator = place.namespace.operator(&["--identity", "verifier", "--listen", &listen]).unwrap();
    place.well("another operator");
    settings(place, r#"{"interval": "10s", "samplePercent": 100, "repair": "ReportOnly"}"#);
    let store = place.store();
    let mut writer = store.connect_to("b").unwrap();
    let () = writer.set("known", 1).unwrap();
    e2e::keyspace::wait_equal(&store, "known", RECOVERY).unwrap();
    verified(place, "NoDifferences");

    plant(place, "a", "known", "planted");
    let found = verified(place, "RegionsDiffer");
    assert_eq!((&found["differentKeys"], &found["repairedKeys"]), (&1.into(), &0.into()), "{found}");
    let key = &found["keys"][0];
    assert_eq!((&key["key"], &key["outcome"]), (&"planted".into(), &"Found".into()), "{found}");
    assert!(key["what"].as_str().unwrap().contains("b: not there"), "{found}");
    assert_eq!(metric(free, "mas_operator_verification_different_keys"), Some(1.0));
    let none: Option<String> = store.connect_to("b").unwrap().get("planted").unwrap();
    assert_eq!(none, None, "ReportOnly");

    settings(place, r#"{"repair": "Automatic"}"#);
    wait_until("the repair", RECOVERY, || {
        match metric(free, "mas_operator_verification_repaired_keys_total") {
            Some(repaired) if repaired >= 1.0 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .unwrap();
    verified(place, "NoDifferences");
    assert_eq!(metric(free, "mas_operator_verification_different_keys"), Some(0.0));
    let planted: Option<String> = store.connect_to("b").unwrap().get("planted").unwrap();
    assert_eq!(planted.as_deref(), Some("forged"));

    // Off, and asked for by hand.
    settings(place, r#"{"interval": "0s"}"#);
    let said = place.namespace.masctl(&["verify", "--sample", "100"]).unwrap();
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.out.contains("no differences") && !said.out.contains("planted"), "{said:?}");
    println!("{}", said.out);
    told_in_events(place);
}

fn told_in_events(place: &Place) {
    wait_until("the events", RECOVERY, || {
        let events = place.namespace.list("events.events.k8s.io").map_err(|error| error.to_string())?;
        let reasons: Vec<&str> = events.iter().filter_map(|event| event["reason"].as_str()).collect();
        let missing = ["RegionsDiffer", "Repaired"].into_iter().find(|wanted| !reasons.contains(wanted));
        missing.map_or(Ok(()), |missing| Err(format!("no {missing} in {reasons:?}")))
    })
    .unwrap();
}
