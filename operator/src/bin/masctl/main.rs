//! masctl: runs a multi-active store on this machine from its manifest, shows how it is, cuts and heals its network; shows how a store in
//! a cluster is, also as kubectl's plugin `kubectl-mas`. The command line only; everything that it does is in the library.

mod args;
mod bundle;
mod failure;
mod inspect;
mod locate;
mod op;
mod place;
mod progress;
mod run;
mod table;
mod top;
mod verify;

use std::process::ExitCode;

use args::{Args, Called, Command};
use failure::Failure;

fn main() -> ExitCode {
    let args = match args::parse(Called::now()) {
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
    if place.cluster().is_some()
        && let Some(instead) = place::instead_in_a_cluster(&args.command)
    {
        return Err(Failure::usage(instead));
    }
    match args.command {
        Command::Up(up) => run::up(&place, &up),
        Command::Down(down) => run::down(&place, &down),
        Command::Status(status) => block(inspect::status(&place, &status)),
        Command::Endpoints(endpoints) => block(inspect::endpoints(&place, &endpoints)),
        Command::Cut(cut) => block(inspect::cut(&place, &cut)),
        Command::Heal(pair) => block(inspect::heal(&place, &pair)),
        Command::Fault(fault) => block(inspect::fault(&place, &fault)),
        Command::Verify(args) => block(verify::verify(&place, &args)),
        Command::Apply(apply) => block(op::apply(&place, &apply)),
        Command::Op(command) => block(op::op(&place, &command)),
        Command::Top(top) => block(top::top(&place, &top)),
        Command::Plan(plan) => block(inspect::plan(&place, &plan)),
        Command::SupportBundle(args) => block(bundle::support_bundle(&place, &args)),
        Command::Completion { shell } => {
            let called = Called::now();
            clap_complete::generate(shell, &mut called.command(), called.file(), &mut std::io::stdout());
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
