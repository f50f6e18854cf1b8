//! The site's shared state, and the operations that touch more than one part of it. No I/O.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rcgen::KeyPair;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use stagedoor_lab_core::clock::Clock;
use stagedoor_lab_core::server::TlsSource;
use tokio::sync::watch;

use crate::authority::Authority;
use crate::ca::{Ca, Pending, Thrown, policy};
use crate::enterprise::admission::{Admissions, Classes, Services};
use crate::enterprise::classifier::Groups;
use crate::enterprise::file_sync::FileSync;
use crate::enterprise::orchestrator::Orchestrator;
use crate::node::CsrAttributes;
use crate::options::PuppetOptions;
use crate::puppetdb::store::{Command, Store};
use crate::tls::{Identity, server_config};
use crate::x509::request::{SigningRequest, Wish, write};

/// Certname of the host that runs both servers.
pub(crate) const SERVER: &str = "puppet";

/// The name of one of the certificates that are only counted.
pub(crate) fn crowd_name(number: u32) -> String {
    format!("node-{number:06}.another-site.example.net")
}

/// Everything behind the services. Locks are held for single steps, never across an await.
pub(crate) struct Site {
    pub(crate) clock: Clock,
    pub(crate) authority: Authority,
    identity: Identity,
    /// Certnames that a reset leaves alone.
    permanent: Vec<String>,
    options: Mutex<PuppetOptions>,
    ca: Mutex<Ca>,
    puppetdb: Mutex<Store>,
    orchestrator: Mutex<Orchestrator>,
    node_groups: Mutex<Groups>,
    file_sync: Mutex<FileSync>,
    admissions: Mutex<Admissions>,
    services: Mutex<Services>,
    /// Counts changes of the site's state (orchestrator, admissions, services), for callers that wait for one.
    changes: watch::Sender<u64>,
    tls: Mutex<Arc<ServerConfig>>,
    pub(crate) puppetdb_tls: Arc<ServerConfig>,
    /// Held during a write to the CA, which does one write at a time.
    turn: tokio::sync::Mutex<()>,
}

/// Why a signing request was not taken.
#[derive(Debug)]
pub(crate) enum NotSubmitted {
    /// Refused, with this text.
    Refused(String),
    /// The server broke.
    Failed(Thrown),
}

impl Site {
    pub(crate) fn new(options: PuppetOptions, clock: Clock) -> anyhow::Result<Self> {
        let now = clock.now();
        let authority = Authority::new(now)?;
        let mut ca = Ca::new(&authority, clock.clone())?;
        let ttl = lifetime(&options);
        let server = CsrAttributes {
            alt_names: vec!["localhost".to_owned(), "IP:127.0.0.1".to_owned()],
            ..CsrAttributes::default()
        };
        let key = key_pair()?;
        let request = pending(&server.wish(SERVER)?, Arc::clone(&key))?;
        let certificate = ca.issue(SERVER, request, ttl, &authority, now).map_err(broken)?.der.clone();
        let mut controller = CsrAttributes::default();
        if options.controller_cli_auth {
            controller.extensions.insert("pp_cli_auth".to_owned(), "true".to_owned());
        }
        let request = pending(&controller.wish(&options.controller)?, key_pair()?)?;
        ca.issue(&options.controller, request, ttl, &authority, now).map_err(broken)?;
        let identity = Identity { certificate, key: key.serialize_der() };
        let tls = server_config(&identity, &authority, Some(&ca), &clock)?;
        // PuppetDB looks at a CRL only where `ssl-crl-path` is set, which neither its packages nor its set-up does.
        let puppetdb_tls = server_config(&identity, &authority, None, &clock)?;
        Ok(Self {
            permanent: vec![SERVER.to_owned(), options.controller.clone()],
            clock,
            authority,
            identity,
            options: Mutex::new(options),
            ca: Mutex::new(ca),
            puppetdb: Mutex::new(Store::default()),
            orchestrator: Mutex::new(Orchestrator::new(now)),
            node_groups: Mutex::new(Groups::preconfigured()),
            file_sync: Mutex::default(),
            admissions: Mutex::default(),
            services: Mutex::default(),
            changes: watch::Sender::new(0),
            tls: Mutex::new(tls),
            puppetdb_tls,
            turn: tokio::sync::Mutex::new(()),
        })
    }

    pub(crate) fn options(&self) -> PuppetOptions {
        self.options_mut().clone()
    }

    pub(crate) fn options_mut(&self) -> MutexGuard<'_, PuppetOptions> {
        lock(&self.options)
    }

    pub(crate) fn ca(&self) -> MutexGuard<'_, Ca> {
        lock(&self.ca)
    }

    pub(crate) fn puppetdb(&self) -> MutexGuard<'_, Store> {
        lock(&self.puppetdb)
    }

    pub(crate) fn orchestrator(&self) -> MutexGuard<'_, Orchestrator> {
        lock(&self.orchestrator)
    }

    pub(crate) fn node_groups(&self) -> MutexGuard<'_, Groups> {
        lock(&self.node_groups)
    }

    pub(crate) fn file_sync(&self) -> MutexGuard<'_, FileSync> {
        lock(&self.file_sync)
    }

    pub(crate) fn admissions(&self) -> MutexGuard<'_, Admissions> {
        lock(&self.admissions)
    }

    /// The state of the services of the primary, which restart after a run that changed what they read.
    pub(crate) fn services(&self) -> Services {
        *lock(&self.services)
    }

    pub(crate) fn set_services(&self, state: Services) {
        *lock(&self.services) = state;
        self.has_changed();
    }

    /// Notifies the waiting callers that the site's state has changed.
    pub(crate) fn has_changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// Changes of the site's state from now on.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// TLS of a service that runs on a node, under the node's own certificate.
    pub(crate) fn node_tls(
        &self,
        certificate: CertificateDer<'static>,
        key: Vec<u8>,
    ) -> anyhow::Result<Arc<ServerConfig>> {
        server_config(&Identity { certificate, key }, &self.authority, None, &self.clock)
    }

    /// Waits for this write's turn and for as long as a write of the simulated CA takes.
    pub(crate) async fn take_time_to_write(&self, options: &PuppetOptions) -> tokio::sync::MutexGuard<'_, ()> {
        let turn = self.turn.lock().await;
        if options.ca_write_ms > 0 {
            tokio::time::sleep(Duration::from_millis(options.ca_write_ms)).await;
        }
        turn
    }

    /// An agent's request: policy, filing, and perhaps autosign. What autosign refuses stays filed.
    pub(crate) fn submit(
        &self,
        certname: &str,
        pending: &Pending,
        options: &PuppetOptions,
    ) -> Result<(), NotSubmitted> {
        let request = &pending.request;
        let mut ca = self.ca();
        policy::check_duplicate(&ca, request, options)
            .and_then(|()| policy::check_subject(certname, &request.common_name))
            .map_err(NotSubmitted::Refused)?;
        ca.requests.insert(certname.to_owned(), pending.clone());
        drop(ca);
        if !options.autosign.covers(certname) {
            return Ok(());
        }
        policy::check_contents(request, options).map_err(NotSubmitted::Refused)?;
        self.sign(certname, None, options).map_err(NotSubmitted::Failed)
    }

    /// Signs the pending request of this name.
    pub(crate) fn sign(
        &self,
        certname: &str,
        ttl: Option<SignedDuration>,
        options: &PuppetOptions,
    ) -> Result<(), Thrown> {
        let ttl = ttl.unwrap_or_else(|| lifetime(options));
        self.ca().sign(certname, ttl, &self.authority, self.ca_time(options))
    }

    /// The clock of the CA's host.
    pub(crate) fn ca_time(&self, options: &PuppetOptions) -> Timestamp {
        options.on_ca_clock(self.clock.now())
    }

    /// PuppetDB's clock.
    pub(crate) fn puppetdb_time(&self) -> Timestamp {
        self.options().on_puppetdb_clock(self.clock.now())
    }

    /// Issues a certificate without asking any policy.
    pub(crate) fn issue(&self, certname: &str, wish: &Wish) -> anyhow::Result<()> {
        let request = pending(wish, key_pair()?)?;
        let ttl = lifetime(&self.options());
        let now = self.clock.now();
        self.ca().issue(certname, request, ttl, &self.authority, now).map_err(broken)?;
        Ok(())
    }

    /// Revokes these names' certificates; from then on TLS refuses them.
    pub(crate) fn revoke(&self, certnames: &[&str], options: &PuppetOptions) -> Result<(), Thrown> {
        let mut ca = self.ca();
        let now = self.clock.now();
        if ca.revoke(certnames.iter().copied(), options, &self.authority, now)? {
            self.reload_tls(&ca)?;
        }
        Ok(())
    }

    /// Makes the site as large as this: certificates, revocations and active nodes that belong to no instance of the scene.
    pub(crate) fn grow(&self, count: u32) -> anyhow::Result<()> {
        let now = self.clock.now();
        let mut store = self.puppetdb();
        for number in 0..count {
            store.at_once(
                &crowd_name(number),
                Command::Catalog { produced: now, uuid: None, classes: Classes::default() },
                now,
            );
        }
        drop(store);
        let mut ca = self.ca();
        ca.grow(count, &self.authority, now)?;
        self.reload_tls(&ca)
    }

    pub(crate) fn reset(&self) -> anyhow::Result<()> {
        *self.puppetdb() = Store::default();
        self.orchestrator().reset(self.clock.now());
        *self.node_groups() = Groups::preconfigured();
        *self.file_sync() = FileSync::default();
        self.forget_admissions();
        self.has_changed();
        let mut ca = self.ca();
        ca.reset(&self.permanent, &self.authority)?;
        self.reload_tls(&ca)
    }

    fn reload_tls(&self, ca: &Ca) -> anyhow::Result<()> {
        *lock(&self.tls) = server_config(&self.identity, &self.authority, Some(ca), &self.clock)?;
        Ok(())
    }
}

impl TlsSource for Site {
    fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&lock(&self.tls))
    }
}

/// A panic elsewhere is no reason for a second one here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn lifetime(options: &PuppetOptions) -> SignedDuration {
    SignedDuration::from_secs(options.ca_ttl_s.into())
}

fn broken(thrown: Thrown) -> anyhow::Error {
    anyhow::Error::msg(thrown.message)
}

/// A new key, P-256: Puppet's own default, RSA 4096, takes long to make and looks the same on the wire.
pub(crate) fn key_pair() -> anyhow::Result<Arc<KeyPair>> {
    Ok(Arc::new(KeyPair::generate()?))
}

/// The request that an agent with this key would send.
pub(crate) fn pending(wish: &Wish, key: Arc<KeyPair>) -> anyhow::Result<Pending> {
    let request = SigningRequest::from_der(&write(wish, &key)?)?;
    Ok(Pending { request, key: Some(key) })
}
