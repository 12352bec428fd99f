//! Ask a node for a document, or call one of its methods, and find one value in the answer.

use std::time::Duration;

use omnivisor_core::health::{Answer, JsonCheck};

use super::{LONGEST_PAGE, reason};
use crate::effects::http::Http;

/// Asks.
pub(super) async fn look(check: &JsonCheck, http: &Http, timeout: Duration) -> Result<Answer, String> {
    let answer = http.ask_once(check.url.as_str(), check.request(), LONGEST_PAGE, timeout).await.map_err(reason)?;
    if !answer.status.is_success() {
        return Err(format!("it answered {}", answer.status));
    }
    check.read(&answer.body).map(Answer::Value)
}
