//! `masctl verify`: whether all regions hold the same.

use std::fmt::Write;

use operator::platform::local::{Client, Verdict};

use crate::args::{self, Output, Place};
use crate::failure::Failure;
use crate::inspect::print;
use crate::{locate, table};

/// `masctl verify`.
pub(crate) async fn verify(place: &Place, args: &args::Verify) -> Result<(), Failure> {
    let layout = locate::existing(place)?;
    let status = Client::new(&layout).status().await?;
    let verdict = operator::platform::local::verify(&layout, &status, args.sample)
        .await
        .map_err(|error| Failure::failed(error.to_string()))?;
    let odd = |error: String| Failure::failed(format!("writing the result failed: {error}"));
    print(&match args.output {
        Output::Table => render(&verdict),
        Output::Json => serde_json::to_string_pretty(&verdict).map_err(|e| odd(e.to_string()))? + "\n",
        Output::Yaml => serde_yaml::to_string(&verdict).map_err(|e| odd(e.to_string()))?,
    })?;
    match (verdict.differences.len(), verdict.undecided.len()) {
        (0, 0) => Ok(()),
        (0, open) => Err(Failure::failed(format!(
            "{open} comparisons could not be decided: try again when `masctl status` shows no lag"
        ))),
        (keys, _) => Err(Failure::failed(format!("the regions differ in {keys} keys"))),
    }
}

fn render(verdict: &Verdict) -> String {
    let mut text = String::new();
    if !verdict.differences.is_empty() {
        let mut rows =
            vec![["KEY", "SHARD", "SLOT", "DIFFERS IN", "REGION", "HOLDS"].map(str::to_owned).to_vec()];
        for found in &verdict.differences {
            for (region, held) in found.regions.iter().zip(&found.held) {
                let (shard, slot) = (found.shard.to_string(), found.slot.to_string());
                rows.push(vec![
                    found.key.clone(),
                    shard,
                    slot,
                    found.what.into(),
                    region.clone(),
                    held.clone(),
                ]);
            }
        }
        text += &table::table(&rows);
        text.push('\n');
    }
    for open in &verdict.undecided {
        let _ = writeln!(text, "Undecided: {open}");
    }
    let values = if verdict.sampled == 0 {
        String::new()
    } else {
        format!(", and the values of {} keys", verdict.sampled)
    };
    let result = if verdict.is_equal() { "they are equal" } else { "see above" };
    let _ = writeln!(
        text,
        "Compared {} slots of {}{values}: {result}.",
        verdict.slots,
        verdict.regions.join(", ")
    );
    text
}
