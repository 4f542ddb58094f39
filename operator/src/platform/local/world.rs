//! The parts of a local store with their addresses: computed once from manifest and record. Pure.

use super::Component;
use super::record::Record;

/// All parts.
#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) regions: Vec<RegionPlan>,
    pub(super) links: Vec<LinkPlan>,
    pub(super) epmd: u16,
}

/// One region's parts.
#[derive(Clone, Debug)]
pub(super) struct RegionPlan {
    pub(super) name: String,
    pub(super) id: u16,
    pub(super) joining: bool,
    /// Its clients are served by another region.
    pub(super) drained: bool,
    pub(super) client: u16,
    pub(super) shards: Vec<Vec<RedisNode>>,
    pub(super) brokers: Vec<BrokerNode>,
    pub(super) proxies: Vec<ProxyNode>,
}

/// One Redis server.
#[derive(Clone, Debug)]
pub(super) struct RedisNode {
    pub(super) component: Component,
    pub(super) port: u16,
}

/// One RabbitMQ node.
#[derive(Clone, Debug)]
pub(super) struct BrokerNode {
    pub(super) component: Component,
    pub(super) number: u16,
    pub(super) amqp: u16,
    pub(super) management: u16,
    pub(super) distribution: u16,
}

/// One proxy.
#[derive(Clone, Debug)]
pub(super) struct ProxyNode {
    pub(super) component: Component,
    pub(super) admin: u16,
}

/// The way from one region to one server of another.
#[derive(Clone, Debug)]
pub(super) struct LinkPlan {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) what: Component,
    pub(super) port: u16,
    pub(super) target: u16,
}

/// `host:port` on loopback.
pub(super) fn address(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

/// Names of all ports that a store needs.
pub(super) fn port_names(store: &crds::Validated, record: &Record) -> Vec<String> {
    let mut names = vec!["epmd".to_owned()];
    for region in &store.regions {
        let region = &region.name;
        names.push(client_port(region));
        for shard in 0..store.shards {
            for node in 0..=store.redis.replicas {
                names.push(redis(region, shard, node).to_string());
            }
        }
        for node in 0..store.broker.replicas {
            names.extend(["amqp", "management", "distribution"].map(|what| broker_port(region, node, what)));
        }
        for node in 0..store.proxy.replicas {
            names.push(proxy(region, node).to_string());
        }
        for peer in store.regions.iter().filter(|peer| peer.name != *region) {
            for node in 0..store.broker.replicas {
                names.push(relay_port(region, &broker(&peer.name, node)));
            }
            names.push(relay_port(region, &clients(&peer.name)));
            for shard in (0..store.shards).filter(|shard| record.copies(region, *shard)) {
                for node in 0..=store.redis.replicas {
                    names.push(relay_port(region, &redis(&peer.name, shard, node)));
                }
            }
        }
    }
    names
}

fn redis(region: &str, shard: u16, node: u16) -> Component {
    Component::Redis { region: region.to_owned(), shard, node }
}

fn proxy(region: &str, node: u16) -> Component {
    Component::Proxy { region: region.to_owned(), node }
}

fn broker(region: &str, node: u16) -> Component {
    Component::Broker { region: region.to_owned(), node }
}

/// What stands for the port where a region's proxies take clients: they share it.
pub(super) fn clients(region: &str) -> Component {
    proxy(region, 0)
}

fn client_port(region: &str) -> String {
    format!("{region}/clients")
}

fn broker_port(region: &str, node: u16, what: &str) -> String {
    format!("{}/{what}", broker(region, node))
}

fn relay_port(from: &str, to: &Component) -> String {
    format!("{from}->{to}")
}

/// All parts of `store`. The record's ports hold every name of [`port_names`].
pub(super) fn plan(store: &crds::Validated, record: &Record) -> World {
    let port = |name: &str| record.ports.get(name).copied().unwrap_or_default();
    let id = |name: &str| record.regions.iter().find(|region| region.name == name).map(|region| region.id);
    let joining = record.joining();
    let regions = store.regions.iter().map(|region| {
        let name = &region.name;
        let shards = (0..store.shards).map(|shard| {
            let node = |node| {
                let component = redis(name, shard, node);
                RedisNode { port: port(&component.to_string()), component }
            };
            (0..=store.redis.replicas).map(node).collect()
        });
        let brokers = (0..store.broker.replicas).map(|number| BrokerNode {
            component: broker(name, number),
            number,
            amqp: port(&broker_port(name, number, "amqp")),
            management: port(&broker_port(name, number, "management")),
            distribution: port(&broker_port(name, number, "distribution")),
        });
        let proxies = (0..store.proxy.replicas).map(|node| {
            let component = proxy(name, node);
            ProxyNode { admin: port(&component.to_string()), component }
        });
        RegionPlan {
            name: name.clone(),
            id: id(name).unwrap_or_default(),
            joining: joining.contains(name),
            drained: region.traffic == crds::Traffic::Drained || record.leaving(name).is_some(),
            client: port(&client_port(name)),
            shards: shards.collect(),
            brokers: brokers.collect(),
            proxies: proxies.collect(),
        }
    });
    let regions: Vec<_> = regions.collect();
    let mut links = Vec::new();
    for from in &regions {
        for to in regions.iter().filter(|to| to.name != from.name) {
            let copied = (0u16..).zip(&to.shards).filter(|(shard, _)| record.copies(&from.name, *shard));
            let redis = copied.flat_map(|(_, nodes)| nodes);
            let servers = to.brokers.iter().map(|node| (&node.component, node.amqp));
            let servers = servers.chain(redis.map(|node| (&node.component, node.port)));
            // For shards that have no master in the region itself.
            let clients = clients(&to.name);
            for (what, target) in servers.chain([(&clients, to.client)]) {
                links.push(LinkPlan {
                    from: from.name.clone(),
                    to: to.name.clone(),
                    port: port(&relay_port(&from.name, what)),
                    what: what.clone(),
                    target,
                });
            }
        }
    }
    World { regions, links, epmd: port("epmd") }
}

impl World {
    /// Where `from` reaches a server of another region.
    pub(super) fn way(&self, from: &str, what: &Component) -> Option<u16> {
        self.links.iter().find(|link| link.from == from && link.what == *what).map(|link| link.port)
    }

    /// The region called `name`.
    pub(super) fn region(&self, name: &str) -> Option<&RegionPlan> {
        self.regions.iter().find(|region| region.name == name)
    }
}
