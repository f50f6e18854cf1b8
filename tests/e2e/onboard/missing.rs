//! When the certificate request does not come: what came instead.

use std::net::{IpAddr, Ipv6Addr};

use insta::assert_snapshot;
use jiff::SignedDuration;
use stagedoor_lab::agent::Agent;
use stagedoor_lab_aws::Launch;
use stagedoor_lifecycle::reason::Code;
use stagedoor_lifecycle::receipt::Outcome;
use stagedoor_types::Certname;

use super::stage::Stage;
use crate::e2e::rehearsal::redacted_reason;

/// A launch that began three minutes ago.
async fn waiting_for_long() -> (Stage, String, serde_json::Value) {
    let mut stage = Stage::open_source("").await;
    stage.budget("2s");
    stage.rehearsal.lab.clock.advance(SignedDuration::from_secs(-180));
    let (instance, event) = stage.launch();
    stage.rehearsal.lab.clock.advance(SignedDuration::from_secs(180));
    (stage, instance, event)
}

#[tokio::test]
async fn a_request_under_another_name_is_found_and_named() {
    let (mut stage, instance, event) = waiting_for_long().await;
    let other = "ip-10-0-3-7.corp.example.com";
    let agent = stage.start(Agent { certname: other.to_owned(), ..Stage::compiler(&instance) });
    agent.waits_for_certificate().await.unwrap();
    let receipt = stage.rehearsal.onboard(&event).await;
    assert_eq!((receipt.outcome, receipt.code), (Outcome::Waiting, Code::RequestPending), "{receipt:#?}");
    assert_snapshot!(redacted_reason(&receipt, &[]), @"waiting for the certificate request of [certname]; a certificate request with pp_instance_id [instance] is pending under the name ip-10-0-3-7.corp.example.com: set certname in its puppet.conf, or change certname in the profile (a domain name of its DHCP options is not part of its private DNS name at EC2)");
    assert_eq!(stage.rehearsal.writes().iter().filter(|write| write.starts_with("ca ")).count(), 0, "only read");
    assert_eq!(stage.rehearsal.lists_of_certificates(), 0);
}

#[tokio::test]
async fn facts_under_the_name_of_the_images_builder_are_found_and_named() {
    let (mut stage, instance, event) = waiting_for_long().await;
    let builder = "image-builder.example.com";
    let node = serde_json::json!({"certname": builder, "instance_id": null,
        "puppetdb": {"facts": {"ec2_metadata": {"instance-id": instance}}}});
    let puppet = &stage.rehearsal.lab.puppet;
    puppet.place_node(&serde_json::from_value(node).unwrap()).unwrap();
    let receipt = stage.rehearsal.onboard(&event).await;
    assert_eq!((receipt.outcome, receipt.code), (Outcome::Waiting, Code::RequestPending), "{receipt:#?}");
    assert_snapshot!(redacted_reason(&receipt, &[]), @"waiting for the certificate request of [certname]; PuppetDB has facts of [instance] under the name image-builder.example.com: it runs Puppet with another certificate, perhaps one that its image was made with; make the image without /etc/puppetlabs/puppet/ssl and without a certname in puppet.conf, or change certname in the profile");
}

#[tokio::test]
async fn a_short_wait_costs_no_search() {
    let mut stage = Stage::open_source("").await;
    stage.budget("1s");
    let (_, event) = stage.launch();
    stage.rehearsal.onboard(&event).await;
    assert_eq!(stage.rehearsal.lab.journal.count("ca", "GET /puppet-ca/v1/certificate_statuses*"), 0);
}

// Instances with IPv6.

/// Whether this machine has `::1`.
fn has_ipv6() -> bool {
    let has = std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    if !has {
        eprintln!("skipped: this machine has no ::1");
    }
    has
}

/// A port of `::1` that nothing uses.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

#[tokio::test]
async fn an_instance_with_ipv6_alone_is_probed_there() {
    if !has_ipv6() {
        return;
    }
    let (status, tcp) = (free_port(), free_port());
    let ready = format!("ready = [\"report\", \"status:{status}\", \"tcp:{tcp}\"]");
    let mut stage = Stage::open_source(&ready).await;
    let launch = Launch { ipv6: Some("::1".to_owned()), ipv6_only: true, ..Launch::default() };
    let (instance, event) = stage.launch_as(&launch);
    stage.start(Agent { status_ports: vec![status], tcp_ports: vec![tcp], ..Stage::compiler(&instance) });
    let receipt = stage.rehearsal.onboard(&event).await;
    assert_eq!(receipt.outcome, Outcome::Continued, "{receipt:#?}");
    assert!(receipt.certname.as_ref().map(Certname::as_str).is_some_and(|name| name.starts_with(&instance)));
}

#[tokio::test]
async fn an_instance_with_both_is_ready_if_either_address_answers() {
    if !has_ipv6() {
        return;
    }
    let port = free_port();
    let mut stage = Stage::open_source(&format!("ready = [\"report\", \"tcp:{port}\"]")).await;
    let (instance, event) = stage.launch_as(&Launch { ipv6: Some("::1".to_owned()), ..Launch::default() });
    let address = Some(IpAddr::V6(Ipv6Addr::LOCALHOST));
    stage.start(Agent { tcp_ports: vec![port], address, ..Stage::compiler(&instance) });
    let receipt = stage.rehearsal.onboard(&event).await;
    assert_eq!(receipt.outcome, Outcome::Continued, "{receipt:#?}");
}
