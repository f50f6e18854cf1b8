//! SNS: notifications for people and programs.

use aws_sdk_sns::Client;

use crate::connect::own_retries;
use crate::{Error, SdkConfig, classify};

/// The longest subject that SNS takes, in characters.
const MAX_SUBJECT: usize = 100;

/// One SNS topic.
#[derive(Debug, Clone)]
pub struct Topic {
    client: Client,
    arn: String,
}

impl Topic {
    /// The topic with this ARN.
    #[must_use]
    pub fn new(config: &SdkConfig, arn: impl Into<String>) -> Self {
        let own = aws_sdk_sns::config::Builder::from(config).retry_partition(own_retries(config, "sns"));
        Self { client: Client::from_conf(own.build()), arn: arn.into() }
    }

    /// Publishes a message of at most 256 KiB. The subject is cut to what SNS takes.
    /// See [`Publish`](https://docs.aws.amazon.com/sns/latest/api/API_Publish.html).
    pub async fn publish(&self, subject: &str, message: &str) -> Result<(), Error> {
        let subject: String = subject.chars().filter(char::is_ascii).take(MAX_SUBJECT).collect();
        let request = self.client.publish().topic_arn(&self.arn).subject(subject).message(message);
        request.send().await.map(drop).map_err(|error| classify("Publish", &self.arn, &error))
    }
}
