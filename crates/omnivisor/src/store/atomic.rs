//! Files and links that are replaced whole: a reader, and a crash, see the old one or the new one.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::io::Errno;

use super::disk::{self, Written};

/// What the name of a file that is being made ends in; nothing that ends so is ever read.
pub const UNFINISHED: &str = ".omnivisor-new";

/// Replaces `path` by a file with these contents and this mode. When it returns, contents and name are durable.
///
/// On an error nothing is left beside it, and `path` is what it was; or, if only its folder could not be flushed, the new one.
pub fn replace(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    replace_by(path, mode, |file| file.push(contents))
}

/// The same with what is written to the new file, in pieces: for what is long.
pub fn replace_by(path: &Path, mode: u32, write: impl FnOnce(&mut Written) -> io::Result<()>) -> io::Result<()> {
    let unfinished = unfinished(path)?;
    let written = Written::create(&unfinished, mode)
        .and_then(|mut file| write(&mut file).and_then(|()| file.flush()))
        .and_then(|()| disk::rename(&unfinished, path));
    clean(written, &unfinished)?;
    flush_folder_of(path)
}

/// Replaces `path` by a copy of the file `from`, with this mode. When it returns, contents and name are durable.
///
/// On an error `path` is what it was, and nothing is left beside it.
pub fn replace_by_copy(path: &Path, from: &Path, mode: u32) -> io::Result<()> {
    let unfinished = unfinished(path)?;
    let copied = disk::copy(from, &unfinished)
        .and_then(|()| disk::set_mode(&unfinished, mode))
        .and_then(|()| disk::flush_file(&unfinished))
        .and_then(|()| disk::rename(&unfinished, path));
    clean(copied, &unfinished)?;
    flush_folder_of(path)
}

/// Like [`replace`], but only if the file still has the contents `expected` (none: is not there); false if it has others.
///
/// For files that people and peers write without taking any lock: whatever they wrote until the very moment is seen, and
/// stays.
pub fn replace_if(path: &Path, expected: Option<&[u8]>, contents: &[u8], mode: u32) -> io::Result<bool> {
    let unfinished = unfinished(path)?;
    let exchanged = write(&unfinished, contents, mode, true).and_then(|()| exchange(&unfinished, path, expected));
    // Where the file was renamed, and not exchanged, nothing is left to be removed.
    let removed = disk::remove(&unfinished);
    if exchanged? {
        removed?;
        return flush_folder_of(path).map(|()| true);
    }
    Ok(false)
}

/// Gives a file or a folder another name, which must be free. Whoever wants that to be durable flushes the folder.
pub fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match disk::rename_new(from, to) {
        // Looked at as late as possible.
        Err(error) if is_not_offered(&error) => match to.symlink_metadata() {
            Ok(_) => Err(Errno::EXIST.into()),
            Err(_) => disk::rename(from, to),
        },
        other => other,
    }
}

/// Puts `new` in the place of `path`, and back if that was not what was expected.
fn exchange(new: &Path, path: &Path, expected: Option<&[u8]>) -> io::Result<bool> {
    let Some(expected) = expected else {
        return match rename_new(new, path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        };
    };
    match disk::exchange(new, path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        // Looked at as late as possible.
        Err(error) if is_not_offered(&error) => {
            return match fs::read(path)? == expected {
                true => disk::rename(new, path).map(|()| true),
                false => Ok(false),
            };
        }
        Err(error) => return Err(error),
    }
    let replaced = fs::read(new);
    if replaced.as_ref().is_ok_and(|replaced| replaced == expected) {
        return Ok(true);
    }
    disk::exchange(new, path)?;
    replaced.map(|_| false)
}

/// Whether the file system has no such kind of rename.
fn is_not_offered(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::INVAL | Errno::NOSYS))
}

/// Like [`replace`], but only the page cache has it when it returns: it outlives this process, not a power cut.
pub fn replace_in_memory(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    let unfinished = unfinished(path)?;
    let written = write(&unfinished, contents, mode, false).and_then(|()| disk::rename(&unfinished, path));
    clean(written, &unfinished)
}

/// Replaces `path` by a symbolic link to `target`; durable when it returns. It never is absent in between.
pub fn replace_link(path: &Path, target: &Path) -> io::Result<()> {
    let unfinished = unfinished(path)?;
    let linked = disk::link(target, &unfinished).and_then(|()| disk::rename(&unfinished, path));
    clean(linked, &unfinished)?;
    flush_folder_of(path)
}

/// Makes the names in the folder that holds `path` durable.
pub fn flush_folder_of(path: &Path) -> io::Result<()> {
    disk::flush_folder(path.parent().unwrap_or(Path::new("/")))
}

/// Removes what a crash left half made in `folder`; what another process is making stays.
pub fn sweep(folder: &Path) {
    sweep_of(folder, |_| true);
}

/// The same, of those whose name is one of these: where a thread of ours may be making others.
pub fn sweep_of(folder: &Path, is_one: impl Fn(&str) -> bool) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(made) = name.strip_suffix(UNFINISHED) else { continue };
        let writer = made.rsplit_once('.').and_then(|(_, writer)| writer.split_once('-')?.0.parse::<u32>().ok());
        let alive = |pid: u32| pid != std::process::id() && Path::new(&format!("/proc/{pid}")).exists();
        if is_one(&name) && !writer.is_some_and(alive) {
            let _ = disk::remove_file(&entry.path());
        }
    }
}

fn write(path: &Path, contents: &[u8], mode: u32, durable: bool) -> io::Result<()> {
    let file = Written::create(path, mode)?;
    file.write_at(contents, 0)?;
    if durable { file.flush() } else { Ok(()) }
}

/// What the file that is to replace `path` is called until it is whole; [`sweep`] removes it if it never is.
pub fn unfinished(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| io::Error::other(format!("{} names no file", path.display())))?;
    // Instances that share a folder write there at the same time, and so do our own threads.
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}-{number}{UNFINISHED}", std::process::id()));
    Ok(path.with_file_name(hidden))
}

fn clean(result: io::Result<()>, unfinished: &Path) -> io::Result<()> {
    if result.is_err() {
        let _ = disk::remove_file(unfinished);
    }
    result
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("omnivisor-atomic-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn a_file_is_replaced_whole_with_its_mode() {
        let folder = folder("file");
        let path = folder.join("it.json");
        fs::write(&path, "old").unwrap();
        replace(&path, b"new", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "nothing is left beside it");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_link_is_replaced_by_many_at_once() {
        let folder = folder("link");
        let path = folder.join("current");
        std::thread::scope(|scope| {
            for target in ["/a", "/b", "/c", "/d"] {
                let path = &path;
                scope.spawn(move || (0..50).for_each(|_| replace_link(path, Path::new(target)).unwrap()));
            }
        });
        assert!(fs::read_link(&path).is_ok());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_a_crash_left_is_removed_and_what_another_is_making_is_not() {
        let folder = folder("sweep");
        let mut dead = std::process::Command::new("true").spawn().unwrap();
        dead.wait().unwrap();
        let parent = std::os::unix::process::parent_id();
        for writer in [format!(".{}-3", dead.id()), format!(".{}-0", std::process::id()), String::new()] {
            std::os::unix::fs::symlink("/nowhere", folder.join(format!(".current{writer}{UNFINISHED}"))).unwrap();
        }
        let others = folder.join(format!(".current.{parent}-1{UNFINISHED}"));
        fs::write(&others, "").unwrap();
        sweep(&folder);
        let left: Vec<_> = fs::read_dir(&folder).unwrap().flatten().map(|entry| entry.path()).collect();
        assert_eq!(left, [others]);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_somebody_else_wrote_meanwhile_stays() {
        let folder = folder("if");
        let path = folder.join("plan.json");
        assert!(replace_if(&path, None, b"1", 0o644).unwrap());
        assert!(!replace_if(&path, None, b"2", 0o644).unwrap(), "it is there");
        assert!(!replace_if(&path, Some(b"0"), b"2", 0o644).unwrap(), "it is another one");
        assert_eq!(fs::read(&path).unwrap(), b"1");
        assert!(replace_if(&path, Some(b"1"), b"2", 0o644).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"2");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        fs::remove_file(&path).unwrap();
        assert!(!replace_if(&path, Some(b"2"), b"3", 0o644).unwrap(), "it is gone");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_cannot_be_replaced_stays_and_nothing_is_left() {
        let folder = folder("fails");
        let path = folder.join("taken");
        fs::create_dir_all(path.join("inside")).unwrap();
        assert!(replace(&path, b"x", 0o644).is_err());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        fs::remove_dir_all(folder).unwrap();
    }
}
