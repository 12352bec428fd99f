//! The numbers at the end, and how a duration is said.

use std::time::Duration;

/// What was measured.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// From the end of the old node to the start of the new one.
    pub good: Duration,
    /// From the end of the old node to its next start.
    pub sick: Duration,
    /// From the second death of the sick one to that start.
    pub undo: Duration,
    /// Between two beats of the node while its supervisor was killed and another one took it over.
    pub pause: Duration,
}

impl Measured {
    /// The rows of a table.
    pub fn rows(&self) -> Vec<String> {
        let row = |what: &str, duration| format!("{what:<60}{:>7}", said(duration));
        vec![
            row("a good upgrade: without a node for", self.good),
            row("a sick upgrade: without a well node for", self.sick),
            row("  of that, from its second death to the old node", self.undo),
            row("a killed supervisor: longest pause of the node's heart", self.pause),
        ]
    }
}

/// A duration, as exact as it means something.
pub fn said(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        format!("{} ms", duration.as_millis())
    } else {
        format!("{:.1} s", duration.as_secs_f64())
    }
}
