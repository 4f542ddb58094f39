//! Acknowledgement levels: which replies wait, and how waiting ends.

use mas_core::config::AckLevel;
use mas_proxy::link::Acknowledged;

use crate::fake_engine::FakeEngine;
use crate::harness::{Harness, config, eventually, frame, front_with};

fn queued() -> (FakeEngine, FakeEngine, Harness) {
    let (low, high) = (FakeEngine::serving(0, 1), FakeEngine::serving(1, 1));
    let mut config = config(&[vec![low.address.clone()], vec![high.address.clone()]]);
    config.ack = AckLevel::Queued;
    (low, high, front_with(config))
}

#[test]
fn a_queued_write_waits_and_what_is_behind_it_stays_behind() {
    let (_low, _high, front) = queued();
    let mut client = front.client();
    client.send(&[frame(&["SET", "a", "1"]), frame(&["GET", "a"]), frame(&["SET", "b", "2"])].concat());
    eventually("both writes wait", || front.replication.waiting() == 2);
    assert!(client.is_silent());
    front.replication.release(Acknowledged::Yes);
    assert_eq!([client.reply(), client.reply(), client.reply()], ["+OK\r\n", "$1\r\n1\r\n", "+OK\r\n"]);
}

#[test]
fn waiting_ends_as_the_store_says() {
    let (_low, _high, front) = queued();
    let mut client = front.client();
    for (outcome, reply) in [
        (Acknowledged::Yes, "+OK"),
        (Acknowledged::Degraded, "+OK"),
        (Acknowledged::Unavailable, "-QUEUEUNAVAILABLE"),
        (Acknowledged::Failed, "-MASUNACKNOWLEDGED"),
    ] {
        front.replication.answer_at_once(Some(outcome));
        let got = client.ask(&["SET", "a", "1"]);
        assert!(got.starts_with(reply), "{outcome:?}: {got}");
        let got = client.ask(&["MSET", "a", "1", "b", "2"]);
        assert!(got.starts_with(reply), "{outcome:?}, split: {got}");
    }
}

#[test]
fn a_split_write_waits_for_all_parts() {
    let (_low, _high, front) = queued();
    let mut client = front.client();
    client.request(&["MSET", "a", "1", "b", "2"]);
    eventually("both parts wait", || front.replication.waiting() == 2);
    assert!(client.is_silent());
    front.replication.release(Acknowledged::Yes);
    assert_eq!(client.reply(), "+OK\r\n");
}

#[test]
fn errors_and_reads_do_not_wait() {
    let (_low, _high, front) = queued();
    let mut client = front.client();
    assert_eq!(client.ask(&["GET", "a"]), "$-1\r\n");
    assert!(client.ask(&["INCR", "a"]).starts_with("-ERR value is not an integer"));
    assert_eq!(front.replication.waiting(), 0);
}

#[test]
fn a_connection_chooses_its_level() {
    let (_low, _high, front) = queued();
    let mut client = front.client();
    assert_eq!(client.ask(&["MAS.ACK"]), "*3\r\n$6\r\nQUEUED\r\n:0\r\n$6\r\nQUEUED\r\n");
    // The level holds from its place in the pipeline on, although the write before it is still waiting.
    client
        .send(&[frame(&["SET", "a", "1"]), frame(&["MAS.ACK", "LOCAL"]), frame(&["SET", "a", "2"])].concat());
    eventually("the first write waits", || front.replication.waiting() == 1);
    assert!(client.is_silent());
    front.replication.release(Acknowledged::Yes);
    assert_eq!([client.reply(), client.reply(), client.reply()], ["+OK\r\n"; 3]);
    assert_eq!(client.ask(&["MAS.ACK", "REMOTE", "1"]), "+OK\r\n");
    assert_eq!(client.ask(&["MAS.ACK"]), "*3\r\n$6\r\nREMOTE\r\n:1\r\n$6\r\nREMOTE\r\n");
    assert!(
        client.ask(&["MAS.ACK", "REMOTE", "2"]).starts_with("-ERR MAS.ACK REMOTE takes a number from 1 to 1")
    );
    assert!(client.ask(&["MAS.ACK", "SOMETIMES"]).starts_with("-ERR MAS.ACK takes"));
    assert_eq!(client.ask(&["MAS.ACK", "DEFAULT"]), "+OK\r\n");
    assert!(client.ask(&["MAS.ACK"]).contains("QUEUED"));
}

#[test]
fn tokens_name_what_was_written_and_at_which_level() {
    let (_low, _high, front) = queued();
    let mut client = front.client();
    assert_eq!(client.ask(&["MAS.TOKEN"]), "$0\r\n\r\n");
    front.replication.answer_at_once(Some(Acknowledged::Yes));
    client.ask(&["SET", "a", "1"]);
    assert_eq!(client.ask(&["MAS.TOKEN"]), "$22\r\n1:0000000000001001:1:0\r\n");
    client.ask(&["MAS.ACK", "LOCAL"]);
    client.ask(&["SET", "a", "1"]);
    assert_eq!(client.ask(&["MAS.TOKEN"]), "$22\r\n1:0000000000001001:2:2\r\n");
}

#[test]
fn a_client_that_leaves_while_it_waits_disturbs_nobody() {
    let (_low, _high, front) = queued();
    let mut leaver = front.client();
    leaver.request(&["SET", "a", "1"]);
    eventually("it waits", || front.replication.waiting() == 1);
    drop(leaver);
    let mut client = front.client();
    client.request(&["SET", "a", "2"]);
    eventually("both wait", || front.replication.waiting() == 2);
    front.replication.release(Acknowledged::Yes);
    assert_eq!(client.reply(), "+OK\r\n");
    assert_eq!(front.replication.shipped(), 2, "the effect of the one that left is shipped");
}
