//! Everyday traffic of a shop: customers who may be in either region fill carts, buy, and log in.
//! It counts what was sold, so that the stock can be checked to the piece afterwards.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

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
    /// Milliseconds.
    longest_wait: Arc<AtomicU64>,
    customers: Vec<JoinHandle<Result<Sold>>>,
}

/// What customers did to the two counters of each article.
#[derive(Default)]
pub(crate) struct Sold {
    stock: BTreeMap<&'static str, Pieces>,
    board: BTreeMap<&'static str, Pieces>,
    /// Requests that were under way when a server died: they were executed or not.
    pub(crate) unknown: u64,
}

#[derive(Clone, Copy, Default)]
struct Pieces {
    /// Acknowledged.
    sure: i64,
    /// Of requests with unknown outcome.
    unsure: i64,
}

impl Pieces {
    fn add(&mut self, pieces: i64, is_known: bool) {
        *(if is_known { &mut self.sure } else { &mut self.unsure }) += pieces;
    }

    fn allows(self, counted: i64) -> bool {
        (self.sure..=self.sure + self.unsure).contains(&counted)
    }
}

impl Sold {
    /// Pieces that were certainly sold.
    pub(crate) fn total(&self) -> i64 {
        self.stock.values().map(|pieces| pieces.sure).sum()
    }

    fn absorb(&mut self, other: &Self) {
        self.unknown += other.unknown;
        for (mine, theirs) in [(&mut self.stock, &other.stock), (&mut self.board, &other.board)] {
            for (article, pieces) in theirs {
                let of = mine.entry(*article).or_default();
                (of.sure, of.unsure) = (of.sure + pieces.sure, of.unsure + pieces.unsure);
            }
        }
    }
}

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
        let mut shop = Self {
            stop: Arc::default(),
            longest_wait: Arc::default(),
            written: BTreeMap::new(),
            customers: Vec::new(),
        };
        for region in store.regions() {
            let written = Arc::new(AtomicU64::new(0));
            for client in 0..clients {
                let mut connection = store.connect(region)?;
                let (told, written) = (Arc::clone(&shop.stop), Arc::clone(&written));
                let longest = Arc::clone(&shop.longest_wait);
                let mut random = StdRng::seed_from_u64(seed + shop.customers.len() as u64);
                let name = format!("{region}-{client}");
                let who = region.to_owned();
                shop.customers.push(thread::spawn(move || {
                    let mut sold = Sold::default();
                    while !told.load(Ordering::Relaxed) {
                        let begun = Instant::now();
                        visit(&mut connection, &mut random, &name, &mut sold)
                            .with_context(|| format!("a customer in {who} was turned away"))?;
                        longest.fetch_max(begun.elapsed().as_millis() as u64, Ordering::Relaxed);
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

    /// How long the longest visit took.
    pub(crate) fn longest_visit(&self) -> Duration {
        Duration::from_millis(self.longest_wait.load(Ordering::Relaxed))
    }

    /// Sends everybody home and adds to `sold` what was sold. A single refused command is an error.
    pub(crate) fn close(self, sold: &mut Sold) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for customer in self.customers {
            sold.absorb(&customer.join().map_err(|_| anyhow!("a customer panicked"))??);
        }
        Ok(())
    }
}

const WRITES_A_VISIT: u64 = 6;

/// One visit: log in, put into the cart, buy. All are acknowledged, or of unknown outcome, or it is an error.
fn visit(connection: &mut Connection, random: &mut StdRng, name: &str, sold: &mut Sold) -> Result<()> {
    let customer = random.random_range(0..CUSTOMERS);
    let article = ARTICLES[random.random_range(0..ARTICLES.len())];
    let pieces = random.random_range(1..=3_i64);
    let (session, cart) = (format!("session:{customer}"), format!("cart:{customer}"));
    let mut ask = |command: &redis::Cmd| match command.exec(connection) {
        Ok(()) => Ok(true),
        Err(error) if error.code() == Some("MASUNKNOWN") => {
            sold.unknown += 1;
            Ok(false)
        }
        Err(error) => Err(error),
    };
    ask(redis::cmd("SET").arg(session).arg(name).arg("EX").arg(SESSION_SECONDS))?;
    ask(redis::cmd("HINCRBY").arg(&cart).arg(article).arg(pieces))?;
    ask(redis::cmd("HSET").arg(&cart).arg("last").arg(article))?;
    ask(redis::cmd("SADD").arg(format!("seen:{article}")).arg(customer))?;
    let taken = ask(redis::cmd("DECRBY").arg(format!("stock:{article}")).arg(pieces))?;
    let counted = ask(redis::cmd("ZINCRBY").arg("bestsellers").arg(pieces).arg(article))?;
    sold.stock.entry(article).or_default().add(pieces, taken);
    sold.board.entry(article).or_default().add(pieces, counted);
    Ok(())
}

/// Checks stock and leaderboard against what was sold: to the piece.
pub(crate) fn check(space: &Keyspace, sold: &Sold) -> Result<(), String> {
    let board = match space.get(&b"bestsellers"[..]).map(|entry| &entry.content) {
        Some(Content::Sorted(board)) => board.clone(),
        _ => BTreeMap::new(),
    };
    for article in ARTICLES {
        let number = |text: &str| text.parse::<i64>().ok();
        let left = match space.get(format!("stock:{article}").as_bytes()).map(|entry| &entry.content) {
            Some(Content::Text(text)) => String::from_utf8_lossy(text).into_owned(),
            _ => "nothing".into(),
        };
        let pieces = sold.stock.get(article).copied().unwrap_or_default();
        if !number(&left).is_some_and(|left| pieces.allows(STOCK - left)) {
            let sure = pieces.sure;
            return Err(format!("stock:{article} is {left} though {sure} of {STOCK} were sold"));
        }
        let score = board
            .get(article.as_bytes())
            .map_or("0".into(), |score| String::from_utf8_lossy(score).into_owned());
        let pieces = sold.board.get(article).copied().unwrap_or_default();
        if !number(&score).is_some_and(|score| pieces.allows(score)) {
            return Err(format!("bestsellers has {score} for {article} though {} were sold", pieces.sure));
        }
    }
    Ok(())
}
