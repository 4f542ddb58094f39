//! Opens connections to engines, and asks them short questions. Used where speed does not matter.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::resp::encode;
use crate::resp::reply::Scanner;

/// Longest answer to a question.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// Connects, shows `login` (the words behind `AUTH`; none: nothing), and chooses the version of RESP.
pub async fn connect(address: &str, login: &[&str], resp3: bool, limit: Duration) -> io::Result<TcpStream> {
    let connecting = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        if !login.is_empty() {
            expect_ok(&ask(&mut stream, &[&["AUTH"], login].concat()).await?)?;
        }
        if resp3 {
            expect_ok(&ask(&mut stream, &["HELLO", "3"]).await?)?;
        }
        Ok(stream)
    };
    tokio::time::timeout(limit, connecting).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

fn expect_ok(reply: &[u8]) -> io::Result<()> {
    match reply.first() {
        Some(b'-') => Err(io::Error::other(String::from_utf8_lossy(reply[1..].trim_ascii()).into_owned())),
        _ => Ok(()),
    }
}

/// Sends one request and reads its reply. Nothing else may be under way on the connection.
pub async fn ask(stream: &mut TcpStream, words: &[&str]) -> io::Result<Vec<u8>> {
    let mut request = Vec::new();
    encode::array(&mut request, words.len());
    for word in words {
        encode::bulk(&mut request, word.as_bytes());
    }
    stream.write_all(&request).await?;
    let (mut reply, mut scanner) = (Vec::new(), Scanner::default());
    loop {
        if stream.read_buf(&mut reply).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match scanner.scan(&reply) {
            Ok(Some(len)) => {
                reply.truncate(len);
                return Ok(reply);
            }
            Ok(None) if reply.len() <= ANSWER_BYTES_MAX => {}
            Ok(None) => return Err(io::Error::other("the answer is too long")),
            Err(bad) => return Err(io::Error::other(bad)),
        }
    }
}
