//! A cgroup (version 2) of the node's own, below ours: whatever a node starts is in it, whatever it does to hide, and stays in
//! it when its supervisor dies.
//!
//! Only where the hierarchy is ours to change: where systemd has delegated it (which it notes in an attribute), or where we are
//! not root and may write. Absent here: limits and accounting.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use omnivisor_core::release::Algorithm;
use rustix::fs::{Access, access, getxattr};

use super::digest;
use super::mounts::unescaped;
use super::process::ProcessId;

/// The attributes that systemd sets on what it delegates: the first one for everybody, the second one, of old, for root.
const DELEGATED: [&str; 2] = ["user.delegate", "trusted.delegate"];

/// A cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    /// Its name in the hierarchy, as `/proc/<pid>/cgroup` has it.
    path: PathBuf,
    /// Where that is mounted.
    folder: PathBuf,
}

impl Cgroup {
    /// The one of an instance's node, made if it is not there. None where the hierarchy is not ours to change.
    pub fn make(instance: &str, mark: &str) -> Option<io::Result<Self>> {
        let own = Self::own().filter(Self::is_delegated)?;
        let it = own.of_node(instance, mark)?;
        Some(match fs::create_dir(&it.folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(io::Error::new(error.kind(), format!("{} cannot be made: {error}", it.folder.display())))
            }
            _ => Ok(it),
        })
    }

    /// The one that [`make`](Self::make) would make, if it is there.
    pub fn existing(instance: &str, mark: &str) -> Option<Self> {
        Self::own()?.of_node(instance, mark).filter(|it| it.folder.is_dir())
    }

    /// The one of this name in the hierarchy, if that is mounted here.
    pub fn at(path: &Path) -> Option<Self> {
        let mounts = fs::read("/proc/self/mountinfo").ok()?;
        let folder = mounts.split(|byte| *byte == b'\n').find_map(|line| folder_in(line, path))?;
        Some(Self { path: path.to_owned(), folder })
    }

    /// Its name in the hierarchy.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts a process into it, with all that it will ever start.
    pub fn take_in(&self, pid: i32) -> io::Result<()> {
        fs::write(self.folder.join("cgroup.procs"), pid.to_string())
    }

    /// The processes in it, and in what was made below it.
    pub fn members(&self) -> Vec<ProcessId> {
        let mut members = Vec::new();
        let mut folders = vec![self.folder.clone()];
        while let Some(folder) = folders.pop() {
            let pids = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
            members.extend(pids.lines().filter_map(|pid| ProcessId::of(pid.parse().ok()?)));
            folders.extend(below(&folder));
        }
        members
    }

    /// Kills all of them at once; older kernels than 5.14 cannot.
    pub fn kill(&self) {
        // Somebody may have started this supervisor from within.
        if !has(std::process::id().cast_signed(), &self.path) {
            let _ = fs::write(self.folder.join("cgroup.kill"), "1");
        }
    }

    /// Removes it if nothing is in it.
    pub fn remove(&self) {
        remove(&self.folder);
    }

    /// The one that we are in.
    fn own() -> Option<Self> {
        Self::at(&of(std::process::id().cast_signed())?)
    }

    fn of_node(&self, instance: &str, mark: &str) -> Option<Self> {
        let name = name(instance, mark);
        let inside = self.path.components().any(|part| part.as_os_str() == name.as_str());
        (!inside).then(|| Self { path: self.path.join(&name), folder: self.folder.join(&name) })
    }

    /// Whether what is below it is ours to change.
    fn is_delegated(&self) -> bool {
        let says_so = |folder: &Path| {
            DELEGATED.iter().any(|name| {
                let mut value = [0_u8; 8];
                getxattr(folder, *name, &mut value).is_ok_and(|length| value.get(..length) == Some(b"1".as_slice()))
            })
        };
        let may_write = |path: PathBuf| access(path, Access::WRITE_OK).is_ok();
        let inner = |folder: &&Path| folder.join("cgroup.procs").exists();
        self.folder.ancestors().take_while(inner).any(says_so)
            || (!rustix::process::geteuid().is_root()
                && may_write(self.folder.clone())
                && may_write(self.folder.join("cgroup.procs")))
    }
}

/// Whether a process is in this cgroup, or in one below it, wherever it is mounted.
pub fn has(pid: i32, path: &Path) -> bool {
    of(pid).is_some_and(|its| its.starts_with(path))
}

/// The name of an instance's: no other instance has it, also if that is called the same.
fn name(instance: &str, mark: &str) -> String {
    let plain = |letter: char| if letter.is_ascii_alphanumeric() || "-_.".contains(letter) { letter } else { '_' };
    let instance: String = instance.chars().take(64).map(plain).collect();
    let digest = digest::of_bytes(Algorithm::Sha256, mark.as_bytes()).to_hex();
    format!("omnivisor-node-{instance}-{}", digest.get(..12).unwrap_or(&digest))
}

/// The name of a process's.
fn of(pid: i32) -> Option<PathBuf> {
    let text = fs::read(format!("/proc/{pid}/cgroup")).ok()?;
    let path = text.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"0::"))?;
    Some(PathBuf::from(OsString::from_vec(path.to_vec())))
}

/// Where a cgroup of this name is, by a line of `mountinfo`: if that mounts a part of the hierarchy in which it is.
fn folder_in(line: &[u8], path: &Path) -> Option<PathBuf> {
    let mut words = line.split(|byte| *byte == b' ');
    let root = unescaped(words.nth(3)?);
    let at = unescaped(words.next()?);
    (words.skip_while(|word| *word != b"-").nth(1)? == b"cgroup2").then_some(())?;
    let below = path.strip_prefix(root).ok()?;
    Some(if below.as_os_str().is_empty() { at } else { at.join(below) })
}

fn below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

fn remove(folder: &Path) {
    below(folder).iter().for_each(|below| remove(below));
    let _ = fs::remove_dir(folder);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_is_found_where_its_part_of_the_hierarchy_is_mounted() {
        let cases = [
            ("30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw", Some("/sys/fs/cgroup/a/b")),
            ("30 23 0:26 / /sys/fs/cgroup rw shared:4 master:1 - cgroup2 cgroup2 rw", Some("/sys/fs/cgroup/a/b")),
            ("30 23 0:26 /a /mnt/with\\040blank rw - cgroup2 x rw", Some("/mnt/with blank/b")),
            ("30 23 0:26 /a/b /mnt rw - cgroup2 x rw", Some("/mnt")),
            ("30 23 0:26 /other /mnt rw - cgroup2 x rw", None),
            ("30 23 0:26 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids", None),
            ("", None),
        ];
        for (line, expected) in cases {
            assert_eq!(folder_in(line.as_bytes(), Path::new("/a/b")), expected.map(PathBuf::from), "{line}");
        }
    }

    #[test]
    fn no_two_nodes_have_one_name_and_none_leaves_its_folder() {
        assert_ne!(name("a", "a:/one"), name("a", "a:/two"));
        let odd = name("../../a b\n", "x");
        assert!(odd.starts_with("omnivisor-node-.._.._a_b_-") && !odd.contains('/'), "{odd}");
    }
}
