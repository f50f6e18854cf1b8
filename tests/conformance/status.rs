//! The status API beside the CA and beside PuppetDB.

use std::net::{Ipv4Addr, SocketAddr};

use stagedoor_puppet::{Error, FileSync, ServiceState, StatusApi};
use tokio::net::TcpListener;

use super::site::{Site, endpoint, fresh};

/// Where the CA and the status service beside it listen.
fn port_of_the_ca(site: &Site) -> SocketAddr {
    let (_, port) = site.ca_url.rsplit_once(':').expect("an address with a port");
    SocketAddr::from((Ipv4Addr::LOCALHOST, port.parse().expect("a port")))
}

fn status(site: &Site, url: &str) -> StatusApi {
    let transport = site.credentials(&site.controller).transport().expect("usable credentials");
    StatusApi::new(&transport, &endpoint(url)).expect("a status API")
}

pub(super) async fn both_services_say_that_they_run(site: &Site) {
    assert_eq!(status(site, &site.ca_url).simple().await, Ok(ServiceState::Running));
    assert_eq!(status(site, &site.puppetdb_url).simple().await, Ok(ServiceState::Running));
    // What balancers and probes ask for.
    assert_eq!(status(site, &site.ca_url).simple_of("server").await, Ok(Some(ServiceState::Running)));
}

pub(super) async fn each_service_tells_its_state_and_version(site: &Site) {
    for (url, name, version) in [
        (&site.ca_url, "ca", &site.puppetserver_version),
        (&site.ca_url, "server", &site.puppetserver_version),
        (&site.puppetdb_url, "puppetdb-status", &site.puppetdb_version),
    ] {
        let told = status(site, url).service(name).await.unwrap().expect("the service");
        assert_eq!((told.state, told.version.as_ref()), (ServiceState::Running, Some(version)), "{name}");
    }
    let told = status(site, &site.puppetdb_url).service("puppetdb-status").await.unwrap().expect("the service");
    assert_eq!(told.status["maintenance_mode?"], false, "{}", told.status);
}

pub(super) async fn a_service_that_is_not_there_is_none(site: &Site) {
    assert_eq!(status(site, &site.ca_url).service("classifier-service").await, Ok(None));
    assert_eq!(status(site, &site.puppetdb_url).service("ca").await, Ok(None));
    assert_eq!(status(site, &site.ca_url).simple_of("broker-service").await, Ok(None));
    // Open source has no file sync, and says so.
    let transport = site.credentials(&site.controller).transport().expect("usable credentials");
    assert_eq!(FileSync::new(&transport, &endpoint(&site.ca_url)).code().await, Ok(None));
}

pub(super) async fn a_node_is_asked_at_its_address_and_known_by_its_certificate(site: &Site) {
    let transport = site.credentials(&site.controller).transport().expect("usable credentials");
    let address = port_of_the_ca(site);
    let own = StatusApi::of_node(&transport, &"puppet".parse().unwrap(), address).expect("a status API");
    assert_eq!(own.simple().await, Ok(ServiceState::Running));
    let other = StatusApi::of_node(&transport, &fresh("other"), address).expect("a status API");
    let error = other.simple().await.unwrap_err();
    assert!(matches!(error, Error::TlsRefused { .. }), "{error}");
}

pub(super) async fn a_node_where_nobody_listens_is_unreachable_and_that_is_an_answer(site: &Site) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let nobody = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    drop(listener);
    let state = status(site, &nobody).simple().await.unwrap();
    assert!(matches!(state, ServiceState::Unreachable { .. }), "{state:?}");
}
