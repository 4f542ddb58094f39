//! An engine that lives in the test: a few commands over a map, and switches that real engines do not have.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use mas_proxy::resp::encode;
use mas_proxy::resp::request::{Parsed, parse};

/// One engine; the handle that the test holds.
#[derive(Clone)]
pub(crate) struct FakeEngine {
    pub(crate) address: String,
    inner: Arc<Inner>,
}

struct Inner {
    shard: u16,
    data: Mutex<Data>,
    connections: Mutex<Vec<TcpStream>>,
    /// Executes writes but closes the connection instead of answering.
    lose_replies: AtomicBool,
}

#[derive(Default)]
struct Data {
    serving: bool,
    epoch: u64,
    incarnation: u64,
    seq: u64,
    values: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Commands executed through `MAS.EXEC`, in order.
    executed: Vec<String>,
    /// Highest clock that a request carried.
    seen: u64,
}

type Words = Vec<Vec<u8>>;

impl FakeEngine {
    /// A fenced engine of a shard.
    pub(crate) fn start(shard: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let inner = Arc::new(Inner {
            shard,
            data: Mutex::default(),
            connections: Mutex::default(),
            lose_replies: AtomicBool::new(false),
        });
        let accepting = inner.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                accepting.connections.lock().unwrap().push(stream.try_clone().unwrap());
                let inner = accepting.clone();
                std::thread::spawn(move || inner.serve(stream));
            }
        });
        Self { address, inner }
    }

    /// A serving master.
    pub(crate) fn serving(shard: u16, epoch: u64) -> Self {
        let engine = Self::start(shard);
        engine.promote(epoch);
        engine
    }

    pub(crate) fn promote(&self, epoch: u64) {
        let mut data = self.inner.data.lock().unwrap();
        (data.serving, data.epoch, data.incarnation, data.seq) = (true, epoch, 0x1000 + epoch, 0);
    }

    pub(crate) fn fence(&self) {
        self.inner.data.lock().unwrap().serving = false;
    }

    /// Takes over another engine's values, as a replica has them.
    pub(crate) fn copy_from(&self, other: &Self) {
        let values = other.inner.data.lock().unwrap().values.clone();
        self.inner.data.lock().unwrap().values = values;
    }

    pub(crate) fn cut_connections(&self) {
        for stream in self.inner.connections.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub(crate) fn lose_replies(&self, lose: bool) {
        self.inner.lose_replies.store(lose, Ordering::SeqCst);
    }

    pub(crate) fn executed(&self) -> Vec<String> {
        self.inner.data.lock().unwrap().executed.clone()
    }

    pub(crate) fn seen_clock(&self) -> u64 {
        self.inner.data.lock().unwrap().seen
    }
}

impl Inner {
    fn serve(&self, mut stream: TcpStream) {
        let (mut buf, mut words, mut progress) = (Vec::new(), Vec::new(), None);
        let mut chunk = [0; 65536];
        loop {
            match parse(&buf, &mut words, &mut progress, true) {
                Ok(Parsed::Request(len)) => {
                    let request: Words =
                        words.iter().map(|&(a, b)| buf[a as usize..b as usize].to_vec()).collect();
                    buf.drain(..len);
                    let mut out = Vec::new();
                    self.answer(&request, &mut out);
                    let write = request[0] == b"MAS.EXEC";
                    if write && self.lose_replies.load(Ordering::SeqCst) {
                        let _ = stream.shutdown(Shutdown::Both);
                        return;
                    }
                    if stream.write_all(&out).is_err() {
                        return;
                    }
                }
                Ok(Parsed::Nothing(len) | Parsed::Inline(len)) => drop(buf.drain(..len)),
                Ok(Parsed::Incomplete) => match stream.read(&mut chunk) {
                    Ok(n) if n > 0 => buf.extend_from_slice(&chunk[..n]),
                    _ => return,
                },
                Err(error) => panic!("the proxy sent what is no RESP: {error}"),
            }
        }
    }

    fn answer(&self, words: &Words, out: &mut Vec<u8>) {
        let data = &mut *self.data.lock().unwrap();
        match words[0].as_slice() {
            b"HELLO" => encode::map(out, true, 0),
            b"MAS.IDENTITY" => self.identity(data, out),
            b"MAS.EXEC" => {
                let incarnation = u64::from_le_bytes(words[1][..8].try_into().unwrap());
                data.seen = data.seen.max(u64::from_le_bytes(words[1][8..].try_into().unwrap()));
                if !data.serving {
                    return encode::error(out, "MASFENCED this engine is fenced");
                }
                if incarnation != data.incarnation {
                    return encode::error(out, &format!("MASINCARNATION {:016x}", data.incarnation));
                }
                let mut native = Vec::new();
                data.native(&words[2..], &mut native);
                if native[0] == b'-' {
                    return out.extend_from_slice(&native);
                }
                data.seq += 1;
                let name =
                    words[2..].iter().map(|w| String::from_utf8_lossy(w)).collect::<Vec<_>>().join(" ");
                data.executed.push(name);
                let mut note = data.seq.to_le_bytes().to_vec();
                note.extend_from_slice(&(data.epoch << 32 | data.seq).to_le_bytes());
                note.extend_from_slice(b"effect");
                encode::array(out, 2);
                out.extend_from_slice(&native);
                encode::bulk(out, &note);
            }
            _ if !data.serving => encode::error(out, "MASFENCED this engine is fenced"),
            _ => data.native(words, out),
        }
    }

    fn identity(&self, data: &Data, out: &mut Vec<u8>) {
        let state = if data.serving { "serving" } else { "fenced" };
        let fields = [
            ("store", "shop".to_owned()),
            ("region", "1".to_owned()),
            ("shard", self.shard.to_string()),
            ("role", "master".to_owned()),
            ("state", state.to_owned()),
            ("epoch", data.epoch.to_string()),
            ("incarnation", format!("{:016x}", data.incarnation)),
        ];
        encode::array(out, fields.len() * 2);
        for (field, value) in fields {
            encode::bulk(out, field.as_bytes());
            encode::bulk(out, value.as_bytes());
        }
    }
}

impl Data {
    fn native(&mut self, words: &[Vec<u8>], out: &mut Vec<u8>) {
        let value = |out: &mut Vec<u8>, value: Option<&Vec<u8>>| match value {
            Some(value) => encode::bulk(out, value),
            None => encode::null(out, false),
        };
        match words[0].to_ascii_uppercase().as_slice() {
            b"GET" => value(out, self.values.get(&words[1])),
            b"MGET" => {
                encode::array(out, words.len() - 1);
                for key in &words[1..] {
                    value(out, self.values.get(key));
                }
            }
            b"SET" | b"MSET" => {
                for pair in words[1..].chunks(2) {
                    self.values.insert(pair[0].clone(), pair[1].clone());
                }
                encode::simple(out, "OK");
            }
            b"DEL" => {
                let gone = words[1..].iter().filter(|key| self.values.remove(*key).is_some()).count();
                encode::integer(out, gone as i64);
            }
            b"EXISTS" => {
                let there = words[1..].iter().filter(|key| self.values.contains_key(*key)).count();
                encode::integer(out, there as i64);
            }
            b"DBSIZE" => encode::integer(out, self.values.len() as i64),
            b"FLUSHALL" => {
                self.values.clear();
                encode::simple(out, "OK");
            }
            b"KEYS" => {
                encode::array(out, self.values.len());
                for key in self.values.keys() {
                    encode::bulk(out, key);
                }
            }
            // Two keys a call; the cursor is the position.
            b"SCAN" => {
                let at: usize = String::from_utf8_lossy(&words[1]).parse().unwrap();
                let keys: Vec<_> = self.values.keys().skip(at).take(2).collect();
                let next = if at + 2 >= self.values.len() { 0 } else { at + 2 };
                encode::array(out, 2);
                encode::bulk(out, next.to_string().as_bytes());
                encode::array(out, keys.len());
                for key in keys {
                    encode::bulk(out, key);
                }
            }
            b"RANDOMKEY" => value(out, self.values.keys().next()),
            b"INCR" => encode::error(out, "ERR value is not an integer or out of range"),
            other => encode::error(out, &format!("ERR fake engine: {}", String::from_utf8_lossy(other))),
        }
    }
}
