//! A GET over plain HTTP/1.0 for the proxies' admin endpoints, directly or through a stream that somebody else made. Bounded in size, the
//! direct one in time, too.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const TIMEOUT: Duration = Duration::from_secs(1);
const MAX_REPLY: usize = 4 << 20;

/// Fetches `path` from `address`; the status code and the body, or nothing if it does not answer in time.
pub(crate) async fn get(address: &str, path: &str) -> Option<(u16, String)> {
    timeout(TIMEOUT, fetch(address, path)).await.ok().flatten()
}

async fn fetch(address: &str, path: &str) -> Option<(u16, String)> {
    get_over(TcpStream::connect(address).await.ok()?, address, path).await
}

/// As [`get`], over a connection that is there. It may stay open behind the answer: its length is told.
pub(crate) async fn get_over(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    host: &str,
    path: &str,
) -> Option<(u16, String)> {
    let request = format!("GET {path} HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut reply = Vec::new();
    while reply.len() < MAX_REPLY && !is_whole(&reply) {
        if stream.read_buf(&mut reply).await.ok()? == 0 {
            break;
        }
    }
    parse(&String::from_utf8_lossy(&reply))
}

/// Whether all of the body is there that the head announces.
fn is_whole(reply: &[u8]) -> bool {
    let Some(end) = reply.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&reply[..end]).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    length.is_some_and(|length: usize| reply.len() - end - 4 >= length)
}

fn parse(reply: &str) -> Option<(u16, String)> {
    let (head, body) = reply.split_once("\r\n\r\n")?;
    let code = head.strip_prefix("HTTP/1.")?.split_whitespace().nth(1)?.parse().ok()?;
    Some((code, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::{is_whole, parse};

    #[test]
    fn reads_code_and_body() {
        assert_eq!(parse("HTTP/1.1 200 OK\r\na: b\r\n\r\nhi"), Some((200, "hi".into())));
        assert_eq!(parse("HTTP/1.0 503 x\r\n\r\n"), Some((503, String::new())));
        assert_eq!(parse("nonsense"), None);
    }

    #[test]
    fn an_answer_ends_where_its_head_says() {
        assert!(is_whole(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi"));
        assert!(!is_whole(b"HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\nhi"));
        assert!(!is_whole(b"HTTP/1.0 200 OK\r\n\r\nhi") && !is_whole(b"HTTP/1.0 200"));
    }
}
