//! How this program ends: the one list of exit codes, explained in `docs/exit-codes.md`.

use std::process::ExitCode;

/// Why the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// What was asked for was done; for `run`: the node ended with 0, or the run was ended by a signal or a command.
    Success,
    /// It could not be done; the message says why.
    Failure,
    /// The command line makes no sense.
    Usage,
    /// The node failed and is not restarted, as it is configured.
    NodeFailed,
    /// The node failed too often while it started.
    GaveUp,
    /// Another supervisor runs this instance.
    AlreadyRunning,
    /// A backup is not what it was when it was made.
    BackupDamaged,
}

impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failure => 1,
            Self::Usage => 2,
            Self::NodeFailed => 10,
            Self::GaveUp => 11,
            Self::AlreadyRunning => 12,
            Self::BackupDamaged => 13,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
