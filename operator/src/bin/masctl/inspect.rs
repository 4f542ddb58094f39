//! The commands that ask a store, or compare a manifest with what there is.

use std::fs;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use crds::{OperationPhase, OperationType};
use operator::platform::kubernetes::{Catalog, Expected, Remote};
use operator::platform::local::{Client, Fault, Request};
use operator::view::StoreStatus;
use tokio::time::sleep;

use crate::args::{self, FaultKind, Output, Place};
use crate::failure::{Failure, say};
use crate::place::Where;
use crate::{locate, op, table};

/// An operation that hands over waits for a minute at most until it begins, and is given up after another.
const HANDED_OVER: Duration = Duration::from_mins(3);

/// `masctl status`.
pub(crate) async fn status(place: &Place, args: &args::Status) -> Result<(), Failure> {
    let store = Where::find(place).await?;
    if let Some(seconds) = args.wait_active {
        return wait_active(&store, args.output, Duration::from_secs(seconds)).await;
    }
    loop {
        let text = render(&store.status().await?, args.output)?;
        if !args.watch {
            return print(&text);
        }
        if std::io::stdout().is_terminal() {
            // Home, then clear what is below.
            print(&format!("\x1b[H\x1b[J{text}"))?;
        } else {
            print(&format!("{text}\n"))?;
        }
        sleep(Duration::from_secs(1)).await;
    }
}

async fn wait_active(store: &Where, output: Output, limit: Duration) -> Result<(), Failure> {
    let deadline = Instant::now() + limit;
    loop {
        let status = store.status().await?;
        if status.is_active() {
            return print(&render(&status, output)?);
        }
        if Instant::now() > deadline {
            print(&render(&status, output)?)?;
            return Err(Failure::failed(format!("not every region is active after {} s", limit.as_secs())));
        }
        sleep(store.pace()).await;
    }
}

fn render(status: &StoreStatus, output: Output) -> Result<String, Failure> {
    let odd = |error: String| Failure::failed(format!("writing the status failed: {error}"));
    match output {
        Output::Table => Ok(table::status(status)),
        Output::Json => {
            serde_json::to_string_pretty(status).map(|text| text + "\n").map_err(|e| odd(e.to_string()))
        }
        Output::Yaml => serde_yaml::to_string(status).map_err(|e| odd(e.to_string())),
    }
}

/// A reader that has gone away (`| head`) is no failure.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => other.map_err(|error| Failure::failed(format!("writing failed: {error}"))),
    }
}

/// `masctl endpoints`.
pub(crate) async fn endpoints(place: &Place, args: &args::Endpoints) -> Result<(), Failure> {
    let (endpoints, notes) = Where::find(place).await?.endpoints().await?;
    for note in &notes {
        say(note);
    }
    let Some(name) = &args.region else { return print(&table::endpoints(&endpoints)) };
    // Whoever is outside a cluster reaches its load balancers alone.
    let of_region = endpoints.iter().filter(|endpoint| endpoint.region == *name);
    if let Some(endpoint) = of_region.max_by_key(|endpoint| endpoint.balanced) {
        print(&format!("{}\n", endpoint.uri()))
    } else {
        let mut known: Vec<_> = endpoints.iter().map(|endpoint| endpoint.region.as_str()).collect();
        known.dedup();
        Err(Failure::usage(format!("there is no region '{name}': the regions are {}", known.join(", "))))
    }
}

/// `masctl cut`.
pub(crate) async fn cut(place: &Place, args: &args::Cut) -> Result<(), Failure> {
    let (a, b) = (args.pair.a.clone(), args.pair.b.clone());
    let words = if args.one_way {
        format!("what {a} writes no longer reaches {b}; both go on serving")
    } else {
        format!("the network between {a} and {b} is cut; both go on serving")
    };
    Client::new(&locate::existing(place)?).ask(&Request::Cut { a, b, one_way: args.one_way }).await?;
    say(&words);
    Ok(())
}

/// `masctl heal`.
pub(crate) async fn heal(place: &Place, pair: &args::Pair) -> Result<(), Failure> {
    let (a, b) = (pair.a.clone(), pair.b.clone());
    Client::new(&locate::existing(place)?).ask(&Request::Heal { a, b }).await?;
    say(&format!("the network between {} and {} is whole again", pair.a, pair.b));
    Ok(())
}

/// `masctl handover`.
pub(crate) async fn handover(place: &Place, args: &args::Handover) -> Result<(), Failure> {
    let at = Where::find(place).await?;
    let layout = match &at {
        Where::Machine(layout) => layout,
        Where::Cluster(remote) => {
            let kind = OperationType::Switchover;
            let started = remote.start(kind, &args.region, Some(args.shard), args.to).await?;
            return handed_over(&at, &started.map_err(Failure::failed)?).await;
        }
    };
    let done = Client::new(layout).handover(&args.region, args.shard, args.to).await?;
    let name = |address: Option<String>| address.unwrap_or_else(|| "another member".into());
    let (to, from) = (name(done.to), name(done.from));
    print(&format!("{to} is master in place of {from}; clients waited for {} ms\n", done.pause_millis))
}

/// Waits for the end of the operation that hands over.
async fn handed_over(at: &Where, name: &str) -> Result<(), Failure> {
    let status = op::until_over(at, name, HANDED_OVER).await?.status;
    let words = status.message.unwrap_or_default();
    match status.phase {
        OperationPhase::Succeeded => print(&format!("{words}\n")),
        OperationPhase::Failed | OperationPhase::RolledBack => {
            Err(Failure::failed(format!("{name} came to nothing: {words}")))
        }
        OperationPhase::Pending | OperationPhase::Running => Err(Failure::failed(format!(
            "{name} goes on: `masctl op show {name} --watch`; is the operator running?"
        ))),
    }
}

/// `masctl fault`.
pub(crate) async fn fault(place: &Place, args: &args::FaultArgs) -> Result<(), Failure> {
    let fault = match (args.kind, args.no_restart) {
        (FaultKind::Kill, false) => Fault::Kill,
        (FaultKind::Kill, true) => Fault::KillAndHold,
        (FaultKind::Pause, false) => Fault::Pause,
        (FaultKind::Resume, false) => Fault::Resume,
        (FaultKind::Pause | FaultKind::Resume, true) => {
            return Err(Failure::usage("--no-restart goes with kill only: leave it out"));
        }
    };
    let request = Request::Fault { component: args.component.clone(), fault };
    Client::new(&locate::existing(place)?).ask(&request).await?;
    Ok(())
}

/// `masctl plan`.
pub(crate) async fn plan(place: &Place, args: &args::Plan) -> Result<(), Failure> {
    let text = fs::read_to_string(&args.file)
        .map_err(|error| Failure::failed(format!("reading {} failed: {error}", args.file.display())))?;
    let bad = |invalid| Failure::configuration(format!("{}: {invalid}", args.file.display()));
    let manifest = crds::parse(&text).map_err(bad)?;
    let store = crds::validate(&manifest).map_err(bad)?;
    if let Some(mut access) = place.cluster() {
        check_namespace(place, &manifest)?;
        access.namespace = access.namespace.or(manifest.metadata.namespace.clone());
        let catalog = args.catalog.as_deref().map(Catalog::read).transpose();
        let expected = Expected {
            catalog: catalog.map_err(|error| Failure::configuration(error.to_string()))?,
            operator_namespace: args.operator_namespace.clone(),
        };
        return print(&Remote::plan(&access, &manifest, &expected).await?);
    }
    let layout = locate::for_store(place, &store.name)?;
    print(&operator::platform::local::plan(&layout, &store)?)
}

/// kubectl refuses the same.
fn check_namespace(place: &Place, manifest: &crds::Manifest) -> Result<(), Failure> {
    locate::check_name(place, &manifest.metadata.name)?;
    match (&place.namespace, &manifest.metadata.namespace) {
        (Some(wanted), Some(has)) if wanted != has => Err(Failure::usage(format!(
            "--namespace {wanted} was given, but the manifest is of namespace '{has}': leave one of them out"
        ))),
        _ => Ok(()),
    }
}
