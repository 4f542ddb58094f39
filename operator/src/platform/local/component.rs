//! Names of the parts of a local store: `beijing/shard-0/redis-1`, `beijing/broker-0`, `beijing/proxy-0`, `epmd`.

use std::fmt;
use std::str::FromStr;

/// One child process.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Component {
    /// One Redis server with the engine.
    Redis {
        /// Its region.
        region: String,
        /// Its shard.
        shard: u16,
        /// Its number in the shard; 0 is only the first, not always the master.
        node: u16,
    },
    /// One RabbitMQ node.
    Broker {
        /// Its region.
        region: String,
        /// Its number.
        node: u16,
    },
    /// One proxy.
    Proxy {
        /// Its region.
        region: String,
        /// Its number.
        node: u16,
    },
    /// The store's Erlang port mapper.
    Epmd,
}

impl Component {
    /// The region that it belongs to.
    pub fn region(&self) -> Option<&str> {
        match self {
            Self::Redis { region, .. } | Self::Broker { region, .. } | Self::Proxy { region, .. } => {
                Some(region)
            }
            Self::Epmd => None,
        }
    }

    /// The folder of the component, relative to the state directory.
    pub fn folder(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Redis { region, shard, node } => write!(f, "{region}/shard-{shard}/redis-{node}"),
            Self::Broker { region, node } => write!(f, "{region}/broker-{node}"),
            Self::Proxy { region, node } => write!(f, "{region}/proxy-{node}"),
            Self::Epmd => f.write_str("epmd"),
        }
    }
}

/// A name that no part can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' names no part of a store: write REGION/shard-N/redis-N, REGION/broker-N, REGION/proxy-N or epmd"
)]
pub struct BadComponent(String);

impl FromStr for Component {
    type Err = BadComponent;

    fn from_str(text: &str) -> Result<Self, BadComponent> {
        fn number(part: &str, prefix: &str) -> Option<u16> {
            part.strip_prefix(prefix)?.strip_prefix('-')?.parse().ok()
        }
        let parts: Vec<_> = text.split('/').collect();
        let found = match parts.as_slice() {
            ["epmd"] => Some(Self::Epmd),
            [region, shard, node] => number(shard, "shard")
                .zip(number(node, "redis"))
                .map(|(shard, node)| Self::Redis { region: (*region).to_owned(), shard, node }),
            [region, part] => {
                let region = (*region).to_owned();
                match (number(part, "broker"), number(part, "proxy")) {
                    (Some(node), _) => Some(Self::Broker { region, node }),
                    (_, Some(node)) => Some(Self::Proxy { region, node }),
                    (None, None) => None,
                }
            }
            _ => None,
        };
        found.ok_or_else(|| BadComponent(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        for name in ["beijing/shard-0/redis-1", "beijing/broker-2", "cn-north/proxy-0", "epmd"] {
            assert_eq!(name.parse::<Component>().map(|c| c.to_string()), Ok(name.to_owned()));
        }
        for name in
            ["", "beijing", "beijing/redis-0", "beijing/shard-0", "beijing/shard-x/redis-0", "a/b/c/d"]
        {
            assert_eq!(name.parse::<Component>(), Err(BadComponent(name.into())));
        }
    }
}
