//! A history: what clients asked and were told, what was done to the store meanwhile, and what the regions held at the
//! end. One JSON object a line when it is saved.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// Microseconds since the run's start.
pub(crate) type Micros = u64;

/// How long after a fault is over it may still show: requests that were stuck are answered.
pub(crate) const AFTERMATH: Micros = 5_000_000;

/// A whole run.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    /// What run it was.
    pub(crate) run: Run,
    /// In the order of their beginnings.
    pub(crate) ops: Vec<Op>,
    /// In the order of their beginnings.
    pub(crate) faults: Vec<Fault>,
    /// When shards changed their masters.
    pub(crate) changes: Vec<Change>,
    /// What every region held at the end.
    pub(crate) ends: Vec<End>,
}

/// What run it was.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Run {
    /// Everything that was left to chance comes from it.
    pub(crate) seed: u64,
    /// The regions' names; everywhere else they are numbers.
    pub(crate) regions: Vec<String>,
    /// How long clients and faults went on.
    pub(crate) seconds: u64,
    /// Wall clock at the run's end, in unix milliseconds.
    pub(crate) ended_at: i64,
    /// Why the regions did not get equal in time, if they did not.
    pub(crate) unsettled: Option<String>,
    /// Faults that this machine did not allow, and why.
    pub(crate) left_out: Vec<String>,
}

/// The acknowledgement level of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Level {
    /// `MAS.ACK LOCAL`.
    Local,
    /// The store's default.
    Queued,
    /// `MAS.ACK REMOTE 1`.
    Remote,
}

/// One request of a client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Op {
    /// Who: one request at a time.
    pub(crate) process: u32,
    /// Its connection, by a number that is given once.
    pub(crate) session: u32,
    /// Where.
    pub(crate) region: usize,
    /// Of the connection.
    pub(crate) level: Level,
    /// The command.
    pub(crate) words: Vec<String>,
    /// When it was sent.
    pub(crate) start: Micros,
    /// When it was answered, or given up.
    pub(crate) end: Micros,
    /// What came.
    pub(crate) outcome: Outcome,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Outcome {
    /// Answered.
    Ok(Reply),
    /// It was certainly not carried out.
    Failed(String),
    /// Nobody knows: it may have been carried out, or will be.
    Unknown(String),
}

/// A reply, as far as checkers look at it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Reply {
    /// Nothing there.
    Nil,
    /// A number.
    Int(i64),
    /// A text, `OK` too.
    Text(String),
    /// Texts.
    List(Vec<String>),
}

/// Something that was done to the store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Fault {
    /// What, in words that are counted: "master killed".
    pub(crate) kind: String,
    /// To what.
    pub(crate) target: String,
    /// In which region, where it is in one.
    pub(crate) region: Option<usize>,
    /// It is an engine that it hits: its shard may change its master.
    pub(crate) engine: bool,
    /// When it began.
    pub(crate) start: Micros,
    /// When it was undone and what it had hit was ready again.
    pub(crate) end: Micros,
}

/// A shard got another master, or the same one began a new incarnation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Change {
    /// In which region.
    pub(crate) region: usize,
    /// Not before.
    pub(crate) start: Micros,
    /// Not after.
    pub(crate) end: Micros,
}

/// One key of one region at the end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct End {
    /// Where.
    pub(crate) region: usize,
    /// Which.
    pub(crate) key: String,
    /// `string`, `hash`, `set`, `zset`.
    pub(crate) kind: String,
    /// Name and value: of a string one with an empty name, of sets members without values.
    pub(crate) parts: Vec<(String, String)>,
    /// Unix milliseconds.
    pub(crate) expires_at: Option<i64>,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "camelCase")]
enum Line {
    Run(Run),
    Op(Op),
    Fault(Fault),
    Change(Change),
    End(End),
}

impl Op {
    /// The words as `&str`, for matching.
    pub(crate) fn words(&self) -> Vec<&str> {
        self.words.iter().map(String::as_str).collect()
    }

    /// What was answered.
    pub(crate) fn reply(&self) -> Option<&Reply> {
        match &self.outcome {
            Outcome::Ok(reply) => Some(reply),
            Outcome::Failed(_) | Outcome::Unknown(_) => None,
        }
    }

    /// It may have been carried out.
    pub(crate) fn possible(&self) -> bool {
        !matches!(self.outcome, Outcome::Failed(_))
    }
}

impl History {
    /// Whether a shard of `region` changed its master between `from` and `to`, or an engine was hit by a fault.
    pub(crate) fn engine_trouble(&self, region: usize, from: Micros, to: Micros) -> bool {
        let mut changes = self.changes.iter().filter(|change| change.region == region);
        changes.any(|change| change.start <= to && change.end >= from)
            || self.trouble(region, from, to, |fault| fault.engine)
    }

    /// Whether the broker of `region` was away or not itself.
    pub(crate) fn broker_trouble(&self, region: usize, from: Micros, to: Micros) -> bool {
        self.trouble(region, from, to, |fault| fault.kind.starts_with("broker"))
    }

    fn trouble(&self, region: usize, from: Micros, to: Micros, which: impl Fn(&Fault) -> bool) -> bool {
        let mut here = self.faults.iter().filter(|fault| fault.region == Some(region) && which(fault));
        here.any(|fault| fault.start <= to && fault.end.saturating_add(AFTERMATH) >= from)
    }

    /// Whether the store has promised that this answered write stays: at `Queued` and above always, at `Local` as long as
    /// no engine of the region is lost afterwards.
    pub(crate) fn settled(&self, op: &Op) -> bool {
        op.reply().is_some()
            && (op.level > Level::Local || !self.engine_trouble(op.region, op.start, Micros::MAX))
    }

    /// Writes it as JSON lines.
    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        let file = File::create(path).with_context(|| format!("creating {} failed", path.display()))?;
        let mut out = BufWriter::new(file);
        let mut write = |line: Line| -> Result<()> {
            serde_json::to_writer(&mut out, &line)?;
            Ok(out.write_all(b"\n")?)
        };
        write(Line::Run(self.run.clone()))?;
        self.ops.iter().try_for_each(|op| write(Line::Op(op.clone())))?;
        self.faults.iter().try_for_each(|fault| write(Line::Fault(fault.clone())))?;
        self.changes.iter().try_for_each(|change| write(Line::Change(change.clone())))?;
        self.ends.iter().try_for_each(|end| write(Line::End(end.clone())))?;
        out.flush().context("writing the history failed")
    }

    /// Reads what [`History::save`] wrote.
    pub(crate) fn load(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("opening {} failed", path.display()))?;
        let mut all = Self::default();
        for (number, line) in (1..).zip(BufReader::new(file).lines()) {
            let line = line.context("reading failed")?;
            let line = serde_json::from_str(&line)
                .with_context(|| format!("line {number} of {} is no history's", path.display()))?;
            match line {
                Line::Run(run) => all.run = run,
                Line::Op(op) => all.ops.push(op),
                Line::Fault(fault) => all.faults.push(fault),
                Line::Change(change) => all.changes.push(change),
                Line::End(end) => all.ends.push(end),
            }
        }
        all.sort();
        Ok(all)
    }

    /// Brings everything into the order of time.
    pub(crate) fn sort(&mut self) {
        self.ops.sort_by_key(|op| (op.start, op.end, op.process));
        self.faults.sort_by_key(|fault| fault.start);
    }
}
