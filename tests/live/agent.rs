//! Real agents, through `tests/live/agent`. Runs programs, reads the files that they write.

use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use secrecy::SecretString;
use stagedoor_puppet::{Ca, Credentials};
use stagedoor_types::{Certname, InstanceId};
use tokio::process::Command;
use tokio::time::Instant;

use super::job::Instance;
use super::{is_refused, text};
use crate::e2e::rehearsal::repository;
use crate::live::stage::LiveStage;

/// An agent of its own, in a directory of its own: what it claims in its certificate request.
pub(super) struct Agent {
    certname: Certname,
    directory: PathBuf,
    /// `pp_instance_id`.
    pub(super) instance: InstanceId,
    /// Further extensions, as `SHORTNAME=VALUE`.
    pub(super) extensions: Vec<&'static str>,
    /// `dns_alt_names`.
    pub(super) alt_names: Vec<&'static str>,
    /// The one-time secret.
    pub(super) challenge: String,
    /// The curve of its key, as OpenSSL calls it; `None` for RSA.
    pub(super) curve: Option<&'static str>,
}

impl Agent {
    /// The agent of a compiler on this instance, as its user data sets it up.
    pub(super) fn on(stage: &LiveStage, instance: &Instance, challenge: &str) -> Self {
        let Instance { id, certname, .. } = instance;
        Self {
            certname: certname.clone(),
            directory: stage.agents.join(format!("{certname}-on-{id}")),
            instance: id.clone(),
            extensions: vec!["pp_role=compiler"],
            alt_names: Vec::new(),
            challenge: challenge.to_owned(),
            curve: None,
        }
    }

    /// Makes an agent on this instance and has the CA sign its request.
    pub(super) async fn enrol(stage: &LiveStage, instance: &Instance) -> Self {
        let agent = Self::on(stage, instance, &format!("challenge-{}", uuid::Uuid::new_v4().simple()));
        agent.go_well("enrol", &agent.claims()).await;
        agent
    }

    /// Sends its request, which is not signed.
    pub(super) async fn ask(&self) {
        let output = self.try_to_ask().await;
        assert!(output.status.success(), "the request of {} failed:\n{}", self.certname, text(&output));
    }

    /// Sends its request, which is not signed, whatever comes of it.
    pub(super) async fn try_to_ask(&self) -> Output {
        self.command("enrol", &[self.claims(), vec!["--unsigned".to_owned()]].concat()).await
    }

    /// Starts as on a new instance: sends its request, waits until it is signed, runs. Its report is in PuppetDB then.
    pub(super) async fn first_run_well(&self) {
        self.go_well("first-run", &self.claims()).await;
    }

    /// Sends its request once more, with the key that it has; the CA takes it.
    pub(super) async fn ask_again(&self) {
        self.go_well("ask-again", &[]).await;
    }

    fn claims(&self) -> Vec<String> {
        let mut claims = vec!["--instance-id", self.instance.as_str(), "--challenge", &self.challenge];
        claims.extend(self.extensions.iter().flat_map(|extension| ["--ext", extension]));
        let alt_names = self.alt_names.join(",");
        claims.extend((!alt_names.is_empty()).then_some(["--alt-names", alt_names.as_str()]).into_iter().flatten());
        claims.extend(self.curve.iter().flat_map(|curve| ["--curve", curve]));
        claims.into_iter().map(str::to_owned).collect()
    }

    /// From now on, its runs take at least this long: they apply a resource that sleeps.
    pub(super) fn runs_for(&self, seconds: u32) {
        self.has_fact("stagedoor_run_seconds", &seconds.to_string());
    }

    /// From now on, its runs fail: when the catalog is compiled (`compiling`), or because a resource fails (`applying`).
    pub(super) fn fails(&self, when: &str) {
        self.has_fact("stagedoor_run_fails", when);
    }

    /// A fact that the site's manifest (`conf/site.pp`) reads.
    fn has_fact(&self, name: &str, value: &str) {
        let code = format!("Facter.add(:{name}) {{ setcode {{ '{value}' }} }}\n");
        let path = self.directory.join("var/facts").join(format!("{name}.rb"));
        std::fs::write(&path, code).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// One run that must fail.
    pub(super) async fn run_badly(&self) {
        let output = self.command("run", &[]).await;
        assert!(!output.status.success(), "the run of {} was successful:\n{}", self.certname, text(&output));
    }

    /// One run that must succeed; its report is in PuppetDB then.
    pub(super) async fn run_well(&self) {
        self.go_well("run", &[]).await;
    }

    async fn go_well(&self, what: &str, more: &[String]) {
        let output = self.command(what, more).await;
        assert!(output.status.success(), "{what} of {} failed:\n{}", self.certname, text(&output));
    }

    async fn command(&self, what: &str, more: &[String]) -> Output {
        let mut command = Command::new(repository().join("tests/live/agent"));
        command.args([what, self.certname.as_str(), "--dir"]).arg(&self.directory).args(more);
        command.stdin(Stdio::null()).output().await.expect("tests/live/agent runs")
    }

    /// Asserts that a run fails because Puppet Server refuses the certificate in TLS.
    pub(super) async fn assert_refused(&self, stage: &LiveStage) {
        self.wait_until_tls_refuses_it(stage).await;
        let output = self.command("run", &[]).await;
        assert!(!output.status.success(), "{}", text(&output));
        // OpenSSL calls it an alert of SSL 3 up to 3.1, and of SSL/TLS since.
        assert!(text(&output).contains("alert certificate unknown"), "{}", text(&output));
    }

    /// Puppet Server reads its CRL again within about a second of a change. A run before that would still succeed.
    async fn wait_until_tls_refuses_it(&self, stage: &LiveStage) {
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
            previous_challenge: None,
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
