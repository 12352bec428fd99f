//! Ask for a page: only its status counts, but all of it has to come.

use std::time::Duration;

use omnivisor_core::health::{Answer, HttpCheck};

use super::{LONGEST_PAGE, reason};
use crate::effects::http::Http;

/// Asks.
pub(super) async fn look(page: &HttpCheck, http: &Http, timeout: Duration) -> Result<Answer, String> {
    let answer = http.ask_once(page.url.as_str(), None, LONGEST_PAGE, timeout).await.map_err(reason)?;
    Ok(Answer::Status(answer.status.as_u16()))
}
