//! `make demo`: two regions on this machine, real servers, ordinary clients, one story: both are written to, they are
//! cut off from each other, go on, disagree, are joined again, and agree; then a third region joins, and a shard is killed. Everything
//! that is printed was measured.

mod conflicts;
mod counters;
mod growth;
mod lag;
mod screen;
mod shop;

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use e2e::keyspace::{self, Keyspace};
use e2e::{Keep, Store};

use conflicts::{SCENES, SHORT_SESSION};
use counters::Counters;
use lag::Probe;
use screen::Screen;
use shop::{Shop, Sold};

const MANIFEST: &str = include_str!("../../../../examples/two-regions.yaml");
const OPENING_HOURS: Duration = Duration::from_secs(6);
const CUT: Duration = Duration::from_secs(6);
const EQUAL_WITHIN: Duration = Duration::from_secs(30);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    let mut screen = Screen::new();
    if let Err(error) = watch_interrupts() {
        eprintln!("the demonstration failed: {error:#}");
        return ExitCode::FAILURE;
    }
    match tell(&mut screen) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) if interrupted() => {
            screen.say("interrupted; everything was stopped and removed");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("\nthe demonstration failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn tell(screen: &mut Screen) -> Result<()> {
    screen.chapter("Two regions");
    screen.say("masctl up -f examples/two-regions.yaml: per region 2 Redis shards with a replica each, a RabbitMQ, 2 proxies");
    let mut store = Store::start_with(MANIFEST, Keep::Nothing)?;
    let mut sold = Sold::default();
    let told = story(screen, &store, &mut sold)
        .and_then(|()| growth::join(screen, &mut store, &mut sold))
        .and_then(|()| growth::kill(screen, &store, &mut sold));
    let told = if interrupted() { Err(anyhow!("interrupted")) } else { told };
    if told.is_ok() && screen.is_terminal() && std::env::var_os("CI").is_none() {
        stay(screen, &store);
    }
    let ended = store.finish();
    told.and(ended)
}

fn story(screen: &mut Screen, store: &Store, sold: &mut Sold) -> Result<()> {
    let names = store.regions();
    let [here, there] = names[..] else {
        bail!("the story is about two regions, the manifest has {}", names.len())
    };
    let status = store.status()?;
    for region in &status.regions {
        screen
            .say(format!("{:<10} {:<8} redis-cli -u redis://{}", region.name, region.phase, region.endpoint));
    }
    screen.say(format!("{} processes run", status.processes.iter().filter(|p| p.pid.is_some()).count()));
    let mut one = store.connect(here)?;
    let mut other = store.connect(there)?;
    check_interrupt()?;

    screen.chapter("Both are open for reads and writes");
    shop::open(&mut one)?;
    conflicts::prepare(&mut one)?;
    let equal = keyspace::wait_equal(store, "*", EQUAL_WITHIN)?;
    screen.say(format!("a shop was stocked in {here}; {there} has all {} keys", equal.len()));
    let before = Counters::read(store)?;
    let shop = Shop::start(store, 2, 1)?;
    let probes = [Probe::start(store, here, there)?, Probe::start(store, there, here)?];
    watch(screen, &shop, OPENING_HOURS)?;
    let [outward, back] = probes.map(Probe::finish);
    let (outward, back) = (outward?, back?);
    let written = shop.written();
    shop.close(sold)?;
    screen.say(format!(
        "customers came to both at once: {} (carts, stock, sessions, leaderboard)",
        counts(&written)
    ));
    screen.say("seen in the other region after, from the moment a write is sent:");
    screen.say(format!("  {here} -> {there}:  {}", lag::show(&outward)));
    screen.say(format!("  {there} -> {here}:  {}", lag::show(&back)));
    let space = keyspace::wait_equal(store, "*", EQUAL_WITHIN)?;
    shop::check(&space, sold).map_err(|why| anyhow!(why))?;
    let pieces = sold.total();
    screen.say(format!(
        "{} keys, equal; {pieces} pieces sold, and exactly so many are missing from the stock",
        space.len()
    ));
    check_interrupt()?;

    screen.chapter("The network between them is cut");
    // Anew, as the short sessions among them have ended by now.
    conflicts::prepare(&mut one)?;
    keyspace::wait_equal(store, "*", EQUAL_WITHIN)?;
    let at_cut = Instant::now();
    store.cut(here, there)?;
    screen.say(format!("masctl cut {here} {there}: no packet passes; both sides go on"));
    let sent = conflicts::play(&mut one, &mut other)?;
    screen.say(format!(
        "{sent} commands write the same {} keys on both sides, each against the other",
        SCENES.len()
    ));
    let shop = Shop::start(store, 2, 100)?;
    let left = CUT.saturating_sub(at_cut.elapsed()).max(SHORT_SESSION);
    watch(screen, &shop, left)?;
    let written = shop.written();
    shop.close(sold)?;
    screen.say(format!("customers noticed nothing: {}, none refused", counts(&written)));
    let (cut_one, cut_other) = (keyspace::read(&mut one, "*")?, keyspace::read(&mut other, "*")?);
    let apart = keyspace::differences(&cut_one, &cut_other).len();
    let all = cut_one.len() + cut_other.keys().filter(|key| !cut_one.contains_key(*key)).count();
    screen.say(format!("after {:.1} s, {apart} of {all} keys differ", at_cut.elapsed().as_secs_f64()));
    check_interrupt()?;

    screen.chapter("Healed");
    let healed = Instant::now();
    store.heal(here, there)?;
    let space = converge(screen, store, healed)?;
    let after = Counters::read(store)?;
    shop::check(&space, sold).map_err(|why| anyhow!(why))?;
    let pieces = sold.total();
    screen
        .say(format!("{pieces} pieces sold in all, on both sides of the cut; the stock agrees to the piece"));
    for line in after.since(&before).lines() {
        screen.say(line);
    }

    screen.chapter("What became of the conflicts");
    report(screen, [here, there], [&cut_one, &cut_other], &space)?;
    screen.say(format!("both regions are equal: {} keys compared, values and expiry, 0 differ", space.len()));
    Ok(())
}

/// Waits until both are equal, and shows how it goes.
fn converge(screen: &Screen, store: &Store, healed: Instant) -> Result<Keyspace> {
    let names = store.regions();
    let mut connections = names.iter().map(|name| store.connect(name)).collect::<Result<Vec<_>>>()?;
    let mut first = None;
    let mut before = usize::MAX;
    loop {
        let asked = healed.elapsed();
        let spaces = connections.iter_mut().map(|c| keyspace::read(c, "*")).collect::<Result<Vec<_>>>()?;
        let apart = keyspace::differences(&spaces[0], &spaces[1]);
        if apart.is_empty() {
            let equal = asked.as_secs_f64();
            screen.say(format!("all {} keys were equal {equal:.2} s after the healing", spaces[0].len()));
            return Ok(spaces.into_iter().next().unwrap_or_default());
        }
        if apart.len() < before && before != usize::MAX && first.is_none() {
            first = Some(asked);
            screen.say(format!(
                "the first of the other side's writes were seen after {:.2} s",
                asked.as_secs_f64()
            ));
        }
        before = apart.len();
        screen.passing(format!("{before} keys differ"));
        if healed.elapsed() > EQUAL_WITHIN {
            let example = String::from_utf8_lossy(&apart[0].key).into_owned();
            bail!(
                "{} keys still differ {EQUAL_WITHIN:?} after the healing, {example} among them",
                apart.len()
            );
        }
        check_interrupt()?;
        sleep(Duration::from_millis(10));
    }
}

/// The table, and whether everything is as it must be.
fn report(screen: &Screen, names: [&str; 2], cut: [&Keyspace; 2], space: &Keyspace) -> Result<()> {
    let did = |lines: &[&str], key: &str, space: &Keyspace| {
        let short = lines.iter().map(|line| line.replacen(&format!(" {key}"), "", 1)).collect::<Vec<_>>();
        let done = if short.is_empty() { "(nothing)".to_owned() } else { short.join("; ") };
        format!("{done} => {}", conflicts::outcome(space, key))
    };
    let mut wrong = Vec::new();
    let rows: Vec<Vec<String>> = SCENES
        .iter()
        .map(|scene| {
            let outcome = conflicts::outcome(space, scene.key);
            if outcome != scene.outcome {
                wrong.push(format!("{} is {outcome}, not {}", scene.key, scene.outcome));
            }
            vec![
                scene.key.to_owned(),
                did(scene.here, scene.key, cut[0]),
                did(scene.there, scene.key, cut[1]),
                outcome,
                scene.why.to_owned(),
            ]
        })
        .collect();
    let heads = [
        "key",
        &format!("{} during the cut", names[0]),
        &format!("{} during the cut", names[1]),
        "both now",
        "why",
    ];
    screen.table(&heads, &[13, 28, 28, 18, 34], &rows);
    if wrong.is_empty() { Ok(()) } else { bail!("unexpected outcomes: {}", wrong.join("; ")) }
}

fn watch(screen: &Screen, shop: &Shop, duration: Duration) -> Result<()> {
    let started = Instant::now();
    while started.elapsed() < duration {
        check_interrupt()?;
        screen.passing(counts(&shop.written()));
        sleep(Duration::from_millis(100));
    }
    Ok(())
}

fn counts(written: &std::collections::BTreeMap<String, u64>) -> String {
    let parts = written.iter().map(|(region, count)| format!("{count} writes in {region}"));
    parts.collect::<Vec<_>>().join(", ")
}

/// Until Ctrl-C.
fn stay(screen: &mut Screen, store: &Store) {
    screen.chapter("It stays up: try it");
    for region in store.regions() {
        screen.say(format!("redis-cli -u redis://{}      ({region})", store.endpoint(region)));
    }
    let [one, other] = [0, 1].map(|i| store.regions().get(i).map_or(String::new(), ToString::to_string));
    let masctl = format!("{} --state-dir {}", store.masctl_path().display(), store.state_dir().display());
    screen.say(format!("{masctl} cut {one} {other}      (and heal, status, top)"));
    screen.say("Ctrl-C ends it and removes everything");
    while !interrupted() {
        sleep(Duration::from_millis(100));
    }
    screen.say("ending ...");
}

fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

fn check_interrupt() -> Result<()> {
    if interrupted() { Err(anyhow!("interrupted")) } else { Ok(()) }
}

/// From now on Ctrl-C and SIGTERM only set a flag, so that everything is cleaned up on the way out.
fn watch_interrupts() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting a runtime failed")?;
    let signals = {
        let _inside = runtime.enter();
        [SignalKind::interrupt(), SignalKind::terminate()].map(signal)
    };
    let [interrupt, terminate] = signals;
    let (mut interrupt, mut terminate) = (interrupt?, terminate?);
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        INTERRUPTED.store(true, Ordering::Relaxed);
    });
    Ok(())
}
