//! The identity record.

use serde_json::json;

use crate::platform::kubernetes::check::Checked;
use crate::platform::kubernetes::identity::KEY;
use crate::platform::kubernetes::labels;
use crate::platform::kubernetes::object::{Kind, Object};

/// A ConfigMap that stays with the volumes. The health loop writes it, too.
pub(crate) fn object(store: &Checked) -> Object {
    let name = &store.spec.name;
    let body = json!({"data": {KEY: store.identity.text()}});
    let object = Object::new(Kind::ConfigMap, labels::identity_name(name), &labels::store(name), body)
        .over(&store.identity_version);
    if store.keeps_data() { object.kept() } else { object }
}
