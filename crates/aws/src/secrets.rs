//! Secrets Manager: one secret's text, kept for a while.

use std::time::Duration;

use aws_sdk_secretsmanager::Client;
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Mutex;

use crate::connect::own_retries;
use crate::{Error, SdkConfig, classify};

/// How long a secret is used before it is read again, so that a rotated one comes into use by itself.
pub const KEPT: Duration = Duration::from_secs(300);

/// One secret of Secrets Manager.
#[derive(Debug)]
pub struct Secret {
    client: Client,
    name: String,
    kept: Mutex<Option<Kept>>,
}

/// A secret's text, as it was read.
#[derive(Debug, Clone)]
pub struct Reading {
    /// The text. Not shown by `Debug`.
    pub text: SecretString,
    /// Which text this is: the same number means that nothing has changed.
    pub number: u64,
}

#[derive(Debug)]
struct Kept {
    reading: Reading,
    read_at: Timestamp,
    /// Why it could not be read anew when it was older than [`KEPT`].
    outdated: Option<Error>,
}

impl Secret {
    /// The secret with this name or ARN.
    #[must_use]
    pub fn new(config: &SdkConfig, name: impl Into<String>) -> Self {
        let own = aws_sdk_secretsmanager::config::Builder::from(config)
            .retry_partition(own_retries(config, "secretsmanager"));
        Self { client: Client::from_conf(own.build()), name: name.into(), kept: Mutex::new(None) }
    }

    /// Its current text, at most [`KEPT`] old; `now` is the time.
    /// See [`GetSecretValue`](https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_GetSecretValue.html).
    pub async fn read(&self, now: Timestamp) -> Result<Reading, Error> {
        let mut kept = self.kept.lock().await;
        if let Some(kept) = kept.as_ref().filter(|kept| now.duration_since(kept.read_at).unsigned_abs() < KEPT) {
            return Ok(kept.reading.clone());
        }
        let fetched = self.fetch(&mut kept, now).await;
        // Secrets Manager may be down: what it said before is better than nothing.
        match (fetched, kept.as_mut()) {
            (Err(error @ (Error::Unreachable { .. } | Error::Throttled { .. })), Some(kept)) => {
                kept.outdated = Some(error);
                Ok(kept.reading.clone())
            }
            (fetched, _) => fetched,
        }
    }

    /// Why the text in use is older than [`KEPT`], if it is: Secrets Manager was unreachable when it was to be read again. A new
    /// execution environment could not read it.
    pub async fn outdated(&self) -> Option<Error> {
        self.kept.lock().await.as_ref()?.outdated.clone()
    }

    /// Its current text, read anew because the reading with this number was refused by its user. Callers that were
    /// refused at the same time share one new reading. One with the same text has the same number: nothing has to be made anew of it.
    pub async fn read_again(&self, refused: u64, now: Timestamp) -> Result<Reading, Error> {
        let mut kept = self.kept.lock().await;
        if let Some(kept) = kept.as_ref().filter(|kept| kept.reading.number != refused) {
            return Ok(kept.reading.clone());
        }
        self.fetch(&mut kept, now).await
    }

    async fn fetch(&self, kept: &mut Option<Kept>, now: Timestamp) -> Result<Reading, Error> {
        const CALL: &str = "GetSecretValue";
        let answer = self.client.get_secret_value().secret_id(&self.name).send().await;
        let answer = answer.map_err(|error| classify(CALL, &self.name, &error))?;
        let Some(text) = answer.secret_string else {
            return Err(Error::Refused {
                call: CALL,
                subject: self.name.clone(),
                code: "no SecretString".into(),
                message: "the secret is binary; store it as text (JSON)".into(),
            });
        };
        let number = match kept.as_ref().map(|kept| &kept.reading) {
            Some(before) if before.text.expose_secret() == text => before.number,
            before => before.map_or(1, |before| before.number + 1),
        };
        let reading = Reading { text: text.into(), number };
        *kept = Some(Kept { reading: reading.clone(), read_at: now, outdated: None });
        Ok(reading)
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_secretsmanager::config::{BehaviorVersion, Config, Credentials, Region, retry::RetryConfig};

    use super::*;

    /// A secret that was read at this time, at an endpoint where nothing listens any more.
    fn read_before(read_at: Timestamp) -> Secret {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("eu-west-1"))
            .credentials_provider(Credentials::new("id", "key", None, None, "test"))
            .endpoint_url(format!("http://127.0.0.1:{port}"))
            .retry_config(RetryConfig::disabled())
            .build();
        let reading = Reading { text: "{}".to_owned().into(), number: 1 };
        let kept = Kept { reading, read_at, outdated: None };
        Secret { client: Client::from_conf(config), name: "stagedoor/puppet".into(), kept: Mutex::new(Some(kept)) }
    }

    #[tokio::test]
    async fn a_text_that_could_not_be_read_anew_is_used_and_said_to_be_outdated() {
        let read_at = Timestamp::from_second(1_800_000_000).unwrap();
        let secret = read_before(read_at);
        for (seconds, outdated) in [(299, false), (301, true)] {
            let now = Timestamp::from_second(read_at.as_second() + seconds).unwrap();
            assert_eq!(secret.read(now).await.unwrap().number, 1, "after {seconds} s");
            let trouble = secret.outdated().await;
            assert_eq!(matches!(trouble, Some(Error::Unreachable { .. })), outdated, "after {seconds} s: {trouble:?}");
        }
    }
}
