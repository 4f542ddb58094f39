//! A shard's master changes, refuses, or dies under way.

use mas_proxy::front::counters::Count;

use crate::fake_engine::FakeEngine;
use crate::harness::{Harness, config, eventually, frame, front_of, front_with};

fn one_shard_two_members() -> (FakeEngine, FakeEngine, Harness) {
    let (first, second) = (FakeEngine::serving(0, 1), FakeEngine::start(0));
    let front = front_with(config(&[vec![first.address.clone(), second.address.clone()]]));
    (first, second, front)
}

#[test]
fn a_refused_write_goes_to_the_new_master_and_the_client_does_not_notice() {
    let (first, second, front) = one_shard_two_members();
    let mut client = front.client();
    assert_eq!(client.ask(&["SET", "a", "old"]), "+OK\r\n");
    first.fence();
    second.copy_from(&first);
    second.promote(2);
    client.send(&[frame(&["SET", "a", "new"]), frame(&["GET", "a"]), frame(&["SET", "b", "2"])].concat());
    assert_eq!([client.reply(), client.reply(), client.reply()], ["+OK\r\n", "$3\r\nnew\r\n", "+OK\r\n"]);
    assert_eq!(first.executed(), ["SET a old"]);
    assert_eq!(second.executed(), ["SET a new", "SET b 2"]);
}

#[test]
fn order_within_a_pipeline_survives_refusals() {
    let (first, second, front) = one_shard_two_members();
    let mut client = front.client();
    client.ask(&["SET", "n", "start"]);
    first.fence();
    let mut bytes = Vec::new();
    for n in 0..500 {
        bytes.extend(frame(&["SET", "n", &n.to_string()]));
        bytes.extend(frame(&["GET", "n"]));
    }
    client.send(&bytes);
    eventually("requests were refused", || front.count(Count::Retried) > 0);
    second.promote(2);
    for n in 0..500 {
        assert_eq!(client.reply(), "+OK\r\n");
        let value = n.to_string();
        assert_eq!(client.reply(), format!("${}\r\n{value}\r\n", value.len()));
    }
    assert_eq!(second.executed().len(), 500);
}

#[test]
fn a_new_incarnation_of_the_same_engine_is_taken_up() {
    let engine = FakeEngine::serving(0, 1);
    let front = front_of(&[&engine]);
    let mut client = front.client();
    client.ask(&["SET", "a", "1"]);
    engine.promote(2);
    assert_eq!(client.ask(&["SET", "a", "2"]), "+OK\r\n");
    assert_eq!(engine.executed(), ["SET a 1", "SET a 2"]);
}

#[test]
fn reads_are_sent_again_when_the_connection_breaks() {
    let engine = FakeEngine::serving(0, 1);
    let front = front_of(&[&engine]);
    let mut client = front.client();
    client.ask(&["SET", "a", "1"]);
    for _ in 0..5 {
        engine.cut_connections();
        assert_eq!(client.ask(&["GET", "a"]), "$1\r\n1\r\n");
    }
}

#[test]
fn a_write_whose_fate_is_unknown_is_never_sent_again() {
    let engine = FakeEngine::serving(0, 1);
    let front = front_of(&[&engine]);
    let mut client = front.client();
    client.ask(&["SET", "a", "1"]);
    engine.lose_replies(true);
    let reply = client.ask(&["SET", "a", "2"]);
    assert!(reply.starts_with("-MASUNKNOWN"), "{reply}");
    engine.lose_replies(false);
    assert_eq!(client.ask(&["GET", "a"]), "$1\r\n2\r\n");
    assert_eq!(engine.executed(), ["SET a 1", "SET a 2"]);
    eventually("it is counted", || front.count(Count::UnknownWrites) == 1);
}

#[test]
fn requests_wait_for_a_master_and_then_go_in_order() {
    let engine = FakeEngine::start(0);
    let front = front_of(&[&engine]);
    let mut client = front.client();
    client.send(&[frame(&["SET", "a", "1"]), frame(&["GET", "a"]), frame(&["PING"])].concat());
    assert!(client.is_silent());
    engine.promote(1);
    assert_eq!([client.reply(), client.reply(), client.reply()], ["+OK\r\n", "$1\r\n1\r\n", "+PONG\r\n"]);
}

#[test]
fn without_a_master_the_error_says_what_the_members_say() {
    let (engine, gone) = (FakeEngine::start(0), FakeEngine::start(1));
    let mut config = config(&[vec![engine.address.clone()], vec![gone.address.clone()]]);
    config.shards[1].members = vec!["127.0.0.1:1".into()];
    let front = front_with(config);
    let mut client = front.client();
    client.send(&[frame(&["GET", "b"]), frame(&["SET", "a", "1"])].concat());
    let reply = client.reply();
    let expected = format!("-MASNOMASTER shard 0 has no serving master: {} is fenced\r\n", engine.address);
    assert_eq!(reply, expected);
    let reply = client.reply();
    assert!(
        reply.starts_with("-MASNOMASTER shard 1 has no serving master: 127.0.0.1:1 cannot be asked"),
        "{reply}"
    );
}

#[test]
fn members_can_change_without_a_restart() {
    let (first, second) = (FakeEngine::serving(0, 1), FakeEngine::serving(0, 2));
    let mut with = config(&[vec![first.address.clone()]]);
    let front = front_with(with.clone());
    let mut client = front.client();
    client.ask(&["SET", "a", "1"]);
    with.generation = 2;
    with.shards[0].members = vec![second.address.clone()];
    front.set_config(with);
    eventually("the second engine gets writes", || {
        client.ask(&["SET", "a", "2"]) == "+OK\r\n" && !second.executed().is_empty()
    });
}
