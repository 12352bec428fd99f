//! A configuration that is changed while the nodes run.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use omnivisor_testkit::{Kind, VegaBehaviour, VegaOptions, wait_until};

use super::calm::Calm;
use super::world::{NEW, OLD, World, options, said, wait_for_line};
use crate::world::SOON;

const IN_FORCE: &str = "the configuration was changed, and is in force";
const REFUSED: &str = "the last one stays in force";

/// The configuration as it is, with another line for the folder of the next release.
fn mapped(world: &World, folder: &str) -> String {
    let text = fs::read_to_string(world.installation.config()).unwrap();
    let lines = text.lines().filter(|line| !line.contains(NEW));
    lines
        .map(|line| format!("{line}\n"))
        .collect::<String>()
        .replace("[upgradeFolders]\n", &format!("[upgradeFolders]\n  \"{NEW}\" = \"{folder}\"\n"))
}

/// How a person, or what they use, writes a file.
type Way = fn(&Path, &str);

fn in_place(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
}

/// Emptied, and filled bit by bit: what is read meanwhile is wrong, or is not all of it.
fn slowly(path: &Path, text: &str) {
    let mut file = OpenOptions::new().write(true).truncate(true).open(path).unwrap();
    for part in text.as_bytes().chunks(text.len() / 5) {
        file.write_all(part).unwrap();
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn renamed_over(path: &Path, text: &str) {
    let beside = path.with_extension("toml.new");
    fs::write(&beside, text).unwrap();
    fs::rename(beside, path).unwrap();
}

/// As vi does, which moves the old one away first.
fn moved_away_and_made_anew(path: &Path, text: &str) {
    fs::rename(path, path.with_extension("toml~")).unwrap();
    fs::write(path, text).unwrap();
}

fn deleted_and_made_anew(path: &Path, text: &str) {
    fs::remove_file(path).unwrap();
    fs::write(path, text).unwrap();
}

// V17
#[test]
fn a_change_is_followed_however_it_is_written() {
    let mut calm = Calm::begin(World::with(options()));
    calm.world.accept(NEW);
    calm.wait_for_standing("at first", NEW, &["no executable at", NEW]);
    let ways: [(&str, Way); 5] = [
        ("in place", in_place),
        ("slowly", slowly),
        ("renamed over", renamed_over),
        ("moved away and made anew", moved_away_and_made_anew),
        ("deleted and made anew", deleted_and_made_anew),
    ];
    // Twice: a watch may be lost with the file that it was of.
    for round in 0..2 {
        for (number, (what, write)) in ways.iter().enumerate() {
            let folder = format!("folder-{round}-{number}");
            let text = mapped(&calm.world, &folder);
            calm.check(what, &[IN_FORCE], |world| write(&world.installation.config(), &text));
            calm.wait_for_standing(what, NEW, &["no executable at", &folder]);
        }
    }
    let home = calm.world.installation.home().to_owned();
    calm.world.installation.place("folder-1-4", &calm.world.installation.run_config(NEW), &VegaBehaviour::new(NEW));
    calm.wait_until_staged(NEW);
    let calm = calm.switches_to(NEW);
    calm.world.installation.assert_visor_would_start_from(&home.join("folder-1-4"), NEW);
}

// V17
#[test]
fn an_edit_that_cannot_be_used_is_refused_and_said_and_the_last_good_one_stays() {
    let mut calm = Calm::begin(World::with(options()));
    let good = mapped(&calm.world, "good");
    calm.check("a good one", &[IN_FORCE], |world| in_place(&world.installation.config(), &good));
    calm.world.accept(NEW);
    calm.wait_for_standing("a good one", NEW, &["/good"]);
    for (what, text, words) in [
        ("empty", String::new(), "it is empty"),
        ("half", good[..good.len() / 2].to_owned() + "\"", "cannot read config.toml"),
        ("a web page", "<!doctype html>".to_owned(), "it looks like HTML"),
        ("a text for a number", good.replace("maxNumberOfRestarts = 3", "maxNumberOfRestarts = \"3\""), "it is a text"),
        ("a negative number", good.replace("stopDelaySeconds = 0", "stopDelaySeconds = -1"), "it is negative"),
        ("a folder elsewhere", good.replace("\"good\"", "\"../good\""), "it is no folder below the home"),
        ("another repository", good.replace("\"vegaprotocol\"", "\"vega/protocol\""), "cannot be a part of an address"),
    ] {
        assert_ne!(text, good, "{what}");
        calm.check(what, &[REFUSED, words], |world| renamed_over(&world.installation.config(), &text));
        let status = calm.world.status().unwrap();
        assert!(status["refusedConfiguration"].as_str().unwrap().contains(words), "{what}: {status:#}");
        let shown = calm.world.omnivisor(&["status"]).stdout;
        assert!(String::from_utf8_lossy(&shown).contains("REFUSED "), "for people, too");
        calm.wait_for_standing(what, NEW, &["/good"]);
    }
    calm.check("none at all", &[REFUSED, "cannot read the configuration"], |world| {
        fs::remove_file(world.installation.config()).unwrap();
    });
    calm.wait_for_standing("none at all", NEW, &["/good"]);
    calm.check("a good one again", &[IN_FORCE], |world| {
        in_place(&world.installation.config(), &good.replace("\"good\"", "\"better\""));
    });
    calm.world.wait_for_status("nothing is refused", |status| status["refusedConfiguration"].is_null());
    calm.wait_for_standing("a good one again", NEW, &["/better"]);
}

// V17
/// Vega Visor reads most of them once, and one never again.
#[test]
fn delays_and_limits_are_in_force_at_once() {
    let options = VegaOptions { restarts_delay_seconds: 3600, stop_signal_timeout_seconds: 3600, ..options() };
    let world = World::with(options.with_data_node());
    let mut supervised = world.run();
    world.wait_for(OLD);
    let text = fs::read_to_string(world.installation.config()).unwrap();
    let text = text.replace("restartsDelaySeconds = 3600", "restartsDelaySeconds = 0");
    let text = text.replace("stopSignalTimeoutSeconds = 3600", "stopSignalTimeoutSeconds = 1");
    let text = text.replace("RestartConnectionRetries = 10", "RestartConnectionRetries = 1");
    renamed_over(&world.installation.config(), &text);
    wait_for_line(&supervised, &[IN_FORCE]);

    world.installation.control_core(|control| control["ignore_stop"] = true.into());
    let data_node = world.log().last_start_of(Kind::Datanode).unwrap().pid;
    super::world::kill(data_node);
    wait_for_line(&supervised, &["did not end within its grace period and is killed"]);
    wait_until("both start again", SOON, || (world.log().starts().len() == 4).then_some(()));
    world.installation.control_core(|control| control["rpc"] = "hang".into());
    wait_for_line(&supervised, &["the node gives no answer: nobody can say"]);
    let begin = Instant::now();
    supervised.signal(15);
    assert_eq!(supervised.wait(SOON).code(), Some(0));
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    world.log().assert_never_double();
}

// V17
#[test]
fn where_releases_come_from_can_be_said_while_one_is_waited_for() {
    let mut calm = Calm::begin(World::with(options()));
    calm.world.publish(NEW, &VegaBehaviour::new(NEW));
    calm.world.accept(NEW);
    calm.wait_for_standing("nothing is downloaded", NEW, &["enabled = false"]);
    let off = fs::read_to_string(calm.world.installation.config()).unwrap();
    let elsewhere = off.replace("enabled = false", "enabled = true").replace("\"vegaprotocol\"", "\"elsewhere\"");
    calm.check("another owner", &[IN_FORCE], |world| in_place(&world.installation.config(), &elsewhere));
    calm.wait_for_standing("another owner", NEW, &["elsewhere/vega has no release"]);
    let on = off.replace("enabled = false", "enabled = true");
    calm.check("enabled", &[IN_FORCE], |world| in_place(&world.installation.config(), &on));
    calm.wait_until_staged(NEW);
    calm.switches_to(NEW);
}

// V16
/// A file that is gone for a while, and no help of the kernel: neither a busy processor nor a full disk.
#[test]
fn a_configuration_that_cannot_be_watched_costs_nothing() {
    let world = World::with(options());
    let unshared = |command: &str| {
        let mut unshare = Command::new("unshare");
        unshare.args(["--user", "--map-root-user", "sh", "-c"]).arg(command);
        unshare
    };
    const WITHOUT: &str = "echo 0 >/proc/sys/user/max_inotify_instances";
    let mut run = world.run_command();
    // Where it is not allowed to have a kernel without it, at least the file is gone.
    let without = unshared(WITHOUT).output().is_ok_and(|output| output.status.success());
    if without {
        let own = run;
        let script = format!(
            "{WITHOUT}; exec '{}' vega run --home '{}'",
            crate::world::omnivisor_exe().display(),
            world.installation.home().display()
        );
        run = unshared(&script);
        run.env_clear().envs(own.get_envs().filter_map(|(name, value)| Some((name, value?))));
        run.current_dir(world.sandbox.path()).process_group(0);
    }
    let supervised = world.sandbox.spawn(run);
    let mut calm = Calm::with(world, supervised);
    if without {
        calm.wait_for_line("no help", 0, &["the kernel does not tell when this file changes"]);
    }
    let good = mapped(&calm.world, "good");
    calm.check("it is gone", &[REFUSED], |world| fs::remove_file(world.installation.config()).unwrap());
    let (before, said_before, begin) = (processor_time(calm.supervised.pid()), calm.so_far(), Instant::now());
    // Not a condition: whatever would spin does so for this long.
    std::thread::sleep(Duration::from_secs(4));
    let (spent, elapsed) = (processor_time(calm.supervised.pid()) - before, begin.elapsed());
    assert!(spent < elapsed / 4, "{spent:?} of {elapsed:?}");
    assert!(calm.so_far() - said_before < 2000, "{}", said(&calm.supervised));
    calm.check("it is there again", &[IN_FORCE], |world| in_place(&world.installation.config(), &good));
}

/// How long a process has kept a processor busy.
fn processor_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}
