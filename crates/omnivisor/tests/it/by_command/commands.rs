//! A command that takes snapshots, as an operator could have written it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Copies the home to a folder called as the id, and says what it was called with; before that it does what `hook` says.
const COMMAND: &str = r#"#!/bin/sh
set -eu
cd "$(dirname "$0")"
echo "$2 ${OMNIVISOR_SNAPSHOT_ID#*-}" >>calls
id=${OMNIVISOR_SNAPSHOT_ID#*-}
taken=$1/$id
. ./hook
case $2 in
  take) rm -rf "$taken"; cp -a "$OMNIVISOR_SNAPSHOT_HOME" "$taken"; echo "$taken" ;;
  remove) rm -rf "$taken" ;;
esac
"#;

/// Puts it into this folder, which is made, with a hook that does nothing.
pub fn install(folder: &Path) -> PathBuf {
    fs::create_dir(folder).unwrap();
    fs::write(folder.join("hook"), "").unwrap();
    let command = folder.join("command");
    fs::write(&command, COMMAND).unwrap();
    fs::set_permissions(&command, fs::Permissions::from_mode(0o755)).unwrap();
    command
}

/// Another one, that knows of nothing that it has not taken, and answers success for it.
pub fn install_another(folder: &Path) -> PathBuf {
    let command = folder.join("another");
    fs::write(&command, "#!/bin/sh\nexit 0\n").unwrap();
    fs::set_permissions(&command, fs::Permissions::from_mode(0o755)).unwrap();
    command
}

/// `omnivisor.toml` with this command, that puts its snapshots into this folder; and more.
pub fn settings(command: &Path, taken: &Path, more: &str) -> String {
    format!("[snapshot]\nmethod = 'command'\ncommand = ['{}', '{}']\n{more}", command.display(), taken.display())
}
