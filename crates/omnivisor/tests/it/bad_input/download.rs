//! Downloads that fail, and then do not.

use std::time::Duration;

use omnivisor_testkit::{Answer, Behaviour, Options, upgrade_info};

use super::{Calm, NEVER, announced, impatient, queue_only};
use crate::world::{ANNOUNCEMENT, World, timestamp};

#[test]
fn a_download_that_failed_is_tried_again_until_it_works() {
    let mut calm = Calm::new();
    let whole = std::fs::read(calm.world.minted(&Behaviour::new("2.3.0"))).unwrap();
    let cut = Answer::CutAt { after: whole.len() / 2, bytes: whole };
    for (number, (what, answer, word)) in [
        ("a page with 404", Answer::Status(404, b"<html>".to_vec()), "answered 404"),
        ("500", Answer::Status(500, b"oops".to_vec()), "answered 500"),
        ("a circle", Answer::RedirectLoop, "too many redirects"),
        ("a cut", cut, "end of file"),
        ("no HTTP", Answer::Garbage, "invalid HTTP"),
    ]
    .into_iter()
    .enumerate()
    {
        let (name, version) = (format!("2024.{number}"), format!("2.{number}.0"));
        let executable = calm.world.minted(&Behaviour::new(&version));
        let path = format!("/download/{name}");
        calm.check(what, &["tried again", &path, word], |world| {
            let info = announced(world, &name, &version, NEVER, &executable);
            world.upstream.serve(&path, answer);
            queue_only(world, &[info]);
        });
        assert!(!calm.world.installation.binary(&name).exists(), "{what}");
        calm.world.upstream.serve(&path, Answer::File(executable));
        calm.wait_until_staged(&version);
    }
    queue_only(&calm.world, &[]);
    calm.follows_a_good_one("3.0.0");
}

/// Nothing vouches for the bytes here; what is no executable is not installed all the same.
#[test]
fn an_error_page_is_never_installed_as_an_executable() {
    let options = Options { enforce_checksum: false, ..impatient() };
    let mut calm = Calm::begin(World::with(Behaviour::new("1.0.0"), options));
    let executable = calm.world.minted(&Behaviour::new("2.0.0"));
    let page = Answer::bytes(*b"<!doctype html><title>Please log in to this network</title>");
    let url = calm.world.upstream.url("/download/2024.2");
    let mut info = upgrade_info("2024.2", "2.0.0", &timestamp(Duration::ZERO), Some((&url, "")), None);
    calm.check("a page with 200", &["neither an ELF executable nor a script"], |world| {
        world.upstream.serve("/download/2024.2", page);
        world.upstream.serve(ANNOUNCEMENT, Answer::Json(info.clone()));
    });
    assert!(!calm.world.installation.binary("2024.2").exists());
    calm.wait_for_line("the end of it", 0, &["given up until it is announced differently", "neither an ELF"]);
    calm.undisturbed("a page with 200");
    assert_eq!(calm.world.upstream.requests("/download/2024.2"), 3);

    // The same release without a digest, from another place: announced differently.
    calm.world.upstream.serve("/download/elsewhere", Answer::File(executable));
    let elsewhere = calm.world.upstream.url("/download/elsewhere");
    info["platforms"].as_object_mut().unwrap().values_mut().for_each(|build| build["url"] = elsewhere.as_str().into());
    calm.world.upstream.serve(ANNOUNCEMENT, Answer::Json(info));
    calm.world.wait_for_commit("2.0.0");
    calm.world.wait_for("2.0.0");
}

#[test]
fn a_checksum_is_checked_even_where_none_is_demanded() {
    let options = Options { enforce_checksum: false, ..impatient() };
    let mut calm = Calm::begin(World::with(Behaviour::new("1.0.0"), options));
    let executable = calm.world.minted(&Behaviour::new("2.0.0"));
    let mut info = announced(&calm.world, "2024.2", "2.0.0", &timestamp(Duration::ZERO), &executable);
    info["platforms"].as_object_mut().unwrap().values_mut().for_each(|build| build["checksum"] = "0".repeat(64).into());
    calm.check("another checksum", &["2024.2", "000000000000"], |world| {
        world.upstream.serve("/download/2024.2", Answer::File(executable));
        world.upstream.serve(ANNOUNCEMENT, Answer::Json(info));
    });
    assert!(!calm.world.installation.binary("2024.2").exists());
}
