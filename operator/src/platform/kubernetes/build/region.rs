//! The row of a region.

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

/// The operation by which it joins. What people may change of it is not set here.
pub(super) fn operation(store: &Checked, region: &CheckedRegion) -> Object {
    let of = &store.spec.name;
    let name = &region.spec.name;
    let body = json!({"spec": {"storeRef": {"name": of}, "type": "ScaleOut", "region": name}});
    let labels = labels::region(of, name, region.id);
    Object::new(Kind::StoreOperation, labels::operation_name(of, name, region.id), &labels, body)
}
