//! Asks the Redis server beside it whether it lives and whether it is ready: what the probes of a shard's pods run.
//!
//! Nothing but the standard library is in it, and it knows no password: it is started every other second in every pod.

#![forbid(unsafe_code)]

mod ask;
mod cli;

use std::process::ExitCode;

use cli::Wanted;

/// Exit code of a command line that cannot be used.
const BAD_USAGE: u8 = 2;

fn main() -> ExitCode {
    let probe = match cli::parse(std::env::args_os().skip(1)) {
        Ok(Wanted::Help) => {
            print!("{}", cli::HELP);
            return ExitCode::SUCCESS;
        }
        Ok(Wanted::Version) => {
            println!("mas-probe {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Ok(Wanted::Probe(probe)) => probe,
        Err(why) => {
            eprintln!("mas-probe: {why}");
            return ExitCode::from(BAD_USAGE);
        }
    };
    match ask::ask(probe) {
        Ok(found) => {
            eprintln!("mas-probe: {found}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("mas-probe: {why}");
            ExitCode::FAILURE
        }
    }
}
