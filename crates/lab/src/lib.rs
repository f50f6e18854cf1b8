//! The rehearsal stage: AWS and Puppet simulated on their real wire protocols, in one process.
//!
//! A [`Lab`] serves, on loopback only,
//!
//! * Auto Scaling, EC2, Secrets Manager and SNS behind one endpoint ([`stagedoor_lab_aws`]),
//! * a Puppet CA and PuppetDB behind mutual TLS, and Puppet Enterprise's orchestrator, classifier and RBAC
//!   ([`stagedoor_lab_puppet`]), with simulated agents ([`agent`]),
//! * the Lambda Runtime API, so that built function binaries run against it ([`lambda`]),
//! * a control API ([`control`](crate#the-control-api)), which sets the scene, launches and terminates instances,
//!   advances the clock, makes calls fail, and reports what was called.
//!
//! Journal, faults, clock and HTTP server are in [`stagedoor_lab_core`]. The lab shares no code with the controller that it
//! tests.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use stagedoor_lab::{Lab, Options, scene::Scene};
//!
//! let lab = Lab::start(Options::default()).await?;
//! lab.set_scene(&Scene::from_json(serde_json::json!({
//!     "groups": [{
//!         "name": "compilers",
//!         "tags": {"stagedoor:profile": "compiler"},
//!         "hooks": [{"name": "stagedoor-terminate", "transition": "terminating"}],
//!         "instances": [{"id": "i-0a1b2c3d4e5f60718"}],
//!     }],
//! }))?)?;
//! let begun = lab.aws.terminate("i-0a1b2c3d4e5f60718", &Default::default())?;
//! // A function binary runs beside, with the variables of `lab.function_environment("purge")`.
//! let answer = lab.invoke("purge", &begun.events[0].eventbridge).await?;
//! assert!(lab.journal.round_trips() <= 5);
//! # Ok(())
//! # }
//! ```
//!
//! # The control API
//!
//! JSON over HTTP; the crate's README shows every call with `curl`.

pub mod agent;
pub mod cargo_lambda;
mod control;
pub mod lambda;
mod process;
pub mod scene;
mod stage;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use stagedoor_lab_aws::Aws;
use stagedoor_lab_core::clock::Clock;
use stagedoor_lab_core::faults::Faults;
use stagedoor_lab_core::journal::Journal;
use stagedoor_lab_core::server::{self, Backstage};
use stagedoor_lab_puppet::{Puppet, PuppetOptions};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use agent::Agents;
use control::Control;
use lambda::{InvokeError, Lambda};
pub use process::peak_memory;
use scene::Scene;
pub use stage::Endpoints;
use stage::Stage;

/// How to start a lab.
#[derive(Clone, Debug)]
pub struct Options {
    /// The Region that the simulated AWS is.
    pub region: String,
    /// Where to listen.
    pub ports: Ports,
    /// The set-up of the simulated Puppet site.
    pub puppet: PuppetOptions,
    /// Whether Puppet is served. Without it, there is no secret `stagedoor/puppet` either, unless given.
    pub serve_puppet: bool,
    /// Secrets that are there whatever the scene says.
    pub secrets: BTreeMap<String, SecretString>,
    /// How long a function may run.
    pub function_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            region: "eu-west-1".to_owned(),
            ports: Ports::default(),
            puppet: PuppetOptions::default(),
            serve_puppet: true,
            secrets: BTreeMap::new(),
            function_timeout: Duration::from_secs(60),
        }
    }
}

/// The ports on loopback; 0, the default: any free one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    /// The control API.
    pub control: u16,
    /// All AWS services.
    pub aws: u16,
    /// The Lambda Runtime API and Invoke API.
    pub runtime: u16,
    /// The Puppet CA.
    pub ca: u16,
    /// PuppetDB.
    pub puppetdb: u16,
    /// The orchestrator.
    pub orchestrator: u16,
    /// The classifier and RBAC.
    pub classifier: u16,
}

/// A running lab. Dropping it stops it.
pub struct Lab {
    /// The simulated AWS.
    pub aws: Aws,
    /// The simulated Puppet site.
    pub puppet: Puppet,
    /// The simulated agents.
    pub agents: Agents,
    /// What was called at AWS and Puppet; calls of the control API and the Lambda APIs are not in it.
    pub journal: Journal,
    /// What goes wrong at AWS and Puppet.
    pub faults: Faults,
    /// The time that AWS and Puppet go by.
    pub clock: Clock,
    stage: Stage,
    _servers: JoinSet<()>,
}

impl Lab {
    /// Starts all servers on an empty stage; they accept connections when this returns.
    ///
    /// # Errors
    /// A port is taken, or the certificates cannot be made.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        let back = Backstage::default();
        let aws = Aws::new(&options.region, back.clock.clone());
        let puppet = Puppet::new(options.puppet.clone(), back.clock.clone())?;
        let lambda = Lambda::new(options.region.clone(), options.function_timeout);
        let mut standing_secrets = options.secrets;
        if options.serve_puppet {
            let text = stage::puppet_secret(&puppet)?;
            standing_secrets.entry(stage::PUPPET_SECRET.to_owned()).or_insert(text);
        }

        let ports = options.ports;
        let (control_listener, control) = listen(ports.control, "http://127.0.0.1").await?;
        let (aws_listener, aws_url) = listen(ports.aws, "http://127.0.0.1").await?;
        let (runtime_listener, runtime) = listen(ports.runtime, "http://127.0.0.1").await?;
        let mut servers = JoinSet::new();
        let (mut ca, mut ca_port, mut puppetdb) = (None, None, None);
        let (mut orchestrator, mut classifier) = (None, None);
        if options.serve_puppet {
            let (listener, url) = listen(ports.ca, "https://localhost").await?;
            ca_port = Some(listener.local_addr()?.port());
            servers.spawn(server::serve(listener, Some(puppet.tls()), puppet.ca_service(), back.clone()));
            ca = Some(url);
            let (listener, url) = listen(ports.puppetdb, "https://localhost").await?;
            let service = puppet.puppetdb_service();
            servers.spawn(server::serve(listener, Some(puppet.puppetdb_tls()), service, back.clone()));
            puppetdb = Some(url);
        }
        if options.serve_puppet && options.puppet.enterprise {
            let (listener, url) = listen(ports.orchestrator, "https://localhost").await?;
            servers.spawn(server::serve(listener, Some(puppet.tls()), puppet.orchestrator_service(), back.clone()));
            orchestrator = Some(url);
            let (listener, url) = listen(ports.classifier, "https://localhost").await?;
            servers.spawn(server::serve(listener, Some(puppet.tls()), puppet.console_service(), back.clone()));
            classifier = Some(url);
        }

        let endpoints = Endpoints {
            control,
            aws: aws_url,
            runtime,
            ca,
            puppetdb,
            orchestrator,
            classifier,
            region: options.region,
        };
        let agents = Agents::new(puppet.clone(), aws.clone(), back.clone(), ca_port);
        let stage = Stage { aws, puppet, agents, lambda, back, endpoints, standing_secrets };
        stage.set_scene(&Scene::default())?;
        let Stage { aws, lambda, back, .. } = stage.clone();
        servers.spawn(server::serve(aws_listener, None, Arc::new(aws), back));
        // Only what the function under test calls belongs in the journal.
        servers.spawn(server::serve(runtime_listener, None, Arc::new(lambda), Backstage::default()));
        let control = Control::new(stage.clone());
        servers.spawn(server::serve(control_listener, None, Arc::new(control), Backstage::default()));
        Ok(Self {
            aws: stage.aws.clone(),
            puppet: stage.puppet.clone(),
            agents: stage.agents.clone(),
            journal: stage.back.journal.clone(),
            faults: stage.back.faults.clone(),
            clock: stage.back.clock.clone(),
            stage,
            _servers: servers,
        })
    }

    /// Replaces everything by the scene; clears journal and faults. The clock runs on.
    ///
    /// # Errors
    /// Says what in the scene cannot be.
    pub fn set_scene(&self, scene: &Scene) -> anyhow::Result<()> {
        self.stage.set_scene(scene)
    }

    /// Invokes a function that runs with `AWS_LAMBDA_RUNTIME_API` of this lab, and waits for its answer.
    ///
    /// # Errors
    /// See [`InvokeError`].
    pub async fn invoke(&self, function: &str, payload: &Value) -> Result<Value, InvokeError> {
        self.stage.lambda.invoke(function, payload).await
    }

    /// Everything that is there now, except the secrets' texts: what `GET /state` answers.
    #[must_use]
    pub fn state(&self) -> Value {
        self.stage.state()
    }

    /// Where the lab listens.
    #[must_use]
    pub fn endpoints(&self) -> &Endpoints {
        &self.stage.endpoints
    }

    /// The environment variables with which Stagedoor, boto3 or the AWS CLI works against this lab.
    #[must_use]
    pub fn environment(&self) -> BTreeMap<String, String> {
        self.stage.environment(None)
    }

    /// The environment variables for a function binary that [`Lab::invoke`] is to reach.
    #[must_use]
    pub fn function_environment(&self, function: &str) -> BTreeMap<String, String> {
        self.stage.environment(Some(function))
    }

    /// The value of `AWS_ENDPOINT_URL`.
    #[must_use]
    pub fn aws_url(&self) -> &str {
        &self.stage.endpoints.aws
    }

    /// The control API.
    #[must_use]
    pub fn control_url(&self) -> &str {
        &self.stage.endpoints.control
    }

    /// The Puppet CA: `https://localhost:PORT`; empty if Puppet is not served.
    #[must_use]
    pub fn ca_url(&self) -> &str {
        self.stage.endpoints.ca.as_deref().unwrap_or_default()
    }

    /// PuppetDB: `https://localhost:PORT`; empty if Puppet is not served.
    #[must_use]
    pub fn puppetdb_url(&self) -> &str {
        self.stage.endpoints.puppetdb.as_deref().unwrap_or_default()
    }

    /// A text of the secret `stagedoor/puppet`, as it is now: its `challenge`, its `rbac_token`, ….
    #[must_use]
    pub fn credential(&self, key: &str) -> Option<SecretString> {
        let secret = self.aws.secret(stage::PUPPET_SECRET)?;
        let document: Value = serde_json::from_str(secret.expose_secret()).ok()?;
        document[key].as_str().map(|text| text.to_owned().into())
    }

    /// The orchestrator: `https://localhost:PORT`; empty on an open source site.
    #[must_use]
    pub fn orchestrator_url(&self) -> &str {
        self.stage.endpoints.orchestrator.as_deref().unwrap_or_default()
    }

    /// The classifier and RBAC: `https://localhost:PORT`; empty on an open source site.
    #[must_use]
    pub fn classifier_url(&self) -> &str {
        self.stage.endpoints.classifier.as_deref().unwrap_or_default()
    }

    /// The value of `AWS_LAMBDA_RUNTIME_API` for a runtime that is given invocations of one function only; for
    /// runtime clients that take a URL with a path, as Rust's does.
    #[must_use]
    pub fn runtime_api_of(&self, function: &str) -> String {
        format!("{}/{function}", self.stage.endpoints.runtime)
    }
}

async fn listen(port: u16, origin: &str) -> anyhow::Result<(TcpListener, String)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .await
        .with_context(|| format!("cannot listen on 127.0.0.1:{port}; is another lab running there?"))?;
    let port = listener.local_addr()?.port();
    Ok((listener, format!("{origin}:{port}")))
}
