//! The control API: sets the scene, triggers events, reports what happened. JSON over HTTP, no authentication,
//! loopback only. The server passes requests in.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use jiff::SignedDuration;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use stagedoor_lab_core::faults::Fault;
use stagedoor_lab_core::server::{Call, Reply, Request, Service};
use stagedoor_lab_puppet::ServiceState;

use crate::scene::Scene;
use crate::stage::{Stage, agent_state};

/// Ten years, in seconds: an advance beyond that is a slip.
const FURTHEST_ADVANCE_S: i64 = 10 * 365 * 86_400;

/// The control API of one lab.
pub(crate) struct Control {
    stage: Stage,
}

/// Why a control call was refused.
struct Refusal {
    status: StatusCode,
    message: String,
}

impl From<anyhow::Error> for Refusal {
    fn from(error: anyhow::Error) -> Self {
        Self { status: StatusCode::BAD_REQUEST, message: format!("{error:#}") }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Advance {
    seconds: i64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Report {
    status: String,
    /// How long ago the run began.
    took_s: u32,
}

impl Default for Report {
    fn default() -> Self {
        Self { status: "changed".to_owned(), took_s: 20 }
    }
}

/// What the ports of an agent's node do from now on.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Services {
    state: Option<ServiceState>,
    #[serde(default)]
    states: BTreeMap<String, ServiceState>,
    listening: Option<bool>,
    file_sync: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Code {
    commit: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany<T> {
    Many(Vec<T>),
    One(T),
}

impl Control {
    pub(crate) fn new(stage: Stage) -> Self {
        Self { stage }
    }

    async fn carry_out(&self, request: &Request) -> Result<Reply, Refusal> {
        let stage = &self.stage;
        let segments = request.segments();
        let path: Vec<&str> = segments.iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
        match (request.method.as_str(), path.as_slice()) {
            ("GET", []) => ok(&json!({"endpoints": stage.endpoints, "environment": stage.environment(None)})),
            ("GET", ["env"]) => Ok(plain(stage.exports(request.query("function")))),
            ("PUT", ["scene"]) => {
                let scene: Value = read(request)?;
                stage.set_scene(&Scene::from_json(scene)?)?;
                ok(&json!({}))
            }
            ("GET", ["state"]) => ok(&stage.state()),
            ("GET", ["events"]) => ok(&json!({"events": stage.aws.events()})),
            ("POST", ["groups", group, "launch"]) => ok(&stage.aws.launch(group, &read_or_default(request)?)?),
            ("POST", ["instances", id, "terminate"]) => ok(&stage.aws.terminate(id, &read_or_default(request)?)?),
            ("POST", ["instances", id, "replace-root-volume"]) => ok(&stage.aws.replace_root_volume(id)?),
            ("GET", ["settings"]) => ok(&stage.aws.settings()),
            ("PUT", ["settings"]) => {
                stage.aws.set(read(request)?);
                ok(&stage.aws.settings())
            }
            ("PUT", ["secrets", name @ ..]) if !name.is_empty() => self.put_secret(&name.join("/"), request),
            ("GET", ["clock"]) => ok(&json!({"now": stage.back.clock.now()})),
            ("POST", ["clock", "advance"]) => self.advance(request),
            ("GET", ["journal"]) => self.journal(request),
            ("DELETE", ["journal"]) => {
                stage.back.journal.clear();
                ok(&json!({}))
            }
            ("GET", ["faults"]) => ok(&stage.back.faults.list()),
            ("POST", ["faults"]) => {
                let faults: Vec<Fault> = match read(request)? {
                    OneOrMany::One(fault) => vec![fault],
                    OneOrMany::Many(faults) => faults,
                };
                for fault in faults {
                    stage.back.faults.add(fault);
                }
                ok(&stage.back.faults.list())
            }
            ("DELETE", ["faults"]) => {
                stage.back.faults.clear();
                ok(&json!({}))
            }
            ("PUT", ["puppet"]) => {
                let options = read(request)?;
                stage.puppet.configure(|current| *current = options);
                ok(&json!({}))
            }
            ("POST", ["nodes"]) => {
                stage.puppet.place_node(&read(request)?)?;
                ok(&json!({}))
            }
            ("POST", ["nodes", certname, "report"]) => self.report(certname, request),
            ("PUT", ["nodes", certname, "run"]) => {
                stage.puppet.script(certname, read(request)?);
                ok(&json!({}))
            }
            ("PUT", ["code"]) => {
                let Code { commit } = read(request)?;
                stage.puppet.deploy_code(&commit);
                ok(&json!({}))
            }
            ("POST", ["node-groups"]) => {
                stage.puppet.put_node_group(&read(request)?)?;
                ok(&stage.puppet.node_groups())
            }
            (_, ["agents", rest @ ..]) => self.agents(request, rest).await,
            _ => Err(nothing_there(request)),
        }
    }

    async fn agents(&self, request: &Request, path: &[&str]) -> Result<Reply, Refusal> {
        let stage = &self.stage;
        let method = request.method.as_str();
        match (method, path) {
            ("GET", []) => return ok(&stage.agents()),
            ("POST", []) => {
                let agent = stage.agents.start(read(request)?)?;
                return ok(&json!({"name": agent.name(), "certname": agent.certname()}));
            }
            ("DELETE", [name]) => {
                stage.agents.remove(name).await?;
                return ok(&json!({}));
            }
            _ => {}
        }
        let Some(name) = path.first() else { return Err(nothing_there(request)) };
        let agent = stage.agents.get(name)?;
        match (method, &path[1..]) {
            ("GET", []) => {}
            ("POST", ["run"]) => {
                let Report { status, .. } = read_or_default(request)?;
                agent.run(&status).await?;
            }
            ("POST", ["stop"]) => agent.stop().await,
            ("POST", ["reboot"]) => agent.reboot().await,
            ("POST", ["rekey"]) => agent.rekey().await,
            ("PUT", ["services"]) => {
                let Services { state, states, listening, file_sync } = read(request)?;
                if let Some(state) = state {
                    agent.set_service_state(state);
                }
                for (service, state) in states {
                    agent.set_state_of(&service, state);
                }
                if let Some(syncing) = file_sync {
                    agent.set_file_sync(syncing);
                }
                if let Some(listening) = listening {
                    agent.set_listening(listening);
                }
            }
            _ => return Err(nothing_there(request)),
        }
        ok(&agent_state(&agent))
    }

    fn put_secret(&self, name: &str, request: &Request) -> Result<Reply, Refusal> {
        let text =
            String::from_utf8(request.body.to_vec()).map_err(|_| anyhow::anyhow!("the secret's text is not UTF-8"))?;
        self.stage.aws.put_secret(name, text.into());
        ok(&json!({}))
    }

    fn advance(&self, request: &Request) -> Result<Reply, Refusal> {
        let Advance { seconds } = read(request)?;
        if !(0..=FURTHEST_ADVANCE_S).contains(&seconds) {
            return Err(anyhow::anyhow!("seconds must be 0 to {FURTHEST_ADVANCE_S}, it is {seconds}").into());
        }
        let clock = &self.stage.back.clock;
        clock.advance(SignedDuration::from_secs(seconds));
        ok(&json!({"now": clock.now()}))
    }

    fn journal(&self, request: &Request) -> Result<Reply, Refusal> {
        let journal = &self.stage.back.journal;
        let entries = match request.query("service") {
            Some(service) => journal.calls(service),
            None => journal.entries(),
        };
        ok(&json!({"round_trips": journal.round_trips(), "entries": entries}))
    }

    fn report(&self, certname: &str, request: &Request) -> Result<Reply, Refusal> {
        let Report { status, took_s } = read_or_default(request)?;
        let started = self.stage.back.clock.now() - SignedDuration::from_secs(took_s.into());
        self.stage.puppet.report(certname, &status, started);
        ok(&json!({}))
    }
}

fn nothing_there(request: &Request) -> Refusal {
    Refusal {
        status: StatusCode::NOT_FOUND,
        message: format!("the control API has no {} {}", request.method, request.path),
    }
}

fn read<T: DeserializeOwned>(request: &Request) -> Result<T, Refusal> {
    serde_json::from_slice(&request.body)
        .map_err(|error| anyhow::anyhow!("the request's body is wrong: {error}").into())
}

fn read_or_default<T: DeserializeOwned + Default>(request: &Request) -> Result<T, Refusal> {
    if request.body.is_empty() { Ok(T::default()) } else { read(request) }
}

fn ok(body: &impl Serialize) -> Result<Reply, Refusal> {
    let body = serde_json::to_vec_pretty(body)
        .map_err(|error| anyhow::anyhow!("the answer cannot be written as JSON: {error}"))?;
    Ok(answer(StatusCode::OK, "application/json", body))
}

fn plain(body: String) -> Reply {
    answer(StatusCode::OK, "text/plain", body)
}

fn answer(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut body = body.into().to_vec();
    if body.last() != Some(&b'\n') {
        body.push(b'\n');
    }
    let mut reply = Reply::new(body.into());
    *reply.status_mut() = status;
    reply.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

impl Service for Control {
    fn describe(&self, request: &Request) -> Call {
        Call {
            service: "control",
            call: format!("{} {}", request.method, request.path),
            subject: None,
            caller: None,
            // A scene and a secret hold secrets.
            request: Value::Null,
        }
    }

    async fn answer(&self, request: &Request) -> Reply {
        self.carry_out(request).await.unwrap_or_else(|Refusal { status, message }| {
            answer(status, "application/json", json!({"error": message}).to_string())
        })
    }
}
