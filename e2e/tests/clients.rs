//! Applications' own client libraries, used as they come: redis-py, ioredis, node-redis, and Rust's redis crate.
//! The test installs them into the target folder, once; that needs python3, npm and their registries.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use e2e::{Store, manifest, wait_for};
use redis::{Commands, ProtocolVersion};

const SPEC: &str = "  shards: 2\n  redis: {replicas: 0, appendOnly: Always, maxMemory: 64Mi}\n  broker: {replicas: 1}\n  proxy: {replicas: 2}";

/// Where the libraries are installed.
fn cache() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clients");
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn scripts() -> PathBuf {
    // Where the tree is now, and not where it was built.
    Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests")).join("clients")
}

fn run(what: &str, command: &mut Command) -> String {
    let output =
        command.output().unwrap_or_else(|error| panic!("{what}: {command:?} could not be run: {error}"));
    let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(output.status.success(), "{what} failed ({}):\n{out}{err}", output.status);
    out
}

/// A virtual environment with redis-py.
fn python() -> PathBuf {
    let (folder, wanted) = (cache().join("python"), scripts().join("requirements.txt"));
    let (python, stamp) = (folder.join("bin/python"), folder.join("installed.txt"));
    let list = fs::read_to_string(&wanted).unwrap();
    if fs::read_to_string(&stamp).ok().as_ref() != Some(&list) {
        run(
            "python3 -m venv (Debian: apt-get install python3-venv)",
            Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder),
        );
        let mut install = Command::new(&python);
        install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"]).arg(&wanted);
        run("pip install", &mut install);
        fs::write(&stamp, list).unwrap();
    }
    python
}

/// A folder with ioredis, node-redis and the scripts.
fn node() -> PathBuf {
    let folder = cache().join("node");
    fs::create_dir_all(&folder).unwrap();
    let list = fs::read_to_string(scripts().join("package.json")).unwrap();
    let stamp = folder.join("installed.json");
    if fs::read_to_string(&stamp).ok().as_ref() != Some(&list) {
        fs::write(folder.join("package.json"), &list).unwrap();
        let mut install = Command::new("npm");
        install.args(["install", "--silent", "--no-audit", "--no-fund"]).current_dir(&folder);
        run("npm install (Debian: apt-get install npm)", &mut install);
        fs::write(&stamp, list).unwrap();
    }
    for script in ["ioredis.mjs", "node_redis.mjs"] {
        fs::copy(scripts().join(script), folder.join(script)).unwrap();
    }
    folder
}

#[test]
fn clients_work_unchanged() {
    let (python, node) = (python(), node());
    let store = Store::start(&manifest("clients", &["east", "west"], SPEC)).unwrap();
    let endpoints = [store.endpoint("east"), store.endpoint("west")];
    print!("{}", run("redis-py", Command::new(python).arg(scripts().join("redis_py.py")).args(endpoints)));
    for script in ["ioredis.mjs", "node_redis.mjs"] {
        print!("{}", run(script, Command::new("node").arg(script).args(endpoints).current_dir(&node)));
    }
    for protocol in [ProtocolVersion::RESP2, ProtocolVersion::RESP3] {
        rust(&store, protocol);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(rust_async(&store));
    store.finish().unwrap();
}

fn rust(store: &Store, protocol: ProtocolVersion) {
    let open = |region: &str| {
        let url = format!(
            "redis://{}/?protocol={}",
            store.endpoint(region),
            if protocol == ProtocolVersion::RESP3 { 3 } else { 2 }
        );
        redis::Client::open(url).unwrap().get_connection().unwrap()
    };
    let (mut east, mut west) = (open("east"), open("west"));
    let key = |name: &str| format!("rust:{protocol:?}:{name}");
    let () = east.set(key("text"), "grüße").unwrap();
    let () = east.hset_multiple(key("cart"), &[("tea", 2), ("silk", 1)]).unwrap();
    let () = east.zadd_multiple(key("board"), &[(1, "ann"), (2, "bob")]).unwrap();
    let board: Vec<(String, f64)> = east.zrange_withscores(key("board"), 0, -1).unwrap();
    assert_eq!(board, [("ann".to_owned(), 1.0), ("bob".to_owned(), 2.0)]);
    let (a, b): (i64, i64) = redis::pipe().incr(key("n"), 1).incr(key("n"), 1).query(&mut east).unwrap();
    assert_eq!((a, b), (1, 2));
    let found: Vec<String> = east.scan_match(key("*")).unwrap().collect::<Result<_, _>>().unwrap();
    assert_eq!(found.len(), 4);
    wait_for("the text in the other region", Duration::from_secs(20), || {
        west.get::<_, Option<String>>(key("text")).unwrap().filter(|text| text == "grüße")
    })
    .unwrap();
    println!("Rust redis crate: {protocol:?} ok");
}

async fn rust_async(store: &Store) {
    let client = store.client("east").unwrap();
    let connection = client.get_multiplexed_async_connection().await.unwrap();
    let tasks: Vec<_> = (0..100)
        .map(|n| {
            let mut connection = connection.clone();
            tokio::spawn(async move {
                redis::cmd("SADD").arg("rust:async").arg(n).query_async::<i64>(&mut connection).await.unwrap()
            })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap(), 1);
    }
    println!("Rust redis crate: multiplexed asynchronous connection ok");
}
