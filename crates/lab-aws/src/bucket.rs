//! The token bucket that all Auto Scaling calls of an account and Region share. No I/O; time is handed in.

use jiff::Timestamp;

use crate::scene::Throttle;

/// How full the bucket is.
#[derive(Debug, Default)]
pub(crate) struct Bucket {
    /// Tokens left, and when that was counted; `None`: full.
    level: Option<(f64, Timestamp)>,
}

impl Bucket {
    /// Takes one token; `false`: there is none, the call is to be throttled.
    pub(crate) fn take(&mut self, throttle: Option<Throttle>, now: Timestamp) -> bool {
        let Some(Throttle { burst, per_second }) = throttle else { return true };
        let burst = f64::from(burst);
        let (left, counted) = self.level.unwrap_or((burst, now));
        let refilled = now.duration_since(counted).as_secs_f64().max(0.0) * per_second;
        let left = (left + refilled).min(burst);
        let granted = left >= 1.0;
        self.level = Some((if granted { left - 1.0 } else { left }, now));
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_granted_and_then_refilled_by_time() {
        let throttle = Some(Throttle { burst: 2, per_second: 0.5 });
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut bucket = Bucket::default();
        assert!(bucket.take(throttle, at(0)));
        assert!(bucket.take(throttle, at(0)));
        assert!(!bucket.take(throttle, at(1)));
        assert!(bucket.take(throttle, at(2)));
        assert!(!bucket.take(throttle, at(2)));
    }

    #[test]
    fn without_a_limit_everything_is_granted() {
        assert!(Bucket::default().take(None, Timestamp::UNIX_EPOCH));
    }
}
