//! Writes the corpora's seeds anew, with the real encoders: `cargo run --example seeds` in this folder. Files that fuzzing
//! added (`make fuzz-corpus`) have other names and stay. (Saved states differ each time: they follow the order of hash tables.)

use std::fs;
use std::path::Path;

use bytes::Bytes;
use fuzz::pieces::join;
use fuzz::region::{Region, Write};
use fuzz::state::save;
use mas_core::cover::{Cover, SeqSet};
use mas_core::record::{Body, Heartbeat, Record};
use mas_core::replication::token::{ShardNeed, Token};
use mas_core::shard::local_entry;
use mas_core::stamp::{Hlc, Incarnation, Origin, RegionId, ShardId};
use mas_core::transfer::{Cursor, PieceBounds, State, Want};

const ORIGIN: Origin = Origin { region: RegionId(1), incarnation: Incarnation(1001) };

const COMMANDS: &str = "PING\nGET a\nmset a 1 b 2 c 3\nMSETNX a 1 {a}b 2\nDEL a b c\nUNLINK a b\nEXISTS a b a\nTOUCH a\n\
    MGET a b c\nBITOP AND d a b\nZUNIONSTORE d 2 a b WEIGHTS 1 2\nSINTERCARD 2 a b LIMIT 1\nZMPOP 2 a b MIN\n\
    GEORADIUS a 1 2 3 km ASC STORE b\nSORT a ALPHA STORE b\nCOPY a b DB 1\nOBJECT ENCODING a\nCLIENT ID\n\
    SCAN 17 MATCH x* COUNT 10\nSCAN 0\nSET a b EX 10 KEEPTTL\nSMOVE a b m\nRENAME a b\nXREAD COUNT 1 STREAMS a 0\n\
    EVAL x 1 a\nCONFIG GET x\nMAS.TOKEN\nMAS.EXEC x";

const REQUESTS: [&str; 8] = [
    "*1\r\n$4\r\nPING\r\n*3\r\n$3\r\nSET\r\n$1\r\na\r\n$10\r\n0123456789\r\n",
    "*2\r\n$3\r\nGET\r\n$0\r\n\r\n*0\r\n*-1\r\n\r\nPING\r\n",
    "SET a \"b \\\"c\\\" \\x41\\n\"\r\nECHO 'it\\'s'\r\nGET a b\n",
    "*1\r\n$100\r\nab\0\x01\r\n",
    "aaaa\0\x7faa\r\n",
    "*1111\0\x7f",
    "*1\r\n$1111\0\x7f",
    "*2\r\n$16385\r\nx\0\x36\r\n",
];

const REPLIES: [&str; 7] = [
    "+OK\r\n-ERR x\r\n:-12\r\n$-1\r\n$0\r\n\r\n$3\r\na\r\n\r\n",
    "*-1\r\n*0\r\n*2\r\n$1\r\na\r\n*1\r\n:1\r\n",
    "_\r\n#t\r\n,1.5\r\n(123456789012345678901234567890\r\n=7\r\ntxt:abc\r\n!5\r\nERR x\r\n",
    "%2\r\n+a\r\n:1\r\n+b\r\n*1\r\n:2\r\n~1\r\n+a\r\n>2\r\n+a\r\n+b\r\n|1\r\n+ttl\r\n:1\r\n+value\r\n",
    "*2\r\n:1\r\n$20\r\n0123456789abcdefghij\r\n",
    "-MASFENCED x\r\n-LOADING y\r\n",
    "+a\0\x7f",
];

const GATHERED: [(u8, &str); 6] = [
    (0, ":2\r\n:3\r\n:123456789012345678\r\n"),
    (1, "*2\r\n$1\r\na\r\n$-1\r\n*2\r\n$1\r\nb\r\n$1\r\nc\r\n"),
    (2, "+OK\r\n+OK\r\n"),
    (3, "*1\r\n+a\r\n*0\r\n*2\r\n+b\r\n:1\r\n"),
    (4, "$-1\r\n$1\r\na\r\n_\r\n"),
    (5, "*2\r\n$2\r\n17\r\n*1\r\n$1\r\na\r\n"),
];

/// Two regions that write everything and merge each other; what they published.
fn regions(flush: bool) -> [Region; 2] {
    let mut regions = [Region::new(1), Region::new(2)];
    let mut now = 10_000;
    let writes = |n: u8| {
        [
            Write::Set(n, 7),
            Write::SetEx(n, 8, 500),
            Write::Incr(n, 3),
            Write::Expire(n, 90),
            Write::Persist(n),
            Write::HSet(10, n, 1),
            Write::HIncr(10, 9, 4),
            Write::HDel(10, n),
            Write::SAdd(11, n),
            Write::SRem(11, n),
            Write::ZAdd(12, n, -3),
            Write::ZIncr(12, n, 5),
            Write::ZRem(12, n),
            Write::Del(n),
        ]
    };
    for n in 0..2 {
        for write in writes(n) {
            now += 10;
            regions[usize::from(n)].write(&write, now);
        }
    }
    regions[0].write(&Write::SetEx(5, 8, 5), now);
    regions[0].write(&Write::Incr(5, 8), now + 100);
    if flush {
        regions[0].write(&Write::Flush, now + 101);
    }
    regions[0].write(&Write::SAdd(13, 1), now + 102);
    let (one, other) = regions.split_at_mut(1);
    one[0].merge(2, &other[0].log, now + 200);
    other[0].merge(1, &one[0].log, now + 200);
    regions
}

fn cover() -> Cover {
    let mut cover = Cover::default();
    for (incarnation, runs) in
        [(1001, &[(1, 5), (8, 8)][..]), (1002, &[(1, 1)]), (3, &[(u64::MAX, u64::MAX)])]
    {
        let mut set = SeqSet::default();
        runs.iter().for_each(|(first, last)| set.insert_run_unbounded(*first, *last));
        cover.set(Origin { incarnation: Incarnation(incarnation), ..ORIGIN }, set);
    }
    cover
}

fn record(body: Body) -> Bytes {
    Record { id: 77, shard: ShardId(0), origin: ORIGIN, body }.encode()
}

fn effects_of(region: &Region) -> Vec<Bytes> {
    let records = region.log.iter().filter_map(|record| Record::decode(record.clone()).ok());
    records
        .flat_map(|record| if let Body::Effects(effects) = record.body { effects } else { Vec::new() })
        .collect()
}

/// What a master hands to its replicas, of every kind.
fn entries() -> Vec<Vec<Bytes>> {
    let [one, two] = regions(true);
    let local: Vec<Bytes> = effects_of(&one).iter().map(|effect| local_entry(effect)).collect();
    let mut master = Region::new(1);
    let members = [RegionId(1), RegionId(2)].into_iter().collect();
    let mut others = vec![master.shard.set_members(1, members).ok().flatten().unwrap_or_default()];
    let mut merge = |records: &[Bytes]| {
        let read = master.read.get(&2).copied();
        let to = mas_core::shard::Position { offset: read.map_or(1, |read| read.offset + 1), record: 1 };
        master.read.insert(2, to);
        let map = &mut master.map;
        let limits = fuzz::region::LIMITS;
        master.shard.merge(RegionId(2), read, to, records, 20_000, limits, map).expect("merged").entry
    };
    others.push(merge(&two.log));
    let beat = Heartbeat { epoch: 1, clock: Hlc(1 << 40), issued: 14, stable: Hlc(1 << 40), cover: cover() };
    let origin = two.origin();
    others.push(merge(&[Record { id: 7, shard: ShardId(0), origin, body: Body::Heartbeat(beat) }.encode()]));
    let trim =
        vec![local[0].clone(), local[1].clone(), master.shard.trim(Incarnation(1001), &[(1, 1), (9, 12)]).1];
    let to = mas_core::shard::Identity {
        store: "shop".into(),
        region: RegionId(1),
        epoch: 2,
        incarnation: Incarnation(7),
        ..Default::default()
    };
    others.push(master.shard.promote(to, 30_000));
    others.push(master.shard.collect(0, u64::MAX, u64::MAX >> 20).entry);
    let mut first = Region::new(1);
    let merged_only = {
        let map = &mut first.map;
        let to = mas_core::shard::Position { offset: 1, record: 1 };
        let limits = fuzz::region::LIMITS;
        vec![
            first
                .shard
                .merge(RegionId(2), None, to, &two.log[..5], 20_000, limits, map)
                .expect("merged")
                .entry,
        ]
    };
    vec![local, others, trim, merged_only]
}

fn main() -> std::io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let write = |target: &str, name: &str, bytes: &[u8]| {
        fs::create_dir_all(corpus.join(target))?;
        fs::write(corpus.join(target).join(name), bytes)
    };
    let [one, _] = regions(true);
    for (n, effect) in effects_of(&one).iter().enumerate() {
        write("effect", &format!("seed-{n:02}"), effect)?;
    }
    let beat = Heartbeat { epoch: 3, clock: Hlc(9 << 16), issued: 300, stable: Hlc(8 << 16), cover: cover() };
    let part = |index, bytes: &'static [u8]| {
        record(Body::Part { seq: 9, index, count: 3, bytes: Bytes::from_static(bytes) })
    };
    write("record", "seed-effects", &record(Body::Effects(effects_of(&one)[..4].to_vec())))?;
    write("record", "seed-part", &part(1, b"piece"))?;
    write("record", "seed-heartbeat", &record(Body::Heartbeat(beat)))?;
    write("record", "seed-nonce", &record(Body::Nonce(5)))?;
    write("record", "seed-sealed", &record(Body::Sealed(Incarnation(9))))?;
    let want = Want { of: RegionId(2), transfer: 7, since: Hlc::ZERO, cursor: Cursor::START };
    write("record", "seed-want", &record(Body::Want(want.clone())))?;
    let [mut from, _] = regions(false);
    let (cursor, values) = from.shard.export(&want, PieceBounds::DEFAULT, &mut from.map);
    let (_, named) = from.shard.export(&Want { cursor, ..want }, PieceBounds::DEFAULT, &mut from.map);
    let parts = State::parts(RegionId(2), &[values, named]);
    write("record", "seed-state", &record(Body::State(parts[0].clone())))?;
    let parts = [part(0, b"one"), part(2, b"three"), part(0, b"again"), part(1, b"two"), part(1, b"")];
    write("parts", "seed-parts", &join(parts.iter().map(|part| &part[..])))?;
    for (n, entries) in entries().iter().enumerate() {
        write("log", &format!("seed-{n}"), &join(entries.iter().map(|entry| &entry[..])))?;
    }
    // A flush leaves a floor in each of 16384 slots.
    let [one, two] = regions(false);
    for (name, shard) in [("one", &one.shard), ("two", &two.shard)] {
        write("save", &format!("seed-{name}"), &join(save(shard).iter().map(|chunk| &chunk[..])))?;
    }
    let blank = mas_core::shard::Shard::new((1, 2));
    write("save", "seed-blank", &join(save(&blank).iter().map(|chunk| &chunk[..])))?;
    let need =
        |shard, local_only| ShardNeed { shard: ShardId(shard), cover: cover(), hlc: Hlc(77), local_only };
    let token = Token { shards: vec![need(0, None), need(1, Some((ORIGIN, 300)))] };
    let text = token.encode(fuzz::token::STORE).expect("short");
    write("token", "seed-text", format!("1{text}").as_bytes())?;
    // The content alone, which the target signs: bytes for bytes what is between version, store and checksum.
    let mut content = fuzz::token::content(text.as_bytes());
    content.insert(0, b'0');
    write("token", "seed-content", &content)?;
    for (n, text) in REQUESTS.iter().enumerate() {
        write(
            "request",
            &format!("seed-{n}"),
            format!("{}{text}", if n == 7 { 'b' } else { 'a' }).as_bytes(),
        )?;
    }
    for (n, text) in REPLIES.iter().enumerate() {
        write("reply", &format!("seed-{n}"), format!("\x03{text}").as_bytes())?;
    }
    let mut applied = b"\x03*2\r\n+OK\r\n$24\r\n".to_vec();
    applied.extend_from_slice(b"\x05\0\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\0effect!!\r\n");
    write("reply", "seed-applied", &applied)?;
    for (n, text) in COMMANDS.lines().enumerate() {
        write("command", &format!("seed-{n:02}"), text.trim().as_bytes())?;
    }
    for (kind, text) in GATHERED {
        write("gather", &format!("seed-{kind}"), format!("{}\x04\0{text}", char::from(kind)).as_bytes())?;
    }
    for example in fs::read_dir(corpus.join("../../examples"))? {
        let path = example?.path();
        if path.extension().is_some_and(|end| end == "yaml") {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            write("manifest", &format!("seed-{name}"), &fs::read(path)?)?;
        }
    }
    let full = include_bytes!("full.yaml");
    write("manifest", "seed-full", full)
}
