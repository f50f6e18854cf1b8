//! Everything that the lab's parts share, and setting the scene. No I/O.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use stagedoor_lab_aws::Aws;
use stagedoor_lab_core::server::Backstage;
use stagedoor_lab_puppet::{Puppet, TokenState};
use uuid::Uuid;

use crate::agent::{Agents, RunningAgent};
use crate::lambda::Lambda;
use crate::scene::Scene;

/// The secret that a scene need not name.
pub(crate) const PUPPET_SECRET: &str = "stagedoor/puppet";

/// The stage: what control API, tests and servers all work on.
#[derive(Clone)]
pub(crate) struct Stage {
    pub(crate) aws: Aws,
    pub(crate) puppet: Puppet,
    pub(crate) agents: Agents,
    pub(crate) lambda: Lambda,
    pub(crate) back: Backstage,
    pub(crate) endpoints: Endpoints,
    /// Secrets that are there whatever the scene says.
    pub(crate) standing_secrets: BTreeMap<String, SecretString>,
}

/// Where the lab listens.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Endpoints {
    /// The control API.
    pub control: String,
    /// All AWS services: the value of `AWS_ENDPOINT_URL`.
    pub aws: String,
    /// The Lambda Runtime API and the Invoke API.
    pub runtime: String,
    /// The Puppet CA; absent when Puppet is not simulated.
    pub ca: Option<String>,
    /// PuppetDB; absent when Puppet is not simulated.
    pub puppetdb: Option<String>,
    /// Puppet Enterprise's orchestrator; absent on an open source site.
    pub orchestrator: Option<String>,
    /// Puppet Enterprise's classifier and RBAC; absent on an open source site.
    pub classifier: Option<String>,
    /// The Region that the simulated AWS is.
    pub region: String,
}

impl Stage {
    /// Replaces everything by the scene; clears journal and faults.
    pub(crate) fn set_scene(&self, scene: &Scene) -> anyhow::Result<()> {
        let mut aws = scene.aws();
        for (name, text) in &self.standing_secrets {
            aws.secrets.entry(name.clone()).or_insert_with(|| text.clone());
        }
        self.aws.set_scene(&aws)?;
        self.agents.clear();
        self.puppet.reset()?;
        for group in &scene.node_groups {
            self.puppet.put_node_group(group)?;
        }
        for node in &scene.nodes {
            self.puppet.place_node(node)?;
        }
        self.back.faults.clear();
        self.back.journal.clear();
        for agent in &scene.agents {
            self.agents.start(agent.clone())?;
        }
        Ok(())
    }

    /// Everything that is there now, except the secrets' texts.
    pub(crate) fn state(&self) -> Value {
        let mut state = json!({"now": self.back.clock.now(), "aws": self.aws.snapshot()});
        if self.endpoints.ca.is_some() {
            state["puppet"] = self.puppet.snapshot();
            state["agents"] = self.agents();
        }
        state
    }

    /// The state of each simulated agent.
    pub(crate) fn agents(&self) -> Value {
        let agents = self.agents.all();
        agents.iter().map(|agent| (agent.name().to_owned(), agent_state(agent))).collect()
    }

    /// The environment variables with which Stagedoor, boto3 or the AWS CLI works against this lab; with a name, also
    /// those that Lambda sets for the function of that name
    /// (<https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html>).
    pub(crate) fn environment(&self, function: Option<&str>) -> BTreeMap<String, String> {
        let mut variables = BTreeMap::new();
        let mut set = |name: &str, value: String| variables.insert(name.to_owned(), value);
        set("AWS_ENDPOINT_URL", self.endpoints.aws.clone());
        set("AWS_REGION", self.endpoints.region.clone());
        // No signature is checked; these only have to be there.
        set("AWS_ACCESS_KEY_ID", "AKIALABLABLABLABLABL".to_owned());
        set("AWS_SECRET_ACCESS_KEY", "not-a-secret".to_owned());
        if let Some(config) = self.config() {
            set("STAGEDOOR_CONFIG", config);
        }
        if let Some(function) = function {
            // With its name, so that functions side by side each get what is theirs.
            set("AWS_LAMBDA_RUNTIME_API", format!("{}/{function}", self.endpoints.runtime));
            set("AWS_LAMBDA_FUNCTION_NAME", function.to_owned());
            set("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST".to_owned());
            set("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256".to_owned());
        }
        variables
    }

    /// A configuration of Stagedoor for this lab's Puppet.
    fn config(&self) -> Option<String> {
        let (ca, puppetdb) = (self.endpoints.ca.as_ref()?, self.endpoints.puppetdb.as_ref()?);
        let enterprise: String =
            [("orchestrator", &self.endpoints.orchestrator), ("classifier", &self.endpoints.classifier)]
                .iter()
                .filter_map(|(key, url)| Some(format!("{key} = \"{}\"\n", url.as_ref()?)))
                .collect();
        Some(format!(
            "[puppet]\n\
             secret = \"{PUPPET_SECRET}\"\n\
             ca = \"{ca}\"\n\
             puppetdb = \"{puppetdb}\"\n\
             {enterprise}\
             \n\
             [profile.compiler]\n\
             certname = \"{{private_dns}}\"\n"
        ))
    }

    /// The environment as lines for a shell to evaluate.
    pub(crate) fn exports(&self, function: Option<&str>) -> String {
        let mut lines = String::new();
        for (name, value) in self.environment(function) {
            let value = value.replace('\'', r"'\''");
            let _ = writeln!(lines, "export {name}='{value}'");
        }
        lines
    }
}

/// A simulated agent, as the control API shows it.
pub(crate) fn agent_state(agent: &RunningAgent) -> Value {
    json!({"certname": agent.certname(), "state": agent.state()})
}

/// The text of the secret with the Puppet credentials: a JSON document.
pub(crate) fn puppet_secret(puppet: &Puppet) -> anyhow::Result<SecretString> {
    let options = puppet.options();
    let credentials = puppet.credentials(&options.controller)?;
    let valid = |(token, state): (&String, &TokenState)| matches!(state, TokenState::Valid(_)).then(|| token.clone());
    let known = options.rbac_tokens.as_ref().and_then(|tokens| tokens.iter().find_map(valid));
    // A site that knows no tokens ignores the header.
    let token = known.unwrap_or_else(|| format!("lab-token-{}", Uuid::new_v4().simple()));
    let mut document = json!({
        "ca_cert": puppet.ca_bundle_pem(),
        "client_cert": credentials.cert_pem,
        "client_key": credentials.key_pem,
        "rbac_token": token,
    });
    let made_up = || format!("lab-challenge-{}", Uuid::new_v4().simple());
    let challenge = options.challenge.map_or_else(made_up, |given| given.expose_secret().to_owned());
    if !challenge.is_empty() {
        document["challenge"] = challenge.into();
    }
    Ok(document.to_string().into())
}
