//! The demo: a sample node, an upstream on the loopback, and the real supervisor, to be watched for ten seconds.
//!
//! What is shown is what happens: every line is said after its condition was seen in the world. The programs are this
//! very executable, called by other names. Everything is below one private folder; afterwards nothing is left of it.
//!
//! Absent here: printing, which is the business of whoever passes an [`Audience`].

mod events;
mod live;
mod node;
pub mod sample;
mod stage;
mod story;
mod summary;
mod upstream;

use std::future::Future;

use anyhow::anyhow;

use self::stage::Stage;

pub use self::node::main as node;

/// The variable that names the demo's folder to its processes, and by which they are found.
const FOLDER: &str = "OMNIVISOR_DEMO";

/// One line of what is told, without its indentation.
#[derive(Clone, Copy, Debug)]
pub enum Line<'a> {
    /// What this is.
    Title(&'a str),
    /// A new act.
    Heading(&'a str),
    /// What is about to happen.
    Text(&'a str),
    /// What a person would type.
    Command(&'a str),
    /// What the command printed.
    Output(&'a str),
    /// What was seen to be so.
    Seen(&'a str),
    /// A row of the table at the end.
    Row(&'a str),
}

/// Where the story is told.
pub trait Audience {
    /// Says a line.
    fn hear(&self, line: Line<'_>);
    /// Whether there is a place for what is so right now.
    fn is_live(&self) -> bool;
    /// Says what is so right now, in place of what was said so before; nothing at all if it is empty.
    fn live(&self, text: &str);
}

/// Performs the demo, until it is over or `ended` names the signal that ends it. Nothing is left behind either way.
pub async fn perform(audience: &dyn Audience, ended: impl Future<Output = &'static str>) -> anyhow::Result<()> {
    let mut stage = Stage::set()?;
    let live = live::tell(audience, stage.runtime());
    let outcome = tokio::select! {
        biased;
        signal = ended => Err(anyhow!("it was ended by {signal}")),
        outcome = story::tell(&mut stage, audience) => outcome,
        never = live => match never {},
    };
    audience.live("");
    match (outcome, stage.strike()) {
        (Ok(()), struck) => struck,
        (Err(error), Ok(())) => Err(error.context("the demo has ended early, and nothing of it is left")),
        (Err(error), Err(left)) => {
            Err(error.context(format!("the demo has ended early, and not all of it is gone: {left:#}")))
        }
    }
}
