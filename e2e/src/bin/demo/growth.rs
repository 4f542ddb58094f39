//! The third act: a region joins while customers shop, and a shard is killed while they do.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use e2e::{OperationStatus, Store, keyspace, process};

use crate::screen::Screen;
use crate::shop::{self, Shop, Sold};
use crate::{EQUAL_WITHIN, check_interrupt, counts, watch};

const MANIFEST: &str = include_str!("../../../../examples/third-region.yaml");
const NEW: &str = "chengdu";
const OPERATION: &str = "shop--scale-out--chengdu-3";
const JOINED_WITHIN: Duration = Duration::from_mins(5);
const AFTER_THE_KILL: Duration = Duration::from_secs(5);

/// Lets a third region join under load.
pub(crate) fn join(screen: &mut Screen, store: &mut Store, sold: &mut Sold) -> Result<()> {
    screen.chapter("A third region joins, live");
    let shop = Shop::start(store, 2, 200)?;
    screen.say("masctl apply -f examples/third-region.yaml: the first two go on serving");
    let begun = Instant::now();
    store.apply(MANIFEST)?;
    let mut told = 0;
    loop {
        let operation = store.operation(OPERATION)?;
        for step in operation.steps.iter().skip(told).take_while(|step| step.finished_at.is_some()) {
            screen.say(format!("  done: {}", step.name));
            told += 1;
        }
        if operation.phase == "Succeeded" {
            break;
        }
        wait(screen, &operation, begun)?;
    }
    let written = shop.written();
    shop.close(sold)?;
    screen.say(format!(
        "{NEW} joined in {:.1} s; meanwhile: {}, none refused",
        begun.elapsed().as_secs_f64(),
        counts(&written)
    ));
    store.look_again()?;
    check(screen, store, sold)
}

fn wait(screen: &mut Screen, operation: &OperationStatus, begun: Instant) -> Result<()> {
    check_interrupt()?;
    if operation.phase == "Failed" || begun.elapsed() > JOINED_WITHIN {
        bail!("{NEW} did not join: {operation:?}");
    }
    screen.passing(format!(
        "{}: {}",
        operation.step.as_deref().unwrap_or("waits"),
        operation.message.as_deref().unwrap_or_default()
    ));
    std::thread::sleep(Duration::from_millis(200));
    Ok(())
}

/// Kills a master while customers shop in all three regions.
pub(crate) fn kill(screen: &mut Screen, store: &Store, sold: &mut Sold) -> Result<()> {
    screen.chapter("A shard is killed");
    let shop = Shop::start(store, 2, 300)?;
    watch(screen, &shop, Duration::from_secs(1))?;
    let master = store.master(NEW, 0)?;
    process::kill(store.pid(&master)?)?;
    screen.say(format!("kill -9: {master}, the master of the new region's first shard"));
    watch(screen, &shop, AFTER_THE_KILL)?;
    let (written, longest) = (shop.written(), shop.longest_visit());
    shop.close(sold)?;
    screen.say(format!("{}; the longest visit took {} ms", counts(&written), longest.as_millis()));
    screen.say(format!(
        "{} requests were under way, and told that nobody knows whether they were executed",
        sold.unknown
    ));
    check(screen, store, sold)
}

fn check(screen: &mut Screen, store: &Store, sold: &Sold) -> Result<()> {
    let space = keyspace::wait_equal(store, "*", EQUAL_WITHIN)?;
    shop::check(&space, sold).map_err(|why| anyhow!(why))?;
    let (regions, pieces) = (store.regions().len(), sold.total());
    screen.say(format!(
        "{} keys, equal in {regions} regions; {pieces} pieces sold in all, and the stock agrees",
        space.len()
    ));
    Ok(())
}
