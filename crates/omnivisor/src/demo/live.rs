//! What is so right now, ten times a second, from what the supervisor answers.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Audience;
use crate::control::{self, Command};

const PAUSE: Duration = Duration::from_millis(100);

/// Tells it for as long as somebody waits.
pub async fn tell(audience: &dyn Audience, runtime: PathBuf) -> Infallible {
    if !audience.is_live() {
        return std::future::pending().await;
    }
    let begun = Instant::now();
    loop {
        let status = status(&runtime).await;
        audience.live(&format!("{:5.1} s   {}", begun.elapsed().as_secs_f32(), describe(status.as_ref())));
        tokio::time::sleep(PAUSE).await;
    }
}

/// What `omnivisor status --json` would say; nothing while no supervisor answers.
pub async fn status(runtime: &Path) -> Option<Value> {
    let runtime = runtime.to_owned();
    let ask = move || {
        let instance = control::running(&runtime).pop()?;
        control::ask(&instance.socket, Command::Status).ok()?.ok()
    };
    tokio::task::spawn_blocking(ask).await.ok()?
}

fn describe(status: Option<&Value>) -> String {
    let Some(status) = status else { return "no supervisor".to_owned() };
    let text = |pointer: &str| status.pointer(pointer).and_then(Value::as_str).unwrap_or("-");
    let node = match status.pointer("/node/pid").and_then(Value::as_u64) {
        Some(pid) => format!("node {} (process {pid})", text("/node/release/version")),
        None => "no node".to_owned(),
    };
    let upgrade = match (text("/upgrade/phase"), text("/upgrade/to"), text("/upgrade/step")) {
        ("idle", ..) => String::new(),
        (phase, to, "-") => format!("   {phase} {to}"),
        (phase, to, step) => format!("   {phase} {to}: {step}"),
    };
    format!("{node}{upgrade}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_line_says_what_runs_and_what_is_done() {
        let node = json!({ "pid": 7, "release": { "version": "1.0.0" } });
        for (status, expected) in [
            (None, "no supervisor"),
            (Some(json!({ "node": {}, "upgrade": { "phase": "idle" } })), "no node"),
            (Some(json!({ "node": node, "upgrade": { "phase": "idle" } })), "node 1.0.0 (process 7)"),
            (
                Some(json!({ "node": node, "upgrade": { "phase": "preparing", "to": "v2", "step": "fetch" } })),
                "node 1.0.0 (process 7)   preparing v2: fetch",
            ),
        ] {
            assert_eq!(describe(status.as_ref()), expected);
        }
    }
}
