//! A restore of data that is in several folders: only where they are still those that it was begun for, and all of them are there.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::Restore;
use crate::effects::parts::{self, Of};
use crate::effects::snapshot::PRIVATE;
use crate::store::{atomic, disk};

/// Lists the folders that are put back, where they are several: the name and the path of each, with zeros behind them.
const ROOTS: &str = "roots";

impl Restore<'_> {
    /// What stands in the work folder of where it goes; nothing of one folder, which is always the same one.
    fn roots(&self) -> Vec<u8> {
        let several = self.data.roots.iter().filter(|root| !root.name.is_empty());
        several
            .flat_map(|root| [root.name.as_bytes(), b"\0", root.path.as_os_str().as_bytes(), b"\0"].concat())
            .collect()
    }

    /// Says so there, durably.
    pub(super) fn note_folders(&self) -> io::Result<()> {
        match self.data.one() {
            Some(_) => Ok(()),
            None => atomic::replace(&self.work.join(ROOTS), &self.roots(), 0o600),
        }
    }

    /// It may have been begun for other folders than the installation has by now.
    pub(super) fn is_for_these(&self) -> io::Result<()> {
        let then = match fs::read(self.work.join(ROOTS)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            read => read?,
        };
        if then == self.roots() {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "{} was made for other folders ({}) than the data is in now ({}): a person has to decide",
            self.work.display(),
            String::from_utf8_lossy(&then).replace('\0', " ").trim(),
            self.data.described()
        )))
    }

    /// Of several folders it has to be about these, and no others: what is not there would be taken away.
    pub(super) fn holds_each(&self, copy: &Path) -> io::Result<()> {
        if self.data.one().is_some() {
            return Ok(());
        }
        if let Some(missing) = parts::missing(copy) {
            return Err(io::Error::other(format!("a part of it, {}, is not there", missing.display())));
        }
        let (there, wanted) = (super::names(copy)?, self.names(Path::new(""))?);
        match there == wanted {
            true => Ok(()),
            false => Err(io::Error::other(format!("it holds {there:?}, and the data is in {wanted:?}"))),
        }
    }

    /// Makes the folder for what is replaced in this one, durably; of a home on another file system on that.
    pub(super) fn make_aside(&self, below: &Path) -> io::Result<()> {
        let aside = self.aside(below);
        let Some(parts) = below.to_str().and_then(|name| self.data.parts.get(name)) else {
            return disk::make_folders_durably(&aside, PRIVATE);
        };
        parts::lay_one(self.data, &aside, parts, Of::Replaced)?;
        disk::flush_folder(parts)?;
        atomic::flush_folder_of(&aside)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use omnivisor_core::dialect::Root;

    use super::super::{Restore, Source};
    use crate::effects::data::Data;

    #[test]
    fn what_lacks_a_home_or_was_begun_for_others_is_put_nowhere() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        let write = |path: PathBuf, text: &str| {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let data = |consensus: &str| {
            let roots = [("core", "core"), ("consensus", consensus)].map(|(name, path)| Root { name, path: at(path) });
            Data { home: at("visor"), roots: roots.into(), apart: Vec::new(), parts: Default::default() }
        };
        for live in ["core/db", "tm/db", "other/db"] {
            write(at(live), "live");
        }
        let (ours, others, work) = (data("tm"), data("other"), at("visor/work"));
        let restore = |data| Restore { data, work: &work, is_monotonic: &|_| false };

        write(at("copy/core/db"), "old");
        let refused = restore(&ours).prepare(&Source::Kept(&at("copy")), &[], &mut |_| Ok(())).unwrap_err();
        assert!(refused.to_string().contains("the data is in"), "{refused}");
        assert!(!restore(&ours).is_ready());

        // Nor where it is asked for itself.
        let only = ["consensus".into()];
        let refused = restore(&ours).prepare(&Source::Kept(&at("copy")), &only, &mut |_| Ok(())).unwrap_err();
        assert!(refused.to_string().contains("the data is in"), "{refused}");

        write(at("copy/consensus/db"), "old");
        let gone = data("gone");
        let elsewhere = Restore { data: &gone, work: &at("visor/elsewhere"), is_monotonic: &|_| false };
        elsewhere.prepare(&Source::Kept(&at("copy")), &[], &mut |_| Ok(())).unwrap();
        elsewhere.put_in_place().unwrap_err();
        assert!(elsewhere.can_be_put(&[]).is_err() && elsewhere.is_half_done().is_ok_and(|is_half| !is_half));

        restore(&ours).prepare(&Source::Kept(&at("copy")), &[], &mut |_| Ok(())).unwrap();
        let refused = restore(&others).put_in_place().unwrap_err();
        assert!(refused.to_string().contains("made for other folders"), "{refused}");
        for live in ["core/db", "tm/db", "other/db"] {
            assert_eq!(std::fs::read_to_string(at(live)).unwrap(), "live");
        }
        restore(&ours).put_in_place().unwrap();
        assert_eq!(std::fs::read_to_string(at("tm/db")).unwrap(), "old");
    }
}
