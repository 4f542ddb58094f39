//! Clients that send garbage, too much, or read nothing; the others must not notice.

use std::io::Write as _;
use std::time::Duration;

use mas_proxy::front::counters::Count;
use mas_proxy::front::limits::OutputBounds;

use crate::fake_engine::FakeEngine;
use crate::harness::{Client, Harness, config, eventually, frame, front_bounded, front_of, front_with};

const MIB: usize = 1024 * 1024;

#[test]
fn garbage_gets_an_error_and_the_connection_ends() {
    let engine = FakeEngine::serving(0, 1);
    let front = front_of(&[&engine]);
    let mut other = front.client();
    for (bytes, error) in [
        (&b"*1\r\n$-5\r\n"[..], "-ERR Protocol error: invalid bulk length\r\n"),
        (b"*x\r\n", "-ERR Protocol error: invalid multibulk length\r\n"),
        (b"*1\r\n*1\r\n*1\r\n$1\r\na\r\n", "-ERR Protocol error: expected '$', got '*'\r\n"),
        (b"*2\r\n$3\r\nGET\r\n$99999999999\r\n", "-ERR Protocol error: invalid bulk length\r\n"),
        (b"GET \"open\r\n", "-ERR Protocol error: unbalanced quotes in request\r\n"),
    ] {
        let mut client = front.client();
        client.send(&[frame(&["PING"]), bytes.to_vec()].concat());
        assert_eq!(client.reply(), "+PONG\r\n", "what came before is answered");
        assert_eq!(client.reply(), error);
        assert_eq!(client.try_reply(), None);
        assert_eq!(other.ask(&["PING"]), "+PONG\r\n");
    }
    eventually("they are counted", || front.count(Count::ProtocolErrors) == 5);
}

#[test]
fn random_bytes_do_not_end_the_proxy() {
    let engine = FakeEngine::serving(0, 1);
    let front = front_of(&[&engine]);
    let mut number = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..50 {
        let bytes: Vec<u8> = (0..2000)
            .map(|_| {
                number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let alphabet = b"*$\r\n0123456789 GETSET\"'\\\xff\x00";
                alphabet[(number >> 33) as usize % alphabet.len()]
            })
            .collect();
        let mut client = front.client();
        let _ = client.stream.write_all(&bytes);
        let _ = client.stream.shutdown(std::net::Shutdown::Write);
        while client.try_reply().is_some() {}
    }
    assert_eq!(front.client().ask(&["PING"]), "+PONG\r\n");
}

#[test]
fn there_is_a_most_number_of_connections() {
    let engine = FakeEngine::serving(0, 1);
    let mut config = config(&[vec![engine.address.clone()]]);
    config.max_connections = 3;
    let front = front_with(config);
    let mut clients: Vec<_> = (0..3).map(|_| front.client()).collect();
    for client in &mut clients {
        assert_eq!(client.ask(&["PING"]), "+PONG\r\n");
    }
    let mut refused = front.client();
    assert_eq!(refused.reply(), "-ERR max number of clients reached\r\n");
    assert_eq!(refused.try_reply(), None);
    clients.pop();
    eventually("a place is free again", || {
        let mut client = front.client();
        client.send(&frame(&["PING"]));
        client.try_reply().as_deref() == Some("+PONG\r\n")
    });
}

#[test]
fn a_client_that_reads_nothing_is_not_read_from_and_disturbs_nobody() {
    let engine = FakeEngine::serving(0, 1);
    let front = front_of(&[&engine]);
    let mut other = front.client();
    let big = "x".repeat(1024 * 1024);
    assert_eq!(other.ask(&["SET", "big", &big]), "+OK\r\n");
    let mut slow = front.client();
    slow.stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let request = frame(&["GET", "big"]);
    // 20,000 requests are 20 GB of replies. It must be stopped long before.
    let mut sent = 0;
    while sent < 20_000 && slow.stream.write_all(&request).is_ok() {
        sent += 1;
        if sent % 1000 == 0 {
            assert_eq!(other.ask(&["PING"]), "+PONG\r\n");
        }
    }
    assert_eq!(other.ask(&["EXISTS", "big"]), ":1\r\n");
    // Either it was closed at the bound of its output, or it is read no further.
    let written = front.count(Count::BytesWritten);
    assert!(written < 1 << 30, "{written} bytes were written to a client that reads nothing");
}

/// Asks for `count` large values and takes nothing of the replies.
fn reads_nothing(front: &Harness, count: usize) -> Client {
    let mut slow = front.client();
    slow.send(&frame(&["GET", "big"]).repeat(count));
    slow
}

#[test]
fn output_of_one_client_is_bounded() {
    let engine = FakeEngine::serving(0, 1);
    let bounds = OutputBounds { one_client: 8 * MIB, ..OutputBounds::default() };
    let front = front_bounded(config(&[vec![engine.address.clone()]]), bounds);
    let mut other = front.client();
    let big = "x".repeat(MIB);
    assert_eq!(other.ask(&["SET", "big", &big]), "+OK\r\n");
    // Before the proxy knows how large the replies are it asks for 64 of them.
    let mut slow = reads_nothing(&front, 64);
    eventually("the slow reader is closed", || front.count(Count::SlowReaders) == 1);
    while slow.try_reply().is_some() {}
    assert!(other.ask(&["GET", "big"]).len() > MIB);
}

#[test]
fn output_of_all_clients_of_a_worker_is_bounded_and_the_slowest_goes_first() {
    let engine = FakeEngine::serving(0, 1);
    let mut config = config(&[vec![engine.address.clone()]]);
    config.workers = 1;
    let bounds = OutputBounds { all_clients: 24 * MIB, ..OutputBounds::default() };
    let front = front_bounded(config, bounds);
    let mut other = front.client();
    let big = "x".repeat(MIB);
    assert_eq!(other.ask(&["SET", "big", &big]), "+OK\r\n");

    // What sockets take is not counted, and may be some MiB each.
    let mut modest: Vec<_> = (0..2).map(|_| reads_nothing(&front, 4)).collect();
    let mut slow: Vec<_> = (0..4).map(|_| reads_nothing(&front, 60)).collect();
    // Whoever reads is answered meanwhile, again and again.
    eventually("enough of them are closed", || {
        assert!(other.ask(&["GET", "big"]).len() > MIB);
        front.count(Count::SlowReaders) >= 3
    });
    for _ in 0..50 {
        assert!(other.ask(&["GET", "big"]).len() > MIB);
    }
    let closed = front.count(Count::SlowReaders);
    assert!(closed <= 4, "{closed} were closed, more than were slow");
    for client in &mut modest {
        for n in 0..4 {
            assert!(client.reply().len() > MIB, "reply {n} of one that was only late");
        }
    }
    let ended = slow.iter_mut().filter_map(|client| (0..60).find(|_| client.try_reply().is_none())).count();
    assert_eq!(ended as u64, closed, "the others get all their replies");
}

#[test]
fn a_long_pipeline_of_large_reads_is_answered_to_a_client_that_reads() {
    let engine = FakeEngine::serving(0, 1);
    let front = front_of(&[&engine]);
    let mut client = front.client();
    let big = "z".repeat(1024 * 1024);
    assert_eq!(client.ask(&["SET", "big", &big]), "+OK\r\n");
    client.send(&frame(&["GET", "big"]).repeat(400));
    for n in 0..400 {
        assert_eq!(client.reply().len(), big.len() + "$1048576\r\n\r\n".len(), "reply {n}");
    }
}

#[test]
fn large_values_pass() {
    let engine = FakeEngine::serving(0, 1);
    let front = front_of(&[&engine]);
    let mut client = front.client();
    let big = "y".repeat(20 * 1024 * 1024);
    assert_eq!(client.ask(&["SET", "big", &big]), "+OK\r\n");
    let reply = client.ask(&["GET", "big"]);
    assert_eq!(reply.len(), big.len() + "$20971520\r\n\r\n".len());
    assert!(reply.ends_with("yy\r\n"));
}

#[test]
fn half_a_request_and_gone() {
    let engine = FakeEngine::serving(0, 1);
    let front = front_of(&[&engine]);
    for _ in 0..20 {
        let mut client = front.client();
        client.send(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1000\r\nxxx");
    }
    assert_eq!(front.client().ask(&["GET", "a"]), "$-1\r\n");
    assert!(engine.executed().is_empty());
}
