//! Every call that changes what a disk holds, or makes that durable. Nothing else in the program makes such calls (a test
//! reads the sources), so that a test can name each of them, fail it, and ask what is left if the power goes after it.
//!
//! In a release these are the calls and nothing more. Absent here: locks and sockets, which mean nothing after a power cut.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, SeekFrom, StatxFlags, copy_file_range, ioctl_ficlone, mknodat,
    renameat_with, seek, statx,
};
use rustix::io::Errno;

use super::trace::{Call, perform};

/// So many bytes of a file are copied at a time.
const AT_A_TIME: usize = 1 << 20;

/// Is told of a file to which so many bytes were copied, or in which they are as they should be; may take its time, and end it.
pub type Progress<'a> = &'a mut dyn FnMut(&File, u64) -> io::Result<()>;

/// A file that is written.
#[derive(Debug)]
pub struct Written {
    file: File,
    path: PathBuf,
    /// Where the next [`Written::push`] goes.
    end: u64,
}

impl Written {
    /// Makes an empty file; one that is there is emptied. `mode` is that of a new one, less the umask.
    pub fn create(path: &Path, mode: u32) -> io::Result<Self> {
        let open = || OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path);
        Self::of(path, perform(|| Call::MakeFile { path: path.to_owned() }, open)?)
    }

    /// Makes an empty file where nothing is.
    pub fn create_new(path: &Path, mode: u32) -> io::Result<Self> {
        let open = || OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
        Self::of(path, perform(|| Call::MakeFile { path: path.to_owned() }, open)?)
    }

    /// Opens a file that is there, and is no link.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or(0);
        Self::of(path, OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)?)
    }

    fn of(path: &Path, file: File) -> io::Result<Self> {
        Ok(Self { file, path: path.to_owned(), end: 0 })
    }

    /// Writes these bytes behind those that were pushed before.
    pub fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_at(bytes, self.end)?;
        self.end += bytes.len() as u64;
        Ok(())
    }

    /// Writes these bytes there. After an error any part of them may be there.
    pub fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let call = || Call::Write { path: self.path.clone(), at, bytes: bytes.to_vec() };
        perform(call, || self.file.write_all_at(bytes, at))
    }

    /// The file, to be looked at.
    pub fn as_file(&self) -> &File {
        &self.file
    }

    /// Ends it.
    pub fn into_file(self) -> File {
        self.file
    }

    /// Gives it this mode, whatever the umask.
    pub fn set_mode(&self, mode: u32) -> io::Result<()> {
        self.file.set_permissions(Permissions::from_mode(mode))
    }

    /// Makes it so long; what is new is a hole.
    pub fn set_length(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    /// Makes what is in it durable, but not its name.
    pub fn flush(&self) -> io::Result<()> {
        perform(|| Call::Flush { path: self.path.clone() }, || self.file.sync_all())
    }

    /// The same for what is in it and its length alone: half the work where the length stays.
    pub fn flush_data(&self) -> io::Result<()> {
        perform(|| Call::Flush { path: self.path.clone() }, || self.file.sync_data())
    }
}

/// What is [pushed](Written::push); flushing does nothing: see [`Written::flush`].
impl io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.push(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Makes `to` a copy of the file `from`, with its mode.
pub fn copy(from: &Path, to: &Path) -> io::Result<()> {
    perform(|| Call::Copy { path: to.to_owned() }, || fs::copy(from, to).map(|_| ()))
}

/// Makes a file with what is in another one, without its holes; by reference, where the file system can. The file, if it has bytes
/// of its own.
pub fn copy_contents(from: &File, to: &Path, progress: Progress<'_>) -> io::Result<Option<File>> {
    let make = || {
        let new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
        if clone(from, &new)? {
            return Ok(None);
        }
        copy_data(from, &new, progress)?;
        Ok(Some(new))
    };
    perform(|| Call::Copy { path: to.to_owned() }, make)
}

/// Makes what is in a file that is there what is in another one, which has no holes; the same otherwise.
pub fn copy_over(from: &File, to: &Path, progress: Progress<'_>) -> io::Result<Option<File>> {
    let flags = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or(0);
    let there = OpenOptions::new().write(true).custom_flags(flags).open(to)?;
    let make = || {
        if there.metadata()?.len() <= from.metadata()?.len() && clone(from, &there)? {
            return Ok(None);
        }
        copy_data(from, &there, progress)?;
        Ok(Some(there))
    };
    perform(|| Call::Copy { path: to.to_owned() }, make)
}

/// Makes a file that is no longer than another one a copy of it, by reference; false, and nothing is changed, where the file system
/// cannot do that.
pub fn clone_over(from: &File, to: &Path) -> io::Result<bool> {
    let new = OpenOptions::new().write(true).open(to)?;
    let mut is_cloned = false;
    let make = || clone(from, &new).map(|it| is_cloned = it);
    perform(|| Call::Copy { path: to.to_owned() }, make)?;
    Ok(is_cloned)
}

/// Whether both are on the same file system, and seen through the same mount of it, so that a rename is enough; false if that cannot
/// be known.
pub fn is_same(one: &Path, other: &Path) -> bool {
    let place = |path: &Path| {
        let it = statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID).ok()?;
        // Linux tells the mount since 5.8.
        let mount = (it.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(it.stx_mnt_id);
        Some((it.stx_dev_major, it.stx_dev_minor, mount))
    };
    place(one).is_some_and(|it| Some(it) == place(other))
}

/// Whether files of the one folder can be copied to the other by reference. Tried with files that have no name and are gone when
/// it returns; false where that cannot be tried.
pub fn can_clone(from: &Path, to: &Path) -> bool {
    let (Ok(from), Ok(to)) = (nameless(from), nameless(to)) else { return false };
    from.write_all_at(&[0; 4096], 0).is_ok() && clone(&from, &to).unwrap_or(false)
}

/// The same of all these files together, which are only read, and of the folders that they would go to. They share nothing with anybody for
/// it when it returns: what is only closed may do so for a while.
pub fn can_clone_all<'a>(files: impl IntoIterator<Item = (&'a File, &'a Path)>) -> bool {
    let mut copies = Vec::new();
    let mut is_cloned = |from, copy| {
        let is_cloned = clone(from, &copy).unwrap_or(false);
        copies.push(copy);
        is_cloned
    };
    let all = files.into_iter().all(|(from, to)| nameless(to).is_ok_and(|copy| is_cloned(from, copy)));
    copies.iter().all(|copy| copy.set_len(0).is_ok()) && all
}

fn nameless(folder: &Path) -> rustix::io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    rustix::fs::open(folder, flags, Mode::RUSR | Mode::WUSR).map(File::from)
}

fn clone(from: &File, to: &File) -> io::Result<bool> {
    match ioctl_ficlone(to, from) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::XDEV | Errno::INVAL | Errno::NOTTY | Errno::NOSYS | Errno::PERM) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The bytes between the holes.
fn copy_data(from: &File, to: &File, progress: Progress<'_>) -> io::Result<()> {
    let mut at = 0;
    loop {
        at = match seek(from, SeekFrom::Data(at)) {
            Ok(begin) => begin,
            Err(Errno::NXIO) => break, // nothing but a hole is left
            Err(Errno::INVAL) => at,   // holes are not known here
            Err(error) => return Err(error.into()),
        };
        let end = seek(from, SeekFrom::Hole(at)).unwrap_or(u64::MAX);
        while at < end {
            let most = usize::try_from(end - at).map_or(AT_A_TIME, |left| left.min(AT_A_TIME));
            let (mut read, mut write) = (at, at);
            let copied = match copy_file_range(from, Some(&mut read), to, Some(&mut write), most) {
                Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => copy_bytes(from, to, at, most)?,
                result => result?,
            };
            if copied == 0 {
                break;
            }
            at += copied as u64;
            progress(to, copied as u64)?;
        }
        if end == u64::MAX || at < end {
            break;
        }
    }
    // A hole at the end is part of it, too.
    let length = from.metadata()?.len().max(at);
    if to.metadata()?.len() == length { Ok(()) } else { to.set_len(length) }
}

fn copy_bytes(from: &File, to: &File, at: u64, most: usize) -> io::Result<usize> {
    let mut bytes = vec![0; most];
    let read = from.read_at(&mut bytes, at)?;
    to.write_all_at(&bytes[..read], at)?;
    Ok(read)
}

/// Gives a file or a folder this mode.
pub fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))
}

/// Makes what is in a file durable, but not its name.
pub fn flush_file(path: &Path) -> io::Result<()> {
    perform(|| Call::Flush { path: path.to_owned() }, || File::open(path)?.sync_all())
}

/// Makes the names in a folder durable.
pub fn flush_folder(path: &Path) -> io::Result<()> {
    perform(|| Call::FlushFolder { path: path.to_owned() }, || File::open(path)?.sync_all())
}

/// Makes everything durable that is on the file system that this is on.
pub fn flush_file_system(path: &Path) -> io::Result<()> {
    perform(|| Call::FlushAll { path: path.to_owned() }, || Ok(rustix::fs::syncfs(File::open(path)?)?))
}

/// Gives a file, a link or a folder another name; a file or a link that has that name is replaced.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    perform(|| Call::Rename { from: from.to_owned(), to: to.to_owned() }, || fs::rename(from, to))
}

/// Gives a file or a folder another name, which must be free.
pub fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    let call = || Call::Rename { from: from.to_owned(), to: to.to_owned() };
    perform(call, || Ok(renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?))
}

/// Makes each of two names that of the other's file.
pub fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    let call = || Call::Exchange { one: one.to_owned(), other: other.to_owned() };
    perform(call, || Ok(renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?))
}

/// Makes a symbolic link to `target` where nothing is.
pub fn link(target: &Path, path: &Path) -> io::Result<()> {
    let call = || Call::Link { path: path.to_owned(), target: target.to_owned() };
    perform(call, || std::os::unix::fs::symlink(target, path))
}

/// Gives a file one more name, which must be free.
pub fn hard_link(file: &Path, path: &Path) -> io::Result<()> {
    let call = || Call::HardLink { path: path.to_owned(), file: file.to_owned() };
    perform(call, || fs::hard_link(file, path))
}

/// Makes a named pipe where nothing is.
pub fn make_pipe(path: &Path, mode: u32) -> io::Result<()> {
    let call = || Call::MakePipe { path: path.to_owned() };
    perform(call, || Ok(mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(mode), 0)?))
}

/// Makes a folder where nothing is.
pub fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    perform(|| Call::MakeFolder { path: path.to_owned() }, || DirBuilder::new().mode(mode).create(path))
}

/// Makes a folder, and those above it, unless they are there. Theirs are the names that have to be flushed: see
/// [`make_folders_durably`].
pub fn make_folders(path: &Path, mode: u32) -> io::Result<()> {
    missing(path).into_iter().rev().try_for_each(|folder| make_if_missing(folder, mode))
}

/// The same, and durable when it returns: the folder itself, and every one above it that had to be made, now or by a try
/// that was killed before it could flush.
pub fn make_folders_durably(path: &Path, mode: u32) -> io::Result<()> {
    let made = missing(path);
    // One after the other: so only the last one that is there can be of such a try. One that is not ours need not be flushed,
    // and perhaps cannot be.
    let there = path.ancestors().nth(made.len()).and_then(Path::parent).filter(|folder| !folder.as_os_str().is_empty());
    match there.map_or(Ok(()), flush_folder) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
        flushed => flushed?,
    }
    for folder in made.into_iter().rev() {
        make_if_missing(folder, mode)?;
        if let Some(above) = folder.parent().filter(|above| !above.as_os_str().is_empty()) {
            flush_folder(above)?;
        }
    }
    Ok(())
}

/// What of this path is not there, the longest first.
fn missing(path: &Path) -> Vec<&Path> {
    path.ancestors().take_while(|folder| !folder.as_os_str().is_empty() && !folder.is_dir()).collect()
}

fn make_if_missing(folder: &Path, mode: u32) -> io::Result<()> {
    match make_folder(folder, mode) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => Ok(()), // by somebody else, just now
        result => result,
    }
}

/// Removes a file or a link.
pub fn remove_file(path: &Path) -> io::Result<()> {
    perform(|| Call::Remove { path: path.to_owned() }, || fs::remove_file(path))
}

/// Removes whatever is there, if anything is.
pub fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => {
            perform(|| Call::Remove { path: path.to_owned() }, || fs::remove_dir_all(path))
        }
        Ok(_) => remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
