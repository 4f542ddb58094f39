//! The row of a region.

use crds::Loss;
use serde_json::json;

use crate::platform::kubernetes::check::{Checked, CheckedRegion};
use crate::platform::kubernetes::labels;
use crate::platform::kubernetes::object::{Kind, Object};

/// Its `StoreRegion`. Status is not written here.
pub(super) fn object(store: &Checked, region: &CheckedRegion) -> Object {
    let of = &store.spec.name;
    let name = &region.spec.name;
    let body = json!({"spec": {"storeRef": {"name": of}, "region": name, "id": region.id}});
    let labels = labels::region(of, name, region.id);
    Object::new(Kind::StoreRegion, labels::region_name(of, name), &labels, body)
}

/// The operation by which it joins, or leaves. What people may change of it is not set here.
pub(super) fn operation(store: &Checked, region: &CheckedRegion) -> Object {
    let of = &store.spec.name;
    let name = &region.spec.name;
    let (kind, called) = match region.removing {
        None => ("ScaleOut", labels::operation_name(of, name, region.id)),
        Some(_) => ("Remove", labels::removal_name(of, name, region.id)),
    };
    let body = json!({"spec": {"storeRef": {"name": of}, "type": kind, "region": name}});
    let labels = labels::region(of, name, region.id);
    Object::new(Kind::StoreOperation, called, &labels, body)
}

/// What an operation that mends a loss says of it: it is made in one step, and a status is written in another.
pub(crate) const LOSS: &str = "multiactive.dev/loss";

/// The operation by which a shard is made again of which nothing is left. It is made once.
pub(crate) fn rebuild(of: &str, (region, id): (&str, u16), shard: u16, loss: &Loss) -> Object {
    let body =
        json!({"spec": {"storeRef": {"name": of}, "type": "Rebuild", "region": region, "shard": shard}});
    let name = labels::rebuild_name(of, region, shard, loss.epoch);
    let labels = labels::region(of, region, id);
    let annotations = json!({LOSS: json!(loss).to_string()});
    Object::new(Kind::StoreOperation, name, &labels, body).annotated(&annotations).over("")
}
