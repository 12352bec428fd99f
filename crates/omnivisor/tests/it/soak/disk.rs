//! The disk that the installation is on: a small one of its own, so that it can be full for a while.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use omnivisor_testkit::Sandbox;
use rustix::fs::statvfs;

/// More than all releases of a long run need; memory is taken for what is used only.
const SIZE: &str = "8g";

/// A file system over a folder of the sandbox, unmounted when this is dropped: before the sandbox, which could not be removed.
pub(super) struct Disk {
    folder: PathBuf,
}

impl Disk {
    /// One for the state and the releases, and one for the node's home; none if this process may not mount anything.
    pub(super) fn under(sandbox: &Sandbox) -> Vec<Self> {
        if !rustix::process::geteuid().is_root() {
            return Vec::new();
        }
        let disks = [sandbox.nym_home(), sandbox.daemon_home()].map(|folder| Self { folder });
        let mounted = disks
            .iter()
            .all(|disk| disk.mount(&["-t", "tmpfs", "-o", &format!("size={SIZE},mode=755"), "omnivisor-test"]));
        if mounted { disks.into() } else { Vec::new() }
    }

    fn mount(&self, arguments: &[&str]) -> bool {
        Command::new("mount")
            .args(arguments)
            .arg(&self.folder)
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }

    /// Leaves so many bytes free, and not one if there are already fewer; says whether that could be done.
    pub(super) fn fill(&self, free: u64) -> bool {
        // A disk as large as what is on it: as if the rest were taken, and sooner done. More may be written meanwhile.
        (0..10).any(|_| {
            let now = statvfs(&self.folder).unwrap();
            let size = (now.f_blocks - now.f_bfree) * now.f_frsize + free;
            self.mount(&["-o", &format!("remount,size={size}")])
        })
    }

    pub(super) fn make_room(&self) {
        assert!(self.mount(&["-o", &format!("remount,size={SIZE}")]), "{} stays full", self.folder.display());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let mut unmount = Command::new("umount");
        unmount.arg("-l").arg(&self.folder).stderr(Stdio::null()).status().ok();
    }
}
