//! A CA that is an intermediate CA under a company's root CA, whose key is deleted. `tests/live/run` runs these on a stage that
//! was started with `CA=external-root`.

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use stagedoor_puppet::{Ca, Error, PuppetDb, RevocationList};

use super::job::{Job, instances};
use super::onboarding::{DOMAIN, LONG_BUDGET, assert_enrolled, config, continued, enrol};

use crate::conformance::site::{Identity, Site, endpoint, fresh};
use crate::live::stage::turn_to_clean;

const ROOT: &str = "Example Root CA";
const INTERMEDIATE: &str = "Example Puppet CA";

/// The list of this issuer.
fn list_of<'a>(lists: &'a [RevocationList], issuer: &str) -> &'a RevocationList {
    let found: Vec<&RevocationList> = lists.iter().filter(|list| list.issuer_name.contains(issuer)).collect();
    let [one] = found.as_slice() else { panic!("not one list of {issuer}: {lists:#?}") };
    one
}

/// The one date with this name.
fn date_of(dates: &std::collections::BTreeMap<String, Timestamp>, name: &str) -> Timestamp {
    let found: Vec<&Timestamp> = dates.iter().filter(|(known, _)| known.contains(name)).map(|(_, date)| date).collect();
    let [one] = found.as_slice() else { panic!("not one date of {name}: {dates:#?}") };
    **one
}

#[tokio::test]
async fn the_expiry_of_root_and_intermediate_and_of_their_lists_is_reported() {
    let site = Site::real().await;
    let mut job = Job::awaiting(
        instances(&[], DOMAIN),
        &config("budget = \"20s\"\nhousekeeping.every = \"1m\"\norphans.mode = \"off\"", ""),
    )
    .await;
    assert!(
        !job.stage.ca_directory.join("root_key.pem").exists(),
        "Puppet Server keeps the key of a root that it has made"
    );
    let signer = site.ca().certificate(&"ca".parse().unwrap()).await.unwrap().expect("the CA's certificate");
    assert_eq!(signer.common_name(), INTERMEDIATE);

    let expirations = site.ca().expirations().await.unwrap();
    assert_eq!((expirations.ca_certs.len(), expirations.crls.len()), (2, 2), "{expirations:?}");
    assert_eq!(date_of(&expirations.ca_certs, INTERMEDIATE), signer.not_after());
    assert!(date_of(&expirations.ca_certs, ROOT) > signer.not_after() + SignedDuration::from_hours(24 * 3000));
    let crl = site.ca().crl().await.unwrap();
    for issuer in [ROOT, INTERMEDIATE] {
        let next_update = list_of(crl.lists(), issuer).next_update;
        assert_eq!(Some(date_of(&expirations.crls, issuer)), next_update, "{issuer}");
    }
    // The root's list is renewed by those who have the root's key, and by no revocation.
    assert_eq!(expirations.earliest(), Some(date_of(&expirations.crls, ROOT)));

    let answer = job.invoke("sweep", &json!({})).await;
    let log = job.log();
    for (kind, issuer) in
        ["the CA certificate", "the CRL of"].iter().flat_map(|kind| [(kind, ROOT), (kind, INTERMEDIATE)])
    {
        let told = log.lines().any(|line| line.contains(kind) && line.contains(issuer) && line.contains("days_left"));
        assert!(told, "{kind} {issuer}: {answer:#}");
    }
    job.assert_no_secret_is_told();
}

#[tokio::test]
async fn the_bundle_must_hold_the_intermediate_certificate() {
    let site = Site::real().await;
    let end = "-----END CERTIFICATE-----\n";
    let certificates: Vec<&str> = site.ca_cert.split_inclusive(end).collect();
    let [intermediate, root] = certificates.as_slice() else { panic!("not two certificates: {}", site.ca_cert) };
    let Identity { cert, key } = &site.controller;
    for (bundle, is_enough) in [(*intermediate, true), (*root, false)] {
        let mut credentials = site.credentials(&Identity { cert: cert.clone(), key: key.clone() });
        credentials.ca_cert = bundle.to_owned();
        let transport = credentials.transport().unwrap();
        let ca = Ca::new(&transport, &endpoint(&site.ca_url)).certificate(&fresh("nobody")).await.map(drop);
        let puppetdb = PuppetDb::new(&transport, &endpoint(&site.puppetdb_url)).version().await.map(drop);
        for answer in [ca, puppetdb] {
            assert_eq!(answer.is_ok(), is_enough, "{answer:?}");
            assert!(is_enough || matches!(answer, Err(Error::TlsRefused { .. })), "{answer:?}");
        }
    }
}

#[tokio::test]
async fn an_agent_is_enrolled_and_removed_with_proof_from_the_list_of_the_intermediate() {
    let _turn = turn_to_clean().await;
    let arriving = instances(&["external"], DOMAIN);
    let mut job = Job::awaiting(arriving.clone(), &config(LONG_BUDGET, "")).await;
    let instance = &arriving[0];
    let (agent, ..) = enrol(&mut job, instance).await;
    assert_enrolled(&job, instance).await;
    assert_eq!(job.completions(), [continued(instance)]);
    let certificate = job.ca().certificate(&instance.certname).await.unwrap().expect("its certificate");
    let before = job.ca().crl().await.unwrap();
    assert!(!before.contains(certificate.serial()));
    assert_eq!(list_of(before.lists(), INTERMEDIATE).issuer, certificate.issuer());

    let receipt = job.terminate(&instance.id).await;
    job.assert_purged(&receipt, instance, &certificate).await;
    let after = job.ca().crl().await.unwrap();
    assert!(list_of(after.lists(), INTERMEDIATE).serials.contains(certificate.serial()));
    assert_eq!(list_of(after.lists(), ROOT), list_of(before.lists(), ROOT), "the root's list is as it was imported");
    agent.assert_refused(&job.stage).await;
    job.assert_no_secret_is_told();
}
