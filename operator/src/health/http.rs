//! A GET over plain HTTP/1.0 for the proxies' admin endpoints. Bounded in time and size.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const TIMEOUT: Duration = Duration::from_secs(1);
const MAX_BODY: u64 = 4 << 20;

/// Fetches `path` from `address`; the status code and the body, or nothing if it does not answer in time.
pub(crate) async fn get(address: &str, path: &str) -> Option<(u16, String)> {
    timeout(TIMEOUT, fetch(address, path)).await.ok().flatten()
}

async fn fetch(address: &str, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut reply = Vec::new();
    stream.take(MAX_BODY).read_to_end(&mut reply).await.ok()?;
    parse(&String::from_utf8_lossy(&reply))
}

fn parse(reply: &str) -> Option<(u16, String)> {
    let (head, body) = reply.split_once("\r\n\r\n")?;
    let code = head.strip_prefix("HTTP/1.")?.split_whitespace().nth(1)?.parse().ok()?;
    Some((code, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn reads_code_and_body() {
        assert_eq!(parse("HTTP/1.1 200 OK\r\na: b\r\n\r\nhi"), Some((200, "hi".into())));
        assert_eq!(parse("HTTP/1.0 503 x\r\n\r\n"), Some((503, String::new())));
        assert_eq!(parse("nonsense"), None);
    }
}
