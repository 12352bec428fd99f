//! Time as an argument: the core never looks at a clock.
//!
//! [`Now`] is what the shell passes in; [`Timestamp`] is a point of wall-clock time as the files of this field write it
//! (RFC 3339).

use std::fmt;
use std::time::Duration;

use ::time::OffsetDateTime;
use ::time::format_description::well_known::Rfc3339;

/// A text that is not a time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an RFC 3339 time such as 2030-01-31T12:00:00Z: {reason}")]
pub struct TimestampError {
    text: String,
    reason: String,
}

/// A point in wall-clock time, to the nanosecond; two are equal when they name the same instant, whatever their offset.
///
/// The offset it was written with is kept, so that a file is written back as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(OffsetDateTime);

impl Timestamp {
    /// 1970-01-01T00:00:00Z, which is also when a genesis release says it was installed.
    pub const EPOCH: Self = Self(OffsetDateTime::UNIX_EPOCH);

    /// Reads an RFC 3339 time. The offset is required; `T`, `t` or a blank may stand before the hour.
    pub fn parse(text: &str) -> Result<Self, TimestampError> {
        OffsetDateTime::parse(text, &Rfc3339)
            .map(Self)
            .map_err(|error| TimestampError { text: text.to_owned(), reason: error.to_string() })
    }

    /// The time so many nanoseconds after (or before) 1970; what no calendar date can say is cut to the nearest that can.
    pub fn from_unix_nanos(nanos: i128) -> Self {
        OffsetDateTime::from_unix_timestamp_nanos(nanos)
            .map_or_else(|_| if nanos < 0 { Self::EPOCH } else { Self::EPOCH.plus(Duration::MAX) }, Self)
    }

    /// Nanoseconds since 1970, negative before it.
    pub fn unix_nanos(self) -> i128 {
        self.0.unix_timestamp_nanos()
    }

    /// This time and `duration` more, or the last moment of the year 9999.
    pub fn plus(self, duration: Duration) -> Self {
        ::time::Duration::try_from(duration)
            .ok()
            .and_then(|duration| self.0.checked_add(duration))
            .map_or_else(|| Self(::time::PrimitiveDateTime::MAX.assume_utc()), Self)
    }

    /// That much earlier; the earliest time there is, if it would be before that.
    pub fn minus(self, duration: Duration) -> Self {
        ::time::Duration::try_from(duration)
            .ok()
            .and_then(|duration| self.0.checked_sub(duration))
            .map_or_else(|| Self(::time::PrimitiveDateTime::MIN.assume_utc()), Self)
    }

    /// How long after `earlier` this is; zero if it is not after it.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::try_from(self.0 - earlier.0).unwrap_or(Duration::ZERO)
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339, the fraction without trailing zeros, the offset as it was given.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.format(&Rfc3339) {
            Ok(text) => f.write_str(&text),
            // Only a year above 9999 or an offset with seconds cannot be written, and neither can be read or computed here.
            Err(_) => write!(f, "{}", self.0),
        }
    }
}

/// The time, as the shell sees it when something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Time since the machine started, suspended time included. Only differences mean something; never goes back.
    pub monotonic: Duration,
    /// What the machine's calendar clock says. May jump either way.
    pub wall: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_written_back_as_it_was_read() {
        for text in [
            "1970-01-01T00:00:00Z",
            "2030-01-01T00:00:00+02:00",
            "2026-11-22T05:23:56.989607769Z",
            "2026-11-22T05:23:56.5Z",
            "9999-12-31T23:59:59Z",
        ] {
            assert_eq!(Timestamp::parse(text).map(|time| time.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn accepts_a_blank_and_refuses_a_bare_date() {
        assert!(Timestamp::parse("2030-01-01 00:00:00Z").is_ok());
        assert!(Timestamp::parse("2030-01-01t00:00:00Z").is_ok());
        assert!(Timestamp::parse("2030-01-01").is_err());
        assert!(Timestamp::parse("2030-01-01T00:00:00").is_err());
        assert!(Timestamp::parse("").is_err());
    }

    #[test]
    fn arithmetic_never_leaves_the_calendar() {
        let last = Timestamp::EPOCH.plus(Duration::MAX);
        assert!(last > Timestamp::EPOCH);
        assert_eq!(last.plus(Duration::from_secs(1)), last);
        assert_eq!(Timestamp::EPOCH.since(last), Duration::ZERO);
        assert_eq!(Timestamp::EPOCH.plus(Duration::from_secs(5)).since(Timestamp::EPOCH), Duration::from_secs(5));
        assert_eq!(Timestamp::from_unix_nanos(i128::MAX), last);
    }
}
