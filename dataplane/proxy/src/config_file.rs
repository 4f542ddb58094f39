//! Watches the configuration file and takes over what it says, without a restart.
//!
//! The file is replaced as a whole by whoever writes it, in Kubernetes by way of symbolic links, so it is simply read
//! again once a second. A file that cannot be used changes nothing; the reason is logged and shown in /status.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mas_core::config::ProxyConfig;
use tokio::sync::watch;
use tracing::{error, info};

use crate::front::settings::{Settings, SettingsError};

/// How often the file is read.
const EVERY: Duration = Duration::from_secs(1);

/// The configuration in its two forms, and why the file's latest state is not in use.
pub struct Watched {
    /// For the front.
    pub settings: watch::Receiver<Arc<Settings>>,
    /// For the replication side.
    pub config: watch::Receiver<Arc<ProxyConfig>>,
    /// Why the file's latest state is not in use.
    pub refused: watch::Receiver<Option<String>>,
}

/// Starts watching `path`, whose content now is `first`; `name`: in place of the proxy's name in it.
pub fn watch(path: PathBuf, name: Option<String>, first: Settings) -> Watched {
    let first = Arc::new(first);
    let (config_send, config) = watch::channel(first.config.clone());
    let (settings_send, settings) = watch::channel(first);
    let (refused_send, refused) = watch::channel(None);
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(EVERY).await;
            let now = settings_send.borrow().clone();
            let (path, name) = (path.clone(), name.clone());
            let read = tokio::task::spawn_blocking(move || Settings::read(&path, name.as_deref()));
            let Ok(read) = read.await else { return };
            match change(&now, read) {
                Ok(None) => {
                    refused_send.send_if_modified(|refused| refused.take().is_some());
                }
                Ok(Some(next)) => {
                    info!(generation = next.config.generation, "took over a new configuration");
                    refused_send.send_replace(None);
                    config_send.send_replace(next.config.clone());
                    settings_send.send_replace(Arc::new(next));
                }
                Err(refusal) => {
                    let refusal = refusal.to_string();
                    refused_send.send_if_modified(|refused| {
                        let news = refused.as_deref() != Some(refusal.as_str());
                        if news {
                            error!(
                                why = refusal,
                                "the changed configuration is not used; the old one stays in use"
                            );
                            *refused = Some(refusal.clone());
                        }
                        news
                    });
                }
            }
        }
    });
    Watched { settings, config, refused }
}

/// What reading the file means: nothing new, a change, or one that cannot be used.
fn change(now: &Settings, read: Result<Settings, SettingsError>) -> Result<Option<Settings>, SettingsError> {
    let next = read?;
    // Credentials may change without the file that names them.
    if next.config == now.config
        && next.credentials == now.credentials
        && next.engine_password == now.engine_password
    {
        return Ok(None);
    }
    now.check_change(&next)?;
    Ok(Some(next))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::front::settings::tests::config;

    #[test]
    fn only_changes_that_need_no_restart_are_taken_over() {
        let now = Settings::check(config(2)).expect("valid");
        assert!(matches!(change(&now, Settings::check(config(2))), Ok(None)));
        let mut next = config(2);
        next.generation = 7;
        assert!(matches!(change(&now, Settings::check(next)), Ok(Some(s)) if s.config.generation == 7));
        assert!(matches!(change(&now, Settings::check(config(1))), Err(SettingsError::Fixed { .. })));
    }
}
