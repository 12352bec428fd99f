//! The commands that a guide shows, run as they are written there; and the tests that it names.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A guide for operators.
pub struct Guide(String);

impl Guide {
    /// The one of this name in `docs`.
    pub fn read(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name);
        Self(std::fs::read_to_string(path).unwrap())
    }

    /// The block of commands of this name, as it is written.
    pub fn block(&self, name: &str) -> String {
        let from = self.0.find(&format!("<!-- tested: {name} -->\n```sh\n"));
        let text = &self.0[from.unwrap_or_else(|| panic!("no block {name}"))..];
        let text = text.split_once("```sh\n").unwrap().1;
        text.split_once("```").unwrap().0.to_owned()
    }

    /// The same, with the values of a reader: what the guide's lines assign to these variables is replaced.
    pub fn filled(&self, name: &str, values: &[(&str, &Path)]) -> String {
        let lines = self.block(name);
        let mut lines: Vec<String> = lines.lines().map(str::to_owned).collect();
        for (variable, value) in values {
            let assignment = format!("{variable}=");
            let line = lines.iter_mut().find(|line| line.starts_with(&assignment));
            *line.unwrap_or_else(|| panic!("{name} assigns no {variable}")) =
                format!("{assignment}{}", value.display());
        }
        lines.join("\n") + "\n"
    }

    /// Every block with commands has one of these names.
    pub fn assert_tested(&self, names: &[&str]) {
        assert_eq!(self.0.matches("```sh\n").count(), names.len());
        names.iter().for_each(|name| assert!(!self.block(name).is_empty()));
    }

    /// The rows of the table with this heading.
    pub fn rows(&self, heading: &str) -> Vec<&str> {
        let (_, table) = self.0.split_once(&format!("{heading}\n")).unwrap_or_else(|| panic!("no table {heading}"));
        table.lines().skip(1).take_while(|line| line.starts_with('|')).collect()
    }
}

/// Every test that the last cell of this row names is there, under that name: `it module::test` or `core file::test`.
pub fn assert_names_tests(row: &str) {
    let shown_by = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
    for name in shown_by.split(", ") {
        let (crate_name, path) = name.trim_matches('`').split_once(' ').unwrap_or_else(|| panic!("{row}"));
        let (module, test) = path.rsplit_once("::").unwrap_or_else(|| panic!("{row}"));
        let file = source(crate_name, module).unwrap_or_else(|| panic!("{crate_name} in {row}"));
        let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        assert!(text.contains(&format!("#[test]\nfn {test}(")), "{} has no test {test}", file.display());
    }
}

fn source(crate_name: &str, module: &str) -> Option<PathBuf> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let folder = match crate_name {
        "it" => tests.join("it"),
        "core" => tests.join("../../omnivisor-core/tests"),
        _ => return None,
    };
    Some(folder.join(format!("{}.rs", module.replace("::", "/"))))
}

/// The shell of a reader, which stays open: what a block assigns is known to the next one.
pub struct Shell<'a> {
    command: Box<dyn Fn() -> Command + 'a>,
    said: String,
}

impl<'a> Shell<'a> {
    /// One whose commands are first looked for in `bin`. `command` makes a `/bin/sh` that knows its surroundings.
    pub fn new(bin: &'a Path, command: impl Fn() -> Command + 'a) -> Self {
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
        let command = move || {
            let mut command = command();
            command.env("PATH", &path);
            command
        };
        Self { command: Box::new(command), said: String::new() }
    }

    /// Runs a block, and gives what it has printed.
    pub fn run(&mut self, text: &str) -> String {
        let output = (self.command)().args(["-eu", "-c", &format!("{}{text}", self.said)]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}\n{said}{}", String::from_utf8_lossy(&output.stderr));
        self.said +=
            &text.lines().filter(|line| is_assignment(line)).map(|line| format!("{line}\n")).collect::<String>();
        said
    }
}

fn is_assignment(line: &str) -> bool {
    let is_name = |name: &str| name.chars().all(|it| it.is_ascii_uppercase() || it == '_');
    line.split_once('=').is_some_and(|(name, _)| is_name(name))
}

/// Stands for a service manager with one unit, which runs this command; `$UNIT` is where its process is noted.
pub fn systemctl(command: &str) -> String {
    format!(
        "#!/bin/sh -eu\ncase $1 in\n\
         start) setsid {command} >>\"$UNIT.log\" 2>&1 </dev/null & echo $! >\"$UNIT\" ;;\n\
         stop) kill \"$(cat \"$UNIT\")\"; while kill -0 \"$(cat \"$UNIT\")\" 2>/dev/null; do sleep 0.02; done ;;\nesac\n"
    )
}
