//! masctl: runs a multi-active store on this machine from its manifest, shows how it is, cuts and heals its network.
//! The command line only; everything that it does is in the library.

mod args;
mod failure;
mod inspect;
mod locate;
mod progress;
mod run;
mod table;
mod top;
mod verify;

use std::process::ExitCode;

use args::{Args, Command};
use clap::{CommandFactory, Parser};
use failure::Failure;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Help and version are no errors.
            let code = if error.use_stderr() { 2 } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    match dispatch(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.print();
            failure.code()
        }
    }
}

fn dispatch(args: Args) -> Result<(), Failure> {
    let place = args.place;
    match args.command {
        Command::Up(up) => run::up(&place, &up),
        Command::Down(down) => run::down(&place, &down),
        Command::Status(status) => block(inspect::status(&place, &status)),
        Command::Endpoints(endpoints) => block(inspect::endpoints(&place, &endpoints)),
        Command::Cut(cut) => block(inspect::cut(&place, &cut)),
        Command::Heal(pair) => block(inspect::heal(&place, &pair)),
        Command::Fault(fault) => block(inspect::fault(&place, &fault)),
        Command::Verify(args) => block(verify::verify(&place, &args)),
        Command::Top(top) => block(top::top(&place, &top)),
        Command::Plan(plan) => inspect::plan(&place, &plan),
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Args::command(), "masctl", &mut std::io::stdout());
            Ok(())
        }
    }
}

fn block(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("starting the runtime failed: {error}")))?
        .block_on(work)
}
