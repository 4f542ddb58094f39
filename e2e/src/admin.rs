//! What the parts say of themselves beside `masctl`: a proxy's metrics, a master's identity.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use redis::Connection;

use crate::Store;

const TIMEOUT: Duration = Duration::from_secs(5);

impl Store {
    /// The names of a region's proxies.
    pub fn proxies(&self, region: &str) -> Result<Vec<String>> {
        let prefix = format!("{region}/proxy-");
        let processes = self.status()?.processes.into_iter();
        Ok(processes.map(|process| process.component).filter(|name| name.starts_with(&prefix)).collect())
    }

    /// One metric of a proxy, summed over its labels.
    pub fn metric(&self, proxy: &str, name: &str) -> Result<f64> {
        let port = self.process(proxy)?.port.with_context(|| format!("{proxy} has no admin port"))?;
        metric_at(port, name).with_context(|| format!("reading {name} of {proxy} failed"))
    }

    /// A connection to the engine that is master of a shard.
    pub fn connect_master(&self, region: &str, shard: u16) -> Result<Connection> {
        let status = self.status()?;
        let found = status.region(region).and_then(|r| r.shards.iter().find(|s| s.shard == shard));
        let address = found.and_then(|shard| shard.master.clone());
        self.connect_engine(&address.with_context(|| format!("shard {shard} of {region} has no master"))?)
    }
}

/// One metric of the proxy whose admin port is `port`, summed over its labels.
pub fn metric_at(port: u16, name: &str) -> Result<f64> {
    metric_of((Ipv4Addr::LOCALHOST.into(), port), name)
}

/// The same, of a proxy anywhere.
pub fn metric_of(admin: (IpAddr, u16), name: &str) -> Result<f64> {
    let values: Vec<f64> = fetch(admin, "/metrics")?
        .lines()
        .filter_map(|line| line.strip_prefix(name)?.strip_prefix([' ', '{', ',']))
        .filter_map(|rest| rest.rsplit(' ').next()?.parse().ok())
        .collect();
    if values.is_empty() {
        bail!("there is no metric {name}");
    }
    Ok(values.iter().sum())
}

/// A histogram of Prometheus' text format: upper ends of its buckets, and how many are up to there.
pub struct Histogram(Vec<(f64, u64)>);

impl Histogram {
    /// How many there are in all.
    pub fn count(&self) -> u64 {
        self.0.last().map_or(0, |bucket| bucket.1)
    }

    /// The value below which this part (0 to 1) of all is, interpolated within its bucket, as Prometheus does it.
    pub fn quantile(&self, part: f64) -> f64 {
        let wanted = self.count() as f64 * part;
        let mut below = (0.0, 0);
        for (end, count) in &self.0 {
            if *count as f64 >= wanted && *count > below.1 {
                let inside = (wanted - below.1 as f64) / (count - below.1) as f64;
                return if end.is_finite() { below.0 + (end - below.0) * inside } else { below.0 };
            }
            below = (*end, *count);
        }
        below.0
    }
}

/// A histogram without labels of whoever serves metrics on `port`.
pub fn histogram(port: u16, name: &str) -> Result<Histogram> {
    let bucket = |line: &str| {
        let (end, count) = line.strip_prefix(name)?.strip_prefix("_bucket{le=\"")?.split_once("\"} ")?;
        Some((end.parse().ok()?, count.trim().parse().ok()?))
    };
    Ok(Histogram(fetch((Ipv4Addr::LOCALHOST.into(), port), "/metrics")?.lines().filter_map(bucket).collect()))
}

/// What an engine says of itself (`MAS.IDENTITY`).
pub fn identity(engine: &mut Connection) -> Result<BTreeMap<String, String>> {
    Ok(redis::cmd("MAS.IDENTITY").query(engine)?)
}

fn fetch(admin: (IpAddr, u16), path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(admin)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply)?;
    match reply.split_once("\r\n\r\n") {
        Some((head, body)) if head.contains(" 200 ") => Ok(body.to_owned()),
        _ => bail!("no answer to {path}: {}", reply.lines().next().unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::Histogram;

    #[test]
    fn quantiles_are_interpolated() {
        let histogram = Histogram(vec![(0.1, 50), (0.2, 100), (f64::INFINITY, 100)]);
        assert_eq!(histogram.count(), 100);
        assert!((histogram.quantile(0.5) - 0.1).abs() < 1e-9);
        assert!((histogram.quantile(0.75) - 0.15).abs() < 1e-9);
    }
}
