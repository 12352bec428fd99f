//! How long to leave GitHub alone, when it has said so.
//!
//! Waited for on the clock that never jumps; what is told is calendar time.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use omnivisor_core::time::{Now, Timestamp};

use crate::clock;
use crate::effects::http::{Answer, HeaderName, StatusCode, header};

/// Limits are by the hour; a server that wants more is wrong, or its clock or ours is.
const LONGEST: Duration = Duration::from_secs(2 * 3600);
/// For so long, GitHub's documentation says, if nothing else is said.
const UNSAID: Duration = Duration::from_secs(60);

/// Until when it wants to be left alone.
#[derive(Debug, Default)]
pub(super) struct Limit(Mutex<Option<Pause>>);

#[derive(Clone, Copy, Debug)]
struct Pause {
    /// On the clock that is waited by.
    ends: Duration,
    until: Timestamp,
}

impl Limit {
    /// Until when nobody is to be asked, if somebody is to be left alone now.
    pub(super) fn until(&self) -> Option<Timestamp> {
        let mut pause = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match *pause {
            Some(Pause { ends, until }) if clock::now().monotonic < ends => Some(until),
            _ => {
                *pause = None;
                None
            }
        }
    }

    /// Heeds what an answer says; until when that is.
    pub(super) fn heed(&self, answer: &Answer) -> Option<Timestamp> {
        let now = clock::now();
        let length = pause(answer, now)?;
        let pause = Pause { ends: now.monotonic + length, until: now.wall.plus(length) };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(pause);
        Some(pause.until)
    }
}

/// How long to wait after this answer, if it asks for it.
fn pause(answer: &Answer, now: Now) -> Option<Duration> {
    const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
    const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

    if !matches!(answer.status, StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS) {
        return None;
    }
    let said = |name: HeaderName| answer.header(&name).map(str::trim);
    // By the clock that the times are of, if it is told.
    let now = said(header::DATE).and_then(date).unwrap_or(now.wall);
    let used_up = said(REMAINING) == Some("0");
    let asked = said(header::RETRY_AFTER).map(|text| match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => date(text).map(|until| until.since(now)),
    });
    let reset = said(RESET).filter(|_| used_up).map(|text| {
        let until = Timestamp::EPOCH.plus(Duration::from_secs(text.parse().ok()?));
        // One that is over already says nothing.
        Some(until.since(now)).filter(|length| !length.is_zero())
    });
    if asked.is_none() && !used_up && answer.status == StatusCode::FORBIDDEN {
        return None; // it is forbidden, and will be
    }
    Some(asked.flatten().into_iter().chain(reset.flatten()).max().unwrap_or(UNSAID).min(LONGEST))
}

/// A time as HTTP writes it.
fn date(text: &str) -> Option<Timestamp> {
    let time = httpdate::parse_http_date(text).ok()?;
    Some(Timestamp::EPOCH.plus(time.duration_since(UNIX_EPOCH).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effects::http::{HeaderMap, HeaderValue};

    /// 2026-11-25T00:00:00Z
    const NOW: u64 = 1_795_564_800;

    #[track_caller]
    fn check(status: u16, headers: &[(&'static str, &str)], seconds: Option<u64>) {
        let now = Now { monotonic: Duration::ZERO, wall: Timestamp::EPOCH.plus(Duration::from_secs(NOW)) };
        let headers =
            headers.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()));
        let status = StatusCode::from_u16(status).unwrap();
        let answer = Answer { status, headers: HeaderMap::from_iter(headers), body: Vec::new() };
        assert_eq!(pause(&answer, now), seconds.map(Duration::from_secs), "{answer:?}");
    }

    #[test]
    fn it_is_as_long_as_the_server_says() {
        let reset = (NOW + 600).to_string();
        let used_up = [("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", reset.as_str())];
        for status in [403, 429] {
            check(status, &used_up, Some(600));
            check(status, &[("retry-after", "7")], Some(7));
            check(status, &[("retry-after", "Wed, 25 Nov 2026 00:05:00 GMT")], Some(300));
            check(status, &[&used_up[..], &[("retry-after", "7")]].concat(), Some(600));
            // The server's clock is an hour behind ours.
            check(status, &[&used_up[..], &[("date", "Tue, 24 Nov 2026 23:00:00 GMT")]].concat(), Some(4200));
        }
    }

    #[test]
    fn it_has_bounds_whatever_the_server_says() {
        let far = u64::MAX.to_string();
        check(403, &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", &far)], Some(7200));
        check(429, &[("retry-after", &far)], Some(7200));
        check(429, &[("retry-after", "Wed, 25 Nov 2076 00:05:00 GMT")], Some(7200));
        check(429, &[], Some(60));
        for odd in ["", "soon", "-1", "1.5", "99999999999999999999999", "Wed, 25 Nov"] {
            check(429, &[("retry-after", odd)], Some(60));
            check(403, &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", odd)], Some(60));
        }
        check(403, &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "12")], Some(60));
    }

    #[test]
    fn what_is_forbidden_or_broken_is_no_limit() {
        let reset = (NOW + 600).to_string();
        check(403, &[], None);
        check(403, &[("x-ratelimit-remaining", "7"), ("x-ratelimit-reset", &reset)], None);
        for status in [200, 304, 401, 404, 500, 503] {
            check(status, &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", &reset)], None);
        }
    }
}
