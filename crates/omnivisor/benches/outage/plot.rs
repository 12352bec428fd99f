//! The plot: the outage over the size of the home, both on logarithmic scales.

use std::fmt::Write;
use std::time::Duration;

use crate::homes::{GIB, MIB, Shape};
use crate::table::Cell;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 250.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 50.0;
/// Seconds.
const LEAST: f64 = 0.001;
const MOST: f64 = 1000.0;

const SIZES: [(&str, u64); 3] = [("0", 0), ("1 GiB", GIB), ("4 GiB", 4 * GIB)];

/// Colour, the name of what has it, and which time it is.
type Series<'a> = (&'a str, &'a str, &'a dyn Fn(&Cell) -> Option<Duration>);

pub fn svg(cells: &[Cell]) -> String {
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"18\" font-size=\"14\">Outage of an upgrade over the size of the home</text>\n"
    );
    for (seconds, label) in [
        (0.001, "1 ms"),
        (0.01, "10 ms"),
        (0.1, "100 ms"),
        (1.0, "1 s"),
        (10.0, "10 s"),
        (100.0, "100 s"),
        (1000.0, "1000 s"),
    ] {
        let y = y(seconds);
        let _ = writeln!(
            text,
            "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            y + 4.0
        );
    }
    for (label, bytes) in SIZES {
        let (x, y) = (x(bytes), HEIGHT - BOTTOM + 20.0);
        let _ = writeln!(text, "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{label}</text>");
    }
    let on = |file_system: &'static str| move |cell: &Cell| (cell.file_system == file_system).then_some(cell.warm.took);
    let (ext4, xfs) = (on("ext4"), on("XFS"));
    let theirs = |cell: &Cell| (cell.file_system == "ext4").then_some(cell.theirs);
    let all: [Series<'_>; 3] = [
        ("#c0392b", "stop, then tar and gzip (ext4)", &theirs),
        ("#1f6fb4", "omnivisor, ext4", &ext4),
        ("#2a9d5c", "omnivisor, XFS with reflink", &xfs),
    ];
    for (index, (colour, name, of)) in all.into_iter().enumerate() {
        let found: Vec<(u64, f64, Shape)> =
            cells.iter().filter_map(|cell| Some((cell.shape.bytes(), of(cell)?.as_secs_f64(), cell.shape))).collect();
        // The line is that of ten thousand files, one in a hundred changed; the other shapes are points.
        let line: Vec<String> = found
            .iter()
            .filter(|(.., shape)| matches!(shape, Shape::Empty | Shape::Files { count: 10_000, one_in: 100, .. }))
            .map(|(bytes, seconds, _)| format!("{:.1},{:.1}", x(*bytes), y(*seconds)))
            .collect();
        let _ = writeln!(
            text,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            line.join(" ")
        );
        for (bytes, seconds, shape) in &found {
            let (x, y, name) = (x(*bytes), y(*seconds), shape.name());
            let _ = writeln!(
                text,
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\"><title>{name}: {seconds:.3} s</title></circle>"
            );
        }
        let (x, y) = (WIDTH - RIGHT + 20.0, TOP + 20.0 + 22.0 * index as f64);
        let _ = writeln!(
            text,
            "<circle cx=\"{x}\" cy=\"{}\" r=\"4\" fill=\"{colour}\"/><text x=\"{}\" y=\"{y}\">{name}</text>",
            y - 4.0,
            x + 12.0
        );
    }
    let (x, y) = (WIDTH - RIGHT + 16.0, TOP + 96.0);
    let _ = writeln!(text, "<text x=\"{x}\" y=\"{y}\" fill=\"#666\">Lines: 10,000 files, 1 % changed;</text>");
    let _ = writeln!(text, "<text x=\"{x}\" y=\"{}\" fill=\"#666\">points: the other shapes</text>", y + 16.0);
    text + "</svg>\n"
}

/// By the logarithm, beginning with a tenth of a GiB, where there is nothing.
fn x(bytes: u64) -> f64 {
    let least = 100.0 * MIB as f64;
    let share = ((bytes as f64).max(least) / least).ln() / (5.0 * GIB as f64 / least).ln();
    LEFT + 20.0 + share * (WIDTH - LEFT - RIGHT - 20.0)
}

fn y(seconds: f64) -> f64 {
    let share = (seconds.clamp(LEAST, MOST) / LEAST).ln() / (MOST / LEAST).ln();
    HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
}
