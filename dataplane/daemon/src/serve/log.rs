//! The server's log: lines on standard error, as text or as JSON.

use std::error::Error;
use std::io::{self, IsTerminal};

use super::args::LogFormat;

/// Installs the log. `RUST_LOG` chooses what is in it; by default everything worth an operator's look.
pub(crate) fn install(format: LogFormat) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_target(false)
        .with_ansi(format == LogFormat::Text && io::stderr().is_terminal());
    // Only a second call could fail.
    let _ = match format {
        LogFormat::Text => log.try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
}

/// An error and its causes in one line.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
