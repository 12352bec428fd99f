//! The acts of the demo. Each line is said after what it says was seen; each wait has an end.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use omnivisor_core::release::Algorithm;
use serde_json::Value;

use super::events::{Beats, Data, Event, Events, What, now};
use super::node::BEAT;
use super::sample::{NAME, Sample};
use super::stage::Stage;
use super::summary::{Measured, said};
use super::upstream::Upstream;
use super::{Audience, Line, live};
use crate::effects::digest;

/// What takes milliseconds is waited for this long, on the slowest machine.
const SOON: Duration = Duration::from_secs(30);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(5);
/// So many beats are watched after the supervisor was killed, and again after another one is there.
const BEATS: usize = 25;

const RUN: [&str; 4] = ["run", "run", "--home", "node"];

const FIRST: &str = "1.0.0";
const GOOD: &str = "1.1.0";
const SICK: &str = "1.2.0";

/// Tells it all; an error says what was not seen.
pub async fn tell(stage: &mut Stage, audience: &dyn Audience) -> anyhow::Result<()> {
    let begun = Instant::now();
    let program = fs::read("/proc/self/exe").context("cannot read the own executable")?;
    let upstream = Upstream::open().await.context("cannot listen on the loopback")?;
    let mut tale = Tale { stage, audience, upstream, program, ending: false };
    tale.title();
    let supervisor = tale.begin().await?;
    let good = tale.good_upgrade().await?;
    let (sick, undo) = tale.sick_upgrade().await?;
    let pause = tale.kill(supervisor).await?;
    tale.end().await?;
    audience.hear(Line::Heading("What was measured"));
    for row in (Measured { good, sick, undo, pause }).rows() {
        audience.hear(Line::Row(&row));
    }
    audience.hear(Line::Heading(&format!("All of it was seen, in {}.", said(begun.elapsed()))));
    audience
        .hear(Line::Text("Next, with a node of your own: \"Five minutes\" in README.md, and `nymvisor init --help`."));
    Ok(())
}

struct Tale<'a> {
    stage: &'a mut Stage,
    audience: &'a dyn Audience,
    upstream: Upstream,
    program: Vec<u8>,
    /// Whether the supervisor was told to end.
    ending: bool,
}

impl Tale<'_> {
    fn title(&self) {
        self.audience
            .hear(Line::Title("omnivisor demo: a sample node, an upstream on the loopback, and the real supervisor."));
        self.text(&format!(
            "All of it is in {}, and nothing of it stays. The times are short here:",
            self.stage.path().display()
        ));
        self.text("upstream is asked every second, and a new release has to stay alive for two.");
    }

    /// A node that runs.
    async fn begin(&mut self) -> anyhow::Result<u32> {
        self.heading("1. A node, supervised");
        let first = Sample::well(FIRST);
        let executable = first.executable(&self.program)?;
        let path = self.stage.path().join(NAME);
        fs::write(&path, &executable).with_context(|| format!("cannot write {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        self.upstream.announce(&first, executable)?;

        let base = self.upstream.base();
        self.run("nymvisor", &["init", "--daemon-home", "node", "--upstream-base-upgrade-url", &base, NAME]).await?;
        self.seen("an instance, with the sample node as its first release");
        // What is installed is a copy.
        fs::remove_file(&path)?;
        let supervisor = self.supervise()?;
        let node = self.event("the node is started", FIRST, Duration::ZERO, |what| *what == What::Started).await?.pid;
        self.status("the supervisor says that the node runs", |status| status["node"]["pid"] == node).await?;
        self.seen(&format!("{FIRST} runs as process {node}, and its supervisor as process {supervisor}"));
        self.show_status().await?;
        Ok(supervisor)
    }

    /// Fetched, proven, switched to, committed. Gives the outage.
    async fn good_upgrade(&mut self) -> anyhow::Result<Duration> {
        self.heading("2. A good release");
        let announced = self.announce(&Sample::well(GOOD))?;
        let asked =
            self.event("the release is asked who it is", GOOD, Duration::ZERO, |what| *what == What::Asked).await?;
        let started = self.event("the release is started", GOOD, asked.at, |what| *what == What::Started).await?;
        let stopped = self.stopped(FIRST, Duration::ZERO)?;
        ensure!(asked.at < stopped.at, "{GOOD} was asked who it is after {FIRST} was stopped");
        let runs = digest::of_file(Algorithm::Sha256, Path::new(&format!("/proc/{}/exe", started.pid)));
        let runs = runs.context("cannot look at what runs")?.to_string();
        ensure!(runs.ends_with(&announced), "{announced} was announced, and {runs} runs");
        self.seen(&format!("downloaded, its digest checked, asked who it is: all while {FIRST} ran on"));
        let outage = started.at.saturating_sub(stopped.at);
        self.seen(&format!("switched: {FIRST} ended, and {GOOD} was executing {} later", said(outage)));
        self.active(GOOD).await?;
        self.seen(&format!("{GOOD} stayed alive for its two seconds: committed"));
        Ok(outage)
    }

    /// Taken back, with the data. Gives the outage, and how much of it was after the second death.
    async fn sick_upgrade(&mut self) -> anyhow::Result<(Duration, Duration)> {
        self.heading("3. A sick release");
        self.announce(&Sample::sick(SICK))?;
        self.text("It rewrites the node's data, so that no older release can read them, and dies at its start.");
        let rewrote = self
            .event("the sick release has rewritten the data", SICK, Duration::ZERO, |what| *what == What::Rewrote)
            .await?;
        let (left, stopped) = self.left(GOOD)?;
        self.seen(&format!("switched to, and the data are those of {SICK} now ({GOOD} had counted to {})", left.count));
        let first = self.event("the sick release dies", SICK, rewrote.at, |what| *what == What::Died).await?;
        self.seen("it died; a first death may be chance, so it was started again");
        let after = first.at + Duration::from_nanos(1);
        let second = self.event("the sick release dies again", SICK, after, |what| *what == What::Died).await?;
        self.seen("it died again: that is no chance");
        let back = self.event("the old release runs again", GOOD, second.at, |what| *what == What::Started).await?;
        let is_found = |what: &What| matches!(what, What::Found(_) | What::Refused);
        let found = self.event("the old release has looked at its data", GOOD, back.at, is_found).await?;
        ensure!(found.what == What::Found(Some(left.clone())), "{GOOD} left {left:?} and has {:?} now", found.what);
        let (outage, undo) = (back.at.saturating_sub(stopped), back.at.saturating_sub(second.at));
        self.seen(&format!("taken back: {GOOD} was executing {} after the second death", said(undo)));
        self.seen(&format!("its data are as it had left them: written by {}, counted to {}", left.version, left.count));
        self.active(GOOD).await?;
        let (asked, starts) = (self.upstream.asked(), self.starts());
        self.asked(asked + 2).await?;
        ensure!(self.starts() == starts, "{SICK} was tried again");
        self.seen(&format!("upstream still announces {SICK} and was asked twice since: it is not tried again"));
        self.show_status().await?;
        Ok((outage, undo))
    }

    /// The supervisor dies, the node does not. Gives the longest pause between two of its beats.
    async fn kill(&mut self, supervisor: u32) -> anyhow::Result<Duration> {
        self.heading("4. kill -9 for the supervisor");
        let node = self.running()?;
        let starts = self.starts();
        let killed = now();
        self.audience.hear(Line::Command(&format!("kill -9 {supervisor}")));
        self.stage.kill_supervisor().await?;
        let folder = self.stage.path().to_owned();
        self.until("the node's heart beats on", |_| (Beats::read(&folder, node).after(killed) >= BEATS).then_some(()))
            .await?;
        self.seen(&format!("no supervisor, and the node (process {node}) runs on"));
        let next = self.supervise()?;
        let is_same = |status: &Value| status["supervisor"] == next && status["node"]["pid"] == node;
        self.status("the next supervisor has taken the node over", is_same).await?;
        let taken = now();
        self.until("the node's heart beats on", |_| (Beats::read(&folder, node).after(taken) >= BEATS).then_some(()))
            .await?;
        ensure!(self.starts() == starts && self.running()? == node, "the node was started again");
        let pause = Beats::read(&folder, node).longest_pause(killed);
        self.seen(&format!("process {next} has taken it over: still process {node}, not restarted"));
        self.seen(&format!("its heart beats every {}; the longest pause meanwhile was {}", said(BEAT), said(pause)));
        Ok(pause)
    }

    /// Nothing is left.
    async fn end(&mut self) -> anyhow::Result<()> {
        self.heading("5. The end");
        let before = now();
        self.ending = true;
        self.run("omnivisor", &["stop"]).await?;
        self.event("the node ends", GOOD, before, |what| matches!(what, What::Stopped(_))).await?;
        let ended = self.wait("the supervisor ends", |stage| stage.supervisor_ended()).await?;
        ensure!(ended.success(), "the supervisor ended with {ended}");
        self.wait("no process is left", |stage| stage.processes().is_empty().then_some(())).await?;
        self.seen("the node ended, then its supervisor, with exit code 0; no process is left");
        let events = Events::read(self.stage.path());
        ensure!(!events.ever_two_at_once(), "two nodes ran at once: {events:?}");
        self.seen("at no time were two nodes running");
        self.stage.strike()?;
        ensure!(!self.stage.path().exists(), "{} is still there", self.stage.path().display());
        self.seen("the folder is removed");
        Ok(())
    }

    fn heading(&self, text: &str) {
        self.audience.hear(Line::Heading(text));
    }

    fn text(&self, text: &str) {
        self.audience.hear(Line::Text(text));
    }

    fn seen(&self, text: &str) {
        self.audience.hear(Line::Seen(text));
    }

    async fn run(&self, called: &str, arguments: &[&str]) -> anyhow::Result<String> {
        self.audience.hear(Line::Command(&format!("{called} {}", arguments.join(" "))));
        self.stage.run(called, arguments).await
    }

    async fn show_status(&self) -> anyhow::Result<()> {
        self.run("omnivisor", &["status"]).await?.lines().for_each(|line| self.audience.hear(Line::Output(line)));
        Ok(())
    }

    fn supervise(&mut self) -> anyhow::Result<u32> {
        self.audience.hear(Line::Command(&format!("nymvisor {}", RUN.join(" "))));
        self.stage.start_supervisor(&RUN)
    }

    fn announce(&self, sample: &Sample) -> anyhow::Result<String> {
        let executable = sample.executable(&self.program)?;
        let megabytes = executable.len() as f64 / 1e6;
        let digest = self.upstream.announce(sample, executable)?;
        self.text(&format!(
            "Upstream announces {}: {megabytes:.1} MB to be downloaded, with its sha256, due now.",
            sample.version
        ));
        Ok(digest)
    }

    /// The process of the node that was started last.
    fn running(&self) -> anyhow::Result<u32> {
        let events = Events::read(self.stage.path());
        let last = events.all().iter().rfind(|event| event.what == What::Started);
        last.map(|event| event.pid).ok_or_else(|| anyhow!("no node was ever started"))
    }

    fn starts(&self) -> usize {
        Events::read(self.stage.path()).all().iter().filter(|event| event.what == What::Started).count()
    }

    fn stopped(&self, version: &str, since: Duration) -> anyhow::Result<Event> {
        let stopped = |what: &What| matches!(what, What::Stopped(_));
        let events = Events::read(self.stage.path());
        events.first(version, since, stopped).cloned().ok_or_else(|| anyhow!("{version} did not end as it should"))
    }

    /// What a release left when it was stopped, and when that was.
    fn left(&self, version: &str) -> anyhow::Result<(Data, Duration)> {
        match self.stopped(version, Duration::ZERO)? {
            Event { at, what: What::Stopped(data), .. } => Ok((data, at)),
            event => bail!("{version} did not end as it should: {event:?}"),
        }
    }

    /// Waits until an upgrade is over and this is the active release.
    async fn active(&mut self, version: &str) -> anyhow::Result<Value> {
        let is = |status: &Value| status["upgrade"]["phase"] == "idle" && status["active"]["version"] == version;
        self.status(&format!("{version} is the active release and nothing is under way"), is).await
    }

    /// Waits until upstream was asked so often.
    async fn asked(&mut self, times: usize) -> anyhow::Result<()> {
        let upstream = self.upstream.clone();
        self.until("upstream is asked again", |_| (upstream.asked() >= times).then_some(())).await
    }

    /// Waits for an event.
    async fn event(
        &mut self,
        what: &str,
        version: &str,
        since: Duration,
        is: impl Fn(&What) -> bool,
    ) -> anyhow::Result<Event> {
        self.until(&format!("{what} ({version})"), |folder| Events::read(folder).first(version, since, &is).cloned())
            .await
    }

    async fn until<T>(&mut self, what: &str, look: impl Fn(&Path) -> Option<T>) -> anyhow::Result<T> {
        self.wait(what, |stage| look(stage.path())).await
    }

    async fn wait<T>(&mut self, what: &str, mut look: impl FnMut(&mut Stage) -> Option<T>) -> anyhow::Result<T> {
        let begun = Instant::now();
        loop {
            // Looked at once more after the time is over, in case this process slept through it.
            let over = begun.elapsed() > SOON || self.died();
            if let Some(found) = look(self.stage) {
                return Ok(found);
            }
            if over {
                return Err(self.in_vain(what));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits for a status of which this is true.
    async fn status(&mut self, what: &str, is: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        let begun = Instant::now();
        loop {
            let over = begun.elapsed() > SOON || self.died();
            if let Some(status) = live::status(&self.stage.runtime()).await.filter(&is) {
                return Ok(status);
            }
            if over {
                return Err(self.in_vain(what));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Whether the supervisor has ended, and nobody told it to.
    fn died(&mut self) -> bool {
        !self.ending && self.stage.supervisor_ended().is_some()
    }

    fn in_vain(&mut self, what: &str) -> anyhow::Error {
        let ended = self.stage.supervisor_ended().map(|status| format!(" (the supervisor ended: {status})"));
        let ended = ended.unwrap_or_default();
        anyhow!("waited in vain until {what}{ended}; the supervisor's log ends so:\n{}", self.stage.log())
    }
}
