//! The two sites that assertions are held against: a lab of their own, and the stage of real servers. Starts or finds them.

use std::time::Duration;

use secrecy::SecretString;
use stagedoor_lab::{Lab, Options};
use stagedoor_lab_puppet::{PuppetOptions, QueueDelay, ServerVersion};
use stagedoor_puppet::{Ca, CaAdmin, Credentials, Endpoint, PuppetDb, PuppetDbAdmin};
use stagedoor_types::{Certname, InstanceId, Mode, WritePermit};

/// The controller's certname on the stage of real servers; the lab's is called the same.
const CONTROLLER: &str = "controller.stagedoor.test";
/// A certificate of the same CA that no rule names.
pub(crate) const OUTSIDER: &str = "outsider.stagedoor.test";

/// Tests may write.
pub(crate) fn permit() -> WritePermit {
    Mode::Act.write_permit().unwrap()
}

/// A certificate and its key, PEM.
pub(crate) struct Identity {
    pub(crate) cert: String,
    pub(crate) key: String,
}

/// The releases of Puppet Server and PuppetDB that belong together.
#[derive(Clone, Copy)]
pub(crate) struct Release {
    puppetserver: ServerVersion,
    puppetdb: ServerVersion,
}

impl Release {
    /// Those of Debian 12.
    pub(crate) const SEVEN: Self =
        Self { puppetserver: ServerVersion::new(7, 9, 5), puppetdb: ServerVersion::new(7, 12, 1) };
    /// Those of Debian 13.
    pub(crate) const EIGHT: Self =
        Self { puppetserver: ServerVersion::new(8, 7, 0), puppetdb: ServerVersion::new(8, 4, 1) };
}

/// A Puppet site with a controller.
pub(crate) struct Site {
    pub(crate) ca_url: String,
    pub(crate) puppetdb_url: String,
    pub(crate) ca_cert: String,
    pub(crate) puppetserver_version: String,
    pub(crate) puppetdb_version: String,
    pub(crate) controller: Identity,
    pub(crate) outsider: Identity,
    _lab: Option<Lab>,
    /// On the servers that all assertions share they take turns.
    #[cfg(feature = "live")]
    _turn: Option<tokio::sync::MutexGuard<'static, ()>>,
}

impl Site {
    /// A lab set up like the stage of real servers, with the same switches, that plays these releases.
    pub(crate) async fn lab(release: Release) -> Self {
        let puppet = PuppetOptions {
            server_version: release.puppetserver,
            puppetdb_version: release.puppetdb,
            allow_subject_alt_names: true,
            allow_authorization_extensions: true,
            allow_request_deletion: true,
            controller: CONTROLLER.to_owned(),
            puppetdb_allowlist: Some(vec!["localhost".to_owned(), CONTROLLER.to_owned()]),
            // Commands are carried out a little later, as they are by a real PuppetDB.
            puppetdb_queue: QueueDelay::Ms(20),
            ..PuppetOptions::default()
        };
        let lab = Lab::start(Options { puppet, ..Options::default() }).await.expect("the lab starts");
        let identity = |certname| {
            let made = lab.puppet.credentials(certname).expect("the lab issues it");
            Identity { cert: made.cert_pem, key: made.key_pem }
        };
        Self {
            ca_url: lab.ca_url().to_owned(),
            puppetdb_url: lab.puppetdb_url().to_owned(),
            ca_cert: lab.puppet.ca_bundle_pem(),
            puppetserver_version: release.puppetserver.to_string(),
            puppetdb_version: release.puppetdb.to_string(),
            controller: identity(CONTROLLER),
            outsider: identity(OUTSIDER),
            _lab: Some(lab),
            #[cfg(feature = "live")]
            _turn: None,
        }
    }

    /// The servers that `tests/live/stage up` has started.
    #[cfg(feature = "live")]
    pub(crate) async fn real() -> Self {
        let turn = crate::live::stage::turn_to_clean().await;
        let stage = crate::live::stage::LiveStage::read();
        let identity =
            |client: &crate::live::stage::Client| Identity { cert: client.cert.clone(), key: client.key.clone() };
        assert_eq!(stage.controller.certname, CONTROLLER);
        assert_eq!(stage.outsider.certname, OUTSIDER);
        Self {
            controller: identity(&stage.controller),
            outsider: identity(&stage.outsider),
            ca_url: stage.ca_url,
            puppetdb_url: stage.puppetdb_url,
            ca_cert: stage.ca_cert,
            puppetserver_version: stage.puppetserver_version,
            puppetdb_version: stage.puppetdb_version,
            _lab: None,
            _turn: Some(turn),
        }
    }

    /// Whether the CA counts a name as issued while its inventory lists it, also when the certificate is deleted: Puppet Server
    /// 8.2.2 and later.
    pub(crate) fn remembers_deleted_names(&self) -> bool {
        let version: ServerVersion = self.puppetserver_version.parse().expect("a version");
        version >= ServerVersion::new(8, 2, 2)
    }

    /// The CA as the controller sees it.
    pub(crate) fn ca(&self) -> Ca {
        self.ca_as(&self.controller)
    }

    pub(crate) fn ca_admin(&self) -> CaAdmin {
        CaAdmin::new(self.ca(), permit())
    }

    /// The CA as another client sees it, over connections of its own.
    pub(crate) fn ca_as(&self, identity: &Identity) -> Ca {
        let transport = self.credentials(identity).transport().expect("usable credentials");
        Ca::new(&transport, &endpoint(&self.ca_url))
    }

    /// PuppetDB as the controller sees it.
    pub(crate) fn puppetdb(&self) -> PuppetDb {
        self.puppetdb_as(&self.controller)
    }

    pub(crate) fn puppetdb_admin(&self) -> PuppetDbAdmin {
        PuppetDbAdmin::new(self.puppetdb(), permit())
    }

    pub(crate) fn puppetdb_as(&self, identity: &Identity) -> PuppetDb {
        let transport = self.credentials(identity).transport().expect("usable credentials");
        PuppetDb::new(&transport, &endpoint(&self.puppetdb_url))
    }

    pub(crate) fn credentials(&self, identity: &Identity) -> Credentials {
        Credentials {
            ca_cert: self.ca_cert.clone(),
            client_cert: identity.cert.clone(),
            client_key: SecretString::from(identity.key.clone()),
            rbac_token: None,
            challenge: None,
            previous_challenge: None,
        }
    }

    /// HTTP without the clients under test: for what agents, Puppet Server and strangers say.
    pub(crate) fn http(&self, identity: Option<&Identity>) -> reqwest::Client {
        stagedoor_puppet::install_crypto_provider();
        let anchors = reqwest::Certificate::from_pem_bundle(self.ca_cert.as_bytes()).expect("a CA bundle");
        let mut builder =
            reqwest::Client::builder().tls_certs_only(anchors).no_proxy().timeout(Duration::from_secs(90));
        if let Some(Identity { cert, key }) = identity {
            let pem = format!("{key}\n{cert}");
            builder = builder.identity(reqwest::Identity::from_pem(pem.as_bytes()).expect("certificate and key"));
        }
        builder.build().expect("an HTTP client")
    }
}

/// The answer to a request. Puppet Server closes new connections while it reads its CRL again, after a revocation in another test, so
/// a request that was not sent is sent once more.
pub(crate) async fn answer(request: reqwest::RequestBuilder) -> reqwest::Response {
    let again = request.try_clone().expect("a body in memory");
    match request.send().await {
        Err(error) if error.is_connect() => again.send().await.expect("an answer"),
        answer => answer.expect("an answer"),
    }
}

pub(crate) fn endpoint(url: &str) -> Endpoint {
    url.parse().expect("an address")
}

/// A certname that was never used before.
pub(crate) fn fresh(label: &str) -> Certname {
    let unique = uuid::Uuid::new_v4().simple().to_string();
    format!("{label}-{}.conformance.test", &unique[..12]).parse().expect("a certname")
}

/// An instance id that was never used before.
pub(crate) fn fresh_instance() -> InstanceId {
    let unique = uuid::Uuid::new_v4().simple().to_string();
    format!("i-{}", &unique[..17]).parse().expect("an instance id")
}
