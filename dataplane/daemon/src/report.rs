//! Everything the program says: results on standard output, the rest on standard error.
#![expect(
    clippy::print_stderr,
    reason = "the output module of the binary; see clippy::print_stdout"
)]

pub(crate) mod copied;
pub(crate) mod meter;
pub(crate) mod progress;

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::error::ErrorKind;
use serde::Serialize;

use crate::cli::OutputFormat;
use crate::exit::{Exit, Failure, FailureObject};
use crate::helper;

/// Version of every JSON object on standard output.
pub(crate) const SCHEMA: u32 = 1;

/// Writes a result for people.
pub(crate) fn text(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| lost(&error))
}

/// Writes a result as one object on one line.
pub(crate) fn object(object: &impl Serialize) -> Result<(), Failure> {
    let mut line = serde_json::to_string(object)
        .map_err(|error| Failure::bug("the result is no json", "").caused_by(&error))?;
    line.push('\n');
    text(&line)
}

/// The work is done, but nobody heard of it.
fn lost(error: &io::Error) -> Failure {
    Failure::new(
        Exit::Usage,
        engine::Blame::Environment,
        "the result cannot be written",
        "standard output",
        "keep the reading end open",
    )
    .caused_by(error)
}

/// A line for people, beside the result.
pub(crate) fn note(line: &str) {
    eprintln!("{line}");
}

/// Something the operator should know although all went well.
pub(crate) fn warning(line: &str) {
    eprintln!("warning: {line}");
}

/// A failed command as an object, for `--output json`.
#[derive(Serialize)]
struct Failed<'a> {
    schema: u32,
    command: &'a str,
    outcome: &'static str,
    error: FailureObject<'a>,
}

/// Tells a failure, where it ends; returns the exit code of the process.
pub(crate) fn failure(verb: &str, output: OutputFormat, failure: &Failure) -> ExitCode {
    eprintln!("error: {failure}");
    if output == OutputFormat::Json {
        failed_object(verb, failure);
    }
    ExitCode::from(failure.exit().code())
}

/// The failure on standard output, for programs.
fn failed_object(verb: &str, failure: &Failure) {
    let outcome = if failure.exit() == Exit::Interrupted {
        "interrupted"
    } else {
        "failed"
    };
    let failed = Failed {
        schema: SCHEMA,
        command: verb,
        outcome,
        error: failure.to_object(),
    };
    // The failure stands on standard error already, and has the better exit code.
    let _ = object(&failed);
}

/// Help and version go to standard output with code 0, wrong usage to standard error with code 2, and as an object to
/// standard output when `args` ask for objects.
pub(crate) fn clap_message(
    error: &clap::Error,
    args: impl IntoIterator<Item = OsString>,
) -> ExitCode {
    // Nothing can be done about a closed standard error.
    let _ = error.print();
    if let ErrorKind::DisplayHelp | ErrorKind::DisplayVersion = error.kind() {
        return ExitCode::from(Exit::Done.code());
    }
    if let Some(verb) = asks_for_objects(args) {
        let text = error.to_string();
        let what = text.strip_prefix("error: ").unwrap_or(&text);
        // Arguments that are missing stand below the first line; usage and hints follow behind an empty one.
        let lines = what.lines().take_while(|line| !line.is_empty());
        let what: Vec<&str> = lines.map(str::trim).collect();
        failed_object(&verb, &Failure::usage(what.join(" "), "", "see --help"));
    }
    ExitCode::from(Exit::Usage.code())
}

/// The verb, when the command line, which cannot be parsed, asks for objects.
fn asks_for_objects(args: impl IntoIterator<Item = OsString>) -> Option<String> {
    let args: Vec<OsString> = args.into_iter().take_while(|arg| arg != "--").collect();
    let is_asked = args.iter().any(|arg| arg == "--output=json")
        || args
            .windows(2)
            .any(|pair| pair[0] == "--output" && pair[1] == "json");
    let verb = args.first().map(|verb| verb.to_string_lossy().into_owned());
    is_asked.then(|| verb.unwrap_or_default())
}

/// A panic prints one line, ends our helpers and the process with the code of a bug.
pub(crate) fn install_panic_line() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic
            .location()
            .map_or_else(String::new, ToString::to_string);
        let payload = panic.payload();
        let message = payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("no message");
        eprintln!(
            "error: {}",
            Failure::bug(format!("panicked: {message}"), place)
        );
        if std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0") {
            eprintln!("{}", std::backtrace::Backtrace::force_capture());
        }
        helper::end_all();
        std::process::exit(i32::from(Exit::Bug.code()));
    }));
}

/// Warnings of the libraries go to standard error; `RUST_LOG` asks for more.
pub(crate) fn install_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    // Only a second call could fail.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .try_init();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(line: &str) -> Option<String> {
        asks_for_objects(line.split(' ').map(OsString::from))
    }

    #[test]
    fn objects_are_asked_for_by_a_flag_and_not_by_the_name_of_a_file() {
        assert_eq!(asked("copy --output json --wrong"), Some("copy".into()));
        assert_eq!(asked("info x --output=json -q"), Some("info".into()));
        for line in [
            "copy a json",
            "copy -- --output json",
            "copy --output text",
            "",
        ] {
            assert_eq!(asked(line), None, "{line}");
        }
    }
}
