//! The network between two regions of a local store: a TCP relay that can be cut.
//!
//! Every proxy of A reaches B's broker, and B's proxies, through relays A→B. While it is cut nothing is forwarded, connections that
//! exist freeze and new ones hang, as when packets are lost. Healing closes what was frozen, so that clients connect
//! anew: after a cut of minutes a real network's connections are as dead.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Most connections of one relay; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 512;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Binds the relay's port.
pub(super) async fn bind(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await
}

/// Forwards connections to `target` until it is dropped, as long as `cut` is false.
pub(super) async fn run(listener: TcpListener, target: SocketAddr, mut cut: watch::Receiver<bool>) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        if cut.wait_for(|cut| !*cut).await.is_err() {
            return;
        }
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = connections.join_next(), if !connections.is_empty() => continue,
        };
        match accepted {
            Ok((client, _)) => {
                let cut = cut.clone();
                connections.spawn(async move {
                    forward(client, target, cut).await;
                    drop(slot);
                });
            }
            // Out of descriptors, mostly: give connections time to end.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn forward(mut client: TcpStream, target: SocketAddr, mut cut: watch::Receiver<bool>) {
    let mut cut_seen = cut.clone();
    let traffic = async {
        if let Ok(Ok(mut server)) = timeout(CONNECT_TIMEOUT, TcpStream::connect(target)).await {
            // Small batches must not wait for each other.
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            let wait = cut_seen.wait_for(|cut| *cut);
            tokio::select! {
                biased;
                _ = wait => return Some(server),
                // How a connection ends is the business of its two ends.
                _ = copy_bidirectional(&mut client, &mut server) => {}
            }
        }
        None
    };
    if let Some(_frozen) = traffic.await {
        let _ = cut.wait_for(|cut| !*cut).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        address
    }

    async fn says(stream: &mut TcpStream, word: &[u8; 4]) -> bool {
        if stream.write_all(word).await.is_err() {
            return false;
        }
        let mut reply = [0; 4];
        match timeout(Duration::from_millis(300), stream.read_exact(&mut reply)).await {
            Ok(Ok(_)) => reply == *word,
            Ok(Err(_)) | Err(_) => false,
        }
    }

    #[tokio::test]
    async fn a_cut_freezes_old_and_new_connections_and_heal_lets_new_ones_through() {
        let target = echo().await;
        let listener = bind(0).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (cut, seen) = watch::channel(false);
        let relay = tokio::spawn(run(listener, target, seen));

        let mut before = TcpStream::connect(address).await.unwrap();
        assert!(says(&mut before, b"ping").await);
        cut.send(true).unwrap();
        assert!(!says(&mut before, b"lost").await, "an old connection is frozen");
        let mut during = TcpStream::connect(address).await.unwrap();
        assert!(!says(&mut during, b"hang").await, "a new connection hangs");

        cut.send(false).unwrap();
        let mut rest = Vec::new();
        let closed = timeout(Duration::from_secs(5), before.read_to_end(&mut rest)).await;
        assert!(closed.is_ok() && rest.is_empty(), "the frozen connection is closed, nothing comes late");
        let mut after = TcpStream::connect(address).await.unwrap();
        assert!(says(&mut after, b"pong").await);
        relay.abort();
    }
}
