//! Asks all members of all shards who they are, a few times a second and whenever somebody was refused.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::engine;
use super::routing::{Identity, Masters, Report, ShardRouting};
use super::settings::Settings;
use crate::resp::reply;

/// Pause between two questions to a member.
const ASK_EVERY: Duration = Duration::from_millis(250);
/// Shortest pause, however often somebody wants to know.
const ASK_AT_MOST_EVERY: Duration = Duration::from_millis(20);
/// How long a member may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// Reports that may wait for the collector; members wait when it is full.
const REPORTS: usize = 256;

struct News {
    shard: usize,
    member: String,
    asked: u64,
    report: Report,
}

/// Starts asking. The result changes whenever a decision does.
pub fn start(
    settings: watch::Receiver<Arc<Settings>>,
    ask_again: Arc<Notify>,
) -> watch::Receiver<Arc<Masters>> {
    let (publish, masters) = watch::channel(Arc::new(Masters::default()));
    let (rounds, _) = watch::channel(0u64);
    let raise = rounds.clone();
    let again = ask_again.clone();
    tokio::spawn(async move {
        loop {
            ask_again.notified().await;
            raise.send_modify(|round| *round += 1);
            tokio::time::sleep(ASK_AT_MOST_EVERY).await;
        }
    });
    tokio::spawn(collect(settings, rounds, publish, again));
    masters
}

/// Keeps one asking task a member, and decides with every report.
async fn collect(
    mut settings: watch::Receiver<Arc<Settings>>,
    rounds: watch::Sender<u64>,
    publish: watch::Sender<Arc<Masters>>,
    ask_again: Arc<Notify>,
) {
    let (send, mut news) = mpsc::channel(REPORTS);
    let started = Instant::now();
    let mut asking: HashMap<(usize, String), JoinHandle<()>> = HashMap::new();
    let mut current = settings.borrow_and_update().clone();
    let config = &current.config;
    let mut shards: Vec<ShardRouting> = config
        .shards
        .iter()
        .map(|shard| ShardRouting::new(&config.store, config.region.id, shard.shard, &shard.members))
        .collect();
    loop {
        for (n, shard) in current.config.shards.iter().enumerate() {
            shards[n].set_members(&shard.members);
            for member in &shard.members {
                asking.entry((n, member.clone())).or_insert_with(|| {
                    let password = current.engine_password.clone();
                    tokio::spawn(ask_on(n, member.clone(), password, rounds.subscribe(), send.clone()))
                });
            }
        }
        asking.retain(|(n, member), task| {
            let stays = current.config.shards[*n].members.contains(member);
            if !stays {
                task.abort();
            }
            stays
        });
        loop {
            tokio::select! {
                Some(News { shard, member, asked, report }) = news.recv() => {
                    shards[shard].hear(&member, report, asked, started.elapsed().as_millis() as u64);
                    decide(&shards, &publish);
                    if shards[shard].is_changing() {
                        ask_again.notify_one();
                    }
                }
                changed = settings.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let next = settings.borrow_and_update().clone();
                    if next.engine_password != current.engine_password {
                        for (_, task) in asking.drain() {
                            task.abort();
                        }
                    }
                    current = next;
                    break;
                }
            }
        }
    }
}

fn decide(shards: &[ShardRouting], publish: &watch::Sender<Arc<Masters>>) {
    let next = Masters { shards: shards.iter().map(ShardRouting::decide).collect() };
    publish.send_if_modified(|now| {
        if **now == next {
            return false;
        }
        for (n, shard) in next.shards.iter().enumerate() {
            let before = now.shards.get(n).and_then(|s| s.master.as_ref());
            match &shard.master {
                Some(m) if before != Some(m) => {
                    info!(shard = n, engine = m.address, epoch = m.epoch, incarnation = %m.incarnation, "master");
                }
                None if before.is_some() => warn!(shard = n, why = shard.why, "no master"),
                _ => {}
            }
        }
        *now = Arc::new(next);
        true
    });
}

/// Asks one member again and again.
async fn ask_on(
    shard: usize,
    member: String,
    password: Option<String>,
    mut rounds: watch::Receiver<u64>,
    send: mpsc::Sender<News>,
) {
    let mut connection = None;
    loop {
        let asked = *rounds.borrow_and_update();
        let report = ask_once(&member, password.as_deref(), &mut connection).await;
        if send.send(News { shard, member: member.clone(), asked, report }).await.is_err() {
            return;
        }
        tokio::time::sleep(ASK_AT_MOST_EVERY).await;
        let _ = tokio::time::timeout(ASK_EVERY.saturating_sub(ASK_AT_MOST_EVERY), rounds.changed()).await;
    }
}

async fn ask_once(member: &str, password: Option<&str>, connection: &mut Option<TcpStream>) -> Report {
    let asking = async {
        let mut stream = match connection.take() {
            Some(stream) => stream,
            None => engine::connect(member, password.as_slice(), false, PATIENCE).await?,
        };
        let answer = engine::ask(&mut stream, &["MAS.IDENTITY"]).await?;
        *connection = Some(stream);
        Ok::<_, std::io::Error>(answer)
    };
    match tokio::time::timeout(PATIENCE, asking).await {
        Err(_) => Report::Silence,
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::TimedOut => Report::Silence,
        Ok(Err(error)) => Report::Unreachable(format!("cannot be asked: {error}")),
        Ok(Ok(answer)) => identity(&answer),
    }
}

fn identity(answer: &[u8]) -> Report {
    if answer.first() == Some(&b'-') {
        let why = String::from_utf8_lossy(answer[1..].trim_ascii()).into_owned();
        return Report::Error(format!("says: {why}"));
    }
    let texts: Vec<&str> = reply::elements(answer).filter_map(text_of).collect();
    let (pairs, _) = texts.as_chunks::<2>();
    match Identity::from_fields(pairs.iter().map(|[field, value]| (*field, *value))) {
        Some(identity) => Report::Answer(identity),
        None => Report::Error("does not answer MAS.IDENTITY as an engine does".to_owned()),
    }
}

/// A bulk string, simple string or integer as text.
fn text_of(element: &[u8]) -> Option<&str> {
    let bytes = match element.first()? {
        b'$' => reply::bulk(element)?,
        b'+' | b':' => element[1..].trim_ascii_end(),
        _ => return None,
    };
    std::str::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_come_as_text_or_numbers() {
        let mut answer = b"*14\r\n".to_vec();
        for (field, value) in [
            ("store", "shop"),
            ("role", "master"),
            ("state", "serving"),
            ("incarnation", "00000000000000ff"),
            ("region", "1"),
            ("shard", "0"),
        ] {
            crate::resp::encode::bulk(&mut answer, field.as_bytes());
            crate::resp::encode::bulk(&mut answer, value.as_bytes());
        }
        crate::resp::encode::bulk(&mut answer, b"epoch");
        crate::resp::encode::integer(&mut answer, 3);
        assert!(matches!(identity(&answer), Report::Answer(id) if id.epoch == 3), "{:?}", identity(&answer));
        assert!(matches!(identity(b"-LOADING x\r\n"), Report::Error(why) if why == "says: LOADING x"));
        assert!(matches!(identity(b"*0\r\n"), Report::Error(_)));
    }
}
