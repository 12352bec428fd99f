//! Who else has a file of the node's data open to write to it, or mapped: beside such a process no copy is whole, and what
//! it does after a restore is done to files that are no part of the data any more.
//!
//! Looked for while the node still runs, as a look at every process takes too long for an outage. Absent here: processes of others,
//! where we are not root and the kernel does not tell; those that see these files under another path, as in a container; and
//! whoever comes after the look.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use std::time::Duration;

use super::data::Data;
use super::group::Group;
use super::process::{ProcessId, all_pids};

/// So many are named.
const NAMED: usize = 5;

/// Who has gone by the next look was only passing: a tool that looks into a database, or what the node starts and ends.
const LOOKS: u32 = 10;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(300);

/// A process that may write to the data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Writer {
    process: ProcessId,
    /// What the kernel calls it.
    name: String,
    /// One of the files.
    file: PathBuf,
}

impl fmt::Display for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} ({}) has {}", self.process.pid, self.name, self.file.display())
    }
}

/// Other processes than the node's and this one that may write to the node's data.
pub fn of(data: &Data, node: Option<&Group>) -> Vec<Writer> {
    let own = std::process::id().cast_signed();
    // The kernel says where a file is, whatever link led there.
    let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let roots: Vec<_> = data.roots.iter().map(|root| real(&root.path)).collect();
    let apart = data.apart.iter().map(|path| real(path));
    let apart: Vec<_> = apart.filter(|path| roots.iter().any(|root| path.starts_with(root))).collect();
    let is_data = |file: &Path| {
        roots.iter().any(|root| file.starts_with(root)) && !apart.iter().any(|path| file.starts_with(path))
    };
    let mut found: Vec<Writer> = all_pids().filter(|pid| *pid != own).filter_map(|pid| writer(pid, &is_data)).collect();
    if let (Some(node), false) = (node, found.is_empty()) {
        // Asked last: what the node has started meanwhile is its own.
        let members = node.members();
        found.retain(|writer| !members.contains(&writer.process));
    }
    found.retain(|writer| writer.process.is_alive());
    found
}

/// Those who stay: none as soon as one look finds nobody. Blocks for some seconds otherwise.
pub fn who_stay(data: &Data, node: Option<&Group>) -> Vec<Writer> {
    let mut found = of(data, node);
    for _ in 1..LOOKS {
        if found.is_empty() {
            break;
        }
        std::thread::sleep(PAUSE);
        found = of(data, node);
    }
    found
}

/// The same in words, if there are any.
pub fn told(writers: &[Writer]) -> Option<String> {
    let named: Vec<String> = writers.iter().take(NAMED).map(ToString::to_string).collect();
    let more = match writers.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    (!named.is_empty()).then(|| {
        format!("{}{more} open to write to it, and is no process of the node: no copy would be whole", named.join(", "))
    })
}

fn writer(pid: i32, is_data: &dyn Fn(&Path) -> bool) -> Option<Writer> {
    let file = opened(pid, is_data).or_else(|| mapped(pid, is_data))?;
    let process = ProcessId::of(pid)?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned();
    Some(Writer { process, name, file })
}

/// A file that is open for writing: the link that stands for a descriptor has the rights that it was opened with (proc(5)).
fn opened(pid: i32, is_data: &dyn Fn(&Path) -> bool) -> Option<PathBuf> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    descriptors.flatten().find_map(|descriptor| {
        let path = descriptor.path();
        let file = fs::read_link(&path).ok().filter(|file| is_data(file))?;
        let is_written = fs::symlink_metadata(&path).is_ok_and(|it| it.mode() & 0o200 != 0);
        // In a container another file may have this path; and what has been removed has none.
        let id = |path: &Path| fs::metadata(path).map(|it| (it.dev(), it.ino())).ok();
        let is_it = id(&path).is_some_and(|it| Some(it) == id(&file));
        (is_written && is_it && file.is_file()).then_some(file)
    })
}

/// A file that is mapped so that what is written there is written to it; it need not be open any more.
fn mapped(pid: i32, is_data: &dyn Fn(&Path) -> bool) -> Option<PathBuf> {
    let maps = fs::read(format!("/proc/{pid}/maps")).ok()?;
    String::from_utf8_lossy(&maps).lines().find_map(|line| {
        // address, rights, offset, device, inode, and the path, in which there may be spaces
        let mut words = line.splitn(6, ' ');
        let rights = words.nth(1)?;
        let inode: u64 = words.nth(2)?.parse().ok()?;
        let file = Path::new(words.next()?.trim_start());
        let is_written = rights.as_bytes().get(1) == Some(&b'w') && rights.ends_with('s');
        (is_written && is_data(file) && fs::metadata(file).is_ok_and(|it| it.ino() == inode)).then(|| file.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A process that says so when it has a file, and ends with its input.
    fn spawned(command: &mut Command) -> Option<Child> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().ok()?;
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        Some(child)
    }

    fn holding(redirection: &str, file: &Path) -> Child {
        let line = format!("exec {redirection}'{}'; echo; read -r _", file.display());
        spawned(Command::new("sh").args(["-c", &line])).unwrap()
    }

    /// It has closed every file since.
    const MAPPING: &str = "import mmap, os, sys\n\
        file = open(sys.argv[1], 'r+b')\n\
        page = mmap.mmap(file.fileno(), 4096)\n\
        os.closerange(3, 50)\n\
        print(flush=True)\n\
        sys.stdin.read()\n\
        os._exit(0)\n";

    fn end(mut child: Child) {
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    #[test]
    fn who_has_it_mapped_needs_no_descriptor() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("data base");
        fs::write(&file, vec![0; 4096]).unwrap();
        let mut command = Command::new("python3");
        let Some(child) = spawned(command.args(["-c", MAPPING]).arg(&file)) else { return }; // there is no python3
        let found = of(&Data::in_one(folder.path(), &[]), None);
        assert_eq!(found.iter().map(|it| it.process.pid.cast_unsigned()).collect::<Vec<_>>(), [child.id()]);
        assert_eq!(found[0].file, fs::canonicalize(&file).unwrap());
        end(child);
        assert_eq!(of(&Data::in_one(folder.path(), &[]), None), []);
    }

    #[test]
    fn only_who_may_write_to_the_data_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().join("home");
        fs::create_dir_all(home.join("apart")).unwrap();
        for name in ["data", "apart/log", "../other"] {
            File::create(home.join(name)).unwrap();
        }
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&home, &link).unwrap();
        let files = || {
            let found = of(&Data::in_one(&link, &[link.join("apart")]), None);
            found.into_iter().map(|it| it.file).collect::<Vec<_>>()
        };
        let harmless = [("3<", "data"), ("3>>", "apart/log"), ("3>>", "../other")]
            .map(|(how, name)| holding(how, &home.join(name)));
        assert_eq!(files(), Vec::<PathBuf>::new());
        let writing = holding("3>>", &home.join("data"));
        assert_eq!(files(), [fs::canonicalize(&home).unwrap().join("data")]);
        let told = told(&of(&Data::in_one(&home, &[]), None)).unwrap();
        assert!(told.contains(&format!("process {} (sh) has ", writing.id())), "{told}");
        end(writing);
        assert_eq!(files(), Vec::<PathBuf>::new());
        harmless.into_iter().for_each(end);
    }
}
