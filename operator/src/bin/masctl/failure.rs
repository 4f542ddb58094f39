//! How a command fails: one line on stderr that says what to do, and the exit code.

use std::process::ExitCode;

use operator::bundle::BundleError;
use operator::platform::kubernetes::{AccessError, PlanError};
use operator::platform::local::{ControlError, LayoutError, RecordError, StartError, StoreError};

use crate::args::Called;

/// A command that did not succeed.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    /// It was tried and did not work.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self { code: 1, message: message.into() }
    }

    /// The command line makes no sense.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { code: 2, message: message.into() }
    }

    /// The manifest is bad.
    pub(crate) fn configuration(message: impl Into<String>) -> Self {
        Self { code: 64, message: message.into() }
    }

    pub(crate) fn print(&self) {
        say(&self.message);
    }

    pub(crate) fn code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }
}

/// One line for the person, beside what is printed.
pub(crate) fn say(words: &str) {
    eprintln!("{}: {}", Called::now().words(), words.replace('\n', " "));
}

impl From<AccessError> for Failure {
    fn from(error: AccessError) -> Self {
        let words = error.to_string();
        if error.is_usage() { Self::usage(words) } else { Self::failed(words) }
    }
}

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Self {
        match error {
            PlanError::Access(error) => error.into(),
            PlanError::Read(_) => Self::failed(error.to_string()),
            PlanError::Refused(_) | PlanError::NotCarriedOut { .. } => Self::configuration(error.to_string()),
        }
    }
}

impl From<BundleError> for Failure {
    fn from(error: BundleError) -> Self {
        Self::failed(error.to_string())
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        if error.is_configuration() {
            Self::configuration(error.to_string())
        } else {
            Self::failed(error.to_string())
        }
    }
}

impl From<LayoutError> for Failure {
    fn from(error: LayoutError) -> Self {
        Self::failed(error.to_string())
    }
}

impl From<RecordError> for Failure {
    fn from(error: RecordError) -> Self {
        Self::from(StartError::from(error))
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::failed(error.to_string())
    }
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Self {
        Self::failed(error.to_string())
    }
}
