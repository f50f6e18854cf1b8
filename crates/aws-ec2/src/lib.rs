//! EC2, alone in its crate: its SDK takes minutes to compile, and nothing but the functions should wait for it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use aws_sdk_ec2::Client;
use aws_sdk_ec2::types::{Filter, Instance, InstanceNetworkInterface};
use jiff::Timestamp;
use stagedoor_aws::{Error, SdkConfig, classify};
use stagedoor_types::{GroupName, InstanceId, Machine};

/// The most values that one filter takes.
/// See [`DescribeInstances`](https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstances.html).
const MAX_FILTER_VALUES: usize = 200;
/// The most instances on one page.
const PAGE: i32 = 1000;

/// The API of EC2.
#[derive(Debug, Clone)]
pub struct Ec2 {
    client: Client,
}

impl Ec2 {
    /// A client with this configuration.
    #[must_use]
    pub fn new(config: &SdkConfig) -> Self {
        Self { client: Client::new(config) }
    }

    /// The instances with these ids; unknown ones are missing from the answer.
    ///
    /// Asked for by filter: an unknown id among instance ids would fail the whole call with
    /// `InvalidInstanceID.NotFound`.
    pub async fn machines(&self, instances: &[InstanceId]) -> Result<Vec<Machine>, Error> {
        self.described("instance-id", instances.iter().map(InstanceId::as_str).collect()).await
    }

    /// All instances of these Auto Scaling groups, by the tag that Auto Scaling gives them: a thousand in one call.
    pub async fn machines_of(&self, groups: &[GroupName]) -> Result<Vec<Machine>, Error> {
        self.described("tag:aws:autoscaling:groupName", groups.iter().map(GroupName::as_str).collect()).await
    }

    async fn described(&self, filter: &str, values: Vec<&str>) -> Result<Vec<Machine>, Error> {
        let mut machines = Vec::new();
        for chunk in values.chunks(MAX_FILTER_VALUES) {
            let values = chunk.iter().map(|value| (*value).to_owned()).collect();
            let filter = Filter::builder().name(filter).set_values(Some(values)).build();
            let request = self.client.describe_instances().filters(filter).max_results(PAGE);
            let mut pages = request.into_paginator().send();
            while let Some(page) = pages.next().await {
                let page = page.map_err(|error| classify("DescribeInstances", &chunk.join(", "), &error))?;
                let reservations = page.reservations.unwrap_or_default().into_iter();
                let found = reservations.flat_map(|reservation| reservation.instances.unwrap_or_default());
                machines.extend(found.filter_map(machine));
            }
        }
        Ok(machines)
    }
}

/// The IPv6 address of the instance, which EC2 gives where there is a primary one; else the first of its primary network interface.
/// See [`InstanceNetworkInterface`](https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_InstanceNetworkInterface.html).
fn ipv6(described: &Instance) -> Option<IpAddr> {
    let primary = |interface: &&InstanceNetworkInterface| {
        interface.attachment().is_some_and(|attachment| attachment.device_index() == Some(0))
    };
    let of_interface = || {
        let addresses = described.network_interfaces().iter().find(primary)?.ipv6_addresses();
        let marked = addresses.iter().find(|address| address.is_primary_ipv6() == Some(true));
        marked.or(addresses.first())?.ipv6_address()
    };
    let address = described.ipv6_address().filter(|address| !address.is_empty()).or_else(of_interface);
    address.and_then(|address| address.parse().ok())
}

fn machine(described: Instance) -> Option<Machine> {
    let ipv6 = ipv6(&described);
    let tags = described.tags.unwrap_or_default().into_iter();
    let mut machine = Machine {
        instance: described.instance_id?.parse().ok()?,
        state: described.state.and_then(|state| state.name).map(|name| name.as_str().to_owned()).unwrap_or_default(),
        // A terminated instance has an empty one.
        private_dns: described.private_dns_name.filter(|name| !name.is_empty()),
        private_ip: described.private_ip_address.and_then(|address| address.parse().ok()),
        ipv6,
        terminated: described.state_transition_reason.as_deref().and_then(transition_time),
        launched: described.launch_time.and_then(|time| Timestamp::from_second(time.secs()).ok()),
        tags: tags.filter_map(|tag| Some((tag.key?, tag.value.unwrap_or_default()))).collect::<BTreeMap<_, _>>(),
    };
    // A stopped instance has such a time as well.
    machine.terminated = machine.terminated.filter(|_| machine.is_gone());
    Some(machine)
}

/// The time in a reason such as `User initiated (2026-01-02 03:04:05 GMT)`.
/// See [`Instance`](https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_Instance.html), `StateTransitionReason`.
fn transition_time(reason: &str) -> Option<Timestamp> {
    let (_, time) = reason.trim().strip_suffix(" GMT)")?.rsplit_once('(')?;
    format!("{}Z", time.replacen(' ', "T", 1)).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_of_a_termination_has_its_time_or_none() {
        let time = |reason| transition_time(reason).map(|time| time.to_string());
        assert_eq!(time("User initiated (2026-01-02 03:04:05 GMT)").as_deref(), Some("2026-01-02T03:04:05Z"));
        for reason in ["", "User initiated", "Server.SpotInstanceTermination", "User initiated (yesterday GMT)"] {
            assert_eq!(time(reason), None, "{reason}");
        }
    }
}
