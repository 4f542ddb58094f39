//! Builds the objects of a checked store. Pure: the same input gives the same objects, to the byte.

mod broker;
mod identity;
mod network;
mod pods;
mod proxy;
mod redis;
mod region;
mod secrets;

use super::check::{Checked, CheckedRegion};
use super::object::Object;

/// Every object of the store, in the order in which they are applied.
pub fn build(store: &Checked) -> Vec<Object> {
    let mut objects = vec![identity::object(store), secrets::credentials(store)];
    for region in store.regions.iter().filter(|region| region.is_member) {
        objects.extend(inner(store, region));
        if region.joining {
            objects.push(region::operation(store, region));
        } else {
            objects.extend(front(store, region));
        }
    }
    for region in &store.removing {
        objects.push(region::operation(store, region));
        if region.is_member {
            objects.extend(told(store, region));
        }
    }
    objects.sort_by_key(|object| object.kind);
    objects
}

/// What a region that leaves is still told; its servers are left as they are.
fn told(store: &Checked, region: &CheckedRegion) -> Vec<Object> {
    let mut objects = vec![region::object(store, region), proxy::configuration(store, region)];
    objects.extend(secrets::of_region(store, region));
    objects.extend(network::policies(store, region));
    objects
}

/// All that is made for a region beside its operation, in the order in which it is deleted: first what makes pods.
pub(super) fn of_region(store: &Checked, region: &CheckedRegion) -> Vec<Object> {
    let mut objects = inner(store, region);
    objects.extend(front(store, region));
    objects.sort_by_key(|object| std::cmp::Reverse(object.kind));
    objects
}

fn inner(store: &Checked, region: &CheckedRegion) -> Vec<Object> {
    let mut objects = vec![region::object(store, region)];
    objects.extend(secrets::of_region(store, region));
    objects.extend(network::policies(store, region));
    objects.extend(broker::objects(store, region));
    objects.extend(redis::objects(store, region));
    objects.extend(proxy::objects(store, region));
    objects
}

/// Where clients connect, and how: not while the region joins.
fn front(store: &Checked, region: &CheckedRegion) -> [Object; 2] {
    [secrets::app(store, region), proxy::service(store, region)]
}

pub(crate) use broker::FORMED as BROKER_FORMED;
pub(crate) use region::{LOSS, rebuild};

/// The generation of the configuration that a region's proxies should use.
pub(crate) fn proxy_generation(store: &Checked, region: &str) -> Option<u64> {
    let region = store.members().find(|of| of.spec.name == region)?;
    Some(proxy::config(store, region).generation)
}

/// Where clients connect.
pub(crate) const fn client_port() -> u16 {
    proxy::CLIENTS
}

/// Where proxies are asked.
pub(crate) const fn admin_port() -> u16 {
    proxy::ADMIN
}

/// Where engines are asked.
pub(crate) const fn redis_port() -> u16 {
    redis::PORT
}

/// Where brokers take AMQP, and where they are managed.
pub(crate) const fn broker_ports() -> (u16, u16) {
    (broker::AMQP, broker::MANAGEMENT)
}

#[cfg(test)]
mod flows;
#[cfg(test)]
mod tests;
