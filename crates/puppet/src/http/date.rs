//! The clock of a server, as the header `Date` of its answers shows it. No I/O.

use jiff::fmt::rfc2822::DateTimeParser;
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// What a server's clock said, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerDate {
    /// Its time, cut off to whole seconds.
    pub date: Timestamp,
    /// When that came.
    pub came: Instant,
}

impl ServerDate {
    /// Reads the header's value ([RFC 9110, section 6.6.1](https://www.rfc-editor.org/rfc/rfc9110#section-6.6.1)), which has just
    /// come.
    pub(super) fn read(value: &str) -> Option<Self> {
        let date = DateTimeParser::new().parse_timestamp(value).ok()?;
        Some(Self { date, came: Instant::now() })
    }

    /// By how much the server's clock is ahead of the one that says `now`; exact to a second or so.
    #[must_use]
    pub fn ahead(&self, now: Timestamp) -> SignedDuration {
        const HALF_A_SECOND: SignedDuration = SignedDuration::from_millis(500);
        let since = SignedDuration::try_from(self.came.elapsed()).unwrap_or_default();
        self.date.duration_since(now).saturating_add(since).saturating_add(HALF_A_SECOND)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_clock_is_compared_with_ours_however_long_ago_it_was_read() {
        let read = ServerDate::read("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let now = "1994-11-06T08:52:07.5Z".parse::<Timestamp>().unwrap();
        assert_eq!(read.ahead(now), SignedDuration::from_secs(-150));
        tokio::time::advance(Duration::from_secs(40)).await;
        assert_eq!(read.ahead(now + SignedDuration::from_secs(40)), SignedDuration::from_secs(-150));
    }

    #[test]
    fn what_is_no_date_says_nothing() {
        for value in ["", "now", "1994-11-06T08:49:37Z", "Sun, 06 Nov 1994"] {
            assert_eq!(ServerDate::read(value), None, "{value:?}");
        }
    }
}
