//! The operator on a Kubernetes with nodes: real kubelets run the images' real redis-servers, RabbitMQ brokers and proxies. Two nodes
//! are two regions. (`KUBECONFIG` names another cluster.)

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod deletion;
mod faults;
mod growth;
mod story;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use e2e::cluster::{Cluster, Deployed, Namespace, Operator};

/// How long a store may take to be there, images and volumes included.
const FOUNDING: Duration = Duration::from_mins(4);
/// How long it may take to be well again after something bad.
const RECOVERY: Duration = Duration::from_mins(2);

/// A small store, one region on each node.
fn manifest(name: &str, more: &str) -> String {
    let region = |name: &str, node: u8| {
        format!(
            "{{name: {name}, placement: {{nodeSelector: {{topology.kubernetes.io/region: region-{node}}}}}}}"
        )
    };
    format!(
        "apiVersion: multiactive.dev/v1alpha1\nkind: MultiActiveStore\nmetadata: {{name: {name}}}\nspec: {{regions: [{}, {}], \
         broker: {{replicas: 1, storage: {{size: 8Gi}}, resources: {SMALL}}}, redis: {{maxMemory: 64Mi, resources: {SMALL}}}, \
         proxy: {{replicas: 1, resources: {SMALL}}}, replication: {{retention: {{bytes: 512Mi}}}}{more}}}\n",
        region("a", 1),
        region("b", 2),
    )
}

/// Two cores are all there is.
const SMALL: &str = "{requests: {cpu: 50m}}";

/// A namespace with a store that is active, and its operator.
struct Place {
    namespace: Namespace,
    operator: Operator,
    _turn: MutexGuard<'static, ()>,
}

impl Place {
    fn new(name: &str, more: &str) -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let namespace = Cluster::with_nodes().namespace(name).unwrap();
        namespace.apply(&manifest("shop", more)).unwrap();
        let operator = namespace.operator(&["--identity", "first"]).unwrap();
        let place = Self { namespace, operator, _turn: turn };
        if let Err(error) = place.store().wait_active(FOUNDING) {
            panic!("{error:#}\n{}", place.picture());
        }
        place
    }

    fn store(&self) -> Deployed<'_> {
        Deployed::new(&self.namespace, "shop", &["a", "b"])
    }

    /// For a person who looks for what went wrong.
    fn picture(&self) -> String {
        let ask = |args: &[&str]| self.namespace.kubectl(args).unwrap_or_else(|error| error.to_string());
        format!(
            "{}\n{}\n{}",
            ask(&["get", "mas,masr,pods", "-o", "wide"]),
            ask(&["get", "events", "--sort-by=.lastTimestamp"]),
            self.operator.log()
        )
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Its processes would be in the next test's way.
        let _ = self.namespace.kubectl(&["delete", "mas", "--all", "--wait=false"]);
        let _ = self.namespace.kubectl(&[
            "delete",
            "pods",
            "--all",
            "--grace-period=1",
            "--wait=true",
            "--timeout=60s",
        ]);
    }
}
