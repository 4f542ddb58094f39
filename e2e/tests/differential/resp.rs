//! A raw RESP client: what it hands out are the server's replies, type by type and byte by byte.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// The words of a request, the name first.
pub(crate) type Words = Vec<Vec<u8>>;

/// One reply. Numbers with a fraction stay text, so that equal replies are equal bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reply {
    /// `+`
    Simple(Vec<u8>),
    /// `-`
    Error(Vec<u8>),
    /// `:`
    Int(i64),
    /// `$`
    Bulk(Vec<u8>),
    /// `$-1`
    NullBulk,
    /// `*-1`
    NullArray,
    /// `*`
    Array(Vec<Reply>),
    /// `_`
    Null,
    /// `#`
    Bool(bool),
    /// `,`
    Double(Vec<u8>),
    /// `(`
    Big(Vec<u8>),
    /// `=`
    Verbatim(Vec<u8>),
    /// `%`, keys and values in turn
    Map(Vec<Reply>),
    /// `~`
    Set(Vec<Reply>),
    /// `>`
    Push(Vec<Reply>),
}

/// A connection.
pub(crate) struct Raw {
    read: BufReader<TcpStream>,
    write: TcpStream,
}

impl Raw {
    /// Connects to `host:port`.
    pub(crate) fn connect(address: &str) -> io::Result<Self> {
        let write = TcpStream::connect(address)?;
        write.set_nodelay(true)?;
        write.set_read_timeout(Some(Duration::from_secs(20)))?;
        write.set_write_timeout(Some(Duration::from_secs(20)))?;
        Ok(Self { read: BufReader::with_capacity(1 << 16, write.try_clone()?), write })
    }

    /// Sends requests in one piece.
    pub(crate) fn send<'a>(&mut self, requests: impl IntoIterator<Item = &'a Words>) -> io::Result<()> {
        let mut out = Vec::with_capacity(1 << 12);
        for words in requests {
            write!(out, "*{}\r\n", words.len())?;
            for word in words {
                write!(out, "${}\r\n", word.len())?;
                out.extend_from_slice(word);
                out.extend_from_slice(b"\r\n");
            }
        }
        self.write.write_all(&out)
    }

    /// Reads one reply.
    pub(crate) fn receive(&mut self) -> io::Result<Reply> {
        let mut line = self.line()?;
        if line.is_empty() {
            return Err(odd("an empty line"));
        }
        let kind = line.remove(0);
        let items = |factor: i64| -> io::Result<usize> {
            usize::try_from(integer(&line)? * factor).map_err(|_| odd("a negative length"))
        };
        Ok(match kind {
            b'+' => Reply::Simple(line),
            b'-' => Reply::Error(line),
            b':' => Reply::Int(integer(&line)?),
            b',' => Reply::Double(line),
            b'(' => Reply::Big(line),
            b'_' => Reply::Null,
            b'#' => Reply::Bool(line == b"t"),
            b'$' if line == b"-1" => Reply::NullBulk,
            b'*' if line == b"-1" => Reply::NullArray,
            b'$' => Reply::Bulk(self.bytes(items(1)?)?),
            b'=' => Reply::Verbatim(self.bytes(items(1)?)?),
            b'*' => Reply::Array(self.many(items(1)?)?),
            b'~' => Reply::Set(self.many(items(1)?)?),
            b'>' => Reply::Push(self.many(items(1)?)?),
            b'%' => Reply::Map(self.many(items(2)?)?),
            other => return Err(odd(&format!("the type byte {:?}", char::from(other)))),
        })
    }

    /// Sends one request and reads its reply.
    pub(crate) fn ask(&mut self, words: &Words) -> io::Result<Reply> {
        self.send([words])?;
        self.receive()
    }

    /// Whether the server has closed the connection.
    pub(crate) fn is_closed(&mut self) -> bool {
        self.read.fill_buf().map_or(true, <[u8]>::is_empty)
    }

    fn line(&mut self) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        self.read.read_until(b'\n', &mut line)?;
        if !line.ends_with(b"\r\n") {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection"));
        }
        line.truncate(line.len() - 2);
        Ok(line)
    }

    fn bytes(&mut self, count: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; count + 2];
        self.read.read_exact(&mut bytes)?;
        if !bytes.ends_with(b"\r\n") {
            return Err(odd("a string without its end"));
        }
        bytes.truncate(count);
        Ok(bytes)
    }

    fn many(&mut self, count: usize) -> io::Result<Vec<Reply>> {
        (0..count).map(|_| self.receive()).collect()
    }
}

/// Words from text: `words!["SET", key, 5]`.
#[macro_export]
macro_rules! words {
    ($($word:expr),* $(,)?) => { vec![$($crate::resp::ToWord::to_word(&$word)),*] };
}

/// What can be a word.
pub(crate) trait ToWord {
    /// Its bytes.
    fn to_word(&self) -> Vec<u8>;
}

impl ToWord for &str {
    fn to_word(&self) -> Vec<u8> {
        self.as_bytes().to_vec()
    }
}

impl ToWord for String {
    fn to_word(&self) -> Vec<u8> {
        self.as_bytes().to_vec()
    }
}

impl ToWord for Vec<u8> {
    fn to_word(&self) -> Vec<u8> {
        self.clone()
    }
}

impl ToWord for i64 {
    fn to_word(&self) -> Vec<u8> {
        self.to_string().into_bytes()
    }
}

/// Words as a person would type them.
pub(crate) fn show(words: &Words) -> String {
    words.iter().map(|word| text(word)).collect::<Vec<_>>().join(" ")
}

/// Bytes for people.
pub(crate) fn text(bytes: &[u8]) -> String {
    let shown = bytes[..bytes.len().min(120)].escape_ascii().to_string();
    let more = if bytes.len() > 120 { format!("…({})", bytes.len()) } else { String::new() };
    if shown.is_empty() || shown.contains(' ') {
        format!("\"{shown}\"{more}")
    } else {
        format!("{shown}{more}")
    }
}

impl Reply {
    /// The items of an array, set or map.
    pub(crate) fn items(&self) -> &[Reply] {
        match self {
            Self::Array(items) | Self::Set(items) | Self::Map(items) | Self::Push(items) => items,
            _ => &[],
        }
    }

    /// The bytes of a string or a number.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Simple(b)
            | Self::Error(b)
            | Self::Bulk(b)
            | Self::Double(b)
            | Self::Big(b)
            | Self::Verbatim(b) => b.clone(),
            Self::Int(n) => n.to_string().into_bytes(),
            _ => Vec::new(),
        }
    }

    /// Whether it is an error.
    pub(crate) fn is_error(&self) -> bool {
        matches!(self, Self::Error(_))
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, open: &str, items: &[Self]| {
            let shown: Vec<_> = items.iter().take(40).map(ToString::to_string).collect();
            let more = if items.len() > 40 { " …" } else { "" };
            write!(f, "{open}({}: {}{more})", items.len(), shown.join(", "))
        };
        match self {
            Self::Simple(b) => write!(f, "+{}", text(b)),
            Self::Error(b) => write!(f, "-{}", text(b)),
            Self::Int(n) => write!(f, ":{n}"),
            Self::Bulk(b) => write!(f, "{}", text(b)),
            Self::NullBulk => f.write_str("$-1"),
            Self::NullArray => f.write_str("*-1"),
            Self::Null => f.write_str("_"),
            Self::Bool(b) => write!(f, "#{b}"),
            Self::Double(b) => write!(f, ",{}", text(b)),
            Self::Big(b) => write!(f, "(bignum {}", text(b)),
            Self::Verbatim(b) => write!(f, "={}", text(b)),
            Self::Array(items) => list(f, "*", items),
            Self::Map(items) => list(f, "%", items),
            Self::Set(items) => list(f, "~", items),
            Self::Push(items) => list(f, ">", items),
        }
    }
}

fn integer(line: &[u8]) -> io::Result<i64> {
    std::str::from_utf8(line).ok().and_then(|text| text.parse().ok()).ok_or_else(|| odd("a bad number"))
}

fn odd(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the server sent {what}"))
}
