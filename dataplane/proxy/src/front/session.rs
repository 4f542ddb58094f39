//! The replies that one client is owed, in the order of its requests. No I/O: bytes go into a buffer.
//!
//! Replies come from several shards, and writes may have to wait for their acknowledgement, so they become ready in
//! any order; they leave in the order in which they were asked for.

use std::collections::VecDeque;

use super::forwarded::{self, Message};
use super::gather::Gather;

/// What is known of one reply.
#[derive(Debug)]
pub enum Slot {
    /// Nothing yet.
    Waiting,
    /// All of it; only those before it are missing.
    Ready(Stash),
    /// All of it, but the write has not reached its level.
    Acking {
        /// What to answer then.
        reply: Stash,
        /// Since when it waits, on the worker's clock.
        since: u32,
    },
    /// It is put together from several.
    Gathering(Box<Gather>),
}

/// Reply bytes: short ones (`+OK`, small integers) without an allocation.
#[derive(Debug)]
pub enum Stash {
    /// Up to 22 bytes.
    Short(u8, [u8; 22]),
    /// Longer ones.
    Long(Box<[u8]>),
}

impl Stash {
    /// Copies the bytes.
    pub fn new(bytes: &[u8]) -> Self {
        let mut short = [0; 22];
        match short.get_mut(..bytes.len()) {
            Some(place) => {
                place.copy_from_slice(bytes);
                Self::Short(bytes.len() as u8, short)
            }
            None => Self::Long(bytes.into()),
        }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Short(len, bytes) => &bytes[..usize::from(*len)],
            Self::Long(bytes) => bytes,
        }
    }
}

/// The replies that are owed, oldest first. Requests are known by number; the numbers of a later connection in the
/// same place go on where those of the earlier one ended, so that a late reply is never taken for another's.
#[derive(Debug, Default)]
pub struct Session {
    base: u32,
    slots: VecDeque<Slot>,
    /// Of a proxy of another region: its first request. Replies leave when they are ready, each with its number.
    numbered_from: Option<u32>,
}

impl Session {
    /// A session whose first request is number `base`.
    pub fn starting_at(base: u32) -> Self {
        Self { base, slots: VecDeque::new(), numbered_from: None }
    }

    /// The number that the next request will get.
    pub fn next(&self) -> u32 {
        self.base.wrapping_add(self.slots.len() as u32)
    }

    /// How many replies are owed.
    pub fn owed(&self) -> usize {
        self.slots.len()
    }

    /// Whether nothing is owed.
    pub fn is_idle(&self) -> bool {
        self.slots.is_empty()
    }

    /// Adds a request; returns its number.
    pub fn open(&mut self, slot: Slot) -> u32 {
        let seq = self.next();
        self.slots.push_back(slot);
        seq
    }

    /// Gives memory back when nothing is owed.
    pub fn shrink(&mut self) {
        if self.slots.is_empty() && self.slots.capacity() > 64 {
            self.slots = VecDeque::new();
        }
    }

    /// The slot of request `seq`, if it is still owed.
    pub fn slot(&mut self, seq: u32) -> Option<&mut Slot> {
        self.slots.get_mut(seq.wrapping_sub(self.base) as usize)
    }

    /// From the next request on, replies leave with their numbers, in the order in which they become ready. Nothing may be owed.
    pub fn number_replies(&mut self) {
        self.numbered_from.get_or_insert(self.base);
    }

    /// Whether they do.
    pub fn is_numbered(&self) -> bool {
        self.numbered_from.is_some()
    }

    /// Says something about a request that is still owed its reply, where replies have numbers.
    pub fn tell(&self, seq: u32, message: Message<'_>, out: &mut Vec<u8>) {
        if let Some(first) = self.numbered_from {
            forwarded::message(out, seq.wrapping_sub(first), message);
        }
    }

    /// Answers request `seq` with `reply`; whatever can leave goes to `out`.
    pub fn answer(&mut self, seq: u32, reply: &[u8], out: &mut Vec<u8>) {
        if self.is_numbered() {
            self.answer_numbered(seq, reply, out);
        } else if seq == self.base && !self.slots.is_empty() {
            out.extend_from_slice(reply);
            self.pop();
            self.advance(out);
        } else if let Some(slot) = self.slot(seq) {
            *slot = Slot::Ready(Stash::new(reply));
        }
    }

    fn answer_numbered(&mut self, seq: u32, reply: &[u8], out: &mut Vec<u8>) {
        match self.slot(seq) {
            None | Some(Slot::Ready(_)) => return,
            Some(slot) => *slot = Slot::Ready(Stash::new(&[])),
        }
        self.tell(seq, Message::Reply(reply), out);
        while let Some(Slot::Ready(_)) = self.slots.front() {
            self.pop();
        }
    }

    /// The request was executed, and waits for its acknowledgement.
    pub fn keep(&mut self, seq: u32, reply: &[u8], since: u32) {
        if let Some(slot) = self.slot(seq) {
            *slot = Slot::Acking { reply: Stash::new(reply), since };
        }
    }

    /// The acknowledgement of `seq` is over: its own reply leaves, or `instead`. Returns since when it waited.
    pub fn release(&mut self, seq: u32, instead: Option<&[u8]>, out: &mut Vec<u8>) -> Option<u32> {
        let slot = self.slot(seq)?;
        if !matches!(slot, Slot::Acking { .. }) {
            return None;
        }
        let Slot::Acking { reply, since } = std::mem::replace(slot, Slot::Waiting) else { return None };
        self.answer(seq, instead.unwrap_or(reply.bytes()), out);
        Some(since)
    }

    /// Numbers of the requests whose acknowledgement has not come by `deadline` (`since` at or before it).
    pub fn overdue(&self, now: u32, limit: u32) -> Vec<u32> {
        let late = |since: u32| now.wrapping_sub(since) >= limit;
        self.slots
            .iter()
            .enumerate()
            .filter(|(_, slot)| match slot {
                Slot::Acking { since, .. } => late(*since),
                Slot::Gathering(gather) => gather.acking_since().is_some_and(late),
                Slot::Waiting | Slot::Ready(_) => false,
            })
            .map(|(n, _)| self.base.wrapping_add(n as u32))
            .collect()
    }

    fn pop(&mut self) {
        self.slots.pop_front();
        self.base = self.base.wrapping_add(1);
    }

    fn advance(&mut self, out: &mut Vec<u8>) {
        while let Some(Slot::Ready(reply)) = self.slots.front() {
            out.extend_from_slice(reply.bytes());
            self.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn replies_leave_in_the_order_of_requests() {
        let mut session = Session::starting_at(u32::MAX - 1);
        let mut out = Vec::new();
        let seqs: Vec<u32> = (0..4).map(|_| session.open(Slot::Waiting)).collect();
        session.answer(seqs[2], b"c", &mut out);
        session.keep(seqs[1], b"b", 7);
        assert!(out.is_empty());
        session.answer(seqs[0], b"a", &mut out);
        assert_eq!(out, b"a");
        assert_eq!(session.release(seqs[1], None, &mut out), Some(7));
        assert_eq!(out, b"abc");
        session.answer(seqs[3], b"d", &mut out);
        assert_eq!(out, b"abcd");
        assert!(session.is_idle());
    }

    #[test]
    fn late_and_doubled_replies_are_ignored() {
        let mut session = Session::starting_at(5);
        let mut out = Vec::new();
        session.answer(5, b"x", &mut out);
        let seq = session.open(Slot::Waiting);
        session.answer(seq, b"a", &mut out);
        session.answer(seq, b"a", &mut out);
        assert_eq!(session.release(seq, None, &mut out), None);
        assert_eq!(out, b"a");
    }

    #[test]
    fn an_acknowledgement_can_turn_into_an_error() {
        let mut session = Session::default();
        let mut out = Vec::new();
        let seq = session.open(Slot::Waiting);
        session.keep(seq, b"+OK\r\n", 100);
        assert_eq!(session.overdue(150, 60), Vec::<u32>::new());
        assert_eq!(session.overdue(160, 60), [seq]);
        session.release(seq, Some(b"-X\r\n"), &mut out);
        assert_eq!(out, b"-X\r\n");
    }

    #[test]
    fn numbered_replies_leave_when_they_are_ready() {
        let mut session = Session::starting_at(u32::MAX);
        session.number_replies();
        let seqs: Vec<u32> = (0..3).map(|_| session.open(Slot::Waiting)).collect();
        let said = |out: &mut Vec<u8>| {
            let bytes = std::mem::take(out);
            let (number, message) = forwarded::parse(&bytes).expect("one message");
            let Message::Reply(reply) = message else { panic!("{message:?}") };
            (number, String::from_utf8_lossy(reply).into_owned())
        };
        let mut out = Vec::new();
        session.answer(seqs[2], b"+c\r\n", &mut out);
        assert_eq!(said(&mut out), (2, "+c\r\n".to_owned()));
        session.keep(seqs[1], b"+b\r\n", 7);
        session.answer(seqs[0], b"+a\r\n", &mut out);
        assert_eq!(said(&mut out), (0, "+a\r\n".to_owned()));
        session.answer(seqs[0], b"+again\r\n", &mut out);
        assert_eq!((out.len(), session.owed()), (0, 2));
        session.release(seqs[1], None, &mut out);
        assert_eq!(said(&mut out), (1, "+b\r\n".to_owned()));
        assert!(session.is_idle());
    }

    #[test]
    fn slots_are_small() {
        assert!(size_of::<Slot>() <= 32, "{}", size_of::<Slot>());
    }

    proptest! {
        #[test]
        fn any_order_of_answers_gives_the_same_bytes(order in Just((0u8..20).collect::<Vec<_>>()).prop_shuffle(), acks in any::<u32>()) {
            let mut session = Session::starting_at(u32::MAX - 7);
            let mut out = Vec::new();
            let first = session.next();
            for _ in 0..20 { session.open(Slot::Waiting); }
            for n in &order {
                let seq = first.wrapping_add(u32::from(*n));
                if acks >> n & 1 == 1 { session.keep(seq, &[*n], 0); } else { session.answer(seq, &[*n], &mut out); }
            }
            for n in &order {
                session.release(first.wrapping_add(u32::from(*n)), None, &mut out);
            }
            prop_assert_eq!(out, (0u8..20).collect::<Vec<_>>());
        }
    }
}
