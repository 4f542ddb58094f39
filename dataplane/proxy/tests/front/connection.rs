//! What clients say when they connect, and what they ask about the server.

use mas_core::config::ClientAuth;

use crate::fake_engine::FakeEngine;
use crate::harness::{config, eventually, frame, front_of, front_with};

#[test]
fn the_greetings_of_real_clients_are_answered() {
    let engine = FakeEngine::serving(0, 1);
    let front = front_of(&[&engine]);
    let mut client = front.client();
    assert_eq!(client.ask(&["PING"]), "+PONG\r\n");
    assert_eq!(client.ask(&["PING", "x"]), "$1\r\nx\r\n");
    assert_eq!(client.ask(&["ECHO", "x"]), "$1\r\nx\r\n");
    assert_eq!(client.ask(&["SELECT", "0"]), "+OK\r\n");
    assert!(client.ask(&["SELECT", "1"]).contains("there is one database"));
    assert_eq!(client.ask(&["CLIENT", "SETNAME", "me"]), "+OK\r\n");
    assert_eq!(client.ask(&["CLIENT", "GETNAME"]), "$2\r\nme\r\n");
    assert_eq!(client.ask(&["CLIENT", "SETINFO", "LIB-NAME", "lib"]), "+OK\r\n");
    assert_eq!(client.ask(&["CLIENT", "NO-EVICT", "ON"]), "+OK\r\n");
    assert!(client.ask(&["CLIENT", "ID"]).starts_with(':'));
    let info = client.ask(&["CLIENT", "INFO"]);
    assert!(info.contains("name=me") && info.contains("lib-name=lib") && info.contains("resp=2"), "{info}");
    assert!(client.ask(&["CLIENT", "SETNAME", "a b"]).starts_with("-ERR Client names"));
    assert!(client.ask(&["CLIENT", "KILL", "ID", "1"]).contains("not supported"));
    assert!(client.ask(&["CLIENT", "HELP"]).contains("+SETNAME\r\n"));
    assert_eq!(client.ask(&["CONFIG", "GET", "save"]), "*2\r\n$4\r\nsave\r\n$0\r\n\r\n");
    assert_eq!(client.ask(&["CONFIG", "GET", "nothing"]), "*0\r\n");
    assert!(client.ask(&["TIME"]).starts_with("*2\r\n"));
    assert_eq!(client.ask(&["RESET"]), "+RESET\r\n");
    assert_eq!(client.ask(&["CLIENT", "GETNAME"]), "$-1\r\n");
    assert_eq!(client.ask(&["QUIT"]), "+OK\r\n");
    assert_eq!(client.try_reply(), None);
}

#[test]
fn the_version_of_resp_changes_in_its_place_of_the_pipeline() {
    let engine = FakeEngine::serving(0, 1);
    let front = front_of(&[&engine]);
    let mut client = front.client();
    client.send(&[frame(&["GET", "a"]), frame(&["HELLO", "3"]), frame(&["CLIENT", "GETNAME"])].concat());
    assert_eq!(client.reply(), "$-1\r\n");
    let hello = client.reply();
    assert!(hello.starts_with("%7\r\n") && hello.contains("$5\r\nproto\r\n:3\r\n"), "{hello}");
    assert_eq!(client.reply(), "_\r\n");
    assert_eq!(client.ask(&["SET", "a", "1"]), "+OK\r\n");
    assert!(client.ask(&["INFO", "server"]).starts_with('='));
    assert!(client.ask(&["HELLO", "2", "SETNAME", "n"]).starts_with("*14\r\n"));
    assert_eq!(client.ask(&["CLIENT", "GETNAME"]), "$1\r\nn\r\n");
    assert_eq!(client.ask(&["HELLO", "4"]), "-NOPROTO unsupported protocol version\r\n");
    assert!(client.ask(&["HELLO", "3", "NONSENSE"]).starts_with("-ERR Syntax error in HELLO"));
}

#[test]
fn the_table_answers_questions_about_commands() {
    let engine = FakeEngine::serving(0, 1);
    let front = front_of(&[&engine]);
    let mut client = front.client();
    assert!(client.ask(&["COMMAND", "INFO", "get"]).starts_with("*1\r\n*10\r\n$3\r\nget\r\n:2\r\n"));
    assert_eq!(client.ask(&["COMMAND", "INFO", "lpush"]), "*1\r\n*-1\r\n");
    assert_eq!(
        client.ask(&["COMMAND", "GETKEYS", "MSET", "a", "1", "b", "2"]),
        "*2\r\n$1\r\na\r\n$1\r\nb\r\n"
    );
    assert!(client.ask(&["COMMAND", "GETKEYS", "ECHO", "a"]).starts_with("-ERR The command has no key"));
    assert!(client.ask(&["COMMAND", "DOCS", "get"]).contains("$5\r\ngroup\r\n$6\r\nstring"));
    let count: usize = client.ask(&["COMMAND", "COUNT"])[1..].trim().parse().unwrap();
    assert!(count > 100);
    assert!(client.ask(&["COMMAND"]).starts_with(&format!("*{count}\r\n")));
    for (name, filter) in [("COMMAND", ["FILTERBY", "ACLCAT"]), ("CLIENT", ["TYPE", "replica"])] {
        assert!(client.ask(&[name, "LIST", filter[0], filter[1]]).starts_with("-ERR filters of"), "{name}");
        assert_eq!(client.ask(&[name, "LIST", "what"]), "-ERR syntax error\r\n");
        assert!(!client.ask(&[name, "LIST"]).starts_with('-'));
    }
}

#[test]
fn info_tells_about_the_region() {
    let engine = FakeEngine::serving(0, 7);
    let front = front_of(&[&engine]);
    let mut client = front.client();
    client.ask(&["SET", "a", "1"]);
    let info = client.ask(&["INFO", "multiactive"]);
    for part in ["region:here\r\n", "ack_effective:Local\r\n", "epoch=7", "outbox:empty"] {
        assert!(info.contains(part), "{part} in {info}");
    }
    assert!(!info.contains("# Server"));
    assert!(client.ask(&["INFO"]).contains("redis_version:7"));
    assert!(client.ask(&["MAS.REGION"]).contains("$6\r\nregion\r\n$4\r\nhere\r\n"));
    eventually("numbers are published", || {
        client.ask(&["INFO", "commandstats"]).contains("cmdstat_set:calls=1")
    });
}

#[test]
fn strangers_get_nothing() {
    let engine = FakeEngine::serving(0, 1);
    let dir = tempfile::tempdir().unwrap();
    let password_file = dir.path().join("password");
    std::fs::write(&password_file, "secret\n").unwrap();
    let mut config = config(&[vec![engine.address.clone()]]);
    config.client_auth = Some(ClientAuth { username: "app".into(), password_file });
    let front = front_with(config);

    let mut client = front.client();
    assert_eq!(client.ask(&["GET", "a"]), "-NOAUTH Authentication required.\r\n");
    assert_eq!(client.ask(&["PING"]), "-NOAUTH Authentication required.\r\n");
    assert!(client.ask(&["HELLO", "3"]).starts_with("-NOAUTH HELLO must be called"));
    assert!(client.ask(&["AUTH", "secret"]).starts_with("-WRONGPASS"), "not the default user's");
    assert!(client.ask(&["AUTH", "app", "wrong"]).starts_with("-WRONGPASS"));
    assert_eq!(client.ask(&["AUTH", "app", "secret"]), "+OK\r\n");
    assert_eq!(client.ask(&["GET", "a"]), "$-1\r\n");
    assert_eq!(client.ask(&["RESET"]), "+RESET\r\n");
    assert_eq!(client.ask(&["GET", "a"]), "-NOAUTH Authentication required.\r\n");
    assert!(client.ask(&["HELLO", "3", "AUTH", "app", "secret"]).starts_with('%'));
    assert_eq!(client.ask(&["GET", "a"]), "$-1\r\n");

    let mut stranger = front.client();
    stranger.send(b"*1\r\n$1000000\r\n");
    assert_eq!(stranger.reply(), "-ERR Protocol error: unauthenticated bulk length\r\n");
    assert_eq!(stranger.try_reply(), None);
}

#[test]
fn questions_to_the_replication_side_keep_their_place() {
    let engine = FakeEngine::serving(0, 1);
    let front = front_of(&[&engine]);
    let mut client = front.client();
    assert_eq!(client.ask(&["MAS.AWAIT", "known", "1000"]), "+OK\r\n");
    assert_eq!(client.ask(&["MAS.AWAIT", "bad", "1000"]), "-ERR bad token\r\n");
    client.send(
        &[frame(&["MAS.AWAIT", "unknown", "100"]), frame(&["PING"]), frame(&["MAS.WAIT", "3", "10"])]
            .concat(),
    );
    assert!(client.reply().starts_with("-MASTIMEOUT"));
    assert_eq!(client.reply(), "+PONG\r\n");
    assert_eq!(client.reply(), ":1\r\n");
    assert!(client.ask(&["MAS.AWAIT", "x", "99999999999"]).starts_with("-ERR timeout"));
}

#[test]
fn a_drain_finishes_what_is_under_way() {
    let engine = FakeEngine::start(0);
    let front = front_of(&[&engine]);
    let address = front.address.clone();
    let (mut busy, mut idle) = (front.client(), front.client());
    assert_eq!(idle.ask(&["PING"]), "+PONG\r\n");
    busy.request(&["SET", "a", "1"]);
    assert!(busy.is_silent());
    let drain = std::thread::spawn(move || front.drain());
    assert_eq!(idle.try_reply(), None, "idle connections are closed");
    engine.promote(1);
    assert_eq!(busy.reply(), "+OK\r\n");
    assert_eq!(busy.try_reply(), None);
    drain.join().unwrap();
    assert!(std::net::TcpStream::connect(address).is_err(), "no new connections");
}
