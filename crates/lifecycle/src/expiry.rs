//! When the credentials expire that everything depends on. Pure; the time is passed in.

use std::time::Duration;

use jiff::Timestamp;

use crate::deadline;

/// How often the same credential is reported at the most.
const REMINDER: Duration = Duration::from_secs(86_400);
const DAY_S: i64 = 86_400;

/// Something that expires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// What it is, as a person would call it ("the controller's certificate").
    pub name: String,
    /// When it expires.
    pub expires: Timestamp,
}

impl Credential {
    /// Whole days left; below zero once it has expired.
    #[must_use]
    pub fn days_left(&self, now: Timestamp) -> i64 {
        (self.expires.as_second() - now.as_second()).div_euclid(DAY_S)
    }

    /// The text of its alert.
    #[must_use]
    pub fn describe(&self, now: Timestamp) -> String {
        let Self { name, expires } = self;
        if *expires <= now {
            return format!("{name} expired at {expires}: renew it now");
        }
        match self.days_left(now) {
            0 => format!("{name} expires within a day, at {expires}"),
            1 => format!("{name} expires in 1 day, at {expires}"),
            days => format!("{name} expires in {days} days, at {expires}"),
        }
    }
}

/// The days that are left until the first of them expires.
#[must_use]
pub fn days_left(credentials: &[Credential], now: Timestamp) -> Option<i64> {
    credentials.iter().map(|credential| credential.days_left(now)).min()
}

/// Those that expire in less than so many days, the most urgent first.
#[must_use]
pub fn expiring(credentials: &[Credential], warn_days: i64, now: Timestamp) -> Vec<&Credential> {
    let mut soon: Vec<_> = credentials.iter().filter(|credential| credential.days_left(now) < warn_days).collect();
    soon.sort_by_key(|credential| credential.expires);
    soon
}

/// Whether a check that runs once in each `every` sends an alert this time: once a day, without state.
#[must_use]
pub fn reminds(every: Duration, now: Timestamp) -> bool {
    deadline::is_first_of(REMINDER, every, now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::at;

    fn credential(name: &str, expires: i64) -> Credential {
        Credential { name: name.into(), expires: at(expires) }
    }

    #[test]
    fn days_are_whole_days_and_go_below_zero() {
        let left = |seconds| credential("token", seconds).days_left(at(0));
        assert_eq!([left(DAY_S * 30), left(DAY_S * 30 - 1), left(1), left(0), left(-1)], [30, 29, 0, 0, -1]);
    }

    #[test]
    fn the_first_to_expire_counts() {
        let all = [credential("CA", DAY_S * 900), credential("token", DAY_S * 3), credential("CRL", DAY_S * 40)];
        assert_eq!(days_left(&all, at(0)), Some(3));
        assert_eq!(days_left(&[], at(0)), None);
    }

    #[test]
    fn a_person_is_told_of_what_expires_in_less_than_the_days_asked_for() {
        let all = [credential("CRL", DAY_S * 30 - 1), credential("CA", DAY_S * 30), credential("token", -5)];
        let names: Vec<_> = expiring(&all, 30, at(0)).into_iter().map(|credential| credential.name.as_str()).collect();
        assert_eq!(names, ["token", "CRL"]);
    }

    #[test]
    fn what_has_expired_is_said_to_have() {
        let texts = [-1, 5, DAY_S, DAY_S * 9].map(|expires| credential("the CRL", expires).describe(at(0)));
        insta::assert_snapshot!(texts.join("\n"), @"
        the CRL expired at 2027-01-15T07:59:59Z: renew it now
        the CRL expires within a day, at 2027-01-15T08:00:05Z
        the CRL expires in 1 day, at 2027-01-16T08:00:00Z
        the CRL expires in 9 days, at 2027-01-24T08:00:00Z
        ");
    }

    #[test]
    fn a_person_is_told_once_a_day() {
        let every = Duration::from_secs(300);
        let told = (0..2 * 288).filter(|slot| reminds(every, at(slot * 300 + 40)));
        assert_eq!(told.count(), 2);
    }
}
