//! The proxy of a region: `mas-proxy --config FILE`.

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser as _;
use mas_proxy::cli::{Cli, LogFormat};
use mas_proxy::front::replication::Replication;
use mas_proxy::front::settings::Settings;
use mas_proxy::replication::Replicator;
use tracing_subscriber::EnvFilter;

/// Exit code of a configuration that cannot be used.
const BAD_CONFIGURATION: u8 = 64;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let settings = match Settings::read(&cli.config, cli.name.as_deref()) {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("mas-proxy: {error}");
            return ExitCode::from(BAD_CONFIGURATION);
        }
    };
    if cli.check {
        println!("{} can be used", cli.config.display());
        return ExitCode::SUCCESS;
    }
    match serve(cli, settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mas-proxy: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(cli: Cli, settings: Settings) -> anyhow::Result<()> {
    start_log(&cli)?;
    end_on_panic();
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("installing the TLS provider: there is another one already"))?;
    // The workers and the replication side have threads of their own; this one asks engines and answers admin requests.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let replicate = |wiring| Ok(Arc::new(Replicator::start(wiring)?) as Arc<dyn Replication>);
    runtime.block_on(mas_proxy::run::run(cli.config, cli.name, settings, replicate))
}

fn start_log(cli: &Cli) -> anyhow::Result<()> {
    // The AMQP library logs each failed attempt as an error; the proxy says it in its own words, once. `lapin=...` shows it.
    let filter = EnvFilter::try_new(format!("lapin=off,io_loop=off,{}", cli.log))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match cli.log_format {
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}

/// A panic is a bug, and what it leaves behind cannot be trusted: the process ends at once and is started again.
/// Nothing acknowledged is in it alone; what it had not published is swept by the other proxies.
fn end_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        report(info);
        std::process::abort();
    }));
}
