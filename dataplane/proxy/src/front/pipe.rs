//! The bytes under way to one engine, and who waits for what comes back. No I/O.
//!
//! Bytes stay until their reply has come, in one buffer: what was refused can be sent again elsewhere, and what was
//! not even sent is known not to have been executed.

use std::collections::VecDeque;

use super::forwarded::Mark;
use crate::resp::reply;

/// The words `$8 MAS.EXEC $16`, which come between the head of a write and its header.
const EXEC: &[u8] = b"$8\r\nMAS.EXEC\r\n$16\r\n";
/// Size of the header of `MAS.EXEC`.
pub const HEADER_BYTES: usize = 16;
/// A buffer larger than this is given back when it is empty.
const KEEP_BYTES: usize = 1024 * 1024;

/// Who waits for a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The client's place.
    pub client: u32,
    /// The number of its request.
    pub seq: u32,
    /// The part of it.
    pub part: u16,
    /// The command's place in the table.
    pub command: u16,
    /// Whether it goes through `MAS.EXEC`.
    pub write: bool,
    /// How often it was refused.
    pub attempts: u8,
    /// Whether a proxy of another region sent it.
    pub mark: Mark,
}

/// A request in flight.
#[derive(Clone, Copy, Debug)]
struct Entry {
    ticket: Ticket,
    len: u32,
}

/// A request that has to be sent again, or for the first time: as it goes on the wire.
#[derive(Debug)]
pub struct Held {
    /// Who waits for it.
    pub ticket: Ticket,
    /// Its bytes; a write's header is filled in when it is sent.
    pub frame: Box<[u8]>,
    /// Since when it waits, on the worker's clock.
    pub since: u32,
}

/// What goes into the head of a write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header(pub [u8; HEADER_BYTES]);

impl Header {
    /// The incarnation that is meant, and the highest clock seen.
    pub fn new(incarnation: u64, seen: u64) -> Self {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&incarnation.to_le_bytes());
        bytes[8..].copy_from_slice(&seen.to_le_bytes());
        Self(bytes)
    }
}

/// Appends a client's write as `MAS.EXEC header …`: only the head of the array changes, the words are copied.
pub fn write_frame(out: &mut Vec<u8>, words: usize, body: &[u8], header: Header) {
    crate::resp::encode::array(out, words + 2);
    out.extend_from_slice(EXEC);
    out.extend_from_slice(&header.0);
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(body);
}

/// Fills in the header of a write that was made by [`write_frame`].
pub fn set_header(frame: &mut [u8], header: Header) {
    if let Some(line) = memchr::memchr(b'\n', frame) {
        let at = line + 1 + EXEC.len();
        if let Some(place) = frame.get_mut(at..at + HEADER_BYTES) {
            place.copy_from_slice(&header.0);
        }
    }
}

impl Held {
    /// The client's words, without what an engine would be told beside them: how many, and their bytes.
    pub fn words(&self) -> (usize, &[u8]) {
        let (count, start) = reply::head(&self.frame).unwrap_or_default();
        let (more, at) =
            if self.ticket.write { (2, start + EXEC.len() + HEADER_BYTES + 2) } else { (0, start) };
        ((count as usize).saturating_sub(more), self.frame.get(at..).unwrap_or_default())
    }
}

/// Requests in flight on one connection, oldest first.
#[derive(Debug, Default)]
pub struct Pipe {
    /// Requests in flight and those not sent yet.
    buf: Vec<u8>,
    /// Start of the oldest request that has no reply.
    head: usize,
    /// Everything before it was handed to the socket.
    sent: usize,
    entries: VecDeque<Entry>,
}

impl Pipe {
    /// Adds a request; `write` appends its bytes.
    pub fn push(&mut self, ticket: Ticket, write: impl FnOnce(&mut Vec<u8>)) {
        let before = self.buf.len();
        write(&mut self.buf);
        let len = (self.buf.len() - before) as u32;
        self.entries.push_back(Entry { ticket, len });
    }

    /// The bytes that still have to be sent.
    pub fn unsent(&self) -> &[u8] {
        &self.buf[self.sent..]
    }

    /// `n` more bytes were handed to the socket.
    pub fn mark_sent(&mut self, n: usize) {
        self.sent = (self.sent + n).min(self.buf.len());
    }

    /// Who waits for the next reply.
    pub fn next(&self) -> Option<Ticket> {
        self.entries.front().map(|entry| entry.ticket)
    }

    /// How many requests are in flight.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many requests were handed to the socket whole, so that a reply may come. Looks at all.
    pub fn sent_requests(&self) -> usize {
        let mut end = self.head;
        self.entries
            .iter()
            .take_while(|entry| {
                end += entry.len as usize;
                end <= self.sent
            })
            .count()
    }

    /// The bytes of all requests in flight.
    pub fn bytes(&self) -> usize {
        self.buf.len() - self.head
    }

    /// The next reply has come: forgets its request.
    pub fn complete(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.head += entry.len as usize;
            if self.head == self.buf.len() {
                self.buf.clear();
                (self.head, self.sent) = (0, 0);
                if self.buf.capacity() > KEEP_BYTES {
                    self.buf = Vec::new();
                }
            } else if self.head >= KEEP_BYTES && self.head >= self.buf.len() / 2 && self.sent >= self.head {
                self.buf.drain(..self.head);
                self.sent -= self.head;
                self.head = 0;
            }
        }
    }

    /// The next reply was a refusal: takes its request out, to be sent again.
    pub fn take_refused(&mut self, since: u32) -> Option<Held> {
        let entry = *self.entries.front()?;
        let frame = self.buf[self.head..self.head + entry.len as usize].into();
        self.complete();
        Some(Held { ticket: entry.ticket, frame, since })
    }

    /// The connection is gone: takes everything out. The flag says whether all of a request's bytes were handed to
    /// the socket, so that it may have been executed.
    pub fn take_all(&mut self, since: u32) -> Vec<(Held, bool)> {
        let mut taken = Vec::with_capacity(self.entries.len());
        let mut at = self.head;
        for Entry { ticket, len } in self.entries.drain(..) {
            let end = at + len as usize;
            taken.push((Held { ticket, frame: self.buf[at..end].into(), since }, end <= self.sent));
            at = end;
        }
        self.buf = Vec::new();
        (self.head, self.sent) = (0, 0);
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(seq: u32) -> Ticket {
        Ticket { client: 0, seq, part: 0, command: 0, write: true, attempts: 0, mark: Mark::NONE }
    }

    #[test]
    fn tickets_are_small() {
        assert!(size_of::<Ticket>() <= 16, "{}", size_of::<Ticket>());
    }

    #[test]
    fn the_words_of_what_is_held_are_the_clients() {
        let body = &b"$3\r\nSET\r\n$1\r\na\r\n$1\r\nb\r\n"[..];
        let mut frame = Vec::new();
        write_frame(&mut frame, 3, body, Header::default());
        let write = Held { ticket: ticket(0), frame: frame.into(), since: 0 };
        assert_eq!(write.words(), (3, body));
        let frame = [b"*3\r\n", body].concat();
        let read = Held { ticket: Ticket { write: false, ..ticket(0) }, frame: frame.into(), since: 0 };
        assert_eq!(read.words(), (3, body));
    }

    #[test]
    fn a_write_gets_a_new_head_and_keeps_its_words() {
        let body = b"$3\r\nSET\r\n$1\r\na\r\n$1\r\nb\r\n";
        let mut frame = Vec::new();
        write_frame(&mut frame, 3, body, Header([b'h'; 16]));
        let expected = [&b"*5\r\n$8\r\nMAS.EXEC\r\n$16\r\nhhhhhhhhhhhhhhhh\r\n"[..], body].concat();
        assert_eq!(frame, expected);
        set_header(&mut frame, Header::new(1, 2));
        assert_eq!(frame[23..39], [1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&frame[39..41], b"\r\n");
    }

    #[test]
    fn what_was_not_sent_whole_cannot_have_been_executed() {
        let mut pipe = Pipe::default();
        for seq in 0..3 {
            pipe.push(ticket(seq), |buf| buf.extend_from_slice(b"12345"));
        }
        pipe.mark_sent(7);
        pipe.complete();
        assert_eq!((pipe.len(), pipe.bytes(), pipe.unsent().len()), (2, 10, 8));
        let taken: Vec<(u32, bool)> =
            pipe.take_all(0).into_iter().map(|(h, sent)| (h.ticket.seq, sent)).collect();
        assert_eq!(taken, [(1, false), (2, false)]);
        assert!(pipe.is_empty() && pipe.unsent().is_empty());
    }

    #[test]
    fn refused_requests_keep_their_bytes() {
        let mut pipe = Pipe::default();
        pipe.push(ticket(0), |buf| buf.extend_from_slice(b"abc"));
        pipe.push(ticket(1), |buf| buf.extend_from_slice(b"de"));
        pipe.mark_sent(5);
        assert_eq!(
            pipe.take_refused(9).map(|h| (h.ticket.seq, h.frame.to_vec())),
            Some((0, b"abc".to_vec()))
        );
        assert_eq!(
            pipe.take_all(9).into_iter().map(|(h, sent)| (h.frame.to_vec(), sent)).next(),
            Some((b"de".to_vec(), true))
        );
    }

    #[test]
    fn long_pipelines_do_not_grow_the_buffer_for_ever() {
        let mut pipe = Pipe::default();
        for seq in 0..100 {
            pipe.push(ticket(seq), |buf| buf.resize(buf.len() + 100_000, 0));
            pipe.mark_sent(100_000);
            if seq > 2 {
                pipe.complete();
            }
        }
        assert_eq!(pipe.bytes(), 300_000);
        assert!(pipe.buf.len() < 4 * KEEP_BYTES, "{}", pipe.buf.len());
    }
}
