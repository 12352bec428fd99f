//! What is in a backup, without its contents being read where there is a list of them.

use std::io;

use super::entry::Walk;
use super::manifest::{self, Listed, Reader};
use super::member::Members;
use super::{Backup, Only, open};

/// Tells of every entry that is meant, in the order of the backup: as its list says, else as it is there. An archive without a list is read to
/// its end, and says no digests. `each` may end it with an error.
pub fn tell(backup: &Backup, only: &Only, each: &mut dyn FnMut(Listed) -> io::Result<()>) -> io::Result<()> {
    let mut each = |listed: Listed| if only.has(&listed.entry.path) { each(listed) } else { Ok(()) };
    // And not as that of another one says.
    let is_own = backup.head.as_ref().is_some_and(|head| head.id == backup.id);
    if backup.sealed && is_own {
        let mut list = Reader::open(&manifest::beside(&backup.path))?;
        while let Some(listed) = list.advance()? {
            each(listed)?;
        }
    } else if let Some((root, apart)) = backup.tree() {
        for entry in Walk::of(&root).without(apart) {
            each(Listed::new(entry?, None))?;
        }
    } else {
        let mut members = Members::new(open(&backup.path, backup.kind)?);
        while let Some(member) = members.advance()? {
            each(Listed::new(member.entry, None))?;
        }
    }
    Ok(())
}
