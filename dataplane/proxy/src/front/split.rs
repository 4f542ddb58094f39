//! Cuts a request with keys in several shards into one request a shard. Pure: words in, frames out.

use mas_commands::Args;
use mas_core::stamp::ShardId;

use super::gather::Join;
use crate::resp::encode;

/// One shard's part of a request.
#[derive(Debug, PartialEq, Eq)]
pub struct Part {
    /// The shard.
    pub shard: ShardId,
    /// How many words it has, the name included.
    pub words: usize,
    /// The words, without the head of the array.
    pub body: Vec<u8>,
}

/// Cuts `request`, whose arguments are groups of `group` words that begin with a key, by shard. The name goes first
/// in every part. Returns the parts and, for each key, the part that it went to.
pub fn split<A: Args + ?Sized>(
    request: &A,
    group: usize,
    shard_of: impl Fn(&[u8]) -> ShardId,
) -> (Vec<Part>, Vec<u16>) {
    let mut parts: Vec<Part> = Vec::new();
    let mut order = Vec::with_capacity((request.count() - 1) / group);
    for first in (1..request.count()).step_by(group) {
        let shard = shard_of(request.arg(first));
        let at = parts.iter().position(|part| part.shard == shard).unwrap_or_else(|| {
            let mut body = Vec::new();
            encode::bulk(&mut body, request.arg(0));
            parts.push(Part { shard, words: 1, body });
            parts.len() - 1
        });
        for word in first..(first + group).min(request.count()) {
            encode::bulk(&mut parts[at].body, request.arg(word));
            parts[at].words += 1;
        }
        order.push(at as u16);
    }
    (parts, order)
}

/// How the parts of a split request are joined again.
pub fn join_of(routing: mas_commands::Routing, order: Vec<u16>, random: u32) -> Option<Join> {
    use mas_commands::Routing;
    match routing {
        Routing::SplitSum | Routing::FanOutSum => Some(Join::Sum),
        Routing::SplitValues => Some(Join::Values { order }),
        Routing::SplitPairs | Routing::FanOutOk => Some(Join::First),
        Routing::FanOutJoin => Some(Join::Arrays),
        Routing::FanOutPick => Some(Join::Pick(random)),
        Routing::Slot | Routing::Scan | Routing::Proxy | Routing::Refused => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(key: &[u8]) -> ShardId {
        ShardId(u16::from(key[0] - b'a'))
    }

    #[test]
    fn keys_go_to_their_shards_in_order() {
        let (parts, order) = split(&["DEL", "b", "a", "b2"][..], 1, shard);
        assert_eq!(order, [0, 1, 0]);
        assert_eq!((parts[0].shard, parts[0].words), (ShardId(1), 3));
        assert_eq!(parts[0].body, b"$3\r\nDEL\r\n$1\r\nb\r\n$2\r\nb2\r\n");
        assert_eq!(parts[1].body, b"$3\r\nDEL\r\n$1\r\na\r\n");
    }

    #[test]
    fn pairs_stay_together() {
        let (parts, order) = split(&["MSET", "a", "1", "b", "2", "a3", "3"][..], 2, shard);
        assert_eq!(order, [0, 1, 0]);
        assert_eq!(parts[0].body, b"$4\r\nMSET\r\n$1\r\na\r\n$1\r\n1\r\n$2\r\na3\r\n$1\r\n3\r\n");
        assert_eq!(parts.iter().map(|p| p.words).collect::<Vec<_>>(), [5, 3]);
    }
}
