//! A client of the Redis protocol that hands out errors as values.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

/// A reply.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Simple(String),
    Error(String),
    Integer(i64),
    Double(String),
    Bulk(Vec<u8>),
    Null,
    Many(Vec<Value>),
}

impl Value {
    pub fn is_error(&self) -> bool {
        matches!(self, Self::Error(_))
    }

    /// The first word of an error.
    pub fn code(&self) -> &str {
        match self {
            Self::Error(message) => message.split(' ').next().unwrap(),
            other => panic!("no error: {other:?}"),
        }
    }

    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Bulk(bytes) => bytes,
            Self::Simple(text) | Self::Error(text) | Self::Double(text) => text.as_bytes(),
            other => panic!("no bytes: {other:?}"),
        }
    }

    pub fn text(&self) -> String {
        match self {
            Self::Integer(n) => n.to_string(),
            other => String::from_utf8_lossy(other.bytes()).into_owned(),
        }
    }
}

/// A connection.
pub struct Client(BufReader<TcpStream>);

impl Client {
    pub fn connect(port: u16) -> Option<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.set_read_timeout(Some(super::PATIENCE)).ok()?;
        stream.set_nodelay(true).ok()?;
        Some(Self(BufReader::new(stream)))
    }

    /// A connection to a server that answers; `None` while it does not (yet).
    pub fn ready(port: u16) -> Option<Self> {
        let mut client = Self::connect(port)?;
        client.0.get_mut().write_all(b"PING\r\n").ok()?;
        let mut line = String::new();
        client.0.read_line(&mut line).ok()?;
        (line == "+PONG\r\n").then_some(client)
    }

    pub fn call(&mut self, words: &[&str]) -> Value {
        self.call_bytes(&words.iter().map(|w| w.as_bytes()).collect::<Vec<_>>())
    }

    pub fn call_bytes(&mut self, words: &[&[u8]]) -> Value {
        self.send(words);
        self.read()
    }

    pub fn send(&mut self, words: &[&[u8]]) {
        let mut out = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            out.extend(format!("${}\r\n", word.len()).into_bytes());
            out.extend(*word);
            out.extend(b"\r\n");
        }
        self.0.get_mut().write_all(&out).unwrap();
    }

    pub fn read(&mut self) -> Value {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        let line = line.trim_end();
        assert!(!line.is_empty(), "the server closed the connection");
        let (kind, rest) = line.split_at(1);
        let len = || rest.parse::<i64>().unwrap();
        match kind {
            "+" => Value::Simple(rest.into()),
            "-" => Value::Error(rest.into()),
            ":" => Value::Integer(len()),
            "," => Value::Double(rest.into()),
            "_" => Value::Null,
            "$" | "*" if len() < 0 => Value::Null,
            "$" => {
                let mut bytes = vec![0; len() as usize + 2];
                self.0.read_exact(&mut bytes).unwrap();
                bytes.truncate(bytes.len() - 2);
                Value::Bulk(bytes)
            }
            "*" | "~" => Value::Many((0..len()).map(|_| self.read()).collect()),
            "%" => Value::Many((0..len() * 2).map(|_| self.read()).collect()),
            other => panic!("unknown reply {other}{rest}"),
        }
    }
}
