//! The only place that prints: results to standard output, trouble to standard error. A closed stream is no error.

use std::env;
use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};
use std::time::Duration;

use clap::builder::styling::{AnsiColor, Style};
use indicatif::{BinaryBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::demo::{Audience, Line};

/// Prints a result.
pub(super) fn result(text: &str) {
    let _ = writeln!(io::stdout().lock(), "{text}");
}

/// Prints many lines.
pub(super) struct Lines(BufWriter<StdoutLock<'static>>);

impl Lines {
    /// Begins.
    pub(super) fn new() -> Self {
        Self(BufWriter::new(io::stdout().lock()))
    }

    /// The next one. An error of kind `BrokenPipe` says that nobody reads any more.
    pub(super) fn push(&mut self, line: &str) -> io::Result<()> {
        writeln!(self.0, "{line}")
    }

    /// That was all.
    pub(super) fn end(mut self) -> io::Result<()> {
        self.0.flush()
    }
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

/// What others have named, for people: with nothing in it that a terminal would obey, or show in another order.
pub(super) fn readable(text: &str) -> String {
    let is_odd = |it: char| {
        it.is_control()
            || matches!(it, '\\' | '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let mut readable = String::with_capacity(text.len());
    for it in text.chars() {
        match is_odd(it) {
            true => readable.extend(it.escape_debug()),
            false => readable.push(it),
        }
    }
    readable
}

/// A number of bytes, for people.
pub(super) fn size(bytes: u64) -> String {
    BinaryBytes(bytes).to_string()
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

/// Standard output as the place where the demo is told: on a terminal what is so right now stands below what was said.
pub(super) struct Screen {
    bar: ProgressBar,
    coloured: bool,
}

impl Screen {
    pub(super) fn new() -> Self {
        let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
        let terminal = io::stdout().is_terminal() && set("TERM").is_none_or(|kind| kind != "dumb");
        let target = if terminal { ProgressDrawTarget::stdout() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(None, target);
        if let Ok(style) = ProgressStyle::with_template("{wide_msg}") {
            bar.set_style(style);
        }
        Self { bar, coloured: terminal && set("NO_COLOR").is_none() }
    }

    fn say(&self, before: &str, style: Style, text: &str) {
        let text = if self.coloured { format!("{before}{style}{text}{style:#}") } else { format!("{before}{text}") };
        self.bar.suspend(|| result(text.trim_end()));
    }
}

impl Audience for Screen {
    fn hear(&self, line: Line<'_>) {
        let plain = Style::new();
        match line {
            Line::Title(text) => self.say("", plain, text),
            Line::Heading(text) => self.say("\n", plain.bold(), text),
            Line::Text(text) => self.say("  ", plain, text),
            Line::Command(text) => self.say("  $ ", AnsiColor::Cyan.on_default(), text),
            Line::Output(text) => self.say("      ", plain.dimmed(), text),
            Line::Seen(text) => self.say("  ok  ", AnsiColor::Green.on_default(), text),
            Line::Row(text) => self.say("  ", plain, text),
        }
    }

    fn is_live(&self) -> bool {
        !self.bar.is_hidden()
    }

    fn live(&self, text: &str) {
        if text.is_empty() {
            self.bar.finish_and_clear();
        } else {
            self.bar.set_message(text.to_owned());
            self.bar.tick();
        }
    }
}
