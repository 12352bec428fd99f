//! The shape of the program, as `ARCHITECTURE.md` has it: which module may use which, where unsafe code is, who prints,
//! how long a file may be. A change of shape is a change of the tables here and there.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "reads the sources; a panic is a failed test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What each module of the core may use.
const CORE: &[(&str, &[&str])] = &[
    ("time", &[]),
    ("release", &[]),
    ("schedule", &["release", "time"]),
    ("retention", &["time"]),
    ("health", &[]),
    ("plan", &["release", "schedule", "time"]),
    ("journal", &["plan", "release", "schedule", "time"]),
    ("supervisor", &["release"]),
    ("agent", &["health", "journal", "plan", "release", "schedule", "supervisor", "time"]),
    ("github", &["release", "time"]),
    ("dialect", &["github", "health", "release", "schedule", "time"]),
    ("formats", &["journal", "plan", "release", "schedule", "time"]),
];

/// What each module of the shell may use.
const SHELL: &[(&str, &[&str])] = &[
    ("cli", &["checkpoint", "clock", "control", "demo", "effects", "exit", "handover", "settings", "shell", "store"]),
    ("demo", &["clock", "control", "effects", "sys"]),
    ("shell", &["checkpoint", "clock", "control", "effects", "exit", "handover", "store", "sys"]),
    ("handover", &["checkpoint", "effects", "store", "sys"]),
    ("effects", &["checkpoint", "clock", "store", "sys"]),
    ("control", &["store"]),
    ("store", &["checkpoint"]),
    ("clock", &["sys"]),
    ("settings", &["effects"]),
    ("exit", &[]),
    ("checkpoint", &[]),
    ("sys", &[]),
];

/// A file that is longer is two.
const LONGEST: usize = 500;

struct Source {
    /// Below `crates`, with slashes.
    path: String,
    text: String,
}

impl Source {
    /// The lines that are code, numbered; comments are not.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().enumerate().map(|(index, line)| (index + 1, line));
        lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
    }
}

fn crates() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn sources(krate: &str) -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders = vec![crates().join(krate).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|it| it == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push(Source { path: path.strip_prefix(crates()).unwrap().to_str().unwrap().to_owned(), text });
            }
        }
    }
    assert!(!found.is_empty(), "{krate} has sources");
    found
}

fn all_sources() -> Vec<Source> {
    ["omnivisor-core", "omnivisor", "omnivisor-testkit"].into_iter().flat_map(sources).collect()
}

/// Nothing is wrong; or else everything that is.
fn check(what: &str, wrong: &[String]) {
    assert!(wrong.is_empty(), "{what}:\n  {}", wrong.join("\n  "));
}

/// The modules of its own crate that a line of code names.
fn used(line: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (at, _) in line.match_indices("crate::") {
        if line[..at].ends_with(|it: char| it.is_alphanumeric() || it == '_') {
            continue;
        }
        let rest = &line[at + "crate::".len()..];
        // `crate::{a::B, c}` names several.
        match rest.strip_prefix('{') {
            Some(list) => names.extend(list.split([',', '}']).map(|it| first_word(it.trim()))),
            None => names.push(first_word(rest)),
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

fn first_word(text: &str) -> String {
    text.chars().take_while(|it| it.is_alphanumeric() || *it == '_').collect()
}

fn arrows(krate: &str, table: &[(&str, &[&str])]) {
    let allowed: BTreeMap<&str, BTreeSet<&str>> =
        table.iter().map(|(module, uses)| (*module, uses.iter().copied().collect())).collect();
    let mut wrong = Vec::new();
    for source in sources(krate) {
        let below = source.path.split("/src/").nth(1).unwrap();
        let module = below.split(['/', '.']).next().unwrap();
        if matches!(module, "lib" | "main" | "bin") {
            continue;
        }
        let Some(may) = allowed.get(module) else {
            wrong.push(format!("{}: the module {module} is not in the table", source.path));
            continue;
        };
        for (number, line) in source.code() {
            for name in used(line).into_iter().filter(|name| name != module && !may.contains(name.as_str())) {
                wrong.push(format!("{}:{number}: {module} must not use {name}", source.path));
            }
        }
    }
    check("arrows that are not in the table", &wrong);
}

#[test]
fn modules_of_the_core_use_only_what_the_table_allows() {
    arrows("omnivisor-core", CORE);
}

#[test]
fn modules_of_the_shell_use_only_what_the_table_allows() {
    arrows("omnivisor", SHELL);
}

#[test]
fn no_table_has_a_circle() {
    for table in [CORE, SHELL] {
        let mut placed: BTreeSet<&str> = BTreeSet::new();
        while placed.len() < table.len() {
            let ready = |(module, uses): &&(&'static str, &[&str])| {
                !placed.contains(module) && uses.iter().all(|it| placed.contains(it))
            };
            let next = table.iter().find(ready).map(|(module, _)| *module);
            placed.insert(next.expect("what is left goes round in a circle, or names a module that there is not"));
        }
    }
}

#[test]
fn the_tables_are_those_of_the_architecture() {
    let text = fs::read_to_string(crates().join("../ARCHITECTURE.md")).unwrap();
    let mut wrong = Vec::new();
    for (module, uses) in CORE.iter().chain(SHELL) {
        let begin = format!("| `{module}` |");
        let uses = if uses.is_empty() { "nothing".to_owned() } else { names(uses) };
        let end = format!("| {uses} |");
        if !text.lines().any(|line| line.starts_with(&begin) && line.ends_with(&end)) {
            wrong.push(format!("no row {begin} … {end}"));
        }
    }
    check("ARCHITECTURE.md has another table", &wrong);
}

fn names(modules: &[&str]) -> String {
    modules.iter().map(|it| format!("`{it}`")).collect::<Vec<_>>().join(", ")
}

#[test]
fn every_file_says_what_it_is_for() {
    let silent = all_sources().into_iter().filter(|source| !source.text.starts_with("//! "));
    check("no `//!` at the top", &silent.map(|source| source.path).collect::<Vec<_>>());
}

#[test]
fn no_file_is_too_long() {
    let lengths = all_sources().into_iter().map(|source| (source.text.lines().count(), source.path));
    let long = lengths.filter(|(lines, _)| *lines > LONGEST).map(|(lines, path)| format!("{path}: {lines} lines"));
    check("more than 500 lines", &long.collect::<Vec<_>>());
}

#[test]
fn the_core_can_do_nothing_by_itself() {
    let manifest = fs::read_to_string(crates().join("omnivisor-core/Cargo.toml")).unwrap();
    let acting = ["tokio", "rustix", "nix", "libc", "reqwest", "hyper", "notify", "tracing", "tempfile"];
    let named = manifest.lines().map(first_word).filter(|name| acting.contains(&name.as_str()));
    check("crates that act, in the core's Cargo.toml", &named.collect::<Vec<_>>());
}

#[test]
fn unsafe_code_is_in_one_file_and_each_block_says_why_it_is_sound() {
    let mut wrong = Vec::new();
    for source in all_sources() {
        let lines: Vec<&str> = source.text.lines().collect();
        for (number, line) in source.code() {
            if !["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"].iter().any(|it| line.contains(it)) {
                continue;
            }
            if source.path != "omnivisor/src/sys.rs" {
                wrong.push(format!("{}:{number}: unsafe code", source.path));
            }
            let above = lines[..number - 1].iter().rev().take_while(|line| line.trim_start().starts_with("//"));
            if !above.into_iter().any(|line| line.contains("SAFETY:")) {
                wrong.push(format!("{}:{number}: no `SAFETY:` above it", source.path));
            }
        }
    }
    check("unsafe code", &wrong);
}

/// So that every one of them can be failed, and looked at after a power cut.
#[test]
fn one_file_changes_disks() {
    let calls = [
        "fs::write(",
        "fs::copy(",
        "fs::copy)",
        "fs::rename",
        "fs::remove_",
        "fs::create_dir",
        "fs::hard_link",
        "fs::set_permissions",
        " File::create(",
        "fs::File::create(",
        "DirBuilder::new",
        ".create(true)",
        ".create_new(true)",
        ".set_len(",
        "sync_all",
        "sync_data",
        "syncfs",
        "renameat",
        "fs::symlink(",
        "mknodat",
        "linkat",
    ];
    // Locks, sockets, cgroups and what tests ask for: none of it means anything after a power cut. The demo's folder is its own.
    let may =
        ["store/disk.rs", "store/lock.rs", "control.rs", "checkpoint.rs", "effects/cgroup.rs", "effects/notify.rs"];
    let may = may.map(|it| format!("omnivisor/src/{it}"));
    let mut wrong = Vec::new();
    for source in sources("omnivisor") {
        let is_test = source.path.ends_with("/tests.rs") || source.path.contains("/tests/");
        if may.contains(&source.path) || is_test || source.path.starts_with("omnivisor/src/demo/") {
            continue;
        }
        for (number, line) in source.code().take_while(|(_, line)| !line.starts_with("mod tests {")) {
            let line = line.replace("readlinkat", ""); // which changes nothing
            if calls.iter().any(|it| line.contains(it)) {
                wrong.push(format!("{}:{number}: {}", source.path, line.trim()));
            }
        }
    }
    check("changes of a disk outside of store/disk.rs", &wrong);
}

#[test]
fn one_file_prints() {
    let prints = ["println!(", "print!(", "eprintln!(", "eprint!(", "stdout()", "stderr()", "io::stderr", "io::stdout"];
    // The second gives the log its writer.
    let may = ["omnivisor/src/cli/output.rs", "omnivisor/src/cli/log.rs"];
    let mut wrong = Vec::new();
    for source in ["omnivisor-core", "omnivisor"].into_iter().flat_map(sources) {
        for (number, line) in source.code() {
            let line = line.replace("use_stderr()", "");
            if prints.iter().any(|it| line.contains(it)) && !may.contains(&source.path.as_str()) {
                wrong.push(format!("{}:{number}: {}", source.path, line.trim()));
            }
        }
    }
    check("printing outside of cli/output.rs", &wrong);
}
