//! `masctl support-bundle`: one file that tells how a store is.

use std::path::PathBuf;

use jiff::Timestamp;
use operator::bundle::{Bundle, BundleError};
use operator::platform::local::collect_bundle;

use crate::args::{self, Place};
use crate::failure::{Failure, say};
use crate::inspect::print;
use crate::place::Where;

/// `masctl support-bundle`.
pub(crate) async fn support_bundle(place: &Place, args: &args::SupportBundle) -> Result<(), Failure> {
    let store = Where::find(place).await?;
    let (name, about) = match &store {
        Where::Machine(layout) => {
            let name = layout.root().file_name().unwrap_or_default().to_string_lossy().into_owned();
            (name, format!("the store in {}", layout.root().display()))
        }
        Where::Cluster(remote) => {
            (remote.name().to_owned(), format!("the store {} in a cluster", remote.name()))
        }
    };
    let time = Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
    let file = args.output.clone().unwrap_or_else(|| PathBuf::from(format!("{name}-support-{time}.tar.gz")));
    let bundle = Bundle::create(&file, &name)?;
    match fill(&store, args, bundle, &about).await {
        Ok((files, missing)) => {
            if missing > 0 {
                say(&format!("README.txt in it says what could not be read, and why ({missing})"));
            }
            say(&format!(
                "{files} files; passwords are taken out, look through the rest before you give it away"
            ));
            print(&format!("{}\n", file.display()))
        }
        Err(error) => {
            // Half of it is of no use.
            let _ = std::fs::remove_file(&file);
            Err(error.into())
        }
    }
}

async fn fill(
    store: &Where,
    args: &args::SupportBundle,
    mut bundle: Bundle,
    about: &str,
) -> Result<(usize, usize), BundleError> {
    match store {
        Where::Machine(layout) => collect_bundle(layout, &mut bundle).await?,
        Where::Cluster(remote) => remote.collect(&mut bundle, args.operator_namespace.as_deref()).await?,
    }
    bundle.finish(about)
}
