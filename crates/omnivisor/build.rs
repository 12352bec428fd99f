//! What a release says of itself for `build-info`: when it was built, from which commit, by which compiler.
//!
//! Where nobody knows, it says `unknown`: without git, outside a repository, and in debug builds, which would otherwise be
//! made anew after every commit. `SOURCE_DATE_EPOCH` sets the time of a build that is to be reproduced.

#![allow(clippy::print_stdout, reason = "that is how cargo is told")]

use std::env;
use std::process::Command;
use std::time::{Duration, SystemTime};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=SOURCE_DATE_EPOCH");
    let variable = |name| env::var(name).unwrap_or_default();
    let profile = variable("PROFILE");
    let release = profile == "release";
    if release {
        for file in ["HEAD", "logs/HEAD"] {
            if let Some(path) = git(&["rev-parse", "--git-path", file]) {
                println!("cargo::rerun-if-changed={path}");
            }
        }
    }
    let of_commit = |arguments: &[&str]| release.then(|| git(arguments)).flatten();
    let seconds = env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.parse().ok()).map(Duration::from_secs);
    let built = match seconds {
        Some(seconds) => Some(SystemTime::UNIX_EPOCH + seconds),
        None => release.then(SystemTime::now),
    };
    let compiler = said(Command::new(variable("RUSTC")).arg("--version")).unwrap_or_default();
    let version = compiler.split(' ').nth(1).map(str::to_owned);
    let channel = version.as_deref().map(|version| match version.split_once('-') {
        Some((_, channel)) => channel.split('.').next().unwrap_or(channel).to_owned(),
        None => "stable".to_owned(),
    });
    for (name, value) in [
        ("TIMESTAMP", built.map(|time| humantime::format_rfc3339_nanos(time).to_string())),
        ("COMMIT_SHA", of_commit(&["rev-parse", "HEAD"])),
        ("COMMIT_TIMESTAMP", of_commit(&["show", "--no-patch", "--format=%cI", "HEAD"])),
        ("COMMIT_BRANCH", of_commit(&["rev-parse", "--abbrev-ref", "HEAD"])),
        ("RUSTC_VERSION", version),
        ("RUSTC_CHANNEL", channel),
        ("PROFILE", Some(profile)),
        ("TRIPLE", Some(variable("TARGET"))),
    ] {
        println!("cargo::rustc-env=OMNIVISOR_BUILD_{name}={}", value.unwrap_or_else(|| "unknown".to_owned()));
    }
}

fn git(arguments: &[&str]) -> Option<String> {
    said(Command::new("git").args(arguments))
}

fn said(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (!text.is_empty()).then_some(text)
}
