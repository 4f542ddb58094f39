//! What people order by objects and by `masctl`: another master for a shard, and that regions are compared.

use std::time::Duration;

use e2e::keyspace;
use e2e::load::{Load, Plan};
use e2e::wait::wait_until;
use serde_json::Value;

use crate::{Place, RECOVERY};

const PACE: Duration = Duration::from_millis(10);
/// An operator that takes over waits for its predecessor's lease.
const ENDED: Duration = Duration::from_mins(4);

fn order(place: &Place, name: &str, spec: &str) {
    let kind = "apiVersion: multiactive.dev/v1alpha1\nkind: StoreOperation";
    let spec = format!("{{storeRef: {{name: shop}}, {spec}}}");
    place.namespace.apply(&format!("{kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n")).unwrap();
}

/// The status of an operation once it has ended like this.
fn ended(place: &Place, name: &str, phase: &str) -> Value {
    let is = |object: &Value| object["status"]["phase"] == phase;
    let object = place.namespace.wait("maso", name, ENDED, is);
    object.unwrap_or_else(|error| panic!("{error:#}\n{}", place.picture()))["status"].clone()
}

fn words(status: &Value) -> &str {
    status["message"].as_str().unwrap_or_default()
}

fn uid(place: &Place, pod: &str) -> Option<String> {
    place.namespace.get("pod", pod).ok()?["metadata"]["uid"].as_str().map(ToOwned::to_owned)
}

/// Of the two of a shard the one that is not this.
fn other(pod: &str) -> String {
    let (set, ordinal) = pod.rsplit_once('-').unwrap();
    format!("{set}-{}", u8::from(ordinal == "0"))
}

fn wait_master(place: &Place, region: &str, wanted: &str) {
    wait_until("the row to say who is master", RECOVERY, || match place.store().master(region, 0) {
        Ok(master) if master == wanted => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .unwrap();
}

/// Under load. The operator that has ended a master is killed then: the next one ends no other.
pub(crate) fn what_people_order_is_done_once_and_nothing_is_lost(place: &mut Place) {
    let plan = Plan { regions: &["a", "b"], writers: 2, prefix: "order", level: &[], pace: PACE };
    let load = Load::start(&place.store(), &plan).unwrap();
    load.wait_for_more(50, RECOVERY).unwrap();

    let pause = a_master_is_handed_over(place);
    load.wait_for_more(50, RECOVERY).unwrap();
    masctl_hands_over(place);
    load.wait_for_more(50, RECOVERY).unwrap();
    let took = a_master_is_ended(place);
    load.wait_for_more(50, RECOVERY).unwrap();
    what_cannot_be_is_refused(place);

    let report = load.stop().unwrap();
    let space = keyspace::wait_equal(&place.store(), "order:*", RECOVERY).unwrap();
    let findings = report.ledger.check(&space);
    println!(
        "orders: handed over, clients waited for {pause} ms; ended, {took} ms; {} writes acknowledged, {} with no known end, \
         longest gap {:?}, {:?}; {findings}",
        report.ledger.acknowledged(),
        report.ledger.unknown(),
        report.longest_gap,
        report.errors,
    );
    assert_eq!((findings.missing, findings.surplus), (0, 0), "{findings}\n{}", place.picture());
    regions_are_compared(place);
    place.namespace.kubectl(&["delete", "maso", "--all"]).unwrap();
}

fn a_master_is_handed_over(place: &Place) -> u64 {
    let (from, epoch) = (place.store().master("a", 0).unwrap(), place.store().epoch("a", 0).unwrap());
    order(place, "switch", "type: Switchover, region: a, shard: 0");
    let status = ended(place, "switch", "Succeeded");
    let to = other(&from);
    assert!(words(&status).starts_with(&format!("{to} is master in place of {from};")), "{status}");
    assert_eq!(status["before"]["epoch"], epoch, "{status}");
    wait_master(place, "a", &to);
    // Done, and left alone.
    order(place, "switch", "type: Switchover, region: a, shard: 0");
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(place.store().master("a", 0).unwrap(), to);
    status["outcome"]["pauseMillis"].as_u64().unwrap_or_else(|| panic!("no pause in {status}"))
}

fn masctl_hands_over(place: &Place) {
    let from = place.store().master("a", 0).unwrap();
    let said = place.namespace.masctl(&["handover", "a", "0"]).unwrap();
    assert_eq!(said.code, Some(0), "{said:?}\n{}", place.picture());
    let to = other(&from);
    let wanted = format!("{to} is master in place of {from}; clients waited for ");
    assert!(said.out.starts_with(&wanted) && said.out.ends_with(" ms\n"), "{said:?}");
    wait_master(place, "a", &to);
}

fn a_master_is_ended(place: &mut Place) -> u64 {
    let master = place.store().master("b", 0).unwrap();
    let replica = other(&master);
    let before = [&master, &replica].map(|pod| uid(place, pod).unwrap());
    order(place, "fail", "type: Failover, region: b, shard: 0");
    let begun = |object: &Value| !object["status"]["before"].is_null();
    place.namespace.wait("maso", "fail", RECOVERY, begun).unwrap();
    e2e::process::kill(place.operator.pid()).unwrap();
    place.operator = place.namespace.operator(&["--identity", "orderer"]).unwrap();
    let status = ended(place, "fail", "Succeeded");
    assert_eq!(status["before"]["pod"], before[0].as_str(), "{status}");
    place.well("a failover");
    wait_until("the other pod in its place", RECOVERY, || match uid(place, &master) {
        Some(uid) if uid != before[0] => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .unwrap();
    assert_eq!(uid(place, &replica).as_ref(), Some(&before[1]), "no other pod was ended: {status}");
    println!("{}", words(&status));
    status["outcome"]["totalMillis"].as_u64().unwrap_or_else(|| panic!("no time in {status}"))
}

fn what_cannot_be_is_refused(place: &Place) {
    order(place, "nowhere", "type: Failover, region: z, shard: 0");
    let status = ended(place, "nowhere", "Failed");
    assert!(words(&status).contains("there is no region 'z'"), "{status}");
    place
        .namespace
        .kubectl(&["patch", "maso", "nowhere", "--type=merge", "-p", r#"{"spec": {"attempt": 2}}"#])
        .unwrap();
    let again = |object: &Value| object["status"]["attempt"] == 2 && object["status"]["phase"] == "Failed";
    place.namespace.wait("maso", "nowhere", RECOVERY, again).unwrap();

    let count = || place.namespace.list("maso").unwrap().len();
    let before = count();
    let said =
        place.namespace.masctl(&["op", "start", "switchover", "--region", "a", "--shard", "7"]).unwrap();
    assert!(said.code == Some(1) && said.err.contains("there is no shard 7"), "{said:?}");
    let said = place.namespace.masctl(&["handover", "a", "0", "--to", "5"]).unwrap();
    assert!(said.code == Some(1) && said.err.contains("redis-0 to redis-1"), "{said:?}");
    assert_eq!(count(), before, "what is refused is taken away");
}

fn regions_are_compared(place: &Place) {
    place.well("orders");
    order(place, "compare", "type: Verify");
    let status = ended(place, "compare", "Succeeded");
    let outcome = &status["outcome"];
    assert!(outcome["keysCompared"].as_u64().is_some_and(|keys| keys > 0), "{status}");
    assert_eq!((&outcome["differentKeys"], &outcome["repairedKeys"]), (&0.into(), &Value::Null), "{status}");
    let said = place.namespace.masctl(&["op", "start", "repair"]).unwrap();
    assert_eq!(said.code, Some(0), "{said:?}");
    let name =
        said.err.split_whitespace().find(|word| word.starts_with("shop--repair--")).unwrap().to_owned();
    let said = place.namespace.masctl(&["op", "wait", &name]).unwrap();
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(ended(place, &name, "Succeeded")["outcome"]["repairedKeys"], 0);
    println!("{}", place.namespace.masctl(&["op", "list"]).unwrap().out);
}
