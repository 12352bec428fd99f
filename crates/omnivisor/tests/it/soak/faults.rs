//! What goes wrong.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use omnivisor_testkit::{Answer, wait_until};
use rustix::process::{Pid, Signal, kill_process};

use super::Soak;
use super::disk::Disk;
use super::releases::Release;
use crate::world::SOON;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    KillSupervisor,
    KillSupervisorAndStartTwo,
    KillNode,
    KillBoth,
    StopAndStart,
    Hold,
    Resume,
    Upgrade,
    Replace,
    UpstreamErrors,
    UpstreamGarbage,
    UpstreamStalls,
    UpstreamCuts,
    UpstreamGone,
    FullDisk,
    /// Full for a moment, and then no more.
    FullDiskForAWhile,
    RefusingDisk,
    BrokenDisk,
    ClockAhead,
    ClockBack,
}

impl Fault {
    pub(super) const ALL: [Self; 20] = [
        Self::KillSupervisor,
        Self::KillSupervisorAndStartTwo,
        Self::KillNode,
        Self::KillBoth,
        Self::StopAndStart,
        Self::Hold,
        Self::Resume,
        Self::Upgrade,
        Self::Replace,
        Self::UpstreamErrors,
        Self::UpstreamGarbage,
        Self::UpstreamStalls,
        Self::UpstreamCuts,
        Self::UpstreamGone,
        Self::FullDisk,
        Self::FullDiskForAWhile,
        Self::RefusingDisk,
        Self::BrokenDisk,
        Self::ClockAhead,
        Self::ClockBack,
    ];
}

/// The supervisor's calendar clock: never the machine's.
pub(super) struct Clock {
    library: Option<PathBuf>,
    offset: PathBuf,
}

impl Clock {
    pub(super) fn of(folder: &Path) -> Self {
        let libraries = fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path());
        let library = libraries.map(|it| it.join("faketime/libfaketime.so.1")).find(|it| it.exists());
        let clock = Self { library, offset: folder.join("clock") };
        clock.set(Duration::ZERO);
        clock
    }

    pub(super) fn can_jump(&self) -> bool {
        self.library.is_some()
    }

    /// So much ahead from now on.
    pub(super) fn set(&self, ahead: Duration) {
        let new = self.offset.with_extension("new");
        fs::write(&new, format!("+{}\n", ahead.as_secs())).unwrap();
        fs::rename(new, &self.offset).unwrap();
    }

    fn give(&self, command: &mut Command) {
        if let Some(library) = &self.library {
            command.env("LD_PRELOAD", library).env("FAKETIME_TIMESTAMP_FILE", &self.offset);
            command
                .env("FAKETIME_NO_CACHE", "1")
                .env("DONT_FAKE_MONOTONIC", "1")
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
    }
}

impl Soak {
    fn command(&self) -> Command {
        let mut command = self.world.run_command();
        command.env("OMNIVISOR_PROBE_WINDOW", "300ms");
        command.env("OMNIVISOR_RETRY_DELAY", "100ms").env("OMNIVISOR_RETRY_MOST", "300ms");
        self.clock.give(&mut command);
        command
    }

    pub(super) fn start(&mut self) {
        self.may_be_early |= self.clock_is_ahead;
        self.supervised = Some(self.world.sandbox.spawn(self.command()));
    }

    fn kill_supervisor(&mut self) {
        if let Some(mut supervised) = self.supervised.take()
            && supervised.try_wait().is_none()
        {
            supervised.kill9();
        }
    }

    fn kill_node(&self) {
        for node in self.world.log().running() {
            let pid = Pid::from_raw(node.pid.cast_signed()).unwrap();
            let _ = kill_process(pid, Signal::KILL); // it may be gone meanwhile
        }
    }

    /// A supervisor whose disk does as it should.
    pub(super) fn begin_anew_if_needed(&mut self) {
        if self.disk_is_bad {
            self.kill_supervisor();
            self.disk_is_bad = false;
        }
        if self.supervised.as_mut().is_none_or(|it| it.try_wait().is_some()) {
            self.start();
        }
    }

    /// From one of the next calls on every call that changes a disk fails.
    fn begin_with_bad_disk(&mut self, fault: &str) {
        self.kill_supervisor();
        self.may_be_early |= self.clock_is_ahead;
        let mut command = self.command();
        command.env("OMNIVISOR_CHECKPOINT", format!("*:{}", 1 + self.random.below(60))).env("OMNIVISOR_FAULT", fault);
        self.supervised = Some(self.world.sandbox.spawn(command));
        self.disk_is_bad = true;
    }

    /// Of its releases and its state, or of the node's home; sometimes a few more pages fit.
    fn fill_disks(&mut self) {
        let (which, free) = (self.random.below(3), self.random.one_of(&[0, 0, 8 << 10, 1 << 20]));
        for (index, disk) in (0..).zip(&self.disks) {
            self.disk_is_full |= (which == 2 || which == index) && disk.fill(free);
        }
    }

    /// That the fake clock reaches the supervisor at all, and that it doubts such a clock. It looks when something happens: a
    /// release is announced, of which nothing is seen later, as the first round announces another one.
    pub(super) fn see_the_clock_jump(&mut self) {
        if self.clock.can_jump() {
            self.clock.set(Duration::from_secs(40 * 24 * 3600));
            self.publish(Release::FarOff, "1.0.1", "2030.0");
            self.world.wait_for_status("the clock is doubted", |status| status["clock"].is_string());
            self.world.wait_for_status("it is prepared, and waits", |status| status["upgrade"]["phase"] == "staged");
            self.clock.set(Duration::ZERO);
        }
    }

    pub(super) fn disturb(&mut self, fault: Fault) {
        let upstream = |answer| self.world.upstream.serve_instead(Some(answer));
        match fault {
            Fault::KillSupervisor => {
                self.kill_supervisor();
                let pause = self.random.below(300);
                std::thread::sleep(Duration::from_millis(pause));
                self.start();
            }
            Fault::KillSupervisorAndStartTwo => {
                self.kill_supervisor();
                self.may_be_early |= self.clock_is_ahead;
                let mut two = [0, 1].map(|_| self.world.sandbox.spawn(self.command()));
                let loser = wait_until("one of two supervisors is refused", SOON, || {
                    let ended: Vec<usize> = (0..2).filter(|index| two[*index].try_wait().is_some()).collect();
                    (!ended.is_empty()).then(|| ended[0])
                });
                assert_eq!(two[loser].try_wait().unwrap().code(), Some(12), "{}", two[loser].stderr());
                let [first, second] = two;
                self.supervised = Some(if loser == 0 { second } else { first });
            }
            Fault::KillNode => self.kill_node(),
            Fault::KillBoth => {
                self.kill_supervisor();
                self.kill_node();
                self.start();
            }
            Fault::StopAndStart => {
                let disk_is_bad = self.disk_is_bad || self.disk_is_full;
                if let Some(mut supervised) = self.supervised.take()
                    && supervised.try_wait().is_none()
                {
                    supervised.signal(15);
                    let code = supervised.wait(SOON).code();
                    // One that was started just now may not have got as far as to listen to signals.
                    let not_begun = supervised.died_of() == Some(15) && supervised.stderr().is_empty();
                    assert!(code == Some(0) || disk_is_bad || not_begun, "{code:?}: {}", supervised.stderr());
                }
                self.start();
            }
            Fault::Hold => drop(self.world.omnivisor(&["hold"])),
            Fault::Resume => drop(self.world.omnivisor(&["resume"])),
            Fault::Upgrade => {
                self.may_be_early = true;
                self.world.omnivisor(&["upgrade", &self.name]);
            }
            Fault::Replace => {
                self.may_be_early |= self.clock_is_ahead;
                self.world.omnivisor(&["reexec"]);
            }
            Fault::UpstreamErrors => upstream(Answer::Status(503, b"later".to_vec())),
            Fault::UpstreamGarbage => upstream(Answer::Garbage),
            Fault::UpstreamStalls => upstream(Answer::Stall { after_bytes: 1000, of_bytes: 1_000_000 }),
            Fault::UpstreamCuts => upstream(Answer::CutAt { bytes: vec![b'{'; 5000], after: 2000 }),
            Fault::UpstreamGone => upstream(Answer::Status(404, Vec::new())),
            Fault::FullDisk => self.fill_disks(),
            Fault::FullDiskForAWhile => {
                self.fill_disks();
                let pause = self.random.below(1500);
                std::thread::sleep(Duration::from_millis(pause));
                self.disks.iter().for_each(Disk::make_room);
            }
            Fault::RefusingDisk => self.begin_with_bad_disk("ENOSPC*"),
            Fault::BrokenDisk => self.begin_with_bad_disk("EIO*"),
            Fault::ClockAhead => {
                let ahead = self.random.one_of(&[90, 3600, 40 * 24 * 3600]);
                self.clock_is_ahead = true;
                self.clock.set(Duration::from_secs(ahead));
            }
            Fault::ClockBack => {
                self.clock_is_ahead = false;
                self.clock.set(Duration::ZERO);
            }
        }
    }
}
