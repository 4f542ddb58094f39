//! How a command fails: one line on stderr that says what to do, and the exit code.

use std::process::ExitCode;

use operator::platform::local::{ControlError, LayoutError, RecordError, StartError, StoreError};

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
        eprintln!("masctl: {}", self.message.replace('\n', " "));
    }

    pub(crate) fn code(&self) -> ExitCode {
        ExitCode::from(self.code)
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
