//! What one image of the supervisor passes to the next when it replaces itself, and the way back if that fails.
//!
//! A supervisor that is to be replaced executes the new executable in its own place: the process stays, and with it its
//! children, its locks and the signals that wait. What the new image has to know is in one variable, which it removes at once; what
//! it has to hold are descriptors. Until it has begun it may fail in any way: an error, a panic and a deadline lead back into the old
//! executable, through a descriptor of it, and if the process is gone a guardian, which has the same locks, goes on in its place.
//! Absent here: when to replace, and what is executed.

use std::env;
use std::ffi::{CString, OsString};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions, waitpid};
use serde::{Deserialize, Serialize};

use crate::checkpoint;
use crate::effects::children::{self, Role};
use crate::effects::process::ProcessId;
use crate::store::lock::{Inherited, Lock};
use crate::sys;

/// Which form of the letter is written here; a new executable is asked beforehand whether it can read it.
pub const FORM: u32 = 1;
/// The hidden verb with which an executable is asked whether it could take over.
pub const CHECK_VERB: &str = "check-replacement";
/// The hidden verb of the guardian.
pub const GUARD_VERB: &str = "guard-replacement";

/// The variable that the letter is in.
const VARIABLE: &str = "OMNIVISOR_HANDOVER";
/// An image that has not begun by then never will: what it does takes milliseconds.
const TIMELY: Duration = Duration::from_secs(5);

/// What this image was handed, until it has begun: as long as it is here, there is a way back.
static RECEIVED: Mutex<Option<Letter>> = Mutex::new(None);

/// A node that runs on while its supervisor is replaced.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeHanded {
    /// Its release's folder.
    pub folder: PathBuf,
    /// Its main processes, in the order in which they were started.
    pub mains: Vec<ProcessId>,
    /// Whether they are children of the supervisor, which then knows how they end.
    pub ours: bool,
}

/// What a supervisor begins with if it was handed over to.
pub struct Handed {
    /// The version of the image before it.
    pub from: String,
    /// If that was to take this one's place: why it did not.
    pub failed: Option<String>,
    /// Which order this was.
    pub order: u64,
    /// What it held.
    pub locks: Inherited,
    /// Whether orphans below this process have come to it already, and are the node's; none if this is another process.
    pub orphans: Option<bool>,
    /// The node, if one runs that belongs to this very process.
    pub node: Option<NodeHanded>,
}

/// Everything that is passed on.
struct Letter {
    from: String,
    failed: Option<String>,
    order: u64,
    /// The process that wrote it.
    process: u32,
    /// What that is called in lists of processes.
    called: String,
    locks: Vec<Lock>,
    orphans: bool,
    node: Option<NodeHanded>,
    /// The executable to go back to.
    back: Option<OwnedFd>,
    /// Where the guardian hears that all is well.
    done: Option<OwnedFd>,
    guardian: Option<u32>,
    /// Where this guardian listens.
    listen: Option<OwnedFd>,
}

/// The letter as it is in the variable: descriptors are their numbers.
#[derive(Serialize, Deserialize)]
struct Written {
    form: u32,
    from: String,
    failed: Option<String>,
    order: u64,
    process: u32,
    called: String,
    locks: Vec<(PathBuf, RawFd)>,
    orphans: bool,
    node: Option<NodeHanded>,
    back: Option<RawFd>,
    done: Option<RawFd>,
    guardian: Option<u32>,
    listen: Option<RawFd>,
}

/// Takes what this process was started with, if it was handed over to. The first thing that a program does, before any thread.
pub fn receive() {
    let Some(letter) = env::var(VARIABLE).ok() else { return };
    sys::remove_variable(VARIABLE);
    let Some(letter) = Letter::read(&letter) else { return };
    // Executed through a descriptor it is called by its number.
    if let Ok(called) = CString::new(letter.called.as_str()) {
        let _ = rustix::thread::set_name(&called);
    }
    let is_new = letter.back.is_some();
    *received() = Some(letter);
    if !is_new {
        return;
    }
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        usual(panic);
        // Where it is being settled just now there is no way back any more.
        if RECEIVED.try_lock().is_ok() {
            go_back(&format!("it panicked: {panic}"));
        }
    }));
    let watchdog = std::thread::Builder::new().stack_size(128 * 1024);
    let _ = watchdog.spawn(|| {
        std::thread::sleep(TIMELY);
        go_back(&format!("it had not begun within {}", humantime::format_duration(TIMELY)));
    });
    checkpoint::misbehave("replacement");
}

/// What this supervisor begins with.
pub fn handed() -> Option<Handed> {
    let received = received();
    let letter = received.as_ref()?;
    let in_place = letter.process == std::process::id();
    if in_place {
        let mains = letter.node.iter().filter(|node| node.ours).flat_map(|node| &node.mains);
        mains.for_each(|main| children::inherit(main.pid, Role::Main));
        letter.guardian.iter().for_each(|pid| children::inherit(pid.cast_signed(), Role::Helper));
    }
    Some(Handed {
        from: letter.from.clone(),
        failed: letter.failed.clone(),
        order: letter.order,
        // The letter keeps its own, for the way back.
        locks: Inherited::new(letter.locks.iter().filter_map(|lock| lock.try_clone().ok()).collect()),
        orphans: in_place.then_some(letter.orphans),
        node: letter.node.clone().filter(|_| in_place),
    })
}

/// This supervisor has begun: there is no way back from here, and the guardian may go.
pub fn settled() {
    let Some(letter) = received().take() else { return };
    if let Some(done) = &letter.done {
        let _ = rustix::io::write(done, &[1]);
    }
    let Some(guardian) = letter.guardian.and_then(|pid| Pid::from_raw(pid.cast_signed())) else { return };
    // It ends at once; nobody waits for it here.
    let reaper = std::thread::Builder::new().stack_size(128 * 1024);
    let _ = reaper
        .spawn(move || while matches!(waitpid(Some(guardian), WaitOptions::empty()), Err(rustix::io::Errno::INTR)) {});
}

/// Goes back to the executable that this image was to replace, if it has not begun yet; returns if there is no way.
pub fn go_back(why: &str) {
    let mut received = received();
    let Some(back) = received.as_mut().and_then(|letter| letter.back.take()) else { return };
    let Some(letter) = received.as_mut() else { return };
    // One that has failed is what it says; one that never ran has said nothing.
    if letter.failed.is_none() {
        letter.from = env!("CARGO_PKG_VERSION").to_owned();
    }
    letter.failed = Some(why.to_owned());
    // If that fails this process ends soon, and the guardian goes on.
    let _ = letter.execute(&back, env::args_os().collect());
}

/// A supervisor that is about to be replaced.
pub struct Leaving {
    letter: Letter,
    new: OwnedFd,
    /// The version of what takes its place.
    to: String,
}

impl Leaving {
    /// Prepares everything, and starts the guardian. `order` is what the answer will be known by.
    pub fn prepare<'a>(
        new: OwnedFd,
        to: &str,
        order: u64,
        locks: impl IntoIterator<Item = &'a Lock>,
        node: Option<NodeHanded>,
    ) -> io::Result<Self> {
        let called = std::fs::read_to_string("/proc/self/comm").unwrap_or_default().trim().to_owned();
        let (listen, done) = pipe_with(PipeFlags::CLOEXEC)?;
        let mut letter = Letter {
            from: to.to_owned(),
            failed: Some("it ended before it had begun".to_owned()),
            order,
            process: std::process::id(),
            called,
            locks: locks.into_iter().map(Lock::try_clone).collect::<Result<_, _>>()?,
            orphans: children::are_orphans_ours(),
            node: None,
            back: None,
            done: None,
            guardian: None,
            listen: Some(listen),
        };
        let own = own_executable()?;
        let mut command = Command::new(path_of(&own));
        command.arg0("omnivisor").arg(GUARD_VERB).arg("--").args(env::args_os());
        letter.enclose(&mut command)?;
        let guardian = children::start(Role::Helper, || command.spawn(), |child| Some(child.id()))?;
        letter.listen = None;
        letter.guardian = Some(guardian.id());
        (letter.from, letter.failed) = (env!("CARGO_PKG_VERSION").to_owned(), None);
        (letter.node, letter.back, letter.done) = (node, Some(own), Some(done));
        Ok(Self { letter, new, to: to.to_owned() })
    }

    /// Becomes the new executable. Returns only if neither that nor the old one can be executed.
    pub fn execute(self) -> io::Error {
        let Self { letter, new, to } = self;
        let error = letter.execute(&new, env::args_os().collect());
        *received() = Some(Letter { from: to, failed: Some(String::new()), ..letter });
        go_back(&format!("it cannot be executed: {error}"));
        error
    }
}

/// Waits until the supervisor that this guards has been replaced; if its process ends before that, becomes the supervisor in
/// its place, with these arguments. Returns why that cannot be done.
pub fn guard(arguments: Vec<OsString>) -> io::Result<()> {
    let Some(mut letter) = received().take() else { return Err(io::Error::other("there is nothing to guard")) };
    let Some(listen) = letter.listen.take() else { return Err(io::Error::other("there is nothing to guard")) };
    let mut listen = std::fs::File::from(listen);
    loop {
        match listen.read(&mut [0]) {
            Ok(0) => return Err(letter.execute(&own_executable()?, arguments)),
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The supervisor may be alive.
            Err(error) => return Err(error),
        }
    }
}

/// A descriptor of the executable that runs here, which stays what it is if the file is deleted or replaced.
pub fn own_executable() -> io::Result<OwnedFd> {
    open_executable(Path::new("/proc/self/exe"))
}

/// A descriptor of an executable.
pub fn open_executable(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
}

/// The path by which this process, and a child of it, execute what a descriptor is of.
pub fn path_of(executable: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", executable.as_raw_fd()).into()
}

fn received() -> MutexGuard<'static, Option<Letter>> {
    RECEIVED.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Letter {
    fn read(text: &str) -> Option<Self> {
        let it: Written = serde_json::from_str(text).ok().filter(|it: &Written| it.form == FORM)?;
        let take = |number: Option<RawFd>| number.and_then(sys::inherited);
        let locks = it.locks.into_iter().filter_map(|(path, number)| Lock::inherited(&path, sys::inherited(number)?));
        Some(Self {
            locks: locks.collect(),
            back: take(it.back),
            done: take(it.done),
            listen: take(it.listen),
            from: it.from,
            failed: it.failed,
            order: it.order,
            orphans: it.orphans,
            process: it.process,
            called: it.called,
            node: it.node,
            guardian: it.guardian,
        })
    }

    /// Gives it to what `command` executes. The letter has to be kept until then.
    fn enclose(&self, command: &mut Command) -> io::Result<()> {
        let number = |descriptor: &Option<OwnedFd>| descriptor.as_ref().map(AsRawFd::as_raw_fd);
        let written = Written {
            form: FORM,
            from: self.from.clone(),
            failed: self.failed.clone(),
            order: self.order,
            orphans: self.orphans,
            process: self.process,
            called: self.called.clone(),
            locks: self.locks.iter().map(|lock| (lock.path().to_owned(), lock.file().as_raw_fd())).collect(),
            node: self.node.clone(),
            back: number(&self.back),
            done: number(&self.done),
            guardian: self.guardian,
            listen: number(&self.listen),
        };
        command.env(VARIABLE, serde_json::to_string(&written)?);
        let locks = written.locks.iter().map(|(_, number)| *number);
        let others = [written.back, written.done, written.listen];
        sys::pass_on(command, locks.chain(others.into_iter().flatten()).collect());
        Ok(())
    }

    /// Becomes this executable, with these arguments and this letter. Returns only if that cannot be done.
    fn execute(&self, executable: &OwnedFd, arguments: Vec<OsString>) -> io::Error {
        let mut command = Command::new(path_of(executable));
        let mut arguments = arguments.into_iter();
        command.arg0(arguments.next().unwrap_or_default()).args(arguments);
        match self.enclose(&mut command) {
            Ok(()) => command.exec(),
            Err(error) => error,
        }
    }
}
