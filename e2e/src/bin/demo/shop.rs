//! Everyday traffic of a shop: customers who may be in either region fill carts, buy, and log in.
//! It counts what was sold, so that the stock can be checked to the piece afterwards.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use e2e::Store;
use e2e::keyspace::{Content, Keyspace};
use rand::Rng;
use rand::SeedableRng;
use rand::rngs::StdRng;
use redis::Connection;

/// What there is of each article before anybody comes.
pub(crate) const STOCK: i64 = 100_000;
const ARTICLES: [&str; 8] = ["tea", "silk", "lantern", "brush", "fan", "ink", "jade", "kite"];
const CUSTOMERS: u32 = 60;
const PACE: Duration = Duration::from_millis(2);
const SESSION_SECONDS: u32 = 1800;

/// Customers of all regions.
pub(crate) struct Shop {
    stop: Arc<AtomicBool>,
    written: BTreeMap<String, Arc<AtomicU64>>,
    customers: Vec<JoinHandle<Result<Sold>>>,
}

/// Pieces by article.
pub(crate) type Sold = BTreeMap<&'static str, i64>;

/// Puts the goods on the shelves, in one region.
pub(crate) fn open(connection: &mut Connection) -> Result<()> {
    let mut pipe = redis::pipe();
    for article in ARTICLES {
        pipe.cmd("SET").arg(format!("stock:{article}")).arg(STOCK);
    }
    pipe.exec(connection).context("stocking the shop failed")
}

impl Shop {
    /// Lets `clients` shop in each region until told to stop.
    pub(crate) fn start(store: &Store, clients: usize, seed: u64) -> Result<Self> {
        let mut shop = Self { stop: Arc::default(), written: BTreeMap::new(), customers: Vec::new() };
        for region in store.regions() {
            let written = Arc::new(AtomicU64::new(0));
            for client in 0..clients {
                let mut connection = store.connect(region)?;
                let (told, written) = (Arc::clone(&shop.stop), Arc::clone(&written));
                let mut random = StdRng::seed_from_u64(seed + shop.customers.len() as u64);
                let name = format!("{region}-{client}");
                let who = region.to_owned();
                shop.customers.push(thread::spawn(move || {
                    let mut sold = Sold::new();
                    while !told.load(Ordering::Relaxed) {
                        let bought = visit(&mut connection, &mut random, &name)
                            .with_context(|| format!("a customer in {who} was turned away"))?;
                        *sold.entry(bought.0).or_default() += bought.1;
                        written.fetch_add(WRITES_A_VISIT, Ordering::Relaxed);
                        thread::sleep(PACE);
                    }
                    Ok(sold)
                }));
            }
            shop.written.insert(region.to_owned(), written);
        }
        Ok(shop)
    }

    /// Acknowledged writes by region so far.
    pub(crate) fn written(&self) -> BTreeMap<String, u64> {
        self.written.iter().map(|(region, count)| (region.clone(), count.load(Ordering::Relaxed))).collect()
    }

    /// Sends everybody home and adds to `sold` what was sold. A single refused command is an error.
    pub(crate) fn close(self, sold: &mut Sold) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for customer in self.customers {
            for (article, pieces) in customer.join().map_err(|_| anyhow!("a customer panicked"))?? {
                *sold.entry(article).or_default() += pieces;
            }
        }
        Ok(())
    }
}

const WRITES_A_VISIT: u64 = 6;

/// One visit: log in, put into the cart, buy. All are acknowledged, or it is an error.
fn visit(connection: &mut Connection, random: &mut StdRng, name: &str) -> Result<(&'static str, i64)> {
    let customer = random.random_range(0..CUSTOMERS);
    let article = ARTICLES[random.random_range(0..ARTICLES.len())];
    let pieces = random.random_range(1..=3_i64);
    let (session, cart) = (format!("session:{customer}"), format!("cart:{customer}"));
    redis::cmd("SET").arg(session).arg(name).arg("EX").arg(SESSION_SECONDS).exec(connection)?;
    redis::cmd("HINCRBY").arg(&cart).arg(article).arg(pieces).exec(connection)?;
    redis::cmd("HSET").arg(&cart).arg("last").arg(article).exec(connection)?;
    redis::cmd("SADD").arg(format!("seen:{article}")).arg(customer).exec(connection)?;
    redis::cmd("DECRBY").arg(format!("stock:{article}")).arg(pieces).exec(connection)?;
    redis::cmd("ZINCRBY").arg("bestsellers").arg(pieces).arg(article).exec(connection)?;
    Ok((article, pieces))
}

/// Checks stock and leaderboard against what was sold: to the piece.
pub(crate) fn check(space: &Keyspace, sold: &Sold) -> Result<(), String> {
    let board = match space.get(&b"bestsellers"[..]).map(|entry| &entry.content) {
        Some(Content::Sorted(board)) => board.clone(),
        _ => BTreeMap::new(),
    };
    for article in ARTICLES {
        let pieces = sold.get(article).copied().unwrap_or_default();
        let left = match space.get(format!("stock:{article}").as_bytes()).map(|entry| &entry.content) {
            Some(Content::Text(text)) => String::from_utf8_lossy(text).into_owned(),
            _ => "nothing".into(),
        };
        if left != (STOCK - pieces).to_string() {
            return Err(format!("stock:{article} is {left} though {pieces} of {STOCK} were sold"));
        }
        let score = board
            .get(article.as_bytes())
            .map_or("0".into(), |score| String::from_utf8_lossy(score).into_owned());
        if score != pieces.to_string() {
            return Err(format!("bestsellers has {score} for {article} though {pieces} were sold"));
        }
    }
    Ok(())
}
