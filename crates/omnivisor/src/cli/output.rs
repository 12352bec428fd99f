//! The only place that prints: results to standard output, trouble to standard error. A closed stream is no error.

use std::io::{self, Write};

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
