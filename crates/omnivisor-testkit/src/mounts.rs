//! File systems in files, mounted while a test or a benchmark runs: an XFS that can copy a file by reference, and on it an ext4 to be copied; a
//! Btrfs.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// All of these are made sparse.
const XFS: u64 = 4 << 30;
const EXT4: u64 = 256 << 20;
const BTRFS: u64 = 512 << 20;

/// A process that was killed may hold a file for a moment, and so may one that was just forked.
const BUSY: Duration = Duration::from_secs(5);

/// A mounted file system; no longer once this is dropped.
#[derive(Debug)]
pub struct Mounted {
    at: PathBuf,
}

impl Mounted {
    /// That in this file, on this folder. The kernel replays its journal.
    pub fn new(image: &Path, at: &Path) -> Result<Self, String> {
        run(Command::new("timeout").args(["60", "mount", "-o", "loop"]).arg(image).arg(at))?;
        Ok(Self { at: at.to_owned() })
    }

    /// A folder, seen at another one, too.
    pub fn bind(folder: &Path, at: &Path) -> Result<Self, String> {
        run(Command::new("timeout").args(["60", "mount", "--bind"]).arg(folder).arg(at))?;
        Ok(Self { at: at.to_owned() })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.at
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let begin = Instant::now();
        while let Err(why) = run(Command::new("timeout").args(["60", "umount"]).arg(&self.at)) {
            if begin.elapsed() > BUSY {
                // Another test's private mounts may hold a copy of what stood on it. Out of sight, so that what is below it
                // is not removed through it, it ends with whoever holds it.
                eprintln!("{why}; it is left to end by itself");
                let _ = run(Command::new("timeout").args(["60", "umount", "-l"]).arg(&self.at));
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// An XFS that can copy by reference, and room for what is kept on it. Its fields are dropped in this order.
#[derive(Debug)]
pub struct Ground {
    xfs: Mounted,
    folder: TempDir,
}

impl Ground {
    /// None of it is left when this is dropped. An error says why there can be none here.
    pub fn new() -> Result<Self, String> {
        Self::within(&std::env::temp_dir(), XFS)
    }

    /// The same in this folder, of so many bytes.
    pub fn within(folder: &Path, size: u64) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("only root may mount".to_owned());
        }
        let folder = tempfile::Builder::new().prefix("ov").tempdir_in(folder).map_err(|why| why.to_string())?;
        let (image, at) = (folder.path().join("xfs"), folder.path().join("images"));
        sparse(&image, size);
        run(Command::new("timeout").args(["60", "mkfs.xfs", "-q", "-m", "reflink=1"]).arg(&image))?;
        for at in [&at, &folder.path().join("disk")] {
            fs::create_dir(at).unwrap();
        }
        Ok(Self { xfs: Mounted::new(&image, &at)?, folder })
    }

    /// A file on it.
    pub fn image(&self, name: &str) -> PathBuf {
        self.xfs.path().join(name)
    }

    /// Where one image at a time is mounted.
    pub fn disk(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    /// An empty ext4 in a file on it, with the defaults of a big disk, but with nothing left to do in the background.
    pub fn make_ext4(&self, name: &str) -> Result<PathBuf, String> {
        let image = self.image(name);
        sparse(&image, EXT4);
        let later = "lazy_itable_init=0,lazy_journal_init=0";
        run(Command::new("timeout").args(["60", "mkfs.ext4", "-q", "-F", "-b", "4096", "-E", later]).arg(&image))?;
        Ok(image)
    }
}

/// An empty Btrfs. Its fields are dropped in this order.
#[derive(Debug)]
pub struct Btrfs {
    mounted: Mounted,
    _folder: TempDir,
}

impl Btrfs {
    /// None of it is left when this is dropped. An error says why there can be none here.
    pub fn new() -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("only root may mount".to_owned());
        }
        let folder = tempfile::Builder::new().prefix("ov").tempdir().map_err(|why| why.to_string())?;
        let (image, at) = (folder.path().join("btrfs"), folder.path().join("disk"));
        sparse(&image, BTRFS);
        run(Command::new("timeout").args(["60", "mkfs.btrfs", "-q"]).arg(&image))?;
        fs::create_dir(&at).unwrap();
        Ok(Self { mounted: Mounted::new(&image, &at)?, _folder: folder })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.mounted.path()
    }
}

/// Makes a copy of a file as it is at this moment, by reference.
pub fn reflink(from: &File, to: &Path) {
    let copy = File::create(to).unwrap();
    rustix::fs::ioctl_ficlone(&copy, from).unwrap_or_else(|why| panic!("{}: {why}", to.display()));
}

fn sparse(path: &Path, size: u64) {
    File::create(path).unwrap().set_len(size).unwrap();
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|why| format!("{command:?}: {why}"))?;
    let why = || format!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    output.status.success().then_some(()).ok_or_else(why)
}
