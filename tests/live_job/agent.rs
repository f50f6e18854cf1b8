//! Real agents, through `tests/live/agent`. Runs programs, reads the files that they leave.

use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use secrecy::SecretString;
use stagedoor_lifecycle::{Certname, InstanceId};
use stagedoor_puppet::{Ca, Credentials};
use tokio::process::Command;
use tokio::time::Instant;

use super::{is_refused, text};
use crate::live_stage::LiveStage;
use crate::rehearsal::repository;

/// An agent with a certificate of its own, in a directory of its own.
pub(super) struct Agent {
    certname: Certname,
    directory: PathBuf,
    /// The one-time secret in its request.
    pub(super) challenge: String,
}

impl Agent {
    /// Makes an agent on this instance and has the CA sign its request.
    pub(super) async fn enrol(stage: &LiveStage, certname: &Certname, instance: &InstanceId) -> Self {
        let directory = stage.agents.join(format!("{certname}-on-{instance}"));
        let challenge = format!("challenge-{}", uuid::Uuid::new_v4().simple());
        let agent = Self { certname: certname.clone(), directory, challenge };
        let more = ["--instance-id", instance.as_str(), "--ext", "pp_role=compiler", "--challenge", &agent.challenge];
        let output = agent.command("enrol", &more).await;
        assert!(output.status.success(), "{certname} could not enrol:\n{}", text(&output));
        agent
    }

    /// One run, whatever comes of it.
    pub(super) async fn run(&self) -> Output {
        self.command("run", &[]).await
    }

    /// One run that must go well; its report is in PuppetDB then.
    pub(super) async fn run_well(&self) {
        let output = self.run().await;
        assert!(output.status.success(), "the run of {} failed:\n{}", self.certname, text(&output));
    }

    async fn command(&self, what: &str, more: &[&str]) -> Output {
        let mut command = Command::new(repository().join("tests/live/agent"));
        command.args([what, self.certname.as_str(), "--dir"]).arg(&self.directory).args(more);
        command.stdin(Stdio::null()).output().await.expect("tests/live/agent runs")
    }

    /// Puppet Server reads its CRL again within about a second of a change. A run before that would still be good.
    pub(super) async fn wait_until_tls_refuses_it(&self, stage: &LiveStage) {
        let read = |kind: &str| {
            let path = self.directory.join("ssl").join(kind).join(format!("{}.pem", self.certname));
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        let credentials = Credentials {
            ca_cert: stage.ca_cert.clone(),
            client_cert: read("certs"),
            client_key: SecretString::from(read("private_keys")),
            rbac_token: None,
            challenge: None,
        };
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            // Connections of its own: those that stand are not looked at again.
            let transport = credentials.transport().expect("the agent's credentials");
            let answer = Ca::new(&transport, &stage.ca_url.parse().expect("an address")).expirations().await;
            if is_refused(&answer) {
                return;
            }
            assert!(Instant::now() < until, "the revoked certificate still gets in after 30 s: {answer:?}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}
