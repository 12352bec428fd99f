//! Plants one bug at a time in a copy of the core, and says whether the core's tests notice it.
//!
//! `cargo run -p omnivisor-testkit --bin plant-bugs [-- <part of a name>]`. The copy is a workspace of its own in
//! `target/planted`. A bug is a piece of the core's source, which must occur in it exactly once (blanks and line ends do not
//! count, nor does the file it is in), and what stands there instead. Prints `killed <name> by <test>` or
//! `SURVIVED <name>`; ends with 1 if one survived, and with 2 if it could not tell.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

/// The fast tests are run for every bug, the slow ones only for what the fast ones did not notice.
const FAST: [&str; 5] = ["--lib", "--test", "transcripts", "--test", "properties"];
const SLOW: [&str; 6] = ["--test", "consensus", "--test", "interleavings", "--test", "crash_points"];

/// A bug that makes a test run for ever is noticed, too. Compiling takes seconds, the slow tests a minute.
const PATIENCE: Duration = Duration::from_secs(300);

struct Bug {
    name: &'static str,
    from: &'static str,
    to: &'static str,
}

const fn bug(name: &'static str, from: &'static str, to: &'static str) -> Bug {
    Bug { name, from, to }
}

#[rustfmt::skip]
const BUGS: &[Bug] = &[
    // How an upgrade is taken back.
    bug("an undo forgets the data",
        "Step::Probe if plan.snapshot => vec![Self::Stop, Self::Restore, Self::Reactivate]",
        "Step::Probe if plan.snapshot => vec![Self::Stop, Self::Reactivate]"),
    bug("an undo moves the link first",
        "Step::Probe if plan.snapshot => vec![Self::Stop, Self::Restore, Self::Reactivate]",
        "Step::Probe if plan.snapshot => vec![Self::Stop, Self::Reactivate, Self::Restore]"),
    bug("an undo does not wait for the node",
        "Step::Probe if plan.snapshot => vec![Self::Stop, Self::Restore, Self::Reactivate]",
        "Step::Probe if plan.snapshot => vec![Self::Restore, Self::Reactivate]"),
    bug("a failed activation is not taken back",
        "Step::Activate => vec![Self::Reactivate]",
        "Step::Activate => Vec::new()"),
    bug("a stuck link keeps the node down",
        "self == Self::Reactivate",
        "{ let _ = self; false }"),
    bug("a failed undo is skipped",
        "self.write(records, Record::UndoFailed { reason: failure.reason });",
        "let undo = if matches!(action, Action::Restore(_)) { Undo::Restore } else { Undo::Reactivate };
         self.write(records, Record::Undone(undo));"),
    bug("no person is ever called",
        "if failures + 1 < UNDO_ATTEMPTS",
        "if failures + 1 < u32::MAX"),
    bug("an undo is tried again at once",
        "self.undo_after = Some(now.monotonic + self.policy.retry * 2_u32.saturating_pow((*failures).min(10)));",
        "let _ = failures;"),

    // What runs.
    bug("the node runs during the switch",
        "Phase::Switching { .. } => None,",
        "Phase::Switching { .. } => self.active.as_ref(),"),
    bug("the node runs during an undo",
        "if owed.iter().all(|undo| undo.node_may_run_without()) { self.active.as_ref() } else { None }",
        "{ let _ = owed; self.active.as_ref() }"),
    bug("the old node runs in the probe",
        "Phase::Probing { staged, .. } => Some(staged), Phase::Switching",
        "Phase::Probing { .. } => self.active.as_ref(), Phase::Switching"),
    bug("a commit changes nothing",
        "self.active = Some(staged.clone());",
        ""),
    bug("no snapshot is taken",
        "from, to, snapshot: self.policy.snapshot",
        "from, to, snapshot: false"),
    bug("two upgrades share a snapshot",
        "self.plans = plan.number;",
        ""),
    bug("a stop by the operator starts the next step",
        "if self.ending.is_some() { return Call::Wait; }",
        ""),

    // What is remembered.
    bug("recovery forgets what was under way",
        "agent.go_on(now, &mut effects);",
        "let _ = (now, &mut effects);"),
    bug("a release that failed is tried again",
        "self.denied.insert(release, reason);",
        "drop((release, reason));"),
    bug("deaths are not counted",
        "staged: staged.clone(), deaths: deaths + 1",
        "staged: staged.clone(), deaths: *deaths"),
    bug("an approval outlives its release",
        "self.last_commit = Some(*at); self.approved.clear();",
        "self.last_commit = Some(*at);"),
    bug("a hold is not remembered",
        "self.held = true;",
        "self.held = false;"),
    bug("a summary forgets what failed",
        "denied: self.denied.clone(),",
        "denied: BTreeMap::new(),"),
    bug("a summary forgets the number of the last upgrade",
        "plans: self.plans, held: self.held, last_commit: self.last_commit, committed: self.committed.clone(),",
        "plans: 0, held: self.held, last_commit: self.last_commit, committed: self.committed.clone(),"),
    bug("a summary ends a hold",
        "held: *held,",
        "held: *held && false,"),

    // What is announced.
    bug("a withdrawn release is installed",
        "return Some(Record::Cancelled(why));",
        "let _ = why; return None;"),
    bug("a postponement is ignored",
        "return Some(Record::Rescheduled(announced.trigger));",
        "return None;"),
    bug("what the active release has overtaken is installed",
        "if let Standing::Installed | Standing::Denied(_) | Standing::NotNewer(_) = self.standing(now, announced) {",
        "if let Standing::Denied(_) = self.standing(now, announced) {"),
    bug("a node that failed waits for a download",
        "if matches!(self.postponed, Some(Ending::GaveUp(_))) && !plan.to.trigger.is_ready() =>",
        "if self.postponed.is_none() && !plan.to.trigger.is_ready() =>"),
    bug("what is due earlier waits",
        "Some(Record::Cancelled(CancelReason::Preempted))",
        "None"),
    bug("a hold is ignored",
        "(!self.journal.held() && self.is_due(now, &plan.to)",
        "(self.is_due(now, &plan.to)"),
    bug("a clock that jumped ahead is believed",
        "None if jumped => self.doubt",
        "None if jumped && false => self.doubt"),
    bug("a clock that jumped ahead is never believed",
        "Some(doubt) if jumped && now.monotonic < doubt.until => {}",
        "Some(_) if jumped => {}"),
    bug("a clock that was set right is doubted on",
        "Some(doubt) if jumped && now.monotonic < doubt.until => {}",
        "Some(doubt) if now.monotonic < doubt.until => {}"),
    bug("a node is stopped before its delay is over",
        "ready && self.ready_since.is_some_and(|since| now.monotonic >= since + self.policy.stop_delay)",
        "ready"),
    bug("what a network has agreed on is taken back when it dies",
        "&& self.policy.rollback == Rollback::Auto {",
        "{"),
    bug("what a network has agreed on is given up",
        "if held { Endurance::ForEver } else { Endurance::AsConfigured }",
        "if held { Endurance::AsConfigured } else { Endurance::AsConfigured }"),
    bug("what a network has agreed on is taken back when its probe fails",
        "Verdict::Sick(_) if self.policy.rollback == Rollback::Hold =>",
        "Verdict::Sick(_) if self.policy.rollback == Rollback::Hold && false =>"),
    bug("what a person queues by a doubted clock waits",
        "(said_since && due <= now.wall)",
        "(said_since && due > now.wall)"),
    bug("a hold during the last look is ignored",
        "(Phase::Staged { plan, .. }, Action::Arm(..), _) if self.may_switch(now, plan) =>",
        "(Phase::Staged { .. }, Action::Arm(..), _) =>"),
    bug("a taken-over installation is upgraded at once",
        "due.is_some_and(|due| due <= adopted && announced.published.unwrap_or(due) <= adopted)",
        "due.is_some_and(|due| due <= adopted && due > adopted)"),
    bug("an approval goes back",
        "if let Some(floor) = self.above(announced) {",
        "if let Some(floor) = self.above(announced).filter(|_| !approved) {"),
    bug("an upstream may issue a version again",
        "Origin::Upstream => order == Some(Ordering::Greater)",
        "Origin::Upstream => order != Some(Ordering::Less)"),
    bug("a late result is taken for the present one",
        "self.seen.sampled(now.monotonic, Ok(())); return; }
         if self.phase_number() != Some(action.plan().number) { return; }",
        "self.seen.sampled(now.monotonic, Ok(())); return; }"),
    bug("a late failure is taken for the present one",
        "self.seen.sampled(now.monotonic, Err(failure.reason)); return; }
         if self.phase_number() != Some(action.plan().number) { return; }",
        "self.seen.sampled(now.monotonic, Err(failure.reason)); return; }"),
    bug("what is not wanted any more is downloaded to its end",
        "&& self.plan().number == other.plan().number",
        ""),

    // How often something is tried.
    bug("tries without a pause",
        "let doubled = 2_u32.saturating_pow(attempts.transient.saturating_sub(1).min(20));",
        "let doubled = 0;"),
    bug("tries with the same pause for ever",
        "let doubled = 2_u32.saturating_pow(attempts.transient.saturating_sub(1).min(20));",
        "let doubled = 1;"),
    bug("a wrong release is tried for ever",
        "if attempts.permanent >= self.policy.rechecks",
        "if attempts.permanent == u32::MAX"),
    bug("an outage is had again and again",
        "let kind = if step > Step::Arm { FailureKind::Permanent } else { kind };",
        ""),
    bug("a clock that was set back stops everything",
        "if now.wall < next && now.wall >= attempts.last",
        "if now.wall < next"),

    // How a release proves itself.
    bug("a death does not end the window",
        "*self = Self::default(); } /// The command was run and ended.",
        "} /// The command was run and ended."),
    bug("a failing probe is good enough",
        "return Verdict::Sick(format!(\"its probe fails at the end of its window: {why}\"))",
        "return { let _ = why; Verdict::Healthy }"),
    bug("a sick node is given its whole window",
        "if self.succeeded && self.failures >= command.failures",
        "if self.succeeded && self.failures == u32::MAX"),

    // How processes are kept.
    bug("a node that is done is started again",
        "= if exit == Exit::Code(0) && self.policy.zero_is_done { (Report::Finished,",
        "= if false { (Report::Finished,"),
    bug("an unknown end counts as a good one",
        "exit == Exit::Code(0) && self.policy.zero_is_done",
        "matches!(exit, Exit::Code(0) | Exit::Unknown) && self.policy.zero_is_done"),
    bug("a pair's second process is not asked",
        "self.state = self.stopping(now, !others, then);",
        "self.state = self.stopping(now, true, then);"),
    bug("a pair's first process takes the other's grace",
        "(State::Stopping { deadline, asked, then, .. }, Seen::Exited { others: false, .. }) => {",
        "(State::Stopping { deadline, asked, then, .. }, Seen::Exited { .. }) => {"),
    bug("exit code 0 always is an end",
        "if exit == Exit::Code(0) && self.policy.zero_is_done {",
        "if exit == Exit::Code(0) {"),
    bug("a node that does not stop is waited for",
        "let (next, order) = if now >= *deadline",
        "let (next, order) = if now >= *deadline && false"),
    bug("only the main process is asked to end",
        "(Asked::Group, Order::AskGroup)",
        "(Asked::Main, Order::AskMain)"),
    bug("the old release waits for the new one's delay",
        "(State::Backoff { key, .. } | State::Ended { key }, Wanted::Running(other, _)) if other != key =>",
        "(State::Ended { key }, Wanted::Running(other, _)) if other != key =>"),
    bug("a node is started before its delay is over",
        "(State::Backoff { key, until }, Wanted::Running(..)) if now >= *until =>",
        "(State::Backoff { key, .. }, Wanted::Running(..)) =>"),
    bug("a long life does not count",
        "if now.saturating_sub(since) >= self.policy.startup_period",
        "if now.saturating_sub(since) >= self.policy.startup_period && false"),
    // How a run ends, and what a person has replaced.
    bug("a run goes on after a switch that ends it",
        "if self.policy.end_after_switch || plan.to.trigger == (Trigger::OnCommand { ends: true }) {",
        "if plan.to.trigger == (Trigger::OnCommand { ends: true }) {"),
    bug("a release that waited for a person is started at once",
        "if self.policy.end_after_switch || plan.to.trigger == (Trigger::OnCommand { ends: true }) {",
        "if self.policy.end_after_switch {"),
    bug("a node that ends takes its due successor with it",
        "if self.may_switch(now, plan) => {}",
        "if self.may_switch(now, plan) && false => {}"),
    bug("the end of a node ends the run of its successor",
        "Phase::Switching { .. } | Phase::Probing { .. } => self.postponed = None,",
        "Phase::Switching { .. } | Phase::Probing { .. } => {}"),
    bug("a node that ended stays down although an undo wants it",
        "(State::Backoff { .. } | State::Ended { .. }, Wanted::Stopped) => {",
        "(State::Backoff { .. }, Wanted::Stopped) => {"),
    bug("what is in the outage can be replaced by hand",
        "if matches!(self.journal.phase(), Phase::Idle | Phase::Preparing { .. } | Phase::Staged { .. }) {
             self.write(records, Record::Replaced { installed, at: now.wall }); }",
        "self.write(records, Record::TakenOver { installed, at: now.wall });"),
    bug("what is elsewhere replaces the active release",
        "if self.active.as_ref().is_some_and(|active| active.folder == installed.folder) =>",
        "if self.active.is_some() =>"),
    bug("a long life gives nothing back",
        "self.startup_failures = 0; self.beyond = 0; } else {",
        "} else {"),
    bug("a node starts beside what is left of the last one",
        "if group_empty { self.settle(then); } else",
        "if group_empty || true { self.settle(then); } else"),
];

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
