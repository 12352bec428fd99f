//! The only place that prints: results to standard output, trouble to standard error. A closed stream is no error.

use std::io::{self, Write};
use std::time::Duration;

/// Prints a result.
pub(super) fn result(text: &str) {
    let _ = writeln!(io::stdout().lock(), "{text}");
}

/// Prints what went wrong, with all its causes.
pub(super) fn trouble(error: &anyhow::Error, hint: Option<&str>) {
    if let Some(clap) = error.downcast_ref::<clap::Error>() {
        let _ = clap.print();
        return;
    }
    let mut text = format!("Error: {error}");
    let mut said = String::new();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        // Some libraries say what their source says.
        if cause != said {
            text.push_str(&format!("\n  caused by: {cause}"));
        }
        said = cause;
    }
    if let Some(hint) = hint {
        text.push_str(&format!("\n  hint: {hint}"));
    }
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// So many seconds from now, for people; what nobody lives to see is not counted out.
pub(super) fn time_left(seconds: u64) -> String {
    const DAY: u64 = 24 * 3600;
    match seconds {
        0 => "now".to_owned(),
        seconds if seconds > 3650 * DAY => "in more than ten years".to_owned(),
        // Nobody needs the seconds of a month.
        seconds if seconds > 2 * DAY => {
            format!("in {}", humantime::format_duration(Duration::from_secs(seconds / 3600 * 3600)))
        }
        seconds => format!("in {}", humantime::format_duration(Duration::from_secs(seconds))),
    }
}
