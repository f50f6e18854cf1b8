//! How AWS is called: time-outs and retries, the same for every service.

use std::time::{Duration, SystemTime};

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, ConfigLoader, SdkConfig};
use aws_sdk_autoscaling::config::retry::{ClientRateLimiter, RetryPartition};

/// The configuration for every client, from the SDK's own environment variables (`AWS_REGION`,
/// `AWS_ENDPOINT_URL`, credentials …).
pub async fn from_environment() -> SdkConfig {
    defaults().load().await
}

/// How AWS is called, wherever credentials, Region and network come from.
///
/// Throttling (HTTP 400 `Throttling`), `ResourceContention` and other 5xx are answered by the SDK with
/// exponential back-off and full jitter: all EC2 Auto Scaling calls of an account and Region share one bucket, so that
/// unjittered retries of many functions would meet again and again.
#[must_use]
pub fn defaults() -> ConfigLoader {
    aws_config::defaults(BehaviorVersion::latest())
        .retry_config(
            RetryConfig::standard()
                .with_max_attempts(6)
                .with_initial_backoff(Duration::from_millis(200))
                .with_max_backoff(Duration::from_secs(5)),
        )
        .timeout_config(
            TimeoutConfig::builder()
                .connect_timeout(Duration::from_secs(3))
                .operation_attempt_timeout(Duration::from_secs(10))
                .operation_timeout(Duration::from_secs(30))
                .build(),
        )
}

/// A client's own memory of throttling and of retries. The SDK's default is one for each service in the whole process, which would let
/// simulations in one process depend on each other.
pub(crate) fn own_retries(config: &SdkConfig, service: &'static str) -> RetryPartition {
    let now = config.time_source().unwrap_or_default().now();
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    RetryPartition::custom(service).client_rate_limiter(ClientRateLimiter::new(seconds)).build()
}
