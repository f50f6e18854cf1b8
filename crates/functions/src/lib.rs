//! What every function does before and around the controller: configuration, logging, the Lambda runtime.
//!
//! The binaries in `src/bin` are one line each: they say which function they are.

mod log;

use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail};
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use lambda_runtime::{LambdaEvent, service_fn};
use serde_json::Value;
use stagedoor_aws::{Error as AwsError, connect};
use stagedoor_aws_ec2::Ec2;
use stagedoor_controller::config::Config;
use stagedoor_controller::{Answer, Clock, Context, Function, Instances, handle};
use stagedoor_types::{GroupName, InstanceId, Machine};

/// Environment variable with the configuration as TOML text.
pub const CONFIG: &str = "STAGEDOOR_CONFIG";
/// Environment variable with the path of a TOML file, where [`CONFIG`] is not set.
pub const CONFIG_FILE: &str = "STAGEDOOR_CONFIG_FILE";

/// Serves invocations of one function until the platform stops it. Fails only with errors that no invocation can fix.
///
/// Not `async`: an async function is compiled anew in every binary that awaits it, and this one holds the whole program.
pub fn serve(function: Function) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("the async runtime")?;
    runtime.block_on(serve_until_stopped(function))
}

async fn serve_until_stopped(function: Function) -> anyhow::Result<()> {
    log::to_stdout();
    let config = configuration()?;
    stagedoor_puppet::install_crypto_provider();
    let aws = connect::from_environment().await;
    let machines = Arc::new(Ec2Machines(Ec2::new(&aws)));
    let mut context = Context::new(config, &aws, machines, Clock::system());
    context.deployed_as = std::env::var("AWS_LAMBDA_FUNCTION_NAME").ok();
    let context = &context;
    let answer = |invocation: LambdaEvent<Value>| async move {
        let deadline = deadline(invocation.context.deadline, context.clock.now());
        // Boxed: optimized, the futures nest deeper than the compiler's recursion limit.
        let Answer { payload, metrics } = Box::pin(handle(context, function, &invocation.payload, deadline)).await;
        // Lines of their own: CloudWatch takes metrics only from documents that begin with them.
        for line in metrics {
            println!("{line}");
        }
        Ok::<_, std::convert::Infallible>(payload)
    };
    lambda_runtime::run(service_fn(answer)).await.map_err(|error| anyhow!("the Lambda runtime stopped: {error}"))
}

/// When the platform ends the invocation, from its header in milliseconds since 1970. A deadline that is already in the past is
/// ignored: `cargo lambda watch` always sends ten minutes past midnight of 1 January 1970.
fn deadline(header_ms: u64, now: Timestamp) -> Option<Timestamp> {
    let deadline = Timestamp::from_millisecond(i64::try_from(header_ms).ok()?).ok()?;
    (deadline > now).then_some(deadline)
}

/// The configuration, from the environment.
fn configuration() -> anyhow::Result<Config> {
    let text = match (std::env::var(CONFIG), std::env::var(CONFIG_FILE)) {
        (Ok(text), _) => text,
        (Err(_), Ok(path)) => std::fs::read_to_string(&path).with_context(|| format!("{CONFIG_FILE}: {path}"))?,
        (Err(_), Err(_)) => {
            bail!("set {CONFIG} to the configuration as TOML text, or {CONFIG_FILE} to the path of a file")
        }
    };
    Ok(Config::parse(&text)?)
}

/// EC2 with its SDK.
#[derive(Debug)]
struct Ec2Machines(Ec2);

impl Instances for Ec2Machines {
    fn machines<'a>(&'a self, instances: &'a [InstanceId]) -> BoxFuture<'a, Result<Vec<Machine>, AwsError>> {
        Box::pin(self.0.machines(instances))
    }

    fn machines_of<'a>(&'a self, groups: &'a [GroupName]) -> BoxFuture<'a, Result<Vec<Machine>, AwsError>> {
        Box::pin(self.0.machines_of(groups))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_that_passed_before_the_invocation_is_none() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        assert_eq!(deadline(600_000, now), None);
        assert_eq!(deadline(0, now), None);
        assert_eq!(deadline(u64::MAX, now), None);
        assert_eq!(deadline(1_800_000_060_000, now), Timestamp::from_second(1_800_000_060).ok());
    }
}
