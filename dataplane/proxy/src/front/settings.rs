//! The configuration as the front uses it: checked, with the slot table spread out and the secrets read.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mas_core::config::ProxyConfig;
use mas_core::slot::SLOTS;
use mas_core::stamp::ShardId;

/// Most shards of a store.
const SHARDS_MAX: usize = 64;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("reading {path}: {source}; check that the file is there and readable")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It is not the JSON that is expected.
    #[error(
        "parsing {path}: {source}; the file is written by the operator or masctl, do not edit it by hand"
    )]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// An address is none.
    #[error("{field}: {value:?} is no address; write host:port")]
    Address {
        /// The field's path.
        field: String,
        /// What is there.
        value: String,
    },
    /// A value makes no sense.
    #[error("{field}: {problem}")]
    Value {
        /// The field's path.
        field: String,
        /// What is wrong, and what to write.
        problem: String,
    },
    /// A value that cannot change while the proxy runs did.
    #[error("{field} cannot change while the proxy runs; restart the proxy")]
    Fixed {
        /// The field's path.
        field: &'static str,
    },
}

/// Who clients have to say they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// User name.
    pub username: String,
    /// Password.
    pub password: String,
}

impl Credentials {
    /// Whether name and password are right. Takes the same time wherever they differ.
    pub fn accept(&self, username: &[u8], password: &[u8]) -> bool {
        same(self.username.as_bytes(), username) & same(self.password.as_bytes(), password)
    }
}

fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differ, (x, y)| differ | (x ^ y)) == 0
}

/// A checked configuration.
#[derive(Debug)]
pub struct Settings {
    /// As it was written.
    pub config: Arc<ProxyConfig>,
    /// Where to listen for clients.
    pub listen: SocketAddr,
    /// Where to answer admin requests.
    pub admin: SocketAddr,
    /// What clients have to show; `None`: nothing.
    pub credentials: Option<Credentials>,
    /// What engines want to be shown; `None`: nothing.
    pub engine_password: Option<String>,
    slots: Box<[u16]>,
}

impl Settings {
    /// Reads and checks the file; `name`: in place of the proxy's name in it.
    pub fn read(path: &Path, name: Option<&str>) -> Result<Self, SettingsError> {
        let text = read(path)?;
        let mut config: ProxyConfig = serde_json::from_str(&text)
            .map_err(|source| SettingsError::Parse { path: path.to_owned(), source })?;
        if let Some(name) = name {
            name.clone_into(&mut config.proxy);
        }
        Self::check(config)
    }

    /// Checks a configuration and reads the secrets that it names.
    pub fn check(config: ProxyConfig) -> Result<Self, SettingsError> {
        let slots = spread_slots(&config)?;
        if config.region.id == 0 {
            return Err(value("region.id", "0 is no region id; ids start at 1"));
        }
        if config.max_connections == 0 {
            return Err(value("maxConnections", "0 would let nobody in; write at least 1"));
        }
        if config.ack == mas_core::config::AckLevel::Remote
            && (config.remote_acks == 0 || usize::from(config.remote_acks) > config.peers.len())
        {
            let peers = config.peers.len();
            return Err(value(
                "remoteAcks",
                &format!("must be from 1 to the number of peers, {peers}, with Remote"),
            ));
        }
        for (n, peer) in config.peers.iter().enumerate() {
            if let Some(endpoint) = peer.endpoint.as_ref().filter(|endpoint| !is_address(endpoint)) {
                let field = format!("peers[{n}].endpoint");
                return Err(SettingsError::Address { field, value: endpoint.clone() });
            }
        }
        let credentials = match &config.client_auth {
            None => None,
            Some(auth) => {
                Some(Credentials { username: auth.username.clone(), password: secret(&auth.password_file)? })
            }
        };
        let engine_password = config.engine_password_file.as_deref().map(secret).transpose()?;
        Ok(Self {
            listen: address("listen", &config.listen)?,
            admin: address("admin", &config.admin)?,
            credentials,
            engine_password,
            slots,
            config: Arc::new(config),
        })
    }

    /// Checks that the change from `self` to `next` needs no restart.
    pub fn check_change(&self, next: &Self) -> Result<(), SettingsError> {
        let (old, new) = (&self.config, &next.config);
        let fixed = [
            ("store", old.store == new.store),
            ("proxy", old.proxy == new.proxy),
            ("region", old.region == new.region),
            ("listen", self.listen == next.listen),
            ("admin", self.admin == next.admin),
            ("shards (their number)", old.shards.len() == new.shards.len()),
            ("workers", old.workers == new.workers),
        ];
        match fixed.iter().find(|(_, same)| !same) {
            Some((field, _)) => Err(SettingsError::Fixed { field }),
            None => Ok(()),
        }
    }

    /// The shard that holds a slot.
    pub fn shard_of_slot(&self, slot: u16) -> ShardId {
        ShardId(self.slots[usize::from(slot)])
    }

    /// The shard that holds a key.
    pub fn shard_of(&self, key: &[u8]) -> ShardId {
        self.shard_of_slot(mas_core::slot::slot_of(key))
    }

    /// How many shards there are.
    pub fn shards(&self) -> u16 {
        self.config.shards.len() as u16
    }
}

fn spread_slots(config: &ProxyConfig) -> Result<Box<[u16]>, SettingsError> {
    if config.shards.is_empty() || config.shards.len() > SHARDS_MAX {
        return Err(value("shards", &format!("must be from 1 to {SHARDS_MAX} shards")));
    }
    let mut slots = vec![u16::MAX; usize::from(SLOTS)].into_boxed_slice();
    for (n, shard) in config.shards.iter().enumerate() {
        let field = format!("shards[{n}]");
        if usize::from(shard.shard) != n {
            return Err(value(
                &format!("{field}.shard"),
                "shards must be listed in order of their numbers, from 0",
            ));
        }
        if shard.members.is_empty() {
            return Err(value(&format!("{field}.members"), "at least one engine must be named"));
        }
        for member in &shard.members {
            if !is_address(member) {
                return Err(SettingsError::Address {
                    field: format!("{field}.members"),
                    value: member.clone(),
                });
            }
        }
        for &(first, last) in &shard.slots {
            if first > last || last >= SLOTS {
                return Err(value(&format!("{field}.slots"), "ranges go from first to last, below 16384"));
            }
            for slot in &mut slots[usize::from(first)..=usize::from(last)] {
                if *slot != u16::MAX {
                    return Err(value(
                        &format!("{field}.slots"),
                        &format!("shard {slot} has some of them already"),
                    ));
                }
                *slot = shard.shard;
            }
        }
    }
    match slots.iter().position(|shard| *shard == u16::MAX) {
        Some(slot) => Err(value("shards", &format!("no shard has slot {slot}; all 16384 must be given out"))),
        None => Ok(slots),
    }
}

/// `host:port`, which need not resolve yet.
fn is_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

fn value(field: &str, problem: &str) -> SettingsError {
    SettingsError::Value { field: field.to_owned(), problem: problem.to_owned() }
}

fn address(field: &str, text: &str) -> Result<SocketAddr, SettingsError> {
    let mut found = text.to_socket_addrs().ok().into_iter().flatten();
    found.next().ok_or_else(|| SettingsError::Address { field: field.to_owned(), value: text.to_owned() })
}

fn read(path: &Path) -> Result<String, SettingsError> {
    std::fs::read_to_string(path).map_err(|source| SettingsError::Read { path: path.to_owned(), source })
}

/// A secret from a file, without the line end that editors and shells put there.
fn secret(path: &Path) -> Result<String, SettingsError> {
    Ok(read(path)?.trim_end_matches(['\r', '\n']).to_owned())
}

#[cfg(test)]
pub(crate) mod tests {
    use mas_core::config::{
        AckLevel, BrokerConfig, OnBrokerLoss, PeerConfig, RegionRef, Retention, ShardConfig,
    };
    use mas_core::slot::even_ranges;

    use super::*;

    /// A configuration of `shards` shards with one member each, on ports that nobody listens on.
    pub(crate) fn config(shards: u16) -> ProxyConfig {
        let shard = |shard| ShardConfig {
            shard,
            members: vec![format!("127.0.0.1:{}", 1 + shard)],
            slots: even_ranges(shard, shards),
            fsync_always: false,
        };
        ProxyConfig {
            generation: 1,
            store: "shop".into(),
            proxy: "p1".into(),
            region: RegionRef { name: "here".into(), id: 1 },
            listen: "127.0.0.1:0".into(),
            admin: "127.0.0.1:0".into(),
            shards: (0..shards).map(shard).collect(),
            broker: BrokerConfig {
                nodes: vec!["127.0.0.1:1".into()],
                vhost: "/".into(),
                username: "u".into(),
                password_file: "/dev/null".into(),
            },
            peers: vec![],
            membership: 1,
            ack: AckLevel::Local,
            remote_acks: 1,
            on_broker_loss: OnBrokerLoss::Degrade,
            retention: Retention { seconds: 60, bytes: 1 << 20 },
            max_lag_ms: 1000,
            evacuate_after_ms: mas_core::config::evacuate_after_ms(),
            drained: false,
            gone: Vec::new(),
            engine_password_file: None,
            client_auth: None,
            max_connections: 100,
            workers: 1,
        }
    }

    fn problem(change: impl FnOnce(&mut ProxyConfig)) -> String {
        let mut config = config(2);
        change(&mut config);
        Settings::check(config).map(|_| ()).expect_err("refused").to_string()
    }

    #[test]
    fn slots_go_to_their_shards() {
        let settings = Settings::check(config(3)).expect("valid");
        assert_eq!(settings.shard_of_slot(0), ShardId(0));
        assert_eq!(settings.shard_of_slot(16383), ShardId(2));
        assert_eq!(settings.shard_of(b"{x}a"), settings.shard_of(b"{x}b"));
    }

    #[test]
    fn mistakes_are_named_with_their_field() {
        assert_eq!(
            problem(|c| c.shards[1].slots = vec![(8192, 16000)]),
            "shards: no shard has slot 16001; all 16384 must be given out"
        );
        assert!(
            problem(|c| c.shards[1].slots = vec![(0, 16383)]).starts_with("shards[1].slots: shard 0 has")
        );
        assert!(problem(|c| c.shards[1].shard = 7).starts_with("shards[1].shard"));
        assert!(problem(|c| c.shards[0].members = vec!["x".into()]).contains("\"x\" is no address"));
        let there = |broker| PeerConfig {
            region: RegionRef { name: "there".into(), id: 2 },
            broker,
            endpoint: Some("there".into()),
        };
        assert!(
            problem(|c| c.peers.push(there(c.broker.clone())))
                .starts_with("peers[0].endpoint: \"there\" is no address")
        );
        assert!(problem(|c| c.shards.clear()).starts_with("shards: "));
        assert!(problem(|c| c.region.id = 0).starts_with("region.id"));
        assert!(problem(|c| c.listen = "nowhere".into()).starts_with("listen"));
        assert!(problem(|c| c.ack = AckLevel::Remote).starts_with("remoteAcks"));
        assert!(problem(|c| c.engine_password_file = Some("/no/such/file".into())).contains("/no/such/file"));
    }

    #[test]
    fn what_needs_a_restart_is_refused_as_a_change() {
        let old = Settings::check(config(2)).expect("valid");
        let mut changed = config(2);
        changed.generation = 2;
        changed.ack = AckLevel::Queued;
        changed.shards[0].members.push("127.0.0.1:9".into());
        assert!(old.check_change(&Settings::check(changed).expect("valid")).is_ok());
        let other = Settings::check(config(3)).expect("valid");
        assert!(old.check_change(&other).expect_err("fixed").to_string().starts_with("shards"));
    }

    #[test]
    fn proxies_that_share_a_file_have_names_of_their_own() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), serde_json::to_vec(&config(1)).expect("json")).expect("written");
        let name = |own: Option<&str>| Settings::read(file.path(), own).expect("valid").config.proxy.clone();
        assert_eq!((name(None), name(Some("pod-7"))), ("p1".to_owned(), "pod-7".to_owned()));
    }

    #[test]
    fn credentials_are_compared_whole() {
        let credentials = Credentials { username: "default".into(), password: "secret".into() };
        assert!(credentials.accept(b"default", b"secret"));
        assert!(!credentials.accept(b"default", b"secre"));
        assert!(!credentials.accept(b"other", b"secret"));
    }
}
