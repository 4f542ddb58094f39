//! The question and what the answer means.

use std::fmt;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::cli::{Probe, Question};

/// The user that asks. Any password does; the operator writes it into every server's users' file.
const LOGIN: &[u8] = b"*3\r\n$4\r\nAUTH\r\n$5\r\nprobe\r\n$5\r\nprobe\r\n";
const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";
/// A reply's first line is not longer.
const LINE: usize = 4096;

/// Why the answer is no.
#[derive(Debug)]
pub(crate) enum No {
    /// Nobody listens.
    Refused(u16),
    /// Nothing came in time.
    Silent(u16, Duration),
    /// The connection failed otherwise.
    Broken(u16, io::Error),
    /// It was closed before an answer came.
    Closed(u16),
    /// What came is not Redis.
    Foreign(u16, String),
    /// It is loading its data.
    Loading(String),
    /// It has no user `probe`, or that one may not PING.
    User(String),
    /// It cannot write to its disk.
    Disk(String),
    /// It answers with another error.
    Error(String),
}

impl fmt::Display for No {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(port) => {
                write!(f, "nobody listens on 127.0.0.1:{port}: redis-server is not up, or on another --port")
            }
            Self::Silent(port, timeout) => write!(
                f,
                "no answer from 127.0.0.1:{port} within {} ms: the server is stopped or busy",
                timeout.as_millis()
            ),
            Self::Broken(port, error) => write!(f, "asking 127.0.0.1:{port}: {error}"),
            Self::Closed(port) => write!(f, "127.0.0.1:{port} closed the connection instead of an answer"),
            Self::Foreign(port, line) => {
                write!(f, "what listens on 127.0.0.1:{port} is no Redis server, it says '{line}'")
            }
            Self::Loading(line) => write!(f, "it is loading its data: wait ({line})"),
            Self::User(line) => write!(
                f,
                "the user 'probe' may not log in and PING: the server's users need the line 'user probe on nopass -@all +ping' ({line})"
            ),
            Self::Disk(line) => {
                write!(f, "it cannot write its log: look at the disk and the volume's size ({line})")
            }
            Self::Error(line) => write!(f, "it answers with an error ({line})"),
        }
    }
}

/// Asks. `Ok` is a yes, in words.
pub(crate) fn ask(probe: Probe) -> Result<String, No> {
    let Probe { question, port, timeout } = probe;
    let mut line = Conversation::begin(port, timeout)?;
    match question {
        Question::Live => {
            let reply = line.call(PING)?;
            Ok(format!("live, it answers ({reply})"))
        }
        Question::Ready => {
            let login = line.call(LOGIN)?;
            if login != "+OK" {
                return Err(refusal(login, true));
            }
            match line.call(PING)? {
                pong if pong == "+PONG" => Ok("ready".into()),
                other => Err(refusal(other, false)),
            }
        }
    }
}

/// What a reply means that is not the hoped for.
fn refusal(line: String, login: bool) -> No {
    match line.split(' ').next().unwrap_or_default() {
        "-LOADING" => No::Loading(line),
        "-WRONGPASS" | "-NOPERM" | "-NOAUTH" => No::User(line),
        // A server without users of its own says so, as an ordinary error.
        "-ERR" if login && line.contains("AUTH") => No::User(line),
        "-MISCONF" => No::Disk(line),
        _ => No::Error(line),
    }
}

/// A connection, and when all of it must be over.
struct Conversation {
    stream: TcpStream,
    port: u16,
    timeout: Duration,
    deadline: Instant,
    /// What was read and not used.
    rest: Vec<u8>,
}

impl Conversation {
    fn begin(port: u16, timeout: Duration) -> Result<Self, No> {
        let deadline = Instant::now() + timeout;
        let stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), timeout)
            .map_err(|error| no(port, timeout, error))?;
        Ok(Self { stream, port, timeout, deadline, rest: Vec::new() })
    }

    /// Sends a command; the first line of the reply, which begins like one of RESP's.
    fn call(&mut self, command: &[u8]) -> Result<String, No> {
        self.stream.set_write_timeout(Some(self.left()?)).map_err(|error| self.no(error))?;
        let sent = self.stream.write_all(command);
        // A server that has no room for us says so and closes, maybe before it has read: what it said counts.
        loop {
            if let Some(end) = self.rest.windows(2).position(|two| two == b"\r\n") {
                let line: Vec<u8> = self.rest.drain(..end + 2).take(end).collect();
                return self.understood(&line);
            }
            if self.rest.len() > LINE {
                return Err(No::Foreign(self.port, shown(&self.rest)));
            }
            self.stream.set_read_timeout(Some(self.left()?)).map_err(|error| self.no(error))?;
            let mut buffer = [0; 512];
            match self.stream.read(&mut buffer) {
                Ok(0) if !self.rest.is_empty() => return Err(No::Foreign(self.port, shown(&self.rest))),
                Ok(0) => return Err(sent.err().map_or(No::Closed(self.port), |error| self.no(error))),
                Ok(length) => self.rest.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.no(error)),
            }
        }
    }

    fn understood(&self, line: &[u8]) -> Result<String, No> {
        let resp = matches!(line, [b'+' | b'-' | b':' | b'$' | b'*' | b'_' | b'#' | b'%' | b'~' | b'!', ..]);
        if resp { Ok(shown(line)) } else { Err(No::Foreign(self.port, shown(line))) }
    }

    fn left(&self) -> Result<Duration, No> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(No::Silent(self.port, self.timeout)) } else { Ok(left) }
    }

    fn no(&self, error: io::Error) -> No {
        no(self.port, self.timeout, error)
    }
}

fn no(port: u16, timeout: Duration, error: io::Error) -> No {
    match error.kind() {
        ErrorKind::ConnectionRefused => No::Refused(port),
        ErrorKind::TimedOut | ErrorKind::WouldBlock => No::Silent(port, timeout),
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => No::Closed(port),
        _ => No::Broken(port, error),
    }
}

/// For one line of output: short, and nothing in it that is not printed.
fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .chars()
        .map(|letter| if letter.is_control() { '.' } else { letter })
        .take(200)
        .collect()
}

#[cfg(test)]
mod tests {
    //! No Redis server is started here, only listeners that say one thing. Real servers: tests/redis.rs.

    use std::net::TcpListener;

    use super::*;

    /// A listener that says something to whoever connects, and keeps the connection for a while.
    fn says(words: &'static [u8]) -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(words).unwrap();
            std::thread::sleep(Duration::from_secs(2));
        });
        port
    }

    fn asked(question: Question, port: u16, ms: u64) -> Result<String, String> {
        ask(Probe { question, port, timeout: Duration::from_millis(ms) }).map_err(|no| no.to_string())
    }

    #[test]
    fn errors_are_life_and_not_readiness() {
        for (words, why) in [
            (&b"-LOADING Redis is loading the dataset in memory\r\n"[..], "it is loading its data: wait"),
            (b"-NOAUTH Authentication required.\r\n", "the user 'probe' may not log in"),
            (
                b"-WRONGPASS invalid username-password pair or user is disabled.\r\n",
                "the user 'probe' may not",
            ),
            (b"-ERR max number of clients reached\r\n", "it answers with an error"),
            (
                b"+OK\r\n-NOPERM this user has no permissions to run the 'ping' command\r\n",
                "the user 'probe'",
            ),
            (b"+OK\r\n-LOADING Redis is loading the dataset in memory\r\n", "it is loading its data"),
            (
                b"+OK\r\n-MISCONF Errors writing to the AOF file: No space left on device\r\n",
                "it cannot write",
            ),
            (b"+OK\r\n-BUSY Redis is busy running a script.\r\n", "it answers with an error (-BUSY"),
            (b"+OK\r\n+QUEUED\r\n", "it answers with an error"),
        ] {
            let live = asked(Question::Live, says(words), 1000);
            assert!(live.is_ok(), "{live:?}");
            let not_ready = asked(Question::Ready, says(words), 1000).expect_err("ready");
            assert!(not_ready.starts_with(why), "{not_ready}");
            assert!(!not_ready.contains('\n'), "{not_ready}");
        }
        assert_eq!(asked(Question::Ready, says(b"+OK\r\n+PONG\r\n"), 1000), Ok("ready".into()));
    }

    #[test]
    fn what_is_no_redis_is_named() {
        let said = asked(Question::Live, says(b"SSH-2.0-OpenSSH\r\n"), 1000).expect_err("no");
        assert!(said.contains("is no Redis server, it says 'SSH-2.0-OpenSSH'"), "{said}");
    }

    #[test]
    fn silence_ends_in_time() {
        let began = Instant::now();
        let said = asked(Question::Live, says(b""), 100).expect_err("no");
        assert!(said.contains("within 100 ms: the server is stopped or busy"), "{said}");
        // Half an answer is none, and its beginning buys no more time.
        let said = asked(Question::Ready, says(b"+O"), 100).expect_err("no");
        assert!(said.contains("within 100 ms"), "{said}");
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    }

    #[test]
    fn nobody_there() {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let said = asked(Question::Live, port, 1000).expect_err("no");
        assert!(said.starts_with(&format!("nobody listens on 127.0.0.1:{port}")), "{said}");
    }
}
