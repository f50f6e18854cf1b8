//! `DescribeInstances` of the EC2 API
//! (<https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstances.html>). No I/O.

use jiff::Timestamp;

use crate::wire::{Answer, Ask, AwsError, not_simulated, page};
use crate::world::{ACCOUNT, Instance, World, is_instance_id, iso};
use crate::xml::Xml;

/// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html>, `FilterLimitExceeded`
const MOST_FILTER_VALUES: usize = 200;

/// Carries out everything that is due, then one call.
pub(crate) fn answer(world: &mut World, ask: &Ask, now: Timestamp) -> Result<Answer, AwsError> {
    world.settle(now);
    match ask.action.as_str() {
        "DescribeInstances" => describe_instances(world, ask, now).map(Answer::Xml),
        _ => Err(not_simulated(ask)),
    }
}

/// An instance with the state that EC2 shows.
type Shown<'a> = (&'a Instance, (&'static str, u16));

fn describe_instances(world: &World, ask: &Ask, now: Timestamp) -> Result<Xml, AwsError> {
    let ids = ask.texts("InstanceId");
    let filters = ask.filters("Filter", "Value");
    let values: usize = filters.iter().map(|(_, values)| values.len()).sum();
    if values > MOST_FILTER_VALUES {
        let message = format!("The maximum number of filter values specified on a single call is {MOST_FILTER_VALUES}");
        return Err(AwsError::new(400, "FilterLimitExceeded", message));
    }
    let shown = |instance| Instance::ec2_state(instance, now).map(|state| (instance, state));
    let known: Vec<Shown<'_>> = world.instances.values().filter_map(shown).collect();
    check_ids(&ids, &known)?;
    let mut found = Vec::new();
    for shown in known {
        let named = ids.is_empty() || ids.contains(&shown.0.id.as_str());
        if named && matches(shown, &filters)? {
            found.push(shown);
        }
    }
    let (found, next) = one_page(found, ask, !ids.is_empty())?;
    let mut xml = Xml::default();
    xml.list("reservationSet", "item", found, |xml, shown| write_reservation(xml, world, shown));
    xml.maybe("nextToken", next);
    Ok(xml)
}

/// One unknown id fails the whole call.
fn check_ids(ids: &[&str], known: &[Shown<'_>]) -> Result<(), AwsError> {
    if let Some(id) = ids.iter().find(|id| !is_instance_id(id)) {
        return Err(AwsError::new(400, "InvalidInstanceID.Malformed", format!("Invalid id: \"{id}\"")));
    }
    let missing: Vec<&str> =
        ids.iter().filter(|id| !known.iter().any(|(instance, _)| instance.id == **id)).copied().collect();
    let message = match missing.as_slice() {
        [] => return Ok(()),
        [one] => format!("The instance ID '{one}' does not exist"),
        many => format!("The instance IDs '{}' do not exist", many.join(", ")),
    };
    Err(AwsError::new(400, "InvalidInstanceID.NotFound", message))
}

fn one_page<'a>(found: Vec<Shown<'a>>, ask: &Ask, by_id: bool) -> Result<(Vec<Shown<'a>>, Option<String>), AwsError> {
    let size = match ask.text("MaxResults") {
        None => usize::MAX / 2,
        Some(_) if by_id => {
            let message = "The parameter instancesSet cannot be used with the parameter maxResults";
            return Err(AwsError::new(400, "InvalidParameterCombination", message));
        }
        Some(text) => match text.parse::<usize>() {
            Ok(size) if (5..=1000).contains(&size) => size,
            _ => {
                let message = format!(
                    "Value ( {text} ) for parameter maxResults is invalid. Expecting a value between 5 and 1000."
                );
                return Err(AwsError::new(400, "InvalidParameterValue", message));
            }
        },
    };
    page(found, ask.text("NextToken"), size)
        .ok_or_else(|| AwsError::new(400, "InvalidNextToken", "The token is invalid."))
}

/// All filters must match; within one filter any of its values, which may hold `*` and `?`.
fn matches((instance, (state, code)): Shown<'_>, filters: &[(&str, Vec<&str>)]) -> Result<bool, AwsError> {
    let alive = instance.terminated.is_none();
    for (name, patterns) in filters {
        let tags = shown_tags(instance);
        let subjects: Vec<String> = if let Some(key) = name.strip_prefix("tag:") {
            tags.into_iter().filter(|(name, _)| *name == key).map(|(_, value)| value.to_owned()).collect()
        } else {
            match *name {
                "instance-id" => vec![instance.id.clone()],
                "instance-state-name" => vec![state.to_owned()],
                "instance-state-code" => vec![code.to_string()],
                "private-dns-name" if alive => vec![instance.private_dns.clone()],
                "private-ip-address" if alive => instance.private_ip.iter().cloned().collect(),
                "private-dns-name" | "private-ip-address" => Vec::new(),
                "tag-key" => tags.into_iter().map(|(name, _)| name.to_owned()).collect(),
                "owner-id" => vec![ACCOUNT.to_owned()],
                other => {
                    let message = format!("The filter '{other}' is invalid");
                    return Err(AwsError::new(400, "InvalidParameterValue", message));
                }
            }
        };
        let any =
            subjects.iter().any(|subject| patterns.iter().any(|pattern| glob(pattern.as_bytes(), subject.as_bytes())));
        if !any {
            return Ok(false);
        }
    }
    Ok(true)
}

fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern, text) {
        ([], []) => true,
        ([b'*', rest @ ..], _) => glob(rest, text) || (!text.is_empty() && glob(pattern, &text[1..])),
        ([b'?', pattern @ ..], [_, text @ ..]) => glob(pattern, text),
        ([p, pattern @ ..], [t, text @ ..]) if p == t => glob(pattern, text),
        _ => false,
    }
}

fn shown_tags(instance: &Instance) -> Vec<(&str, &str)> {
    let own = instance.tags.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    own.chain(instance.group.as_deref().map(|group| ("aws:autoscaling:groupName", group))).collect()
}

fn write_reservation(xml: &mut Xml, world: &World, (instance, (state, code)): Shown<'_>) {
    // Reservation ids have the form of instance ids; one instance each.
    xml.text("reservationId", instance.id.replacen('i', "r", 1))
        .text("ownerId", ACCOUNT)
        .within("groupSet", |_| {})
        .within("instancesSet", |xml| {
            xml.within("item", |xml| write_instance(xml, world, instance, state, code));
        });
}

fn write_instance(xml: &mut Xml, world: &World, instance: &Instance, state: &str, code: u16) {
    // A terminated instance has lost its network interface, and with it its names and addresses. AWS then sends an
    // empty name and no address at all.
    let alive = state != "terminated";
    xml.text("instanceId", &instance.id)
        .text("imageId", "ami-0aaaaaaaaaaaaaaaa")
        .within("instanceState", |xml| {
            xml.text("code", code).text("name", state);
        })
        .text("privateDnsName", if alive { instance.private_dns.as_str() } else { "" })
        .text("dnsName", "");
    if !alive {
        let at = instance.terminated.map(|at| at.strftime("User initiated (%Y-%m-%d %H:%M:%S GMT)").to_string());
        xml.text("reason", at.unwrap_or_else(|| "User initiated".to_owned()));
        xml.within("stateReason", |xml| {
            xml.text("code", "Client.UserInitiatedShutdown")
                .text("message", "Client.UserInitiatedShutdown: User initiated shutdown");
        });
    }
    xml.text("amiLaunchIndex", 0)
        .within("productCodes", |_| {})
        .text("instanceType", "m6i.large")
        .text("launchTime", iso(instance.launched))
        .within("placement", |xml| {
            xml.text("availabilityZone", world.zone()).text("groupName", "").text("tenancy", "default");
        })
        .within("monitoring", |xml| {
            xml.text("state", "disabled");
        });
    if alive {
        xml.text("subnetId", "subnet-0aaaaaaaaaaaaaaaa").text("vpcId", "vpc-0aaaaaaaaaaaaaaaa");
        xml.maybe("privateIpAddress", instance.private_ip.clone());
        xml.list("networkInterfaceSet", "item", [instance], write_interface);
    }
    xml.text("architecture", "x86_64")
        .text("rootDeviceType", "ebs")
        .text("rootDeviceName", "/dev/xvda")
        .text("virtualizationType", "hvm")
        .list("tagSet", "item", shown_tags(instance), |xml, (key, value)| {
            xml.text("key", key).text("value", value);
        })
        .text("hypervisor", "xen")
        .text("ebsOptimized", false);
}

/// The primary network interface, as far as its addresses go
/// (<https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_InstanceNetworkInterface.html>).
fn write_interface(xml: &mut Xml, instance: &Instance) {
    xml.text("networkInterfaceId", instance.id.replacen('i', "eni", 1)).within("attachment", |xml| {
        xml.text("deviceIndex", 0).text("status", "attached");
    });
    xml.maybe("privateIpAddress", instance.private_ip.clone());
    xml.list("ipv6AddressesSet", "item", &instance.ipv6, |xml, address| {
        xml.text("ipv6Address", address).text("isPrimaryIpv6", false);
    });
}

#[cfg(test)]
mod tests {
    use super::glob;

    #[test]
    fn filter_values_know_stars_and_question_marks() {
        assert!(glob(b"ip-10-*", b"ip-10-0-3-7"));
        assert!(glob(b"i-?", b"i-1"));
        assert!(!glob(b"i-?", b"i-12"));
        assert!(glob(b"*", b""));
        assert!(!glob(b"run", b"running"));
    }
}
