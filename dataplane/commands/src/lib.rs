//! mas-commands
