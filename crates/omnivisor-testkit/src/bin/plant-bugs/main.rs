//! Plants one bug at a time in a copy of the core, and says whether the core's tests notice it.
//!
//! `cargo run -p omnivisor-testkit --bin plant-bugs [-- <part of a name>]`. The copy is a workspace of its own in
//! `target/planted`. A bug is a piece of the core's source, which must occur in it exactly once (blanks and line ends do not
//! count, nor does the file it is in), and what stands there instead. Prints `killed <name> by <test>` or
//! `SURVIVED <name>`; ends with 1 if one survived, and with 2 if it could not tell.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]

mod bugs;

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use self::bugs::{BUGS, Bug};

/// The fast tests are run for every bug, the slow ones only for what the fast ones did not notice.
const FAST: [&str; 13] = [
    "--lib",
    "--test",
    "transcripts",
    "--test",
    "properties",
    "--test",
    "ends",
    "--test",
    "nym_releases",
    "--test",
    "vega_nodes",
    "--test",
    "vega_homes",
];
const SLOW: [&str; 8] =
    ["--test", "by_hand", "--test", "consensus", "--test", "interleavings", "--test", "crash_points"];

/// A bug that makes a test run for ever is noticed, too. Compiling takes seconds, the slow tests a minute.
const PATIENCE: Duration = Duration::from_secs(300);

fn main() -> ExitCode {
    let only = std::env::args().nth(1).unwrap_or_default();
    match run(&only) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(survived) => {
            println!("{survived} survived: a test is missing");
            ExitCode::from(1)
        }
        Err(error) => {
            eprintln!("plant-bugs: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(only: &str) -> io::Result<usize> {
    let root = fs::canonicalize(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))?;
    let field = Field::prepare(&root)?;
    let bugs: Vec<&Bug> = BUGS.iter().filter(|bug| bug.name.contains(only)).collect();
    // All of them must apply before the first is tried: a list that has aged is worth nothing.
    let sites = bugs.iter().map(|bug| field.site(bug)).collect::<io::Result<Vec<_>>>()?;
    if let Ending::Killed(by) = field.test(&FAST)? {
        return Err(io::Error::other(format!("without any bug, {by} fails")));
    }
    let mut survived = 0;
    for (bug, site) in bugs.into_iter().zip(sites) {
        let began = Instant::now();
        site.plant()?;
        let ending = match field.test(&FAST) {
            Ok(Ending::Survived) => field.test(&SLOW),
            ending => ending,
        };
        site.restore()?;
        match ending.map_err(|error| io::Error::other(format!("{:?}: {error}", bug.name)))? {
            Ending::Killed(by) => println!("killed   {} by {by} ({:.0?})", bug.name, began.elapsed()),
            Ending::Survived => {
                survived += 1;
                println!("SURVIVED {}", bug.name);
            }
        }
    }
    Ok(survived)
}

/// The copy in which bugs are planted.
struct Field {
    folder: PathBuf,
    sources: Vec<(PathBuf, String)>,
}

/// Where a bug goes.
struct Site {
    path: PathBuf,
    sound: String,
    sick: String,
}

enum Ending {
    Killed(String),
    Survived,
}

impl Field {
    fn prepare(root: &Path) -> io::Result<Self> {
        let folder = root.join("target/planted");
        let core = folder.join("crates/omnivisor-core");
        let _ = fs::remove_dir_all(folder.join("crates"));
        copy(&root.join("crates/omnivisor-core"), &core)?;
        fs::copy(root.join("Cargo.lock"), folder.join("Cargo.lock"))?;
        let manifest = fs::read_to_string(root.join("Cargo.toml"))?;
        fs::write(folder.join("Cargo.toml"), alone(&manifest)?)?;
        let mut sources = Vec::new();
        read_sources(&core.join("src"), &mut sources)?;
        Ok(Self { folder, sources })
    }

    fn site(&self, bug: &Bug) -> io::Result<Site> {
        let mut sites = Vec::new();
        for (path, text) in &self.sources {
            sites.extend(places(text, bug.from).into_iter().map(|place| (path, text, place)));
        }
        let [(path, sound, (start, end))] = sites.as_slice() else {
            let found = sites.len();
            return Err(io::Error::other(format!(
                "{:?} is in the core {found} times, not once: {}",
                bug.name, bug.from
            )));
        };
        let sick = format!("{}{}{}", &sound[..*start], bug.to, &sound[*end..]);
        Ok(Site { path: path.to_path_buf(), sound: sound.to_string(), sick })
    }

    /// Runs these tests up to the first program of tests that fails.
    fn test(&self, which: &[&str]) -> io::Result<Ending> {
        let told = self.folder.join("told");
        let output = File::create(&told)?;
        let mut child = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["test", "--offline", "--package", "omnivisor-core"])
            .args(which)
            .current_dir(&self.folder)
            .env("CARGO_TARGET_DIR", self.folder.join("target"))
            .env("RUST_BACKTRACE", "0")
            .env("INSTA_UPDATE", "no")
            .env_remove("INSTA_FORCE_PASS")
            .env_remove("OMNIVISOR_LONG")
            .env_remove("RUSTFLAGS")
            .stdin(Stdio::null())
            .stderr(output.try_clone()?)
            .stdout(output)
            .process_group(0)
            .spawn()?;
        let began = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if began.elapsed() > PATIENCE {
                if let Some(group) = Pid::from_raw(child.id().cast_signed()) {
                    let _ = kill_process_group(group, Signal::KILL);
                }
                child.wait()?;
                return Ok(Ending::Killed("a test that never ended".to_owned()));
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        if status.success() {
            return Ok(Ending::Survived);
        }
        let told = fs::read_to_string(told)?;
        let failed = told.lines().find_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"));
        match failed {
            Some(test) => Ok(Ending::Killed(test.to_owned())),
            None => Err(io::Error::other(format!("no test failed, and yet cargo did:\n{told}"))),
        }
    }
}

impl Site {
    fn plant(&self) -> io::Result<()> {
        fs::write(&self.path, &self.sick)
    }

    fn restore(&self) -> io::Result<()> {
        fs::write(&self.path, &self.sound)
    }
}

/// The workspace's manifest with the core as its only member, and without the time that optimizing takes.
fn alone(manifest: &str) -> io::Result<String> {
    let mut text = String::new();
    let mut members = 0;
    for line in manifest.lines() {
        if line.starts_with("default-members") || line.starts_with("opt-level") {
            continue;
        }
        if line.starts_with("members") && line.ends_with(']') {
            members += 1;
            text.push_str("members = [\"crates/omnivisor-core\"]\n");
        } else {
            text.push_str(line);
            text.push('\n');
        }
    }
    if members == 1 {
        Ok(text)
    } else {
        Err(io::Error::other("the workspace's members are not in one line of Cargo.toml"))
    }
}

/// Where `wanted` occurs in `text`, whatever blanks and line ends are between its characters.
fn places(text: &str, wanted: &str) -> Vec<(usize, usize)> {
    let dense: Vec<(usize, char)> = text.char_indices().filter(|(_, it)| !it.is_whitespace()).collect();
    let wanted: Vec<char> = wanted.chars().filter(|it| !it.is_whitespace()).collect();
    let is_it = |window: &&[(usize, char)]| window.iter().map(|(_, it)| it).eq(wanted.iter());
    let ends = |window: &[(usize, char)]| {
        let (start, (last, end)) = (window[0].0, window[window.len() - 1]);
        (start, last + end.len_utf8())
    };
    dense.windows(wanted.len().max(1)).filter(is_it).map(ends).collect()
}

fn read_sources(folder: &Path, sources: &mut Vec<(PathBuf, String)>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            read_sources(&path, sources)?;
        } else {
            let text = fs::read_to_string(&path)?;
            sources.push((path, text));
        }
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}
