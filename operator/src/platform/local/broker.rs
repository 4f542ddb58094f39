//! A region's RabbitMQ nodes: their files, their processes, and whether they are ready.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::binaries::Binaries;
use super::layout::{Layout, LayoutError, make_private_folder, write_private, write_with_mode};
use super::process::ProcessSpec;
use super::secrets::Secret;
use super::world::{BrokerNode, RegionPlan};
use crate::platform::broker;
use crate::render::{self, BrokerFile, BrokerUsers};

/// One scheduler and no busy waiting: several brokers share a laptop with everything else.
const ERLANG_ARGS: &str =
    "+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none +SDio 4 -kernel inet_dist_use_interface {127,0,0,1}";

/// Erlang's name of a node; the port mapper is the store's own, so stores never meet.
pub(super) fn node_name(region: &str, node: u16) -> String {
    format!("{region}-{node}@localhost")
}

/// Writes the files of a node and says how to run it.
pub(super) fn prepare(
    layout: &Layout,
    binaries: &Binaries,
    region: &RegionPlan,
    node: &BrokerNode,
    epmd_port: u16,
    password: &Secret,
    cookie: &Secret,
) -> Result<ProcessSpec, LayoutError> {
    let folder = layout.component(&node.component);
    let home = folder.join("home");
    let data = folder.join("data");
    make_private_folder(&home)?;
    make_private_folder(&data)?;
    let config = folder.join("rabbitmq.conf");
    let plugins = folder.join("enabled_plugins");
    let nodes: Vec<_> = (0..).zip(&region.brokers).map(|(i, _)| node_name(&region.name, i)).collect();
    let text = render::rabbitmq(&BrokerFile {
        bind: "127.0.0.1",
        amqp: node.amqp,
        management: node.management,
        users: BrokerUsers::Default(&password.value),
        nodes: &nodes,
        memory: 1 << 30,
        storage: None,
    });
    write_private(&config, text.as_bytes(), false)?;
    write_private(&plugins, b"[rabbitmq_management].\n", false)?;
    write_with_mode(&home.join(".erlang.cookie"), cookie.value.as_bytes(), false, 0o400)?;
    let path = |p: &std::path::Path| p.display().to_string();
    let mut env = BTreeMap::from([
        ("HOME".to_owned(), path(&home)),
        ("LANG".to_owned(), "C.UTF-8".to_owned()),
        ("ERL_EPMD_PORT".to_owned(), epmd_port.to_string()),
        ("ERL_EPMD_ADDRESS".to_owned(), "127.0.0.1".to_owned()),
        ("RABBITMQ_NODENAME".to_owned(), node_name(&region.name, node.number)),
        ("RABBITMQ_DIST_PORT".to_owned(), node.distribution.to_string()),
        ("RABBITMQ_CONFIG_FILE".to_owned(), path(&config)),
        // The system's own settings are not this store's.
        ("RABBITMQ_CONF_ENV_FILE".to_owned(), "/dev/null".to_owned()),
        ("RABBITMQ_ENABLED_PLUGINS_FILE".to_owned(), path(&plugins)),
        ("RABBITMQ_MNESIA_BASE".to_owned(), path(&data)),
        ("RABBITMQ_LOG_BASE".to_owned(), path(&folder)),
        ("RABBITMQ_LOGS".to_owned(), "-".to_owned()),
        ("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS".to_owned(), ERLANG_ARGS.to_owned()),
        // The script then becomes the server instead of waiting beside it: one process to signal.
        ("detached".to_owned(), "1".to_owned()),
    ]);
    let program = if region.brokers.len() > 1 {
        let nodes: Vec<_> =
            nodes.into_iter().zip(region.brokers.iter().map(|node| node.distribution)).collect();
        let formed = path(&layout.formed(&region.name));
        env.extend(
            broker::environment(&nodes, ("127.0.0.1", node.amqp), &formed)
                .map(|(name, value)| (name.to_owned(), value)),
        );
        env.insert("PATH".to_owned(), path_with(&binaries.rabbitmq));
        for (name, text) in broker::FILES {
            write_with_mode(&folder.join(name), text.as_bytes(), false, 0o700)?;
        }
        folder.join(broker::START)
    } else {
        binaries.rabbitmq.clone()
    };
    Ok(ProcessSpec {
        component: node.component.clone(),
        program,
        args: Vec::new(),
        env,
        folder,
        grace: Duration::from_secs(15),
    })
}

/// PATH with a program's own folder first: Debian's wrappers of RabbitMQ's programs insist on its system user.
fn path_with(program: &std::path::Path) -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    let folder = program.parent().map(|folder| folder.display().to_string()).unwrap_or_default();
    format!("{folder}:{path}")
}

/// Whether a node takes AMQP connections.
pub(super) async fn is_ready(port: u16) -> bool {
    matches!(timeout(Duration::from_secs(1), TcpStream::connect(("127.0.0.1", port))).await, Ok(Ok(_)))
}
